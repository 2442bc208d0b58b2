//! Cache of large bodies that are read in one call.

use super::super::INLINE_BYTES_MAX;
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Memory overhead of a cached body, in bytes.
const ENTRY_OVERHEAD: u64 = 128;

/// Verified bodies that are read frequently. Entries never go stale, because blob ids and segment
/// sequence numbers are never reused.
#[derive(Debug)]
pub(super) struct BodyCache(Cache<BodyKey, Bytes, BodyWeighter>);

/// Key of a cached body: the location of the body on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum BodyKey {
    Blob(i64),
    Segment { seq: u64, at: u64 },
}

#[derive(Clone, Debug)]
struct BodyWeighter;

impl Weighter<BodyKey, Bytes> for BodyWeighter {
    fn weight(&self, _: &BodyKey, body: &Bytes) -> u64 {
        body.len() as u64 + ENTRY_OVERHEAD
    }
}

impl BodyCache {
    /// Creates a cache with a capacity of `bytes` bytes.
    pub(super) fn new(bytes: u64) -> BodyCache {
        let items = usize::try_from(bytes / INLINE_BYTES_MAX as u64).unwrap_or(usize::MAX);
        BodyCache(Cache::with_weighter(items.max(1), bytes, BodyWeighter))
    }

    pub(super) fn get(&self, key: BodyKey) -> Option<Bytes> {
        self.0.get(&key)
    }

    pub(super) fn insert(&self, key: BodyKey, body: Bytes) {
        self.0.insert(key, body);
    }

    pub(super) fn remove(&self, key: BodyKey) {
        self.0.remove(&key);
    }
}
