//! Reads of the database, each on a connection of its own from a small pool.
//!
//! A connection keeps its snapshot from one read to the next, as long as nothing was folded in
//! between: then a read takes no lock of the database, and finds its cached pages as they were.

use super::super::{Body, EngineError, Part, Record, Result, Scan};
use super::schema::{self, body_sum, failed, head_sum};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Rows, params};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const WHOLE: &str = "SELECT h.version, h.due, h.home, h.sum, h.head, b.sum, b.body
    FROM heads h LEFT JOIN bodies b ON b.id = h.home WHERE h.key = ?1";
const HEAD: &str = "SELECT version, due, home, sum, head FROM heads WHERE key = ?1";
const SCAN: &str = "SELECT key, version, due, home, sum, head FROM heads
    WHERE key >= ?1 AND key < ?2 AND (due = 0 OR due > ?3) ORDER BY key";
const DUE: &str = "SELECT due, key, version FROM heads WHERE due > 0 AND due <= ?1 ORDER BY due";
const VERSION: &str = "SELECT version FROM heads WHERE key = ?1";

/// Connections that wait for their next read. As many are made as reads run at once, and the
/// runtime bounds those by its threads.
pub(super) struct Readers {
    dir: PathBuf,
    idle: Mutex<Vec<Reading>>,
    /// Grows with every fold that readers can see.
    epoch: AtomicU64,
}

/// A connection for reads, and the epoch of its snapshot.
pub(super) struct Reading {
    conn: Connection,
    epoch: Option<u64>,
}

impl Reading {
    /// Ends the snapshot.
    fn release(&mut self) -> Result<()> {
        if self.epoch.take().is_some() {
            self.conn.execute_batch("COMMIT").map_err(|e| failed(&e))?;
        }
        Ok(())
    }
}

impl Readers {
    pub(super) fn new(dir: PathBuf) -> Readers {
        Readers { dir, idle: Mutex::default(), epoch: AtomicU64::new(0) }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Reading>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with a snapshot of all that was folded before the call.
    pub(super) fn take(&self) -> Result<Reading> {
        let waiting = self.idle().pop();
        let mut reading = match waiting {
            Some(reading) => reading,
            None => Reading { conn: schema::open_reader(&self.dir)?, epoch: None },
        };
        let epoch = self.epoch.load(Ordering::Acquire);
        if reading.epoch != Some(epoch) {
            reading.release()?;
            reading.conn.execute_batch("BEGIN").map_err(|e| failed(&e))?;
            reading.epoch = Some(epoch);
            // The first read takes the snapshot.
            let mut pin = reading.conn.prepare_cached("SELECT id FROM meta");
            let pin = pin.as_mut().map_err(|e| failed(e))?;
            pin.query_row([], |_| Ok(())).map_err(|e| failed(&e))?;
        }
        Ok(reading)
    }

    /// Runs `work` on a connection. A connection whose read failed is not used again.
    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reading = self.take()?;
        let answer = work(&reading.conn)?;
        self.idle().push(reading);
        Ok(answer)
    }

    /// From here on, reads see what was folded.
    pub(super) fn advance(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the snapshots of the connections that wait, which would keep the database's log long.
    pub(super) fn release(&self) {
        let mut waiting = std::mem::take(&mut *self.idle());
        waiting.retain_mut(|reading| reading.release().is_ok());
        self.idle().append(&mut waiting);
    }

    /// Closes the connections that wait.
    pub(super) fn close(&self) {
        self.idle().clear();
    }

    /// The version of a record; 0 when there is none.
    pub(super) fn version(&self, key: &[u8]) -> Result<u64> {
        self.with(|conn| {
            let mut statement = conn.prepare_cached(VERSION).map_err(|e| failed(&e))?;
            let found = statement.query_row(params![key], |row| row.get::<_, i64>(0)).optional();
            Ok(found.map_err(|e| failed(&e))?.map_or(0, i64::cast_unsigned))
        })
    }

    /// The record without a blob's bytes, and its home: 0 none, above 0 a row, below 0 a blob.
    pub(super) fn read(&self, key: &[u8], part: Part) -> Result<Option<(Record, i64)>> {
        self.with(|conn| row(conn, key, part))
    }

    /// Due number, key and version of the records with `0 < due <= until`, the earliest first, of
    /// which `wanted` says yes, up to `limit`.
    pub(super) fn due(
        &self,
        until: u64,
        limit: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<(u64, Bytes, u64)>> {
        self.with(|conn| {
            let mut statement = conn.prepare_cached(DUE).map_err(|e| failed(&e))?;
            let until = i64::try_from(until).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![until]).map_err(|e| failed(&e))?;
            let mut found = Vec::new();
            while found.len() < limit
                && let Some(row) = rows.next().map_err(|e| failed(&e))?
            {
                let key = blob(row, 1)?;
                if wanted(key) {
                    let key = Bytes::copy_from_slice(key);
                    let (due, version) = (number(row, 0)?, number(row, 2)?);
                    found.push((due.cast_unsigned(), key, version.cast_unsigned()));
                }
            }
            Ok(found)
        })
    }

    /// Hands the records of a range to `take` in order, until it says that it has enough.
    pub(super) fn scan(
        &self,
        reading: Reading,
        scan: &Scan,
        mut take: impl FnMut(Found<'_>) -> bool,
    ) -> Result<()> {
        {
            let statement = reading.conn.prepare_cached(SCAN);
            let mut statement: CachedStatement<'_> = statement.map_err(|e| failed(&e))?;
            let skip_due = i64::try_from(scan.skip_due).unwrap_or(i64::MAX);
            let bounds = params![&scan.start[..], &scan.end[..], skip_due];
            let mut rows: Rows<'_> = statement.query(bounds).map_err(|e| failed(&e))?;
            while let Some(row) = rows.next().map_err(|e| failed(&e))? {
                let key = blob(row, 0)?;
                let head = blob(row, 5)?;
                let (version, due) = checked(row, 1, key, head)?;
                if !take(Found { key, version, due, head }) {
                    break;
                }
            }
        }
        self.idle().push(reading);
        Ok(())
    }
}

/// A record of the database, without its body.
pub(super) use super::super::Scanned as Found;

/// See [`Readers::read`].
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
