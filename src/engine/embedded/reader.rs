//! Reads and scans, each on a connection of its own from a small pool.

use super::super::{Body, EngineError, Page, Part, Record, Result, Scan, Scanned};
use super::blobs::Blobs;
use super::schema::{self, body_sum, failed, head_sum};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const WHOLE: &str = "SELECT h.version, h.due, h.home, h.sum, h.head, b.sum, b.body
    FROM heads h LEFT JOIN bodies b ON b.id = h.home WHERE h.key = ?1";
const HEAD: &str = "SELECT version, due, home, sum, head FROM heads WHERE key = ?1";
const SCAN: &str = "SELECT key, version, due, home, sum, head FROM heads
    WHERE key >= ?1 AND key < ?2 AND (due = 0 OR due > ?3) ORDER BY key LIMIT ?4";
const DUE: &str = "SELECT key, version FROM heads WHERE due > 0 AND due <= ?1
    ORDER BY due LIMIT ?2";

/// Connections that wait for their next read. As many are made as reads run at once, and the
/// runtime bounds those by its blocking threads.
pub(super) struct Readers {
    dir: PathBuf,
    idle: Mutex<Vec<Connection>>,
    blobs: Arc<Blobs>,
}

impl Readers {
    pub(super) fn new(dir: PathBuf, blobs: Arc<Blobs>) -> Readers {
        Readers { dir, idle: Mutex::default(), blobs }
    }

    /// Runs `work` on a connection. A connection whose read failed is not used again.
    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let waiting = idle().pop();
        let conn = match waiting {
            Some(conn) => conn,
            None => schema::open_reader(&self.dir)?,
        };
        let answer = work(&conn)?;
        idle().push(conn);
        Ok(answer)
    }

    /// Closes the connections that wait.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }

    pub(super) fn read(&self, key: &[u8], part: Part) -> Result<Option<Record>> {
        // A blob's file goes when its record is replaced: read the record again when that happens
        // between the two. A file that is missing for a record that stays is damage.
        let mut gone = None;
        loop {
            let Some((mut record, home)) = self.with(|conn| row(conn, key, part))? else {
                return Ok(None);
            };
            if home >= 0 || part == Part::Head {
                return Ok(Some(record));
            }
            if let Some(blob) = self.blobs.open(-home)? {
                record.body = Body::Stored(Arc::new(blob));
                return Ok(Some(record));
            }
            if gone == Some(home) {
                return Err(EngineError::Corrupt(format!("blob file {:016x} is missing", -home)));
            }
            gone = Some(home);
        }
    }

    pub(super) fn scan(&self, scan: &Scan) -> Result<Page> {
        self.with(|conn| {
            let mut statement = conn.prepare_cached(SCAN).map_err(|e| failed(&e))?;
            let limit = i64::try_from(scan.limit).unwrap_or(i64::MAX);
            let skip_due = i64::try_from(scan.skip_due).unwrap_or(i64::MAX);
            let bounds = params![&scan.start[..], &scan.end[..], skip_due, limit];
            let mut rows = statement.query(bounds).map_err(|e| failed(&e))?;
            let mut page = Page::default();
            while let Some(row) = rows.next().map_err(|e| failed(&e))? {
                let key = blob(row, 0)?;
                let head = blob(row, 5)?;
                let (version, due) = checked(row, 1, key, head)?;
                page.push(Scanned { key, version, due, head });
            }
            Ok(page)
        })
    }

    pub(super) fn due(&self, until: u64, limit: usize) -> Result<Vec<(Bytes, u64)>> {
        self.with(|conn| {
            let mut statement = conn.prepare_cached(DUE).map_err(|e| failed(&e))?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let until = i64::try_from(until).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![until, limit]).map_err(|e| failed(&e))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next().map_err(|e| failed(&e))? {
                found
                    .push((Bytes::copy_from_slice(blob(row, 0)?), number(row, 1)?.cast_unsigned()));
            }
            Ok(found)
        })
    }
}

/// The record without a blob's bytes, and its home: 0 none, above 0 a row, below 0 a blob.
fn row(conn: &Connection, key: &[u8], part: Part) -> Result<Option<(Record, i64)>> {
    let sql = if part == Part::Whole { WHOLE } else { HEAD };
    let mut statement = conn.prepare_cached(sql).map_err(|e| failed(&e))?;
    let read = |row: &Row<'_>| Ok(record(row, key, part));
    statement.query_row(params![key], read).optional().map_err(|e| failed(&e))?.transpose()
}

fn record(row: &Row<'_>, key: &[u8], part: Part) -> Result<(Record, i64)> {
    let home = number(row, 2)?;
    let head = blob(row, 4)?;
    let (version, due) = checked(row, 0, key, head)?;
    let mut body = Bytes::new();
    if part == Part::Whole && home > 0 {
        let bytes = blob(row, 6)?;
        if number(row, 5)? != i64::from(body_sum(version, bytes)) {
            return Err(EngineError::Corrupt(format!("body {home} does not match its checksum")));
        }
        body = Bytes::copy_from_slice(bytes);
    }
    let head = Bytes::copy_from_slice(head);
    Ok((Record { version, due, head, body: Body::Bytes(body) }, home))
}

/// Version and due of a row whose columns from `at` are version, due, home, sum.
fn checked(row: &Row<'_>, at: usize, key: &[u8], head: &[u8]) -> Result<(u64, u64)> {
    let version = number(row, at)?.cast_unsigned();
    let due = number(row, at + 1)?.cast_unsigned();
    let home = number(row, at + 2)?;
    if number(row, at + 3)? != i64::from(head_sum(key, version, due, home, head)) {
        let key = String::from_utf8_lossy(key);
        return Err(EngineError::Corrupt(format!("record {key:?} does not match its checksum")));
    }
    Ok((version, due))
}

fn number(row: &Row<'_>, column: usize) -> Result<i64> {
    row.get(column).map_err(|e| misshapen(column, &e))
}

fn blob<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8]> {
    let value = row.get_ref(column).map_err(|e| misshapen(column, &e))?;
    value.as_blob().map_err(|e| EngineError::Corrupt(format!("column {column}: {e}")))
}

fn misshapen(column: usize, e: &rusqlite::Error) -> EngineError {
    EngineError::Corrupt(format!("column {column}: {e}"))
}
