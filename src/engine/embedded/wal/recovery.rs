//! Reading the commit log at the start.
//!
//! A frame is written only after the one before it was synced, and each names the last version
//! before it. So a crash can tear the last frame alone, which nobody was told of, and that one is
//! dropped. Anything else that does not fit is damage to what was acknowledged, and is reported.

use super::super::blob_files::io_failed;
use super::super::database::{CheckpointPosition, body_sum};
use super::super::{EngineError, Result};
use super::record::{self, HEADER, Header, PAGE, Row};
use super::segment::{Segment, Slot};
use bytes::Bytes;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the log was found to hold.
pub(in crate::engine::embedded) struct Recovered {
    /// Segments with frames, the oldest first.
    pub(in crate::engine::embedded) live: Vec<Arc<Segment>>,
    /// Slots without.
    pub(in crate::engine::embedded) spare: Vec<Slot>,
    /// The last version.
    pub(in crate::engine::embedded) last: u64,
    /// A number that no segment had.
    pub(in crate::engine::embedded) next_seq: u64,
}

/// A frame that was found sound, up to its bodies.
struct Found {
    header: Header,
    rows: Vec<Row>,
    segment: Arc<Segment>,
    at: u64,
}

impl Found {
    /// Whether the bodies match their checksums too.
    fn whole(&self) -> Result<bool> {
        for row in &self.rows {
            let record::Home::Inline { at, len, sum } = row.home else { continue };
            let at = self.at + self.header.bodies_at() + at;
            match self.segment.read(at, len as usize) {
                Ok(bytes) if body_sum(row.version, &bytes) == sum => {}
                Ok(_) | Err(EngineError::Corrupt(_)) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

/// What the log is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) enum Purpose {
    /// To go on from it: what is torn is wiped, and what was found is made durable.
    Start,
    /// To look: nothing is changed.
    Look,
}

/// Reads all slots, and hands every row behind `mark` to `take`, in the order of commits, with the
/// place where its frame's bodies begin.
pub(in crate::engine::embedded) fn recover(
    slots: Vec<Slot>,
    mark: CheckpointPosition,
    purpose: Purpose,
    mut take: impl FnMut(Row, &Arc<Segment>, u64),
) -> Result<Recovered> {
    let (mut used, mut spare) = (Vec::new(), Vec::new());
    let mut next_seq = mark.log_start;
    for slot in slots {
        let segment = Segment::new(0, slot);
        let seq = match first(&segment, mark)? {
            First::Of(seq) => Some(seq),
            First::Nothing => None,
            First::Torn => {
                if let Some(at) = later(&segment, mark, None, 0)? {
                    return Err(damaged(&segment, 0, at));
                }
                None
            }
        };
        next_seq = next_seq.max(seq.map_or(0, |seq| seq + 1));
        let Ok(segment) = Arc::try_unwrap(segment) else {
            return Err(EngineError::Failed("a segment of the log is in use".into()));
        };
        match seq {
            Some(seq) => used.push(segment.renumbered(seq)),
            None => spare.push(segment.into_slot()),
        }
    }
    used.sort_by_key(|segment| segment.seq);
    let mut last = mark.last_version;
    let mut held: Option<Found> = None;
    let mut emit = |found: Found| {
        let bodies = found.at + found.header.bodies_at();
        found.rows.into_iter().for_each(|row| take(row, &found.segment, bodies));
    };
    for (number, segment) in used.iter().enumerate() {
        let mut at = 0;
        while let Some((header, rows)) = read(segment, mark.salt, at)? {
            if header.segment != segment.seq {
                break;
            }
            if header.base != last {
                return Err(damaged(segment, at, at));
            }
            last = header.last;
            let found = Found { header, rows, segment: segment.clone(), at };
            at += header.frame_len();
            held.replace(found).into_iter().for_each(&mut emit);
        }
        if number + 1 == used.len() {
            if let Some(found) = later(segment, mark, Some(segment.seq), at)? {
                return Err(damaged(segment, at, found));
            }
            erase(segment, at, purpose)?;
        }
    }
    if let Some(found) = held {
        if found.whole()? {
            emit(found);
        } else {
            last = found.header.base;
            erase(&found.segment, found.at, purpose)?;
        }
    }
    if let Some(segment) = used.last().filter(|_| purpose == Purpose::Start) {
        // What a killed process wrote and did not sync is about to be shown to readers.
        segment.file().sync_data().map_err(|e| io_failed("sync the log", &e))?;
    }
    Ok(Recovered { live: used, spare, last, next_seq: next_seq + 1 })
}

fn damaged(segment: &Segment, at: u64, after: u64) -> EngineError {
    EngineError::Corrupt(format!(
        "the commit log is damaged: segment {} at byte {at}, before what follows at byte {after}; \
         keep a copy of the data directory as it is, and restore a backup",
        segment.seq
    ))
}

/// What a slot begins with.
enum First {
    /// A frame of this segment, which the database does not have yet.
    Of(u64),
    /// Zeros, or a frame that the database has.
    Nothing,
    /// Something else.
    Torn,
}

fn first(segment: &Segment, mark: CheckpointPosition) -> Result<First> {
    if let Some((header, _)) = read(segment, mark.salt, 0)? {
        let behind = header.segment >= mark.log_start;
        return Ok(if behind { First::Of(header.segment) } else { First::Nothing });
    }
    let mut start = [0; 16 * PAGE];
    let len = read_up_to(segment, 0, &mut start)?;
    let zero = start.get(..len).unwrap_or_default().iter().all(|byte| *byte == 0);
    Ok(if zero { First::Nothing } else { First::Torn })
}

/// Reads up to a buffer's length; less at the end of the file.
fn read_up_to(segment: &Segment, at: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        let read = segment.file().read_at(rest, at + len as u64);
        match read.map_err(|e| io_failed("read the log", &e))? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

/// The frame at a place, if there is one whose rows are sound.
fn read(segment: &Segment, salt: u32, at: u64) -> Result<Option<(Header, Vec<Row>)>> {
    let mut page = vec![0; PAGE];
    let len = read_up_to(segment, at, &mut page)?;
    page.truncate(len);
    let Some(header) = Header::parse(&page) else { return Ok(None) };
    let needed = HEADER + header.rows_len as usize;
    if needed > page.len() {
        let size = segment.file().metadata().map_err(|e| io_failed("read the log", &e))?.len();
        if at + needed as u64 > size {
            return Ok(None);
        }
        page = segment.read(at, needed)?;
    }
    Ok(record::rows(salt, &header, &page).map(|rows| (header, rows)))
}

/// The place of a sound frame of the segment `seq` (or of any that matters) behind `at`.
fn later(
    segment: &Segment,
    mark: CheckpointPosition,
    seq: Option<u64>,
    at: u64,
) -> Result<Option<u64>> {
    let mut chunk = vec![0; 256 * PAGE];
    let mut from = at;
    loop {
        let len = read_up_to(segment, from, &mut chunk)?;
        for (number, page) in chunk.get(..len).unwrap_or_default().chunks(PAGE).enumerate() {
            let place = from + (number * PAGE) as u64;
            let Some(header) = Header::parse(page).filter(|_| place > at) else { continue };
            let matters = match seq {
                Some(seq) => header.segment == seq,
                None => header.segment >= mark.log_start,
            };
            if matters && read(segment, mark.salt, place)?.is_some() {
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
pub(in crate::engine::embedded) fn remains(dir: &Path) -> Result<Option<PathBuf>> {
    if let Some(slot) = files(&dir.join("log"))?.pop() {
        return Ok(Some(slot));
    }
    for folder in files(&dir.join("blobs"))? {
        if let Some(blob) = files(&folder)?.pop() {
            return Ok(Some(blob));
        }
    }
    Ok(None)
}

/// What is in a folder; nothing when there is none.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    read.map_err(|e| io_failed("read the data directory", &e))
}

/// Wipes the start of what was torn, so that it is never met again.
fn erase(segment: &Segment, at: u64, purpose: Purpose) -> Result<()> {
    if purpose == Purpose::Look {
        return Ok(());
    }
    let mut page = [0; PAGE];
    let len = read_up_to(segment, at, &mut page)?;
    if page.get(..len).unwrap_or_default().iter().any(|byte| *byte != 0) {
        let zeros = vec![0; len];
        segment.file().write_all_at(&zeros, at).map_err(|e| io_failed("write the log", &e))?;
    }
    Ok(())
}

/// The bytes of an inline body.
pub(in crate::engine::embedded) fn body(
    segment: &Segment,
    at: u64,
    len: u32,
    version: u64,
    sum: u32,
) -> Result<Bytes> {
    let bytes = segment.read(at, len as usize)?;
    if body_sum(version, &bytes) != sum {
        let seq = segment.seq;
        return Err(EngineError::Corrupt(format!(
            "a body in segment {seq} of the log, at byte {at}, does not match its checksum"
        )));
    }
    Ok(Bytes::from(bytes))
}
