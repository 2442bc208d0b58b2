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
use super::wal::record::Row;
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many slots; a commit to one key also ends the caching of the others in its slot.
const SLOTS: usize = 1 << 17;
/// Larger bodies are not cached.
const BODY_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone)]
struct Cached {
    stamp: u64,
    record: Record,
    /// Whether it was read, or only written.
    read: bool,
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Bytes, Cached> for Weigh {
    fn weight(&self, key: &Bytes, cached: &Cached) -> u64 {
        let body = cached.record.body.len();
        // What the entry costs besides its bytes: handles, links, hash slots.
        200 + key.len() as u64 + cached.record.meta.len() as u64 + body
    }
}

/// See the module.
pub(super) struct Cache {
    entries: quick_cache::sync::Cache<Bytes, Cached, Weigh, RandomState>,
    stamps: Vec<AtomicU64>,
    hasher: RandomState,
}

/// Leave to cache what is read next: the slot's stamp as it was before.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl Cache {
    /// One that holds about `bytes`.
    pub(super) fn new(bytes: u64) -> Cache {
        let items = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).max(64);
        let hasher = RandomState::new();
        let entries = quick_cache::sync::Cache::with(
            items,
            bytes,
            Weigh,
            hasher.clone(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        let stamps = std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Cache { entries, stamps, hasher }
    }

    fn slot(&self, key: &[u8]) -> usize {
        // The modulus keeps it below SLOTS, which fits.
        (self.hasher.hash_one(key) % SLOTS as u64) as usize
    }

    fn stamp(&self, key: &[u8]) -> u64 {
        self.stamps.get(self.slot(key)).map_or(1, |stamp| stamp.load(Ordering::SeqCst))
    }

    /// The record, or leave to cache what the database answers (unless a commit is under way).
    pub(super) fn get(&self, key: &[u8], part: Projection) -> Result<Record, Option<Ticket>> {
        let stamp = self.stamp(key);
        if !stamp.is_multiple_of(2) {
            return Err(None);
        }
        match self.entries.get(key) {
            Some(cached) if cached.stamp == stamp => {
                if !cached.read {
                    // Racing with the writer this may put an older one back, which its stamp tells.
                    let cached = Cached { read: true, ..cached.clone() };
                    let _ = self.entries.replace(Bytes::copy_from_slice(key), cached, true);
                }
                let mut record = cached.record;
                if part == Projection::Meta {
                    record.body = Body::EMPTY;
                }
                Ok(record)
            }
            _ => Err(Some(Ticket(stamp))),
        }
    }

    /// Caches a whole record that was read after its ticket was given.
    pub(super) fn put(&self, key: &[u8], ticket: Ticket, record: &Record) {
        let small = matches!(&record.body, Body::Bytes(bytes) if bytes.len() <= BODY_BYTES_MAX);
        if small && self.stamp(key) == ticket.0 {
            let cached = Cached { stamp: ticket.0, record: record.clone(), read: true };
            self.entries.insert(Bytes::copy_from_slice(key), cached);
        }
    }

    /// Before a group becomes visible: from here on its keys are read from the database. Returns
    /// what [`Cache::end`] needs.
    pub(super) fn begin<'k>(&self, keys: impl Iterator<Item = &'k Bytes>) -> Vec<usize> {
        let mut slots: Vec<usize> = keys.map(|key| self.slot(key)).collect();
        slots.sort_unstable();
        slots.dedup();
        self.bump(&slots);
        slots
    }

    /// What takes the place of a record that is cached: `None` when none is, when it was not read,
    /// or when what a commit leaves is not to be cached; then the old one goes too. `newest` is the
    /// version that the group leaves under the key: only the last of its writes counts, as those
    /// before it must not take a place that a reader fills in between.
    pub(super) fn renewed(&self, row: &Row, write: &Mutation, newest: u64) -> Option<Record> {
        if row.version != newest {
            return None;
        }
        let unread = self.entries.remove_if(&row.key, |cached| !cached.read).is_some();
        if unread || !self.entries.contains_key(&row.key) {
            return None;
        }
        match write.record.as_ref().map(|record| &record.body) {
            Some(Body::Bytes(bytes)) if bytes.len() <= BODY_BYTES_MAX => {
                // A copy, so that no larger buffer is kept alive; the head is one already.
                let body = Body::Bytes(Bytes::copy_from_slice(bytes));
                let (version, expires_at, meta) = (row.version, row.expires_at, row.meta.clone());
                Some(Record { version, expires_at, meta, body })
            }
            _ => {
                self.entries.remove(&row.key);
                None
            }
        }
    }

    /// After [`Cache::end`], by the writer before its next group: caches what the group left.
    pub(super) fn renew(&self, key: Bytes, record: Record) {
        let cached = Cached { stamp: self.stamp(&key), record, read: false };
        // One that had to go in the meantime stays away.
        let _ = self.entries.replace(key, cached, true);
    }

    /// After the group is visible, or was undone.
    pub(super) fn end(&self, slots: &[usize]) {
        self.bump(slots);
    }

    fn bump(&self, slots: &[usize]) {
        for stamp in slots.iter().filter_map(|slot| self.stamps.get(*slot)) {
            stamp.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::NewRecord;
    use super::super::wal::record::Home;
    use super::*;

    fn record(version: u64) -> Record {
        Record { version, expires_at: 0, meta: Bytes::from_static(b"h"), body: Body::EMPTY }
    }

    #[test]
    fn a_record_read_before_a_commit_is_not_served_after_it() {
        let cache = Cache::new(1 << 20);
        let key = Bytes::from_static(b"k");
        let Err(Some(ticket)) = cache.get(&key, Projection::Full) else {
            panic!("nothing is cached")
        };
        let slots = cache.begin([&key].into_iter());
        assert!(matches!(cache.get(&key, Projection::Full), Err(None)), "a commit is under way");
        cache.put(&key, ticket, &record(1));
        cache.end(&slots);
        assert!(cache.get(&key, Projection::Full).is_err(), "the old record is not served");
    }

    #[test]
    fn what_replaces_a_cached_record_is_cached_and_nothing_else() {
        let cache = Cache::new(1 << 20);
        let keys = [Bytes::from_static(b"cached"), Bytes::from_static(b"not")];
        let Err(Some(ticket)) = cache.get(&keys[0], Projection::Full) else {
            panic!("nothing is cached")
        };
        cache.put(&keys[0], ticket, &record(1));
        let write = |version, body: Option<&[u8]>| {
            let slots = cache.begin(keys.iter());
            let left = keys.each_ref().map(|key| {
                let (meta, home) = (Bytes::from_static(b"new"), Home::Empty);
                let row =
                    Row { key: key.clone(), version, expires_at: 9, meta: meta.clone(), home };
                let body = body.map(|body| Body::Bytes(Bytes::copy_from_slice(body)));
                let record = body.map(|body| NewRecord { expires_at: 9, meta, body });
                let write = Mutation { key: key.clone(), record };
                assert!(cache.renewed(&row, &write, version + 1).is_none(), "another follows");
                cache.renewed(&row, &write, version)
            });
            cache.end(&slots);
            for (key, record) in keys.iter().zip(left) {
                record.into_iter().for_each(|record| cache.renew(key.clone(), record));
            }
        };
        write(2, Some(b"body"));
        let Ok(found) = cache.get(&keys[0], Projection::Full) else { panic!("it is not cached") };
        assert_eq!((found.version, found.expires_at, &found.meta[..]), (2, 9, &b"new"[..]));
        assert!(matches!(found.body, Body::Bytes(bytes) if bytes == b"body"[..]));
        assert!(cache.get(&keys[1], Projection::Full).is_err(), "what is not read is not cached");
        write(3, Some(b"read before, so renewed"));
        write(4, Some(b"not read since"));
        assert!(cache.entries.is_empty(), "what is only written is not kept");
        let Err(Some(ticket)) = cache.get(&keys[0], Projection::Full) else {
            panic!("it is cached")
        };
        cache.put(&keys[0], ticket, &record(4));
        write(5, Some(&[0; BODY_BYTES_MAX + 1]));
        assert!(cache.get(&keys[0], Projection::Full).is_err(), "it is too large now");
        let Err(Some(ticket)) = cache.get(&keys[0], Projection::Full) else {
            panic!("it is cached")
        };
        cache.put(&keys[0], ticket, &record(5));
        write(6, None);
        assert!(cache.get(&keys[0], Projection::Full).is_err(), "it was removed");
    }

    #[test]
    fn a_record_is_served_until_its_key_is_committed() {
        let cache = Cache::new(1 << 20);
        let key = Bytes::from_static(b"k");
        let Err(Some(ticket)) = cache.get(&key, Projection::Full) else {
            panic!("nothing is cached")
        };
        cache.put(&key, ticket, &record(7));
        assert_eq!(cache.get(&key, Projection::Full).map(|r| r.version).ok(), Some(7));
        let slots = cache.begin([&key].into_iter());
        cache.end(&slots);
        assert!(cache.get(&key, Projection::Full).is_err());
    }
}
