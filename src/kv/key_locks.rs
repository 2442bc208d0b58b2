//! Locks that queue writers of the same item within this process.
//!
//! The locks only provide fairness; correctness comes from the preconditions of commits. A writer
//! that reads before it writes locks exclusively, so that a stream of unconditional puts, which
//! never conflict, cannot make it retry forever.

use std::hash::{BuildHasher, RandomState};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Number of locks; keys that hash to the same bucket share one.
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

/// Releases the lock when dropped.
pub(super) enum KeyGuard<'l> {
    Exclusive { _guard: RwLockWriteGuard<'l, ()> },
    Shared { _guard: RwLockReadGuard<'l, ()> },
    None,
}

impl KeyLocks {
    /// Waits for the lock of `key`, in order of arrival.
    pub(super) async fn lock(&self, key: &[u8], exclusive: bool) -> KeyGuard<'_> {
        // Below BUCKETS, which fits a usize.
        let index = (self.hasher.hash_one(key) % BUCKETS as u64) as usize;
        match self.buckets.get(index) {
            Some(bucket) if exclusive => KeyGuard::Exclusive { _guard: bucket.write().await },
            Some(bucket) => KeyGuard::Shared { _guard: bucket.read().await },
            None => KeyGuard::None,
        }
    }
}
