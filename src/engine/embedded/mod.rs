//! The embedded engine: a commit log in front, SQLite as the home of records, and large bodies in
//! files of their own.
//!
//! ```text
//! commit -> writer: check, one frame into the log, one sync -> overlay -> answers
//!                                                                 |
//!                                             folder: large ordered steps -> steadfast.db
//! read   -> cache, else overlay (what only the log has), else database
//! ```
//!
//! A data directory belongs to one process, by a lock on `LOCK`. docs/format.md has the layout,
//! docs/durability.md what is promised of it.

mod backpressure;
mod blob_files;
mod checkpoint;
mod connection_pool;
mod database;
mod maintenance;
mod memtable;
mod read_cache;
mod read_path;
mod read_scheduler;
mod snapshot;
mod verify;
mod wal;
mod writer;

pub use verify::{VerifiedRecord, VerifyReport, verify};

use super::{
    BlobWriter, BoxFuture, Commit, Engine, EngineError, Outcome, Page, Projection, Record, Result,
    Scan, Snapshot, Stats,
};
use bytes::Bytes;
use memtable::Memtable;
use read_path::ReadPath;
use read_scheduler::ReadScheduler;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// Commits that wait for the writer at most; further ones wait for a place.
const COMMIT_QUEUE_MAX: usize = 4096;
/// Places in the writer's queue for what is no commit.
const COMMAND_QUEUE_SPARE: usize = 16;
/// Chores that wait for the keeper at most; further ones wait for a place.
const MAINTENANCE_QUEUE_MAX: usize = 4096;

/// A process that was killed may hold its lock for a moment longer, and so may one that a process
/// which has the directory open is just starting: it has the lock until it becomes another program.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// For each byte of small records in memory, so many times less of pieces of large bodies.
const BLOB_CACHE_DIVISOR: u64 = 4;

/// Records that a scan reads from memory in a microsecond, at least.
const SCAN_RECORDS_PER_MICRO: usize = 4;

/// How to open a data directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; made when it is not there.
    pub dir: PathBuf,
    /// Bytes of small records kept in memory; a quarter as much of larger bodies besides.
    pub cache_bytes: u64,
    /// Bytes of the commit log at which it is folded into the database. Writes wait at four times
    /// as many. More makes writes faster and a start after a crash slower.
    pub wal_bytes: u64,
    /// What happens when a sync fails.
    pub fatal: FatalErrorHandler,
}

/// Stops the process when nobody can know any more what is on disk.
#[derive(Clone)]
pub struct FatalErrorHandler(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalErrorHandler {
    /// Calls `stop` with the reason; it is not expected to return, but may in tests.
    pub fn new(stop: impl Fn(&str) + Send + Sync + 'static) -> FatalErrorHandler {
        FatalErrorHandler(Arc::new(stop))
    }

    fn stop(&self, why: &str) {
        (self.0)(why);
    }
}

impl fmt::Debug for FatalErrorHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fatal")
    }
}

/// What the engine's threads and its callers share.
struct Shared {
    cache: read_cache::ReadCache,
    memtable: RwLock<Memtable>,
    /// Written while records move from the overlay to the database; who holds it for reading sees
    /// each record in one of the two.
    checkpoint_lock: RwLock<()>,
    wal_position: Mutex<WalPosition>,
    segments: wal::segment::SegmentPool,
    backpressure: backpressure::Backpressure,
    counters: Counters,
    /// Records in the database, by first byte.
    record_counts: Vec<AtomicI64>,
    blob_bytes: AtomicI64,
    dir: PathBuf,
}

/// Where the segment begins that is written to, or comes next.
#[derive(Clone, Copy, Debug)]
struct WalPosition {
    /// All commits up to this version stand in segments before `seq`, and no others do.
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
}

impl Shared {
    fn memtable(&self) -> RwLockReadGuard<'_, Memtable> {
        self.memtable.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memtable_mut(&self) -> RwLockWriteGuard<'_, Memtable> {
        self.memtable.write().unwrap_or_else(PoisonError::into_inner)
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

    fn wal_position(&self) -> WalPosition {
        *self.wal_position_mut()
    }

    fn set_wal_position(&self, to: WalPosition) {
        *self.wal_position_mut() = to;
    }

    fn add_to_count(&self, first: i64, change: i64) {
        let counter = usize::try_from(first).ok().and_then(|first| self.record_counts.get(first));
        counter.unwrap_or(&self.blob_bytes).fetch_add(change, Ordering::Relaxed);
    }
}

/// See the module.
pub struct Embedded {
    shared: Arc<Shared>,
    read_path: Arc<ReadPath>,
    commands: Mutex<Option<Arc<SyncSender<writer::WriterCommand>>>>,
    commit_permits: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held until the engine is closed.
    lock: Mutex<Option<File>>,
    scheduler: ReadScheduler,
}

impl Embedded {
    /// Opens a data directory, making what is not there.
    ///
    /// # Errors
    /// When another process has it open, when its format is another's, or when it cannot be read.
    pub fn open(options: Options) -> Result<Embedded> {
        let Options { dir, cache_bytes, wal_bytes, fatal } = options;
        let lock = lock_dir(&dir)?;
        let conn = database::open_writer(&dir)?;
        let position = database::checkpoint_position(&conn)?;
        let (segments, files) = wal::segment::SegmentPool::open(&dir)?;
        let mut memtable = Memtable::default();
        let recovered = wal::recovery::recover(
            files,
            position,
            wal::recovery::RecoveryMode::ReadWrite,
            |entry, segment, bodies| {
                let (key, entry) = writer::memtable_entry(entry, segment, bodies, None);
                memtable.put(key, entry);
            },
        )?;
        let wal::recovery::RecoveredWal { live, free, last_version, next_seq } = recovered;
        segments.restore(live, free);
        let blobs =
            blob_files::BlobFiles::new(&dir, cache_bytes / BLOB_CACHE_DIVISOR, fatal.clone())?;
        sync_dir_and_parent(&dir)?;
        let shared = Arc::new(Shared {
            cache: read_cache::ReadCache::new(cache_bytes),
            memtable: RwLock::new(memtable),
            checkpoint_lock: RwLock::default(),
            wal_position: Mutex::new(WalPosition { version: last_version, seq: next_seq }),
            segments,
            backpressure: backpressure::Backpressure::new(wal_bytes),
            counters: Counters::default(),
            record_counts: std::iter::repeat_with(AtomicI64::default).take(256).collect(),
            blob_bytes: AtomicI64::new(0),
            dir: dir.clone(),
        });
        load_record_counts(&conn, &shared).map_err(|e| database::sqlite_error(&e))?;
        let pool = Arc::new(connection_pool::ConnectionPool::new(dir));
        let read_path = Arc::new(ReadPath { shared: shared.clone(), pool, blobs });
        let (commands, threads) = start_threads(conn, &read_path, &fatal, position.salt)?;
        let (commands, threads) = (Mutex::new(Some(commands)), Mutex::new(threads));
        let (commit_permits, lock) =
            (Arc::new(Semaphore::new(COMMIT_QUEUE_MAX)), Mutex::new(Some(lock)));
        Ok(Embedded {
            shared,
            read_path,
            commands,
            commit_permits,
            threads,
            lock,
            scheduler: ReadScheduler::default(),
        })
    }

    /// Runs a read where it may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadPath) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let read_path = self.read_path.clone();
        let work = tokio::task::spawn_blocking(move || work(&read_path));
        work.await.map_err(|e| EngineError::Failed(e.to_string()))?
    }

    fn ensure_open(&self) -> Result<()> {
        if self.commit_permits.is_closed() { Err(EngineError::Closed) } else { Ok(()) }
    }
}

/// Starts the writer, the folder and the keeper.
#[expect(clippy::type_complexity, reason = "the sender is shared with those that must not keep it")]
fn start_threads(
    conn: rusqlite::Connection,
    read_path: &ReadPath,
    fatal: &FatalErrorHandler,
    salt: u32,
) -> Result<(Arc<SyncSender<writer::WriterCommand>>, Vec<JoinHandle<()>>)> {
    let (shared, pool) = (read_path.shared.clone(), read_path.pool.clone());
    let (maintenance, tasks) = sync_channel(MAINTENANCE_QUEUE_MAX);
    let (commands, command_receiver) = sync_channel(COMMIT_QUEUE_MAX + COMMAND_QUEUE_SPARE);
    let (end_sender, wal_end) = sync_channel(1);
    let commands = Arc::new(commands);
    for task in [
        maintenance::MaintenanceTask::AllocateSegments,
        maintenance::MaintenanceTask::DeleteOrphans,
    ] {
        let _ = maintenance.send(task);
    }
    let maintenance_thread = maintenance::Maintenance {
        conn: database::open_reader(&shared.dir, database::SCAN_CACHE_KIB)?,
        tasks,
        blobs: read_path.blobs.clone(),
        shared: shared.clone(),
    };
    let checkpointer = checkpoint::Checkpointer {
        conn,
        pinned_frames: 0,
        blobs: read_path.blobs.clone(),
        wal_end,
        commands: Arc::downgrade(&commands),
        maintenance: maintenance.clone(),
        shared: shared.clone(),
        pool: pool.clone(),
        fatal: fatal.clone(),
    };
    let WalPosition { version, seq } = shared.wal_position();
    let writer = writer::Writer {
        commands: command_receiver,
        maintenance,
        shared,
        pool,
        fatal: fatal.clone(),
        salt,
        last_version: version,
        next_seq: seq,
        active: None,
        scratch: writer::Scratch::default(),
    };
    let abort_on_panic = || AbortOnPanic(fatal.clone());
    let write = move || {
        let _ = end_sender.send(writer.run());
    };
    let threads = vec![
        spawn("writer", abort_on_panic(), write)?,
        spawn("folder", abort_on_panic(), move || checkpointer.run())?,
        spawn("keeper", abort_on_panic(), move || maintenance_thread.run())?,
    ];
    Ok((commands, threads))
}

/// Reads bytes as a frame of the log; for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz_wal_record(bytes: &[u8]) {
    wal::record::fuzz(bytes);
}

/// Stops the process when its thread panics: without it nothing would be written any more.
struct AbortOnPanic(FatalErrorHandler);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("a storage thread panicked");
        }
    }
}

fn spawn(
    name: &str,
    abort_on_panic: AbortOnPanic,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let _alive = abort_on_panic;
        work();
    });
    thread.map_err(|e| EngineError::Failed(format!("could not start the {name} thread: {e}")))
}

/// Whether a process has a data directory open.
pub fn is_locked(dir: &Path) -> bool {
    let lock = File::options().write(true).open(dir.join("LOCK"));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

fn lock_dir(dir: &Path) -> Result<File> {
    let failed = |what: &str, e: std::io::Error| {
        EngineError::Failed(format!("could not {what} {}: {e}", dir.display()))
    };
    // Others on this machine have no business with the data.
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| failed("make the data directory", e))?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("LOCK"));
    let lock = lock.map_err(|e| failed("open the lock in", e))?;
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_TIMEOUT / 20);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::Failed(format!(
                    "the data directory {} is in use by another steadfast; stop that one, or \
                     choose another with --data",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock", e)),
        }
    }
}

/// Makes the names of new files durable.
fn sync_dir_and_parent(dir: &Path) -> Result<()> {
    let parent = dir.canonicalize().ok().and_then(|dir| dir.parent().map(Path::to_path_buf));
    for checkpointer in [Some(dir.to_path_buf()), parent].into_iter().flatten() {
        File::open(&checkpointer)
            .and_then(|checkpointer| checkpointer.sync_all())
            .map_err(|e| EngineError::Failed(format!("sync {}: {e}", checkpointer.display())))?;
    }
    Ok(())
}

/// Takes over the counts of the database.
fn load_record_counts(conn: &rusqlite::Connection, shared: &Shared) -> rusqlite::Result<()> {
    let mut record_counts = conn.prepare("SELECT first, n FROM counts")?;
    let mut rows = record_counts.query([])?;
    while let Some(entry) = rows.next()? {
        shared.add_to_count(entry.get(0)?, entry.get(1)?);
    }
    Ok(())
}

impl Engine for Embedded {
    fn read<'a>(
        &'a self,
        key: &'a [u8],
        projection: Projection,
    ) -> BoxFuture<'a, Result<Option<Record>>> {
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
            let found = match self.scheduler.try_inline(0, || self.read_path.find(key, projection))
            {
                Some(found) => found?,
                None => {
                    let owned = Bytes::copy_from_slice(key);
                    self.blocking(move |read_path| read_path.find(&owned, projection)).await?
                }
            };
            if let (Projection::Full, Some(record), Some(lease)) = (projection, &found, lease) {
                self.shared.cache.fill(key, lease, record);
            }
            Ok(found)
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            self.ensure_open()?;
            let page = match self.shared.checkpoint_lock.try_read() {
                Ok(checkpoint_lock) => {
                    let expected_micros = (scan.limit / SCAN_RECORDS_PER_MICRO) as u64;
                    self.scheduler
                        .try_inline(expected_micros, || self.read_path.scan(&scan, checkpoint_lock))
                }
                Err(_) => None,
            };
            match page {
                Some(page) => page,
                None => {
                    self.blocking(move |read_path| {
                        read_path.scan(&scan, read_path.shared.checkpoint_lock())
                    })
                    .await
                }
            }
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            self.ensure_open()?;
            let read_path = self.read_path.clone();
            let reader = self.blocking(move |_| snapshot::SnapshotReader::of(read_path)).await?;
            Ok(Box::new(reader) as Box<dyn Snapshot>)
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(async move {
            self.ensure_open()?;
            self.blocking(move |read_path| read_path.expired(until, limit)).await
        })
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            self.ensure_open()?;
            self.blocking(move |read_path| read_path.count(first)).await
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let permit = self.commit_permits.acquire().await.map_err(|_| EngineError::Closed)?;
            let (reply, answer) = oneshot::channel();
            {
                let commands = self.commands.lock().map_err(|_| EngineError::Closed)?;
                let commands = commands.as_ref().ok_or(EngineError::Closed)?;
                // There are as many places as permits, so this never finds the queue full.
                let command = writer::WriterCommand::Commit(writer::QueuedCommit { commit, reply });
                commands.try_send(command).map_err(|_| EngineError::Closed)?;
            }
            let answer = answer.await;
            drop(permit);
            answer.map_err(|_| EngineError::Failed("the writer stopped".into()))?
        })
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        Box::pin(async move {
            self.ensure_open()?;
            let stage = blob_files::BlobFileWriter::create(self.read_path.blobs.clone()).await?;
            Ok(Box::new(stage) as Box<dyn BlobWriter>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.commit_permits.close();
            self.shared.backpressure.close();
            self.read_path.pool.close();
            // Without a sender the writer finishes what waits and ends; then the folder folds what
            // is left and ends; then the keeper does.
            drop(self.commands.lock().map_err(|_| EngineError::Closed)?.take());
            let threads =
                std::mem::take(&mut *self.threads.lock().map_err(|_| EngineError::Closed)?);
            let join = move || threads.into_iter().try_for_each(JoinHandle::join);
            let joined = tokio::task::spawn_blocking(join).await;
            drop(self.lock.lock().map_err(|_| EngineError::Closed)?.take());
            match joined {
                Ok(Ok(())) => Ok(()),
                _ => Err(EngineError::Failed("a storage thread panicked".into())),
            }
        })
    }

    fn stats(&self) -> Stats {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let counters = &self.shared.counters;
        let load = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let blobs = self.shared.blob_bytes.load(Ordering::Relaxed);
        let wal_bytes = self.shared.segments.disk_bytes();
        let dir = &self.shared.dir;
        Stats {
            disk_bytes: size(database::path(dir))
                + size(database::wal_path(dir))
                + wal_bytes
                + u64::try_from(blobs).unwrap_or(0),
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
