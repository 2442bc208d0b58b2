//! The PostgreSQL engine. Any number of processes can share one database, which must support the
//! PostgreSQL protocol. A process stores no data of its own. Concurrent reads share statements, and
//! concurrent commits share transactions.
//!
//! A commit locks the rows it needs (`FOR UPDATE` those it writes, `FOR SHARE` those it only
//! checks), evaluates the preconditions, writes and commits. The process assigns a version greater
//! than the versions of all locked rows and all versions that it assigned before. A removed record
//! leaves a tombstone for an hour. By the time the tombstone is purged, the version floor exceeds
//! the tombstone's version. The versions of a key therefore increase, whichever process writes.

mod commit;
mod connection;
mod group_commit;
mod maintenance;
mod read_batch;
mod snapshot;
mod sql;

use super::{
    BlobWriter, Body, BoxFuture, Commit, Engine, EngineError, Outcome, Projection, ReadFuture,
    Record, Result, Scan, ScanPage, ScannedRecord, Snapshot, Stats,
};
use bytes::{Bytes, BytesMut};
use connection::{Fault, Params, Role, run_pooled_query};
use deadpool_postgres::{Client, Pool};
use group_commit::GroupCommitter;
use read_batch::{BatchedRead, ReadBatcher};
use snapshot::SnapshotReader;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::Row;

/// Time limit for retrying a request. It is longer than a typical failover of the primary.
const RETRY_TIMEOUT: Duration = Duration::from_secs(25);
/// Shortest and longest pause between retries.
const BACKOFF_MIN: Duration = Duration::from_millis(2);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Time limit of a scan on a standby, after which the scan is sent to the primary.
const STANDBY_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of memory per semaphore permit.
const PERMIT_BYTES: u64 = 1024;

/// Connection options.
#[derive(Clone)]
pub struct Options {
    /// Database URL: `postgres://user:password@host[:port][,host...]/database[?sslmode=...]`.
    pub url: String,
    /// URL of standbys for eventually consistent scans, which fall back to the primary.
    pub standby: Option<String>,
    /// Maximum number of connections to the primary. The same limit applies to the standbys.
    pub connections: usize,
    /// Memory limit for large bodies that are being read, in bytes. Further reads wait.
    pub reading_bytes: u64,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// An engine that stores its records in a PostgreSQL database.
pub struct Postgres {
    inner: Arc<Inner>,
    reads: ReadBatcher,
    commits: GroupCommitter,
    maintenance: JoinHandle<()>,
}

struct Inner {
    pool: Pool,
    standby: Option<Pool>,
    /// One permit for each [`PERMIT_BYTES`] of large bodies in memory.
    read_memory: Arc<Semaphore>,
    read_permits: u32,
    /// The last version assigned by this process.
    last_version: AtomicU64,
    closed: AtomicBool,
    /// Difference between the database's time since the Unix epoch and the time since `opened`, in
    /// microseconds.
    clock_offset_micros: AtomicI64,
    opened: Instant,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    conflicts: AtomicU64,
    groups: AtomicU64,
    sync_micros: AtomicU64,
}

impl Postgres {
    /// Connects, creates the tables if they do not exist, and starts maintenance.
    ///
    /// # Errors
    /// Fails if the database is unreachable or its tables have an unsupported format.
    pub async fn open(options: Options) -> Result<Postgres> {
        let pool_of = |url: &str, role| connection::pool(url, options.connections, role);
        let pool = pool_of(&options.url, Role::Primary)?;
        let standby = options.standby.as_deref().map(|url| pool_of(url, Role::Standby));
        let standby = standby.transpose()?;
        let permits = u32::try_from(options.reading_bytes / PERMIT_BYTES).unwrap_or(u32::MAX);
        let read_permits = permits.clamp(1, u32::MAX >> 4);
        let inner = Arc::new(Inner {
            pool,
            standby,
            read_memory: Arc::new(Semaphore::new(read_permits as usize)),
            read_permits,
            last_version: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            clock_offset_micros: AtomicI64::new(0),
            opened: Instant::now(),
            counters: Counters::default(),
        });
        inner.prepare().await?;
        inner.run_maintenance().await?;
        let maintenance = tokio::spawn(maintenance::run(Arc::downgrade(&inner)));
        let (reads, commits) = (ReadBatcher::new(&inner), GroupCommitter::new(&inner));
        Ok(Postgres { inner, reads, commits, maintenance })
    }

    /// Returns the database's time in microseconds since the Unix epoch. Processes agree on it to
    /// within about half a round trip.
    pub fn now(&self) -> u64 {
        self.inner.now()
    }
}

/// Retries with exponential backoff until a deadline.
struct Backoff {
    deadline: Instant,
    pause: Duration,
}

impl Backoff {
    fn new() -> Backoff {
        Backoff::until(Instant::now() + RETRY_TIMEOUT)
    }

    fn until(deadline: Instant) -> Backoff {
        Backoff { deadline, pause: BACKOFF_MIN }
    }

    /// Waits before the next attempt. Fails if the fault is permanent or the deadline has passed.
    async fn wait(&mut self, fault: Fault) -> Result<()> {
        if matches!(fault, Fault::Rejected(_)) || Instant::now() >= self.deadline {
            return Err(fault.into());
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

fn contention() -> EngineError {
    EngineError::Unavailable("the transaction kept conflicting with concurrent transactions".into())
}

impl Inner {
    async fn client(&self) -> Result<Client, Fault> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::Rejected(EngineError::Closed));
        }
        Ok(self.pool.get().await?)
    }

    /// Runs an idempotent statement, with retries.
    async fn query(&self, text: &str, params: Params<'_>) -> Result<Vec<Row>> {
        self.query_large(0, text, params).await
    }

    /// Runs an idempotent statement that returns up to `bytes` bytes, with retries.
    async fn query_large(&self, bytes: u64, text: &str, params: Params<'_>) -> Result<Vec<Row>> {
        let mut backoff = Backoff::new();
        loop {
            let attempt = async {
                let client = self.client().await?;
                run_pooled_query(client, bytes, text, params).await
            };
            match attempt.await {
                Ok(rows) => return Ok(rows),
                Err(fault) => backoff.wait(fault).await?,
            }
        }
    }

    /// Runs a query on a standby. Returns `None` if no standby is configured, the query fails or it
    /// times out.
    async fn query_standby(&self, text: &str, params: Params<'_>) -> Option<Vec<Row>> {
        let pool = self.standby.as_ref()?;
        let attempt = async {
            let client = pool.get().await.map_err(Fault::from)?;
            run_pooled_query(client, 0, text, params).await
        };
        match tokio::time::timeout(STANDBY_TIMEOUT, attempt).await {
            Ok(Ok(rows)) => Some(rows),
            Ok(Err(fault)) => {
                tracing::debug!(?fault, "query on the standby failed; using the primary");
                None
            }
            Err(_) => {
                tracing::debug!("query on the standby timed out; using the primary");
                None
            }
        }
    }

    /// Reserves `len` bytes of memory and reads a record with a body of up to that size. Returns
    /// `None` if the body has grown beyond that size or the record was removed.
    async fn read_large(&self, key: &[u8], len: u64) -> Result<Option<Record>> {
        let permit = self.reserve_memory(len).await?;
        let rows = self.query_large(len, sql::READ_LARGE, &[&key, &signed(len)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let bytes = row.try_get(3).map_err(malformed_row)?;
        let body = AccountedBody { bytes, _permit: permit };
        record_at(row, 0, Bytes::from_owner(body)).map(Some)
    }

    /// Reserves `len` bytes of the memory limit for large bodies. Waits for up to
    /// [`RETRY_TIMEOUT`].
    async fn reserve_memory(&self, len: u64) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(len.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permits = permits.min(self.read_permits);
        let acquired = self.read_memory.clone().acquire_many_owned(permits);
        match tokio::time::timeout(RETRY_TIMEOUT, acquired).await {
            Ok(permit) => permit.map_err(|_| EngineError::Closed),
            Err(_) => Err(EngineError::Unavailable("too many large values are being read".into())),
        }
    }

    /// Assigns a version that is at least `min` and greater than all versions assigned before.
    fn next_version(&self, min: u64) -> u64 {
        let next = |last: u64| Some(min.max(last + 1));
        match self.last_version.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(last) | Err(last) => min.max(last + 1),
        }
    }

    /// Ensures that versions assigned from now on exceed `floor`.
    fn raise_last_version(&self, floor: u64) {
        self.last_version.fetch_max(floor, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        let elapsed = i64::try_from(self.opened.elapsed().as_micros()).unwrap_or(i64::MAX);
        let offset = self.clock_offset_micros.load(Ordering::Relaxed);
        elapsed.saturating_add(offset).max(0).cast_unsigned()
    }
}

/// A large body in memory, with its permit from the memory limit.
struct AccountedBody {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for AccountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Decodes a record from the columns version, due and head, starting at column `first`.
fn record_at(row: &Row, first: usize, body: Bytes) -> Result<Record> {
    let (version, expires_at) = (number(row, first)?, number(row, first + 1)?);
    let meta = Bytes::copy_from_slice(bytes(row, first + 2)?);
    Ok(Record { version, expires_at, meta, body: Body::Bytes(body) })
}

fn malformed_row(e: tokio_postgres::Error) -> EngineError {
    EngineError::Corrupt(format!("malformed row: {e}"))
}

fn number(row: &Row, column: usize) -> Result<u64> {
    let number: i64 = row.try_get(column).map_err(malformed_row)?;
    Ok(number.cast_unsigned())
}

fn bytes(row: &Row, column: usize) -> Result<&[u8]> {
    row.try_get(column).map_err(malformed_row)
}

/// Converts to the database's integer type, saturating.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Engine for Postgres {
    fn read<'a>(&'a self, key: &'a [u8], projection: Projection) -> ReadFuture<'a> {
        Box::pin(async move {
            // Repeats if the record has changed since the size of its body was read.
            loop {
                let len = match self.reads.read(key, projection).await? {
                    BatchedRead::Absent => return Ok(None),
                    BatchedRead::Record(record) => return Ok(Some(record)),
                    BatchedRead::Large(len) => len,
                };
                if let Some(record) = self.inner.read_large(key, len).await? {
                    return Ok(Some(record));
                }
            }
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            let (start, end) = (&scan.start[..], &scan.end[..]);
            let (skip, limit) = (signed(scan.skip_expired_at), signed(scan.limit as u64));
            let params: Params<'_> = &[&start, &end, &skip, &limit];
            let stale = match scan.eventual {
                true => self.inner.query_standby(sql::SCAN, params).await,
                false => None,
            };
            let rows = match stale {
                Some(rows) => rows,
                None => self.inner.query(sql::SCAN, params).await?,
            };
            let mut page = ScanPage::with_capacity(rows.len());
            for row in &rows {
                let (version, expires_at) = (number(row, 1)?, number(row, 2)?);
                let (key, meta) = (bytes(row, 0)?, bytes(row, 3)?);
                page.push(ScannedRecord { key, version, expires_at, meta });
            }
            Ok(page)
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            let snapshot = SnapshotReader::open(&self.inner).await?;
            Ok(Box::new(snapshot) as Box<dyn Snapshot>)
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(async move {
            let (until, limit) = (signed(until), signed(limit as u64));
            let rows = self.inner.query(sql::EXPIRED, &[&until, &limit]).await?;
            let decode = |row: &Row| Ok((Bytes::copy_from_slice(bytes(row, 0)?), number(row, 1)?));
            rows.iter().map(decode).collect()
        })
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let rows = self.inner.query(sql::COUNT, &[&i32::from(first)]).await?;
            let count = rows.first().map_or(Ok(0_i64), |row| row.try_get(0));
            Ok(u64::try_from(count.map_err(malformed_row)?).unwrap_or(0))
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(self.commits.commit(commit))
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        Box::pin(async move { Ok(Box::new(BufferedBlobWriter::default()) as Box<dyn BlobWriter>) })
    }

    fn buffers_blobs(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.maintenance.abort();
            self.inner.publish_last_version().await;
            self.inner.closed.store(true, Ordering::Release);
            self.inner.pool.close();
            self.inner.standby.as_ref().inspect(|pool| pool.close());
            Ok(())
        })
    }

    fn stats(&self) -> Stats {
        let counters = &self.inner.counters;
        Stats {
            commits: counters.commits.load(Ordering::Relaxed),
            conflicts: counters.conflicts.load(Ordering::Relaxed),
            groups: counters.groups.load(Ordering::Relaxed),
            sync_micros: counters.sync_micros.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}

/// Buffers a blob in memory, because the protocol transfers a value as a whole.
#[derive(Default)]
struct BufferedBlobWriter(BytesMut);

impl BlobWriter for BufferedBlobWriter {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>> {
        self.0.extend_from_slice(&chunk);
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body>> {
        Box::pin(async move { Ok(Body::Bytes(self.0.freeze())) })
    }
}
