//! Hidden ranges: key ranges without visible records. Scans learn them, so that later scans can
//! skip them.
//!
//! A deleted record remains in the database, hidden by a tombstone in the memtable, until the next
//! checkpoint; an expired record remains until it is purged. A scan that steps over a run of such
//! records learns its range, so that each hidden record is visited about once rather than once per
//! scan.

use super::super::{Scan, successor};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Minimum number of records in a run that is worth skipping.
pub(super) const RUN_RECORDS_MIN: usize = 16;
/// Maximum number of hidden records visited by one attempt at a scan, not counting short runs.
const HIDDEN_RECORDS_MAX: usize = 4096;
/// Maximum number of ranges. If there are more, all are dropped, and scans learn them again.
const RANGES_MAX: usize = 16 * 1024;
/// Maximum number of scans that learn at the same time.
const LEARNERS_MAX: usize = 8;
/// Maximum number of puts in the range of a learning scan.
const PUTS_MAX: usize = 16 * 1024;

/// Returns how many hidden records an attempt at a scan may visit while it finds `visible` records.
/// If there are more, at least one run among them is long enough to be worth skipping.
pub(super) fn hidden_records_max(visible: usize) -> usize {
    visible.saturating_mul(RUN_RECORDS_MIN).saturating_add(HIDDEN_RECORDS_MAX)
}

/// A key range without visible records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HiddenRange {
    pub(super) start: Bytes,
    /// The first key after the range.
    pub(super) end: Bytes,
    /// A time at which all expired records in the range had already expired; 0 if there are none.
    pub(super) expired_at: u64,
}

/// The hidden ranges of a memtable, which are disjoint and keyed by their start.
#[derive(Debug, Default)]
pub(super) struct HiddenRanges {
    ranges: BTreeMap<Bytes, StoredRange>,
    learners: Mutex<Vec<Weak<Learner>>>,
    /// Number of checkpoints since the engine was opened.
    checkpoints: u64,
}

#[derive(Debug)]
struct StoredRange {
    end: Bytes,
    expired_at: u64,
    /// The value of `checkpoints` when the range was last learned.
    learned: u64,
}

/// A scan that learns hidden ranges, and the puts made since it started.
#[derive(Debug)]
pub(super) struct Learner {
    start: Bytes,
    end: Bytes,
    /// Keys put in the range since the scan started; `None` if there were too many.
    puts: Mutex<Option<Vec<Bytes>>>,
}

impl HiddenRanges {
    /// Registers a scan that learns hidden ranges; `None` if there are too many. The caller must
    /// hold the memtable lock under which the scan reads its entries.
    pub(super) fn learner(&self, scan: &Scan) -> Option<Arc<Learner>> {
        let mut learners = self.learners.lock().unwrap_or_else(PoisonError::into_inner);
        learners.retain(|learner| learner.strong_count() > 0);
        if learners.len() >= LEARNERS_MAX {
            return None;
        }
        let (start, end) = (scan.start.clone(), scan.end.clone());
        let learner = Arc::new(Learner { start, end, puts: Mutex::new(Some(Vec::new())) });
        learners.push(Arc::downgrade(&learner));
        Some(learner)
    }

    /// Adds the runs that a scan passed, except for keys that were put since it started.
    pub(super) fn learn(&mut self, learner: &Learner, runs: Vec<HiddenRange>) {
        let mut puts = learner.puts.lock().unwrap_or_else(PoisonError::into_inner);
        // Later puts are no longer recorded, so the learner must not be used again.
        let Some(puts) = puts.take() else { return };
        if self.ranges.len() + runs.len() + puts.len() > RANGES_MAX {
            self.ranges.clear();
        }
        runs.into_iter().for_each(|run| self.insert(run));
        puts.iter().for_each(|key| self.split(key));
    }

    /// Inserts a range, and merges it with the ranges that it overlaps or touches.
    fn insert(&mut self, mut range: HiddenRange) {
        let before = (Bound::Unbounded, Bound::Included(&range.end[..]));
        let before = self.ranges.range::<[u8], _>(before).rev();
        let overlapping: Vec<Bytes> = before
            .take_while(|(_, other)| other.end >= range.start)
            .map(|(start, _)| start.clone())
            .collect();
        for start in overlapping {
            let Some(other) = self.ranges.remove(&start) else { continue };
            range.start = range.start.min(start);
            range.end = range.end.max(other.end);
            range.expired_at = range.expired_at.max(other.expired_at);
        }
        let HiddenRange { start, end, expired_at } = range;
        self.ranges.insert(start, StoredRange { end, expired_at, learned: self.checkpoints });
    }

    /// Removes a newly put key from the hidden ranges.
    pub(super) fn put(&mut self, key: &Bytes) {
        let learners = self.learners.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !learners.is_empty() {
            learners.retain(|learner| {
                let learner = learner.upgrade();
                learner.as_ref().is_some_and(|learner| learner.record_put(key))
            });
        }
        if !self.ranges.is_empty() {
            self.split(key);
        }
    }

    fn split(&mut self, key: &[u8]) {
        let before = (Bound::Unbounded, Bound::Included(key));
        let Some((start, range)) = self.ranges.range_mut::<[u8], _>(before).next_back() else {
            return;
        };
        if range.end[..] <= *key {
            return;
        }
        let (start, expired_at, learned) = (start.clone(), range.expired_at, range.learned);
        let end = std::mem::replace(&mut range.end, Bytes::copy_from_slice(key));
        if start[..] == *key {
            self.ranges.remove(&start);
        }
        let next = successor(key);
        if next < end && self.ranges.len() < RANGES_MAX {
            self.ranges.insert(next, StoredRange { end, expired_at, learned });
        }
    }

    /// Returns the first hidden range that a scan can skip and that ends after `from`.
    pub(super) fn next(&self, scan: &Scan, from: &[u8]) -> Option<HiddenRange> {
        if self.ranges.is_empty() {
            return None;
        }
        let applies = |range: &StoredRange| range.expired_at <= scan.skip_expired_at;
        let before = (Bound::Unbounded, Bound::Included(from));
        let around = self.ranges.range::<[u8], _>(before).next_back();
        let around = around.filter(|(_, range)| range.end[..] > *from && applies(range));
        let within = || {
            let within = (Bound::Excluded(from), Bound::Excluded(&scan.end[..]));
            let within = (from < &scan.end[..]).then(|| self.ranges.range::<[u8], _>(within));
            within.into_iter().flatten().find(|(_, range)| applies(range))
        };
        let (start, range) = around.or_else(within)?;
        let (start, end, expired_at) = (start.clone(), range.end.clone(), range.expired_at);
        Some(HiddenRange { start, end, expired_at })
    }

    /// Drops the ranges that were not learned since the previous checkpoint. Their tombstones have
    /// been removed, and so have the records that the tombstones hid.
    pub(super) fn end_checkpoint(&mut self) {
        self.ranges.retain(|_, range| range.learned >= self.checkpoints);
        self.checkpoints += 1;
    }
}

impl Learner {
    /// Records a put; returns whether the scan can still learn.
    fn record_put(&self, key: &Bytes) -> bool {
        if *key < self.start || *key >= self.end {
            return true;
        }
        let mut puts = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = puts.as_ref().is_none_or(|puts| puts.len() >= PUTS_MAX);
        if is_full {
            *puts = None;
        }
        puts.as_mut().map(|puts| puts.push(key.clone())).is_some()
    }
}

/// Collects the runs of hidden records that a scan passes, in key order.
#[derive(Debug, Default)]
pub(super) struct RunCollector {
    runs: Vec<HiddenRange>,
    start: Vec<u8>,
    last: Vec<u8>,
    /// Number of hidden records in the current run, and the end of the known range at the end of
    /// the run.
    records: usize,
    known_end: Option<Bytes>,
    expired_at: u64,
}

impl RunCollector {
    /// Adds a hidden record. `expired_at` is 0 if the record was deleted.
    pub(super) fn add(&mut self, key: &[u8], expired_at: u64) {
        if self.records == 0 {
            replace(&mut self.start, key);
        }
        self.records += 1;
        self.known_end = None;
        replace(&mut self.last, key);
        self.expired_at = self.expired_at.max(expired_at);
    }

    /// Adds a hidden range that the scan skipped.
    pub(super) fn add_range(&mut self, range: &HiddenRange) {
        if self.records == 0 {
            replace(&mut self.start, &range.start);
        }
        self.records += RUN_RECORDS_MIN;
        self.known_end = Some(range.end.clone());
        self.expired_at = self.expired_at.max(range.expired_at);
    }

    /// Ends the current run at a visible record.
    pub(super) fn end_run(&mut self) {
        if self.records >= RUN_RECORDS_MIN {
            let start = Bytes::copy_from_slice(&self.start);
            let end = self.known_end.take().unwrap_or_else(|| successor(&self.last));
            self.runs.push(HiddenRange { start, end, expired_at: self.expired_at });
        }
        (self.records, self.known_end, self.expired_at) = (0, None, 0);
    }

    /// Returns the runs.
    pub(super) fn finish(mut self) -> Vec<HiddenRange> {
        self.end_run();
        self.runs
    }
}

fn replace(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn range(start: &str, end: &str, expired_at: u64) -> HiddenRange {
        HiddenRange { start: key(start), end: key(end), expired_at }
    }

    fn scan(start: &str, end: &str, skip_expired_at: u64) -> Scan {
        Scan { start: key(start), end: key(end), limit: 1, skip_expired_at, eventual: false }
    }

    fn learn(ranges: &mut HiddenRanges, runs: &[HiddenRange]) {
        let learner = ranges.learner(&scan("a", "z", 0)).unwrap();
        ranges.learn(&learner, runs.to_vec());
    }

    /// Returns all ranges that a scan skips.
    fn skipped(ranges: &HiddenRanges, scan: &Scan) -> Vec<HiddenRange> {
        let (mut from, mut all) = (scan.start.clone(), Vec::new());
        while let Some(range) = ranges.next(scan, &from) {
            from = range.end.clone();
            all.push(range);
        }
        all
    }

    #[test]
    fn overlapping_ranges_are_merged() {
        let mut ranges = HiddenRanges::default();
        learn(&mut ranges, &[range("c", "e", 0), range("g", "i", 5)]);
        assert_eq!(skipped(&ranges, &scan("a", "z", 9)), [range("c", "e", 0), range("g", "i", 5)]);
        assert_eq!(skipped(&ranges, &scan("d", "h", 4)), [range("c", "e", 0)]);
        learn(&mut ranges, &[range("e", "g", 0)]);
        assert_eq!(skipped(&ranges, &scan("a", "z", 5)), [range("c", "i", 5)]);
        assert_eq!(skipped(&ranges, &scan("i", "z", 5)), []);
    }

    #[test]
    fn a_put_splits_the_range_around_its_key() {
        let mut ranges = HiddenRanges::default();
        learn(&mut ranges, &[range("c", "i", 0)]);
        ranges.put(&key("e"));
        let all = scan("a", "z", 0);
        assert_eq!(skipped(&ranges, &all), [range("c", "e", 0), range("e\0", "i", 0)]);
        ranges.put(&key("c"));
        ranges.put(&key("i"));
        assert_eq!(skipped(&ranges, &all), [range("c\0", "e", 0), range("e\0", "i", 0)]);
    }

    #[test]
    fn keys_put_during_a_scan_are_not_hidden() {
        let mut ranges = HiddenRanges::default();
        let learner = ranges.learner(&scan("a", "z", 0)).unwrap();
        ranges.put(&key("e"));
        ranges.learn(&learner, vec![range("c", "i", 0)]);
        let all = scan("a", "z", 0);
        assert_eq!(skipped(&ranges, &all), [range("c", "e", 0), range("e\0", "i", 0)]);
        let learner = ranges.learner(&scan("a", "z", 0)).unwrap();
        (0..=PUTS_MAX).for_each(|_| ranges.put(&key("x")));
        ranges.learn(&learner, vec![range("k", "m", 0)]);
        assert_eq!(skipped(&ranges, &scan("k", "z", 0)), [], "too many puts");
    }

    #[test]
    fn ranges_are_dropped_at_the_second_checkpoint_after_they_were_learned() {
        let mut ranges = HiddenRanges::default();
        learn(&mut ranges, &[range("c", "e", 0)]);
        ranges.end_checkpoint();
        assert_eq!(skipped(&ranges, &scan("a", "z", 0)).len(), 1);
        ranges.end_checkpoint();
        assert_eq!(skipped(&ranges, &scan("a", "z", 0)), []);
    }

    #[test]
    fn runs_end_at_visible_records_and_include_known_ranges() {
        let mut runs = RunCollector::default();
        (0..RUN_RECORDS_MIN - 1).for_each(|_| runs.add(b"a", 0));
        runs.end_run();
        runs.add_range(&range("b", "d", 3));
        runs.add(b"e", 0);
        runs.end_run();
        runs.add(b"g", 7);
        runs.add_range(&range("h", "k", 0));
        assert_eq!(runs.finish(), [range("b", "e\0", 3), range("g", "k", 7)]);
    }
}
