//! WAL segment files and the pool that recycles them.
//!
//! A *segment* is one use of a segment file and has a unique, increasing sequence number. Files are
//! normally filled with zeros before their first use, so that fdatasync writes data only and no
//! file system metadata. If no such file is free, the writer starts with an empty one.
//!
//! A segment is *live* while it has commits that are not checkpointed. A checkpoint does not copy
//! bodies, so the segment is then *sealed* for as long as records in the database refer to bodies
//! in it.
//! Once no record refers to it, the segment is *retired*. Its file becomes free once no reader or
//! snapshot uses the segment.

use super::super::blob_files::io_error;
use super::super::data_dir::DataDir;
use super::super::database::SegmentRow;
use super::super::segment_allocation::ensure_available;
use super::super::{EngineError, Result};
use super::segment_size;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Minimum size of a new segment file, in bytes. A file grows beyond its initial size only to hold
/// a single larger WAL record.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 8 << 20;
/// Number of preallocated files that are reserved for garbage collection, which needs space to free
/// space on a full disk.
const RESERVED_FILES: usize = 1;
/// Number of free preallocated files under load, and when idle.
const FREE_FILES_BUSY: usize = RESERVED_FILES + 2;
const FREE_FILES_IDLE: usize = RESERVED_FILES + 1;
/// Number of bytes zeroed between two fsyncs of a new file. This bounds the amount of other data
/// that the fsync of a concurrent commit may have to wait for.
const ZEROED_BYTES: u64 = 4 << 20;

/// One use of a segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u64,
    segment_file: SegmentFile,
    /// Offset of the end of the last WAL record, in bytes; 0 if it is not known.
    end: AtomicU64,
}

/// A file in the `log/` directory, named `slot-NNNN`.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    number: u64,
    file: File,
    /// Size of the file in bytes, excluding growth during its current use; see
    /// [`Segment::disk_bytes`].
    len: u64,
}

impl Segment {
    pub(crate) fn new(seq: u64, segment_file: SegmentFile) -> Arc<Segment> {
        Arc::new(Segment { seq, segment_file, end: AtomicU64::new(0) })
    }

    /// Reassigns the file to another sequence number.
    pub(crate) fn with_seq(self, seq: u64) -> Arc<Segment> {
        Segment::new(seq, self.segment_file)
    }

    pub(crate) fn into_file(self) -> SegmentFile {
        SegmentFile { len: self.disk_bytes(), ..self.segment_file }
    }

    /// Returns a second handle to a file that is still in use. This is a planted fault.
    #[cfg(test)]
    fn duplicate_file(&self) -> Option<SegmentFile> {
        let SegmentFile { number, ref file, len } = self.segment_file;
        Some(SegmentFile { number, file: file.try_clone().ok()?, len })
    }

    /// Returns the size of the file, in bytes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segment_file.len.max(self.end())
    }

    /// Returns whether a WAL record of `len` bytes fits at offset `at`. An empty segment has room
    /// for a record of any size.
    pub(crate) fn has_room(&self, at: u64, len: u64) -> bool {
        at == 0 || at + len <= self.segment_file.len.max(SEGMENT_BYTES_MIN)
    }

    /// Returns the offset of the end of the last WAL record, in bytes; 0 if it is not known.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Sets the offset of the end of the last WAL record, in bytes.
    pub(crate) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Relaxed);
    }

    /// Undoes the growth of the file by a failed write at offset `end`, which may have filled the
    /// disk. Ignores errors, because nothing depends on the size of the file.
    pub(crate) fn truncate(&self, end: u64) {
        let (file, len) = (self.file(), self.segment_file.len.max(end));
        if file.metadata().is_ok_and(|found| found.len() > len) {
            let _ = file.set_len(len);
        }
    }

    /// Returns the number in the name of the segment's file.
    pub(crate) fn number(&self) -> u64 {
        self.segment_file.number
    }

    pub(crate) fn file(&self) -> &File {
        &self.segment_file.file
    }

    pub(crate) fn is_preallocated(&self) -> bool {
        self.segment_file.is_preallocated()
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

impl SegmentFile {
    /// Returns the number in the file's name.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns whether the file has at least the size of a preallocated file, so that writes do not
    /// change its size.
    fn is_preallocated(&self) -> bool {
        self.len >= SEGMENT_BYTES_MIN
    }
}

/// Disk usage of a sealed segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentUsage {
    pub(crate) seq: u64,
    /// Size of the file, in bytes.
    pub(crate) disk_bytes: u64,
    /// See [`SegmentRow::live`].
    pub(crate) live_bytes: u64,
}

/// All segment files of a data directory.
#[derive(Debug)]
pub(crate) struct SegmentPool {
    data: Arc<DataDir>,
    dir: PathBuf,
    state: RwLock<PoolState>,
    next_number: AtomicU64,
    /// Size of new files, in bytes.
    segment_bytes: AtomicU64,
    /// WAL size in bytes that triggers a checkpoint.
    wal_bytes: AtomicU64,
    #[cfg(test)]
    pub(crate) planted: std::sync::OnceLock<PlantedFault>,
}

/// A fault that a unit test injects to verify that the tests detect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests plant faults"))]
pub(crate) enum PlantedFault {
    /// A segment is retired although records in the database refer to bodies in it.
    RetireReferenced,
    /// A file is recycled although a reader or a snapshot uses its segment.
    RecycleInUse,
    /// A body is relocated although a commit has replaced or deleted its record.
    RelocateReplaced,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Segments with commits that are not checkpointed yet, the oldest first; only the last one can
    /// be active.
    live: Vec<Arc<Segment>>,
    /// Checkpointed segments that records in the database refer to, by sequence number.
    sealed: BTreeMap<u64, Arc<Segment>>,
    /// Live bytes by sequence number, as committed in the table `segments`; see
    /// [`SegmentRow::live`]. Segments that no record in the database refers to are absent.
    live_bytes: BTreeMap<u64, u64>,
    /// Checkpointed segments that no record in the database refers to, but that readers may still
    /// use.
    retired: Vec<Arc<Segment>>,
    free: Vec<SegmentFile>,
}

impl SegmentPool {
    /// Opens the files in the `log/` directory and returns them with an empty pool. Creates the
    /// directory if it does not exist. `rows` are the rows of the table `segments`.
    pub(crate) fn open(
        data: Arc<DataDir>,
        rows: &[SegmentRow],
    ) -> Result<(SegmentPool, Vec<SegmentFile>)> {
        let dir = data.path().join("log");
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(open_error(&e)),
            _ => {}
        }
        data.watch_directory(&dir)?;
        let options = OpenOptions::new().read(true).write(true).clone();
        let opened = SegmentPool::open_files(data, &options, rows)?;
        // A killed process may have created a file without syncing its directory entry.
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|e| open_error(&e))?;
        Ok(opened)
    }

    /// Opens the files for reading; none if the directory does not exist.
    pub(crate) fn open_read_only(
        data: Arc<DataDir>,
        rows: &[SegmentRow],
    ) -> Result<(SegmentPool, Vec<SegmentFile>)> {
        SegmentPool::open_files(data, OpenOptions::new().read(true), rows)
    }

    fn open_files(
        data: Arc<DataDir>,
        options: &OpenOptions,
        rows: &[SegmentRow],
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
            let len = file.metadata().map_err(|e| open_error(&e))?.len();
            files.push(SegmentFile { number, file, len });
        }
        files.sort_by_key(|file| file.number);
        // The next number also exceeds the file number of each sealed segment whose file is
        // missing. Otherwise the next start would mistake a new file with that number for the
        // missing file.
        let numbers = files.iter().map(|file| file.number).chain(rows.iter().map(|row| row.file));
        let next_number = AtomicU64::new(numbers.max().unwrap_or(0) + 1);
        let live_bytes = rows.iter().map(|row| (row.seq, row.live)).collect();
        let state = RwLock::new(PoolState { live_bytes, ..PoolState::default() });
        let (segment_bytes, wal_bytes) = (AtomicU64::new(SEGMENT_BYTES_MIN), AtomicU64::new(0));
        let pool = SegmentPool {
            data,
            dir,
            state,
            next_number,
            segment_bytes,
            wal_bytes,
            #[cfg(test)]
            planted: std::sync::OnceLock::new(),
        };
        Ok((pool, files))
    }

    fn state(&self) -> RwLockReadGuard<'_, PoolState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, PoolState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the segments and free files found by recovery.
    pub(crate) fn restore(
        &self,
        live: Vec<Arc<Segment>>,
        sealed: Vec<Arc<Segment>>,
        free: Vec<SegmentFile>,
    ) {
        let mut state = self.state_mut();
        state.sealed = sealed.into_iter().map(|segment| (segment.seq, segment)).collect();
        (state.live, state.free) = (live, free);
    }

    /// Returns the live or sealed segment with sequence number `seq`.
    pub(crate) fn find(&self, seq: u64) -> Option<Arc<Segment>> {
        let state = self.state();
        let in_live = || {
            let at = state.live.binary_search_by_key(&seq, |segment| segment.seq).ok()?;
            state.live.get(at)
        };
        state.sealed.get(&seq).or_else(in_live).cloned()
    }

    /// Returns all live and sealed segments by sequence number.
    pub(crate) fn all(&self) -> BTreeMap<u64, Arc<Segment>> {
        let state = self.state();
        let mut all = state.sealed.clone();
        all.extend(state.live.iter().map(|segment| (segment.seq, segment.clone())));
        all
    }

    /// Returns whether a unit test has planted this fault.
    pub(crate) fn has_fault(&self, fault: PlantedFault) -> bool {
        #[cfg(test)]
        return self.planted.get() == Some(&fault);
        #[cfg(not(test))]
        {
            let _ = fault;
            false
        }
    }

    /// Returns the size of new files, in bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.load(Ordering::Relaxed)
    }

    /// Adapts the size of new files to the data and to the WAL size that triggers a checkpoint; see
    /// [`segment_size`].
    pub(crate) fn adapt_segment_bytes(&self, live: u64, records: u64, wal_bytes: u64) {
        self.wal_bytes.store(wal_bytes, Ordering::Relaxed);
        let bytes = segment_size::segment_bytes(live, records, wal_bytes);
        self.segment_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Allocates segment `seq` from a free file that is not reserved, or else from a new one.
    pub(crate) fn allocate(&self, seq: u64) -> Result<Arc<Segment>> {
        let reused = {
            let mut state = self.state_mut();
            let preallocated = state.free.iter().position(SegmentFile::is_preallocated);
            let other = state.free.iter().position(|file| !file.is_preallocated());
            let preallocated = preallocated.filter(|_| state.has_preallocated());
            preallocated.or(other).map(|at| state.free.swap_remove(at))
        };
        let file = match reused {
            Some(file) => file,
            None => self.create(0)?,
        };
        Ok(self.add_live(seq, file))
    }

    /// Allocates segment `seq` for garbage collection from any free preallocated file, including
    /// the reserved ones.
    ///
    /// # Errors
    /// Returns [`EngineError::Full`] if no preallocated file is free.
    pub(crate) fn allocate_reserved(&self, seq: u64) -> Result<Arc<Segment>> {
        let reused = {
            let mut state = self.state_mut();
            let preallocated = state.free.iter().position(SegmentFile::is_preallocated);
            preallocated.map(|at| state.free.swap_remove(at))
        };
        let file = reused.ok_or_else(|| EngineError::Full("no WAL segment is free".into()))?;
        Ok(self.add_live(seq, file))
    }

    /// Allocates segment `seq` from a new preallocated file.
    pub(crate) fn allocate_new(&self, seq: u64) -> Result<Arc<Segment>> {
        let file = self.create(self.segment_bytes())?;
        Ok(self.add_live(seq, file))
    }

    fn add_live(&self, seq: u64, file: SegmentFile) -> Arc<Segment> {
        let segment = Segment::new(seq, file);
        self.state_mut().live.push(segment.clone());
        segment
    }

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
                if at.is_multiple_of(ZEROED_BYTES) {
                    file.sync_data()?;
                }
            }
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

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("slot-{number:04}"))
    }

    /// Returns whether there is a free preallocated file that is not reserved.
    pub(crate) fn has_preallocated(&self) -> bool {
        self.state().has_preallocated()
    }

    /// Applies committed changes of live bytes by sequence number; see [`SegmentRow::live`].
    pub(crate) fn add_live_bytes(&self, changes: impl Iterator<Item = (u64, i64)>) {
        let mut state = self.state_mut();
        for (seq, change) in changes {
            let bytes = state.live_bytes.get(&seq).copied().unwrap_or(0);
            match bytes.saturating_add_signed(change) {
                0 => state.live_bytes.remove(&seq),
                bytes => state.live_bytes.insert(seq, bytes),
            };
        }
    }

    /// Seals the segments before `seq`, whose commits are durable in the database, and retires all
    /// sealed segments that no record in the database refers to.
    ///
    /// Must be called only after a synced transaction. Otherwise, a power failure could bring back
    /// a record that refers to a body in a retired segment whose file has been overwritten.
    pub(crate) fn seal_before(&self, seq: u64) {
        let retires_all = self.has_fault(PlantedFault::RetireReferenced);
        let mut state = self.state_mut();
        let count = state.live.partition_point(|segment| segment.seq < seq);
        let checkpointed: Vec<_> = state.live.drain(..count).collect();
        let PoolState { sealed, live_bytes, retired, .. } = &mut *state;
        sealed.extend(checkpointed.into_iter().map(|segment| (segment.seq, segment)));
        let is_unused = |seq: &u64| retires_all || !live_bytes.contains_key(seq);
        let unused = sealed.extract_if(.., |seq, _| is_unused(seq));
        retired.extend(unused.map(|(_, segment)| segment));
    }

    /// Returns the total live bytes of all segments.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.state().live_bytes.values().sum()
    }

    /// Returns the disk usage of each sealed segment.
    pub(crate) fn sealed_usage(&self) -> Vec<SegmentUsage> {
        let state = self.state();
        let usage = |(seq, segment): (&u64, &Arc<Segment>)| {
            let live_bytes = state.live_bytes.get(seq).copied().unwrap_or(0);
            SegmentUsage { seq: *seq, disk_bytes: segment.disk_bytes(), live_bytes }
        };
        state.sealed.iter().map(usage).collect()
    }

    /// Recycles retired segments without readers, deletes surplus files, and preallocates new ones.
    /// Also replaces free files whose size differs too much from that of new files.
    pub(crate) fn replenish(&self, busy: bool) -> Result<()> {
        let wanted = if busy { FREE_FILES_BUSY } else { FREE_FILES_IDLE };
        // Under load, keeps enough free files for the WAL that accumulates until the next
        // checkpoint.
        let reused = self.wal_bytes.load(Ordering::Relaxed) / self.segment_bytes();
        let reused = usize::try_from(reused).unwrap_or(usize::MAX);
        let keep_max = if busy { FREE_FILES_BUSY.saturating_add(reused) } else { wanted };
        // A reserved file must have room for the live bytes of a segment of the current size that
        // has enough garbage to be collected. The margin avoids replacing all files whenever the
        // size of new files grows a little. A file that exceeds the maximum has grown for a single
        // WAL record.
        let sizes = self.segment_bytes() / 4 * 3..=2 * SEGMENT_BYTES_MAX;
        let count_down = |count: &mut usize| {
            let is_positive = *count > 0;
            *count -= usize::from(is_positive);
            is_positive
        };
        let is_suitable = |file: &SegmentFile| sizes.contains(&file.len);
        let (suitable, mut surplus) = {
            let mut state = self.state_mut();
            for segment in std::mem::take(&mut state.retired) {
                match Arc::try_unwrap(segment) {
                    Ok(segment) => state.free.push(segment.into_file()),
                    #[cfg(test)]
                    Err(segment) if self.has_fault(PlantedFault::RecycleInUse) => {
                        state.free.extend(segment.duplicate_file());
                    }
                    Err(segment) => state.retired.push(segment),
                }
            }
            // Writing to a file that was not preallocated costs more than preallocating a new one.
            let (preallocated, mut surplus): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.free).into_iter().partition(SegmentFile::is_preallocated);
            state.free = preallocated;
            state.free.sort_unstable_by_key(|file| file.len);
            let suitable = state.free.iter().filter(|file| is_suitable(file)).count();
            let mut excess = suitable.saturating_sub(keep_max);
            surplus.extend(
                state.free.extract_if(.., |file| is_suitable(file) && count_down(&mut excess)),
            );
            (suitable.min(keep_max), surplus)
        };
        // Created before surplus files are deleted, as one file must always exist.
        // Filling a disk only to find it too small would take space from a checkpoint.
        let preallocate = |_| {
            ensure_available(&self.dir, self.segment_bytes()).and_then(|()| self.preallocate(1))
        };
        let created = (suitable..wanted).try_for_each(preallocate);
        {
            let mut state = self.state_mut();
            // Smaller files are allocated first, so that the reserved file is a large one.
            state.free.sort_unstable_by_key(|file| file.len);
            let mut excess = state.free.len().saturating_sub(wanted);
            surplus.extend(
                state.free.extract_if(.., |file| !is_suitable(file) && count_down(&mut excess)),
            );
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

    fn preallocate(&self, files: usize) -> Result<()> {
        for _ in 0..files {
            let file = self.create(self.segment_bytes())?;
            self.state_mut().free.push(file);
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

    /// Returns the total size of the live segments in bytes, excluding the last one, because the
    /// active segment cannot be checkpointed.
    pub(crate) fn closed_bytes(&self) -> u64 {
        let state = self.state();
        let closed = state.live.split_last().map_or(&[][..], |(_, closed)| closed);
        closed.iter().map(|segment| segment.disk_bytes()).sum()
    }

    /// Returns the total size of all segment files, and of those with commits that are not
    /// checkpointed, in bytes.
    pub(crate) fn disk_bytes(&self) -> (u64, u64) {
        let state = self.state();
        let bytes = |segment: &Arc<Segment>| segment.disk_bytes();
        let live: u64 = state.live.iter().map(bytes).sum();
        let checkpointed: u64 = state.sealed.values().chain(&state.retired).map(bytes).sum();
        let free: u64 = state.free.iter().map(|file| file.len).sum();
        (live + checkpointed + free, live)
    }
}

impl PoolState {
    fn has_preallocated(&self) -> bool {
        let preallocated = self.free.iter().filter(|file| file.is_preallocated());
        preallocated.count() > RESERVED_FILES
    }
}
