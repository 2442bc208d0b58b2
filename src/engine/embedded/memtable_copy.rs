//! Copies the memtable for a snapshot in small steps, so that commits never wait for the whole
//! copy.
//!
//! From the beginning of a copy, the memtable retains the previous entry of each key that changes.
//! At the end, these entries replace those that were copied after the change.

use super::Shared;
use super::memtable::{Memtable, MemtableEntry, MemtableKey};
use std::collections::BTreeMap;

/// Number of entries copied while the memtable is locked.
const STEP_ENTRIES: usize = 1024;

/// The previous entries of the keys that changed during a copy; `None` if a key had no entry.
pub(super) type PreviousEntries = BTreeMap<MemtableKey, Option<MemtableEntry>>;

/// A copy in progress of the entries that the memtable had when it began.
#[derive(Default)]
pub(super) struct MemtableCopy {
    entries: Vec<(MemtableKey, MemtableEntry)>,
}

impl MemtableCopy {
    /// Begins a copy. The memtable must have no other copy in progress.
    pub(super) fn begin(memtable: &mut Memtable) -> MemtableCopy {
        memtable.retain_previous();
        MemtableCopy::default()
    }

    /// Copies the remaining entries in steps and ends the copy.
    pub(super) fn finish(mut self, shared: &Shared) -> BTreeMap<MemtableKey, MemtableEntry> {
        while self.step(&shared.memtable(), STEP_ENTRIES) {}
        let previous = shared.memtable_mut().take_previous();
        self.restore(previous)
    }

    /// Copies the next entries. Returns whether others may remain.
    fn step(&mut self, memtable: &Memtable, count: usize) -> bool {
        let after = self.entries.last().map(|(key, _)| key.clone());
        let next = memtable.after(after.as_deref()).take(count);
        let before = self.entries.len();
        self.entries.extend(next.map(|(key, entry)| (MemtableKey::from_slice(key), entry.clone())));
        self.entries.len() - before == count
    }

    /// Replaces entries that were copied after they had changed.
    fn restore(self, previous: PreviousEntries) -> BTreeMap<MemtableKey, MemtableEntry> {
        let mut entries: BTreeMap<_, _> = self.entries.into_iter().collect();
        for (key, entry) in previous {
            match entry {
                Some(entry) => entries.insert(key, entry),
                None => entries.remove(&key),
            };
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::super::wal::record::BodyLocation;
    use super::*;
    use bytes::Bytes;

    fn entry(version: u64) -> MemtableEntry {
        let (location, body_at, in_db) = (BodyLocation::Empty, None, None);
        MemtableEntry { version, expires_at: 0, meta: Bytes::new(), location, body_at, in_db }
    }

    #[test]
    fn a_copy_has_the_entries_of_its_beginning_although_commits_and_checkpoints_continue() {
        let mut random = 11_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
            (random >> 33) % below
        };
        let key = |number: u64| Bytes::from(format!("k{number:02}"));
        for round in 0..300 {
            let mut memtable = Memtable::default();
            for version in 1..=next(60) {
                memtable.put(key(next(40)), entry(version));
            }
            let versions = |key: &[u8], entry: &MemtableEntry| (key.to_vec(), entry.version);
            let expected: Vec<_> = memtable.after(None).map(|(k, e)| versions(k, e)).collect();
            let mut copy = MemtableCopy::begin(&mut memtable);
            let mut version = 100;
            while copy.step(&memtable, 5) {
                for _ in 0..next(12) {
                    let key = key(next(40));
                    version += 1;
                    match memtable.get(&key).cloned() {
                        Some(current) if next(2) == 0 => {
                            memtable.remove_checkpointed(&key, &current)
                        }
                        Some(_) | None => drop(memtable.put(key, entry(version))),
                    }
                }
            }
            let copied = copy.restore(memtable.take_previous());
            let copied: Vec<_> = copied.iter().map(|(k, e)| versions(k, e)).collect();
            assert_eq!(copied, expected, "round {round}");
            assert!(memtable.take_previous().is_empty(), "changes are retained after the copy");
        }
    }
}
