//! Reads of the database, each on a connection of its own from a small pool.
//!
//! A connection keeps its snapshot from one read to the next, as long as nothing was folded in
//! between: then a read takes no lock of the database, and finds its cached pages as they were.

use super::super::{Body, EngineError, Projection, Record, Result, Scan};
use super::database::{self, RecordRow, body_checksum, sqlite_error};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, Row, Rows, params};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SELECT_RECORD: &str = "SELECT data FROM heads WHERE key = ?1";
const SELECT_BODY: &str = "SELECT sum, body FROM bodies WHERE id = ?1";
/// Has no end: to compare a key here takes fewer steps than it takes the database.
const SELECT_RANGE: &str = "SELECT key, data FROM heads WHERE key >= ?1 ORDER BY key";
const SELECT_EXPIRED: &str = "SELECT key, data FROM heads WHERE due > 0 AND due <= ?1 ORDER BY due";

/// KiB of pages that a connection keeps. Those that are used while reads find their pages in
/// memory, as many as the runtime has threads for requests, keep the inner pages of large trees;
/// those that are made when many reads wait for the disk do not.
const LARGE_CACHE_KIB: u32 = 24 * 1024;
const SMALL_CACHE_KIB: u32 = 2 * 1024;
/// Connections with the large cache.
const LARGE_CACHES_MAX: u64 = 4;

/// Connections that wait for their next read. As many are made as reads run at once, and the
/// runtime bounds those by its threads.
pub(super) struct ConnectionPool {
    dir: PathBuf,
    idle: Mutex<IdleConnections>,
    /// Connections that were made.
    opened: AtomicU64,
    /// Grows with every fold that readers can see.
    epoch: AtomicU64,
}

#[derive(Default)]
struct IdleConnections {
    connections: Vec<PooledConnection>,
    /// Whether none may keep its snapshot while it waits.
    without_idle_snapshots: bool,
}

/// A connection for reads, and the epoch of its snapshot.
pub(super) struct PooledConnection {
    conn: Connection,
    epoch: Option<u64>,
}

impl PooledConnection {
    /// Takes a snapshot of all that is folded.
    pub(super) fn begin_snapshot(&mut self, epoch: u64) -> Result<()> {
        self.conn.execute_batch("BEGIN").map_err(|e| sqlite_error(&e))?;
        self.epoch = Some(epoch);
        // The first read takes the snapshot.
        let mut begin_snapshot = self.conn.prepare_cached("SELECT id FROM meta");
        let begin_snapshot = begin_snapshot.as_mut().map_err(|e| sqlite_error(e))?;
        begin_snapshot.query_row([], |_| Ok(())).map_err(|e| sqlite_error(&e))
    }

    /// The first `limit` records of a range for which `filter` says yes, and where their bodies
    /// are.
    pub(super) fn records(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        filter: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<(Bytes, Record, i64)>> {
        let mut statement = self.conn.prepare_cached(SELECT_RANGE).map_err(|e| sqlite_error(&e))?;
        let mut rows = statement.query(params![start]).map_err(|e| sqlite_error(&e))?;
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = rows.next().map_err(|e| sqlite_error(&e))?
        {
            let key = blob_column(row, 0)?;
            if key >= end {
                break;
            }
            if !filter(key) {
                continue;
            }
            let RecordRow { version, expires_at, body_ref, meta } =
                decode_row(key, blob_column(row, 1)?)?;
            let meta = Bytes::copy_from_slice(meta);
            let record = Record { version, expires_at, meta, body: Body::EMPTY };
            found.push((Bytes::copy_from_slice(key), record, body_ref));
        }
        Ok(found)
    }

    /// The body that the database keeps for a record of this version.
    pub(super) fn body(&self, version: u64, body_ref: i64) -> Result<Bytes> {
        read_body(&self.conn, version, body_ref)
    }

    /// Ends the snapshot.
    fn end_snapshot(&mut self) -> Result<()> {
        if self.epoch.take().is_some() {
            self.conn.execute_batch("COMMIT").map_err(|e| sqlite_error(&e))?;
        }
        Ok(())
    }
}

impl ConnectionPool {
    pub(super) fn new(dir: PathBuf) -> ConnectionPool {
        ConnectionPool {
            dir,
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
        }
    }

    fn idle(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<PooledConnection> {
        let large = self.opened.fetch_add(1, Ordering::Relaxed) < LARGE_CACHES_MAX;
        let cache = if large { LARGE_CACHE_KIB } else { SMALL_CACHE_KIB };
        Ok(PooledConnection { conn: database::open_reader(&self.dir, cache)?, epoch: None })
    }

    /// A connection with a snapshot of all that was folded before the call.
    pub(super) fn acquire(&self) -> Result<PooledConnection> {
        let connections = self.idle().connections.pop();
        let mut pooled = match connections {
            Some(pooled) => pooled,
            None => self.open()?,
        };
        let epoch = self.epoch.load(Ordering::Acquire);
        if pooled.epoch != Some(epoch) {
            pooled.end_snapshot()?;
            pooled.begin_snapshot(epoch)?;
        }
        Ok(pooled)
    }

    /// A connection for whoever keeps it, without a snapshot as yet.
    pub(super) fn dedicated(&self) -> Result<PooledConnection> {
        Ok(PooledConnection {
            conn: database::open_reader(&self.dir, database::SCAN_CACHE_KIB)?,
            epoch: None,
        })
    }

    /// Runs `work` on a connection. A connection whose read failed is not used again.
    fn with_connection<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let pooled = self.acquire()?;
        let answer = work(&pooled.conn)?;
        self.release(pooled)?;
        Ok(answer)
    }

    /// From here on, reads see what was folded.
    pub(super) fn advance_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn release(&self, mut pooled: PooledConnection) -> Result<()> {
        let mut idle = self.idle();
        if idle.without_idle_snapshots {
            pooled.end_snapshot()?;
        }
        idle.connections.push(pooled);
        Ok(())
    }

    /// Ends the snapshots of the connections that wait, which would keep the database's log long.
    pub(super) fn end_idle_snapshots(&self) {
        self.idle().connections.retain_mut(|pooled| pooled.end_snapshot().is_ok());
    }

    /// The same, and also of those that come back until `work` is done: however many reads run, no
    /// snapshot is older than the longest of them.
    pub(super) fn without_idle_snapshots<T>(&self, work: impl FnOnce() -> T) -> T {
        self.idle().without_idle_snapshots = true;
        self.end_idle_snapshots();
        let done = work();
        self.idle().without_idle_snapshots = false;
        done
    }

    /// Closes the connections that wait.
    pub(super) fn close(&self) {
        self.idle().connections.clear();
    }

    /// The version of a record; 0 when there is none.
    pub(super) fn version(&self, key: &[u8]) -> Result<u64> {
        self.with_connection(|conn| {
            let found = row(conn, key, Projection::Meta)?;
            Ok(found.map_or(0, |(record, _)| record.version))
        })
    }

    /// The record without a blob's bytes, and its home: 0 none, above 0 a row, below 0 a blob.
    pub(super) fn read(&self, key: &[u8], projection: Projection) -> Result<Option<(Record, i64)>> {
        self.with_connection(|conn| row(conn, key, projection))
    }

    /// Due number, key and version of the records with `0 < due <= until`, the earliest first, of
    /// which `filter` says yes, up to `limit`.
    pub(super) fn expired(
        &self,
        until: u64,
        limit: usize,
        filter: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<(u64, Bytes, u64)>> {
        self.with_connection(|conn| {
            let mut statement =
                conn.prepare_cached(SELECT_EXPIRED).map_err(|e| sqlite_error(&e))?;
            let until = i64::try_from(until).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![until]).map_err(|e| sqlite_error(&e))?;
            let mut found = Vec::new();
            while found.len() < limit
                && let Some(row) = rows.next().map_err(|e| sqlite_error(&e))?
            {
                let key = blob_column(row, 0)?;
                if filter(key) {
                    let RecordRow { expires_at, version, .. } =
                        decode_row(key, blob_column(row, 1)?)?;
                    found.push((expires_at, Bytes::copy_from_slice(key), version));
                }
            }
            Ok(found)
        })
    }

    /// Hands the records of a range to `acquire` in order, those that are due too, until it says that
    /// it has enough.
    pub(super) fn scan(
        &self,
        pooled: PooledConnection,
        scan: &Scan,
        mut acquire: impl FnMut(ScannedRecord<'_>) -> bool,
    ) -> Result<()> {
        {
            let statement = pooled.conn.prepare_cached(SELECT_RANGE);
            let mut statement: CachedStatement<'_> = statement.map_err(|e| sqlite_error(&e))?;
            let start = params![&scan.start[..]];
            let mut rows: Rows<'_> = statement.query(start).map_err(|e| sqlite_error(&e))?;
            while let Some(row) = rows.next().map_err(|e| sqlite_error(&e))? {
                let key = blob_column(row, 0)?;
                if *key >= scan.end[..] {
                    break;
                }
                let RecordRow { version, expires_at, meta, .. } =
                    decode_row(key, blob_column(row, 1)?)?;
                if !acquire(ScannedRecord { key, version, expires_at, meta }) {
                    break;
                }
            }
        }
        self.release(pooled)
    }
}

/// A record of the database, without its body.
pub(super) use super::super::ScannedRecord;

/// See [`ConnectionPool::read`].
fn row(conn: &Connection, key: &[u8], projection: Projection) -> Result<Option<(Record, i64)>> {
    let mut statement = conn.prepare_cached(SELECT_RECORD).map_err(|e| sqlite_error(&e))?;
    let mut rows = statement.query(params![key]).map_err(|e| sqlite_error(&e))?;
    let Some(row) = rows.next().map_err(|e| sqlite_error(&e))? else { return Ok(None) };
    let RecordRow { version, expires_at, body_ref, meta } = decode_row(key, blob_column(row, 0)?)?;
    let meta = Bytes::copy_from_slice(meta);
    let read_body = match projection {
        Projection::Full if body_ref > 0 => read_body(conn, version, body_ref)?,
        Projection::Full | Projection::Meta => Bytes::new(),
    };
    Ok(Some((Record { version, expires_at, meta, body: Body::Bytes(read_body) }, body_ref)))
}

fn read_body(conn: &Connection, version: u64, body_ref: i64) -> Result<Bytes> {
    let mut statement = conn.prepare_cached(SELECT_BODY).map_err(|e| sqlite_error(&e))?;
    let mut rows = statement.query(params![body_ref]).map_err(|e| sqlite_error(&e))?;
    let Some(row) = rows.next().map_err(|e| sqlite_error(&e))? else {
        return Err(EngineError::Corrupt(format!("body {body_ref} is missing")));
    };
    let bytes = blob_column(row, 1)?;
    let sum: i64 = row.get(0).map_err(|e| column_error(0, &e))?;
    if sum != i64::from(body_checksum(version, bytes)) {
        return Err(EngineError::Corrupt(format!("body {body_ref} does not match its checksum")));
    }
    Ok(Bytes::copy_from_slice(bytes))
}

fn decode_row<'d>(key: &[u8], data: &'d [u8]) -> Result<RecordRow<'d>> {
    RecordRow::decode(key, data).ok_or_else(|| {
        let key = String::from_utf8_lossy(key);
        EngineError::Corrupt(format!("record {key:?} does not match its checksum"))
    })
}

fn blob_column<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8]> {
    let value = row.get_ref(column).map_err(|e| column_error(column, &e))?;
    value.as_blob().map_err(|e| EngineError::Corrupt(format!("column {column}: {e}")))
}

fn column_error(column: usize, e: &rusqlite::Error) -> EngineError {
    EngineError::Corrupt(format!("column {column}: {e}"))
}
