//! Backups: all records of one moment as a stream of checked frames, and the way back.
//!
//! docs/format.md describes the bytes. An item that comes back keeps its generation: its head says
//! it from then on, as with an import.

use super::clock::Clock;
use super::codec::ItemMeta;
use super::integrity::{IntegrityChecker, RecordCounts};
use super::keyspace::{self, ITEMS, STORES};
use super::{Error, Kv};
use crate::engine::copy::{BulkLoader, CopyError};
use crate::engine::{Body, Engine, EngineError, INLINE_BYTES_MAX, KeyedRecord, Record, Snapshot};
use bytes::{Buf, BufMut, Bytes};
use std::io::{self, Read};
use std::sync::Arc;

/// What a backup begins with.
const MAGIC: &[u8; 8] = b"STDFBAK1";
/// Kinds of frames: a record, a piece of the record's body, and the end.
const RECORD: u8 = 1;
const PIECE: u8 = 2;
const END: u8 = 3;
/// Bytes of a frame besides its payload: kind, length, checksum.
const FRAME_HEAD: usize = 1 + 4;
/// Bytes of a record's payload besides its key, head and body: version, due, size of the body,
/// size of the key.
const RECORD_FIXED: usize = 8 + 8 + 8 + 4;
/// No payload is larger: a body in memory, its key and its head.
const PAYLOAD_MAX: usize = INLINE_BYTES_MAX + 64 * 1024;
/// Records and bytes of bodies taken from the snapshot at once.
const PAGE_RECORDS: usize = 1000;
const PAGE_BYTES: u64 = 1 << 20;
/// Bytes handed on together.
const CHUNK_BYTES: usize = 256 << 10;

/// A backup on its way out.
pub struct BackupStream {
    snapshot: Box<dyn Snapshot>,
    next: Bytes,
    waiting: std::vec::IntoIter<KeyedRecord>,
    /// The body that is on its way, and how much of it is out.
    large: Option<(Body, u64)>,
    records: u64,
    sum: crc32fast::Hasher,
    begun: bool,
    ended: bool,
}

impl Kv {
    /// Everything as it is now.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn backup(&self) -> Result<BackupStream, Error> {
        let snapshot = self.engine.snapshot().await?;
        Ok(BackupStream::of(snapshot))
    }
}

/// Everything that an engine has, for one that no server uses.
///
/// # Errors
/// When the engine fails.
pub async fn backup(engine: &dyn Engine) -> Result<BackupStream, Error> {
    Ok(BackupStream::of(engine.snapshot().await?))
}

impl BackupStream {
    fn of(snapshot: Box<dyn Snapshot>) -> BackupStream {
        BackupStream {
            snapshot,
            // After the mark of an unfinished copy, which no server has.
            next: Bytes::from_static(&[1]),
            waiting: Vec::new().into_iter(),
            large: None,
            records: 0,
            sum: crc32fast::Hasher::new(),
            begun: false,
            ended: false,
        }
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the engine fails, or finds something damaged.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + PAYLOAD_MAX);
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(MAGIC);
        }
        while out.len() < CHUNK_BYTES && !self.ended {
            if let Some((body, at)) = self.large.take() {
                let len = (body.len() - at).min(INLINE_BYTES_MAX as u64);
                // At most INLINE_BYTES_MAX, which fits.
                let piece = body.read(at, len as usize).await?;
                self.frame(&mut out, PIECE, &[&piece]);
                if at + len < body.len() {
                    self.large = Some((body, at + len));
                }
            } else if let Some((key, record)) = self.waiting.next() {
                self.record(&mut out, &key, record).await?;
            } else {
                self.turn_page(&mut out).await?;
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    async fn turn_page(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let (start, end) = (self.next.clone(), Bytes::from_static(&[0xff]));
        let page = self.snapshot.scan(start, end, PAGE_RECORDS, PAGE_BYTES).await?;
        match page.last() {
            Some((last, _)) => self.next = keyspace::after(last),
            None => {
                let sum = self.sum.clone().finalize();
                let records = self.records.to_le_bytes();
                self.frame(out, END, &[&records, &sum.to_le_bytes()]);
                self.ended = true;
            }
        }
        self.waiting = page.into_iter();
        Ok(())
    }

    async fn record(&mut self, out: &mut Vec<u8>, key: &[u8], record: Record) -> Result<(), Error> {
        let Record { version, expires_at, meta, body } = record;
        let mut fixed = [0; RECORD_FIXED];
        let mut room = &mut fixed[..];
        room.put_u64_le(version);
        room.put_u64_le(expires_at);
        room.put_u64_le(body.len());
        room.put_u32_le(u32::try_from(key.len()).unwrap_or(u32::MAX));
        if body.len() > INLINE_BYTES_MAX as u64 {
            self.frame(out, RECORD, &[&fixed, key, &meta]);
            self.large = Some((body, 0));
        } else {
            // At most INLINE_BYTES_MAX, which fits.
            let body = body.read(0, body.len() as usize).await?;
            self.frame(out, RECORD, &[&fixed, key, &body, &meta]);
        }
        self.records += 1;
        Ok(())
    }

    fn frame(&mut self, out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let start = out.len();
        out.put_u8(kind);
        out.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
        parts.iter().for_each(|part| out.extend_from_slice(part));
        let sum = crc32fast::hash(out.get(start..).unwrap_or_default());
        out.put_u32_le(sum);
        // The sums of all frames make the sum of the whole.
        self.sum.update(&sum.to_le_bytes());
    }
}

/// Why a backup was not taken back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It could not be read.
    #[error("the backup cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Its bytes are no whole backup.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// It did not get into the destination.
    #[error(transparent)]
    Load(#[from] CopyError),
    /// The destination failed.
    #[error("the destination: {0}")]
    Engine(#[from] EngineError),
}

/// A backup on its way in.
pub struct BackupReader<R> {
    source: R,
    sum: crc32fast::Hasher,
    records: u64,
}

/// A record of a backup; a body that is too large for memory follows it in pieces.
struct Found {
    key: Bytes,
    record: Record,
    size: u64,
}

impl<R: Read> BackupReader<R> {
    /// Looks at the beginning of what should be a backup.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn open(mut source: R) -> Result<BackupReader<R>, RestoreError> {
        let mut magic = [0; MAGIC.len()];
        source.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(RestoreError::Damaged("it does not begin as a backup does".into()));
        }
        Ok(BackupReader { source, sum: crc32fast::Hasher::new(), records: 0 })
    }

    /// The next frame, against its checksum.
    fn frame(&mut self) -> Result<(u8, Bytes), RestoreError> {
        let damaged =
            |what: &str| RestoreError::Damaged(format!("{what} after {} records", self.records));
        let mut meta = [0; FRAME_HEAD];
        self.source.read_exact(&mut meta).map_err(|e| cut(e, self.records))?;
        let [kind, len @ ..] = meta;
        let len = u32::from_le_bytes(len) as usize;
        if len > PAYLOAD_MAX {
            return Err(damaged("a frame of an impossible size"));
        }
        let mut rest = vec![0; len + 4];
        self.source.read_exact(&mut rest).map_err(|e| cut(e, self.records))?;
        let sum = rest.split_off(len);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&meta);
        hasher.update(&rest);
        if hasher.finalize().to_le_bytes() != sum[..] {
            return Err(damaged("a frame does not match its checksum"));
        }
        if kind != END {
            self.sum.update(&sum);
        }
        Ok((kind, rest.into()))
    }

    /// The next record; `None` at the end, which must be one.
    fn record(&mut self) -> Result<Option<Found>, RestoreError> {
        let (kind, mut payload) = self.frame()?;
        let records = self.records;
        let damaged = |what: &str| RestoreError::Damaged(format!("{what} after {records} records"));
        if kind == END && payload.len() == 12 {
            let (count, sum) = (payload.get_u64_le(), payload.get_u32_le());
            if count != records || sum != self.sum.clone().finalize() {
                return Err(damaged("frames are missing"));
            }
            if self.source.read(&mut [0])? > 0 {
                return Err(damaged("something follows the end"));
            }
            return Ok(None);
        }
        if kind != RECORD || payload.len() < RECORD_FIXED {
            return Err(damaged("a frame of an unknown kind"));
        }
        let (version, expires_at, size) =
            (payload.get_u64_le(), payload.get_u64_le(), payload.get_u64_le());
        let key_len = payload.get_u32_le() as usize;
        let inline = if size > INLINE_BYTES_MAX as u64 { 0 } else { size as usize };
        if key_len == 0 || payload.len() < key_len + inline {
            return Err(damaged("a record of an impossible size"));
        }
        let (key, body) = (payload.split_to(key_len), payload.split_to(inline));
        self.records += 1;
        let record = Record { version, expires_at, meta: payload, body: Body::Bytes(body) };
        Ok(Some(Found { key, record, size }))
    }

    /// The next piece of a body of which so many bytes are left.
    fn piece(&mut self, left: u64) -> Result<Bytes, RestoreError> {
        match self.frame()? {
            (PIECE, piece) if !piece.is_empty() && piece.len() as u64 <= left => Ok(piece),
            _ => Err(RestoreError::Damaged(format!("a body is cut at record {}", self.records))),
        }
    }
}

fn cut(e: io::Error, records: u64) -> RestoreError {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        return RestoreError::Damaged(format!("it ends after {records} records, before its end"));
    }
    RestoreError::Read(e)
}

/// Fills an empty engine from a backup; `tell` hears how many records are in. Until it is done the
/// engine is marked as unfinished, and no server takes it.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore(
    mut frames: BackupReader<impl Read + Send>,
    to: &Arc<dyn Engine>,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<RecordCounts, RestoreError> {
    let mut counted = RecordCounts::default();
    let mut loader = BulkLoader::begin(to.clone()).await?;
    while let Some(Found { key, mut record, size }) = frames.record()? {
        if size > INLINE_BYTES_MAX as u64 {
            let (mut stage, mut left) = (to.create_blob().await?, size);
            while left > 0 {
                let piece = frames.piece(left)?;
                left -= piece.len() as u64;
                stage.write(piece).await?;
            }
            record.body = stage.finish().await?;
        }
        record.meta = brought(&key, &record)?;
        counted.stores += u64::from(key.first() == Some(&STORES));
        counted.items += u64::from(key.first() == Some(&ITEMS));
        loader.add(key, record).await?;
        tell(frames.records);
    }
    loader.finish().await?;
    Ok(counted)
}

/// The head that a record has once it is restored: an item's says its generation.
fn brought(key: &[u8], record: &Record) -> Result<Bytes, RestoreError> {
    if key.first() != Some(&ITEMS) {
        return Ok(record.meta.clone());
    }
    let meta = ItemMeta::decode(&record.meta);
    let mut meta = meta.map_err(|e| RestoreError::Damaged(e.to_string()))?;
    meta.generation = meta.generation.or(Some(record.version));
    Ok(meta.encode())
}

/// Reads all of a backup, and says what it holds and what is wrong with it.
///
/// # Errors
/// [`RestoreError::Read`] when it cannot be read; what is damaged is among the problems.
pub fn verify(
    source: impl Read,
    clock: &dyn Clock,
) -> Result<(RecordCounts, Vec<String>), RestoreError> {
    let mut checker = IntegrityChecker::new(clock);
    let walk = || -> Result<(), RestoreError> {
        let mut frames = BackupReader::open(source)?;
        while let Some(Found { key, record, size }) = frames.record()? {
            let mut left = if size > INLINE_BYTES_MAX as u64 { size } else { 0 };
            while left > 0 {
                left -= frames.piece(left)?.len() as u64;
            }
            checker.record(&key, record.expires_at, &record.meta, size);
        }
        Ok(())
    };
    let damage = match walk() {
        Ok(()) => None,
        Err(RestoreError::Damaged(what)) => Some(what),
        Err(e) => return Err(e),
    };
    let (counted, mut problems) = checker.finish();
    problems.splice(0..0, damage);
    Ok((counted, problems))
}
