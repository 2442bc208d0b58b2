//! The read cache: a bounded cache of small records that never serves a record that a visible
//! commit has replaced.
//!
//! Keys are hashed to stripes, each with a sequence number as in a seqlock. The writer makes the
//! sequences of a group's stripes odd before the group becomes visible, and even again afterwards.
//! A reader caches a record together with the even sequence it loaded *before* reading the record,
//! and a cached record is served only while the stripe still has that sequence. A record read
//! before a commit and cached after it is therefore never served. Reads take no lock, and entries
//! need no explicit invalidation.
//!
//! After a commit the writer refreshes cache entries that were read since their last write.
//! Frequently read records therefore stay cached across writes, while records that are only written
//! are not cached.

use super::super::{Body, Mutation, Projection, Record};
use super::wal::record::WalEntry;
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of stripes. A commit to a key also invalidates the other cached keys of its stripe.
const STRIPES: usize = 1 << 17;
/// Maximum size of a cached body, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone)]
struct CachedRecord {
    sequence: u64,
    record: Record,
    /// Whether the record was read since it was last written.
    was_read: bool,
}

#[derive(Clone)]
struct RecordWeighter;

impl quick_cache::Weighter<Bytes, CachedRecord> for RecordWeighter {
    fn weight(&self, key: &Bytes, cached: &CachedRecord) -> u64 {
        let body = cached.record.body.len();
        // The constant is the overhead of an entry: handles, links and hash slots.
        200 + key.len() as u64 + cached.record.meta.len() as u64 + body
    }
}

/// A cache of records by key.
pub(super) struct ReadCache {
    entries: quick_cache::sync::Cache<Bytes, CachedRecord, RecordWeighter, RandomState>,
    sequences: Vec<AtomicU64>,
    hasher: RandomState,
}

/// Permission to cache the result of a read: the sequence of the key's stripe before the read.
#[derive(Clone, Copy)]
pub(super) struct Lease(u64);

impl ReadCache {
    /// Creates a cache of about `bytes` bytes.
    pub(super) fn new(bytes: u64) -> ReadCache {
        let items = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).max(64);
        let hasher = RandomState::new();
        let entries = quick_cache::sync::Cache::with(
            items,
            bytes,
            RecordWeighter,
            hasher.clone(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        let sequences = std::iter::repeat_with(AtomicU64::default).take(STRIPES).collect();
        ReadCache { entries, sequences, hasher }
    }

    fn stripe(&self, key: &[u8]) -> usize {
        // The remainder is below STRIPES, so it fits a usize.
        (self.hasher.hash_one(key) % STRIPES as u64) as usize
    }

    fn sequence(&self, key: &[u8]) -> u64 {
        self.sequences.get(self.stripe(key)).map_or(1, |sequence| sequence.load(Ordering::SeqCst))
    }

    /// Returns the cached record. On a miss, returns a lease to cache the record, or `None` while a
    /// commit to the key is in progress.
    pub(super) fn get(&self, key: &[u8], projection: Projection) -> Result<Record, Option<Lease>> {
        let sequence = self.sequence(key);
        if !sequence.is_multiple_of(2) {
            return Err(None);
        }
        match self.entries.get(key) {
            Some(cached) if cached.sequence == sequence => {
                if !cached.was_read {
                    // A race with the writer may restore an older record. That record is not
                    // served, because its sequence is stale.
                    let cached = CachedRecord { was_read: true, ..cached.clone() };
                    let _ = self.entries.replace(Bytes::copy_from_slice(key), cached, true);
                }
                let mut record = cached.record;
                if projection == Projection::Meta {
                    record.body = Body::EMPTY;
                }
                Ok(record)
            }
            _ => Err(Some(Lease(sequence))),
        }
    }

    /// Caches a full record that was read after `lease` was obtained.
    pub(super) fn fill(&self, key: &[u8], lease: Lease, record: &Record) {
        let is_small = matches!(&record.body, Body::Bytes(bytes) if bytes.len() <= BODY_BYTES_MAX);
        if is_small && self.sequence(key) == lease.0 {
            let cached = CachedRecord { sequence: lease.0, record: record.clone(), was_read: true };
            self.entries.insert(Bytes::copy_from_slice(key), cached);
        }
    }

    /// Invalidates the keys of a group before it becomes visible. Returns the stripes for
    /// [`ReadCache::end_write`].
    pub(super) fn begin_write<'k>(&self, keys: impl Iterator<Item = &'k Bytes>) -> Vec<usize> {
        let mut stripes: Vec<usize> = keys.map(|key| self.stripe(key)).collect();
        stripes.sort_unstable();
        stripes.dedup();
        self.increment(&stripes);
        stripes
    }

    /// Returns the new record if it should replace a cached one. A cached record is removed instead
    /// if it was not read since its last write or if the new record is not cacheable. `newest` is
    /// the version of the group's last mutation of the key; earlier mutations are skipped.
    pub(super) fn refreshed_record(
        &self,
        entry: &WalEntry,
        mutation: &Mutation,
        newest: u64,
    ) -> Option<Record> {
        if entry.version != newest {
            return None;
        }
        let was_unread = self.entries.remove_if(&entry.key, |cached| !cached.was_read).is_some();
        if was_unread || !self.entries.contains_key(&entry.key) {
            return None;
        }
        match mutation.record.as_ref().map(|record| &record.body) {
            Some(Body::Bytes(bytes)) if bytes.len() <= BODY_BYTES_MAX => {
                // The body is copied, so that no larger buffer is kept alive. The meta is already a
                // copy.
                let body = Body::Bytes(Bytes::copy_from_slice(bytes));
                let WalEntry { version, expires_at, .. } = *entry;
                Some(Record { version, expires_at, meta: entry.meta.clone(), body })
            }
            _ => {
                self.entries.remove(&entry.key);
                None
            }
        }
    }

    /// Caches a record of the group. Called by the writer after [`ReadCache::end_write`] and before
    /// its next group.
    pub(super) fn refresh(&self, key: Bytes, record: Record) {
        let cached = CachedRecord { sequence: self.sequence(&key), record, was_read: false };
        // This only replaces an existing entry. An evicted one is not inserted again.
        let _ = self.entries.replace(key, cached, true);
    }

    /// Makes the stripes cacheable again, once the group is visible.
    pub(super) fn end_write(&self, stripes: &[usize]) {
        self.increment(stripes);
    }

    fn increment(&self, stripes: &[usize]) {
        for sequence in stripes.iter().filter_map(|stripe| self.sequences.get(*stripe)) {
            sequence.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::NewRecord;
    use super::super::wal::record::BodyLocation;
    use super::*;

    fn miss(cache: &ReadCache, key: &[u8]) -> Lease {
        let Err(Some(lease)) = cache.get(key, Projection::Full) else {
            panic!("the record is cached")
        };
        lease
    }

    fn record(version: u64) -> Record {
        Record { version, expires_at: 0, meta: Bytes::from_static(b"h"), body: Body::EMPTY }
    }

    #[test]
    fn a_record_read_before_a_commit_is_not_served_after_it() {
        let cache = ReadCache::new(1 << 20);
        let key = Bytes::from_static(b"k");
        let lease = miss(&cache, &key);
        let stripes = cache.begin_write([&key].into_iter());
        assert!(matches!(cache.get(&key, Projection::Full), Err(None)), "a commit is in progress");
        cache.fill(&key, lease, &record(1));
        cache.end_write(&stripes);
        assert!(cache.get(&key, Projection::Full).is_err(), "the old record is not served");
    }

    #[test]
    fn only_records_read_since_their_last_write_are_refreshed() {
        let cache = ReadCache::new(1 << 20);
        let keys = [Bytes::from_static(b"cached"), Bytes::from_static(b"not")];
        cache.fill(&keys[0], miss(&cache, &keys[0]), &record(1));
        let write = |version, body: Option<&[u8]>| {
            let stripes = cache.begin_write(keys.iter());
            let refreshed = keys.each_ref().map(|key| {
                let (meta, location) = (Bytes::from_static(b"new"), BodyLocation::Empty);
                let (key, expires_at) = (key.clone(), 9);
                let entry = WalEntry { key, version, expires_at, meta: meta.clone(), location };
                let body = body.map(|body| Body::Bytes(Bytes::copy_from_slice(body)));
                let record = body.map(|body| NewRecord { expires_at: 9, meta, body });
                let mutation = Mutation { key: entry.key.clone(), record };
                let superseded = cache.refreshed_record(&entry, &mutation, version + 1);
                assert!(superseded.is_none(), "a later mutation of the group replaces it");
                cache.refreshed_record(&entry, &mutation, version)
            });
            cache.end_write(&stripes);
            for (key, record) in keys.iter().zip(refreshed) {
                record.into_iter().for_each(|record| cache.refresh(key.clone(), record));
            }
        };
        write(2, Some(b"body"));
        let Ok(found) = cache.get(&keys[0], Projection::Full) else {
            panic!("the record is not cached")
        };
        assert_eq!((found.version, found.expires_at, &found.meta[..]), (2, 9, &b"new"[..]));
        assert!(matches!(found.body, Body::Bytes(bytes) if bytes == b"body"[..]));
        assert!(cache.get(&keys[1], Projection::Full).is_err(), "an unread record is not cached");
        write(3, Some(b"read before, so refreshed"));
        write(4, Some(b"not read since"));
        assert!(cache.entries.is_empty(), "a record that is only written is evicted");
        cache.fill(&keys[0], miss(&cache, &keys[0]), &record(4));
        write(5, Some(&[0; BODY_BYTES_MAX + 1]));
        assert!(cache.get(&keys[0], Projection::Full).is_err(), "the new body is too large");
        cache.fill(&keys[0], miss(&cache, &keys[0]), &record(5));
        write(6, None);
        assert!(cache.get(&keys[0], Projection::Full).is_err(), "the record was removed");
    }

    #[test]
    fn a_record_is_served_until_its_key_is_committed() {
        let cache = ReadCache::new(1 << 20);
        let key = Bytes::from_static(b"k");
        cache.fill(&key, miss(&cache, &key), &record(7));
        assert_eq!(cache.get(&key, Projection::Full).map(|r| r.version).ok(), Some(7));
        let stripes = cache.begin_write([&key].into_iter());
        cache.end_write(&stripes);
        assert!(cache.get(&key, Projection::Full).is_err());
    }
}
