//! The scale-out engine: any number of processes over one database that speaks the PostgreSQL
//! protocol. The database alone knows what is true; a process keeps nothing but connections. Reads
//! that come at the same time share a statement.
//!
//! A transaction makes the commits that wait together: it locks the rows they name (`for update`
//! what they write, `for share` what they only expect), checks, writes and ends. Versions are
//! chosen by the process, above every version of the rows that are locked and above all it chose
//! before; a removed record leaves a row for an hour, and later a floor for all versions, so that
//! they grow under each key, whichever process writes.

mod commit;
mod connection;
mod group_commit;
mod maintenance;
mod read_batch;
mod snapshot;
mod sql;

use super::{
    BlobWriter, Body, BoxFuture, Commit, Engine, EngineError, Outcome, Projection, Record, Result,
    Scan, ScanPage, ScannedRecord, Snapshot, Stats,
};
use bytes::{Bytes, BytesMut};
use connection::{Fault, evict, timely_with};
use deadpool_postgres::{Client, Pool};
use group_commit::Groups;
use read_batch::{Found, Reads};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// For how long a request is tried again while no server answers it: longer than it takes a
/// cluster to choose another primary.
const PATIENCE: Duration = Duration::from_secs(25);
/// Pauses between tries.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// For how long a standby may make a scan wait before the primary is asked.
const STANDBY_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of a permit.
const UNIT: u64 = 1024;

/// How to reach the database.
#[derive(Clone)]
pub struct Options {
    /// `postgres://user:password@host[:port][,host...]/database[?sslmode=...]`.
    pub url: String,
    /// Where scans go that need not see the latest: a URL of standbys. They go to the primary when
    /// none of those answers.
    pub standby: Option<String>,
    /// Connections at most; as many to standbys.
    pub connections: usize,
    /// Bytes of large bodies held in memory for reading at once; reads wait for their share.
    pub reading_bytes: u64,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// See the module.
pub struct Postgres {
    inner: Arc<Inner>,
    reads: Reads,
    groups: Groups,
    tender: JoinHandle<()>,
}

struct Inner {
    pool: Pool,
    standby: Option<Pool>,
    /// One permit for each [`UNIT`] of large bodies in memory.
    reading: Arc<Semaphore>,
    reading_units: u32,
    /// The last version that this process chose.
    last: AtomicU64,
    closed: AtomicBool,
    /// By how many microseconds the database's clock is ahead of the one behind `opened`.
    clock: AtomicI64,
    opened: Instant,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    commits: AtomicU64,
    conflicts: AtomicU64,
    groups: AtomicU64,
    micros: AtomicU64,
}

impl Postgres {
    /// Connects, and makes the tables when they are not there.
    ///
    /// # Errors
    /// When no server answers, or the tables are of another version.
    pub async fn open(options: Options) -> Result<Postgres> {
        let pool = connection::pool(&options.url, options.connections, connection::Role::Primary)?;
        let standby = options.standby.as_deref();
        let standby = standby
            .map(|url| connection::pool(url, options.connections, connection::Role::Standby));
        let standby = standby.transpose()?;
        let units = u32::try_from(options.reading_bytes / UNIT).unwrap_or(u32::MAX >> 4);
        let reading_units = units.clamp(1, u32::MAX >> 4);
        let inner = Arc::new(Inner {
            pool,
            standby,
            reading: Arc::new(Semaphore::new(reading_units as usize)),
            reading_units,
            last: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            clock: AtomicI64::new(0),
            opened: Instant::now(),
            figures: Figures::default(),
        });
        inner.prepare().await?;
        inner.tend().await?;
        let tender = tokio::spawn(maintenance::run(Arc::downgrade(&inner)));
        let (reads, groups) = (Reads::new(&inner), Groups::new(&inner));
        Ok(Postgres { inner, reads, groups, tender })
    }

    /// The database's time, in microseconds since 1970; every process that asks sees the same, to
    /// about half of a round trip.
    pub fn now(&self) -> u64 {
        self.inner.now()
    }
}

/// Tries again, with growing pauses, for a bounded time.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Patience {
        Patience::until(Instant::now() + PATIENCE)
    }

    fn until(until: Instant) -> Patience {
        Patience { until, pause: PAUSE_MIN }
    }

    /// Waits before the next try, or says that there is none.
    async fn after(&mut self, fault: Fault) -> Result<()> {
        let why = match fault {
            Fault::Refused(e) => return Err(e),
            Fault::Crossed | Fault::Held => "others were in the way for too long".to_owned(),
            Fault::Cut(why) => why,
        };
        if Instant::now() >= self.until {
            return Err(EngineError::Unavailable(why));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

impl Inner {
    async fn client(&self) -> std::result::Result<Client, Fault> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::Refused(EngineError::Closed));
        }
        Ok(self.pool.get().await?)
    }

    /// Rows of a statement that changes nothing, however often it has to be sent.
    async fn rows(&self, text: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.rows_with(0, text, params).await
    }

    /// The same with rows of so many bytes.
    async fn rows_with(
        &self,
        bytes: u64,
        text: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let mut patience = Patience::new();
        loop {
            let sent = async {
                let client = self.client().await?;
                let rows = async {
                    let statement = client.prepare_cached(text).await?;
                    client.query(&statement, params).await
                };
                let rows = timely_with(bytes, rows).await;
                if let Err(Fault::Cut(_)) = rows {
                    evict(client);
                }
                rows
            };
            match sent.await {
                Ok(rows) => return Ok(rows),
                Err(fault) => patience.after(fault).await?,
            }
        }
    }

    /// Rows from a standby; `None` when there is none that answers soon.
    async fn earlier_rows(&self, text: &str, params: &[&(dyn ToSql + Sync)]) -> Option<Vec<Row>> {
        let pool = self.standby.as_ref()?;
        let asked = async {
            let client = pool.get().await.map_err(Fault::from)?;
            let rows = async {
                let statement = client.prepare_cached(text).await?;
                client.query(&statement, params).await
            };
            rows.await.map_err(|e| {
                evict(client);
                Fault::from(e)
            })
        };
        match tokio::time::timeout(STANDBY_PATIENCE, asked).await {
            Ok(Ok(rows)) => Some(rows),
            Ok(Err(fault)) => {
                tracing::debug!(?fault, "no standby answered; the primary is asked");
                None
            }
            Err(_) => {
                tracing::debug!("no standby answered in time; the primary is asked");
                None
            }
        }
    }

    /// A record with a body of up to `len` bytes, which is counted for as long as it is held;
    /// `None` when it has another by now.
    async fn large(&self, key: &[u8], len: u64) -> Result<Option<Record>> {
        let share = self.share(len).await?;
        let rows = self.rows_with(len, sql::READ_LARGE, &[&key, &signed(len)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let body = Held { bytes: row.try_get(3).map_err(misshapen)?, _share: share };
        record_at(row, 0, Bytes::from_owner(body)).map(Some)
    }

    /// A share of the bound of large bodies in memory.
    async fn share(&self, len: u64) -> Result<OwnedSemaphorePermit> {
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.reading_units);
        let share = self.reading.clone().acquire_many_owned(units).await;
        share.map_err(|_| EngineError::Closed)
    }

    /// A version that is at least `least` and above all that this process chose before.
    fn next_version(&self, least: u64) -> u64 {
        let next = |last: u64| Some(least.max(last + 1));
        match self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(last) | Err(last) => least.max(last + 1),
        }
    }

    /// No version is chosen up to `floor` any more.
    fn raise(&self, floor: u64) {
        self.last.fetch_max(floor, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        let since = i64::try_from(self.opened.elapsed().as_micros()).unwrap_or(i64::MAX);
        since.saturating_add(self.clock.load(Ordering::Relaxed)).max(0).cast_unsigned()
    }
}

/// A large body in memory, and its share of the bound.
struct Held {
    bytes: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A record of the columns version, due and head, which begin at `first`.
fn record_at(row: &Row, first: usize, body: Bytes) -> Result<Record> {
    let (version, expires_at) = (number(row, first)?, number(row, first + 1)?);
    let meta = Bytes::copy_from_slice(bytes(row, first + 2)?);
    Ok(Record { version, expires_at, meta, body: Body::Bytes(body) })
}

fn misshapen(e: tokio_postgres::Error) -> EngineError {
    EngineError::Corrupt(format!("a row of the database: {e}"))
}

fn number(row: &Row, column: usize) -> Result<u64> {
    let number: i64 = row.try_get(column).map_err(misshapen)?;
    Ok(number.cast_unsigned())
}

fn bytes(row: &Row, column: usize) -> Result<&[u8]> {
    row.try_get(column).map_err(misshapen)
}

/// As the database's numbers go.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Engine for Postgres {
    fn read<'a>(
        &'a self,
        key: &'a [u8],
        part: Projection,
    ) -> BoxFuture<'a, Result<Option<Record>>> {
        Box::pin(async move {
            // Until the body of one moment fits the share that was taken for it.
            loop {
                let len = match self.reads.read(key, part).await? {
                    Found::Nothing => return Ok(None),
                    Found::Record(record) => return Ok(Some(record)),
                    Found::Large(len) => len,
                };
                if let Some(found) = self.inner.large(key, len).await? {
                    return Ok(Some(found));
                }
            }
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            let (start, end) = (&scan.start[..], &scan.end[..]);
            let (skip, limit) = (signed(scan.skip_expired_at), signed(scan.limit as u64));
            let params: &[&(dyn ToSql + Sync)] = &[&start, &end, &skip, &limit];
            let earlier = match scan.eventual {
                true => self.inner.earlier_rows(sql::SCAN, params).await,
                false => None,
            };
            let rows = match earlier {
                Some(rows) => rows,
                None => self.inner.rows(sql::SCAN, params).await?,
            };
            let mut page = ScanPage::with_capacity(rows.len());
            for row in &rows {
                let (version, expires_at) = (number(row, 1)?, number(row, 2)?);
                page.push(ScannedRecord {
                    key: bytes(row, 0)?,
                    version,
                    expires_at,
                    meta: bytes(row, 3)?,
                });
            }
            Ok(page)
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            let frozen = snapshot::Frozen::of(&self.inner).await?;
            Ok(Box::new(frozen) as Box<dyn Snapshot>)
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(async move {
            let (until, limit) = (signed(until), signed(limit as u64));
            let rows = self.inner.rows(sql::DUE, &[&until, &limit]).await?;
            let found = |row: &Row| Ok((Bytes::copy_from_slice(bytes(row, 0)?), number(row, 1)?));
            rows.iter().map(found).collect()
        })
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let rows = self.inner.rows(sql::COUNT, &[&i32::from(first)]).await?;
            let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(misshapen)?;
            Ok(u64::try_from(count).unwrap_or(0))
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(self.groups.commit(commit))
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        Box::pin(async move { Ok(Box::new(Gathered::default()) as Box<dyn BlobWriter>) })
    }

    fn buffers_blobs(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.tender.abort();
            self.inner.leave().await;
            self.inner.closed.store(true, Ordering::Release);
            self.inner.pool.close();
            self.inner.standby.as_ref().inspect(|pool| pool.close());
            Ok(())
        })
    }

    fn stats(&self) -> Stats {
        let figures = &self.inner.figures;
        Stats {
            commits: figures.commits.load(Ordering::Relaxed),
            conflicts: figures.conflicts.load(Ordering::Relaxed),
            groups: figures.groups.load(Ordering::Relaxed),
            sync_micros: figures.micros.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}

/// A large body on its way in: the protocol takes a value whole.
#[derive(Default)]
struct Gathered(BytesMut);

impl BlobWriter for Gathered {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>> {
        self.0.extend_from_slice(&chunk);
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body>> {
        Box::pin(async move { Ok(Body::Bytes(self.0.freeze())) })
    }
}
