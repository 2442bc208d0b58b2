//! The memtable: the newest version of each record that is in the WAL and not yet in the database,
//! in key order.

use super::hidden_ranges::HiddenRanges;
use super::wal::record::BodyLocation;
use super::wal::segment::Segment;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Bound;
use std::sync::Arc;

/// A record, or its deletion, that is durable in the WAL.
#[derive(Clone, Debug)]
pub(super) struct MemtableEntry {
    pub(super) version: u64,
    pub(super) expires_at: u64,
    pub(super) meta: Bytes,
    pub(super) location: BodyLocation,
    /// The segment with the inline body, and the offset of the body in it.
    pub(super) body_at: Option<(Arc<Segment>, u64)>,
    /// Whether the database has a record for the key; `None` if not yet looked up.
    pub(super) in_db: Option<bool>,
}

impl MemtableEntry {
    /// Returns whether the entry is a record rather than a deletion.
    pub(super) fn is_live(&self) -> bool {
        self.location != BodyLocation::Removed
    }

    /// Returns by how much the entry changes the database's record count; 0 while `in_db` is
    /// unknown.
    fn count_delta(&self) -> i64 {
        self.in_db.map_or(0, |in_db| i64::from(self.is_live()) - i64::from(in_db))
    }
}

type KeyedEntry<'m> = (&'m Bytes, &'m MemtableEntry);

/// The memtable: entries by key, with an expiry index and record counts.
#[derive(Default, Debug)]
pub(super) struct Memtable {
    entries: BTreeMap<Bytes, MemtableEntry>,
    by_expiry: BTreeSet<(u64, Bytes)>,
    count_deltas: BTreeMap<u8, i64>,
    /// Number of entries that are deletions.
    tombstones: usize,
    hidden: HiddenRanges,
}

impl Memtable {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of entries that are deletions.
    pub(super) fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Returns the key ranges without visible records that scans skip.
    pub(super) fn hidden(&self) -> &HiddenRanges {
        &self.hidden
    }

    pub(super) fn hidden_mut(&mut self) -> &mut HiddenRanges {
        &mut self.hidden
    }

    /// Copies all entries for a snapshot; keys, metas and segments are shared.
    pub(super) fn clone_entries(&self) -> BTreeMap<Bytes, MemtableEntry> {
        self.entries.clone()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&MemtableEntry> {
        self.entries.get(key)
    }

    /// Returns the difference between the number of records whose keys start with `first` and the
    /// database's count of them, as far as known.
    pub(super) fn count_delta(&self, first: u8) -> i64 {
        self.count_deltas.get(&first).copied().unwrap_or(0)
    }

    fn add_to_count(&mut self, first: u8, delta: i64) {
        if delta != 0 {
            *self.count_deltas.entry(first).or_default() += delta;
        }
    }

    /// Inserts the newest entry of a key and returns the blob that it replaced. `in_db` is taken
    /// from the replaced entry.
    pub(super) fn put(&mut self, key: Bytes, mut entry: MemtableEntry) -> Option<i64> {
        let mut replaced_blob = None;
        let first = first_byte(&key);
        if entry.is_live() {
            self.hidden.put(&key);
        } else {
            self.tombstones += 1;
        }
        // The tree is searched only once, because recovery may insert hundreds of thousands of
        // entries.
        let new_expiry = (entry.expires_at > 0).then(|| (entry.expires_at, key.clone()));
        let (mut old_delta, mut old_expiry) = (0, None);
        let new_delta = match self.entries.entry(key) {
            btree_map::Entry::Vacant(vacant) => vacant.insert(entry).count_delta(),
            btree_map::Entry::Occupied(mut occupied) => {
                let old = occupied.get();
                entry.in_db = old.in_db;
                self.tombstones -= usize::from(!old.is_live());
                old_delta = old.count_delta();
                if let BodyLocation::Blob { id, .. } = old.location {
                    replaced_blob = Some(id);
                }
                old_expiry = (old.expires_at > 0).then(|| (old.expires_at, occupied.key().clone()));
                let new_delta = entry.count_delta();
                occupied.insert(entry);
                new_delta
            }
        };
        self.add_to_count(first, new_delta - old_delta);
        if let Some(old_expiry) = old_expiry {
            self.by_expiry.remove(&old_expiry);
        }
        self.by_expiry.extend(new_expiry);
        replaced_blob
    }

    /// Sets whether the database has a record for the key. Has no effect if the key has no entry.
    pub(super) fn set_in_db(&mut self, key: &[u8], in_db: bool) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let before = entry.count_delta();
        entry.in_db = Some(in_db);
        let delta = entry.count_delta() - before;
        self.add_to_count(first_byte(key), delta);
    }

    /// Removes an entry that was checkpointed at `version`. A newer entry stays, with `in_db` set
    /// to `is_live`.
    pub(super) fn remove_checkpointed(&mut self, key: &[u8], version: u64, is_live: bool) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.version > version {
            return self.set_in_db(key, is_live);
        }
        self.tombstones -= usize::from(!entry.is_live());
        let (delta, expires_at) = (entry.count_delta(), entry.expires_at);
        self.add_to_count(first_byte(key), -delta);
        if let Some((key, _)) = self.entries.remove_entry(key)
            && expires_at > 0
        {
            self.by_expiry.remove(&(expires_at, key));
        }
    }

    /// Iterates over the entries of a key range, in order.
    pub(super) fn range<'o>(
        &'o self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = KeyedEntry<'o>> + use<'o> {
        let non_empty = start < end;
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let range = non_empty.then(|| self.entries.range::<[u8], _>(bounds));
        range.into_iter().flatten()
    }

    /// Iterates over the entries after `key` in order, or over all entries if `key` is `None`.
    pub(super) fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = KeyedEntry<'_>> {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<[u8], _>((start, Bound::Unbounded))
    }

    /// Returns the next keys after `after` that start with `first` and for which it is unknown
    /// whether the database has a record. Stops after a number of entries visited or found, and
    /// also returns the last key visited; `None` at the end.
    pub(super) fn unknown_in_db(
        &self,
        first: u8,
        after: Option<&[u8]>,
        (visited_max, found_max): (usize, usize),
    ) -> (Vec<Bytes>, Option<Bytes>) {
        let start = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(&[first][..]),
        };
        let mut found = Vec::new();
        let entries = self.entries.range::<[u8], _>((start, Bound::Unbounded));
        let entries = entries.take_while(|(key, _)| key.first() == Some(&first));
        for (visited, (key, entry)) in entries.enumerate() {
            if entry.in_db.is_none() {
                found.push(key.clone());
            }
            if visited + 1 >= visited_max || found.len() >= found_max {
                return (found, Some(key.clone()));
            }
        }
        (found, None)
    }

    /// Iterates over the expiry time, key and version of entries with `0 < expires_at <= until`, in
    /// order of expiry time.
    pub(super) fn expired(&self, until: u64) -> impl Iterator<Item = (u64, &Bytes, u64)> {
        let expired = self.by_expiry.iter().take_while(move |(at, _)| *at <= until);
        expired.filter_map(|(at, key)| Some((*at, key, self.entries.get(key)?.version)))
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
    fn count_deltas_depend_on_whether_the_database_has_the_record() {
        let mut memtable = Memtable::default();
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        memtable.put(key("ka"), entry(1, true, Some(false), 0));
        assert_eq!(memtable.count_delta(b'k'), 1);
        memtable.put(key("ka"), entry(2, false, None, 0));
        assert_eq!(memtable.count_delta(b'k'), 0, "created and removed");
        memtable.put(key("kb"), entry(3, true, None, 0));
        assert_eq!(memtable.count_delta(b'k'), 0, "not looked up");
        memtable.set_in_db(b"kb", false);
        assert_eq!(memtable.count_delta(b'k'), 1);
        memtable.put(key("kb"), entry(4, false, None, 0));
        memtable.remove_checkpointed(b"kb", 3, true);
        assert_eq!(memtable.count_delta(b'k'), -1, "in the database, removed in the memtable");
        assert_eq!(memtable.tombstones(), 2);
        memtable.remove_checkpointed(b"kb", 4, false);
        memtable.remove_checkpointed(b"ka", 2, false);
        assert_eq!((memtable.len(), memtable.tombstones()), (0, 0));
        assert_eq!(memtable.count_delta(b'k'), 0);
    }

    #[test]
    fn overwrites_update_the_expiry_index() {
        let mut memtable = Memtable::default();
        let key = Bytes::from_static(b"k");
        memtable.put(key.clone(), entry(1, true, None, 10));
        memtable.put(key.clone(), entry(2, true, None, 20));
        assert_eq!(memtable.expired(19).count(), 0);
        assert_eq!(memtable.expired(20).next(), Some((20, &key, 2)));
        memtable.put(key, entry(3, false, None, 0));
        assert_eq!(memtable.expired(u64::MAX).count(), 0);
    }
}
