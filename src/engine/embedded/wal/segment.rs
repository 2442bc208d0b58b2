//! The files of the commit log. Each is a *slot* that is used again and again: a *segment* is one
//! use of a slot, and has a number that never comes twice. A slot is filled with zeros before its
//! first use, so that a sync writes data and nothing of the file system's own.

use super::super::blob_files::io_failed;
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
const SPARES_BUSY: usize = 3;
const SPARES_IDLE: usize = 1;

/// One use of a slot.
#[derive(Debug)]
pub(in crate::engine::embedded) struct Segment {
    pub(in crate::engine::embedded) seq: u64,
    slot: Slot,
}

/// A file of the log.
#[derive(Debug)]
pub(in crate::engine::embedded) struct Slot {
    number: u64,
    file: File,
    /// Whether it was filled, so that writes into it change no size.
    filled: bool,
}

impl Segment {
    pub(in crate::engine::embedded) fn new(seq: u64, slot: Slot) -> Arc<Segment> {
        Arc::new(Segment { seq, slot })
    }

    /// The same slot as another segment.
    pub(in crate::engine::embedded) fn renumbered(self, seq: u64) -> Arc<Segment> {
        Segment::new(seq, self.slot)
    }

    /// The slot, for another use.
    pub(in crate::engine::embedded) fn into_slot(self) -> Slot {
        self.slot
    }

    pub(in crate::engine::embedded) fn file(&self) -> &File {
        &self.slot.file
    }

    pub(in crate::engine::embedded) fn filled(&self) -> bool {
        self.slot.filled
    }

    /// `len` bytes from `at`.
    pub(in crate::engine::embedded) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        match self.slot.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(EngineError::Corrupt("a segment of the log is cut short".into()))
            }
            Err(e) => Err(io_failed("read the log", &e)),
        }
    }
}

/// All slots of a data directory.
#[derive(Debug)]
pub(in crate::engine::embedded) struct Slots {
    dir: PathBuf,
    state: Mutex<State>,
    next_number: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// In use, the oldest first; the last is written to.
    live: Vec<Arc<Segment>>,
    /// Folded, but perhaps still read from.
    retired: Vec<Arc<Segment>>,
    spare: Vec<Slot>,
}

impl Slots {
    /// The slots in `log/` of a data directory, which is made when it is not there.
    pub(in crate::engine::embedded) fn open(data: &Path) -> Result<(Slots, Vec<Slot>)> {
        let dir = data.join("log");
        let failed = |e: io::Error| io_failed("open the log", &e);
        fs::create_dir_all(&dir).map_err(failed)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("slot-"));
            let Some(number) = number.and_then(|number| number.parse().ok()) else { continue };
            let file = OpenOptions::new().read(true).write(true).open(dir.join(&name));
            let file = file.map_err(failed)?;
            let filled = file.metadata().map_err(failed)?.len() >= SEGMENT_BYTES;
            found.push(Slot { number, file, filled });
        }
        // A process that was killed may have left a slot whose name was never synced, and whoever
        // finds it uses it.
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        found.sort_by_key(|slot| slot.number);
        let next_number = AtomicU64::new(found.last().map_or(1, |slot| slot.number + 1));
        Ok((Slots { dir, state: Mutex::default(), next_number }, found))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what was found at the start.
    pub(in crate::engine::embedded) fn restore(&self, live: Vec<Arc<Segment>>, spare: Vec<Slot>) {
        *self.state() = State { live, retired: Vec::new(), spare };
    }

    /// Begins the segment `seq`: a slot that waits, or else a new one.
    pub(in crate::engine::embedded) fn begin(&self, seq: u64) -> Result<Arc<Segment>> {
        let waiting = {
            let mut state = self.state();
            let filled = state.spare.iter().position(|slot| slot.filled);
            filled.map(|at| state.spare.swap_remove(at)).or_else(|| state.spare.pop())
        };
        let slot = match waiting {
            Some(slot) => slot,
            None => self.create(0)?,
        };
        let segment = Segment::new(seq, slot);
        self.state().live.push(segment.clone());
        Ok(segment)
    }

    /// Makes a slot of `len` zeros; its name is durable before it is used.
    fn create(&self, len: u64) -> Result<Slot> {
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
            Ok(file) => Ok(Slot { number, file, filled: len >= SEGMENT_BYTES }),
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(io_failed("make room for the log", &e))
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("slot-{number:04}"))
    }

    /// Whether a filled slot waits.
    pub(in crate::engine::embedded) fn has_filled(&self) -> bool {
        self.state().spare.iter().any(|slot| slot.filled)
    }

    /// Gives up the segments before `seq`: the database has all they hold, durably.
    pub(in crate::engine::embedded) fn retire(&self, seq: u64) {
        let mut state = self.state();
        let old = state.live.partition_point(|segment| segment.seq < seq);
        let retired: Vec<_> = state.live.drain(..old).collect();
        state.retired.extend(retired);
    }

    /// Makes the slots that nobody reads any more spare ones, and sees to it that some wait.
    pub(in crate::engine::embedded) fn prepare(&self, busy: bool) -> Result<()> {
        let wanted = if busy { SPARES_BUSY } else { SPARES_IDLE };
        let mut gone = Vec::new();
        let filled = {
            let mut state = self.state();
            for segment in std::mem::take(&mut state.retired) {
                match Arc::try_unwrap(segment) {
                    Ok(segment) => state.spare.push(segment.slot),
                    Err(segment) => state.retired.push(segment),
                }
            }
            // One that is not filled costs more to sync than a new one costs to fill.
            let (filled, bare): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.spare).into_iter().partition(|slot| slot.filled);
            state.spare = filled;
            gone.extend(bare);
            if !busy {
                let keep = state.spare.len().min(wanted);
                gone.extend(state.spare.drain(keep..));
            }
            state.spare.len()
        };
        for slot in gone {
            if let Err(e) = fs::remove_file(self.path(slot.number)) {
                tracing::warn!(slot = slot.number, error = %e, "a file of the log stays");
            }
        }
        for _ in filled..wanted {
            let slot = self.create(SEGMENT_BYTES)?;
            self.state().spare.push(slot);
        }
        Ok(())
    }

    /// Whether there are more slots than an idle server keeps.
    pub(in crate::engine::embedded) fn unsettled(&self) -> bool {
        let state = self.state();
        !state.retired.is_empty() || state.spare.len() > SPARES_IDLE
    }

    /// Segments in use before `seq`.
    pub(in crate::engine::embedded) fn live_before(&self, seq: u64) -> usize {
        self.state().live.partition_point(|segment| segment.seq < seq)
    }

    /// Bytes of all slots.
    pub(in crate::engine::embedded) fn bytes(&self) -> u64 {
        let state = self.state();
        let live = state.live.iter().chain(&state.retired).map(|segment| &segment.slot);
        live.chain(&state.spare).map(|slot| slot.file.metadata().map_or(0, |meta| meta.len())).sum()
    }
}
