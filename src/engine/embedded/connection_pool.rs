//! A pool of read-only connections to the database.
//!
//! A pooled connection keeps its read transaction between reads until the next checkpoint step.
//! Reads then take no SQLite lock and reuse the connection's page cache.

use super::super::{Body, EngineError, Projection, Record, Result, ScannedRecord};
use super::data_dir::DataDir;
use super::database::{self, BodyRef, RecordRow, body_checksum};
use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SELECT_RECORD: &str = "SELECT data FROM heads WHERE key = ?1";
const SELECT_BODY: &str = "SELECT sum, body FROM bodies WHERE id = ?1";
/// No upper bound, as comparing keys in Rust is cheaper than having SQLite do it.
const SELECT_RANGE: &str = "SELECT key, data FROM heads WHERE key >= ?1 ORDER BY key";
/// The pair of columns comes first, as SQLite seeks by the first lower bound on an index.
const SELECT_EXPIRED: &str = "SELECT key, data FROM heads \
    WHERE (due, key) >= (?1, ?2) AND due > 0 AND due <= ?3 ORDER BY due, key";

/// Page cache per connection, in KiB. The first connections, about one per request thread, serve
/// the reads that hit memory and cache the inner pages of large trees. Connections added while many
/// reads wait for the disk have a small cache.
const LARGE_CACHE_KIB: u32 = 24 * 1024;
const SMALL_CACHE_KIB: u32 = 2 * 1024;
/// Maximum number of connections with the large cache.
const LARGE_CACHES_MAX: usize = 4;

/// Limit of open connections on machines with few cores. More concurrent reads do not increase the
/// throughput of a disk.
const CONNECTIONS_MAX: usize = 32;
/// Maximum time between two checks for a connection while all are in use.
const WAIT: Duration = Duration::from_millis(10);

/// A pool of connections. A new one is opened if none is idle, up to a limit.
pub(super) struct ConnectionPool {
    dir: Arc<DataDir>,
    idle: Mutex<IdleConnections>,
    /// Notified when a connection becomes idle.
    released: Condvar,
    slots: Arc<Slots>,
    connections_max: usize,
    /// Incremented when a checkpoint step becomes visible to readers.
    epoch: AtomicU64,
}

/// A position in the order of expiry times and keys.
pub(super) type ExpiryPosition = (u64, Bytes);

/// How a scan of the database continues.
pub(super) enum ScanStep {
    /// With the next record.
    Next,
    /// With the first record at or after a key.
    Seek(Bytes),
    Stop,
}

#[derive(Default)]
struct IdleConnections {
    /// Idle connections, the most recently used last.
    connections: Vec<PooledConnection>,
    /// Number of connections that were not used since the last call to `close_unused`.
    unused: usize,
    /// Whether connections must end their snapshots when they become idle.
    discard_snapshots: bool,
}

/// The numbers of open connections, and of those with a large cache.
#[derive(Debug, Default)]
struct Slots {
    open: AtomicUsize,
    large: AtomicUsize,
}

/// An open connection's slot in the limits; released on drop.
struct Slot {
    slots: Arc<Slots>,
    is_large: bool,
}

impl Slot {
    fn take(slots: &Arc<Slots>, max: usize) -> Option<Slot> {
        let below = |max: usize| move |count: usize| (count < max).then_some(count + 1);
        let (acquire, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        slots.open.fetch_update(acquire, relaxed, below(max)).ok()?;
        let large = slots.large.fetch_update(acquire, relaxed, below(LARGE_CACHES_MAX));
        Some(Slot { slots: slots.clone(), is_large: large.is_ok() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.large.fetch_sub(usize::from(self.is_large), Ordering::AcqRel);
        self.slots.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A read-only connection, and the epoch of its snapshot if it has one.
pub(super) struct PooledConnection {
    conn: Connection,
    epoch: Option<u64>,
    _slot: Option<Slot>,
}

impl PooledConnection {
    pub(super) fn begin_snapshot(&mut self, epoch: u64) -> Result<()> {
        self.conn.execute_batch("BEGIN")?;
        self.epoch = Some(epoch);
        // SQLite takes the snapshot at the first read of a transaction.
        let mut first_read = self.conn.prepare_cached("SELECT id FROM meta")?;
        Ok(first_read.query_row([], |_| Ok(()))?)
    }

    /// Returns the first `limit` records of a range whose keys pass `filter`, each with its body
    /// reference.
    pub(super) fn records(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        filter: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<(Bytes, Record, BodyRef)>> {
        let mut statement = self.conn.prepare_cached(SELECT_RANGE)?;
        let mut rows = statement.query(params![start])?;
        let mut records = Vec::new();
        while records.len() < limit
            && let Some(row) = rows.next()?
        {
            let key = column(row, 0)?;
            if key >= end {
                break;
            }
            if !filter(key) {
                continue;
            }
            let data = decode_row(key, column(row, 1)?)?;
            let RecordRow { version, expires_at, body, meta } = data;
            let meta = Bytes::copy_from_slice(meta);
            let record = Record { version, expires_at, meta, body: Body::EMPTY };
            records.push((Bytes::copy_from_slice(key), record, body));
        }
        Ok(records)
    }

    /// Returns the body in a row of `bodies`.
    pub(super) fn body(&self, version: u64, id: i64) -> Result<Bytes> {
        read_body(&self.conn, version, id)
    }

    fn end_snapshot(&mut self) -> Result<()> {
        if self.epoch.take().is_some() {
            self.conn.execute_batch("COMMIT")?;
        }
        Ok(())
    }
}

impl ConnectionPool {
    pub(super) fn new(dir: Arc<DataDir>) -> ConnectionPool {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        ConnectionPool {
            dir,
            idle: Mutex::default(),
            released: Condvar::new(),
            slots: Arc::default(),
            connections_max: CONNECTIONS_MAX.max(2 * threads),
            epoch: AtomicU64::new(0),
        }
    }

    fn idle(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an idle connection or opens one. Waits while `max` connections are open and in use.
    fn take(&self, max: usize) -> Result<PooledConnection> {
        let mut idle = self.idle();
        let slot = loop {
            if let Some(pooled) = idle.connections.pop() {
                idle.unused = idle.unused.min(idle.connections.len());
                return Ok(pooled);
            }
            if let Some(slot) = Slot::take(&self.slots, max) {
                break slot;
            }
            let waited = self.released.wait_timeout(idle, WAIT);
            idle = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        idle.unused = 0;
        drop(idle);
        let cache = if slot.is_large { LARGE_CACHE_KIB } else { SMALL_CACHE_KIB };
        let conn = database::open_reader(&self.dir, cache)?;
        Ok(PooledConnection { conn, epoch: None, _slot: Some(slot) })
    }

    /// Closes the connections that were idle since the last call, except for a few.
    pub(super) fn close_unused(&self) {
        let mut idle = self.idle();
        let surplus = idle.connections.len().saturating_sub(LARGE_CACHES_MAX).min(idle.unused);
        let closed: Vec<_> = idle.connections.drain(..surplus).collect();
        idle.unused = idle.connections.len();
        drop(idle);
        drop(closed);
    }

    /// Returns a connection whose snapshot includes all checkpoint steps before the call.
    pub(super) fn acquire(&self) -> Result<PooledConnection> {
        self.acquire_within(self.connections_max)
    }

    fn acquire_within(&self, max: usize) -> Result<PooledConnection> {
        let mut pooled = self.take(max)?;
        let epoch = self.epoch.load(Ordering::Acquire);
        if pooled.epoch != Some(epoch) {
            pooled.end_snapshot()?;
            pooled.begin_snapshot(epoch)?;
        }
        Ok(pooled)
    }

    /// Opens a connection outside of the pool, without a snapshot.
    pub(super) fn dedicated(&self) -> Result<PooledConnection> {
        let conn = database::open_reader(&self.dir, database::SCAN_CACHE_KIB)?;
        Ok(PooledConnection { conn, epoch: None, _slot: None })
    }

    /// Runs `work` on a connection. A connection whose read failed is closed.
    fn with_connection<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.with_acquired(self.acquire()?, work)
    }

    fn with_acquired<T>(
        &self,
        pooled: PooledConnection,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let result = work(&pooled.conn)?;
        self.release(pooled)?;
        Ok(result)
    }

    /// Makes the last checkpoint step visible to subsequent reads.
    pub(super) fn advance_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the number of open connections of the pool.
    #[cfg(test)]
    pub(super) fn open_connections(&self) -> usize {
        self.slots.open.load(Ordering::Acquire)
    }

    pub(super) fn release(&self, mut pooled: PooledConnection) -> Result<()> {
        let mut idle = self.idle();
        if idle.discard_snapshots {
            pooled.end_snapshot()?;
        }
        idle.connections.push(pooled);
        drop(idle);
        self.released.notify_one();
        Ok(())
    }

    /// Ends the snapshots of idle connections, which prevent SQLite from restarting its WAL.
    pub(super) fn end_idle_snapshots(&self) {
        self.idle().connections.retain_mut(|pooled| pooled.end_snapshot().is_ok());
    }

    /// Runs `work` while idle connections have no snapshots, so that no snapshot outlives its read.
    pub(super) fn without_idle_snapshots<T>(&self, work: impl FnOnce() -> T) -> T {
        self.idle().discard_snapshots = true;
        self.end_idle_snapshots();
        let result = work();
        self.idle().discard_snapshots = false;
        result
    }

    pub(super) fn close(&self) {
        self.idle().connections.clear();
    }

    /// Returns the version of a record for the writer; 0 if there is no record. Does not wait for
    /// reads to release a connection.
    pub(super) fn version(&self, key: &[u8]) -> Result<u64> {
        self.with_acquired(self.acquire_within(usize::MAX)?, |conn| {
            let record = read_record(conn, key, Projection::Meta)?;
            Ok(record.map_or(0, |(record, _)| record.version))
        })
    }

    /// Returns, for each key, whether the database has a record.
    pub(super) fn contains(&self, keys: &[Bytes]) -> Result<Vec<bool>> {
        self.with_connection(|conn| {
            let mut statement = conn.prepare_cached("SELECT 1 FROM heads WHERE key = ?1")?;
            let contains = |key: &Bytes| Ok(statement.exists(params![&key[..]])?);
            keys.iter().map(contains).collect()
        })
    }

    /// Returns a record and the reference to its body. Reads the body only if it is in a row of
    /// `bodies` and the projection includes bodies.
    pub(super) fn read(
        &self,
        key: &[u8],
        projection: Projection,
    ) -> Result<Option<(Record, BodyRef)>> {
        self.with_connection(|conn| read_record(conn, key, projection))
    }

    /// Passes the expiry time, key and version of the records with `0 < expires_at <= until` to
    /// `visit`, starting at `from`, in order of expiry time and key. Stops once `visit` returns
    /// `false`.
    pub(super) fn expired(
        &self,
        from: &ExpiryPosition,
        until: u64,
        mut visit: impl FnMut(u64, &[u8], u64) -> bool,
    ) -> Result<()> {
        self.with_connection(|conn| {
            let mut statement = conn.prepare_cached(SELECT_EXPIRED)?;
            let signed = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
            let (from_time, from_key) = from;
            let mut rows =
                statement.query(params![signed(*from_time), &from_key[..], signed(until)])?;
            while let Some(row) = rows.next()? {
                let key = column(row, 0)?;
                let RecordRow { expires_at, version, .. } = decode_row(key, column(row, 1)?)?;
                if !visit(expires_at, key, version) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Passes the records of a range to `visit` in key order, including expired ones, until `visit`
    /// returns [`ScanStep::Stop`]. Returns the connection to the pool.
    pub(super) fn scan(
        &self,
        pooled: PooledConnection,
        (start, end): (&Bytes, &Bytes),
        mut visit: impl FnMut(ScannedRecord<'_>) -> ScanStep,
    ) -> Result<()> {
        let mut next = Some(start.clone());
        while let Some(start) = next.take() {
            let mut statement = pooled.conn.prepare_cached(SELECT_RANGE)?;
            let mut rows = statement.query(params![&start[..]])?;
            while let Some(row) = rows.next()? {
                let key = column(row, 0)?;
                if *key >= end[..] {
                    break;
                }
                let RecordRow { version, expires_at, meta, .. } = decode_row(key, column(row, 1)?)?;
                match visit(ScannedRecord { key, version, expires_at, meta }) {
                    ScanStep::Next => {}
                    ScanStep::Seek(key) => {
                        next = Some(key);
                        break;
                    }
                    ScanStep::Stop => break,
                }
            }
        }
        self.release(pooled)
    }
}

fn read_record(
    conn: &Connection,
    key: &[u8],
    part: Projection,
) -> Result<Option<(Record, BodyRef)>> {
    let mut statement = conn.prepare_cached(SELECT_RECORD)?;
    let mut rows = statement.query(params![key])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let RecordRow { version, expires_at, body: body_ref, meta } = decode_row(key, column(row, 0)?)?;
    let meta = Bytes::copy_from_slice(meta);
    let body = match body_ref {
        BodyRef::Row(id) if part == Projection::Full => read_body(conn, version, id)?,
        BodyRef::Empty | BodyRef::Row(_) | BodyRef::Blob(_) | BodyRef::Segment(_) => Bytes::new(),
    };
    Ok(Some((Record { version, expires_at, meta, body: Body::Bytes(body) }, body_ref)))
}

/// Reads the body in a row of `bodies` and verifies its checksum.
pub(super) fn read_body(conn: &Connection, version: u64, id: i64) -> Result<Bytes> {
    let mut statement = conn.prepare_cached(SELECT_BODY)?;
    let mut rows = statement.query(params![id])?;
    let Some(row) = rows.next()? else {
        return Err(EngineError::Corrupt(format!("body {id} is missing")));
    };
    let bytes = column(row, 1)?;
    let checksum: i64 = row.get(0).map_err(|e| column_error(0, &e))?;
    if checksum != i64::from(body_checksum(version, bytes)) {
        return Err(EngineError::Corrupt(format!("body {id} does not match its checksum")));
    }
    Ok(Bytes::copy_from_slice(bytes))
}

fn decode_row<'d>(key: &[u8], data: &'d [u8]) -> Result<RecordRow<'d>> {
    RecordRow::decode(key, data).ok_or_else(|| {
        let key = String::from_utf8_lossy(key);
        EngineError::Corrupt(format!("record {key:?} does not match its checksum"))
    })
}

fn column<'r>(row: &'r Row<'_>, index: usize) -> Result<&'r [u8]> {
    let value = row.get_ref(index).map_err(|e| column_error(index, &e))?;
    value.as_blob().map_err(|e| column_error(index, &e))
}

fn column_error(index: usize, e: &dyn std::fmt::Display) -> EngineError {
    EngineError::Corrupt(format!("column {index} is invalid: {e}"))
}
