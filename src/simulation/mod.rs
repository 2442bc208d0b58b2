//! Simulates the consistency, limits and faults of a distributed KV service, so that applications
//! can be tested against them.
//!
//! This module only makes decisions. Its callers delay, fail and count the requests. It does no I/O
//! and is independent of HTTP and of the store, so that other programs can use it. Every decision
//! depends only on the seed, the kind of the operation, its key, and the number of such operations
//! before it (see `draws`). All memory is bounded: see [`CACHE_BYTES_MAX`] and [`KEYS_MAX`].

mod draws;
mod rate_limiter;
mod spec;
mod stale_cache;

pub use rate_limiter::{KEYS_MAX, RateLimited};
pub use spec::{RateLimit, Setting, Share, Spec};
pub use stale_cache::{CACHE_BYTES_MAX, CACHED_BYTES_MAX, Cached, Lookup, StaleCache};

use draws::{Draws, Kind};
use rate_limiter::RateLimiter;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads an item or its metadata.
    Read,
    /// Changes items.
    Write,
    /// Lists keys.
    List,
}

/// How one operation deviates from a perfect service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Time to wait before the operation starts; zero if none.
    pub latency: Duration,
    /// The fault with which the operation fails, if any.
    pub fault: Option<Fault>,
}

/// A simulated internal error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The status: 500 or 503.
    pub status: u16,
    /// Whether the operation takes effect before the error is returned. Only writes have such
    /// faults, which are about half of all faults of writes. Otherwise, nothing is changed.
    pub after_commit: bool,
}

/// A simulation with its state. It is shared by all requests.
pub struct Simulation {
    spec: Spec,
    draws: Arc<Draws>,
    limiter: Option<RateLimiter>,
}

impl Simulation {
    /// Creates a simulation. With the same seed, the same operations get the same plans.
    pub fn new(spec: Spec, seed: u64) -> Simulation {
        let limiter = spec.rate_limit.map(|limit| RateLimiter::new(limit, KEYS_MAX));
        Simulation { spec, draws: Arc::new(Draws::new(seed)), limiter }
    }

    /// Returns the settings.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.draws.seed()
    }

    /// Decides how the next operation of this kind on this key deviates. `key` may be empty for
    /// operations without a single key.
    pub fn plan(&self, operation: Operation, key: &[u8]) -> Plan {
        let kind = match operation {
            Operation::Read => Kind::Read,
            Operation::Write => Kind::Write,
            Operation::List => Kind::List,
        };
        let fault = self.spec.errors.and_then(|share| {
            let draw = self.draws.next(kind, key);
            share.includes(draw.amount).then_some(Fault {
                status: if draw.choice & 1 == 0 { 500 } else { 503 },
                after_commit: operation == Operation::Write && draw.choice & 2 != 0,
            })
        });
        Plan { latency: self.spec.latency.unwrap_or_default(), fault }
    }

    /// Counts a write to a key at the time `now`, unless the rate limit is exhausted.
    ///
    /// # Errors
    /// Returns the time until the next write is allowed. A refused write is not counted.
    pub fn check_rate(&self, store: &[u8], key: &[u8], now: Instant) -> Result<(), RateLimited> {
        match &self.limiter {
            Some(limiter) => limiter.check(store, key, now),
            None => Ok(()),
        }
    }

    /// Creates a cache of read results, or returns `None` if reads are never stale. `V` is a
    /// result, including the absence of an item.
    pub fn stale_cache<V: Clone>(&self) -> Option<StaleCache<V>> {
        self.spec.stale.map(|stale| StaleCache::new(stale, self.draws.clone(), CACHE_BYTES_MAX))
    }
}

/// Returns a digest of byte strings, which replaces keys in tables of bounded size. Different
/// strings have different digests in practice: 2^64 digests would be needed to find a collision.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulation(spec: &str, seed: u64) -> Simulation {
        Simulation::new(spec.parse().unwrap(), seed)
    }

    /// Returns the plans of a fixed sequence of operations.
    fn plans(simulation: &Simulation) -> Vec<Plan> {
        let operations = [Operation::Read, Operation::Write, Operation::List];
        let keys = ["a", "b", "key/with/slashes"];
        let all = (0..100).flat_map(|_| keys.map(|key| operations.map(|op| (op, key))));
        all.flatten().map(|(op, key)| simulation.plan(op, key.as_bytes())).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_plans_and_another_seed_gives_others() {
        let spec = "errors=30%,latency=5ms";
        let first = plans(&simulation(spec, 7));
        assert_eq!(first, plans(&simulation(spec, 7)));
        assert_ne!(first, plans(&simulation(spec, 8)));
        assert!(first.iter().all(|plan| plan.latency == Duration::from_millis(5)));
    }

    #[test]
    fn the_plans_for_a_key_do_not_depend_on_operations_on_other_keys() {
        let (alone, mixed) = (simulation("errors=50%", 3), simulation("errors=50%", 3));
        for n in 0..200 {
            mixed.plan(Operation::Write, b"other");
            mixed.plan(Operation::Read, b"key");
            assert_eq!(
                alone.plan(Operation::Write, b"key"),
                mixed.plan(Operation::Write, b"key"),
                "{n}"
            );
        }
    }

    #[test]
    fn faults_have_the_requested_share_and_only_writes_fail_after_their_commit() {
        let simulation = simulation("errors=10%", 1);
        let faults = |op, n: u32| -> Vec<Fault> {
            (0..n).filter_map(|i| simulation.plan(op, &i.to_be_bytes()).fault).collect()
        };
        let writes = faults(Operation::Write, 10_000);
        assert!((900..1100).contains(&writes.len()), "{}", writes.len());
        let after = writes.iter().filter(|fault| fault.after_commit).count();
        assert!((writes.len() / 3..writes.len() * 2 / 3).contains(&after), "{after}");
        assert!(writes.iter().any(|fault| fault.status == 500));
        assert!(writes.iter().any(|fault| fault.status == 503));
        for op in [Operation::Read, Operation::List] {
            let faults = faults(op, 10_000);
            assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.after_commit));
        }
    }

    #[test]
    fn all_or_no_operations_fail_at_the_ends_of_the_range() {
        let (all, none) = (simulation("errors=100%", 1), simulation("latency=1ms", 1));
        assert!(plans(&all).iter().all(|plan| plan.fault.is_some()));
        assert!(plans(&none).iter().all(|plan| plan.fault.is_none()));
        assert!(none.stale_cache::<()>().is_none());
        assert_eq!(none.check_rate(b"s", b"k", Instant::now()), Ok(()));
    }

    #[test]
    fn digests_depend_on_the_boundaries_between_parts() {
        assert_ne!(digest(&[b"a", b"bc"]), digest(&[b"ab", b"c"]));
        assert_eq!(digest(&[b"a", b"bc"]), digest(&[b"a", b"bc"]));
    }
}
