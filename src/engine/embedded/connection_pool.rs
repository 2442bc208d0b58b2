//! Reads of the database, each on a connection of its own from a small pool.
//!
//! A connection keeps its snapshot from one read to the next, as long as nothing was folded in
//! between: then a read takes no lock of the database, and finds its cached pages as they were.

use super::super::{Body, EngineError, Projection, Record, Result, Scan};
use super::database::{self, Data, body_sum, failed};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, Row, Rows, params};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const HEAD: &str = "SELECT data FROM heads WHERE key = ?1";
const BODY: &str = "SELECT sum, body FROM bodies WHERE id = ?1";
/// Has no end: to compare a key here takes fewer steps than it takes the database.
const SCAN: &str = "SELECT key, data FROM heads WHERE key >= ?1 ORDER BY key";
const DUE: &str = "SELECT key, data FROM heads WHERE due > 0 AND due <= ?1 ORDER BY due";

/// KiB of pages that a connection keeps. Those that are used while reads find their pages in
/// memory, as many as the runtime has threads for requests, keep the inner pages of large trees;
/// those that are made when many reads wait for the disk do not.
const CACHE_KIB: u32 = 24 * 1024;
const CACHE_KIB_MANY: u32 = 2 * 1024;
/// Connections with the large cache.
const LARGE: u64 = 4;

/// Connections that wait for their next read. As many are made as reads run at once, and the
/// runtime bounds those by its threads.
pub(super) struct Readers {
    dir: PathBuf,
    idle: Mutex<Idle>,
    /// Connections that were made.
    made: AtomicU64,
    /// Grows with every fold that readers can see.
    epoch: AtomicU64,
}

#[derive(Default)]
struct Idle {
    waiting: Vec<Reading>,
    /// Whether none may keep its snapshot while it waits.
    releasing: bool,
}

/// A connection for reads, and the epoch of its snapshot.
pub(super) struct Reading {
    conn: Connection,
    epoch: Option<u64>,
}

impl Reading {
    /// Takes a snapshot of all that is folded.
    pub(super) fn pin(&mut self, epoch: u64) -> Result<()> {
        self.conn.execute_batch("BEGIN").map_err(|e| failed(&e))?;
        self.epoch = Some(epoch);
        // The first read takes the snapshot.
        let mut pin = self.conn.prepare_cached("SELECT id FROM meta");
        let pin = pin.as_mut().map_err(|e| failed(e))?;
        pin.query_row([], |_| Ok(())).map_err(|e| failed(&e))
    }

    /// The first `limit` records of a range for which `wanted` says yes, and where their bodies
    /// are.
    pub(super) fn heads(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<(Bytes, Record, i64)>> {
        let mut statement = self.conn.prepare_cached(SCAN).map_err(|e| failed(&e))?;
        let mut rows = statement.query(params![start]).map_err(|e| failed(&e))?;
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = rows.next().map_err(|e| failed(&e))?
        {
            let key = blob(row, 0)?;
            if key >= end {
                break;
            }
            if !wanted(key) {
                continue;
            }
            let Data { version, expires_at, home, meta } = checked(key, blob(row, 1)?)?;
            let meta = Bytes::copy_from_slice(meta);
            let record = Record { version, expires_at, meta, body: Body::EMPTY };
            found.push((Bytes::copy_from_slice(key), record, home));
        }
        Ok(found)
    }

    /// The body that the database keeps for a record of this version.
    pub(super) fn body(&self, version: u64, home: i64) -> Result<Bytes> {
        body(&self.conn, version, home)
    }

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
        Readers { dir, idle: Mutex::default(), made: AtomicU64::new(0), epoch: AtomicU64::new(0) }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Reading> {
        let large = self.made.fetch_add(1, Ordering::Relaxed) < LARGE;
        let cache = if large { CACHE_KIB } else { CACHE_KIB_MANY };
        Ok(Reading { conn: database::open_reader(&self.dir, cache)?, epoch: None })
    }

    /// A connection with a snapshot of all that was folded before the call.
    pub(super) fn take(&self) -> Result<Reading> {
        let waiting = self.idle().waiting.pop();
        let mut reading = match waiting {
            Some(reading) => reading,
            None => self.open()?,
        };
        let epoch = self.epoch.load(Ordering::Acquire);
        if reading.epoch != Some(epoch) {
            reading.release()?;
            reading.pin(epoch)?;
        }
        Ok(reading)
    }

    /// A connection for whoever keeps it, without a snapshot as yet.
    pub(super) fn apart(&self) -> Result<Reading> {
        Ok(Reading {
            conn: database::open_reader(&self.dir, database::PASSING_CACHE_KIB)?,
            epoch: None,
        })
    }

    /// Runs `work` on a connection. A connection whose read failed is not used again.
    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reading = self.take()?;
        let answer = work(&reading.conn)?;
        self.give_back(reading)?;
        Ok(answer)
    }

    /// From here on, reads see what was folded.
    pub(super) fn advance(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn give_back(&self, mut reading: Reading) -> Result<()> {
        let mut idle = self.idle();
        if idle.releasing {
            reading.release()?;
        }
        idle.waiting.push(reading);
        Ok(())
    }

    /// Ends the snapshots of the connections that wait, which would keep the database's log long.
    pub(super) fn release(&self) {
        self.idle().waiting.retain_mut(|reading| reading.release().is_ok());
    }

    /// The same, and also of those that come back until `work` is done: however many reads run, no
    /// snapshot is older than the longest of them.
    pub(super) fn releasing<T>(&self, work: impl FnOnce() -> T) -> T {
        self.idle().releasing = true;
        self.release();
        let done = work();
        self.idle().releasing = false;
        done
    }

    /// Closes the connections that wait.
    pub(super) fn close(&self) {
        self.idle().waiting.clear();
    }

    /// The version of a record; 0 when there is none.
    pub(super) fn version(&self, key: &[u8]) -> Result<u64> {
        self.with(|conn| {
            let found = row(conn, key, Projection::Meta)?;
            Ok(found.map_or(0, |(record, _)| record.version))
        })
    }

    /// The record without a blob's bytes, and its home: 0 none, above 0 a row, below 0 a blob.
    pub(super) fn read(&self, key: &[u8], part: Projection) -> Result<Option<(Record, i64)>> {
        self.with(|conn| row(conn, key, part))
    }

    /// Due number, key and version of the records with `0 < due <= until`, the earliest first, of
    /// which `wanted` says yes, up to `limit`.
    pub(super) fn expired(
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
                let key = blob(row, 0)?;
                if wanted(key) {
                    let Data { expires_at, version, .. } = checked(key, blob(row, 1)?)?;
                    found.push((expires_at, Bytes::copy_from_slice(key), version));
                }
            }
            Ok(found)
        })
    }

    /// Hands the records of a range to `take` in order, those that are due too, until it says that
    /// it has enough.
    pub(super) fn scan(
        &self,
        reading: Reading,
        scan: &Scan,
        mut take: impl FnMut(Found<'_>) -> bool,
    ) -> Result<()> {
        {
            let statement = reading.conn.prepare_cached(SCAN);
            let mut statement: CachedStatement<'_> = statement.map_err(|e| failed(&e))?;
            let start = params![&scan.start[..]];
            let mut rows: Rows<'_> = statement.query(start).map_err(|e| failed(&e))?;
            while let Some(row) = rows.next().map_err(|e| failed(&e))? {
                let key = blob(row, 0)?;
                if *key >= scan.end[..] {
                    break;
                }
                let Data { version, expires_at, meta, .. } = checked(key, blob(row, 1)?)?;
                if !take(Found { key, version, expires_at, meta }) {
                    break;
                }
            }
        }
        self.give_back(reading)
    }
}

/// A record of the database, without its body.
pub(super) use super::super::ScannedRecord as Found;

/// See [`Readers::read`].
fn row(conn: &Connection, key: &[u8], part: Projection) -> Result<Option<(Record, i64)>> {
    let mut statement = conn.prepare_cached(HEAD).map_err(|e| failed(&e))?;
    let mut rows = statement.query(params![key]).map_err(|e| failed(&e))?;
    let Some(row) = rows.next().map_err(|e| failed(&e))? else { return Ok(None) };
    let Data { version, expires_at, home, meta } = checked(key, blob(row, 0)?)?;
    let meta = Bytes::copy_from_slice(meta);
    let body = match part {
        Projection::Full if home > 0 => body(conn, version, home)?,
        Projection::Full | Projection::Meta => Bytes::new(),
    };
    Ok(Some((Record { version, expires_at, meta, body: Body::Bytes(body) }, home)))
}

fn body(conn: &Connection, version: u64, home: i64) -> Result<Bytes> {
    let mut statement = conn.prepare_cached(BODY).map_err(|e| failed(&e))?;
    let mut rows = statement.query(params![home]).map_err(|e| failed(&e))?;
    let Some(row) = rows.next().map_err(|e| failed(&e))? else {
        return Err(EngineError::Corrupt(format!("body {home} is missing")));
    };
    let bytes = blob(row, 1)?;
    let sum: i64 = row.get(0).map_err(|e| misshapen(0, &e))?;
    if sum != i64::from(body_sum(version, bytes)) {
        return Err(EngineError::Corrupt(format!("body {home} does not match its checksum")));
    }
    Ok(Bytes::copy_from_slice(bytes))
}

fn checked<'d>(key: &[u8], data: &'d [u8]) -> Result<Data<'d>> {
    Data::decode(key, data).ok_or_else(|| {
        let key = String::from_utf8_lossy(key);
        EngineError::Corrupt(format!("record {key:?} does not match its checksum"))
    })
}

fn blob<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8]> {
    let value = row.get_ref(column).map_err(|e| misshapen(column, &e))?;
    value.as_blob().map_err(|e| EngineError::Corrupt(format!("column {column}: {e}")))
}

fn misshapen(column: usize, e: &rusqlite::Error) -> EngineError {
    EngineError::Corrupt(format!("column {column}: {e}"))
}
