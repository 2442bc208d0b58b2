//! Queues for writers of the same item in this process.
//!
//! They are for fairness, not for correctness, which rests on a commit's expectations: a writer
//! that reads before it writes holds its place alone, so that a stream of plain overwrites, which
//! never conflict, cannot keep it retrying for ever.

use std::hash::{BuildHasher, RandomState};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Places; two items share one now and then, and then queue for each other.
const PLACES: usize = 1024;

pub(super) struct Locks {
    places: Vec<RwLock<()>>,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Locks {
        let places = std::iter::repeat_with(RwLock::default).take(PLACES).collect();
        Locks { places, hasher: RandomState::new() }
    }
}

/// A place in the queue, left when dropped.
pub(super) enum KeyGuard<'l> {
    Alone { _guard: RwLockWriteGuard<'l, ()> },
    Shared { _guard: RwLockReadGuard<'l, ()> },
    None,
}

impl Locks {
    /// Waits for a place at `key`.
    pub(super) async fn enter(&self, key: &[u8], alone: bool) -> KeyGuard<'_> {
        // The modulus keeps it below PLACES, which fits.
        let index = (self.hasher.hash_one(key) % PLACES as u64) as usize;
        match self.places.get(index) {
            Some(place) if alone => KeyGuard::Alone { _guard: place.write().await },
            Some(place) => KeyGuard::Shared { _guard: place.read().await },
            None => KeyGuard::None,
        }
    }
}
