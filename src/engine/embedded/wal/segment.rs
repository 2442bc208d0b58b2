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
use super::super::{EngineError, Result};
use super::pool_state::{PoolState, RESERVED_FILES};
use super::segment_size::{self, SEGMENT_BYTES_MIN};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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
    pub(super) number: u64,
    pub(super) file: File,
    /// Size of the file in bytes, excluding growth during its current use; see
    /// [`Segment::disk_bytes`].
    pub(super) len: u64,
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
    pub(super) fn duplicate_file(&self) -> Option<SegmentFile> {
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

fn no_free_segment() -> EngineError {
    EngineError::Full("no WAL segment is free".into())
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
    pub(super) fn is_preallocated(&self) -> bool {
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
    pub(super) data: Arc<DataDir>,
    pub(super) dir: PathBuf,
    state: RwLock<PoolState>,
    pub(super) next_number: AtomicU64,
    /// Size of new files, in bytes.
    segment_bytes: AtomicU64,
    /// WAL size in bytes that triggers a checkpoint.
    pub(super) wal_bytes: AtomicU64,
    #[cfg(test)]
    pub(crate) planted: std::sync::OnceLock<PlantedFault>,
}

/// A fault that a unit test injects to verify that the tests detect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedFault {
    /// A segment is retired although records in the database refer to bodies in it.
    RetireReferenced,
    /// A file is recycled although a reader or a snapshot uses its segment.
    RecycleInUse,
    /// A body is relocated although a commit has replaced or deleted its record.
    RelocateReplaced,
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

    pub(super) fn state(&self) -> RwLockReadGuard<'_, PoolState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, PoolState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the segments and free files found by recovery.
    pub(crate) fn restore(
        &self,
        live: Vec<Arc<Segment>>,
        sealed: Vec<Arc<Segment>>,
        mut free: Vec<SegmentFile>,
    ) {
        free.sort_unstable_by_key(|file| file.len);
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
    ///
    /// # Errors
    /// Returns [`EngineError::Full`] if no such file is free and the disk is full. A new file could
    /// be created but not filled, and would take the space that the database may need.
    pub(crate) fn allocate(&self, seq: u64) -> Result<Arc<Segment>> {
        let reused = {
            let mut state = self.state_mut();
            let preallocated = state.take_preallocated(RESERVED_FILES);
            state.was_refused = preallocated.is_none() && state.is_full;
            if state.was_refused {
                return Err(no_free_segment());
            }
            preallocated.or_else(|| state.take_free(|file| !file.is_preallocated()))
        };
        let file = reused.map_or_else(|| self.create(0), Ok)?;
        Ok(self.add_live(seq, file))
    }

    /// Allocates segment `seq` for garbage collection on a full disk from a free preallocated file.
    /// `is_checkpointed` states whether there is nothing to checkpoint.
    ///
    /// # Errors
    /// Returns [`EngineError::Full`] if no such file is free, or only one that is reserved for the
    /// database.
    pub(crate) fn allocate_reserved(
        &self,
        seq: u64,
        is_checkpointed: bool,
    ) -> Result<Arc<Segment>> {
        let file = {
            let mut state = self.state_mut();
            state.is_full = true;
            let for_database = state.reserved_for_database(is_checkpointed);
            state.take_largest_preallocated(for_database).ok_or_else(no_free_segment)?
        };
        Ok(self.add_live(seq, file))
    }

    /// Returns whether a file could not be created or extended, because the disk is full, and has
    /// not been created since.
    pub(crate) fn is_full(&self) -> bool {
        self.state().is_full
    }

    /// Returns whether the last allocation for commits failed because the disk is full.
    pub(crate) fn was_refused(&self) -> bool {
        self.state().was_refused
    }

    /// Returns the number of bytes that garbage collection can relocate on a full disk: the room in
    /// the active segment if that is a reserved one, or the size of the next reserved file.
    /// `is_checkpointed` states whether there is nothing to checkpoint.
    pub(crate) fn reserved_bytes(&self, is_checkpointed: bool) -> u64 {
        let state = self.state();
        let is_available = state.preallocated() > state.reserved_for_database(is_checkpointed);
        let next = state.free.last().filter(|_| is_available).map_or(0, |file| file.len);
        next.max(state.reserved_room)
    }

    /// Sets the room in the active segment, in bytes, if that is a reserved one; otherwise 0.
    pub(crate) fn set_reserved_room(&self, bytes: u64) {
        self.state_mut().reserved_room = bytes;
    }

    /// Records that the disk is full.
    pub(crate) fn report_full(&self) {
        self.state_mut().is_full = true;
    }

    fn add_live(&self, seq: u64, file: SegmentFile) -> Arc<Segment> {
        let segment = Segment::new(seq, file);
        self.state_mut().live.push(segment.clone());
        segment
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
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
