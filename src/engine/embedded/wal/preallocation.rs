//! Creation, reuse and deletion of WAL segment files.

use super::super::blob_files::io_error;
use super::super::{EngineError, Result};
use super::pool_state::RESERVED_FILES;
use super::record::PAGE_BYTES;
use super::segment::{PlantedFault, SegmentFile, SegmentPool};
use super::segment_size::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Number of free preallocated files under load, and when idle.
const FREE_FILES_BUSY: usize = RESERVED_FILES + 2;
const FREE_FILES_IDLE: usize = RESERVED_FILES + 1;
/// Number of bytes zeroed between two fsyncs of a new file, if they are written to the page cache.
/// This bounds the amount of other data that the fsync of a concurrent commit may have to wait for.
const SYNC_BYTES: u64 = 4 << 20;
/// Number of bytes zeroed by one write. The sizes of new files are multiples of it.
const ZEROS_BYTES: usize = 256 << 10;
/// Minimum time between two attempts to create a file, if the first one failed although enough
/// space seemed to be available, for example because of a quota. Until it fails, an attempt takes
/// space that the database may need.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl SegmentPool {
    /// Creates a segment file if there is none. From then on, the WAL always has a file, so a data
    /// directory without one has lost its WAL.
    pub(crate) fn ensure_file(&self) -> Result<()> {
        let is_empty = {
            let state = self.state();
            let segments = state.live.len() + state.sealed.len() + state.retired.len();
            segments + state.free.len() == 0
        };
        if is_empty {
            let file = self.create(SEGMENT_BYTES_MIN)?;
            self.state_mut().free.push(file);
        }
        Ok(())
    }

    /// Deletes a reserved file, so that the database can grow on a full disk. Returns `false` if
    /// there is none, or if the file deleted before has not been replaced.
    pub(crate) fn release_reserve(&self) -> Result<bool> {
        let file = {
            let mut state = self.state_mut();
            let file = match state.is_reserve_released {
                true => None,
                false => state.take_preallocated(0),
            };
            state.is_reserve_released |= file.is_some();
            state.is_full = true;
            file
        };
        // If the directory was replaced, the file in the new one must not be deleted.
        self.data.ensure_in_place()?;
        let removed = file.map(|file| fs::remove_file(self.path(file.number))).transpose();
        Ok(removed.map_err(|e| io_error("delete a WAL segment file", &e))?.is_some())
    }

    /// Creates a file of `len` zero bytes and fsyncs it and its directory.
    pub(super) fn create(&self, len: u64) -> Result<SegmentFile> {
        // Without this check, the file would take the last space of a full disk until it is removed
        // again, and the database or a commit may need that space.
        ensure_available(&self.dir, len)?;
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let path = self.path(number);
        let fill = || -> io::Result<File> {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            fill_with_zeros(&file, len)?;
            file.sync_all()?;
            File::open(&self.dir)?.sync_all()?;
            Ok(file)
        };
        match fill() {
            Ok(file) => {
                // The directory may have been replaced, and the file created in the new one.
                self.data.ensure_in_place()?;
                Ok(SegmentFile { number, file, len })
            }
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(io_error("allocate a WAL segment", &e))
            }
        }
    }

    /// Recycles retired segments without readers, deletes surplus files, and preallocates new ones.
    /// Also replaces free files whose size differs too much from that of new files.
    ///
    /// # Errors
    /// Returns [`EngineError::Full`] if the disk is too full for a new file.
    pub(crate) fn replenish(&self, busy: bool) -> Result<()> {
        let wanted = if busy { FREE_FILES_BUSY } else { FREE_FILES_IDLE };
        // Under load, keeps enough free files for the WAL that accumulates until the next
        // checkpoint.
        let reused = self.wal_bytes.load(Ordering::Relaxed) / self.segment_bytes();
        let reused = usize::try_from(reused).unwrap_or(usize::MAX);
        // On a full disk, other programs could use the space of deleted files. A planted fault is
        // detected only if the files are used again.
        let keeps_all = self.is_full() || self.has_fault(PlantedFault::RecycleInUse);
        let keep_max = match (keeps_all, busy) {
            (true, _) => usize::MAX,
            (false, true) => FREE_FILES_BUSY.saturating_add(reused),
            (false, false) => wanted,
        };
        let sizes = self.suitable_sizes();
        let is_suitable = |file: &SegmentFile| sizes.contains(&file.len);
        self.recycle_retired();
        let (suitable, mut surplus) = {
            let mut state = self.state_mut();
            // Writing to a file that was not preallocated costs more than preallocating a new one.
            let mut surplus: Vec<_> =
                state.free.extract_if(.., |file| !file.is_preallocated()).collect();
            let suitable = state.free.iter().filter(|file| is_suitable(file)).count();
            state.take_up_to(suitable.saturating_sub(keep_max), is_suitable, &mut surplus);
            (suitable.min(keep_max), surplus)
        };
        // On a full disk, creates a file even if none is wanted, to find out whether there is space
        // again.
        let was_full = self.is_full();
        let missing = wanted.saturating_sub(suitable).max(usize::from(was_full));
        // Created before surplus files are deleted, as one file must always exist.
        let created = (0..missing).try_for_each(|_| self.preallocate());
        let is_full = match &created {
            Ok(()) => false,
            Err(EngineError::Full(_)) => true,
            Err(_) => was_full,
        };
        {
            let mut state = self.state_mut();
            state.end_release(is_full);
            let excess = if is_full { 0 } else { state.free.len().saturating_sub(wanted) };
            state.take_up_to(excess, |file| !is_suitable(file), &mut surplus);
            if state.free.is_empty() && created.is_err() {
                state.free = surplus;
                return created;
            }
        }
        // If the directory was replaced, the files in the new one must not be deleted.
        self.data.ensure_in_place()?;
        for SegmentFile { number, .. } in surplus {
            if let Err(e) = fs::remove_file(self.path(number)) {
                tracing::warn!(number, error = %e, "could not delete a WAL segment file");
            }
        }
        created
    }

    /// Returns the sizes of free files that are kept, in bytes.
    ///
    /// A reserved file must have room for the live bytes of a segment of the current size that has
    /// enough garbage to be collected. The margin avoids replacing all files whenever the size of
    /// new files grows a little. A file that exceeds the maximum has grown for a single WAL record.
    fn suitable_sizes(&self) -> RangeInclusive<u64> {
        let bytes = self.segment_bytes();
        bytes / 4 * 3..=2 * bytes.max(SEGMENT_BYTES_MAX)
    }

    /// Frees the files of retired segments that no reader or snapshot uses.
    fn recycle_retired(&self) {
        let mut state = self.state_mut();
        for segment in std::mem::take(&mut state.retired) {
            match Arc::try_unwrap(segment) {
                Ok(segment) => state.add_free(segment.into_file()),
                #[cfg(test)]
                Err(segment) if self.has_fault(PlantedFault::RecycleInUse) => {
                    segment.duplicate_file().into_iter().for_each(|file| state.add_free(file));
                }
                Err(segment) => state.retired.push(segment),
            }
        }
    }

    fn preallocate(&self) -> Result<()> {
        let bytes = self.segment_bytes();
        let (is_reserve_released, retry_at) = {
            let state = self.state();
            (state.is_reserve_released, state.retry_at)
        };
        // The space of a file that was deleted for the database must not be used for another file.
        ensure_available(&self.dir, if is_reserve_released { 2 * bytes } else { bytes })?;
        if retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(EngineError::Full(
                "the last attempt to create a WAL segment failed".into(),
            ));
        }
        let file = self.create(bytes);
        let mut state = self.state_mut();
        // Any other error does not mean that the disk is full.
        let is_full = matches!(file, Err(EngineError::Full(_)));
        state.retry_at = is_full.then(|| Instant::now() + RETRY_INTERVAL);
        state.add_free(file?);
        Ok(())
    }

    /// Returns whether the pool has more files than an idle server needs.
    pub(crate) fn has_surplus(&self) -> bool {
        let state = self.state();
        !state.retired.is_empty() || state.free.len() > FREE_FILES_IDLE
    }
}

/// Fills an empty file with `len` zero bytes. Uses direct I/O if the file system supports it.
/// Otherwise, the fsync of a concurrent commit may have to wait until megabytes are written.
fn fill_with_zeros(file: &File, len: u64) -> io::Result<()> {
    // Direct I/O requires an aligned buffer.
    let buffer = vec![0; ZEROS_BYTES + PAGE_BYTES];
    let start = buffer.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
    let zeros = buffer.get(start..start + ZEROS_BYTES).unwrap_or_default();
    if set_direct(file, true).is_ok() {
        let filled = fill(file, zeros, len, len);
        set_direct(file, false)?;
        // Some file systems accept the flag, but not the writes.
        if !filled.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::InvalidInput) {
            return filled;
        }
    }
    fill(file, zeros, len, SYNC_BYTES)
}

/// Sets whether writes to an open file bypass the page cache.
#[cfg(target_os = "linux")]
fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(rustix::fs::OFlags::DIRECT, is_direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_: &File, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes `zeros` to a file until it has `len` bytes, with an fsync after every `sync_bytes` bytes.
fn fill(file: &File, zeros: &[u8], len: u64, sync_bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        file.write_all_at(zeros, at)?;
        at += zeros.len() as u64;
        if at < len && at.is_multiple_of(sync_bytes) {
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Fails if the file system of a directory has fewer than `bytes` bytes available. Has no effect if
/// the file system does not report its size. A quota may still prevent the allocation.
fn ensure_available(dir: &Path, bytes: u64) -> Result<()> {
    let Ok(found) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    if found.f_blocks > 0 && available < bytes {
        let problem = format!("a WAL segment needs {bytes} bytes, but {available} are available");
        return Err(EngineError::Full(problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_filled_with_zeros_accepts_unaligned_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let len = 4 * ZEROS_BYTES as u64;
        fill_with_zeros(file.as_file(), len).unwrap();
        file.as_file().write_all_at(b"unaligned", 5).unwrap();
        let mut content = fs::read(file.path()).unwrap();
        assert_eq!(content.len() as u64, len);
        content.drain(5..14);
        assert!(content.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_file_larger_than_the_available_space_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        ensure_available(dir.path(), 1).unwrap();
        let e = ensure_available(dir.path(), u64::MAX).unwrap_err();
        assert!(matches!(e, EngineError::Full(_)), "{e}");
    }
}
