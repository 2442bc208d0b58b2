//! The memtable: the newest version of each record that is in the WAL and not yet in the database,
//! in key order.

use super::database::{BodyRef, SegmentLocation};
use super::hidden_ranges::HiddenRanges;
use super::memtable_copy::PreviousEntries;
use super::memtable_recovery::newest_entries;
use super::wal::record::BodyLocation;
use super::wal::segment::Segment;
use bytes::Bytes;
use smallvec::SmallVec;
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

    /// Returns the body reference that a checkpoint stores in the database for this entry.
    pub(super) fn body_ref(&self) -> BodyRef {
        match (self.location, &self.body_at) {
            (BodyLocation::Blob { id, .. }, _) => BodyRef::Blob(id),
            (BodyLocation::Inline { len, checksum, .. }, Some((segment, at))) => {
                let (seq, at) = (segment.seq, *at);
                BodyRef::Segment(SegmentLocation { seq, at, len, checksum })
            }
            (BodyLocation::Removed | BodyLocation::Empty | BodyLocation::Inline { .. }, _) => {
                BodyRef::Empty
            }
        }
    }

    /// Returns by how much the entry changes the database's record count; 0 while `in_db` is
    /// unknown.
    fn count_delta(&self) -> i64 {
        self.in_db.map_or(0, |in_db| i64::from(self.is_live()) - i64::from(in_db))
    }
}

/// A key in the tree. Keys of up to 56 bytes are stored in the nodes of the tree, so a search
/// compares them without following a pointer for each.
pub(super) type MemtableKey = SmallVec<[u8; 56]>;

type KeyedEntry<'m> = (&'m [u8], &'m MemtableEntry);

/// The memtable: entries by key, with an expiry index and record counts.
#[derive(Default, Debug)]
pub(super) struct Memtable {
    entries: BTreeMap<MemtableKey, MemtableEntry>,
    by_expiry: BTreeSet<(u64, Bytes)>,
    count_deltas: BTreeMap<u8, i64>,
    /// Number of entries that are deletions.
    tombstones: usize,
    hidden: HiddenRanges,
    /// What a copy in progress needs; see [`MemtableCopy`](super::memtable_copy::MemtableCopy).
    previous: Option<PreviousEntries>,
}

impl Memtable {
    /// Builds a memtable from the entries of each WAL segment in commit order, the oldest segment
    /// first.
    pub(super) fn from_wal(segments: Vec<Vec<(Bytes, MemtableEntry)>>) -> Memtable {
        let entries = newest_entries(segments);
        let expiring = entries.iter().filter(|(_, entry)| entry.expires_at > 0);
        let expiry = |(key, entry): &(MemtableKey, MemtableEntry)| {
            (entry.expires_at, Bytes::copy_from_slice(key))
        };
        Memtable {
            by_expiry: expiring.map(expiry).collect(),
            tombstones: entries.iter().filter(|(_, entry)| !entry.is_live()).count(),
            entries: entries.into_iter().collect(),
            ..Memtable::default()
        }
    }

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

    /// Retains the previous entry of each key that changes from now on.
    pub(super) fn retain_previous(&mut self) {
        self.previous = Some(PreviousEntries::new());
    }

    /// Ends [`Memtable::retain_previous`] and returns the retained entries.
    pub(super) fn take_previous(&mut self) -> PreviousEntries {
        self.previous.take().unwrap_or_default()
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

    /// Inserts the newest entry of a key and returns the blob that it replaced. If the key had an
    /// entry, keeps the `in_db` of that entry.
    pub(super) fn put(&mut self, key: Bytes, mut entry: MemtableEntry) -> Option<i64> {
        let mut replaced_blob = None;
        let first = first_byte(&key);
        if entry.is_live() {
            self.hidden.put(&key);
        } else {
            self.tombstones += 1;
        }
        // The tree is searched only once, because searches take much of the writer's time.
        let tree_key = tree_key(&key);
        let new_expiry = (entry.expires_at > 0).then(|| (entry.expires_at, key.clone()));
        if let Some(previous) = &mut self.previous
            && !previous.contains_key(&tree_key)
        {
            previous.insert(tree_key.clone(), self.entries.get(&tree_key).cloned());
        }
        let (mut old_delta, mut old_expiry) = (0, None);
        let new_delta = match self.entries.entry(tree_key) {
            btree_map::Entry::Vacant(vacant) => vacant.insert(entry).count_delta(),
            btree_map::Entry::Occupied(mut occupied) => {
                let old = occupied.get();
                entry.in_db = old.in_db;
                self.tombstones -= usize::from(!old.is_live());
                old_delta = old.count_delta();
                if let BodyLocation::Blob { id, .. } = old.location {
                    replaced_blob = Some(id);
                }
                old_expiry = (old.expires_at > 0).then_some((old.expires_at, key));
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

    /// Removes an entry that was checkpointed. If the key now has a newer entry, or an entry of the
    /// same version whose body was relocated, keeps that entry and sets its `in_db` to whether the
    /// checkpointed entry is live.
    pub(super) fn remove_checkpointed(&mut self, key: &[u8], checkpointed: &MemtableEntry) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.version != checkpointed.version || entry.body_ref() != checkpointed.body_ref() {
            return self.set_in_db(key, checkpointed.is_live());
        }
        self.tombstones -= usize::from(!entry.is_live());
        let (delta, expires_at) = (entry.count_delta(), entry.expires_at);
        self.add_to_count(first_byte(key), -delta);
        if let (Some(removed), Some(previous)) = (self.entries.remove(key), &mut self.previous) {
            previous.entry(tree_key(key)).or_insert(Some(removed));
        }
        if expires_at > 0 {
            self.by_expiry.remove(&(expires_at, Bytes::copy_from_slice(key)));
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
        range.into_iter().flatten().map(|(key, entry)| (&key[..], entry))
    }

    /// Iterates over the entries after `key` in order, or over all entries if `key` is `None`.
    pub(super) fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = KeyedEntry<'_>> {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.entries.range::<[u8], _>((start, Bound::Unbounded));
        range.map(|(key, entry)| (&key[..], entry))
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
                found.push(Bytes::copy_from_slice(key));
            }
            if visited + 1 >= visited_max || found.len() >= found_max {
                return (found, Some(Bytes::copy_from_slice(key)));
            }
        }
        (found, None)
    }

    /// Iterates over the expiry time, key and version of entries with `0 < expires_at <= until`, in
    /// order of expiry time.
    pub(super) fn expired(&self, until: u64) -> impl Iterator<Item = (u64, &Bytes, u64)> {
        let expired = self.by_expiry.iter().take_while(move |(at, _)| *at <= until);
        expired.filter_map(|(at, key)| Some((*at, key, self.entries.get(&key[..])?.version)))
    }
}

pub(super) fn tree_key(key: &[u8]) -> MemtableKey {
    MemtableKey::from_slice(key)
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
        memtable.remove_checkpointed(b"kb", &entry(3, true, None, 0));
        assert_eq!(memtable.count_delta(b'k'), -1, "in the database, removed in the memtable");
        assert_eq!(memtable.tombstones(), 2);
        memtable.remove_checkpointed(b"kb", &entry(4, false, None, 0));
        memtable.remove_checkpointed(b"ka", &entry(2, false, None, 0));
        assert_eq!((memtable.len(), memtable.tombstones()), (0, 0));
        assert_eq!(memtable.count_delta(b'k'), 0);
    }

    #[test]
    fn a_memtable_built_from_the_wal_equals_one_filled_by_commits() {
        let keys =
            ["k", "k\0", "k\0\0", "ka", "kab", "k-with-a-long-suffix-1", "k-with-a-long-suffix-2"];
        let mut random = 7_u64;
        for round in 0..200 {
            let (mut filled, mut segments) = (Memtable::default(), Vec::new());
            for version in 1..=round {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(9);
                let choice = (random >> 40) as usize;
                let key = Bytes::from_static(keys[choice % keys.len()].as_bytes());
                let expires_at = if choice.is_multiple_of(3) { random >> 50 } else { 0 };
                let is_live = !choice.is_multiple_of(5);
                let entry = entry(version, is_live, None, if is_live { expires_at } else { 0 });
                filled.put(key.clone(), entry.clone());
                if choice.is_multiple_of(7) || segments.is_empty() {
                    segments.push(Vec::new());
                }
                segments.last_mut().unwrap().push((key, entry));
            }
            let built = Memtable::from_wal(segments);
            let content = |memtable: &Memtable| {
                let entries =
                    memtable.after(None).map(|(key, entry)| (key.to_vec(), entry.version));
                (entries.collect::<Vec<_>>(), memtable.by_expiry.clone(), memtable.tombstones())
            };
            assert_eq!(content(&built), content(&filled), "round {round}");
        }
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
