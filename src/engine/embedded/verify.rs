//! Read-only, offline verification of a data directory: checks every checksum, and that the
//! database, the WAL and the blob files agree.

use super::super::Result;
use super::blob_files::BlobFiles;
use super::data_dir::DataDir;
use super::database::{
    self, BLOB_BYTES_COUNTER, BodyRef, RecordRow, SegmentLocation, SegmentRow, body_checksum,
};
use super::memtable::{Memtable, MemtableEntry};
use super::wal::record::{BodyLocation, entry_bytes};
use super::wal::recovery::{self, RecoveryMode, SealedSegments};
use super::wal::segment::{Segment, SegmentPool};
use super::{FatalErrorHandler, writer};
use crate::engine::{EngineError, StoredBody};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Maximum number of problems listed; further ones are only counted.
const PROBLEMS_LISTED_MAX: usize = 1000;

/// The newest record of a key.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedRecord<'r> {
    /// The record's key.
    pub key: &'r [u8],
    /// See [`Record::version`](crate::engine::Record::version).
    pub version: u64,
    /// See [`Record::expires_at`](crate::engine::Record::expires_at).
    pub expires_at: u64,
    /// See [`Record::meta`](crate::engine::Record::meta).
    pub meta: &'r [u8],
    /// Size of the record's body, in bytes.
    pub body_len: u64,
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Number of records.
    pub records: u64,
    /// Total size of the records' bodies, in bytes.
    pub body_bytes: u64,
    /// Number of WAL entries that are not yet in the database.
    pub wal_entries: u64,
    /// Number of blob files that records refer to.
    pub blobs: u64,
    /// Descriptions of the first thousand problems.
    pub problems: Vec<String>,
    /// Number of problems.
    pub problem_count: u64,
}

impl VerifyReport {
    /// Adds a problem.
    pub fn add_problem(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(problem);
        }
    }
}

/// Verifies a data directory and passes each intact record to `visit`, in key order.
///
/// # Errors
/// Fails if the directory is in use, has an unknown format, or cannot be read. Damage is added to
/// the report instead.
pub fn verify(
    dir: &Path,
    visit: impl FnMut(VerifiedRecord<'_>, &mut VerifyReport),
) -> Result<VerifyReport> {
    let dir = Arc::new(DataDir::open_existing(dir)?);
    let conn = database::open_checked(&dir)?;
    let mut report = VerifyReport::default();
    run_integrity_check(&conn, &mut report)?;
    let rows = database::segment_rows(&conn)?;
    let mut wal = RecoveredData::default();
    match recover(&conn, &dir, &rows, &mut wal) {
        Ok(()) => report.wal_entries = wal.entries,
        Err(EngineError::Corrupt(problem)) => report.add_problem(problem),
        Err(e) => return Err(e),
    }
    let blobs = BlobFiles::open(dir, 0, &FatalErrorHandler::new(|_| {}));
    let RecoveredData { memtable, segments, .. } = wal;
    let mut verifier = Verifier {
        conn: &conn,
        visit,
        blobs,
        report,
        segments,
        bodies: BTreeSet::new(),
        entry_bytes: BTreeMap::new(),
        counts: [0; 256],
    };
    verifier.verify_records(&memtable)?;
    verifier.find_unreferenced()?;
    verifier.verify_segment_rows(&rows);
    verifier.verify_counts()?;
    Ok(verifier.report)
}

/// Runs SQLite's integrity check of its pages and indexes.
fn run_integrity_check(conn: &Connection, report: &mut VerifyReport) -> Result<()> {
    let mut statement = conn.prepare("PRAGMA integrity_check(100)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let message: String = row.get(0)?;
        if message != "ok" {
            report.add_problem(format!("steadfast.db: {message}"));
        }
    }
    Ok(())
}

/// The data that recovery read.
#[derive(Default)]
struct RecoveredData {
    memtable: Memtable,
    /// Number of entries in the WAL.
    entries: u64,
    /// The sealed and live segments, by sequence number. If the WAL is damaged, the live segments
    /// are absent.
    segments: BTreeMap<u64, Arc<Segment>>,
}

fn recover(
    conn: &Connection,
    dir: &Arc<DataDir>,
    rows: &[SegmentRow],
    wal: &mut RecoveredData,
) -> Result<()> {
    let position = database::checkpoint_position(conn)?;
    let (_, mut files) = SegmentPool::open_read_only(dir.clone(), rows)?;
    let by_seq = |segment: Arc<Segment>| (segment.seq, segment);
    let sealed = SealedSegments::split_off(&mut files, rows, position)?;
    wal.segments.extend(sealed.segments.into_iter().map(by_seq));
    let replay = |entry, segment: &Arc<Segment>, bodies_offset| {
        let (key, entry) = writer::memtable_entry(entry, segment, bodies_offset, None);
        wal.memtable.put(key, entry);
        wal.entries += 1;
    };
    let (mode, is_in_db) = (RecoveryMode::ReadOnly, database::lookup(conn));
    let recovered = recovery::recover(files, position, mode, is_in_db, replay)?;
    wal.segments.extend(recovered.live.into_iter().map(by_seq));
    Ok(())
}

struct Verifier<'c, V> {
    conn: &'c Connection,
    visit: V,
    blobs: Arc<BlobFiles>,
    report: VerifyReport,
    segments: BTreeMap<u64, Arc<Segment>>,
    /// The rows of `bodies` and the blob files that records in the database refer to.
    bodies: BTreeSet<BodyRef>,
    /// Live bytes of each segment according to the records, by sequence number; see
    /// [`SegmentRow::live`].
    entry_bytes: BTreeMap<u64, u64>,
    /// Number of records in the database, by first key byte.
    counts: [i64; 256],
}

impl<V: FnMut(VerifiedRecord<'_>, &mut VerifyReport)> Verifier<'_, V> {
    /// Verifies every record, merging the database and the memtable.
    fn verify_records(&mut self, memtable: &Memtable) -> Result<()> {
        let sql = "SELECT key, due, data FROM heads ORDER BY key";
        let mut statement = self.conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut in_memtable = memtable.after(None).peekable();
        while let Some(row) = rows.next()? {
            let (key, expires_at, data) = columns(row)?;
            while let Some((key, entry)) = in_memtable.next_if(|(next, _)| *next < key) {
                self.verify_memtable_entry(key, entry);
            }
            let in_db = self.verify_row(key, expires_at, data);
            if let Some((key, entry)) = in_memtable.next_if(|(next, _)| *next == key) {
                self.verify_memtable_entry(key, entry);
            } else if let Some((data, body_len)) = in_db {
                let RecordRow { version, expires_at, meta, .. } = data;
                self.visit(VerifiedRecord { key, version, expires_at, meta, body_len });
            }
        }
        in_memtable.for_each(|(key, entry)| self.verify_memtable_entry(key, entry));
        Ok(())
    }

    fn visit(&mut self, record: VerifiedRecord<'_>) {
        self.report.records += 1;
        self.report.body_bytes += record.body_len;
        (self.visit)(record, &mut self.report);
    }

    /// Verifies a record of the database and returns it with the size of its body.
    fn verify_row<'d>(
        &mut self,
        key: &[u8],
        expires_at: i64,
        data: &'d [u8],
    ) -> Option<(RecordRow<'d>, u64)> {
        let first = key.first().copied().unwrap_or_default();
        if let Some(count) = self.counts.get_mut(usize::from(first)) {
            *count += 1;
        }
        let name = String::from_utf8_lossy(key).into_owned();
        let Some(data) = RecordRow::decode(key, data) else {
            self.report.add_problem(format!("record {name:?} does not match its checksum"));
            return None;
        };
        if data.expires_at.cast_signed() != expires_at {
            self.report
                .add_problem(format!("record {name:?} has a wrong entry in the expiry index"));
        }
        match data.body {
            BodyRef::Empty => {}
            BodyRef::Segment(SegmentLocation { seq, len, .. }) => {
                *self.entry_bytes.entry(seq).or_default() += entry_bytes(key, data.meta, len);
            }
            BodyRef::Row(_) | BodyRef::Blob(_) if self.bodies.insert(data.body) => {}
            BodyRef::Row(_) | BodyRef::Blob(_) => {
                let problem = format!("record {name:?} shares its body with another record");
                self.report.add_problem(problem);
            }
        }
        let len = match data.body {
            BodyRef::Empty => Ok(0),
            BodyRef::Blob(id) => self.verify_blob(id),
            BodyRef::Row(id) => self.verify_body(id, data.version),
            BodyRef::Segment(location) => self.verify_located(location, data.version),
        };
        match len {
            Ok(len) => Some((data, len)),
            Err(problem) => {
                self.report.add_problem(format!("record {name:?}: {problem}"));
                None
            }
        }
    }

    /// Verifies a record of the memtable.
    fn verify_memtable_entry(&mut self, key: &[u8], entry: &MemtableEntry) {
        let len = match (entry.location, &entry.body_at) {
            (BodyLocation::Removed, _) => return,
            (BodyLocation::Inline { len, checksum, .. }, Some((segment, at))) => {
                let read = recovery::read_body(segment, *at, len, entry.version, checksum);
                read.map(|bytes| bytes.len() as u64).map_err(|e| e.to_string())
            }
            (BodyLocation::Blob { id, .. }, _) => self.verify_blob(id),
            (BodyLocation::Empty | BodyLocation::Inline { .. }, _) => Ok(0),
        };
        match len {
            Ok(body_len) => {
                let MemtableEntry { version, expires_at, ref meta, .. } = *entry;
                self.visit(VerifiedRecord { key, version, expires_at, meta, body_len });
            }
            Err(problem) => {
                let name = String::from_utf8_lossy(key);
                self.report.add_problem(format!("record {name:?}: {problem}"));
            }
        }
    }

    /// Verifies a body in a segment and returns its size.
    fn verify_located(&self, location: SegmentLocation, version: u64) -> Result<u64, String> {
        let SegmentLocation { seq, at, len, checksum } = location;
        let segment = self.segments.get(&seq);
        let segment = segment.ok_or_else(|| format!("WAL segment {seq} is missing"))?;
        let body = recovery::read_body(segment, at, len, version, checksum);
        body.map(|body| body.len() as u64).map_err(|e| e.to_string())
    }

    /// Verifies a body in the database and returns its size.
    fn verify_body(&self, id: i64, version: u64) -> Result<u64, String> {
        let sql = "SELECT sum, body FROM bodies WHERE id = ?1";
        let mut statement = self.conn.prepare_cached(sql).map_err(|e| e.to_string())?;
        let read = |row: &Row<'_>| {
            let (sum, body): (i64, _) = (row.get(0)?, row.get_ref(1)?.as_blob()?);
            Ok((i64::from(body_checksum(version, body)) == sum, body.len() as u64))
        };
        match statement.query_row(params![id], read).optional() {
            Ok(Some((true, len))) => Ok(len),
            Ok(Some((false, _))) => Err(format!("body {id} does not match its checksum")),
            Ok(None) => Err(format!("body {id} is missing")),
            Err(e) => Err(format!("body {id}: {e}")),
        }
    }

    /// Verifies all blocks of a blob file and returns the size of its body.
    fn verify_blob(&mut self, id: i64) -> Result<u64, String> {
        self.report.blobs += 1;
        let blob = self.blobs.open_file(id).map_err(|e| e.to_string())?;
        let blob = blob.ok_or_else(|| format!("blob file {id:016x} is missing"))?;
        blob.verify().map_err(|problem| format!("blob file {id:016x}: {problem}"))?;
        Ok(blob.len())
    }

    /// Finds bodies and blobs that no record of the database refers to.
    fn find_unreferenced(&mut self) -> Result<()> {
        let ids = |sql: &str| -> rusqlite::Result<BTreeSet<i64>> {
            let mut statement = self.conn.prepare(sql)?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        let (rows, blobs) = (ids("SELECT id FROM bodies")?, ids("SELECT id FROM blobs")?);
        for id in rows.iter().filter(|id| !self.bodies.contains(&BodyRef::Row(**id))) {
            self.report.add_problem(format!("body {id} belongs to no record"));
        }
        for id in blobs.iter().filter(|id| !self.bodies.contains(&BodyRef::Blob(**id))) {
            self.report.add_problem(format!("blob {id} belongs to no record"));
        }
        for body in &self.bodies {
            if let BodyRef::Blob(id) = body
                && !blobs.contains(id)
            {
                self.report.add_problem(format!("blob {id} is not in the table of blobs"));
            }
        }
        Ok(())
    }

    /// Compares the table of segments with the records.
    fn verify_segment_rows(&mut self, rows: &[SegmentRow]) {
        let mut stored: BTreeMap<u64, u64> = rows.iter().map(|row| (row.seq, row.live)).collect();
        for (seq, found) in &self.entry_bytes {
            let stored = stored.remove(seq).unwrap_or(0);
            if stored != *found {
                self.report.add_problem(format!(
                    "records refer to {found} bytes in WAL segment {seq}, but the stored size is \
                     {stored}"
                ));
            }
        }
        for (seq, live) in stored {
            self.report.add_problem(format!(
                "no record has a body in WAL segment {seq}, but the stored size is {live}"
            ));
        }
    }

    /// Compares the stored record counts with the records.
    fn verify_counts(&mut self) -> Result<()> {
        let sql = "SELECT first, n FROM counts";
        let mut statement = self.conn.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let stored: rusqlite::Result<BTreeMap<i64, i64>> = rows?.collect();
        let stored = stored?;
        for (first, found) in (0_i64..).zip(self.counts) {
            let stored = stored.get(&first).copied().unwrap_or(0);
            if stored != found {
                let byte = u8::try_from(first).unwrap_or_default().escape_ascii();
                self.report.add_problem(format!(
                    "{found} records have keys that start with '{byte}', but the stored count is \
                     {stored}"
                ));
            }
        }
        let sql = "SELECT coalesce(sum(size), 0) FROM blobs";
        let found: i64 = self.conn.query_row(sql, [], |row| row.get(0))?;
        let stored = stored.get(&BLOB_BYTES_COUNTER).copied().unwrap_or(0);
        if stored != found {
            let problem = format!("the blobs have {found} bytes, but the stored count is {stored}");
            self.report.add_problem(problem);
        }
        Ok(())
    }
}

fn columns<'r>(row: &'r Row<'_>) -> rusqlite::Result<(&'r [u8], i64, &'r [u8])> {
    Ok((row.get_ref(0)?.as_blob()?, row.get(1)?, row.get_ref(2)?.as_blob()?))
}
