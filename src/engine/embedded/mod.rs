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

pub use verify::{VerifiedRecord, VerifyReport, check};

use super::{
    BlobWriter, BoxFuture, Commit, Engine, EngineError, Outcome, Projection, Record, Result, Scan,
    ScanPage, Snapshot, Stats,
};
use bytes::Bytes;
use memtable::Overlay;
use read_path::Reads;
use read_scheduler::Pace;
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
const QUEUE: usize = 4096;
/// Places in the writer's queue for what is no commit.
const QUEUE_SPARE: usize = 16;
/// Chores that wait for the keeper at most; further ones wait for a place.
const CHORES: usize = 4096;

/// A process that was killed may hold its lock for a moment longer, and so may one that a process
/// which has the directory open is just starting: it has the lock until it becomes another program.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// For each byte of small records in memory, so many times less of pieces of large bodies.
const PIECES: u64 = 4;

/// Records that a scan reads from memory in a microsecond, at least.
const RECORDS_A_MICRO: usize = 4;

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
    pub fatal: Fatal,
}

/// Stops the process when nobody can know any more what is on disk.
#[derive(Clone)]
pub struct Fatal(Arc<dyn Fn(&str) + Send + Sync>);

impl Fatal {
    /// Calls `stop` with the reason; it is not expected to return, but may in tests.
    pub fn new(stop: impl Fn(&str) + Send + Sync + 'static) -> Fatal {
        Fatal(Arc::new(stop))
    }

    fn stop(&self, why: &str) {
        (self.0)(why);
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fatal")
    }
}

/// What the engine's threads and its callers share.
struct Shared {
    cache: read_cache::Cache,
    overlay: RwLock<Overlay>,
    /// Written while records move from the overlay to the database; who holds it for reading sees
    /// each record in one of the two.
    view: RwLock<()>,
    boundary: Mutex<Boundary>,
    slots: wal::segment::Slots,
    pressure: backpressure::Pressure,
    figures: Figures,
    /// Records in the database, by first byte.
    counts: Vec<AtomicI64>,
    blob_bytes: AtomicI64,
    dir: PathBuf,
}

/// Where the segment begins that is written to, or comes next.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    /// All commits up to this version stand in segments before `seq`, and no others do.
    version: u64,
    seq: u64,
}

#[derive(Default)]
struct Figures {
    commits: AtomicU64,
    conflicts: AtomicU64,
    groups: AtomicU64,
    sync_micros: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
}

impl Shared {
    fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> RwLockReadGuard<'_, ()> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, ()> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn boundary_mut(&self) -> MutexGuard<'_, Boundary> {
        self.boundary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boundary(&self) -> Boundary {
        *self.boundary_mut()
    }

    fn set_boundary(&self, to: Boundary) {
        *self.boundary_mut() = to;
    }

    fn count(&self, first: i64, change: i64) {
        let counter = usize::try_from(first).ok().and_then(|first| self.counts.get(first));
        counter.unwrap_or(&self.blob_bytes).fetch_add(change, Ordering::Relaxed);
    }
}

/// See the module.
pub struct Embedded {
    shared: Arc<Shared>,
    reads: Arc<Reads>,
    tasks: Mutex<Option<Arc<SyncSender<writer::Task>>>>,
    queue: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held until the engine is closed.
    lock: Mutex<Option<File>>,
    pace: Pace,
}

impl Embedded {
    /// Opens a data directory, making what is not there.
    ///
    /// # Errors
    /// When another process has it open, when its format is another's, or when it cannot be read.
    pub fn open(options: Options) -> Result<Embedded> {
        let Options { dir, cache_bytes, wal_bytes, fatal } = options;
        let lock = lock(&dir)?;
        let conn = database::open_writer(&dir)?;
        let mark = database::mark(&conn)?;
        let (slots, found) = wal::segment::Slots::open(&dir)?;
        let mut overlay = Overlay::default();
        let recovered = wal::recovery::recover(
            found,
            mark,
            wal::recovery::Purpose::Start,
            |row, segment, bodies| {
                let (key, entry) = writer::entry(row, segment, bodies, None);
                overlay.put(key, entry);
            },
        )?;
        let wal::recovery::Recovered { live, spare, last, next_seq } = recovered;
        slots.restore(live, spare);
        let blobs = blob_files::Blobs::new(&dir, cache_bytes / PIECES, fatal.clone())?;
        sync_folder(&dir)?;
        let shared = Arc::new(Shared {
            cache: read_cache::Cache::new(cache_bytes),
            overlay: RwLock::new(overlay),
            view: RwLock::default(),
            boundary: Mutex::new(Boundary { version: last, seq: next_seq }),
            slots,
            pressure: backpressure::Pressure::new(wal_bytes),
            figures: Figures::default(),
            counts: std::iter::repeat_with(AtomicI64::default).take(256).collect(),
            blob_bytes: AtomicI64::new(0),
            dir: dir.clone(),
        });
        restore_counts(&conn, &shared).map_err(|e| database::failed(&e))?;
        let readers = Arc::new(connection_pool::Readers::new(dir));
        let reads = Arc::new(Reads { shared: shared.clone(), readers, blobs });
        let (tasks, threads) = start(conn, &reads, &fatal, mark.salt)?;
        let (tasks, threads) = (Mutex::new(Some(tasks)), Mutex::new(threads));
        let (queue, lock) = (Arc::new(Semaphore::new(QUEUE)), Mutex::new(Some(lock)));
        Ok(Embedded { shared, reads, tasks, queue, threads, lock, pace: Pace::default() })
    }

    /// Runs a read where it may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reads) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let reads = self.reads.clone();
        let work = tokio::task::spawn_blocking(move || work(&reads));
        work.await.map_err(|e| EngineError::Failed(e.to_string()))?
    }

    fn open_still(&self) -> Result<()> {
        if self.queue.is_closed() { Err(EngineError::Closed) } else { Ok(()) }
    }
}

/// Starts the writer, the folder and the keeper.
#[expect(clippy::type_complexity, reason = "the sender is shared with those that must not keep it")]
fn start(
    conn: rusqlite::Connection,
    reads: &Reads,
    fatal: &Fatal,
    salt: u32,
) -> Result<(Arc<SyncSender<writer::Task>>, Vec<JoinHandle<()>>)> {
    let (shared, readers) = (reads.shared.clone(), reads.readers.clone());
    let (keeper, chores) = sync_channel(CHORES);
    let (tasks, waiting) = sync_channel(QUEUE + QUEUE_SPARE);
    let (tell_end, end) = sync_channel(1);
    let tasks = Arc::new(tasks);
    for chore in [maintenance::Chore::Prepare, maintenance::Chore::Sweep] {
        let _ = keeper.send(chore);
    }
    let tidy = maintenance::Keeper {
        conn: database::open_reader(&shared.dir, database::PASSING_CACHE_KIB)?,
        chores,
        blobs: reads.blobs.clone(),
        shared: shared.clone(),
    };
    let folder = checkpoint::Folder {
        conn,
        kept: 0,
        blobs: reads.blobs.clone(),
        end,
        tasks: Arc::downgrade(&tasks),
        keeper: keeper.clone(),
        shared: shared.clone(),
        readers: readers.clone(),
        fatal: fatal.clone(),
    };
    let Boundary { version, seq } = shared.boundary();
    let writer = writer::Writer {
        tasks: waiting,
        keeper,
        shared,
        readers,
        fatal: fatal.clone(),
        salt,
        last_version: version,
        next_seq: seq,
        active: None,
        scratch: writer::Scratch::default(),
    };
    let alive = || Alive(fatal.clone());
    let write = move || {
        let _ = tell_end.send(writer.run());
    };
    let threads = vec![
        spawn("writer", alive(), write)?,
        spawn("folder", alive(), move || folder.run())?,
        spawn("keeper", alive(), move || tidy.run())?,
    ];
    Ok((tasks, threads))
}

/// Reads bytes as a frame of the log; for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz_frame(bytes: &[u8]) {
    wal::record::fuzz(bytes);
}

/// Stops the process when its thread panics: without it nothing would be written any more.
struct Alive(Fatal);

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("a storage thread panicked");
        }
    }
}

fn spawn(name: &str, alive: Alive, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let _alive = alive;
        work();
    });
    thread.map_err(|e| EngineError::Failed(format!("could not start the {name} thread: {e}")))
}

/// Whether a process has a data directory open.
pub fn in_use(dir: &Path) -> bool {
    let lock = File::options().write(true).open(dir.join("LOCK"));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

fn lock(dir: &Path) -> Result<File> {
    let failed = |what: &str, e: std::io::Error| {
        EngineError::Failed(format!("could not {what} {}: {e}", dir.display()))
    };
    // Others on this machine have no business with the data.
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| failed("make the data directory", e))?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("LOCK"));
    let lock = lock.map_err(|e| failed("open the lock in", e))?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_WAIT / 20);
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
fn sync_folder(dir: &Path) -> Result<()> {
    let parent = dir.canonicalize().ok().and_then(|dir| dir.parent().map(Path::to_path_buf));
    for folder in [Some(dir.to_path_buf()), parent].into_iter().flatten() {
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| EngineError::Failed(format!("sync {}: {e}", folder.display())))?;
    }
    Ok(())
}

/// Takes over the counts of the database.
fn restore_counts(conn: &rusqlite::Connection, shared: &Shared) -> rusqlite::Result<()> {
    let mut counts = conn.prepare("SELECT first, n FROM counts")?;
    let mut rows = counts.query([])?;
    while let Some(row) = rows.next()? {
        shared.count(row.get(0)?, row.get(1)?);
    }
    Ok(())
}

impl Engine for Embedded {
    fn read<'a>(
        &'a self,
        key: &'a [u8],
        part: Projection,
    ) -> BoxFuture<'a, Result<Option<Record>>> {
        Box::pin(async move {
            self.open_still()?;
            let ticket = match self.shared.cache.get(key, part) {
                Ok(record) => {
                    self.shared.figures.cache_hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(record));
                }
                Err(ticket) => ticket,
            };
            self.shared.figures.cache_misses.fetch_add(1, Ordering::Relaxed);
            let found = match self.pace.at_once(0, || self.reads.find(key, part)) {
                Some(found) => found?,
                None => {
                    let owned = Bytes::copy_from_slice(key);
                    self.blocking(move |reads| reads.find(&owned, part)).await?
                }
            };
            if let (Projection::Full, Some(record), Some(ticket)) = (part, &found, ticket) {
                self.shared.cache.put(key, ticket, record);
            }
            Ok(found)
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            self.open_still()?;
            let page = match self.shared.view.try_read() {
                Ok(view) => {
                    let explained = (scan.limit / RECORDS_A_MICRO) as u64;
                    self.pace.at_once(explained, || self.reads.scan(&scan, view))
                }
                Err(_) => None,
            };
            match page {
                Some(page) => page,
                None => self.blocking(move |reads| reads.scan(&scan, reads.shared.view())).await,
            }
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            self.open_still()?;
            let reads = self.reads.clone();
            let frozen = self.blocking(move |_| snapshot::Frozen::of(reads)).await?;
            Ok(Box::new(frozen) as Box<dyn Snapshot>)
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(async move {
            self.open_still()?;
            self.blocking(move |reads| reads.expired(until, limit)).await
        })
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            self.open_still()?;
            self.blocking(move |reads| reads.count(first)).await
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let place = self.queue.acquire().await.map_err(|_| EngineError::Closed)?;
            let (reply, answer) = oneshot::channel();
            {
                let tasks = self.tasks.lock().map_err(|_| EngineError::Closed)?;
                let tasks = tasks.as_ref().ok_or(EngineError::Closed)?;
                // There are as many places as permits, so this never finds the queue full.
                let job = writer::Task::Commit(writer::Job { commit, reply });
                tasks.try_send(job).map_err(|_| EngineError::Closed)?;
            }
            let answer = answer.await;
            drop(place);
            answer.map_err(|_| EngineError::Failed("the writer stopped".into()))?
        })
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        Box::pin(async move {
            self.open_still()?;
            let stage = blob_files::BlobStage::begin(self.reads.blobs.clone()).await?;
            Ok(Box::new(stage) as Box<dyn BlobWriter>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.queue.close();
            self.shared.pressure.close();
            self.reads.readers.close();
            // Without a sender the writer finishes what waits and ends; then the folder folds what
            // is left and ends; then the keeper does.
            drop(self.tasks.lock().map_err(|_| EngineError::Closed)?.take());
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
        let figures = &self.shared.figures;
        let load = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let blobs = self.shared.blob_bytes.load(Ordering::Relaxed);
        let wal_bytes = self.shared.slots.bytes();
        let dir = &self.shared.dir;
        Stats {
            disk_bytes: size(database::path(dir))
                + size(database::log_path(dir))
                + wal_bytes
                + u64::try_from(blobs).unwrap_or(0),
            wal_bytes,
            commits: load(&figures.commits),
            conflicts: load(&figures.conflicts),
            groups: load(&figures.groups),
            sync_micros: load(&figures.sync_micros),
            cache_hits: load(&figures.cache_hits),
            cache_misses: load(&figures.cache_misses),
        }
    }
}
