//! The data directory: its lock, and detection of a directory that was moved or replaced.

use super::super::{EngineError, Result};
use super::database;
#[cfg(target_os = "linux")]
use rustix::fs::{AtFlags, StatxFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
#[cfg(not(target_os = "linux"))]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time to wait for the data directory's lock. The kernel may release the lock of a killed process
/// late, and a forked child of the process holds the lock until it calls exec.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// The file that a process locks to own the directory.
const LOCK: &str = "LOCK";

/// An open and locked data directory.
///
/// Files are opened by path. If an operator moves or replaces the directory or one of its
/// subdirectories, new files are created elsewhere. [`DataDir::ensure_in_place`] detects this.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// The directory. It is locked in addition to the file `LOCK`, because an operator may remove
    /// the file.
    handle: File,
    /// The locked file; `None` after `unlock`, and on a read-only file system without a lock file.
    lock: Mutex<Option<File>>,
    is_writable: bool,
    /// The directory, and the files and subdirectories in it that must stay at their paths.
    entries: Mutex<Vec<Entry>>,
}

/// A file or directory in use.
#[derive(Debug)]
struct Entry {
    path: PathBuf,
    identity: Identity,
    /// An open directory, held so that its inode is not reused if the directory is removed. `None`
    /// for files and for the data directory itself, which are held open elsewhere.
    _handle: Option<File>,
}

impl DataDir {
    /// Creates a directory if it is missing, and locks it.
    ///
    /// # Errors
    /// Fails if another process has the directory open, or if it cannot be created or written.
    pub(super) fn create(path: &Path) -> Result<DataDir> {
        // Only the owner may read the data.
        let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
        created.map_err(|e| failed("create the data directory", path, &e))?;
        let handle = open_locked(path)?;
        let lock = open_lock(path).map_err(|e| failed("open the lock file in", path, &e))?;
        DataDir::new(path, handle, Some(lock), true)
    }

    /// Locks a directory that has a database, in order to read it. Creates nothing if the directory
    /// is not writable.
    ///
    /// # Errors
    /// Fails if another process has the directory open, or if it has no database.
    pub(super) fn open_existing(path: &Path) -> Result<DataDir> {
        database::ensure_exists(path)?;
        let handle = open_locked(path)?;
        let (lock, is_writable) = match open_lock(path) {
            Ok(lock) => (Some(lock), true),
            Err(e) if is_read_only(&e) => match File::open(path.join(LOCK)) {
                Ok(lock) => (Some(lock), false),
                Err(e) if e.kind() == ErrorKind::NotFound => (None, false),
                Err(e) => return Err(failed("open the lock file in", path, &e)),
            },
            Err(e) => return Err(failed("open the lock file in", path, &e)),
        };
        DataDir::new(path, handle, lock, is_writable)
    }

    fn new(path: &Path, handle: File, lock: Option<File>, is_writable: bool) -> Result<DataDir> {
        if let Some(lock) = &lock {
            acquire(lock, path)?;
        }
        raise_file_limit();
        let (identity, _) = stat(&handle).map_err(|e| failed("read", path, &e))?;
        let entries = Mutex::new(vec![Entry { path: path.to_owned(), identity, _handle: None }]);
        let (path, lock) = (path.to_owned(), Mutex::new(lock));
        Ok(DataDir { path, handle, lock, is_writable, entries })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether files can be created in the directory.
    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Unlocks the directory. Stops watching its files, because SQLite removed its WAL on close.
    pub(super) fn unlock(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let _ = self.handle.unlock();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Fsyncs the directory and its parent, so that new directory entries are durable.
    pub(super) fn sync(&self) -> Result<()> {
        let parent = self.path.canonicalize().ok();
        let parent = parent.as_deref().and_then(Path::parent);
        for dir in [Some(&*self.path), parent].into_iter().flatten() {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(|e| failed("sync", dir, &e))?;
        }
        Ok(())
    }

    /// Remembers the identities of the lock file and the database files, which must exist.
    pub(super) fn watch_files(&self) -> Result<()> {
        let (database, wal) = (database::path(&self.path), database::wal_path(&self.path));
        [self.path.join(LOCK), database, wal]
            .into_iter()
            .try_for_each(|path| self.watch(path, None))
    }

    /// Remembers the identity of a subdirectory.
    pub(super) fn watch_directory(&self, path: &Path) -> Result<()> {
        let handle = File::open(path).map_err(|e| failed("open", path, &e))?;
        self.watch(path.to_owned(), Some(handle))
    }

    fn watch(&self, path: PathBuf, handle: Option<File>) -> Result<()> {
        let (identity, _) = stat_path(&path).map_err(|e| failed("read", &path, &e))?;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(Entry { path, identity, _handle: handle });
        Ok(())
    }

    /// Fails if the directory, a subdirectory, the lock file or a database file was moved or
    /// removed, in which case writes to its path would go elsewhere.
    pub(super) fn ensure_in_place(&self) -> Result<()> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().try_for_each(|entry| ensure_identity(&entry.path, entry.identity))
    }
}

/// Fails if an open file is no longer at its path. Data written to the file would be lost.
pub(super) fn ensure_at(file: &File, path: &Path) -> Result<()> {
    let (identity, _) = stat(file).map_err(|e| failed("read", path, &e))?;
    ensure_identity(path, identity)
}

fn ensure_identity(path: &Path, expected: Identity) -> Result<()> {
    let is_gone = match stat_path(path) {
        Ok((found, links)) => found != expected || links == 0,
        Err(e) => matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    };
    if is_gone { Err(moved(path)) } else { Ok(()) }
}

/// Fails if a file was removed while it was open. This costs less than [`ensure_at`].
pub(super) fn ensure_linked(file: &File, path: &Path) -> Result<()> {
    match stat(file) {
        Ok((_, 1..)) => Ok(()),
        Ok(_) => Err(moved(path)),
        Err(e) => Err(failed("read", path, &e)),
    }
}

/// The device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

/// Returns the identity of an open file and the number of its directory entries.
#[cfg(target_os = "linux")]
fn stat(file: &File) -> io::Result<(Identity, u64)> {
    statx(file, c"", AtFlags::EMPTY_PATH)
}

/// Returns the identity of the file at a path and the number of its directory entries.
#[cfg(target_os = "linux")]
fn stat_path(path: &Path) -> io::Result<(Identity, u64)> {
    statx(rustix::fs::CWD, path, AtFlags::empty())
}

/// Queries only the inode and the link count. After a query of the change time, Linux updates that
/// time on the next write, and each fdatasync must then write the inode as well.
#[cfg(target_os = "linux")]
fn statx(
    dir: impl AsFd,
    path: impl rustix::path::Arg,
    flags: AtFlags,
) -> io::Result<(Identity, u64)> {
    let found = rustix::fs::statx(dir, path, flags, StatxFlags::INO | StatxFlags::NLINK)?;
    let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    Ok((Identity(device, found.stx_ino), found.stx_nlink.into()))
}

#[cfg(not(target_os = "linux"))]
fn stat(file: &File) -> io::Result<(Identity, u64)> {
    let found = file.metadata()?;
    Ok((Identity(found.dev(), found.ino()), found.nlink()))
}

#[cfg(not(target_os = "linux"))]
fn stat_path(path: &Path) -> io::Result<(Identity, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((Identity(found.dev(), found.ino()), found.nlink()))
}

fn moved(path: &Path) -> EngineError {
    EngineError::Failed(format!("{} was moved or removed while it was in use", path.display()))
}

fn failed(action: &str, path: &Path, e: &io::Error) -> EngineError {
    EngineError::Failed(format!("could not {action} {}: {e}", path.display()))
}

fn is_read_only(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

fn open_lock(dir: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))
}

/// Opens and locks the directory itself. Its lock holds even if the file `LOCK` is removed or
/// missing. Some network file systems can lock only files. On those, only the file `LOCK` is
/// locked.
fn open_locked(dir: &Path) -> Result<File> {
    let handle = File::open(dir).map_err(|e| failed("open", dir, &e))?;
    if !matches!(handle.try_lock(), Err(TryLockError::Error(_))) {
        acquire(&handle, dir)?;
    }
    Ok(handle)
}

/// Raises the soft limit on open files, commonly 1024, to the hard limit, because every WAL segment
/// file stays open. Returns the limit in effect.
pub fn raise_file_limit() -> u64 {
    /// The limit to set if the hard limit is unlimited. Some systems reject an unlimited soft
    /// limit.
    const UNLIMITED: u64 = 1 << 16;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current else { return u64::MAX };
    let raised = maximum.unwrap_or(UNLIMITED);
    if current >= raised {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
        Ok(()) => raised,
        Err(error) => {
            tracing::warn!(%error, "could not raise the limit on open files");
            current
        }
    }
}

/// Returns whether a process has the data directory open.
pub fn is_locked(dir: &Path) -> bool {
    // The lock is shared, so that two concurrent probes do not conflict.
    let is_locked = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    [dir.to_owned(), dir.join(LOCK)].iter().any(|path| File::open(path).is_ok_and(is_locked))
}

fn acquire(lock: &File, dir: &Path) -> Result<()> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_TIMEOUT / 20);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::Failed(format!(
                    "the data directory {} is locked by another steadfast process; stop that \
                     process, or choose another directory with --data",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock", dir, &e)),
        }
    }
}
