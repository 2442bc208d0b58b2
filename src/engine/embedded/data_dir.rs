//! The data directory: its lock, and detection of a directory that was moved or replaced.

use super::super::{EngineError, Result};
use super::database;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Time to wait for the data directory's lock. The kernel may release the lock of a killed process
/// late, and a forked child of the process holds the lock until it calls exec.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// An open and locked data directory.
///
/// Files are opened by path. If an operator moves or replaces the directory, new files are created
/// elsewhere. [`DataDir::ensure_in_place`] detects this.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    handle: File,
    /// The locked file; `None` after `unlock`, and on a read-only file system without a lock file.
    lock: Mutex<Option<File>>,
    is_writable: bool,
    /// Device and inode of the database file.
    database: OnceLock<(u64, u64)>,
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
        let lock = open_lock(path).map_err(|e| failed("open the lock file in", path, &e))?;
        DataDir::new(path, Some(lock), true)
    }

    /// Locks a directory that has a database, in order to read it. Creates nothing if the directory
    /// is not writable.
    ///
    /// # Errors
    /// Fails if another process has the directory open, or if it has no database.
    pub(super) fn open_existing(path: &Path) -> Result<DataDir> {
        database::ensure_exists(path)?;
        let (lock, is_writable) = match open_lock(path) {
            Ok(lock) => (Some(lock), true),
            Err(e) if is_read_only(&e) => match File::open(path.join("LOCK")) {
                Ok(lock) => (Some(lock), false),
                // Without a lock file, no server can have the directory open.
                Err(e) if e.kind() == ErrorKind::NotFound => (None, false),
                Err(e) => return Err(failed("open the lock file in", path, &e)),
            },
            Err(e) => return Err(failed("open the lock file in", path, &e)),
        };
        DataDir::new(path, lock, is_writable)
    }

    fn new(path: &Path, lock: Option<File>, is_writable: bool) -> Result<DataDir> {
        if let Some(lock) = &lock {
            acquire(lock, path)?;
        }
        let handle = File::open(path).map_err(|e| failed("open", path, &e))?;
        let (path, lock, database) = (path.to_owned(), Mutex::new(lock), OnceLock::new());
        Ok(DataDir { path, handle, lock, is_writable, database })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether files can be created in the directory.
    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    pub(super) fn unlock(&self) {
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

    /// Remembers the identity of the database file, which must exist.
    pub(super) fn remember_database(&self) -> Result<()> {
        let path = database::path(&self.path);
        let found = fs::metadata(&path).map_err(|e| failed("read", &path, &e))?;
        let _ = self.database.set(identity(&found));
        Ok(())
    }

    /// Fails if the directory or its database was moved or removed, in which case writes to its
    /// path would go elsewhere.
    pub(super) fn ensure_in_place(&self) -> Result<()> {
        let ours = self.handle.metadata().map_err(|e| failed("read", &self.path, &e))?;
        let database = database::path(&self.path);
        let database = self.database.get().map(|identity| (&*database, *identity));
        let expected = [Some((&*self.path, identity(&ours))), database];
        for (path, expected) in expected.into_iter().flatten() {
            let is_gone = match fs::metadata(path) {
                Ok(found) => identity(&found) != expected || found.nlink() == 0,
                Err(e) => matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
            };
            if is_gone {
                return Err(moved(path));
            }
        }
        Ok(())
    }
}

/// Fails if a file was removed while it was open. Data written to the file would be lost.
pub(super) fn ensure_linked(file: &File, path: &Path) -> Result<()> {
    match links(file) {
        Ok(1..) => Ok(()),
        Ok(_) => Err(moved(path)),
        Err(e) => Err(failed("read", path, &e)),
    }
}

/// Returns the link count of a file.
///
/// Only this field is queried. After a query of the change time, Linux updates that time on the
/// next write, and each fdatasync must then write the inode as well.
#[cfg(target_os = "linux")]
fn links(file: &File) -> io::Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::NLINK)?;
    Ok(found.stx_nlink.into())
}

#[cfg(not(target_os = "linux"))]
fn links(file: &File) -> io::Result<u64> {
    file.metadata().map(|found| found.nlink())
}

fn moved(path: &Path) -> EngineError {
    EngineError::Failed(format!("{} was moved or removed while it was in use", path.display()))
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn failed(action: &str, path: &Path, e: &io::Error) -> EngineError {
    EngineError::Failed(format!("could not {action} {}: {e}", path.display()))
}

fn is_read_only(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

fn open_lock(dir: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(dir.join("LOCK"))
}

/// Returns whether a process has the data directory open.
pub fn is_locked(dir: &Path) -> bool {
    let lock = File::open(dir.join("LOCK"));
    // The lock is shared, so that two concurrent probes do not conflict.
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
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
