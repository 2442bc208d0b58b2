//! Looks at a data directory that nobody uses, without changing it: every checksum, and that all
//! parts agree.

use super::super::Result;
use super::blob_files::Blobs;
use super::database::{self, BLOB_BYTES, Data, body_sum, failed};
use super::memtable::{Entry, Overlay};
use super::wal::record::Home;
use super::wal::recovery;
use super::wal::segment::Slots;
use super::{FatalErrorHandler, lock, writer};
use crate::engine::{EngineError, StoredBody};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Problems that are told one by one; of more only their number.
const TOLD_MAX: usize = 1000;

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
        if self.problems.len() < TOLD_MAX {
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
    let _lock = lock(dir)?;
    let conn = database::open_checked(dir)?;
    let mut report = VerifyReport::default();
    check_database(&conn, &mut report)?;
    let mut overlay = Overlay::default();
    match read_log(&conn, dir, &mut overlay) {
        Ok(rows) => report.wal_entries = rows,
        Err(EngineError::Corrupt(what)) => report.add_problem(what),
        Err(e) => return Err(e),
    }
    let blobs = Blobs::new(dir, 0, FatalErrorHandler::new(|_| {}))?;
    let mut check = Check { conn: &conn, blobs, report, named: BTreeMap::new(), counts: [0; 256] };
    check.records(&overlay, &mut visit)?;
    check.bodies()?;
    check.counts()?;
    Ok(check.report)
}

/// SQLite's own check of its pages and indexes.
fn check_database(conn: &Connection, report: &mut VerifyReport) -> Result<()> {
    let mut statement = conn.prepare("PRAGMA integrity_check(100)").map_err(|e| failed(&e))?;
    let mut rows = statement.query([]).map_err(|e| failed(&e))?;
    while let Some(row) = rows.next().map_err(|e| failed(&e))? {
        let said: String = row.get(0).map_err(|e| failed(&e))?;
        if said != "ok" {
            report.add_problem(format!("steadfast.db: {said}"));
        }
    }
    Ok(())
}

fn read_log(conn: &Connection, dir: &Path, overlay: &mut Overlay) -> Result<u64> {
    if !dir.join("log").is_dir() {
        return Err(EngineError::Corrupt("the folder log is missing".into()));
    }
    let mark = database::mark(conn)?;
    let (_, slots) = Slots::open(dir)?;
    let mut rows = 0;
    recovery::recover(slots, mark, recovery::Purpose::Look, |row, segment, bodies| {
        let (key, entry) = writer::entry(row, segment, bodies, None);
        overlay.put(key, entry);
        rows += 1;
    })?;
    Ok(rows)
}

struct Check<'c> {
    conn: &'c Connection,
    blobs: Arc<Blobs>,
    report: VerifyReport,
    /// Homes of the database's records, and their versions.
    named: BTreeMap<i64, u64>,
    /// Records of the database by first byte.
    counts: [i64; 256],
}

impl Check<'_> {
    /// Every record of the database and of the overlay.
    fn records(
        &mut self,
        overlay: &Overlay,
        visit: &mut impl FnMut(VerifiedRecord<'_>, &mut VerifyReport),
    ) -> Result<()> {
        let sql = "SELECT key, due, data FROM heads ORDER BY key";
        let mut statement = self.conn.prepare(sql).map_err(|e| failed(&e))?;
        let mut rows = statement.query([]).map_err(|e| failed(&e))?;
        let mut above = overlay.after(None).peekable();
        while let Some(row) = rows.next().map_err(|e| failed(&e))? {
            let columns = columns(row).map_err(|e| failed(&e))?;
            let (key, expires_at, data) = columns;
            while let Some((key, entry)) = above.next_if(|(above, _)| above[..] < *key) {
                self.entry(key, entry, visit);
            }
            let below = self.row(key, expires_at, data);
            if let Some((key, entry)) = above.next_if(|(above, _)| above[..] == *key) {
                self.entry(key, entry, visit);
            } else if let Some((data, len)) = below {
                let Data { version, expires_at, meta, .. } = data;
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
    fn row<'d>(&mut self, key: &[u8], expires_at: i64, data: &'d [u8]) -> Option<(Data<'d>, u64)> {
        let first = key.first().copied().unwrap_or_default();
        if let Some(count) = self.counts.get_mut(usize::from(first)) {
            *count += 1;
        }
        let shown = String::from_utf8_lossy(key).into_owned();
        let Some(data) = Data::decode(key, data) else {
            self.report.add_problem(format!("record {shown:?} does not match its checksum"));
            return None;
        };
        if data.expires_at.cast_signed() != expires_at {
            self.report.add_problem(format!("record {shown:?} is not indexed by when it is due"));
        }
        if data.home != 0 && self.named.insert(data.home, data.version).is_some() {
            self.report.add_problem(format!("record {shown:?} shares its body with another"));
        }
        let len = match data.home {
            0 => Ok(0),
            home if home < 0 => self.blob(-home),
            home => self.body(home, data.version),
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
        entry: &Entry,
        visit: &mut impl FnMut(VerifiedRecord<'_>, &mut VerifyReport),
    ) {
        let len = match (entry.home, &entry.place) {
            (Home::Removed, _) => return,
            (Home::Inline { len, sum, .. }, Some((segment, at))) => {
                let read = recovery::body(segment, *at, len, entry.version, sum);
                read.map(|bytes| bytes.len() as u64).map_err(|e| e.to_string())
            }
            (Home::Blob { id, .. }, _) => self.blob(id),
            (Home::Empty | Home::Inline { .. }, _) => Ok(0),
        };
        match len {
            Ok(body_len) => {
                let Entry { version, expires_at, ref meta, .. } = *entry;
                self.visit(VerifiedRecord { key, version, expires_at, meta, body_len }, visit);
            }
            Err(what) => {
                let shown = String::from_utf8_lossy(key);
                self.report.add_problem(format!("record {shown:?}: {what}"));
            }
        }
    }

    /// The length of a body in the database, if it matches its checksum.
    fn body(&self, home: i64, version: u64) -> std::result::Result<u64, String> {
        let sql = "SELECT sum, body FROM bodies WHERE id = ?1";
        let mut statement = self.conn.prepare_cached(sql).map_err(|e| e.to_string())?;
        let read = |row: &Row<'_>| {
            let (sum, body): (i64, _) = (row.get(0)?, row.get_ref(1)?.as_blob()?);
            Ok((i64::from(body_sum(version, body)) == sum, body.len() as u64))
        };
        match statement.query_row(params![home], read).optional() {
            Ok(Some((true, len))) => Ok(len),
            Ok(Some((false, _))) => Err(format!("body {home} does not match its checksum")),
            Ok(None) => Err(format!("body {home} is missing")),
            Err(e) => Err(format!("body {home}: {e}")),
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
        let bodies = ids("SELECT id FROM bodies").map_err(|e| failed(&e))?;
        let blobs = ids("SELECT -id FROM blobs").map_err(|e| failed(&e))?;
        for home in bodies.iter().chain(&blobs).filter(|home| !self.named.contains_key(home)) {
            let what = if *home > 0 { "body" } else { "blob" };
            self.report.add_problem(format!("{what} {} belongs to no record", home.abs()));
        }
        let unlisted: Vec<i64> =
            self.named.keys().filter(|home| **home < 0 && !blobs.contains(home)).copied().collect();
        for home in unlisted {
            self.report.add_problem(format!("blob {} is not listed", -home));
        }
        Ok(())
    }

    /// The counts that the database keeps.
    fn counts(&mut self) -> Result<()> {
        let sql = "SELECT first, n FROM counts";
        let mut statement = self.conn.prepare(sql).map_err(|e| failed(&e))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let kept: rusqlite::Result<BTreeMap<i64, i64>> = rows.map_err(|e| failed(&e))?.collect();
        let kept = kept.map_err(|e| failed(&e))?;
        for (first, found) in (0_i64..).zip(self.counts) {
            let kept = kept.get(&first).copied().unwrap_or(0);
            if kept != found {
                let byte = u8::try_from(first).unwrap_or_default().escape_ascii();
                let what = format!("{found} records begin with '{byte}', and the count is {kept}");
                self.report.add_problem(what);
            }
        }
        let sql = "SELECT coalesce(sum(size), 0) FROM blobs";
        let sizes: i64 = self.conn.query_row(sql, [], |row| row.get(0)).map_err(|e| failed(&e))?;
        if kept.get(&BLOB_BYTES).copied().unwrap_or(0) != sizes {
            self.report.add_problem(format!("blobs have {sizes} bytes, and the count differs"));
        }
        Ok(())
    }
}

fn columns<'r>(row: &'r Row<'_>) -> rusqlite::Result<(&'r [u8], i64, &'r [u8])> {
    Ok((row.get_ref(0)?.as_blob()?, row.get(1)?, row.get_ref(2)?.as_blob()?))
}
