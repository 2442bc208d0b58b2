//! Looks at a data directory that nobody uses, without changing it: every checksum, and that all
//! parts agree.

use super::super::Result;
use super::blob_files::BlobFiles;
use super::database::{self, BLOB_BYTES_COUNTER, RecordRow, body_checksum, sqlite_error};
use super::memtable::{Memtable, MemtableEntry};
use super::wal::record::BodyLocation;
use super::wal::recovery;
use super::wal::segment::SegmentPool;
use super::{FatalErrorHandler, lock_dir, writer};
use crate::engine::{EngineError, StoredBody};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Problems that are told one by one; of more only their number.
const PROBLEMS_LISTED_MAX: usize = 1000;

/// A record as it is found, the newest of its key.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedRecord<'r> {
    /// Its key.
    pub key: &'r [u8],
    /// See [`Record::version`](crate::engine::Record::version).
    pub version: u64,
    /// See [`Record::expires_at`](crate::engine::Record::due).
    pub expires_at: u64,
    /// See [`Record::meta`](crate::engine::Record::head).
    pub meta: &'r [u8],
    /// Bytes of its body.
    pub body_len: u64,
}

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Records.
    pub records: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Commits' rows that only the log has.
    pub wal_entries: u64,
    /// Blob files that are named.
    pub blobs: u64,
    /// What is wrong and where, the first thousand.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl VerifyReport {
    /// Adds a problem.
    pub fn add_problem(&mut self, what: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(what);
        }
    }
}

/// Checks all there is, and hands each record whose parts are sound to `visit`, in key order.
///
/// # Errors
/// When the directory is in use, of another format, or cannot be read. Damage is in the report.
pub fn verify(
    dir: &Path,
    mut visit: impl FnMut(VerifiedRecord<'_>, &mut VerifyReport),
) -> Result<VerifyReport> {
    if !database::path(dir).is_file() {
        let what = format!("there is no steadfast.db in {}", dir.display());
        return Err(EngineError::Failed(what));
    }
    let _lock = lock_dir(dir)?;
    let conn = database::open_checked(dir)?;
    let mut report = VerifyReport::default();
    run_integrity_check(&conn, &mut report)?;
    let mut memtable = Memtable::default();
    match replay_wal(&conn, dir, &mut memtable) {
        Ok(rows) => report.wal_entries = rows,
        Err(EngineError::Corrupt(what)) => report.add_problem(what),
        Err(e) => return Err(e),
    }
    let blobs = BlobFiles::new(dir, 0, FatalErrorHandler::new(|_| {}))?;
    let mut verifier =
        Verifier { conn: &conn, blobs, report, body_refs: BTreeMap::new(), counts: [0; 256] };
    verifier.verify_records(&memtable, &mut visit)?;
    verifier.bodies()?;
    verifier.counts()?;
    Ok(verifier.report)
}

/// SQLite's own check of its pages and indexes.
fn run_integrity_check(conn: &Connection, report: &mut VerifyReport) -> Result<()> {
    let mut statement =
        conn.prepare("PRAGMA integrity_check(100)").map_err(|e| sqlite_error(&e))?;
    let mut rows = statement.query([]).map_err(|e| sqlite_error(&e))?;
    while let Some(row) = rows.next().map_err(|e| sqlite_error(&e))? {
        let message: String = row.get(0).map_err(|e| sqlite_error(&e))?;
        if message != "ok" {
            report.add_problem(format!("steadfast.db: {message}"));
        }
    }
    Ok(())
}

fn replay_wal(conn: &Connection, dir: &Path, memtable: &mut Memtable) -> Result<u64> {
    if !dir.join("log").is_dir() {
        return Err(EngineError::Corrupt("the folder log is missing".into()));
    }
    let position = database::checkpoint_position(conn)?;
    let (_, files) = SegmentPool::open(dir)?;
    let mut rows = 0;
    recovery::recover(
        files,
        position,
        recovery::RecoveryMode::ReadOnly,
        |row, segment, bodies| {
            let (key, entry) = writer::memtable_entry(row, segment, bodies, None);
            memtable.put(key, entry);
            rows += 1;
        },
    )?;
    Ok(rows)
}

struct Verifier<'c> {
    conn: &'c Connection,
    blobs: Arc<BlobFiles>,
    report: VerifyReport,
    /// Homes of the database's records, and their versions.
    body_refs: BTreeMap<i64, u64>,
    /// Records of the database by first byte.
    counts: [i64; 256],
}

impl Verifier<'_> {
    /// Every record of the database and of the overlay.
    fn verify_records(
        &mut self,
        memtable: &Memtable,
        visit: &mut impl FnMut(VerifiedRecord<'_>, &mut VerifyReport),
    ) -> Result<()> {
        let sql = "SELECT key, due, data FROM heads ORDER BY key";
        let mut statement = self.conn.prepare(sql).map_err(|e| sqlite_error(&e))?;
        let mut rows = statement.query([]).map_err(|e| sqlite_error(&e))?;
        let mut above = memtable.after(None).peekable();
        while let Some(row) = rows.next().map_err(|e| sqlite_error(&e))? {
            let columns = columns(row).map_err(|e| sqlite_error(&e))?;
            let (key, expires_at, data) = columns;
            while let Some((key, entry)) = above.next_if(|(above, _)| above[..] < *key) {
                self.entry(key, entry, visit);
            }
            let in_db = self.row(key, expires_at, data);
            if let Some((key, entry)) = above.next_if(|(above, _)| above[..] == *key) {
                self.entry(key, entry, visit);
            } else if let Some((data, len)) = in_db {
                let RecordRow { version, expires_at, meta, .. } = data;
                self.visit(VerifiedRecord { key, version, expires_at, meta, body_len: len }, visit);
            }
        }
        for (key, entry) in above {
            self.entry(key, entry, visit);
        }
        Ok(())
    }

    fn visit(
        &mut self,
        record: VerifiedRecord<'_>,
        visit: &mut impl FnMut(VerifiedRecord<'_>, &mut VerifyReport),
    ) {
        self.report.records += 1;
        self.report.body_bytes += record.body_len;
        visit(record, &mut self.report);
    }

    /// A record of the database, and the length of its body.
    fn row<'d>(
        &mut self,
        key: &[u8],
        expires_at: i64,
        data: &'d [u8],
    ) -> Option<(RecordRow<'d>, u64)> {
        let first = key.first().copied().unwrap_or_default();
        if let Some(count) = self.counts.get_mut(usize::from(first)) {
            *count += 1;
        }
        let shown = String::from_utf8_lossy(key).into_owned();
        let Some(data) = RecordRow::decode(key, data) else {
            self.report.add_problem(format!("record {shown:?} does not match its checksum"));
            return None;
        };
        if data.expires_at.cast_signed() != expires_at {
            self.report.add_problem(format!("record {shown:?} is not indexed by when it is due"));
        }
        if data.body_ref != 0 && self.body_refs.insert(data.body_ref, data.version).is_some() {
            self.report.add_problem(format!("record {shown:?} shares its body with another"));
        }
        let len = match data.body_ref {
            0 => Ok(0),
            body_ref if body_ref < 0 => self.blob(-body_ref),
            body_ref => self.body(body_ref, data.version),
        };
        match len {
            Ok(len) => Some((data, len)),
            Err(what) => {
                self.report.add_problem(format!("record {shown:?}: {what}"));
                None
            }
        }
    }

    /// A record that only the log has.
    fn entry(
        &mut self,
        key: &Bytes,
        entry: &MemtableEntry,
        visit: &mut impl FnMut(VerifiedRecord<'_>, &mut VerifyReport),
    ) {
        let len = match (entry.location, &entry.body_at) {
            (BodyLocation::Removed, _) => return,
            (BodyLocation::Inline { len, checksum, .. }, Some((segment, at))) => {
                let read = recovery::read_body(segment, *at, len, entry.version, checksum);
                read.map(|bytes| bytes.len() as u64).map_err(|e| e.to_string())
            }
            (BodyLocation::Blob { id, .. }, _) => self.blob(id),
            (BodyLocation::Empty | BodyLocation::Inline { .. }, _) => Ok(0),
        };
        match len {
            Ok(body_len) => {
                let MemtableEntry { version, expires_at, ref meta, .. } = *entry;
                self.visit(VerifiedRecord { key, version, expires_at, meta, body_len }, visit);
            }
            Err(what) => {
                let shown = String::from_utf8_lossy(key);
                self.report.add_problem(format!("record {shown:?}: {what}"));
            }
        }
    }

    /// The length of a body in the database, if it matches its checksum.
    fn body(&self, body_ref: i64, version: u64) -> std::result::Result<u64, String> {
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

    /// The length of a blob, if all of its blocks match their checksums.
    fn blob(&mut self, id: i64) -> std::result::Result<u64, String> {
        self.report.blobs += 1;
        let blob = self.blobs.open(id).map_err(|e| e.to_string())?;
        let blob = blob.ok_or_else(|| format!("blob file {id:016x} is missing"))?;
        blob.verify().map_err(|what| format!("blob file {id:016x}: {what}"))?;
        Ok(blob.len())
    }

    /// Bodies and blobs that no record of the database names.
    fn bodies(&mut self) -> Result<()> {
        let ids = |sql: &str| -> rusqlite::Result<BTreeSet<i64>> {
            let mut statement = self.conn.prepare(sql)?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        let bodies = ids("SELECT id FROM bodies").map_err(|e| sqlite_error(&e))?;
        let blobs = ids("SELECT -id FROM blobs").map_err(|e| sqlite_error(&e))?;
        for body_ref in
            bodies.iter().chain(&blobs).filter(|body_ref| !self.body_refs.contains_key(body_ref))
        {
            let what = if *body_ref > 0 { "body" } else { "blob" };
            self.report.add_problem(format!("{what} {} belongs to no record", body_ref.abs()));
        }
        let unlisted: Vec<i64> = self
            .body_refs
            .keys()
            .filter(|body_ref| **body_ref < 0 && !blobs.contains(body_ref))
            .copied()
            .collect();
        for body_ref in unlisted {
            self.report.add_problem(format!("blob {} is not listed", -body_ref));
        }
        Ok(())
    }

    /// The counts that the database keeps.
    fn counts(&mut self) -> Result<()> {
        let sql = "SELECT first, n FROM counts";
        let mut statement = self.conn.prepare(sql).map_err(|e| sqlite_error(&e))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let stored: rusqlite::Result<BTreeMap<i64, i64>> =
            rows.map_err(|e| sqlite_error(&e))?.collect();
        let stored = stored.map_err(|e| sqlite_error(&e))?;
        for (first, found) in (0_i64..).zip(self.counts) {
            let stored = stored.get(&first).copied().unwrap_or(0);
            if stored != found {
                let byte = u8::try_from(first).unwrap_or_default().escape_ascii();
                let what =
                    format!("{found} records begin with '{byte}', and the count is {stored}");
                self.report.add_problem(what);
            }
        }
        let sql = "SELECT coalesce(sum(size), 0) FROM blobs";
        let blob_bytes: i64 =
            self.conn.query_row(sql, [], |row| row.get(0)).map_err(|e| sqlite_error(&e))?;
        if stored.get(&BLOB_BYTES_COUNTER).copied().unwrap_or(0) != blob_bytes {
            self.report
                .add_problem(format!("blobs have {blob_bytes} bytes, and the count differs"));
        }
        Ok(())
    }
}

fn columns<'r>(row: &'r Row<'_>) -> rusqlite::Result<(&'r [u8], i64, &'r [u8])> {
    Ok((row.get_ref(0)?.as_blob()?, row.get(1)?, row.get_ref(2)?.as_blob()?))
}
