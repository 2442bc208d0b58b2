//! The files of the commit log. Each is a *slot* that is used again and again: a *segment* is one
//! use of a slot, and has a number that never comes twice. A slot is filled with zeros before its
//! first use, so that a sync writes data and nothing of the file system's own.

use super::super::blob_files::io_error;
use super::super::{EngineError, Result};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a slot; only a single frame that is larger makes it longer.
pub(in crate::engine::embedded) const SEGMENT_BYTES: u64 = 8 << 20;
/// Slots that wait for their use while there is work, and when there is none.
const FREE_FILES_BUSY: usize = 3;
const FREE_FILES_IDLE: usize = 1;

/// One use of a slot.
#[derive(Debug)]
pub(in crate::engine::embedded) struct Segment {
    pub(in crate::engine::embedded) seq: u64,
    segment_file: SegmentFile,
}

/// A file of the log.
#[derive(Debug)]
pub(in crate::engine::embedded) struct SegmentFile {
    number: u64,
    file: File,
    /// Whether it was filled, so that writes into it change no size.
    preallocated: bool,
}

impl Segment {
    pub(in crate::engine::embedded) fn new(seq: u64, segment_file: SegmentFile) -> Arc<Segment> {
        Arc::new(Segment { seq, segment_file })
    }

    /// The same slot as another segment.
    pub(in crate::engine::embedded) fn with_seq(self, seq: u64) -> Arc<Segment> {
        Segment::new(seq, self.segment_file)
    }

    /// The slot, for another use.
    pub(in crate::engine::embedded) fn into_file(self) -> SegmentFile {
        self.segment_file
    }

    pub(in crate::engine::embedded) fn file(&self) -> &File {
        &self.segment_file.file
    }

    pub(in crate::engine::embedded) fn preallocated(&self) -> bool {
        self.segment_file.preallocated
    }

    /// `len` bytes from `at`.
    pub(in crate::engine::embedded) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut disk_bytes = vec![0; len];
        match self.segment_file.file.read_exact_at(&mut disk_bytes, at) {
            Ok(()) => Ok(disk_bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(EngineError::Corrupt("a segment of the log is cut short".into()))
            }
            Err(e) => Err(io_error("read the log", &e)),
        }
    }
}

/// All slots of a data directory.
#[derive(Debug)]
pub(in crate::engine::embedded) struct SegmentPool {
    dir: PathBuf,
    state: Mutex<PoolState>,
    next_number: AtomicU64,
}

#[derive(Debug, Default)]
struct PoolState {
    /// In use, the oldest first; the last is written to.
    live: Vec<Arc<Segment>>,
    /// Folded, but perhaps still read from.
    retired: Vec<Arc<Segment>>,
    free: Vec<SegmentFile>,
}

impl SegmentPool {
    /// The slots in `log/` of a data directory, which is made when it is not there.
    pub(in crate::engine::embedded) fn open(
        data: &Path,
    ) -> Result<(SegmentPool, Vec<SegmentFile>)> {
        let dir = data.join("log");
        let open_error = |e: io::Error| io_error("open the log", &e);
        fs::create_dir_all(&dir).map_err(open_error)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(open_error)? {
            let name = entry.map_err(open_error)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("slot-"));
            let Some(number) = number.and_then(|number| number.parse().ok()) else { continue };
            let file = OpenOptions::new().read(true).write(true).open(dir.join(&name));
            let file = file.map_err(open_error)?;
            let preallocated = file.metadata().map_err(open_error)?.len() >= SEGMENT_BYTES;
            found.push(SegmentFile { number, file, preallocated });
        }
        // A process that was killed may have left a slot whose name was never synced, and whoever
        // finds it uses it.
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(open_error)?;
        found.sort_by_key(|segment_file| segment_file.number);
        let next_number =
            AtomicU64::new(found.last().map_or(1, |segment_file| segment_file.number + 1));
        Ok((SegmentPool { dir, state: Mutex::default(), next_number }, found))
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what was found at the start.
    pub(in crate::engine::embedded) fn restore(
        &self,
        live: Vec<Arc<Segment>>,
        free: Vec<SegmentFile>,
    ) {
        *self.state() = PoolState { live, retired: Vec::new(), free };
    }

    /// Begins the segment `seq`: a slot that waits, or else a new one.
    pub(in crate::engine::embedded) fn allocate(&self, seq: u64) -> Result<Arc<Segment>> {
        let reused = {
            let mut state = self.state();
            let preallocated = state.free.iter().position(|segment_file| segment_file.preallocated);
            preallocated.map(|at| state.free.swap_remove(at)).or_else(|| state.free.pop())
        };
        let segment_file = match reused {
            Some(segment_file) => segment_file,
            None => self.create(0)?,
        };
        let segment = Segment::new(seq, segment_file);
        self.state().live.push(segment.clone());
        Ok(segment)
    }

    /// Makes a slot of `len` zeros; its name is durable before it is used.
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
            Ok(file) => Ok(SegmentFile { number, file, preallocated: len >= SEGMENT_BYTES }),
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(io_error("make room for the log", &e))
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("slot-{number:04}"))
    }

    /// Whether a filled slot waits.
    pub(in crate::engine::embedded) fn has_preallocated(&self) -> bool {
        self.state().free.iter().any(|segment_file| segment_file.preallocated)
    }

    /// Gives up the segments before `seq`: the database has all they hold, durably.
    pub(in crate::engine::embedded) fn retire(&self, seq: u64) {
        let mut state = self.state();
        let old = state.live.partition_point(|segment| segment.seq < seq);
        let retired: Vec<_> = state.live.drain(..old).collect();
        state.retired.extend(retired);
    }

    /// Makes the slots that nobody reads any more spare ones, and sees to it that some wait.
    pub(in crate::engine::embedded) fn replenish(&self, busy: bool) -> Result<()> {
        let wanted = if busy { FREE_FILES_BUSY } else { FREE_FILES_IDLE };
        let mut surplus = Vec::new();
        let preallocated = {
            let mut state = self.state();
            for segment in std::mem::take(&mut state.retired) {
                match Arc::try_unwrap(segment) {
                    Ok(segment) => state.free.push(segment.segment_file),
                    Err(segment) => state.retired.push(segment),
                }
            }
            // One that is not filled costs more to sync than a new one costs to fill.
            let (preallocated, unfilled): (Vec<_>, Vec<_>) = std::mem::take(&mut state.free)
                .into_iter()
                .partition(|segment_file| segment_file.preallocated);
            state.free = preallocated;
            surplus.extend(unfilled);
            if !busy {
                let keep = state.free.len().min(wanted);
                surplus.extend(state.free.drain(keep..));
            }
            state.free.len()
        };
        for segment_file in surplus {
            if let Err(e) = fs::remove_file(self.path(segment_file.number)) {
                tracing::warn!(segment_file = segment_file.number, error = %e, "a file of the log stays");
            }
        }
        for _ in preallocated..wanted {
            let segment_file = self.create(SEGMENT_BYTES)?;
            self.state().free.push(segment_file);
        }
        Ok(())
    }

    /// Whether there are more slots than an idle server keeps.
    pub(in crate::engine::embedded) fn has_surplus(&self) -> bool {
        let state = self.state();
        !state.retired.is_empty() || state.free.len() > FREE_FILES_IDLE
    }

    /// Segments in use before `seq`.
    pub(in crate::engine::embedded) fn live_before(&self, seq: u64) -> usize {
        self.state().live.partition_point(|segment| segment.seq < seq)
    }

    /// Bytes of all slots.
    pub(in crate::engine::embedded) fn disk_bytes(&self) -> u64 {
        let state = self.state();
        let live = state.live.iter().chain(&state.retired).map(|segment| &segment.segment_file);
        live.chain(&state.free)
            .map(|segment_file| segment_file.file.metadata().map_or(0, |meta| meta.len()))
            .sum()
    }
}
