//! Random numbers that a seed determines, even if requests run concurrently.
//!
//! The n-th draw of a kind for a key is a hash of the seed, the kind, the key and n. Operations on
//! other keys therefore do not change it, in whatever order they run. To bound the memory, keys
//! share a fixed number of counters; two keys with the same counter do influence each other.

use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of counters.
const COUNTERS: usize = 1 << 16;

/// The purpose of a draw. Draws of different kinds are independent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Read = 0,
    Write = 1,
    List = 2,
    /// The time for which a result is cached.
    Stale = 3,
}

/// Two independent, uniformly distributed numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Draw {
    /// Compared with a share or scaled to a range.
    pub(super) amount: u64,
    /// Bits for choices between alternatives.
    pub(super) choice: u64,
}

pub(super) struct Draws {
    seed: u64,
    counters: Vec<AtomicU64>,
}

impl Draws {
    pub(super) fn new(seed: u64) -> Draws {
        let counters = std::iter::repeat_with(AtomicU64::default).take(COUNTERS).collect();
        Draws { seed, counters }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the next draw of this kind for this key.
    pub(super) fn next(&self, kind: Kind, key: &[u8]) -> Draw {
        let kind = kind as u8;
        let mut slot = crc32fast::Hasher::new();
        slot.update(&[kind]);
        slot.update(key);
        let counter = self.counters.get(slot.finalize() as usize % COUNTERS);
        let n = counter.map_or(0, |counter| counter.fetch_add(1, Ordering::Relaxed));
        let mut hash = Sha256::new();
        hash.update(self.seed.to_be_bytes());
        hash.update([kind]);
        hash.update(n.to_be_bytes());
        hash.update(key);
        let hash: [u8; 32] = hash.finalize().into();
        let number =
            |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let (amount, choice) = hash.split_at(16);
        Draw { amount: number(amount), choice: number(choice) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pins the algorithm: a seed from an old log must repeat its run with a newer version.
    #[test]
    fn draws_are_the_same_in_every_version() {
        let draws = Draws::new(42);
        let first =
            [Kind::Read, Kind::Write, Kind::Stale].map(|kind| draws.next(kind, b"k").amount);
        let expected = [0x67e8_a87c_907d_328e, 0xb48e_9d85_ea6e_7312, 0x748e_0fb7_1c95_a09d];
        assert_eq!(first, expected);
    }

    #[test]
    fn successive_draws_differ() {
        let draws = Draws::new(0);
        assert_ne!(draws.next(Kind::Read, b"k"), draws.next(Kind::Read, b"k"));
    }
}
