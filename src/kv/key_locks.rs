//! Locks that queue writers of the same item within this process.
//!
//! The locks only provide fairness; the preconditions of commits ensure correctness. A writer that
//! reads before it writes takes an exclusive lock. Otherwise a stream of unconditional puts, which
//! never conflict, could make it retry forever.

use std::hash::{BuildHasher, RandomState};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Number of locks. Keys that hash to the same bucket share a lock.
const BUCKETS: usize = 1024;

/// Locks for all keys, striped by hash.
pub(super) struct KeyLocks {
    buckets: Vec<RwLock<()>>,
    hasher: RandomState,
}

impl Default for KeyLocks {
    fn default() -> KeyLocks {
        let buckets = std::iter::repeat_with(RwLock::default).take(BUCKETS).collect();
        KeyLocks { buckets, hasher: RandomState::new() }
    }
}

/// A held lock, which is released on drop.
pub(super) enum KeyGuard<'l> {
    Exclusive { _guard: RwLockWriteGuard<'l, ()> },
    Shared { _guard: RwLockReadGuard<'l, ()> },
    None,
}

impl KeyLocks {
    /// Waits for the lock of `key`. Waiters are served in order of arrival.
    pub(super) async fn lock(&self, key: &[u8], exclusive: bool) -> KeyGuard<'_> {
        // The remainder is below BUCKETS, so it fits a usize.
        let index = (self.hasher.hash_one(key) % BUCKETS as u64) as usize;
        match self.buckets.get(index) {
            Some(bucket) if exclusive => KeyGuard::Exclusive { _guard: bucket.write().await },
            Some(bucket) => KeyGuard::Shared { _guard: bucket.read().await },
            None => KeyGuard::None,
        }
    }
}
