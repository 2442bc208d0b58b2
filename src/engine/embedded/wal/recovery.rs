//! WAL recovery: reads the segments on open and replays the commits that the database lacks.
//!
//! A record is written only after the previous one was fsynced, and stores the last version of the
//! previous one. A crash can therefore tear only the last record, which was never acknowledged;
//! recovery discards it. A write that fails because the disk is full may also leave part of a
//! record. If the next record is in another segment, it does not overwrite this part. Both records
//! then have the same base, and recovery discards the first one. Any other gap is damage to
//! acknowledged commits and fails the recovery.

use super::super::blob_files::io_error;
use super::super::database::{CheckpointPosition, body_checksum};
use super::super::{EngineError, Result};
use super::record::{self, BodyLocation, HEADER_BYTES, PAGE_BYTES, RecordHeader, WalEntry};
use super::segment::{Segment, SegmentFile};
use bytes::Bytes;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) struct RecoveredWal {
    /// Segments with records to checkpoint, the oldest first.
    pub(crate) live: Vec<Arc<Segment>>,
    /// Files without such records.
    pub(crate) free: Vec<SegmentFile>,
    /// Version of the last commit.
    pub(crate) last_version: u64,
    /// A sequence number greater than that of any segment.
    pub(crate) next_seq: u64,
}

/// A WAL record whose header and entries match their checksum.
struct RecoveredRecord {
    header: RecordHeader,
    entries: Vec<WalEntry>,
    segment: Arc<Segment>,
    at: u64,
}

impl RecoveredRecord {
    /// Verifies the checksums of the bodies.
    fn bodies_intact(&self) -> Result<bool> {
        for entry in &self.entries {
            let BodyLocation::Inline { at, len, checksum } = entry.location else { continue };
            let at = self.at + self.header.bodies_offset() + at;
            match self.segment.read(at, len as usize) {
                Ok(bytes) if body_checksum(entry.version, &bytes) == checksum => {}
                Ok(_) | Err(EngineError::Corrupt(_)) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

/// Whether recovery may modify the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecoveryMode {
    /// Erases a torn record and fsyncs everything else, so that writing can continue.
    ReadWrite,
    /// Modifies nothing.
    ReadOnly,
}

/// Reads all segment files and passes each entry after `position` to `visit`, in commit order, with
/// the offset of its record's bodies section.
///
/// # Errors
/// Returns [`EngineError::Corrupt`] if an acknowledged commit is damaged or missing.
pub(crate) fn recover(
    files: Vec<SegmentFile>,
    position: CheckpointPosition,
    mode: RecoveryMode,
    mut visit: impl FnMut(WalEntry, &Arc<Segment>, u64),
) -> Result<RecoveredWal> {
    // The WAL has at least one file even before its first commit.
    if files.is_empty() && (position.wal_end > 0 || position.last_version > 0) {
        return Err(missing("all segment files are"));
    }
    let (mut live, mut free, next_seq) = partition(files, position)?;
    ensure_newest_known(&live, position)?;
    let mut last_version = position.last_version;
    let mut newest: Option<RecoveredRecord> = None;
    let mut replay = |record: RecoveredRecord| {
        let bodies_offset = record.at + record.header.bodies_offset();
        record.entries.into_iter().for_each(|entry| visit(entry, &record.segment, bodies_offset));
    };
    for (number, segment) in live.iter().enumerate() {
        let mut at = 0;
        while let Some((header, entries)) = read_record(segment, position.salt, at)? {
            if header.segment != segment.seq {
                break;
            }
            let is_abandoned = |record: &mut RecoveredRecord| record.header.base == header.base;
            if header.base != last_version && newest.take_if(is_abandoned).is_none() {
                return Err(corruption(segment, at, at));
            }
            last_version = header.last;
            let record = RecoveredRecord { header, entries, segment: segment.clone(), at };
            at += header.disk_len();
            newest.replace(record).into_iter().for_each(&mut replay);
        }
        if number + 1 == live.len() {
            if let Some(after) = find_record_after(segment, position, Some(segment.seq), at)? {
                return Err(corruption(segment, at, after));
            }
            erase(segment, at, mode)?;
        }
    }
    let mut is_newest_empty = false;
    if let Some(record) = newest {
        if record.bodies_intact()? {
            replay(record);
        } else {
            last_version = record.header.base;
            erase(&record.segment, record.at, mode)?;
            is_newest_empty = record.at == 0;
        }
    }
    if let Some(segment) = live.last().filter(|_| mode == RecoveryMode::ReadWrite) {
        // A killed process may have written records without fsyncing them. The erasure of a torn
        // record must be durable as well.
        segment.file().sync_data().map_err(|e| io_error("fsync the WAL", &e))?;
    }
    // The next start would not find the segment without its only record, so the segment must not
    // be recorded as the newest.
    if is_newest_empty && let Some(Ok(segment)) = live.pop().map(Arc::try_unwrap) {
        free.push(segment.into_file());
    }
    Ok(RecoveredWal { live, free, last_version, next_seq: next_seq + 1 })
}

type LiveSegments = Vec<Arc<Segment>>;

/// Returns the segments with records to replay, the oldest first, the files without such records,
/// and the lowest sequence number that is greater than those of all segments.
fn partition(
    files: Vec<SegmentFile>,
    position: CheckpointPosition,
) -> Result<(LiveSegments, Vec<SegmentFile>, u64)> {
    let (mut live, mut free) = (Vec::new(), Vec::new());
    let mut next_seq = position.first_segment.max(position.wal_end);
    for file in files {
        let segment = Segment::new(0, file);
        let seq = match first_record(&segment, position)? {
            FirstRecord::Live(seq) => Some(seq),
            FirstRecord::Empty => None,
            FirstRecord::Torn => {
                if let Some(at) = find_record_after(&segment, position, None, 0)? {
                    return Err(corruption(&segment, 0, at));
                }
                None
            }
        };
        next_seq = next_seq.max(seq.map_or(0, |seq| seq + 1));
        let Ok(segment) = Arc::try_unwrap(segment) else {
            return Err(EngineError::Failed("a WAL segment is in use".into()));
        };
        match seq {
            Some(seq) => live.push(segment.with_seq(seq)),
            None => free.push(segment.into_file()),
        }
    }
    live.sort_by_key(|segment| segment.seq);
    Ok((live, free, next_seq))
}

fn corruption(segment: &Segment, at: u64, after: u64) -> EngineError {
    EngineError::Corrupt(format!(
        "the WAL is damaged: invalid record in segment {} at byte {at}, before a valid record at \
         byte {after}; keep a copy of the data directory, and restore a backup",
        segment.seq
    ))
}

/// Fails if the newest segment recorded in the database is not among the live ones.
fn ensure_newest_known(live: &[Arc<Segment>], position: CheckpointPosition) -> Result<()> {
    let known = position.wal_end.saturating_sub(1);
    let is_present = live.last().is_some_and(|segment| segment.seq >= known);
    if known < position.first_segment || is_present {
        return Ok(());
    }
    Err(missing(&format!("segment {known} is")))
}

fn missing(what: &str) -> EngineError {
    EngineError::Corrupt(format!(
        "{what} missing from the WAL, along with acknowledged commits; put the missing files back \
         into the log directory, restore a backup, or run steadfast check --reset-wal to continue \
         without these commits"
    ))
}

/// The content at the start of a segment file.
enum FirstRecord {
    /// A record of this segment that is not checkpointed.
    Live(u64),
    /// Zeros, or a record that is already checkpointed.
    Empty,
    /// Anything else.
    Torn,
}

fn first_record(segment: &Segment, position: CheckpointPosition) -> Result<FirstRecord> {
    if let Some((header, _)) = read_record(segment, position.salt, 0)? {
        let is_live = header.segment >= position.first_segment;
        return Ok(if is_live { FirstRecord::Live(header.segment) } else { FirstRecord::Empty });
    }
    let mut start = [0; 16 * PAGE_BYTES];
    let len = read_up_to(segment, 0, &mut start)?;
    let zero = start.get(..len).unwrap_or_default().iter().all(|byte| *byte == 0);
    Ok(if zero { FirstRecord::Empty } else { FirstRecord::Torn })
}

/// Reads until the buffer is full or the file ends; returns the number of bytes read.
fn read_up_to(segment: &Segment, at: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        let read = segment.file().read_at(rest, at + len as u64);
        match read.map_err(|e| io_error("read the WAL", &e))? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

type HeaderAndEntries = (RecordHeader, Vec<WalEntry>);

/// Reads the record at offset `at`; `None` if there is no record with intact entries.
fn read_record(segment: &Segment, salt: u32, at: u64) -> Result<Option<HeaderAndEntries>> {
    let mut page = vec![0; PAGE_BYTES];
    let len = read_up_to(segment, at, &mut page)?;
    page.truncate(len);
    let Some(header) = RecordHeader::parse(&page) else { return Ok(None) };
    let needed = HEADER_BYTES + header.entries_len as usize;
    if needed > page.len() {
        let size = segment.file().metadata().map_err(|e| io_error("read the WAL", &e))?.len();
        if at + needed as u64 > size {
            return Ok(None);
        }
        page = segment.read(at, needed)?;
    }
    Ok(record::decode_entries(salt, &header, &page).map(|entries| (header, entries)))
}

/// Finds the offset of an intact record after `at`: one of segment `seq`, or of any live segment.
fn find_record_after(
    segment: &Segment,
    position: CheckpointPosition,
    seq: Option<u64>,
    at: u64,
) -> Result<Option<u64>> {
    let mut chunk = vec![0; 256 * PAGE_BYTES];
    let mut from = at;
    loop {
        let len = read_up_to(segment, from, &mut chunk)?;
        for (number, page) in chunk.get(..len).unwrap_or_default().chunks(PAGE_BYTES).enumerate() {
            let offset = from + (number * PAGE_BYTES) as u64;
            let Some(header) = RecordHeader::parse(page).filter(|_| offset > at) else { continue };
            let is_live = match seq {
                Some(seq) => header.segment == seq,
                None => header.segment >= position.first_segment,
            };
            if is_live && read_record(segment, position.salt, offset)?.is_some() {
                return Ok(Some(offset));
            }
        }
        if len < chunk.len() {
            return Ok(None);
        }
        from += len as u64;
    }
}

/// Finds a WAL segment or a blob file in a data directory without a database. The database is
/// created and fsynced first, so such a file means that the database was lost.
pub(crate) fn orphaned_data(dir: &Path) -> Result<Option<PathBuf>> {
    if let Some(file) = list_dir(&dir.join("log"))?.pop() {
        return Ok(Some(file));
    }
    for dir in list_dir(&dir.join("blobs"))? {
        if let Some(blob) = list_dir(&dir)?.pop() {
            return Ok(Some(blob));
        }
    }
    Ok(None)
}

/// Lists a directory; empty if it does not exist.
fn list_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    entries.map_err(|e| io_error("read the data directory", &e))
}

/// Zeroes the first page of a torn record, so that a later recovery does not read it.
fn erase(segment: &Segment, at: u64, mode: RecoveryMode) -> Result<()> {
    if mode == RecoveryMode::ReadOnly {
        return Ok(());
    }
    let mut page = [0; PAGE_BYTES];
    let len = read_up_to(segment, at, &mut page)?;
    if page.get(..len).unwrap_or_default().iter().any(|byte| *byte != 0) {
        let zeros = vec![0; len];
        segment.file().write_all_at(&zeros, at).map_err(|e| io_error("write the WAL", &e))?;
    }
    Ok(())
}

/// Reads an inline body and verifies its checksum.
pub(crate) fn read_body(
    segment: &Segment,
    at: u64,
    len: u32,
    version: u64,
    checksum: u32,
) -> Result<Bytes> {
    let bytes = segment.read(at, len as usize)?;
    if body_checksum(version, &bytes) != checksum {
        let seq = segment.seq;
        return Err(EngineError::Corrupt(format!(
            "body in WAL segment {seq} at byte {at} does not match its checksum"
        )));
    }
    Ok(Bytes::from(bytes))
}
