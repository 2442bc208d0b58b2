//! What the log holds and the database does not yet: the newest record of each key, in order.

use super::wal::record::BodyLocation;
use super::wal::segment::Segment;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Bound;
use std::sync::Arc;

/// A record that is durable in the log.
#[derive(Clone, Debug)]
pub(super) struct MemtableEntry {
    pub(super) version: u64,
    pub(super) expires_at: u64,
    pub(super) meta: Bytes,
    pub(super) location: BodyLocation,
    /// The segment that holds an inline body, and where it begins there.
    pub(super) body_at: Option<(Arc<Segment>, u64)>,
    /// Whether the database has a record under the key; `None` when nobody looked.
    pub(super) in_db: Option<bool>,
}

impl MemtableEntry {
    /// Whether there is a record, as opposed to its removal.
    pub(super) fn is_live(&self) -> bool {
        self.location != BodyLocation::Removed
    }

    /// By how much the count of records differs from the database's because of it, as far as that
    /// is known.
    fn count_delta(&self) -> i64 {
        self.in_db.map_or(0, |in_db| i64::from(self.is_live()) - i64::from(in_db))
    }
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Memtable {
    entries: BTreeMap<Bytes, MemtableEntry>,
    expires_at: BTreeSet<(u64, Bytes)>,
    count_deltas: BTreeMap<u8, i64>,
}

/// What took the place of what.
pub(super) struct Replaced {
    /// A blob that no record names any more.
    pub(super) blob: Option<i64>,
}

impl Memtable {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All of it as it is now; keys, heads and segments are shared.
    pub(super) fn clone_entries(&self) -> BTreeMap<Bytes, MemtableEntry> {
        self.entries.clone()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&MemtableEntry> {
        self.entries.get(key)
    }

    /// By how much the known count of records that begin with `with_first_byte` differs from the database's.
    pub(super) fn count_delta(&self, with_first_byte: u8) -> i64 {
        self.count_deltas.get(&with_first_byte).copied().unwrap_or(0)
    }

    fn count(&mut self, with_first_byte: u8, count_delta: i64) {
        if count_delta != 0 {
            *self.count_deltas.entry(with_first_byte).or_default() += count_delta;
        }
    }

    /// Puts the newest record of a key. What the entry does not know of the database, the one
    /// before it may.
    pub(super) fn put(&mut self, key: Bytes, mut entry: MemtableEntry) -> Replaced {
        let mut replaced = Replaced { blob: None };
        let with_first_byte = first_byte(&key);
        // One way down the tree: at the start there may be hundreds of thousands to put.
        let expires_at = (entry.expires_at > 0).then(|| (entry.expires_at, key.clone()));
        let (mut counted, mut old_expiry) = (0, None);
        let count_delta = match self.entries.entry(key) {
            btree_map::Entry::Vacant(body_at) => body_at.insert(entry).count_delta(),
            btree_map::Entry::Occupied(mut body_at) => {
                let old = body_at.get();
                entry.in_db = old.in_db;
                counted = old.count_delta();
                if let BodyLocation::Blob { id, .. } = old.location {
                    replaced.blob = Some(id);
                }
                old_expiry = (old.expires_at > 0).then(|| (old.expires_at, body_at.key().clone()));
                let count_delta = entry.count_delta();
                body_at.insert(entry);
                count_delta
            }
        };
        self.count(with_first_byte, count_delta - counted);
        if let Some(expires_at) = old_expiry {
            self.expires_at.remove(&expires_at);
        }
        self.expires_at.extend(expires_at);
        replaced
    }

    /// Says whether the database has a record under a key that is here.
    pub(super) fn set_in_db(&mut self, key: &[u8], in_db: bool) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let before = entry.count_delta();
        entry.in_db = Some(in_db);
        let count_delta = entry.count_delta() - before;
        self.count(first_byte(key), count_delta);
    }

    /// The database now has what was here at `version`: drops it, unless a newer one came.
    pub(super) fn remove_checkpointed(&mut self, key: &[u8], version: u64, is_live: bool) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.version > version {
            return self.set_in_db(key, is_live);
        }
        let (count_delta, expires_at) = (entry.count_delta(), entry.expires_at);
        self.count(first_byte(key), -count_delta);
        if let Some((key, _)) = self.entries.remove_entry(key)
            && expires_at > 0
        {
            self.expires_at.remove(&(expires_at, key));
        }
    }

    /// The entries of a range, in order.
    pub(super) fn range<'o>(
        &'o self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = (&'o Bytes, &'o MemtableEntry)> + use<'o> {
        let some = start < end;
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let range = some.then(|| self.entries.range::<[u8], _>(bounds));
        range.into_iter().flatten()
    }

    /// The entries after a key (or all), in order.
    pub(super) fn after(
        &self,
        key: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Bytes, &MemtableEntry)> {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<[u8], _>((start, Bound::Unbounded))
    }

    /// The entries whose keys begin with a byte, in order.
    pub(super) fn with_first_byte(
        &self,
        first: u8,
    ) -> impl Iterator<Item = (&Bytes, &MemtableEntry)> {
        let start = [first];
        let from = self.entries.range::<[u8], _>((Bound::Included(&start[..]), Bound::Unbounded));
        from.take_while(move |(key, _)| key.first() == Some(&first))
    }

    /// Those with `0 < due <= until`, the earliest first.
    pub(super) fn expired(&self, until: u64) -> impl Iterator<Item = (u64, &Bytes, u64)> {
        let found = self.expires_at.iter().take_while(move |(expires_at, _)| *expires_at <= until);
        found.filter_map(|(expires_at, key)| {
            Some((*expires_at, key, self.entries.get(key)?.version))
        })
    }
}

fn first_byte(key: &[u8]) -> u8 {
    key.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: u64, is_live: bool, in_db: Option<bool>, expires_at: u64) -> MemtableEntry {
        let location = if is_live { BodyLocation::Empty } else { BodyLocation::Removed };
        MemtableEntry { version, expires_at, meta: Bytes::new(), location, body_at: None, in_db }
    }

    #[test]
    fn counts_follow_what_is_known_of_the_database() {
        let mut memtable = Memtable::default();
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        memtable.put(key("ka"), entry(1, true, Some(false), 0));
        assert_eq!(memtable.count_delta(b'k'), 1);
        memtable.put(key("ka"), entry(2, false, None, 0));
        assert_eq!(memtable.count_delta(b'k'), 0, "made and removed");
        memtable.put(key("kb"), entry(3, true, None, 0));
        assert_eq!(memtable.count_delta(b'k'), 0, "unknown");
        memtable.set_in_db(b"kb", false);
        assert_eq!(memtable.count_delta(b'k'), 1);
        memtable.put(key("kb"), entry(4, false, None, 0));
        memtable.remove_checkpointed(b"kb", 3, true);
        assert_eq!(memtable.count_delta(b'k'), -1, "the database has it, and it is removed here");
        memtable.remove_checkpointed(b"kb", 4, false);
        memtable.remove_checkpointed(b"ka", 2, false);
        assert_eq!((memtable.len(), memtable.count_delta(b'k')), (0, 0));
    }

    #[test]
    fn due_entries_follow_their_records() {
        let mut memtable = Memtable::default();
        let key = Bytes::from_static(b"k");
        memtable.put(key.clone(), entry(1, true, None, 10));
        memtable.put(key.clone(), entry(2, true, None, 20));
        assert_eq!(memtable.expired(19).count(), 0);
        assert_eq!(
            memtable.expired(20).map(|(expires_at, _, version)| (expires_at, version)).next(),
            Some((20, 2))
        );
        memtable.put(key, entry(3, false, None, 0));
        assert_eq!(memtable.expired(u64::MAX).count(), 0);
    }
}
