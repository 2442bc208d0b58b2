//! The embedded engine: a write-ahead log (WAL) whose segments store the bodies, an SQLite database
//! with the rest of each record and the location of its body, and blob files for large bodies.
//!
//! ```text
//! commit -> writer: check preconditions, append one WAL record, fsync -> memtable -> reply
//!                                                                           |
//!                                        checkpointer: batched transactions -> steadfast.db
//! read   -> read cache, else memtable (commits not yet checkpointed), else database
//!           -> body: WAL segment or blob file
//! ```
//!
//! A process that opens a data directory locks both the directory and its file `LOCK`. Only one
//! process at a time can therefore have a data directory open. docs/format.md describes the files,
//! and docs/durability.md describes the guarantees.

mod backpressure;
mod blob_files;
mod body_cache;
mod caller;
mod checkpoint;
mod connection_pool;
mod data_dir;
mod database;
mod garbage_collection;
mod hidden_ranges;
mod load_monitor;
mod maintenance;
mod memtable;
mod memtable_copy;
mod memtable_recovery;
mod migration;
mod parallel;
#[cfg(test)]
mod planted_faults;
mod read_cache;
mod read_path;
mod read_scheduler;
mod relocation;
mod repair;
mod replaced_bodies;
mod row_writer;
mod segment_allocation;
mod segment_body;
mod snapshot;
#[cfg(test)]
mod stepped_engine;
#[cfg(test)]
mod tests;
mod threads;
mod verify;
mod wal;
mod writer;

pub use data_dir::{is_locked, raise_file_limit};
pub use repair::reset_wal;
pub use verify::{VerifiedRecord, VerifyReport, verify};

use super::{
    BlobWriter, BoxFuture, Commit, Engine, EngineError, Outcome, Projection, ReadFuture, Result,
    Scan, ScanPage, Snapshot, Stats,
};
use backpressure::Backpressure;
use blob_files::{BlobFileWriter, BlobFiles};
use bytes::Bytes;
use caller::{Caller, CallerHandle};
use connection_pool::{ConnectionPool, ExpiryPosition};
use data_dir::DataDir;
use database::{CheckpointPosition, SegmentRow};
use memtable::Memtable;
use read_cache::ReadCache;
use read_path::{ReadPath, ScanAttempt};
use read_scheduler::ReadScheduler;
use snapshot::SnapshotReader;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};
use wal::record::WalEntry;
use wal::recovery::{self, RecoveredWal, RecoveryMode, SealedSegments};
use wal::segment::{Segment, SegmentFile, SegmentPool};
use writer::{QueuedCommit, WriterCommand};

/// Maximum number of commits in the writer's queue; further commits wait for a permit.
const COMMIT_QUEUE_MAX: usize = 4096;

/// The size of the read cache, divided by the size of the cache for large bodies.
const BLOB_CACHE_DIVISOR: u64 = 4;

/// Minimum speed of a scan whose pages are in memory, in records per microsecond.
const SCAN_RECORDS_PER_MICRO: usize = 4;

/// Options for opening a data directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; created if missing.
    pub dir: PathBuf,
    /// Size of the read cache for small records, in bytes. The cache for large bodies takes an
    /// additional quarter of this.
    pub cache_bytes: u64,
    /// Maximum WAL size in bytes that triggers a checkpoint. The size that does so depends on the
    /// amount of data. Writes are delayed above twice that size, and stall at four times that size.
    /// A larger WAL speeds up writes to large data sets, uses more memory and disk space, and slows
    /// down recovery after a crash.
    pub wal_bytes: u64,
    /// Called when a failed write or fsync leaves the state on disk unknown.
    pub fatal: FatalErrorHandler,
}

/// Stops the process when the state on disk is unknown, for example after a failed fsync.
#[derive(Clone)]
pub struct FatalErrorHandler(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalErrorHandler {
    /// Creates a handler that calls `stop` with the reason. `stop` should not return, except in
    /// tests.
    pub fn new(stop: impl Fn(&str) + Send + Sync + 'static) -> FatalErrorHandler {
        FatalErrorHandler(Arc::new(stop))
    }

    fn stop(&self, reason: &str) {
        (self.0)(reason);
    }
}

impl fmt::Debug for FatalErrorHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalErrorHandler")
    }
}

/// State shared by the engine's threads and callers.
struct Shared {
    cache: ReadCache,
    memtable: RwLock<Memtable>,
    /// Locked exclusively while a checkpoint step moves records from the memtable to the database.
    /// While the shared lock is held, each record is either in the memtable or in the database.
    checkpoint_lock: RwLock<()>,
    /// Held while a snapshot copies the memtable, which supports one copy at a time.
    copy_lock: Mutex<()>,
    wal_position: Mutex<WalPosition>,
    /// Sequence number after the newest segment with a durable commit.
    wal_end: AtomicU64,
    segments: SegmentPool,
    backpressure: Backpressure,
    counters: Counters,
    /// Position in expiry order below which every expiring record in the database is superseded by
    /// a memtable entry. Scans for expired records start here.
    expiry_position: Mutex<ExpiryPosition>,
    /// Number of records in the database, by the first byte of the key.
    record_counts: Vec<AtomicI64>,
    blob_bytes: AtomicI64,
    dir: Arc<DataDir>,
}

/// The start of a WAL segment: the next one to be allocated, or the active one.
#[derive(Clone, Copy, Debug)]
struct WalPosition {
    /// Segments before `seq` contain exactly the commits up to this version.
    version: u64,
    seq: u64,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    conflicts: AtomicU64,
    groups: AtomicU64,
    sync_micros: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    /// Number of records that scans visited, in the memtable and in the database.
    scanned: AtomicU64,
}

impl Shared {
    fn new(
        dir: Arc<DataDir>,
        memtable: Memtable,
        segments: SegmentPool,
        wal_position: WalPosition,
        (cache_bytes, wal_bytes): (u64, u64),
    ) -> Shared {
        Shared {
            cache: ReadCache::new(cache_bytes),
            memtable: RwLock::new(memtable),
            checkpoint_lock: RwLock::default(),
            copy_lock: Mutex::default(),
            wal_end: AtomicU64::new(0),
            wal_position: Mutex::new(wal_position),
            segments,
            backpressure: Backpressure::new(wal_bytes),
            counters: Counters::default(),
            expiry_position: Mutex::default(),
            record_counts: std::iter::repeat_with(AtomicI64::default).take(256).collect(),
            blob_bytes: AtomicI64::new(0),
            dir,
        }
    }

    fn memtable(&self) -> RwLockReadGuard<'_, Memtable> {
        self.memtable.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memtable_mut(&self) -> RwLockWriteGuard<'_, Memtable> {
        self.memtable.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the database has all commits.
    fn is_checkpointed(&self) -> bool {
        self.memtable().len() == 0
    }

    fn copy_lock(&self) -> MutexGuard<'_, ()> {
        self.copy_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checkpoint_lock(&self) -> RwLockReadGuard<'_, ()> {
        self.checkpoint_lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn checkpoint_lock_mut(&self) -> RwLockWriteGuard<'_, ()> {
        self.checkpoint_lock.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn wal_position_mut(&self) -> MutexGuard<'_, WalPosition> {
        self.wal_position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expiry_position(&self) -> MutexGuard<'_, ExpiryPosition> {
        self.expiry_position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wal_position(&self) -> WalPosition {
        *self.wal_position_mut()
    }

    /// Adapts the WAL size that triggers a checkpoint, and the size of new segment files, to the
    /// total live bytes.
    fn adapt_sizes(&self) {
        let live = self.segments.live_bytes();
        self.backpressure.adapt_wal_bytes(live);
        let records = self.record_counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let (records, wal_bytes) = (i64::cast_unsigned(records), self.backpressure.wal_bytes());
        self.segments.adapt_segment_bytes(live, records, wal_bytes);
    }

    fn add_to_count(&self, first: i64, delta: i64) {
        let counter = usize::try_from(first).ok().and_then(|first| self.record_counts.get(first));
        counter.unwrap_or(&self.blob_bytes).fetch_add(delta, Ordering::Relaxed);
    }
}

/// The sending half of the writer thread's queue; the thread ends when the last one is dropped.
type CommandSender = Arc<SyncSender<WriterCommand>>;

/// An open data directory; implements [`Engine`].
pub struct Embedded {
    shared: Arc<Shared>,
    read_path: Arc<ReadPath>,
    commands: Mutex<Option<CommandSender>>,
    commit_permits: Semaphore,
    threads: Mutex<Vec<JoinHandle<()>>>,
    scheduler: ReadScheduler,
}

impl Embedded {
    /// Opens a data directory, creating it if missing, and recovers from its WAL.
    ///
    /// # Errors
    /// Fails if another process has the directory open, or if the directory has an unknown format,
    /// is damaged or cannot be read.
    pub fn open(options: Options) -> Result<Embedded> {
        let Options { dir, cache_bytes, wal_bytes, fatal } = options;
        let dir = Arc::new(DataDir::create(&dir)?);
        let conn = database::open_writer(dir.path())?;
        dir.watch_files()?;
        let position = database::checkpoint_position(&conn)?;
        let rows = database::segment_rows(&conn)?;
        let (segments, files) = SegmentPool::open(dir.clone(), &rows)?;
        let files = (files, &rows[..]);
        let recovered = recover(&segments, files, position, &conn, RecoveryMode::ReadWrite)?;
        let (memtable, wal_position, newest) = recovered;
        let blobs = BlobFiles::create(dir.clone(), cache_bytes / BLOB_CACHE_DIVISOR, &fatal)?;
        dir.sync()?;
        let wal_end = newest.map_or(position.first_segment, |seq| seq + 1);
        let sizes = (cache_bytes, wal_bytes);
        let shared = Shared::new(dir, memtable, segments, wal_position, sizes);
        shared.wal_end.store(wal_end, Ordering::Relaxed);
        // Save `wal_end` only if the database does not record it yet, or if recovery found a newer
        // segment.
        if position.wal_end == 0 || position.wal_end.max(position.first_segment) < wal_end {
            expect_wal(&conn, &shared.segments, wal_end)?;
        }
        let mut engine = Embedded::new(shared, &conn, blobs)?;
        engine.shared.adapt_sizes();
        let (commands, threads) = threads::start(conn, &engine.read_path, &fatal, position.salt)?;
        engine.commands = Mutex::new(Some(commands));
        engine.threads = Mutex::new(threads);
        Ok(engine)
    }

    /// Opens an existing data directory for reading, without changing it. Commits fail with
    /// [`EngineError::Closed`].
    ///
    /// # Errors
    /// Same as [`Embedded::open`].
    pub fn open_read_only(dir: &Path) -> Result<Embedded> {
        let dir = Arc::new(DataDir::open_existing(dir)?);
        let conn = database::open_checked(&dir)?;
        let position = database::checkpoint_position(&conn)?;
        let rows = database::segment_rows(&conn)?;
        let (segments, files) = SegmentPool::open_read_only(dir.clone(), &rows)?;
        let files = (files, &rows[..]);
        let recovered = recover(&segments, files, position, &conn, RecoveryMode::ReadOnly)?;
        let (memtable, wal_position, _) = recovered;
        let blobs = BlobFiles::open(dir.clone(), 0, &FatalErrorHandler::new(|_| {}));
        let shared = Shared::new(dir, memtable, segments, wal_position, (0, u64::MAX));
        Embedded::new(shared, &conn, blobs)
    }

    /// Creates an engine without threads.
    fn new(shared: Shared, conn: &rusqlite::Connection, blobs: Arc<BlobFiles>) -> Result<Embedded> {
        load_record_counts(conn, &shared)?;
        let shared = Arc::new(shared);
        let pool = Arc::new(ConnectionPool::new(shared.dir.clone()));
        let read_path = Arc::new(ReadPath { shared: shared.clone(), pool, blobs });
        Ok(Embedded {
            shared,
            read_path,
            commands: Mutex::new(None),
            commit_permits: Semaphore::new(COMMIT_QUEUE_MAX),
            threads: Mutex::default(),
            scheduler: ReadScheduler::default(),
        })
    }

    /// Runs a read on the blocking thread pool. Once the future is dropped, a read that has not
    /// started is skipped, and a long one stops.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadPath, &CallerHandle) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (read_path, caller) = (self.read_path.clone(), Caller::default());
        let handle = caller.handle();
        let work = move || handle.ensure_waiting().and_then(|()| work(&read_path, &handle));
        let result = blob_files::blocking(work).await;
        drop(caller);
        result
    }

    fn ensure_open(&self) -> Result<()> {
        if self.commit_permits.is_closed() { Err(EngineError::Closed) } else { Ok(()) }
    }
}

/// Replays the WAL after the checkpoint position into a memtable, and fills the pool of segments.
/// Also returns the end of the WAL, and the sequence number of its newest segment with commits.
fn recover(
    segments: &SegmentPool,
    (mut files, rows): (Vec<SegmentFile>, &[SegmentRow]),
    position: CheckpointPosition,
    conn: &rusqlite::Connection,
    mode: RecoveryMode,
) -> Result<(Memtable, WalPosition, Option<u64>)> {
    let sealed = SealedSegments::split_off(&mut files, rows, position)?;
    recovery::log_missing(&sealed.missing);
    let (mut replayed, mut last_seq) = (Vec::<Vec<_>>::new(), None);
    let replay = |entry: WalEntry, segment: &Arc<Segment>, bodies_offset| {
        let entry = writer::memtable_entry(entry, segment, bodies_offset, None);
        match replayed.last_mut() {
            Some(entries) if last_seq == Some(segment.seq) => entries.push(entry),
            _ => replayed.push(vec![entry]),
        }
        last_seq = Some(segment.seq);
    };
    let RecoveredWal { live, free, last_version, next_seq } =
        recovery::recover(files, position, mode, database::lookup(conn), replay)?;
    // After a reset of the WAL, records may refer to later segments that were lost.
    let is_lost = |row: &&SegmentRow| {
        row.seq >= position.first_segment && !live.iter().any(|segment| segment.seq == row.seq)
    };
    recovery::log_missing(rows.iter().filter(is_lost));
    let newest = live.last().map(|segment| segment.seq);
    segments.restore(live, sealed.segments, free);
    // The next sequence number also exceeds those of all sealed segments, in case the newest
    // segments of the WAL were lost.
    let seq = rows.last().map_or(next_seq, |row| next_seq.max(row.seq + 1));
    let wal_position = WalPosition { version: last_version, seq };
    Ok((Memtable::from_wal(replayed), wal_position, newest))
}

/// Ensures that the WAL has at least one file, and saves the end of the WAL in the database. The
/// next start compares them, and thereby detects a lost WAL.
fn expect_wal(conn: &rusqlite::Connection, segments: &SegmentPool, wal_end: u64) -> Result<()> {
    let saved = segments.ensure_file().and_then(|()| Ok(database::save_wal_end(conn, wal_end)?));
    match saved {
        // A full disk must not prevent reads.
        Err(EngineError::Full(_)) => Ok(()),
        saved => saved,
    }
}

fn load_record_counts(conn: &rusqlite::Connection, shared: &Shared) -> rusqlite::Result<()> {
    let mut select = conn.prepare("SELECT first, n FROM counts")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        shared.add_to_count(row.get(0)?, row.get(1)?);
    }
    Ok(())
}

impl Engine for Embedded {
    fn read<'a>(&'a self, key: &'a [u8], projection: Projection) -> ReadFuture<'a> {
        Box::pin(async move {
            self.ensure_open()?;
            let lease = match self.shared.cache.get(key, projection) {
                Ok(record) => {
                    self.shared.counters.cache_hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(record));
                }
                Err(lease) => lease,
            };
            self.shared.counters.cache_misses.fetch_add(1, Ordering::Relaxed);
            let inline = self.scheduler.try_inline(0, || self.read_path.find(key, projection));
            let record = match inline {
                Some(result) => result?,
                None => {
                    let key = Bytes::copy_from_slice(key);
                    self.blocking(move |read_path, _| read_path.find(&key, projection)).await?
                }
            };
            if let (Projection::Full, Some(record), Some(lease)) = (projection, &record, lease) {
                self.shared.cache.fill(key, lease, record);
            }
            Ok(record)
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            self.ensure_open()?;
            if let Ok(guard) = self.shared.checkpoint_lock.try_read() {
                let expected_micros = (scan.limit / SCAN_RECORDS_PER_MICRO) as u64;
                let attempt = ScanAttempt::bounded(0, &scan);
                let read = || self.read_path.try_scan(&scan, attempt, guard, None);
                match self.scheduler.try_inline(expected_micros, read) {
                    Some(Ok(Some(page))) => return Ok(page),
                    Some(Err(e)) => return Err(e),
                    Some(Ok(None)) | None => {}
                }
            }
            self.blocking(move |read_path, caller| read_path.scan(&scan, caller)).await
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            self.ensure_open()?;
            let read_path = self.read_path.clone();
            let reader = self.blocking(move |_, _| SnapshotReader::new(read_path)).await?;
            Ok(Box::new(reader) as Box<dyn Snapshot>)
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(async move {
            self.ensure_open()?;
            self.blocking(move |read_path, _| read_path.expired(until, limit)).await
        })
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            self.ensure_open()?;
            self.blocking(move |read_path, caller| read_path.count(first, caller)).await
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let permit = self.commit_permits.acquire().await.map_err(|_| EngineError::Closed)?;
            let (reply, outcome) = oneshot::channel();
            {
                let commands = self.commands.lock().map_err(|_| EngineError::Closed)?;
                let commands = commands.as_ref().ok_or(EngineError::Closed)?;
                // The queue has room for every permit, so it is never full here.
                let command = WriterCommand::Commit(QueuedCommit { commit, reply });
                commands.try_send(command).map_err(|_| EngineError::Closed)?;
            }
            let outcome = outcome.await;
            drop(permit);
            outcome.map_err(|_| EngineError::Failed("the writer thread stopped".into()))?
        })
    }

    fn buffers_blobs(&self) -> bool {
        false
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        Box::pin(async move {
            self.ensure_open()?;
            let writer = BlobFileWriter::new(self.read_path.blobs.clone());
            Ok(Box::new(writer) as Box<dyn BlobWriter>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.commit_permits.close();
            self.shared.backpressure.close();
            self.read_path.pool.close();
            // Order of shutdown: without a sender, the writer drains its queue and ends. Then the
            // checkpointer runs a last checkpoint and ends. The maintenance thread ends last.
            drop(self.commands.lock().map_err(|_| EngineError::Closed)?.take());
            let threads =
                std::mem::take(&mut *self.threads.lock().map_err(|_| EngineError::Closed)?);
            let join = move || threads.into_iter().try_for_each(JoinHandle::join);
            let joined = tokio::task::spawn_blocking(join).await;
            self.shared.dir.unlock();
            match joined {
                Ok(Ok(())) => Ok(()),
                _ => Err(EngineError::Failed("a storage thread panicked".into())),
            }
        })
    }

    fn stats(&self) -> Stats {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let counters = &self.shared.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let blob_bytes = self.shared.blob_bytes.load(Ordering::Relaxed);
        let (segment_bytes, wal_bytes) = self.shared.segments.disk_bytes();
        let dir = self.shared.dir.path();
        let database_bytes = size(database::path(dir)) + size(database::wal_path(dir));
        Stats {
            disk_bytes: database_bytes + segment_bytes + u64::try_from(blob_bytes).unwrap_or(0),
            wal_bytes,
            commits: load(&counters.commits),
            conflicts: load(&counters.conflicts),
            groups: load(&counters.groups),
            sync_micros: load(&counters.sync_micros),
            cache_hits: load(&counters.cache_hits),
            cache_misses: load(&counters.cache_misses),
        }
    }
}

/// Decodes bytes as a WAL record, for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz_wal_record(bytes: &[u8]) {
    wal::record::fuzz(bytes);
}
