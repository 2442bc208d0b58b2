//! Builds the memtable from the entries of the WAL. There may be millions of them, and inserting
//! them one by one would take seconds. The entries of each segment are therefore sorted first, on
//! several threads, and then merged in key order.

use super::memtable::{MemtableEntry, MemtableKey, tree_key};
use super::parallel;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::vec::IntoIter;

type OwnedEntry = (MemtableKey, MemtableEntry);

/// Returns the newest entry of each key, in key order. Each element of `segments` has the entries
/// of a segment in commit order, the oldest segment first.
pub(super) fn newest_entries(segments: Vec<Vec<(Bytes, MemtableEntry)>>) -> Vec<OwnedEntry> {
    let common = common_prefix(segments.iter().flatten().map(|(key, _)| &key[..]));
    let runs = parallel::map(segments, |entries| sort_segment(entries, common));
    let mut merged = Vec::with_capacity(runs.iter().map(Vec::len).max().unwrap_or(0));
    let runs = runs.into_iter().enumerate();
    let mut heads: BinaryHeap<Box<Run>> =
        runs.filter_map(|(number, entries)| Run::new(number, entries, common)).collect();
    while let Some(mut run) = heads.peek_mut() {
        let (key, entry) = match run.rest.next() {
            Some(next) => {
                run.prefix = sort_prefix(&next.0, common);
                std::mem::replace(&mut run.head, next)
            }
            None => PeekMut::pop(run).head,
        };
        // The newest entry of each key comes first.
        if merged.last().is_none_or(|(last, _)| *last != key) {
            merged.push((key, entry));
        }
    }
    merged
}

/// The entries of a segment in key order, one for each key.
struct Run {
    /// The prefix of the key of `head`; see [`sort_prefix`].
    prefix: u128,
    /// Position of the segment in the WAL.
    number: usize,
    head: OwnedEntry,
    rest: IntoIter<OwnedEntry>,
}

impl Run {
    fn new(number: usize, entries: Vec<OwnedEntry>, common: usize) -> Option<Box<Run>> {
        let mut rest = entries.into_iter();
        let head = rest.next()?;
        Some(Box::new(Run { prefix: sort_prefix(&head.0, common), number, head, rest }))
    }
}

/// The greatest run has the smallest key, and among those with equal keys, it is the newest.
impl Ord for Run {
    fn cmp(&self, other: &Run) -> Ordering {
        let by_prefix = other.prefix.cmp(&self.prefix);
        let by_key = by_prefix.then_with(|| other.head.0.cmp(&self.head.0));
        by_key.then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Run) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Run) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Run {}

/// Returns the newest entry of each key of a segment, in key order.
fn sort_segment(entries: Vec<(Bytes, MemtableEntry)>, common: usize) -> Vec<OwnedEntry> {
    let key = |number: usize| entries.get(number).map_or(&b""[..], |(key, _)| &key[..]);
    let mut order: Vec<(u128, usize)> =
        (0..entries.len()).map(|number| (sort_prefix(key(number), common), number)).collect();
    order.sort_unstable_by(|(prefix, number), (other_prefix, other)| {
        let by_key = prefix.cmp(other_prefix).then_with(|| key(*number).cmp(key(*other)));
        by_key.then(number.cmp(other))
    });
    // The last entry of each key is the newest.
    order.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0 && key(next.1) == key(kept.1);
        if is_same {
            *kept = *next;
        }
        is_same
    });
    let mut entries: Vec<_> = entries.into_iter().map(Some).collect();
    let newest = order.iter().filter_map(|(_, number)| entries.get_mut(*number)?.take());
    newest.map(|(key, entry)| (tree_key(&key), entry)).collect()
}

/// Returns the length of the longest common prefix of the keys, in bytes.
fn common_prefix<'k>(mut keys: impl Iterator<Item = &'k [u8]>) -> usize {
    let Some(first) = keys.next() else { return 0 };
    keys.fold(first.len(), |len, key| {
        let equal = first.iter().zip(key).take(len).take_while(|(a, b)| a == b);
        equal.count()
    })
}

/// Returns the 16 bytes of a key after the first `skip` bytes, padded with zeros, as a number. If
/// the numbers of two keys with the same first `skip` bytes differ, the keys sort in the
/// order of their numbers.
fn sort_prefix(key: &[u8], skip: usize) -> u128 {
    let mut prefix = [0; 16];
    prefix.iter_mut().zip(key.iter().skip(skip)).for_each(|(to, byte)| *to = *byte);
    u128::from_be_bytes(prefix)
}
