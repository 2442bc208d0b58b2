//! Blob files: one file per large body. A file is written and fsynced before the commit that refers
//! to it, and deleted after the commit that replaces it. A body that fits in the write buffer needs
//! no file, because its commit writes the body to the WAL.
//!
//! A file holds the body, a checksum per block, and a footer (docs/format.md). Its id is random and
//! never reused, so a file that no record refers to is an orphan. Orphans are deleted after the
//! next start.

use super::super::{
    BlobWriter, Body, BoxFuture, EngineError, INLINE_BYTES_MAX, Result, SINGLE_READ_BYTES_MAX,
    StoredBody,
};
use super::FatalErrorHandler;
use super::body_cache::{BodyCache, BodyKey};
use super::data_dir::{DataDir, ensure_at};
use super::read_scheduler::ReadScheduler;
use bytes::{Buf, BufMut, Bytes};
use rustix::io::Errno;
use std::any::Any;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Size of a checksummed block, in bytes.
const BLOCK_BYTES: usize = INLINE_BYTES_MAX;
/// Bytes buffered before each write, and the maximum size of a body in the WAL. A buffered body
/// stays in memory until its commit, so callers must reserve memory for bodies of up to this size.
const WRITE_BUFFER_BYTES: usize = SINGLE_READ_BYTES_MAX as usize;
const MAGIC: [u8; 8] = *b"STDFBLB1";
/// Size of the footer: body length (8), block size (4), checksum of the block checksums (4), magic
/// (8).
const FOOTER_BYTES: usize = 24;

/// The blob files of a data directory.
#[derive(Debug)]
pub(super) struct BlobFiles {
    data: Arc<DataDir>,
    dir: PathBuf,
    staged: Mutex<HashSet<i64>>,
    snapshot_pins: Mutex<SnapshotPins>,
    body_cache: BodyCache,
    /// Subdirectories whose directory entries are known to be durable.
    synced_dirs: [AtomicBool; 256],
    fatal: FatalErrorHandler,
    scheduler: ReadScheduler,
}

/// Deletions deferred by snapshots.
#[derive(Debug, Default)]
struct SnapshotPins {
    /// Number of open snapshots, each of which may read any file that existed when it was taken.
    snapshots: usize,
    /// Files to delete when the last snapshot ends.
    deferred_deletes: Vec<i64>,
}

/// A pin, which defers the deletion of committed files until it is dropped.
pub(super) struct SnapshotPin(Arc<BlobFiles>);

impl Drop for SnapshotPin {
    fn drop(&mut self) {
        let deferred = {
            let mut pins = self.0.snapshot_pins();
            pins.snapshots -= 1;
            if pins.snapshots > 0 {
                return;
            }
            std::mem::take(&mut pins.deferred_deletes)
        };
        deferred.into_iter().for_each(|id| self.0.delete_file(id));
    }
}

impl BlobFiles {
    /// Opens the `blobs/` directory, creating it if missing, with a body cache of `cache` bytes.
    pub(super) fn create(
        data: Arc<DataDir>,
        cache: u64,
        fatal: &FatalErrorHandler,
    ) -> Result<Arc<BlobFiles>> {
        let blobs = BlobFiles::open(data, cache, fatal);
        create_dir(&blobs.dir).map_err(|e| io_error("create the blobs directory", &e))?;
        blobs.data.watch_directory(&blobs.dir)?;
        Ok(blobs)
    }

    /// Opens the `blobs/` directory, which may be missing.
    pub(super) fn open(
        data: Arc<DataDir>,
        cache: u64,
        fatal: &FatalErrorHandler,
    ) -> Arc<BlobFiles> {
        Arc::new(BlobFiles {
            dir: data.path().join("blobs"),
            data,
            staged: Mutex::default(),
            snapshot_pins: Mutex::default(),
            body_cache: BodyCache::new(cache),
            synced_dirs: std::array::from_fn(|_| AtomicBool::new(false)),
            fatal: fatal.clone(),
            scheduler: ReadScheduler::default(),
        })
    }

    fn snapshot_pins(&self) -> MutexGuard<'_, SnapshotPins> {
        self.snapshot_pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Defers the deletion of committed files until the returned pin is dropped.
    pub(super) fn pin(self: &Arc<BlobFiles>) -> SnapshotPin {
        self.snapshot_pins().snapshots += 1;
        SnapshotPin(self.clone())
    }

    pub(super) fn pinned_snapshots(&self) -> usize {
        self.snapshot_pins().snapshots
    }

    /// Returns the path of a blob file, in one of 256 subdirectories by the last byte of its id.
    fn path(&self, id: i64) -> PathBuf {
        self.dir.join(format!("{:02x}", id & 0xff)).join(format!("{id:016x}"))
    }

    fn staged(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a staged file with a new id.
    fn create_file(self: &Arc<BlobFiles>) -> Result<(i64, File)> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|e| EngineError::Failed(format!("could not generate a blob id: {e}")))?;
        let id = (i64::from_le_bytes(random) & i64::MAX).max(1);
        let path = self.path(id);
        self.staged().insert(id);
        let open = || OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let opened = self.create_dir_durably(id, &path).and_then(|()| open());
        match opened {
            Ok(file) => Ok((id, file)),
            Err(e) => {
                self.staged().remove(&id);
                Err(io_error("create a blob file", &e))
            }
        }
    }

    /// Creates the subdirectory of a blob file and fsyncs its parent. An existing subdirectory may
    /// not be durable: another thread may still be creating it, or a killed process may have left
    /// it unsynced.
    fn create_dir_durably(&self, id: i64, path: &Path) -> io::Result<()> {
        let synced = self.synced_dirs.get((id & 0xff) as usize);
        if synced.is_some_and(|synced| synced.load(Ordering::Acquire)) {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            // The parents are not created, because a data directory that was removed must not be
            // recreated.
            create_dir(dir)?;
        }
        let parent = File::open(&self.dir)?;
        if let Err(e) = parent.sync_all() {
            self.fatal.stop(&format!("could not sync {}: {e}", self.dir.display()));
            return Err(e);
        }
        synced.into_iter().for_each(|synced| synced.store(true, Ordering::Release));
        Ok(())
    }

    /// Deletes the file of a replaced or deleted blob. The deletion is deferred while snapshots
    /// exist.
    pub(super) fn delete(&self, id: i64) {
        {
            let mut pins = self.snapshot_pins();
            if pins.snapshots > 0 {
                pins.deferred_deletes.push(id);
                return;
            }
        }
        self.delete_file(id);
    }

    /// Deletes a file, if it exists.
    fn delete_file(&self, id: i64) {
        self.body_cache.remove(BodyKey::Blob(id));
        match fs::remove_file(self.path(id)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!(blob = id, error = %e, "could not delete a blob file"),
        }
    }

    /// Returns a committed blob, from the cache if possible; `None` if its file does not exist.
    pub(super) fn find(self: &Arc<BlobFiles>, id: i64) -> Result<Option<Blob>> {
        match self.find_cached(id) {
            Some(blob) => Ok(Some(blob)),
            None => self.open_file(id),
        }
    }

    /// Opens the file of a committed blob; `None` if the file does not exist.
    pub(super) fn open_file(self: &Arc<BlobFiles>, id: i64) -> Result<Option<Blob>> {
        let file = match File::open(self.path(id)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("open a blob file", &e)),
        };
        let (len, sums) = read_trailer(&file).map_err(|problem| {
            EngineError::Corrupt(format!("blob file {}: {problem}", self.path(id).display()))
        })?;
        let content = BlobContent::File(Arc::new(file), sums.into());
        Ok(Some(self.committed(id, len, content)))
    }

    pub(super) fn body_cache(&self) -> &BodyCache {
        &self.body_cache
    }

    /// Returns a committed blob whose body is cached.
    fn find_cached(self: &Arc<BlobFiles>, id: i64) -> Option<Blob> {
        let body = self.body_cache.get(BodyKey::Blob(id))?;
        Some(self.committed(id, body.len() as u64, BlobContent::Memory(body)))
    }

    fn committed(self: &Arc<BlobFiles>, id: i64, len: u64, content: BlobContent) -> Blob {
        Blob { id, len, content, committed: AtomicBool::new(true), blobs: self.clone() }
    }

    /// Lists the ids of all blob files. Files with other names are ignored.
    pub(super) fn list(&self) -> io::Result<Vec<i64>> {
        let mut ids = Vec::new();
        for dir in fs::read_dir(&self.dir)? {
            for file in fs::read_dir(dir?.path())? {
                let name = file?.file_name();
                ids.extend(name.to_str().and_then(|name| i64::from_str_radix(name, 16).ok()));
            }
        }
        Ok(ids)
    }

    /// Returns whether a blob is staged, that is, not committed yet.
    pub(super) fn is_staged(&self, id: i64) -> bool {
        self.staged().contains(&id)
    }
}

/// Creates a directory if it is missing, but not its parents.
fn create_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

/// Reads the block checksums and the footer after the body, and verifies them.
fn read_trailer(file: &File) -> Result<(u64, Vec<u32>), String> {
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let start = size.checked_sub(FOOTER_BYTES as u64).ok_or("the file is shorter than a footer")?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, start).map_err(|e| e.to_string())?;
    let mut footer = &footer[..];
    let (len, block, sum) = (footer.get_u64_le(), footer.get_u32_le(), footer.get_u32_le());
    if footer != MAGIC || block != BLOCK_BYTES as u32 {
        return Err("the footer is invalid".into());
    }
    let sums_bytes = len.div_ceil(BLOCK_BYTES as u64).saturating_mul(4);
    if len.checked_add(sums_bytes).is_none_or(|body| body != start) {
        return Err(format!("a body of {len} bytes does not match a file of {size} bytes"));
    }
    let mut sums = vec![0; usize::try_from(sums_bytes).map_err(|e| e.to_string())?];
    file.read_exact_at(&mut sums, len).map_err(|e| e.to_string())?;
    if crc32fast::hash(&sums) != sum {
        return Err("the block checksums are damaged".into());
    }
    let sums = sums.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
    Ok((len, sums))
}

pub(super) fn io_error(action: &str, e: &io::Error) -> EngineError {
    let is_limit = Errno::from_io_error(e) == Some(Errno::MFILE);
    let advice = if is_limit { "; raise the hard limit on open files (LimitNOFILE)" } else { "" };
    let text = format!("could not {action}: {e}{advice}");
    if e.kind() == io::ErrorKind::StorageFull || e.kind() == io::ErrorKind::QuotaExceeded {
        EngineError::Full(text)
    } else {
        EngineError::Failed(text)
    }
}

/// A large body, in the cache or in a blob file. The file of a staged blob is deleted on drop.
#[derive(Debug)]
pub(super) struct Blob {
    id: i64,
    len: u64,
    content: BlobContent,
    committed: AtomicBool,
    blobs: Arc<BlobFiles>,
}

/// The source of a body's bytes.
#[derive(Clone, Debug)]
enum BlobContent {
    /// The cached and verified body.
    Memory(Bytes),
    /// The file and its block checksums.
    File(Arc<File>, Arc<[u32]>),
}

impl BlobContent {
    /// Reads a range of a body of `total` bytes and verifies the blocks that cover it.
    fn read(&self, total: u64, offset: u64, len: usize) -> Result<Bytes, String> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= total);
        end.ok_or("read past the end of the body")?;
        match self {
            _ if len == 0 => Ok(Bytes::new()),
            BlobContent::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(|e| e.to_string())?;
                Ok(bytes.slice(start..start + len))
            }
            BlobContent::File(file, sums) => read_blocks(file, sums, total, offset, len),
        }
    }
}

impl Blob {
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// Reads the whole body and verifies its checksums.
    pub(super) fn verify(&self) -> Result<(), String> {
        let mut offset = 0;
        while offset < self.len {
            let len = (self.len - offset).min(BLOCK_BYTES as u64);
            // The length is at most one block, so it fits a usize.
            self.content.read(self.len, offset, len as usize)?;
            offset += len;
        }
        Ok(())
    }

    /// Marks the blob as committed, once the commit that refers to it is durable. From then on, its
    /// record owns the file.
    pub(super) fn set_committed(&self) {
        self.committed.store(true, Ordering::Release);
        self.blobs.staged().remove(&self.id);
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if !self.committed.load(Ordering::Acquire) {
            self.blobs.delete_file(self.id);
            self.blobs.staged().remove(&self.id);
        }
    }
}

impl StoredBody for Blob {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes>> {
        let (id, total) = (self.id, self.len);
        let damaged = move |e| EngineError::Corrupt(format!("blob file {id:016x}: {e}"));
        Box::pin(async move {
            let in_memory = matches!(self.content, BlobContent::Memory(_));
            let read = || self.content.read(total, offset, len);
            // A read of more than one block may delay other tasks even if it hits the page cache.
            let inline = match len <= BLOCK_BYTES {
                _ if in_memory => return read().map_err(damaged),
                true => self.blobs.scheduler.try_inline(0, || read().map_err(damaged)),
                false => None,
            };
            let read = match inline {
                Some(read) => read,
                None => {
                    let content = self.content.clone();
                    let read = move || content.read(total, offset, len);
                    blocking(move || read().map_err(damaged)).await
                }
            };
            if let Ok(body) = &read
                && body.len() as u64 == total
                && total <= SINGLE_READ_BYTES_MAX
            {
                self.blobs.body_cache.insert(BodyKey::Blob(id), body.clone());
            }
            read
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Reads and verifies the blocks that cover a range, and returns the range.
fn read_blocks(file: &File, sums: &[u32], size: u64, at: u64, len: usize) -> Result<Bytes, String> {
    let block = BLOCK_BYTES as u64;
    let (first, last) = (at / block, (at + len as u64).div_ceil(block));
    let start = first * block;
    let span = (last * block).min(size) - start;
    let bytes = read_span(file, start, usize::try_from(span).map_err(|e| e.to_string())?)?;
    let first = usize::try_from(first).map_err(|e| e.to_string())?;
    for (index, chunk) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if sums.get(first + index) != Some(&crc32fast::hash(chunk)) {
            return Err(format!("block {} does not match its checksum", first + index));
        }
    }
    let skip = usize::try_from(at - start).map_err(|e| e.to_string())?;
    Ok(Bytes::from(bytes).slice(skip..skip + len))
}

/// Reads `len` bytes into uninitialized memory, because zeroing a buffer for `read_exact_at` costs
/// as much as the checksum.
fn read_span(file: &File, start: u64, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = start + bytes.len() as u64;
        let spare = rustix::buffer::spare_capacity(&mut bytes);
        match rustix::io::pread(file, spare, at) {
            Ok(0) => return Err("the file is truncated".into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Writes a large body. Creates a blob file only if the body does not fit in the write buffer.
pub(super) struct BlobFileWriter {
    blobs: Arc<BlobFiles>,
    pending: Vec<u8>,
    file: BlobFileState,
}

enum BlobFileState {
    /// The buffer contains the whole body.
    NotCreated,
    Open(OpenBlobFile),
    /// The state during a write and after a failed write.
    Unavailable,
}

/// A blob file that is being written. It is deleted on drop unless it is finished.
struct OpenBlobFile {
    blobs: Arc<BlobFiles>,
    id: i64,
    file: Arc<File>,
    written: u64,
    sums: Vec<u32>,
    finished: bool,
}

impl BlobFileWriter {
    pub(super) fn new(blobs: Arc<BlobFiles>) -> BlobFileWriter {
        let pending = Vec::with_capacity(WRITE_BUFFER_BYTES);
        BlobFileWriter { blobs, pending, file: BlobFileState::NotCreated }
    }

    /// Writes the buffer to the file. Creates the file first if it does not exist.
    async fn flush(&mut self) -> Result<()> {
        let state = std::mem::replace(&mut self.file, BlobFileState::Unavailable);
        let (blobs, mut pending) = (self.blobs.clone(), std::mem::take(&mut self.pending));
        let flushed = blocking(move || {
            let mut file = match state {
                BlobFileState::NotCreated => OpenBlobFile::create(blobs)?,
                BlobFileState::Open(file) => file,
                BlobFileState::Unavailable => return Err(EngineError::Closed),
            };
            file.write(&pending)?;
            pending.clear();
            Ok((file, pending))
        });
        let (file, pending) = flushed.await?;
        (self.file, self.pending) = (BlobFileState::Open(file), pending);
        Ok(())
    }
}

/// Runs `work` on the blocking thread pool.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| EngineError::Failed(e.to_string()))?
}

impl OpenBlobFile {
    fn create(blobs: Arc<BlobFiles>) -> Result<OpenBlobFile> {
        let (id, file) = blobs.create_file()?;
        let (file, sums) = (Arc::new(file), Vec::new());
        Ok(OpenBlobFile { blobs, id, file, written: 0, sums, finished: false })
    }

    /// Appends bytes. All writes except the last consist of whole blocks.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sums.extend(bytes.chunks(BLOCK_BYTES).map(crc32fast::hash));
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|e| io_error("write a blob file", &e))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes the block checksums and the footer, and fsyncs the file and its directory.
    fn finish(mut self) -> Result<Blob> {
        let mut trailer = Vec::with_capacity(self.sums.len() * 4 + FOOTER_BYTES);
        self.sums.iter().for_each(|sum| trailer.put_u32_le(*sum));
        let sum = crc32fast::hash(&trailer);
        trailer.put_u64_le(self.written);
        trailer.put_u32_le(BLOCK_BYTES as u32);
        trailer.put_u32_le(sum);
        trailer.put_slice(&MAGIC);
        self.file
            .write_all_at(&trailer, self.written)
            .map_err(|e| io_error("write a blob file", &e))?;
        let path = self.blobs.path(self.id);
        let dir = path.parent().unwrap_or(&path);
        let synced = self.file.sync_all().and_then(|()| File::open(dir)?.sync_all());
        if let Err(e) = synced {
            self.blobs.fatal.stop(&format!("could not sync {}: {e}", path.display()));
            return Err(io_error("sync a blob file", &e));
        }
        // Fail if the file was moved or removed, or its directory was replaced, in the meantime.
        ensure_at(&self.file, &path)?;
        self.blobs.data.ensure_in_place()?;
        self.finished = true;
        let content = BlobContent::File(self.file.clone(), std::mem::take(&mut self.sums).into());
        let (committed, blobs) = (AtomicBool::new(false), self.blobs.clone());
        Ok(Blob { id: self.id, len: self.written, content, committed, blobs })
    }
}

impl Drop for OpenBlobFile {
    fn drop(&mut self) {
        if !self.finished {
            self.blobs.delete_file(self.id);
            self.blobs.staged().remove(&self.id);
        }
    }
}

impl BlobWriter for BlobFileWriter {
    fn write(&mut self, mut chunk: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            while !chunk.is_empty() {
                // Flushes only when more bytes follow, because a body that exactly fills the buffer
                // needs no file.
                if self.pending.len() == WRITE_BUFFER_BYTES {
                    self.flush().await?;
                }
                let room = WRITE_BUFFER_BYTES.saturating_sub(self.pending.len());
                let part = chunk.split_to(room.min(chunk.len()));
                self.pending.extend_from_slice(&part);
            }
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, Result<Body>> {
        Box::pin(async move {
            if matches!(self.file, BlobFileState::NotCreated) {
                return Ok(Body::Bytes(std::mem::take(&mut self.pending).into()));
            }
            self.flush().await?;
            match std::mem::replace(&mut self.file, BlobFileState::Unavailable) {
                BlobFileState::Open(file) => {
                    Ok(Body::Stored(Arc::new(blocking(move || file.finish()).await?)))
                }
                BlobFileState::NotCreated | BlobFileState::Unavailable => Err(EngineError::Closed),
            }
        })
    }
}
