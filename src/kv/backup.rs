//! Backup and restore. A backup contains all records of a snapshot, as a stream of frames with
//! checksums.
//!
//! docs/format.md specifies the format. A restored item keeps its generation, which is stored in
//! the item's meta, like that of an imported item. A generation of 2^53 or greater is replaced.

use super::clock::Clock;
use super::codec::ItemMeta;
use super::import::{self, GENERATION_MAX};
use super::integrity::{IntegrityChecker, RecordCounts};
use super::keyspace::{ITEMS, STORES};
use super::{Kv, Result, items};
use crate::engine::copy::{BulkLoader, CopyError};
use crate::engine::{
    Body, Engine, EngineError, INLINE_BYTES_MAX, KeyedRecord, Record, Snapshot, successor,
};
use bytes::{Buf, BufMut, Bytes};
use std::io::{self, Read};
use std::sync::Arc;

/// The first bytes of a backup.
const MAGIC: &[u8; 8] = b"STDFBAK1";
/// Frame kinds: a record, a chunk of its body, and the end of the backup.
const RECORD: u8 = 1;
const CHUNK: u8 = 2;
const END: u8 = 3;
/// Size of a frame's header: its kind and the length of its payload. A CRC-32 follows the payload.
const FRAME_HEADER: usize = 1 + 4;
/// Size of the fixed part of a record's payload: version, expiry time, body size and key size.
const RECORD_FIXED: usize = 8 + 8 + 8 + 4;
/// Maximum size of a payload: an inline body, its key and its meta.
const PAYLOAD_MAX: usize = INLINE_BYTES_MAX + 64 * 1024;
/// Maximum number of records, and of body bytes, per scan of the snapshot.
const PAGE_RECORDS: usize = 1000;
const PAGE_BYTES: u64 = 1 << 20;
/// Minimum size in bytes of the chunks that [`BackupStream::next`] returns; the last chunk may be
/// smaller.
const OUTPUT_BYTES: usize = 256 << 10;

/// Produces the bytes of a backup.
pub struct BackupStream {
    snapshot: Box<dyn Snapshot>,
    next: Bytes,
    page: std::vec::IntoIter<KeyedRecord>,
    /// The large body being written, and the offset of its next chunk.
    large: Option<(Body, u64)>,
    records: u64,
    checksum: crc32fast::Hasher,
    started: bool,
    ended: bool,
}

impl Kv {
    /// Starts a backup of the current state.
    pub async fn backup(&self) -> Result<BackupStream> {
        let snapshot = self.engine.snapshot().await?;
        Ok(BackupStream::new(snapshot))
    }
}

/// Starts a backup of an engine that no server has open.
pub async fn backup(engine: &dyn Engine) -> Result<BackupStream> {
    Ok(BackupStream::new(engine.snapshot().await?))
}

impl BackupStream {
    fn new(snapshot: Box<dyn Snapshot>) -> BackupStream {
        BackupStream {
            snapshot,
            // The marker of an incomplete copy is skipped. Servers refuse to open an engine that
            // has it.
            next: Bytes::from_static(&[1]),
            page: Vec::new().into_iter(),
            large: None,
            records: 0,
            checksum: crc32fast::Hasher::new(),
            started: false,
            ended: false,
        }
    }

    /// Returns the number of records written so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Returns the next bytes of the backup; `None` at the end.
    ///
    /// # Errors
    /// Fails if the engine fails or a record is damaged.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut out = Vec::with_capacity(OUTPUT_BYTES + PAYLOAD_MAX);
        if !std::mem::replace(&mut self.started, true) {
            out.extend_from_slice(MAGIC);
        }
        while out.len() < OUTPUT_BYTES && !self.ended {
            if let Some((body, offset)) = self.large.take() {
                let len = (body.len() - offset).min(INLINE_BYTES_MAX as u64);
                // The length is at most INLINE_BYTES_MAX, so it fits a usize.
                let chunk = body.read(offset, len as usize).await?;
                self.write_frame(&mut out, CHUNK, &[&chunk]);
                if offset + len < body.len() {
                    self.large = Some((body, offset + len));
                }
            } else if let Some((key, record)) = self.page.next() {
                self.write_record(&mut out, &key, record).await?;
            } else {
                self.next_page(&mut out).await?;
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    async fn next_page(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let (start, end) = (self.next.clone(), Bytes::from_static(&[0xff]));
        let page = self.snapshot.scan(start, end, PAGE_RECORDS, PAGE_BYTES).await?;
        match page.last() {
            Some((last, _)) => self.next = successor(last),
            None => {
                let checksum = self.checksum.clone().finalize();
                let records = self.records.to_le_bytes();
                self.write_frame(out, END, &[&records, &checksum.to_le_bytes()]);
                self.ended = true;
            }
        }
        self.page = page.into_iter();
        Ok(())
    }

    async fn write_record(&mut self, out: &mut Vec<u8>, key: &[u8], record: Record) -> Result<()> {
        let Record { version, expires_at, meta, body } = record;
        let mut fixed = [0; RECORD_FIXED];
        let mut buffer = &mut fixed[..];
        buffer.put_u64_le(version);
        buffer.put_u64_le(expires_at);
        buffer.put_u64_le(body.len());
        buffer.put_u32_le(u32::try_from(key.len()).unwrap_or(u32::MAX));
        if body.len() > INLINE_BYTES_MAX as u64 {
            self.write_frame(out, RECORD, &[&fixed, key, &meta]);
            self.large = Some((body, 0));
        } else {
            // The length is at most INLINE_BYTES_MAX, so it fits a usize.
            let body = body.read(0, body.len() as usize).await?;
            self.write_frame(out, RECORD, &[&fixed, key, &body, &meta]);
        }
        self.records += 1;
        Ok(())
    }

    fn write_frame(&mut self, out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let start = out.len();
        out.put_u8(kind);
        out.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
        parts.iter().for_each(|part| out.extend_from_slice(part));
        let checksum = crc32fast::hash(out.get(start..).unwrap_or_default());
        out.put_u32_le(checksum);
        // The backup's checksum covers the checksums of all frames.
        self.checksum.update(&checksum.to_le_bytes());
    }
}

/// Why a backup could not be read or restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Reading the backup failed.
    #[error("reading the backup failed: {0}")]
    Read(#[from] io::Error),
    /// The backup is corrupt or truncated.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// A generation is more than a day ahead of the clock, and less than 2^53.
    #[error(
        "record {key:?} has generation {generation}; the maximum is {max}, a day ahead of this \
         machine's clock; set the clock if it is wrong, or else export the source's stores and \
         import them without their generations"
    )]
    Generation {
        /// The record's key.
        key: String,
        /// The record's generation.
        generation: u64,
        /// The maximum generation.
        max: u64,
    },
    /// Loading records into the destination failed.
    #[error(transparent)]
    Load(#[from] CopyError),
    /// Writing a blob to the destination failed.
    #[error("writing to the destination failed: {0}")]
    Engine(#[from] EngineError),
}

/// Reads the frames of a backup.
pub struct BackupReader<R> {
    source: R,
    checksum: crc32fast::Hasher,
    records: u64,
}

/// A record in a backup. If its body is large, the body follows in chunks.
struct BackupRecord {
    key: Bytes,
    record: Record,
    body_len: u64,
}

impl<R: Read> BackupReader<R> {
    /// Starts reading a backup, and checks its first bytes.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn open(mut source: R) -> Result<BackupReader<R>, RestoreError> {
        let mut magic = [0; MAGIC.len()];
        source.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(RestoreError::Damaged("the file is not a backup".into()));
        }
        Ok(BackupReader { source, checksum: crc32fast::Hasher::new(), records: 0 })
    }

    /// Reads the next frame and verifies its checksum.
    fn read_frame(&mut self) -> Result<(u8, Bytes), RestoreError> {
        let records = self.records;
        let mut header = [0; FRAME_HEADER];
        self.source.read_exact(&mut header).map_err(|e| read_error(e, records))?;
        let [kind, len @ ..] = header;
        let len = u32::from_le_bytes(len) as usize;
        if len > PAYLOAD_MAX {
            return Err(damaged("invalid frame size", records));
        }
        let mut payload = vec![0; len + 4];
        self.source.read_exact(&mut payload).map_err(|e| read_error(e, records))?;
        let checksum = payload.split_off(len);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header);
        hasher.update(&payload);
        if hasher.finalize().to_le_bytes() != checksum[..] {
            return Err(damaged("frame checksum mismatch", records));
        }
        if kind != END {
            self.checksum.update(&checksum);
        }
        Ok((kind, payload.into()))
    }

    /// Reads the next record. Returns `None` at the end of the backup, after verifying its record
    /// count and checksum.
    fn read_record(&mut self) -> Result<Option<BackupRecord>, RestoreError> {
        let (kind, mut payload) = self.read_frame()?;
        let records = self.records;
        if kind == END && payload.len() == 12 {
            let (count, checksum) = (payload.get_u64_le(), payload.get_u32_le());
            if count != records || checksum != self.checksum.clone().finalize() {
                return Err(damaged("frames are missing", records));
            }
            if self.source.read(&mut [0])? > 0 {
                return Err(damaged("trailing data", records));
            }
            return Ok(None);
        }
        if kind != RECORD || payload.len() < RECORD_FIXED {
            return Err(damaged("unexpected frame kind", records));
        }
        let (version, expires_at, body_len) =
            (payload.get_u64_le(), payload.get_u64_le(), payload.get_u64_le());
        let key_len = payload.get_u32_le() as usize;
        let inline = if body_len > INLINE_BYTES_MAX as u64 { 0 } else { body_len as usize };
        if key_len == 0 || payload.len() < key_len + inline {
            return Err(damaged("invalid record size", records));
        }
        let (key, body) = (payload.split_to(key_len), payload.split_to(inline));
        self.records += 1;
        let record = Record { version, expires_at, meta: payload, body: Body::Bytes(body) };
        Ok(Some(BackupRecord { key, record, body_len }))
    }

    /// Reads the next chunk of a body, of which `remaining` bytes are left.
    fn read_chunk(&mut self, remaining: u64) -> Result<Bytes, RestoreError> {
        match self.read_frame()? {
            (CHUNK, chunk) if !chunk.is_empty() && chunk.len() as u64 <= remaining => Ok(chunk),
            _ => Err(damaged("incomplete body", self.records)),
        }
    }
}

fn damaged(what: &str, records: u64) -> RestoreError {
    RestoreError::Damaged(format!("{what} after {records} records"))
}

fn read_error(e: io::Error, records: u64) -> RestoreError {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        return damaged("unexpected end of file", records);
    }
    RestoreError::Read(e)
}

/// The result of a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The numbers of stores and items restored.
    pub counts: RecordCounts,
    /// The number of items that got a new generation because their own was 2^53 or greater.
    pub new_generations: u64,
}

/// Restores a backup into an empty engine, and calls `report` with the number of records restored
/// so far. Until the restore completes, the engine is marked as incomplete, and servers refuse to
/// open it. As in an import, generations may be at most a day ahead of `clock`. An item with a
/// generation of 2^53 or greater, which servers no longer accept, gets a new one.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore(
    mut backup: BackupReader<impl Read + Send>,
    to: &Arc<dyn Engine>,
    clock: &dyn Clock,
    report: &mut (dyn FnMut(u64) + Send),
) -> Result<Restored, RestoreError> {
    let mut restored = Restored::default();
    let now = clock.now();
    let mut loader = BulkLoader::begin(to.clone()).await?;
    while let Some(BackupRecord { key, mut record, body_len }) = backup.read_record()? {
        if body_len > INLINE_BYTES_MAX as u64 {
            let (mut blob, mut remaining) = (to.create_blob().await?, body_len);
            while remaining > 0 {
                let chunk = backup.read_chunk(remaining)?;
                remaining -= chunk.len() as u64;
                blob.write(chunk).await?;
            }
            record.body = blob.finish().await?;
        }
        restored.new_generations += u64::from(limit_generation(&key, &mut record, now)?);
        record.expires_at = items::stored_expiry(record.expires_at).unwrap_or(0);
        restored.counts.stores += u64::from(key.first() == Some(&STORES));
        restored.counts.items += u64::from(key.first() == Some(&ITEMS));
        loader.add(key, record).await?;
        report(backup.records);
    }
    loader.finish().await?;
    Ok(restored)
}

/// Makes the generation of an item explicit in its meta, and limits the record's version, because
/// later writes get greater versions. Returns whether the item gets a new generation.
fn limit_generation(key: &[u8], record: &mut Record, now: u64) -> Result<bool, RestoreError> {
    let mut is_new = false;
    if key.first() == Some(&ITEMS) {
        let meta = ItemMeta::decode(&record.meta);
        let mut meta = meta.map_err(|e| RestoreError::Damaged(e.to_string()))?;
        meta.generation = allowed(key, meta.generation.unwrap_or(record.version), now)?;
        is_new = meta.generation.is_none();
        record.meta = meta.encode();
    }
    // If a record has no explicit generation, its version is its generation.
    let current = now.min(GENERATION_MAX);
    record.version = allowed(key, record.version, now)?.unwrap_or(current);
    if is_new {
        record.version = record.version.max(current);
    }
    Ok(is_new)
}

/// Returns a generation, or `None` for one of 2^53 or greater, which servers no longer accept.
fn allowed(key: &[u8], generation: u64, now: u64) -> Result<Option<u64>, RestoreError> {
    let max = import::generation_max(now);
    if generation > max && generation <= GENERATION_MAX {
        let key = String::from_utf8_lossy(key).into_owned();
        return Err(RestoreError::Generation { key, generation, max });
    }
    Ok((generation <= max).then_some(generation))
}

/// Reads a whole backup and returns its record counts and the problems found, including generations
/// that [`restore`] rejects or replaces.
///
/// # Errors
/// Returns [`RestoreError::Read`] if the backup cannot be read. Damage is reported as a problem
/// instead.
pub fn verify(
    source: impl Read,
    clock: &dyn Clock,
) -> Result<(RecordCounts, Vec<String>), RestoreError> {
    let mut checker = IntegrityChecker::new(clock);
    let check_all = || -> Result<(), RestoreError> {
        let mut backup = BackupReader::open(source)?;
        while let Some(BackupRecord { key, record, body_len }) = backup.read_record()? {
            let mut remaining = if body_len > INLINE_BYTES_MAX as u64 { body_len } else { 0 };
            while remaining > 0 {
                remaining -= backup.read_chunk(remaining)?.len() as u64;
            }
            let Record { version, expires_at, meta, .. } = &record;
            checker.record(&key, *version, *expires_at, meta, body_len);
        }
        Ok(())
    };
    let damage = match check_all() {
        Ok(()) => None,
        Err(RestoreError::Damaged(what)) => Some(what),
        Err(e) => return Err(e),
    };
    let (counts, mut problems) = checker.finish();
    problems.splice(0..0, damage);
    Ok((counts, problems))
}

#[cfg(test)]
mod tests {
    use super::super::clock::{ManualClock, SECOND};
    use super::super::types::{Key, Metadata, StoreId};
    use super::*;
    use crate::engine::memory::Memory;
    use crate::engine::{Commit, Mutation, NewRecord, Projection};
    use crate::wire::MICROS_MAX;

    const DAY: u64 = 24 * 60 * 60 * SECOND;

    /// Restores a backup of one item. Returns the item's meta and its record.
    async fn restore_item(
        meta: &ItemMeta,
        version: u64,
        expires_at: u64,
        now: u64,
    ) -> Result<(ItemMeta, Record), RestoreError> {
        let store = StoreId::random().unwrap();
        let key = super::super::keyspace::item(&store, &Key::parse(b"k").unwrap());
        let from = Memory::new();
        let record = NewRecord { expires_at, meta: meta.encode(), body: Body::EMPTY };
        let mutations = vec![Mutation { key: key.clone(), record: Some(record) }];
        let commit = Commit { version_min: version, mutations, ..Commit::default() };
        from.commit(commit).await.unwrap();
        let mut stream = backup(&from).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        let to: Arc<dyn Engine> = Arc::new(Memory::new());
        let source = BackupReader::open(&bytes[..])?;
        restore(source, &to, &ManualClock::new(now), &mut |_| {}).await?;
        let record = to.read(&key, Projection::Meta).await.unwrap().unwrap();
        Ok((ItemMeta::decode(&record.meta).unwrap(), record))
    }

    #[tokio::test]
    async fn a_generation_more_than_a_day_ahead_of_the_clock_is_not_restored() {
        let now = 1_700_000_000 * SECOND;
        let metadata = Metadata::default();
        let meta = ItemMeta { generation: None, modified_at: 1, size: 0, metadata };
        let imported = |generation| ItemMeta { generation: Some(generation), ..meta.clone() };
        for (meta, version) in [(meta.clone(), now + DAY), (imported(now + DAY), 1)] {
            let (restored, _) = restore_item(&meta, version, 0, now).await.unwrap();
            assert_eq!(restored.generation, Some(now + DAY));
        }
        let ahead = [
            (meta.clone(), now + DAY + 1),
            (imported(now + DAY + 1), 1),
            (imported((1 << 53) - 1), 1),
            (imported(5), (1 << 53) - 1),
        ];
        for (meta, version) in ahead {
            let restored = restore_item(&meta, version, 0, now).await;
            let e = restored.map(|_| ()).unwrap_err();
            assert!(matches!(e, RestoreError::Generation { .. }), "{e}");
            assert!(e.to_string().contains("a day ahead of this machine's clock"), "{e}");
        }
        let late = restore_item(&imported((1 << 53) - 1), 1, 0, u64::MAX).await;
        assert!(late.is_ok());
    }

    #[tokio::test]
    async fn a_restored_item_gets_a_new_generation_if_its_own_is_2_to_the_53_or_greater() {
        let now = 1_700_000_000 * SECOND;
        let metadata = Metadata::default();
        let meta = ItemMeta { generation: None, modified_at: 1, size: 0, metadata };
        let imported = |generation| ItemMeta { generation: Some(generation), ..meta.clone() };
        for (meta, version) in
            [(meta.clone(), 1 << 53), (imported(1 << 53), 1), (imported(u64::MAX), 1 << 60)]
        {
            let (restored, Record { version, .. }) =
                restore_item(&meta, version, 0, now).await.unwrap();
            assert_eq!(restored.generation, None);
            assert!((now..now + SECOND).contains(&version), "{version}");
        }
        let (restored, Record { version, .. }) =
            restore_item(&imported(5), 1 << 53, 0, now).await.unwrap();
        assert_eq!(restored.generation, Some(5));
        assert!((now..now + SECOND).contains(&version), "{version}");
    }

    #[tokio::test]
    async fn restored_times_are_limited_to_the_year_9999() {
        let metadata = Metadata::default();
        let meta = ItemMeta { generation: None, modified_at: u64::MAX, size: 0, metadata };
        let (restored, record) = restore_item(&meta, 1, u64::MAX, SECOND).await.unwrap();
        assert_eq!((restored.modified_at, record.expires_at), (MICROS_MAX, MICROS_MAX));
    }
}
