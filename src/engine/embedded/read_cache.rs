//! A bounded cache of small records that never answers a record older than a commit that anyone
//! can have seen.
//!
//! Every key belongs to one of many slots, and every slot has a stamp. The writer makes the stamps
//! of a group's keys odd before the group becomes visible, and even again, and new, after. A
//! record is cached with the even stamp its reader saw *before* it read the database, and is only
//! served while the slot still has that stamp. So a record that was read before a commit and
//! cached after it is never served: no lock is held over a read, and nothing has to be removed.
//!
//! What a commit leaves in the place of a cached record that was read since it was written, the
//! writer caches: what is read often is found after a write as before it, and what is only written
//! takes neither room nor time.

use super::super::{Body, Mutation, Projection, Record};
use super::wal::record::WalEntry;
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many slots; a commit to one key also ends the caching of the others in its slot.
const STRIPES: usize = 1 << 17;
/// Larger bodies are not cached.
const BODY_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone)]
struct CachedRecord {
    sequence: u64,
    record: Record,
    /// Whether it was read, or only written.
    read_since_write: bool,
}

#[derive(Clone)]
struct RecordWeighter;

impl quick_cache::Weighter<Bytes, CachedRecord> for RecordWeighter {
    fn weight(&self, key: &Bytes, cached: &CachedRecord) -> u64 {
        let body = cached.record.body.len();
        // What the entry costs besides its bytes: handles, links, hash slots.
        200 + key.len() as u64 + cached.record.meta.len() as u64 + body
    }
}

/// See the module.
pub(super) struct ReadCache {
    entries: quick_cache::sync::Cache<Bytes, CachedRecord, RecordWeighter, RandomState>,
    sequences: Vec<AtomicU64>,
    hasher: RandomState,
}

/// Leave to cache what is read next: the slot's stamp as it was before.
#[derive(Clone, Copy)]
pub(super) struct FillLease(u64);

impl ReadCache {
    /// One that holds about `bytes`.
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
        // The modulus keeps it below SLOTS, which fits.
        (self.hasher.hash_one(key) % STRIPES as u64) as usize
    }

    fn sequence(&self, key: &[u8]) -> u64 {
        self.sequences.get(self.stripe(key)).map_or(1, |sequence| sequence.load(Ordering::SeqCst))
    }

    /// The record, or leave to cache what the database answers (unless a commit is under way).
    pub(super) fn get(
        &self,
        key: &[u8],
        projection: Projection,
    ) -> Result<Record, Option<FillLease>> {
        let sequence = self.sequence(key);
        if !sequence.is_multiple_of(2) {
            return Err(None);
        }
        match self.entries.get(key) {
            Some(cached) if cached.sequence == sequence => {
                if !cached.read_since_write {
                    // Racing with the writer this may put an older one back, which its stamp tells.
                    let cached = CachedRecord { read_since_write: true, ..cached.clone() };
                    let _ = self.entries.replace(Bytes::copy_from_slice(key), cached, true);
                }
                let mut record = cached.record;
                if projection == Projection::Meta {
                    record.body = Body::EMPTY;
                }
                Ok(record)
            }
            _ => Err(Some(FillLease(sequence))),
        }
    }

    /// Caches a whole record that was read after its ticket was given.
    pub(super) fn fill(&self, key: &[u8], lease: FillLease, record: &Record) {
        let small = matches!(&record.body, Body::Bytes(bytes) if bytes.len() <= BODY_BYTES_MAX);
        if small && self.sequence(key) == lease.0 {
            let cached =
                CachedRecord { sequence: lease.0, record: record.clone(), read_since_write: true };
            self.entries.insert(Bytes::copy_from_slice(key), cached);
        }
    }

    /// Before a group becomes visible: from here on its keys are read from the database. Returns
    /// what [`ReadCache::end_write`] needs.
    pub(super) fn begin_write<'k>(&self, keys: impl Iterator<Item = &'k Bytes>) -> Vec<usize> {
        let mut stripes: Vec<usize> = keys.map(|key| self.stripe(key)).collect();
        stripes.sort_unstable();
        stripes.dedup();
        self.increment(&stripes);
        stripes
    }

    /// What takes the place of a record that is cached: `None` when none is, when it was not read,
    /// or when what a commit leaves is not to be cached; then the old one goes too. `newest` is the
    /// version that the group leaves under the key: only the last of its writes counts, as those
    /// before it must not take a place that a reader fills in between.
    pub(super) fn refreshed_record(
        &self,
        entry: &WalEntry,
        mutation: &Mutation,
        newest: u64,
    ) -> Option<Record> {
        if entry.version != newest {
            return None;
        }
        let was_unread =
            self.entries.remove_if(&entry.key, |cached| !cached.read_since_write).is_some();
        if was_unread || !self.entries.contains_key(&entry.key) {
            return None;
        }
        match mutation.record.as_ref().map(|record| &record.body) {
            Some(Body::Bytes(bytes)) if bytes.len() <= BODY_BYTES_MAX => {
                // A copy, so that no larger buffer is kept alive; the head is one already.
                let body = Body::Bytes(Bytes::copy_from_slice(bytes));
                let (version, expires_at, meta) =
                    (entry.version, entry.expires_at, entry.meta.clone());
                Some(Record { version, expires_at, meta, body })
            }
            _ => {
                self.entries.remove(&entry.key);
                None
            }
        }
    }

    /// After [`ReadCache::end_write`], by the writer before its next group: caches what the group left.
    pub(super) fn refresh(&self, key: Bytes, record: Record) {
        let cached =
            CachedRecord { sequence: self.sequence(&key), record, read_since_write: false };
        // One that had to go in the meantime stays away.
        let _ = self.entries.replace(key, cached, true);
    }

    /// After the group is visible, or was undone.
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

    fn record(version: u64) -> Record {
        Record { version, expires_at: 0, meta: Bytes::from_static(b"h"), body: Body::EMPTY }
    }

    #[test]
    fn a_record_read_before_a_commit_is_not_served_after_it() {
        let cache = ReadCache::new(1 << 20);
        let key = Bytes::from_static(b"k");
        let Err(Some(lease)) = cache.get(&key, Projection::Full) else {
            panic!("nothing is cached")
        };
        let stripes = cache.begin_write([&key].into_iter());
        assert!(matches!(cache.get(&key, Projection::Full), Err(None)), "a commit is under way");
        cache.fill(&key, lease, &record(1));
        cache.end_write(&stripes);
        assert!(cache.get(&key, Projection::Full).is_err(), "the old record is not served");
    }

    #[test]
    fn what_replaces_a_cached_record_is_cached_and_nothing_else() {
        let cache = ReadCache::new(1 << 20);
        let keys = [Bytes::from_static(b"cached"), Bytes::from_static(b"not")];
        let Err(Some(lease)) = cache.get(&keys[0], Projection::Full) else {
            panic!("nothing is cached")
        };
        cache.fill(&keys[0], lease, &record(1));
        let mutation = |version, body: Option<&[u8]>| {
            let stripes = cache.begin_write(keys.iter());
            let left = keys.each_ref().map(|key| {
                let (meta, location) = (Bytes::from_static(b"new"), BodyLocation::Empty);
                let entry = WalEntry {
                    key: key.clone(),
                    version,
                    expires_at: 9,
                    meta: meta.clone(),
                    location,
                };
                let body = body.map(|body| Body::Bytes(Bytes::copy_from_slice(body)));
                let record = body.map(|body| NewRecord { expires_at: 9, meta, body });
                let mutation = Mutation { key: key.clone(), record };
                assert!(
                    cache.refreshed_record(&entry, &mutation, version + 1).is_none(),
                    "another follows"
                );
                cache.refreshed_record(&entry, &mutation, version)
            });
            cache.end_write(&stripes);
            for (key, record) in keys.iter().zip(left) {
                record.into_iter().for_each(|record| cache.refresh(key.clone(), record));
            }
        };
        mutation(2, Some(b"body"));
        let Ok(found) = cache.get(&keys[0], Projection::Full) else { panic!("it is not cached") };
        assert_eq!((found.version, found.expires_at, &found.meta[..]), (2, 9, &b"new"[..]));
        assert!(matches!(found.body, Body::Bytes(bytes) if bytes == b"body"[..]));
        assert!(cache.get(&keys[1], Projection::Full).is_err(), "what is not read is not cached");
        mutation(3, Some(b"read before, so renewed"));
        mutation(4, Some(b"not read since"));
        assert!(cache.entries.is_empty(), "what is only written is not kept");
        let Err(Some(lease)) = cache.get(&keys[0], Projection::Full) else {
            panic!("it is cached")
        };
        cache.fill(&keys[0], lease, &record(4));
        mutation(5, Some(&[0; BODY_BYTES_MAX + 1]));
        assert!(cache.get(&keys[0], Projection::Full).is_err(), "it is too large now");
        let Err(Some(lease)) = cache.get(&keys[0], Projection::Full) else {
            panic!("it is cached")
        };
        cache.fill(&keys[0], lease, &record(5));
        mutation(6, None);
        assert!(cache.get(&keys[0], Projection::Full).is_err(), "it was removed");
    }

    #[test]
    fn a_record_is_served_until_its_key_is_committed() {
        let cache = ReadCache::new(1 << 20);
        let key = Bytes::from_static(b"k");
        let Err(Some(lease)) = cache.get(&key, Projection::Full) else {
            panic!("nothing is cached")
        };
        cache.fill(&key, lease, &record(7));
        assert_eq!(cache.get(&key, Projection::Full).map(|r| r.version).ok(), Some(7));
        let stripes = cache.begin_write([&key].into_iter());
        cache.end_write(&stripes);
        assert!(cache.get(&key, Projection::Full).is_err());
    }
}
