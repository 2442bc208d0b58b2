//! What the log holds and the database does not yet: the newest record of each key, in order.

use super::wal::record::Home;
use super::wal::segment::Segment;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Bound;
use std::sync::Arc;

/// A record that is durable in the log.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) version: u64,
    pub(super) expires_at: u64,
    pub(super) meta: Bytes,
    pub(super) home: Home,
    /// The segment that holds an inline body, and where it begins there.
    pub(super) place: Option<(Arc<Segment>, u64)>,
    /// Whether the database has a record under the key; `None` when nobody looked.
    pub(super) below: Option<bool>,
}

impl Entry {
    /// Whether there is a record, as opposed to its removal.
    pub(super) fn live(&self) -> bool {
        self.home != Home::Removed
    }

    /// By how much the count of records differs from the database's because of it, as far as that
    /// is known.
    fn change(&self) -> i64 {
        self.below.map_or(0, |below| i64::from(self.live()) - i64::from(below))
    }
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Overlay {
    map: BTreeMap<Bytes, Entry>,
    expires_at: BTreeSet<(u64, Bytes)>,
    changes: BTreeMap<u8, i64>,
}

/// What took the place of what.
pub(super) struct Replaced {
    /// A blob that no record names any more.
    pub(super) blob: Option<i64>,
}

impl Overlay {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// All of it as it is now; keys, heads and segments are shared.
    pub(super) fn entries(&self) -> BTreeMap<Bytes, Entry> {
        self.map.clone()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.map.get(key)
    }

    /// By how much the known count of records that begin with `first` differs from the database's.
    pub(super) fn change(&self, first: u8) -> i64 {
        self.changes.get(&first).copied().unwrap_or(0)
    }

    fn count(&mut self, first: u8, change: i64) {
        if change != 0 {
            *self.changes.entry(first).or_default() += change;
        }
    }

    /// Puts the newest record of a key. What the entry does not know of the database, the one
    /// before it may.
    pub(super) fn put(&mut self, key: Bytes, mut entry: Entry) -> Replaced {
        let mut replaced = Replaced { blob: None };
        let first = first_of(&key);
        // One way down the tree: at the start there may be hundreds of thousands to put.
        let expires_at = (entry.expires_at > 0).then(|| (entry.expires_at, key.clone()));
        let (mut counted, mut no_more_due) = (0, None);
        let change = match self.map.entry(key) {
            btree_map::Entry::Vacant(place) => place.insert(entry).change(),
            btree_map::Entry::Occupied(mut place) => {
                let old = place.get();
                entry.below = old.below;
                counted = old.change();
                if let Home::Blob { id, .. } = old.home {
                    replaced.blob = Some(id);
                }
                no_more_due = (old.expires_at > 0).then(|| (old.expires_at, place.key().clone()));
                let change = entry.change();
                place.insert(entry);
                change
            }
        };
        self.count(first, change - counted);
        if let Some(expires_at) = no_more_due {
            self.expires_at.remove(&expires_at);
        }
        self.expires_at.extend(expires_at);
        replaced
    }

    /// Says whether the database has a record under a key that is here.
    pub(super) fn learn(&mut self, key: &[u8], below: bool) {
        let Some(entry) = self.map.get_mut(key) else { return };
        let before = entry.change();
        entry.below = Some(below);
        let change = entry.change() - before;
        self.count(first_of(key), change);
    }

    /// The database now has what was here at `version`: drops it, unless a newer one came.
    pub(super) fn folded(&mut self, key: &[u8], version: u64, live: bool) {
        let Some(entry) = self.map.get(key) else { return };
        if entry.version > version {
            return self.learn(key, live);
        }
        let (change, expires_at) = (entry.change(), entry.expires_at);
        self.count(first_of(key), -change);
        if let Some((key, _)) = self.map.remove_entry(key)
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
    ) -> impl Iterator<Item = (&'o Bytes, &'o Entry)> + use<'o> {
        let some = start < end;
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let range = some.then(|| self.map.range::<[u8], _>(bounds));
        range.into_iter().flatten()
    }

    /// The entries after a key (or all), in order.
    pub(super) fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = (&Bytes, &Entry)> {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.map.range::<[u8], _>((start, Bound::Unbounded))
    }

    /// The entries whose keys begin with a byte, in order.
    pub(super) fn first(&self, first: u8) -> impl Iterator<Item = (&Bytes, &Entry)> {
        let start = [first];
        let from = self.map.range::<[u8], _>((Bound::Included(&start[..]), Bound::Unbounded));
        from.take_while(move |(key, _)| key.first() == Some(&first))
    }

    /// Those with `0 < due <= until`, the earliest first.
    pub(super) fn expired(&self, until: u64) -> impl Iterator<Item = (u64, &Bytes, u64)> {
        let found = self.expires_at.iter().take_while(move |(expires_at, _)| *expires_at <= until);
        found.filter_map(|(expires_at, key)| Some((*expires_at, key, self.map.get(key)?.version)))
    }
}

fn first_of(key: &[u8]) -> u8 {
    key.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: u64, live: bool, below: Option<bool>, expires_at: u64) -> Entry {
        let home = if live { Home::Empty } else { Home::Removed };
        Entry { version, expires_at, meta: Bytes::new(), home, place: None, below }
    }

    #[test]
    fn counts_follow_what_is_known_of_the_database() {
        let mut overlay = Overlay::default();
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        overlay.put(key("ka"), entry(1, true, Some(false), 0));
        assert_eq!(overlay.change(b'k'), 1);
        overlay.put(key("ka"), entry(2, false, None, 0));
        assert_eq!(overlay.change(b'k'), 0, "made and removed");
        overlay.put(key("kb"), entry(3, true, None, 0));
        assert_eq!(overlay.change(b'k'), 0, "unknown");
        overlay.learn(b"kb", false);
        assert_eq!(overlay.change(b'k'), 1);
        overlay.put(key("kb"), entry(4, false, None, 0));
        overlay.folded(b"kb", 3, true);
        assert_eq!(overlay.change(b'k'), -1, "the database has it, and it is removed here");
        overlay.folded(b"kb", 4, false);
        overlay.folded(b"ka", 2, false);
        assert_eq!((overlay.len(), overlay.change(b'k')), (0, 0));
    }

    #[test]
    fn due_entries_follow_their_records() {
        let mut overlay = Overlay::default();
        let key = Bytes::from_static(b"k");
        overlay.put(key.clone(), entry(1, true, None, 10));
        overlay.put(key.clone(), entry(2, true, None, 20));
        assert_eq!(overlay.expired(19).count(), 0);
        assert_eq!(
            overlay.expired(20).map(|(expires_at, _, version)| (expires_at, version)).next(),
            Some((20, 2))
        );
        overlay.put(key, entry(3, false, None, 0));
        assert_eq!(overlay.expired(u64::MAX).count(), 0);
    }
}
