//! WAL segment files and the pool that recycles them.
//!
//! A *segment* is one use of a segment file and has a unique, increasing sequence number. Files are
//! filled with zeros before their first use, so that fdatasync writes data only and no file system
//! metadata.

use super::super::blob_files::io_error;
use super::super::data_dir::DataDir;
use super::super::{EngineError, Result};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Size of a segment file, in bytes. A file is longer only if it contains a single larger WAL
/// record.
pub(crate) const SEGMENT_BYTES: u64 = 8 << 20;
/// Number of free preallocated files under load, and when idle.
const FREE_FILES_BUSY: usize = 3;
const FREE_FILES_IDLE: usize = 1;

/// One use of a segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u64,
    segment_file: SegmentFile,
}

/// A file in the `log/` directory, named `slot-NNNN`.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    number: u64,
    file: File,
    /// Whether the file was filled with zeros, so that writes do not change its size.
    preallocated: bool,
}

impl Segment {
    pub(crate) fn new(seq: u64, segment_file: SegmentFile) -> Arc<Segment> {
        Arc::new(Segment { seq, segment_file })
    }

    /// Reassigns the file to another sequence number.
    pub(crate) fn with_seq(self, seq: u64) -> Arc<Segment> {
        Segment::new(seq, self.segment_file)
    }

    pub(crate) fn into_file(self) -> SegmentFile {
        self.segment_file
    }

    pub(crate) fn file(&self) -> &File {
        &self.segment_file.file
    }

    pub(crate) fn preallocated(&self) -> bool {
        self.segment_file.preallocated
    }

    /// Reads `len` bytes at offset `at`.
    ///
    /// # Errors
    /// Returns [`EngineError::Corrupt`] if the file is too short.
    pub(crate) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        match self.segment_file.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(EngineError::Corrupt("a WAL segment is truncated".into()))
            }
            Err(e) => Err(io_error("read the WAL", &e)),
        }
    }
}

fn open_error(e: &io::Error) -> EngineError {
    io_error("open the WAL", e)
}

/// All segment files of a data directory.
#[derive(Debug)]
pub(crate) struct SegmentPool {
    data: Arc<DataDir>,
    dir: PathBuf,
    state: Mutex<PoolState>,
    next_number: AtomicU64,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Segments with commits that are not checkpointed yet, the oldest first; the last one is
    /// active.
    live: Vec<Arc<Segment>>,
    /// Checkpointed segments that may still have readers.
    retired: Vec<Arc<Segment>>,
    free: Vec<SegmentFile>,
}

impl SegmentPool {
    /// Opens the files in the `log/` directory, which it creates if missing, and returns them with
    /// an empty pool.
    pub(crate) fn open(data: Arc<DataDir>) -> Result<(SegmentPool, Vec<SegmentFile>)> {
        let dir = data.path().join("log");
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(open_error(&e)),
            _ => {}
        }
        data.watch_directory(&dir)?;
        let opened = SegmentPool::open_files(data, OpenOptions::new().read(true).write(true))?;
        // A killed process may have created a file without syncing its directory entry.
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|e| open_error(&e))?;
        Ok(opened)
    }

    /// Opens the files for reading; none if the directory does not exist.
    pub(crate) fn open_read_only(data: Arc<DataDir>) -> Result<(SegmentPool, Vec<SegmentFile>)> {
        SegmentPool::open_files(data, OpenOptions::new().read(true))
    }

    fn open_files(
        data: Arc<DataDir>,
        options: &OpenOptions,
    ) -> Result<(SegmentPool, Vec<SegmentFile>)> {
        let dir = data.path().join("log");
        let mut files = Vec::new();
        let names = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.and_then(Iterator::collect).map_err(|e| open_error(&e))?,
        };
        for entry in names {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("slot-"));
            let Some(number) = number.and_then(|number| number.parse().ok()) else { continue };
            let file = options.open(dir.join(&name)).map_err(|e| open_error(&e))?;
            let preallocated = file.metadata().map_err(|e| open_error(&e))?.len() >= SEGMENT_BYTES;
            files.push(SegmentFile { number, file, preallocated });
        }
        files.sort_by_key(|file| file.number);
        let next_number = AtomicU64::new(files.last().map_or(1, |file| file.number + 1));
        Ok((SegmentPool { data, dir, state: Mutex::default(), next_number }, files))
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the segments and free files found by recovery.
    pub(crate) fn restore(&self, live: Vec<Arc<Segment>>, free: Vec<SegmentFile>) {
        *self.state() = PoolState { live, retired: Vec::new(), free };
    }

    /// Allocates segment `seq` from a free file, or else from a new one.
    pub(crate) fn allocate(&self, seq: u64) -> Result<Arc<Segment>> {
        let reused = {
            let mut state = self.state();
            let preallocated = state.free.iter().position(|file| file.preallocated);
            preallocated.map(|at| state.free.swap_remove(at)).or_else(|| state.free.pop())
        };
        let file = match reused {
            Some(file) => file,
            None => self.create(0)?,
        };
        let segment = Segment::new(seq, file);
        self.state().live.push(segment.clone());
        Ok(segment)
    }

    /// Creates a segment file if there is none. From then on the WAL always has a file, so that a
    /// data directory without one has lost its WAL.
    pub(crate) fn ensure_file(&self) -> Result<()> {
        let is_empty = {
            let state = self.state();
            state.live.is_empty() && state.retired.is_empty() && state.free.is_empty()
        };
        if is_empty {
            let file = self.create(SEGMENT_BYTES)?;
            self.state().free.push(file);
        }
        Ok(())
    }

    /// Creates a file of `len` zero bytes and fsyncs it and its directory.
    fn create(&self, len: u64) -> Result<SegmentFile> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let path = self.path(number);
        let fill = || -> io::Result<File> {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            let zeros = vec![0; 1 << 20];
            let mut at = 0;
            while at < len {
                file.write_all_at(&zeros, at)?;
                at += zeros.len() as u64;
            }
            file.sync_all()?;
            File::open(&self.dir)?.sync_all()?;
            Ok(file)
        };
        match fill() {
            Ok(file) => {
                // The directory may have been replaced, and the file created in the new one.
                self.data.ensure_in_place()?;
                Ok(SegmentFile { number, file, preallocated: len >= SEGMENT_BYTES })
            }
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(io_error("allocate a WAL segment", &e))
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("slot-{number:04}"))
    }

    pub(crate) fn has_preallocated(&self) -> bool {
        self.state().free.iter().any(|file| file.preallocated)
    }

    /// Retires the segments before `seq`, whose commits are durable in the database.
    pub(crate) fn retire(&self, seq: u64) {
        let mut state = self.state();
        let count = state.live.partition_point(|segment| segment.seq < seq);
        let retired: Vec<_> = state.live.drain(..count).collect();
        state.retired.extend(retired);
    }

    /// Recycles retired segments without readers, deletes surplus files, and preallocates new ones.
    pub(crate) fn replenish(&self, busy: bool) -> Result<()> {
        let wanted = if busy { FREE_FILES_BUSY } else { FREE_FILES_IDLE };
        let (preallocated, surplus) = {
            let mut state = self.state();
            for segment in std::mem::take(&mut state.retired) {
                match Arc::try_unwrap(segment) {
                    Ok(segment) => state.free.push(segment.segment_file),
                    Err(segment) => state.retired.push(segment),
                }
            }
            // Writing to a file that was not preallocated costs more than preallocating a new one.
            let (preallocated, mut surplus): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.free).into_iter().partition(|file| file.preallocated);
            state.free = preallocated;
            if !busy {
                let keep = state.free.len().min(wanted);
                surplus.extend(state.free.drain(keep..));
            }
            (state.free.len(), surplus)
        };
        // Created before surplus files are deleted, as one file must always exist.
        let created = self.preallocate(wanted.saturating_sub(preallocated));
        if created.is_err() && preallocated == 0 {
            self.state().free.extend(surplus);
            return created;
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

    fn preallocate(&self, files: usize) -> Result<()> {
        for _ in 0..files {
            let file = self.create(SEGMENT_BYTES)?;
            self.state().free.push(file);
        }
        Ok(())
    }

    /// Returns whether the pool has more files than an idle server needs.
    pub(crate) fn has_surplus(&self) -> bool {
        let state = self.state();
        !state.retired.is_empty() || state.free.len() > FREE_FILES_IDLE
    }

    /// Returns the number of live segments before `seq`.
    pub(crate) fn live_before(&self, seq: u64) -> usize {
        self.state().live.partition_point(|segment| segment.seq < seq)
    }

    /// Returns the total size of all segment files, in bytes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let state = self.state();
        let live = state.live.iter().chain(&state.retired).map(|segment| &segment.segment_file);
        live.chain(&state.free).map(|file| file.file.metadata().map_or(0, |meta| meta.len())).sum()
    }
}
