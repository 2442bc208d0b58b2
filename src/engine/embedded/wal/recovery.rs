//! Reading the commit log at the start.
//!
//! A frame is written only after the one before it was synced, and each names the last version
//! before it. So a crash can tear the last frame alone, which nobody was told of, and that one is
//! dropped. Anything else that does not fit is damage to what was acknowledged, and is reported.

use super::super::blob_files::io_error;
use super::super::database::{CheckpointPosition, body_checksum};
use super::super::{EngineError, Result};
use super::record::{self, HEADER_BYTES, PAGE_BYTES, RecordHeader, WalEntry};
use super::segment::{Segment, SegmentFile};
use bytes::Bytes;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the log was found to hold.
pub(in crate::engine::embedded) struct RecoveredWal {
    /// Segments with frames, the oldest first.
    pub(in crate::engine::embedded) live: Vec<Arc<Segment>>,
    /// Slots without.
    pub(in crate::engine::embedded) free: Vec<SegmentFile>,
    /// The last version.
    pub(in crate::engine::embedded) last_version: u64,
    /// A number that no segment had.
    pub(in crate::engine::embedded) next_seq: u64,
}

/// A frame that was found sound, up to its bodies.
struct RecoveredRecord {
    header: RecordHeader,
    entries: Vec<WalEntry>,
    segment: Arc<Segment>,
    at: u64,
}

impl RecoveredRecord {
    /// Whether the bodies match their checksums too.
    fn bodies_intact(&self) -> Result<bool> {
        for entry in &self.entries {
            let record::BodyLocation::Inline { at, len, checksum } = entry.location else {
                continue;
            };
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

/// What the log is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) enum RecoveryMode {
    /// To go on from it: what is torn is wiped, and what was found is made durable.
    ReadWrite,
    /// To look: nothing is changed.
    ReadOnly,
}

/// Reads all slots, and hands every row behind `position` to `visit`, in the order of commits, with the
/// place where its frame's bodies begin.
pub(in crate::engine::embedded) fn recover(
    files: Vec<SegmentFile>,
    position: CheckpointPosition,
    mode: RecoveryMode,
    mut visit: impl FnMut(WalEntry, &Arc<Segment>, u64),
) -> Result<RecoveredWal> {
    let (mut live, mut free) = (Vec::new(), Vec::new());
    let mut next_seq = position.log_start;
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
            return Err(EngineError::Failed("a segment of the log is in use".into()));
        };
        match seq {
            Some(seq) => live.push(segment.with_seq(seq)),
            None => free.push(segment.into_file()),
        }
    }
    live.sort_by_key(|segment| segment.seq);
    let mut last_version = position.last_version;
    let mut newest: Option<RecoveredRecord> = None;
    let mut replay = |found: RecoveredRecord| {
        let bodies = found.at + found.header.bodies_offset();
        found.entries.into_iter().for_each(|entry| visit(entry, &found.segment, bodies));
    };
    for (number, segment) in live.iter().enumerate() {
        let mut at = 0;
        while let Some((header, entries)) = read_record(segment, position.salt, at)? {
            if header.segment != segment.seq {
                break;
            }
            if header.base != last_version {
                return Err(corruption(segment, at, at));
            }
            last_version = header.last;
            let found = RecoveredRecord { header, entries, segment: segment.clone(), at };
            at += header.disk_len();
            newest.replace(found).into_iter().for_each(&mut replay);
        }
        if number + 1 == live.len() {
            if let Some(found) = find_record_after(segment, position, Some(segment.seq), at)? {
                return Err(corruption(segment, at, found));
            }
            erase(segment, at, mode)?;
        }
    }
    if let Some(found) = newest {
        if found.bodies_intact()? {
            replay(found);
        } else {
            last_version = found.header.base;
            erase(&found.segment, found.at, mode)?;
        }
    }
    if let Some(segment) = live.last().filter(|_| mode == RecoveryMode::ReadWrite) {
        // What a killed process wrote and did not sync is about to be shown to readers.
        segment.file().sync_data().map_err(|e| io_error("sync the log", &e))?;
    }
    Ok(RecoveredWal { live: live, free, last_version, next_seq: next_seq + 1 })
}

fn corruption(segment: &Segment, at: u64, after: u64) -> EngineError {
    EngineError::Corrupt(format!(
        "the commit log is damaged: segment {} at byte {at}, before what follows at byte {after}; \
         keep a copy of the data directory as it is, and restore a backup",
        segment.seq
    ))
}

/// What a slot begins with.
enum FirstRecord {
    /// A frame of this segment, which the database does not have yet.
    Live(u64),
    /// Zeros, or a frame that the database has.
    Empty,
    /// Something else.
    Torn,
}

fn first_record(segment: &Segment, position: CheckpointPosition) -> Result<FirstRecord> {
    if let Some((header, _)) = read_record(segment, position.salt, 0)? {
        let behind = header.segment >= position.log_start;
        return Ok(if behind { FirstRecord::Live(header.segment) } else { FirstRecord::Empty });
    }
    let mut start = [0; 16 * PAGE_BYTES];
    let len = read_up_to(segment, 0, &mut start)?;
    let zero = start.get(..len).unwrap_or_default().iter().all(|byte| *byte == 0);
    Ok(if zero { FirstRecord::Empty } else { FirstRecord::Torn })
}

/// Reads up to a buffer's length; less at the end of the file.
fn read_up_to(segment: &Segment, at: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        let read_record = segment.file().read_at(rest, at + len as u64);
        match read_record.map_err(|e| io_error("read the log", &e))? {
            0 => break,
            read_record => len += read_record,
        }
    }
    Ok(len)
}

/// The frame at a place, if there is one whose rows are sound.
fn read_record(
    segment: &Segment,
    salt: u32,
    at: u64,
) -> Result<Option<(RecordHeader, Vec<WalEntry>)>> {
    let mut page = vec![0; PAGE_BYTES];
    let len = read_up_to(segment, at, &mut page)?;
    page.truncate(len);
    let Some(header) = RecordHeader::parse(&page) else { return Ok(None) };
    let needed = HEADER_BYTES + header.entries_len as usize;
    if needed > page.len() {
        let size = segment.file().metadata().map_err(|e| io_error("read the log", &e))?.len();
        if at + needed as u64 > size {
            return Ok(None);
        }
        page = segment.read(at, needed)?;
    }
    Ok(record::entries(salt, &header, &page).map(|entries| (header, entries)))
}

/// The place of a sound frame of the segment `seq` (or of any that matters) behind `at`.
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
            let place = from + (number * PAGE_BYTES) as u64;
            let Some(header) = RecordHeader::parse(page).filter(|_| place > at) else { continue };
            let is_live = match seq {
                Some(seq) => header.segment == seq,
                None => header.segment >= position.log_start,
            };
            if is_live && read_record(segment, position.salt, place)?.is_some() {
                return Ok(Some(place));
            }
        }
        if len < chunk.len() {
            return Ok(None);
        }
        from += len as u64;
    }
}

/// A file of the log or a blob file in a data directory whose database is yet to be made:
/// somebody's data, of which the most important part is gone. (The database is synced before there
/// is any other file.)
pub(in crate::engine::embedded) fn orphaned_data(dir: &Path) -> Result<Option<PathBuf>> {
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

/// What is in a folder; nothing when there is none.
fn list_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    let read_record = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read_record => {
            read_record.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        }
    };
    read_record.map_err(|e| io_error("read the data directory", &e))
}

/// Wipes the start of what was torn, so that it is never met again.
fn erase(segment: &Segment, at: u64, mode: RecoveryMode) -> Result<()> {
    if mode == RecoveryMode::ReadOnly {
        return Ok(());
    }
    let mut page = [0; PAGE_BYTES];
    let len = read_up_to(segment, at, &mut page)?;
    if page.get(..len).unwrap_or_default().iter().any(|byte| *byte != 0) {
        let zeros = vec![0; len];
        segment.file().write_all_at(&zeros, at).map_err(|e| io_error("write the log", &e))?;
    }
    Ok(())
}

/// The bytes of an inline body.
pub(in crate::engine::embedded) fn read_body(
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
            "a body in segment {seq} of the log, at byte {at}, does not match its checksum"
        )));
    }
    Ok(Bytes::from(bytes))
}
