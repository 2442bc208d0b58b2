//! The embedded engine: SQLite behind one writer thread with group commit, large bodies in files.
//!
//! A data directory belongs to one process, by a lock on `LOCK`. Small bodies and all heads live
//! in `steadfast.db` (write-ahead log, synced at each commit), bodies above
//! [`INLINE_BYTES_MAX`](super::INLINE_BYTES_MAX) in `blobs/`. docs/format.md has the layout,
//! docs/durability.md what is promised of it.

mod blobs;
mod cache;
mod keeper;
mod reader;
mod schema;
mod writer;

use super::{
    BoxFuture, Commit, Engine, EngineError, Outcome, Page, Part, Record, Result, Scan, Stage, Stats,
};
use bytes::Bytes;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};

/// Commits that wait for the writer at most; further ones wait for a place.
const QUEUE: usize = 4096;
/// Chores that wait for the keeper at most; further ones wait for a place.
const CHORES: usize = 4096;

/// How to open a data directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; made when it is not there.
    pub dir: PathBuf,
    /// Bytes of small records kept in memory.
    pub cache_bytes: u64,
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
    cache: cache::Cache,
    figures: Figures,
    counts: Vec<AtomicI64>,
    blob_bytes: AtomicI64,
    dir: PathBuf,
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
    fn count(&self, first: i64, change: i64) {
        let counter = usize::try_from(first).ok().and_then(|first| self.counts.get(first));
        counter.unwrap_or(&self.blob_bytes).fetch_add(change, Ordering::Relaxed);
    }
}

/// See the module.
pub struct Embedded {
    shared: Arc<Shared>,
    readers: Arc<reader::Readers>,
    blobs: Arc<blobs::Blobs>,
    jobs: Mutex<Option<SyncSender<writer::Job>>>,
    queue: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held until the engine is closed.
    lock: Mutex<Option<File>>,
}

impl Embedded {
    /// Opens a data directory, making what is not there.
    ///
    /// # Errors
    /// When another process has it open, when its format is another's, or when it cannot be read.
    pub fn open(options: Options) -> Result<Embedded> {
        let Options { dir, cache_bytes, fatal } = options;
        let lock = lock(&dir)?;
        let conn = schema::open_writer(&dir)?;
        sync_folder(&dir)?;
        let blobs = blobs::Blobs::new(&dir, fatal.clone())?;
        let shared = Arc::new(Shared {
            cache: cache::Cache::new(cache_bytes),
            figures: Figures::default(),
            counts: std::iter::repeat_with(AtomicI64::default).take(256).collect(),
            blob_bytes: AtomicI64::new(0),
            dir: dir.clone(),
        });
        let last_version = restore(&conn, &shared).map_err(|e| schema::failed(&e))?;
        let (keeper, chores) = sync_channel(CHORES);
        let (jobs, waiting) = sync_channel(QUEUE);
        let tidy = keeper::Keeper {
            conn: schema::open_writer(&dir)?,
            chores,
            blobs: blobs.clone(),
            fatal: fatal.clone(),
        };
        let _ = keeper.send(keeper::Chore::Sweep);
        let stop = fatal.clone();
        let writer = writer::Writer {
            conn,
            jobs: waiting,
            keeper,
            shared: shared.clone(),
            fatal,
            last_version,
        };
        let alive = || Alive(stop.clone());
        let threads = vec![
            spawn("writer", alive(), move || writer.run())?,
            spawn("keeper", alive(), move || tidy.run())?,
        ];
        let readers = Arc::new(reader::Readers::new(dir, blobs.clone()));
        let (jobs, threads) = (Mutex::new(Some(jobs)), Mutex::new(threads));
        let queue = Arc::new(Semaphore::new(QUEUE));
        Ok(Embedded { shared, readers, blobs, jobs, queue, threads, lock: Mutex::new(Some(lock)) })
    }

    /// Runs a read where it may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&reader::Readers) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.queue.is_closed() {
            return Err(EngineError::Closed);
        }
        let readers = self.readers.clone();
        let work = tokio::task::spawn_blocking(move || work(&readers));
        work.await.map_err(|e| EngineError::Failed(e.to_string()))?
    }
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

fn lock(dir: &Path) -> Result<File> {
    let failed = |what: &str, e: std::io::Error| {
        EngineError::Failed(format!("could not {what} {}: {e}", dir.display()))
    };
    // Others on this machine have no business with the data.
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| failed("make the data directory", e))?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("LOCK"));
    let lock = lock.map_err(|e| failed("open the lock in", e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(EngineError::Failed(format!(
            "the data directory {} is in use by another steadfast; stop that one, or choose \
             another with --data",
            dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(failed("lock", e)),
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

/// Takes over the counts and the last version.
fn restore(conn: &rusqlite::Connection, shared: &Shared) -> rusqlite::Result<u64> {
    let mut counts = conn.prepare("SELECT first, n FROM counts")?;
    let mut rows = counts.query([])?;
    while let Some(row) = rows.next()? {
        shared.count(row.get(0)?, row.get(1)?);
    }
    let last: i64 = conn.query_row("SELECT last_version FROM meta", [], |row| row.get(0))?;
    Ok(last.cast_unsigned())
}

impl Engine for Embedded {
    fn read<'a>(&'a self, key: &'a [u8], part: Part) -> BoxFuture<'a, Result<Option<Record>>> {
        Box::pin(async move {
            let ticket = match self.shared.cache.get(key, part) {
                Ok(record) => {
                    self.shared.figures.cache_hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(record));
                }
                Err(ticket) => ticket,
            };
            self.shared.figures.cache_misses.fetch_add(1, Ordering::Relaxed);
            let owned = Bytes::copy_from_slice(key);
            let found = self.blocking(move |readers| readers.read(&owned, part)).await?;
            if let (Part::Whole, Some(record), Some(ticket)) = (part, &found, ticket) {
                self.shared.cache.put(key, ticket, record);
            }
            Ok(found)
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.blocking(move |readers| readers.scan(&scan)))
    }

    fn due(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(self.blocking(move |readers| readers.due(until, limit)))
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        let counter = self.shared.counts.get(usize::from(first));
        let count = counter.map_or(0, |counter| counter.load(Ordering::Relaxed));
        Box::pin(async move { Ok(u64::try_from(count).unwrap_or(0)) })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let place = self.queue.acquire().await.map_err(|_| EngineError::Closed)?;
            let (reply, answer) = oneshot::channel();
            {
                let jobs = self.jobs.lock().map_err(|_| EngineError::Closed)?;
                let jobs = jobs.as_ref().ok_or(EngineError::Closed)?;
                // There are as many places as permits, so this never finds the queue full.
                jobs.try_send(writer::Job { commit, reply }).map_err(|_| EngineError::Closed)?;
            }
            let answer = answer.await;
            drop(place);
            answer.map_err(|_| EngineError::Failed("the writer stopped".into()))?
        })
    }

    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn Stage>>> {
        Box::pin(async move {
            if self.queue.is_closed() {
                return Err(EngineError::Closed);
            }
            let stage = blobs::BlobStage::begin(self.blobs.clone()).await?;
            Ok(Box::new(stage) as Box<dyn Stage>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.queue.close();
            self.readers.close();
            // Without a sender the writer finishes what waits, folds the log and ends; then the
            // keeper does.
            drop(self.jobs.lock().map_err(|_| EngineError::Closed)?.take());
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
        let log_bytes = size(schema::log_path(&self.shared.dir));
        Stats {
            disk_bytes: size(schema::path(&self.shared.dir))
                + log_bytes
                + u64::try_from(blobs).unwrap_or(0),
            log_bytes,
            commits: load(&figures.commits),
            conflicts: load(&figures.conflicts),
            groups: load(&figures.groups),
            sync_micros: load(&figures.sync_micros),
            cache_hits: load(&figures.cache_hits),
            cache_misses: load(&figures.cache_misses),
        }
    }
}
