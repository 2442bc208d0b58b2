//! A limit on the rate of writes to each key.

use super::digest;
use super::spec::RateLimit;
use quick_cache::unsync::Cache;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of keys whose writes are counted. If more keys are written, the limits of keys
/// that were not written recently are forgotten. This takes about 5 MB of memory.
pub const KEYS_MAX: usize = 1 << 16;

/// A write was refused by the rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimited {
    /// The time until the next write to the key is allowed.
    pub retry_after: Duration,
    /// The limit.
    pub limit: RateLimit,
}

/// Limits the rate of writes to each key with the generic cell rate algorithm (ITU-T I.371): a
/// burst of `limit.writes` is allowed, and afterwards one write per `limit.period / limit.writes`.
pub(super) struct RateLimiter {
    limit: RateLimit,
    /// For each key, the time at which its allowance is complete again.
    full_at: Mutex<Cache<[u8; 16], Instant>>,
}

impl RateLimiter {
    /// Creates a limiter that counts the writes to at most `keys_max` keys.
    pub(super) fn new(limit: RateLimit, keys_max: usize) -> RateLimiter {
        RateLimiter { limit, full_at: Mutex::new(Cache::new(keys_max)) }
    }

    pub(super) fn check(&self, store: &[u8], key: &[u8], now: Instant) -> Result<(), RateLimited> {
        let id = digest(&[store, key]);
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = full_at.get(&id).copied().unwrap_or(now).max(now);
        let after = before + self.limit.period / self.limit.writes.max(1);
        let wait = after.saturating_duration_since(now + self.limit.period);
        if !wait.is_zero() {
            return Err(RateLimited { retry_after: wait, limit: self.limit });
        }
        full_at.insert(id, after);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(limit: &str) -> RateLimiter {
        RateLimiter::new(limit.parse().unwrap(), 1000)
    }

    #[test]
    fn one_write_per_second_is_allowed_for_each_key() {
        let (limiter, start) = (limiter("1/s per key"), Instant::now());
        let check = |key: &[u8], ms| limiter.check(b"s", key, start + Duration::from_millis(ms));
        assert_eq!(check(b"k", 0), Ok(()));
        let refused = check(b"k", 400).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_millis(600));
        assert_eq!(check(b"other", 400), Ok(()));
        assert!(check(b"k", 999).is_err());
        assert_eq!(check(b"k", 1000), Ok(()), "refused writes were counted");
        assert!(check(b"k", 1999).is_err());
        assert_eq!(limiter.check(b"other store", b"k", start), Ok(()));
    }

    #[test]
    fn a_burst_up_to_the_limit_is_allowed() {
        let (limiter, start) = (limiter("3/6s"), Instant::now());
        let check = |secs| limiter.check(b"s", b"k", start + Duration::from_secs(secs)).is_ok();
        assert_eq!([0, 0, 0, 0].map(check), [true, true, true, false]);
        assert_eq!([1, 2, 3, 4].map(check), [false, true, false, true]);
        assert_eq!([60, 60, 60, 60].map(check), [true, true, true, false]);
    }

    #[test]
    fn the_number_of_counted_keys_is_bounded() {
        let (limiter, now) = (limiter("1/h"), Instant::now());
        for n in 0..3000_u64 {
            assert_eq!(limiter.check(b"s", &n.to_be_bytes(), now), Ok(()));
        }
        let keys = limiter.full_at.lock().unwrap().len();
        assert!((500..=1000).contains(&keys), "{keys}");
    }
}
