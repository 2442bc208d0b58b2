//! Read-only, offline verification of a data directory: checks every checksum, and that the
//! database, the WAL and the blob files agree.

use super::super::Result;
use super::blob_files::BlobFiles;
use super::data_dir::DataDir;
use super::database::{self, BLOB_BYTES_COUNTER, RecordRow, body_checksum};
use super::memtable::{Memtable, MemtableEntry};
use super::wal::record::BodyLocation;
use super::wal::recovery::{self, RecoveryMode};
use super::wal::segment::SegmentPool;
use super::{FatalErrorHandler, writer};
use crate::engine::{EngineError, StoredBody};
use bytes::Bytes;
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
    let mut memtable = Memtable::default();
    match replay_wal(&conn, &dir, &mut memtable) {
        Ok(entries) => report.wal_entries = entries,
        Err(EngineError::Corrupt(problem)) => report.add_problem(problem),
        Err(e) => return Err(e),
    }
    let blobs = BlobFiles::open(dir, 0, &FatalErrorHandler::new(|_| {}));
    let (conn, body_refs, counts) = (&conn, BTreeMap::new(), [0; 256]);
    let mut verifier = Verifier { conn, visit, blobs, report, body_refs, counts };
    verifier.verify_records(&memtable)?;
    verifier.find_unreferenced()?;
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

fn replay_wal(conn: &Connection, dir: &Arc<DataDir>, memtable: &mut Memtable) -> Result<u64> {
    let position = database::checkpoint_position(conn)?;
    let (_, files) = SegmentPool::open_read_only(dir.clone())?;
    let mut entries = 0;
    recovery::recover(files, position, RecoveryMode::ReadOnly, |entry, segment, bodies_offset| {
        let (key, entry) = writer::memtable_entry(entry, segment, bodies_offset, None);
        memtable.put(key, entry);
        entries += 1;
    })?;
    Ok(entries)
}

struct Verifier<'c, V> {
    conn: &'c Connection,
    visit: V,
    blobs: Arc<BlobFiles>,
    report: VerifyReport,
    /// Body references of the database's records, with the records' versions.
    body_refs: BTreeMap<i64, u64>,
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
            while let Some((key, entry)) = in_memtable.next_if(|(next, _)| next[..] < *key) {
                self.verify_memtable_entry(key, entry);
            }
            let in_db = self.verify_row(key, expires_at, data);
            if let Some((key, entry)) = in_memtable.next_if(|(next, _)| next[..] == *key) {
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
        if data.body_ref != 0 && self.body_refs.insert(data.body_ref, data.version).is_some() {
            self.report.add_problem(format!("record {name:?} shares its body with another record"));
        }
        let len = match data.body_ref {
            0 => Ok(0),
            body_ref if body_ref < 0 => self.verify_blob(-body_ref),
            body_ref => self.verify_body(body_ref, data.version),
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
    fn verify_memtable_entry(&mut self, key: &Bytes, entry: &MemtableEntry) {
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

    /// Verifies a body in the database and returns its size.
    fn verify_body(&self, body_ref: i64, version: u64) -> Result<u64, String> {
        let sql = "SELECT sum, body FROM bodies WHERE id = ?1";
        let mut statement = self.conn.prepare_cached(sql).map_err(|e| e.to_string())?;
        let read = |row: &Row<'_>| {
            let (sum, body): (i64, _) = (row.get(0)?, row.get_ref(1)?.as_blob()?);
            Ok((i64::from(body_checksum(version, body)) == sum, body.len() as u64))
        };
        match statement.query_row(params![body_ref], read).optional() {
            Ok(Some((true, len))) => Ok(len),
            Ok(Some((false, _))) => Err(format!("body {body_ref} does not match its checksum")),
            Ok(None) => Err(format!("body {body_ref} is missing")),
            Err(e) => Err(format!("body {body_ref}: {e}")),
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
        let bodies = ids("SELECT id FROM bodies")?;
        let blobs = ids("SELECT -id FROM blobs")?;
        for body_ref in bodies.iter().chain(&blobs).filter(|id| !self.body_refs.contains_key(id)) {
            let kind = if *body_ref > 0 { "body" } else { "blob" };
            self.report.add_problem(format!("{kind} {} belongs to no record", body_ref.abs()));
        }
        let blob_refs = self.body_refs.keys().filter(|body_ref| **body_ref < 0);
        let unlisted: Vec<i64> = blob_refs.filter(|id| !blobs.contains(id)).copied().collect();
        for body_ref in unlisted {
            self.report.add_problem(format!("blob {} is not in the table of blobs", -body_ref));
        }
        Ok(())
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
