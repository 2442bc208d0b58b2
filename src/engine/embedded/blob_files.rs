//! Large bodies, each in a file of its own: written and synced before the commit that names it,
//! removed after the commit that drops it.
//!
//! A file holds the body, then a checksum for each block of it, then a footer. Its name is a
//! random number that is never used again, so a file that no record names is an orphan whatever
//! its age, and is swept after the next start.

use super::super::{
    BlobWriter, Body, BoxFuture, EngineError, INLINE_BYTES_MAX, Result, SINGLE_READ_BYTES_MAX,
    StoredBody,
};
use super::Fatal;
use super::read_scheduler::Pace;
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::any::Any;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes of a body under one checksum.
const BLOCK: usize = INLINE_BYTES_MAX;
/// What a body in memory takes besides its bytes.
const KEPT_SPARE: u64 = 128;
/// Bytes gathered before a write.
const WRITE: usize = 4 * BLOCK;
const MAGIC: [u8; 8] = *b"STDFBLB1";
/// The footer: body length (8), block size (4), checksum of what stands between (4), magic (8).
const FOOTER: usize = 24;

/// The folder of blob files and the ids that are staged but not yet committed.
#[derive(Debug)]
pub(super) struct Blobs {
    dir: PathBuf,
    staged: Mutex<HashSet<i64>>,
    pinned: Mutex<Pinned>,
    kept: Kept,
    /// The folders whose names are known to be durable.
    folders: [AtomicBool; 256],
    fatal: Fatal,
    pace: Pace,
}

/// What snapshots keep.
#[derive(Debug, Default)]
struct Pinned {
    /// Snapshots that may still read any file that was there when they were made.
    snapshots: usize,
    /// Files to remove once there are none.
    waiting: Vec<i64>,
}

/// Bodies that are read again and again, checked already. An id is never used again, so none of
/// them is ever wrong.
#[derive(Debug)]
struct Kept(Cache<i64, Bytes, Weight>);

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<i64, Bytes> for Weight {
    fn weight(&self, _: &i64, body: &Bytes) -> u64 {
        body.len() as u64 + KEPT_SPARE
    }
}

impl Kept {
    fn new(bytes: u64) -> Kept {
        let many = usize::try_from(bytes / BLOCK as u64).unwrap_or(usize::MAX);
        Kept(Cache::with_weighter(many.max(1), bytes, Weight))
    }
}

/// While one of these lives, no committed file is removed.
pub(super) struct Pin(Arc<Blobs>);

impl Drop for Pin {
    fn drop(&mut self) {
        let waiting = {
            let mut pinned = self.0.pinned();
            pinned.snapshots -= 1;
            if pinned.snapshots > 0 {
                return;
            }
            std::mem::take(&mut pinned.waiting)
        };
        waiting.into_iter().for_each(|id| self.0.remove(id));
    }
}

impl Blobs {
    /// Keeps up to `cache_bytes` of bodies in memory.
    pub(super) fn new(data: &Path, cache_bytes: u64, fatal: Fatal) -> Result<Arc<Blobs>> {
        let dir = data.join("blobs");
        fs::create_dir_all(&dir).map_err(|e| io_failed("make the blob folder", &e))?;
        let folders = std::array::from_fn(|_| AtomicBool::new(false));
        let (staged, pinned, pace) = (Mutex::default(), Mutex::default(), Pace::default());
        let kept = Kept::new(cache_bytes);
        Ok(Arc::new(Blobs { dir, staged, pinned, kept, folders, fatal, pace }))
    }

    fn pinned(&self) -> std::sync::MutexGuard<'_, Pinned> {
        self.pinned.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps all committed files for as long as what it answers lives.
    pub(super) fn pin(self: &Arc<Blobs>) -> Pin {
        self.pinned().snapshots += 1;
        Pin(self.clone())
    }

    /// How many snapshots keep files.
    pub(super) fn pins(&self) -> usize {
        self.pinned().snapshots
    }

    /// Where the blob `id` lives: one of 256 folders, by its last byte.
    fn path(&self, id: i64) -> PathBuf {
        self.dir.join(format!("{:02x}", id & 0xff)).join(format!("{id:016x}"))
    }

    fn staged(&self) -> std::sync::MutexGuard<'_, HashSet<i64>> {
        self.staged.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes a new file and remembers that it is staged.
    fn create(self: &Arc<Blobs>) -> Result<(i64, File)> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|e| EngineError::Failed(format!("no random numbers: {e}")))?;
        let id = (i64::from_le_bytes(random) & i64::MAX).max(1);
        let path = self.path(id);
        self.staged().insert(id);
        let open = || OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let opened = self.make_folder(id, &path).and_then(|()| open());
        match opened {
            Ok(file) => Ok((id, file)),
            Err(e) => {
                self.staged().remove(&id);
                Err(io_failed("create a blob file", &e))
            }
        }
    }

    /// Makes the folder of a blob's file. That it is there does not say that its name is durable:
    /// whoever made it may not be done, or may have been killed.
    fn make_folder(&self, id: i64, path: &Path) -> io::Result<()> {
        let known = self.folders.get((id & 0xff) as usize);
        if known.is_some_and(|known| known.load(Ordering::Acquire)) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let folders = File::open(&self.dir)?;
        if let Err(e) = folders.sync_all() {
            self.fatal.stop(&format!("could not sync {}: {e}", self.dir.display()));
            return Err(e);
        }
        known.into_iter().for_each(|known| known.store(true, Ordering::Release));
        Ok(())
    }

    /// Removes the file of a blob that lost its record, once no snapshot can show it.
    pub(super) fn drop_committed(&self, id: i64) {
        {
            let mut pinned = self.pinned();
            if pinned.snapshots > 0 {
                pinned.waiting.push(id);
                return;
            }
        }
        self.remove(id);
    }

    /// Removes a blob's file; one that is gone already is no error.
    fn remove(&self, id: i64) {
        self.kept.0.remove(&id);
        match fs::remove_file(self.path(id)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!(blob = id, error = %e, "a blob file could not be removed"),
        }
    }

    /// A committed blob to read, from memory if it is there; `None` when its file is gone.
    pub(super) fn find(self: &Arc<Blobs>, id: i64) -> Result<Option<Blob>> {
        match self.kept(id) {
            Some(blob) => Ok(Some(blob)),
            None => self.open(id),
        }
    }

    /// Opens a committed blob's file; `None` when it is not there.
    pub(super) fn open(self: &Arc<Blobs>, id: i64) -> Result<Option<Blob>> {
        let file = match File::open(self.path(id)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_failed("open a blob file", &e)),
        };
        let (len, sums) = read_trailer(&file).map_err(|what| {
            EngineError::Corrupt(format!("blob file {}: {what}", self.path(id).display()))
        })?;
        let bytes = Content::File(Arc::new(file), sums.into());
        Ok(Some(self.committed(id, len, bytes)))
    }

    /// A committed blob that is in memory.
    fn kept(self: &Arc<Blobs>, id: i64) -> Option<Blob> {
        let body = self.kept.0.get(&id)?;
        Some(self.committed(id, body.len() as u64, Content::Memory(body)))
    }

    fn committed(self: &Arc<Blobs>, id: i64, len: u64, content: Content) -> Blob {
        Blob { id, len, content, committed: AtomicBool::new(true), blobs: self.clone() }
    }

    /// Every blob file there is, as ids; names that are no ids are left alone.
    pub(super) fn list(&self) -> io::Result<Vec<i64>> {
        let mut ids = Vec::new();
        for folder in fs::read_dir(&self.dir)? {
            for file in fs::read_dir(folder?.path())? {
                let name = file?.file_name();
                ids.extend(name.to_str().and_then(|name| i64::from_str_radix(name, 16).ok()));
            }
        }
        Ok(ids)
    }

    /// Whether a blob is staged in this process; committed ones are not.
    pub(super) fn is_staged(&self, id: i64) -> bool {
        self.staged().contains(&id)
    }
}

/// Reads and checks what stands behind the body: its length and its blocks' checksums.
fn read_trailer(file: &File) -> std::result::Result<(u64, Vec<u32>), String> {
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let start = size.checked_sub(FOOTER as u64).ok_or("too short for its footer")?;
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, start).map_err(|e| e.to_string())?;
    let (len, rest) = footer.split_at(8);
    let (block, rest) = rest.split_at(4);
    let (sum, magic) = rest.split_at(4);
    if magic != MAGIC || block != (BLOCK as u32).to_le_bytes() {
        return Err("no footer of this format".into());
    }
    let len = u64::from_le_bytes(len.try_into().map_err(|_| "footer")?);
    let sums_bytes = len.div_ceil(BLOCK as u64).saturating_mul(4);
    if len.checked_add(sums_bytes).is_none_or(|body| body != start) {
        return Err(format!("a body of {len} bytes does not fit a file of {size}"));
    }
    let mut sums = vec![0; usize::try_from(sums_bytes).map_err(|e| e.to_string())?];
    file.read_exact_at(&mut sums, len).map_err(|e| e.to_string())?;
    if crc32fast::hash(&sums).to_le_bytes() != sum {
        return Err("its checksums are damaged".into());
    }
    let sums = sums.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
    Ok((len, sums))
}

pub(super) fn io_failed(what: &str, e: &io::Error) -> EngineError {
    let text = format!("could not {what}: {e}");
    if e.kind() == io::ErrorKind::StorageFull || e.kind() == io::ErrorKind::QuotaExceeded {
        EngineError::Full(text)
    } else {
        EngineError::Failed(text)
    }
}

/// A large body.
#[derive(Debug)]
pub(super) struct Blob {
    id: i64,
    len: u64,
    content: Content,
    committed: AtomicBool,
    blobs: Arc<Blobs>,
}

/// Where the bytes of a body are read.
#[derive(Clone, Debug)]
enum Content {
    /// All of them are here, checked.
    Memory(Bytes),
    /// A file, and the checksums of its blocks.
    File(Arc<File>, Arc<[u32]>),
}

impl Content {
    /// Reads a range of a body of `total` bytes, and checks the blocks that cover it.
    fn read(&self, total: u64, offset: u64, len: usize) -> std::result::Result<Bytes, String> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= total);
        end.ok_or("a read past the end of the body")?;
        match self {
            _ if len == 0 => Ok(Bytes::new()),
            Content::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(|e| e.to_string())?;
                Ok(bytes.slice(start..start + len))
            }
            Content::File(file, sums) => read_blocks(file, sums, total, offset, len),
        }
    }
}

impl Blob {
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// Reads all of it against its checksums.
    pub(super) fn verify(&self) -> std::result::Result<(), String> {
        let mut offset = 0;
        while offset < self.len {
            let len = (self.len - offset).min(BLOCK as u64);
            // At most a block, which fits.
            self.content.read(self.len, offset, len as usize)?;
            offset += len;
        }
        Ok(())
    }

    /// Called once the commit that names it is durable: from now on its record owns the file.
    pub(super) fn set_committed(&self) {
        self.committed.store(true, Ordering::Release);
        self.blobs.staged().remove(&self.id);
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if !self.committed.load(Ordering::Acquire) {
            self.blobs.remove(self.id);
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
        let damaged = move |what| EngineError::Corrupt(format!("blob file {id:016x}: {what}"));
        Box::pin(async move {
            let in_memory = matches!(self.content, Content::Memory(_));
            let read = || self.content.read(total, offset, len);
            // What is more than a block could hold up others even when its pages are in memory.
            let at_once = match len <= BLOCK {
                _ if in_memory => return read().map_err(damaged),
                true => self.blobs.pace.at_once(0, || read().map_err(damaged)),
                false => None,
            };
            let read = match at_once {
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
                self.blobs.kept.0.insert(id, body.clone());
            }
            read
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Reads the blocks that cover a range, checks them, and cuts the range out.
fn read_blocks(
    file: &File,
    sums: &[u32],
    total: u64,
    offset: u64,
    len: usize,
) -> std::result::Result<Bytes, String> {
    let block = BLOCK as u64;
    let (first, last) = (offset / block, (offset + len as u64).div_ceil(block));
    let start = first * block;
    let span = (last * block).min(total) - start;
    let bytes = read_span(file, start, usize::try_from(span).map_err(|e| e.to_string())?)?;
    let first = usize::try_from(first).map_err(|e| e.to_string())?;
    for (index, chunk) in bytes.chunks(BLOCK).enumerate() {
        if sums.get(first + index) != Some(&crc32fast::hash(chunk)) {
            return Err(format!("block {} does not match its checksum", first + index));
        }
    }
    let skip = usize::try_from(offset - start).map_err(|e| e.to_string())?;
    Ok(Bytes::from(bytes).slice(skip..skip + len))
}

/// Reads so many bytes. The standard library's reads at a position want a buffer that was filled
/// before, which costs as much as the checksum.
fn read_span(file: &File, start: u64, len: usize) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = start + bytes.len() as u64;
        let spare = rustix::buffer::spare_capacity(&mut bytes);
        match rustix::io::pread(file, spare, at) {
            Ok(0) => return Err("it is cut short".into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// A blob on its way in.
pub(super) struct BlobStage {
    /// Absent only while a write is under way, and after one that failed.
    open: Option<Open>,
}

/// The file behind a stage; removed at the drop unless it was sealed.
struct Open {
    blobs: Arc<Blobs>,
    id: i64,
    file: Arc<File>,
    pending: Vec<u8>,
    written: u64,
    sums: Vec<u32>,
    sealed: bool,
}

impl BlobStage {
    pub(super) async fn begin(blobs: Arc<Blobs>) -> Result<BlobStage> {
        let open = blocking(move || {
            let (id, file) = blobs.create()?;
            let (pending, file) = (Vec::with_capacity(WRITE), Arc::new(file));
            let (written, sums, sealed) = (0, Vec::new(), false);
            Ok(Open { blobs, id, file, pending, written, sums, sealed })
        });
        Ok(BlobStage { open: Some(open.await?) })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| EngineError::Failed(e.to_string()))?
}

impl Open {
    /// Writes what is pending; all but the last write are whole blocks.
    fn flush(&mut self) -> Result<()> {
        for block in self.pending.chunks(BLOCK) {
            self.sums.push(crc32fast::hash(block));
        }
        self.file
            .write_all_at(&self.pending, self.written)
            .map_err(|e| io_failed("write a blob file", &e))?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Writes the trailer and makes the file and its name durable.
    fn seal(mut self) -> Result<Blob> {
        self.flush()?;
        let mut trailer = Vec::with_capacity(self.sums.len() * 4 + FOOTER);
        for sum in &self.sums {
            trailer.extend_from_slice(&sum.to_le_bytes());
        }
        let sum = crc32fast::hash(&trailer);
        trailer.extend_from_slice(&self.written.to_le_bytes());
        trailer.extend_from_slice(&(BLOCK as u32).to_le_bytes());
        trailer.extend_from_slice(&sum.to_le_bytes());
        trailer.extend_from_slice(&MAGIC);
        self.file
            .write_all_at(&trailer, self.written)
            .map_err(|e| io_failed("write a blob file", &e))?;
        let path = self.blobs.path(self.id);
        let folder = path.parent().unwrap_or(&path);
        let synced = self.file.sync_all().and_then(|()| File::open(folder)?.sync_all());
        if let Err(e) = synced {
            self.blobs.fatal.stop(&format!("could not sync {}: {e}", path.display()));
            return Err(io_failed("sync a blob file", &e));
        }
        self.sealed = true;
        let content = Content::File(self.file.clone(), std::mem::take(&mut self.sums).into());
        let (committed, blobs) = (AtomicBool::new(false), self.blobs.clone());
        Ok(Blob { id: self.id, len: self.written, content, committed, blobs })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.sealed {
            self.blobs.remove(self.id);
            self.blobs.staged().remove(&self.id);
        }
    }
}

impl BlobWriter for BlobStage {
    fn write(&mut self, mut chunk: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            while !chunk.is_empty() {
                let mut open = self.open.take().ok_or(EngineError::Closed)?;
                let room = WRITE - open.pending.len();
                let part = chunk.split_to(room.min(chunk.len()));
                open.pending.extend_from_slice(&part);
                if open.pending.len() == WRITE {
                    open = blocking(move || open.flush().map(|()| open)).await?;
                }
                self.open = Some(open);
            }
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, Result<Body>> {
        Box::pin(async move {
            let open = self.open.take().ok_or(EngineError::Closed)?;
            Ok(Body::Stored(Arc::new(blocking(move || open.seal()).await?)))
        })
    }
}
