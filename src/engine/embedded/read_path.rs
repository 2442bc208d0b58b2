//! The read path: merges the memtable and the database, and reads or opens the bodies in WAL
//! segments and blob files.

use super::super::{
    Body, EngineError, Projection, Record, Result, Scan, ScanPage, ScannedRecord, successor,
};
use super::Shared;
use super::blob_files::BlobFiles;
use super::caller::{CHECK_RECORDS, CallerHandle};
use super::connection_pool::{ConnectionPool, ScanStep};
use super::database::BodyRef;
use super::hidden_ranges::{HiddenRange, RUN_RECORDS_MIN, RunCollector, hidden_records_max};
use super::memtable::{Memtable, MemtableEntry};
use super::segment_body::{READ_WITH_RECORD_MAX, open_body};
use super::wal::record::BodyLocation;
use super::wal::recovery;
use bytes::Bytes;
use std::iter::Peekable;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard};
use std::vec::IntoIter;

/// Limits of one step of a count, which blocks memtable writes or checkpoints: the number of
/// memtable entries visited, and the number of those looked up in the database.
const COUNT_STEP: (usize, usize) = (4096, 512);

/// Maximum number of attempts at a scan that stop after too many hidden records. Each attempt skips
/// the hidden ranges of earlier ones, so the limit is reached only if puts keep splitting the
/// ranges.
const SCAN_ATTEMPTS_MAX: usize = 1000;

/// The components of reads that miss the read cache.
pub(super) struct ReadPath {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) blobs: Arc<BlobFiles>,
}

impl ReadPath {
    /// Returns the newest record of a key.
    pub(super) fn find(&self, key: &[u8], projection: Projection) -> Result<Option<Record>> {
        // A blob file is deleted when its record is replaced, and a segment is recycled after all
        // records with bodies in it were replaced or relocated. If that happens after the record
        // was read, the record is read again. The second read then finds a different reference. If
        // it finds the same reference and the file is still missing, the data is damaged.
        let mut missing = None;
        loop {
            let in_memtable = self.shared.memtable().get(key).cloned();
            let found = match in_memtable {
                Some(entry) => resolve(entry, projection)?,
                None => self.pool.read(key, projection)?,
            };
            let Some((mut record, body)) = found else { return Ok(None) };
            let is_complete = matches!(body, BodyRef::Empty | BodyRef::Row(_));
            if is_complete || projection == Projection::Meta {
                return Ok(Some(record));
            }
            if let Some(body) = self.load_body(&record, body)? {
                record.body = body;
                return Ok(Some(record));
            }
            if missing == Some(body) {
                return Err(missing_body(body));
            }
            missing = Some(body);
        }
    }

    /// Returns a body in a blob file or a segment; `None` if the file or the segment no longer
    /// exists.
    fn load_body(&self, record: &Record, body: BodyRef) -> Result<Option<Body>> {
        match body {
            BodyRef::Empty | BodyRef::Row(_) => Ok(None),
            BodyRef::Blob(id) => Ok(self.blobs.find(id)?.map(|blob| Body::Stored(Arc::new(blob)))),
            BodyRef::Segment(location) => {
                let segment = self.shared.segments.find(location.seq);
                let Some(segment) = segment else { return Ok(None) };
                let body = open_body(&self.blobs, segment, location, record.version)?;
                Ok(Some(body))
            }
        }
    }

    /// Scans until a page is complete or the caller stops waiting.
    pub(super) fn scan(&self, scan: &Scan, caller: &CallerHandle) -> Result<ScanPage> {
        let attempt = |attempt| {
            caller.ensure_waiting()?;
            self.try_scan(scan, attempt, self.shared.checkpoint_lock(), Some(caller))
        };
        for number in 1..SCAN_ATTEMPTS_MAX {
            if let Some(page) = attempt(ScanAttempt::bounded(number, scan))? {
                return Ok(page);
            }
        }
        let page = attempt(ScanAttempt { learns: true, hidden_max: None })?;
        page.ok_or_else(|| EngineError::Failed("an unbounded scan was interrupted".into()))
    }

    /// Returns a page merged from the memtable and the database; `None` if too many hidden records
    /// came first, which a later attempt skips. Releases `guard` once the state of the memtable and
    /// of the database is pinned. Fails once `caller` has stopped waiting.
    pub(super) fn try_scan(
        &self,
        scan: &Scan,
        attempt: ScanAttempt,
        guard: RwLockReadGuard<'_, ()>,
        caller: Option<&CallerHandle>,
    ) -> Result<Option<ScanPage>> {
        let conn = self.pool.acquire()?;
        let (in_memtable, learner) = {
            let memtable = self.shared.memtable();
            let in_memtable = MemtableScan::new(&memtable, scan, attempt.hidden_max);
            let learns = attempt.learns || in_memtable.hidden >= RUN_RECORDS_MIN;
            let learner = learns.then(|| memtable.hidden().learner(scan));
            (in_memtable, learner.flatten())
        };
        drop(guard);
        let (visited, end) = (in_memtable.entries.len(), in_memtable.end.clone());
        let mut merge = ScanMerge::new(scan, in_memtable, attempt.hidden_max.is_some());
        self.pool.scan(conn, (&scan.start, &end), |record| {
            let is_due = merge.visited.is_multiple_of(CHECK_RECORDS);
            if is_due && caller.is_some_and(CallerHandle::is_gone) {
                return ScanStep::Stop;
            }
            merge.visit(record)
        })?;
        let visited = (visited + merge.visited) as u64;
        self.shared.counters.scanned.fetch_add(visited, Ordering::Relaxed);
        // A scan that stopped early must not learn ranges that it did not visit.
        caller.map_or(Ok(()), CallerHandle::ensure_waiting)?;
        let (page, runs) = merge.finish();
        if let Some(learner) = learner
            && !runs.is_empty()
        {
            self.shared.memtable_mut().hidden_mut().learn(&learner, runs);
        }
        Ok(page)
    }

    pub(super) fn expired(&self, until: u64, limit: usize) -> Result<Vec<(Bytes, u64)>> {
        let _guard = self.shared.checkpoint_lock();
        let mut from = self.shared.expiry_position().clone();
        let (mut expired, mut visited) = (Vec::new(), 0_u64);
        // Records before the first one without an entry in the memtable are skipped next time.
        let mut passed = None;
        self.pool.expired(&from, until, |expires_at, key, version| {
            visited += 1;
            if self.shared.memtable().get(key).is_none() {
                expired.push((expires_at, Bytes::copy_from_slice(key), version));
            } else if expired.is_empty() {
                let (at, last) = passed.get_or_insert((0, Vec::new()));
                *at = expires_at;
                last.clear();
                last.extend_from_slice(key);
            }
            expired.len() < limit
        })?;
        self.shared.counters.scanned.fetch_add(visited, Ordering::Relaxed);
        if let Some((expires_at, last)) = passed {
            // Only the checkpointer moves the position back, and never while this lock is held.
            from = (expires_at, successor(&last));
            let mut position = self.shared.expiry_position();
            *position = from.max(position.clone());
        }
        {
            let memtable = self.shared.memtable();
            let in_memtable = memtable.expired(until).take(limit);
            expired.extend(in_memtable.map(|(at, key, version)| (at, key.clone(), version)));
        }
        Ok(first_expired(expired, limit))
    }

    /// Counts the records whose keys start with `first`.
    pub(super) fn count(&self, first: u8, caller: &CallerHandle) -> Result<u64> {
        let mut after = None;
        loop {
            caller.ensure_waiting()?;
            let _guard = self.shared.checkpoint_lock();
            let memtable = self.shared.memtable();
            let (unknown, last) = memtable.unknown_in_db(first, after.as_deref(), COUNT_STEP);
            drop(memtable);
            if !unknown.is_empty() {
                let in_db = self.pool.contains(&unknown)?;
                let mut memtable = self.shared.memtable_mut();
                unknown.iter().zip(in_db).for_each(|(key, in_db)| memtable.set_in_db(key, in_db));
            }
            if last.is_none() {
                let in_db = self.shared.record_counts.get(usize::from(first));
                let in_db = in_db.map_or(0, |count| count.load(Ordering::Relaxed));
                let count = in_db.saturating_add(self.shared.memtable().count_delta(first));
                return Ok(u64::try_from(count).unwrap_or(0));
            }
            after = last;
        }
    }
}

/// Returns the keys and versions of the records that expired first. `expired` contains expiry
/// times, keys and versions. A record whose body was relocated after the database was read is in it
/// twice.
fn first_expired(mut expired: Vec<(u64, Bytes, u64)>, limit: usize) -> Vec<(Bytes, u64)> {
    expired.sort_unstable();
    expired.dedup();
    expired.truncate(limit);
    expired.into_iter().map(|(_, key, version)| (key, version)).collect()
}

/// Returns the error for a body whose blob file or segment does not exist.
pub(super) fn missing_body(body: BodyRef) -> EngineError {
    EngineError::Corrupt(match body {
        BodyRef::Blob(id) => format!("blob file {id:016x} is missing"),
        BodyRef::Segment(location) => format!("WAL segment {} is missing", location.seq),
        BodyRef::Empty | BodyRef::Row(_) => "a body is missing".into(),
    })
}

/// Returns the record of an entry, and the reference to its body if the body is too large to be
/// read with the record. Returns `None` for a deletion.
pub(super) fn resolve(entry: MemtableEntry, part: Projection) -> Result<Option<(Record, BodyRef)>> {
    let body_ref = entry.body_ref();
    let MemtableEntry { version, expires_at, meta, location, body_at, .. } = entry;
    let (body, body_ref) = match (location, body_at) {
        (BodyLocation::Removed, _) => return Ok(None),
        (BodyLocation::Blob { .. }, _) => (Body::EMPTY, body_ref),
        (BodyLocation::Inline { len, .. }, _) if len > READ_WITH_RECORD_MAX => {
            (Body::EMPTY, body_ref)
        }
        (BodyLocation::Inline { len, checksum, .. }, Some((segment, at)))
            if part == Projection::Full =>
        {
            let body = recovery::read_body(&segment, at, len, version, checksum)?;
            (Body::Bytes(body), BodyRef::Empty)
        }
        (BodyLocation::Empty | BodyLocation::Inline { .. }, _) => (Body::EMPTY, BodyRef::Empty),
    };
    Ok(Some((Record { version, expires_at, meta, body }, body_ref)))
}

/// How to attempt a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanAttempt {
    /// Whether to learn hidden ranges even if the memtable hides few records.
    learns: bool,
    /// Number of hidden memtable entries after which the attempt stops.
    hidden_max: Option<usize>,
}

impl ScanAttempt {
    /// Returns attempt `number` of a scan, counted from 0. The first attempts have low limits, as
    /// the memtable stays locked while its entries are read, and the page is usually full before a
    /// limit is reached.
    pub(super) fn bounded(number: usize, scan: &Scan) -> ScanAttempt {
        const HIDDEN_FIRST: usize = 128;
        let max = hidden_records_max(scan.limit);
        let first = scan.limit.saturating_mul(2).saturating_add(HIDDEN_FIRST);
        let hidden_max = match number {
            0 => first,
            1 => first.saturating_mul(8),
            _ => max,
        };
        ScanAttempt { learns: number > 0, hidden_max: Some(hidden_max.min(max)) }
    }
}

/// The memtable's part of a scan.
struct MemtableScan {
    /// Entries, up to the scan's limit of visible entries.
    entries: Vec<(Bytes, ScannedEntry)>,
    /// Hidden ranges that the scan skips.
    skipped: Vec<HiddenRange>,
    /// Number of entries that are not visible.
    hidden: usize,
    /// The end of the scan, or of the part that precedes too many hidden records.
    end: Bytes,
    is_interrupted: bool,
}

/// An entry of the memtable as a scan sees it.
enum ScannedEntry {
    Visible(MemtableEntry),
    /// Hides a record of the database.
    Expired,
    Tombstone,
}

impl MemtableScan {
    fn new(memtable: &Memtable, scan: &Scan, hidden_max: Option<usize>) -> MemtableScan {
        let (entries, skipped, end) = (Vec::new(), Vec::new(), scan.end.clone());
        let mut read = MemtableScan { entries, skipped, hidden: 0, end, is_interrupted: false };
        let mut from = scan.start.clone();
        loop {
            let skip = memtable.hidden().next(scan, &from);
            let end = skip.as_ref().map_or(&scan.end, |skip| &skip.start);
            if !read.add_range(memtable, scan, (&from, end), hidden_max) {
                return read;
            }
            let Some(skip) = skip else { return read };
            from = skip.end.clone();
            read.skipped.push(skip);
        }
    }

    /// Adds the entries of a range; returns whether the scan continues after it.
    fn add_range(
        &mut self,
        memtable: &Memtable,
        scan: &Scan,
        (start, end): (&Bytes, &Bytes),
        hidden_max: Option<usize>,
    ) -> bool {
        for (key, entry) in memtable.range(start, end) {
            if self.visible() == scan.limit {
                return false;
            }
            if hidden_max.is_some_and(|max| self.hidden > max) {
                self.end = Bytes::copy_from_slice(key);
                self.is_interrupted = true;
                return false;
            }
            let entry = match entry.is_live() {
                true if has_expired(entry.expires_at, scan) => ScannedEntry::Expired,
                true => ScannedEntry::Visible(entry.clone()),
                false => ScannedEntry::Tombstone,
            };
            self.hidden += usize::from(!matches!(entry, ScannedEntry::Visible(_)));
            self.entries.push((Bytes::copy_from_slice(key), entry));
        }
        self.visible() < scan.limit
    }

    fn visible(&self) -> usize {
        self.entries.len() - self.hidden
    }
}

/// Merges the memtable's part of a scan with the records of the database.
struct ScanMerge<'s> {
    scan: &'s Scan,
    entries: Peekable<IntoIter<(Bytes, ScannedEntry)>>,
    skipped: Peekable<IntoIter<HiddenRange>>,
    is_bounded: bool,
    /// Whether the memtable's part, and the database's, stopped at too many hidden records.
    memtable_interrupted: bool,
    db_interrupted: bool,
    page: ScanPage,
    runs: RunCollector,
    /// Number of database records visited, and number of those that are not visible.
    visited: usize,
    hidden: usize,
}

impl<'s> ScanMerge<'s> {
    fn new(scan: &'s Scan, read: MemtableScan, is_bounded: bool) -> ScanMerge<'s> {
        ScanMerge {
            scan,
            entries: read.entries.into_iter().peekable(),
            skipped: read.skipped.into_iter().peekable(),
            is_bounded,
            memtable_interrupted: read.is_interrupted,
            db_interrupted: false,
            page: ScanPage::with_capacity(scan.limit),
            runs: RunCollector::default(),
            visited: 0,
            hidden: 0,
        }
    }

    /// Adds the next record of the database.
    fn visit(&mut self, record: ScannedRecord<'_>) -> ScanStep {
        self.visited += 1;
        while let Some(skip) = self.skipped.next_if(|skip| skip.start[..] <= *record.key) {
            self.add_skipped(&skip);
            if self.is_full() {
                return ScanStep::Stop;
            }
            if *record.key < skip.end[..] {
                return ScanStep::Seek(skip.end);
            }
        }
        self.add_entries_before(record.key);
        if self.is_full() {
            return ScanStep::Stop;
        }
        match self.entries.next_if(|(key, _)| key[..] == *record.key) {
            Some((key, entry)) => {
                self.hidden += usize::from(!matches!(entry, ScannedEntry::Visible(_)));
                self.add_entry(&key, &entry);
            }
            None if has_expired(record.expires_at, self.scan) => {
                self.hidden += 1;
                self.runs.add(record.key, self.scan.skip_expired_at);
            }
            None => {
                self.runs.end_run();
                self.page.push(record);
            }
        }
        let hidden_max = hidden_records_max(self.page.len());
        self.db_interrupted = self.is_bounded && self.hidden > hidden_max && !self.is_full();
        if self.is_full() || self.db_interrupted { ScanStep::Stop } else { ScanStep::Next }
    }

    /// Adds the entries after the last record of the database. Returns the page, if it is complete,
    /// and the runs of hidden records.
    fn finish(mut self) -> (Option<ScanPage>, Vec<HiddenRange>) {
        if !self.db_interrupted {
            while let Some(skip) = self.skipped.next() {
                self.add_skipped(&skip);
            }
            while let Some((key, entry)) = self.entries.next() {
                self.add_entry(&key, &entry);
            }
        }
        let is_complete = !self.memtable_interrupted && !self.db_interrupted || self.is_full();
        (is_complete.then_some(self.page), self.runs.finish())
    }

    fn is_full(&self) -> bool {
        self.page.len() >= self.scan.limit
    }

    fn add_skipped(&mut self, skip: &HiddenRange) {
        self.add_entries_before(&skip.start);
        if !self.is_full() {
            self.runs.add_range(skip);
        }
    }

    fn add_entries_before(&mut self, end: &[u8]) {
        while let Some((key, entry)) = self.entries.next_if(|(key, _)| key[..] < *end) {
            self.add_entry(&key, &entry);
        }
    }

    fn add_entry(&mut self, key: &[u8], entry: &ScannedEntry) {
        // A run must not extend over visible records after the page.
        if self.is_full() {
            return;
        }
        match entry {
            ScannedEntry::Tombstone => self.runs.add(key, 0),
            ScannedEntry::Expired => self.runs.add(key, self.scan.skip_expired_at),
            ScannedEntry::Visible(MemtableEntry { version, expires_at, meta, .. }) => {
                self.runs.end_run();
                let (version, expires_at) = (*version, *expires_at);
                self.page.push(ScannedRecord { key, version, expires_at, meta });
            }
        }
    }
}

fn has_expired(expires_at: u64, scan: &Scan) -> bool {
    expires_at > 0 && expires_at <= scan.skip_expired_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_found_in_the_database_and_relocated_expires_once() {
        let record =
            |at, key: &'static str, version| (at, Bytes::from_static(key.as_bytes()), version);
        let in_db = [record(1, "a", 7), record(2, "b", 8), record(3, "c", 9)];
        let relocated = [record(1, "a", 7), record(3, "c", 9)];
        let new = [record(2, "aa", 10)];
        let expired = || in_db.iter().chain(&relocated).chain(&new).cloned().collect();
        let key = |key: &'static str| Bytes::from_static(key.as_bytes());
        let expected = [(key("a"), 7), (key("aa"), 10), (key("b"), 8), (key("c"), 9)];
        assert_eq!(first_expired(expired(), 10), expected);
        assert_eq!(first_expired(expired(), 3), expected[..3]);
    }
}
