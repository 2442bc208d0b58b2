//! WAL recovery: reads the segments on open and replays the commits that the database lacks.
//!
//! A record is written only after the previous one was fsynced, and stores the last version of the
//! previous one. A crash can therefore tear only the last record, which was never acknowledged;
//! recovery discards it. A write that fails because the disk is full may also leave part of a
//! record. If the next record is in another segment, it does not overwrite this part. Both records
//! then name the same preceding version (their base), and recovery discards the first one, which
//! was abandoned. Any other gap is damage to acknowledged commits, and recovery fails.
//!
//! If a body in the last record is damaged, but the database proves that the record was fsynced,
//! then the record is damaged rather than torn. Recovery replays it, so that only the damaged
//! bodies are lost.

use super::super::blob_files::io_error;
use super::super::database::{
    BodyRef, CheckpointPosition, SegmentLocation, SegmentRow, body_checksum,
};
use super::super::parallel;
use super::super::{EngineError, Result};
use super::record::{self, BodyLocation, HEADER_BYTES, PAGE_BYTES, RecordHeader, WalEntry};
use super::segment::{Segment, SegmentFile};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Maximum total size of the entries read by a search for a record, in bytes, not counting those
/// that fit into a page with their header. Values may contain any number of plausible headers.
const SEARCHED_BYTES_MAX: u64 = 256 << 20;

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

/// The sealed segments of a data directory. Recovery does not replay them.
#[derive(Default)]
pub(crate) struct SealedSegments {
    /// The sealed segments that have a file, oldest first.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The rows of sealed segments whose file is missing.
    pub(crate) missing: Vec<SegmentRow>,
}

impl SealedSegments {
    /// Moves the files of sealed segments out of `files` without reading them. Damage to such a
    /// file affects only the bodies in it, and the checksums of the bodies detect the damage.
    /// `rows` are the rows of the table `segments`. Even after a power failure, the table has no
    /// row for a segment whose file may have been overwritten.
    ///
    /// # Errors
    /// Returns [`EngineError::Corrupt`] if there are no files although there were commits.
    pub(crate) fn split_off(
        files: &mut Vec<SegmentFile>,
        rows: &[SegmentRow],
        position: CheckpointPosition,
    ) -> Result<SealedSegments> {
        // The first file is created before the first commit, and at least one file exists from then
        // on.
        if files.is_empty() && (position.wal_end > 0 || position.last_version > 0) {
            return Err(missing("all segment files are"));
        }
        let mut by_number: BTreeMap<u64, SegmentFile> =
            std::mem::take(files).into_iter().map(|file| (file.number(), file)).collect();
        let mut sealed = SealedSegments::default();
        for row in rows.iter().filter(|row| row.seq < position.first_segment) {
            match by_number.remove(&row.file) {
                Some(file) => sealed.segments.push(Segment::new(row.seq, file)),
                None => sealed.missing.push(*row),
            }
        }
        files.extend(by_number.into_values());
        Ok(sealed)
    }
}

/// Logs an error for each missing segment.
pub(crate) fn log_missing<'r>(rows: impl IntoIterator<Item = &'r SegmentRow>) {
    for SegmentRow { seq, file, live } in rows {
        tracing::error!(
            segment = seq,
            file = format!("log/slot-{file:04}"),
            lost_bytes = live,
            "a WAL segment that contains values is missing; restore its file or a backup"
        );
    }
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

    /// Returns whether the database proves that the record was fsynced. The database refers only to
    /// fsynced records, and counts a segment as one with commits only after its first record was
    /// fsynced.
    fn is_durable(
        &self,
        position: CheckpointPosition,
        is_in_db: impl Fn(&WalEntry, BodyRef) -> Result<bool>,
    ) -> Result<bool> {
        if self.at == 0 && self.segment.seq + 1 == position.wal_end {
            return Ok(true);
        }
        for entry in &self.entries {
            let body = match entry.location {
                BodyLocation::Removed => continue,
                BodyLocation::Empty => BodyRef::Empty,
                BodyLocation::Blob { id, .. } => BodyRef::Blob(id),
                BodyLocation::Inline { at, len, checksum } => {
                    let at = self.at + self.header.bodies_offset() + at;
                    BodyRef::Segment(SegmentLocation { seq: self.segment.seq, at, len, checksum })
                }
            };
            if is_in_db(entry, body)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Discards the record: erases it, and ends the segment before it.
    fn discard(&self, mode: RecoveryMode) -> Result<()> {
        self.segment.set_end(self.at);
        erase(&self.segment, self.at, mode)
    }
}

/// Whether recovery may modify the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecoveryMode {
    /// Erases a torn record and fsyncs everything else, so that writing can continue.
    ReadWrite,
    /// Modifies nothing.
    ReadOnly,
    /// Modifies nothing, and accepts that the newest segments are missing.
    Incomplete,
}

/// Reads the live segments and the free files, and passes each entry after `position` to `visit`,
/// in commit order, with its segment and the offset of its WAL record's bodies section. `is_in_db`
/// returns whether the database has the version of the record of an entry, with the same body.
///
/// # Errors
/// Returns [`EngineError::Corrupt`] if an acknowledged commit is damaged or missing.
pub(crate) fn recover(
    files: Vec<SegmentFile>,
    position: CheckpointPosition,
    mode: RecoveryMode,
    is_in_db: impl Fn(&WalEntry, BodyRef) -> Result<bool>,
    mut visit: impl FnMut(WalEntry, &Arc<Segment>, u64),
) -> Result<RecoveredWal> {
    let (mut live, mut free, next_seq) = partition(files, position)?;
    if mode != RecoveryMode::Incomplete {
        ensure_newest_known(&live, position)?;
    }
    let mut replay = |record: RecoveredRecord| {
        let bodies_offset = record.at + record.header.bodies_offset();
        record.entries.into_iter().for_each(|entry| visit(entry, &record.segment, bodies_offset));
    };
    let (newest, abandoned) = read_records(&live, position, &mut replay)?;
    for record in abandoned {
        // The erasure must be durable before that of a torn record after it. Otherwise, the next
        // start could mistake the abandoned record for the last one.
        record.discard(mode)?;
        sync(&record.segment, mode)?;
    }
    if let Some(segment) = live.last() {
        erase(segment, segment.end(), mode)?;
    }
    let mut last_version = position.last_version;
    if let Some(record) = newest {
        let is_intact = record.bodies_intact()?;
        if is_intact || record.is_durable(position, is_in_db)? {
            if !is_intact {
                let (segment, at) = (record.segment.seq, record.at);
                tracing::error!(segment, at, "a WAL record contains damaged values");
            }
            last_version = record.header.last;
            replay(record);
        } else {
            last_version = record.header.base;
            record.discard(mode)?;
        }
    }
    if let Some(segment) = live.last() {
        // A killed process may have written records without fsyncing them. The erasure of a torn
        // record must be durable as well.
        sync(segment, mode)?;
    }
    // The next start would not find segments without records, so none of them must be recorded as
    // the newest.
    while let Some(segment) = live.pop_if(|segment| segment.end() == 0) {
        free.extend(Arc::try_unwrap(segment).map(Segment::into_file));
    }
    Ok(RecoveredWal { live, free, last_version, next_seq: next_seq + 1 })
}

/// Reads all records and passes them to `replay`, except the last one, which may be torn, and those
/// that were abandoned. Returns these. Sets the ends of the segments.
fn read_records(
    live: &[Arc<Segment>],
    position: CheckpointPosition,
    mut replay: impl FnMut(RecoveredRecord),
) -> Result<(Option<RecoveredRecord>, Vec<RecoveredRecord>)> {
    let mut last_version = position.last_version;
    let (mut newest, mut abandoned): (Option<RecoveredRecord>, _) = (None, Vec::new());
    for segments in live.chunks(parallel::threads()) {
        let read = |segment| read_segment(segment, position.salt);
        let records = parallel::map(segments.iter().collect(), read);
        for (segment, records) in segments.iter().zip(records) {
            let mut end = 0;
            for record in records? {
                let (RecordHeader { base, last, .. }, at) = (record.header, record.at);
                if base != last_version {
                    let is_abandoned = |newest: &mut RecoveredRecord| newest.header.base == base;
                    let skipped = newest.take_if(is_abandoned);
                    abandoned.push(skipped.ok_or_else(|| corruption(segment, at, at))?);
                }
                (last_version, end) = (last, at + record.header.disk_len());
                newest.replace(record).into_iter().for_each(&mut replay);
            }
            segment.set_end(end);
        }
    }
    if let Some(segment) = live.last() {
        let is_of_segment = |header: &RecordHeader| header.segment == segment.seq;
        let after = find_record_after(segment, position.salt, segment.end(), is_of_segment)?;
        if let Some(after) = after {
            return Err(corruption(segment, segment.end(), after));
        }
    }
    Ok((newest, abandoned))
}

/// Reads the records of a segment up to the first one that is damaged, torn, or left from an
/// earlier use of the file.
fn read_segment(segment: &Arc<Segment>, salt: u32) -> Result<Vec<RecoveredRecord>> {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some((header, entries)) = read_record(segment, salt, at)? {
        if header.segment != segment.seq {
            break;
        }
        records.push(RecoveredRecord { header, entries, segment: segment.clone(), at });
        at += header.disk_len();
    }
    Ok(records)
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
                let is_live = |header: &RecordHeader| header.segment >= position.first_segment;
                if let Some(at) = find_record_after(&segment, position.salt, 0, is_live)? {
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
    /// A WAL record that is not checkpointed, and the sequence number of its segment.
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

/// Returns the first intact record of a segment at or after offset `at`, with its offset.
pub(crate) fn next_record(
    segment: &Segment,
    salt: u32,
    at: u64,
) -> Result<Option<(u64, RecordHeader, Vec<WalEntry>)>> {
    if (1..=at).contains(&segment.end()) {
        return Ok(None);
    }
    let is_of_segment = |header: &RecordHeader| header.segment == segment.seq;
    let read = |at| -> Result<_> {
        let record = read_record(segment, salt, at)?;
        let record = record.filter(|(header, _)| is_of_segment(header));
        Ok(record.map(|(header, entries)| (at, header, entries)))
    };
    if let Some(record) = read(at)? {
        return Ok(Some(record));
    }
    // The segment has no more records, or the record at `at` is damaged.
    match find_record_after(segment, salt, at, is_of_segment)? {
        Some(at) => read(at),
        None => Ok(None),
    }
}

/// Finds the offset of an intact record after `at` whose header passes `filter`. May miss a record
/// with more than a page of entries after many headers without a record.
fn find_record_after(
    segment: &Segment,
    salt: u32,
    at: u64,
    filter: impl Fn(&RecordHeader) -> bool,
) -> Result<Option<u64>> {
    let mut chunk = vec![0; 256 * PAGE_BYTES];
    let (mut from, mut searched) = (at, 0);
    loop {
        let len = read_up_to(segment, from, &mut chunk)?;
        for (number, page) in chunk.get(..len).unwrap_or_default().chunks(PAGE_BYTES).enumerate() {
            let offset = from + (number * PAGE_BYTES) as u64;
            let header = RecordHeader::parse(page).filter(|_| offset > at);
            let Some(header) = header.filter(&filter) else { continue };
            let bytes = header.bodies_offset();
            if bytes > PAGE_BYTES as u64 {
                if searched >= SEARCHED_BYTES_MAX {
                    continue;
                }
                searched += bytes;
            }
            if read_record(segment, salt, offset)?.is_some() {
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
    if mode != RecoveryMode::ReadWrite {
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

fn sync(segment: &Segment, mode: RecoveryMode) -> Result<()> {
    if mode != RecoveryMode::ReadWrite {
        return Ok(());
    }
    segment.file().sync_data().map_err(|e| io_error("fsync the WAL", &e))
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

/// Reads the body at a location stored in the database and verifies its checksum.
pub(crate) fn read_located(
    segment: &Segment,
    location: SegmentLocation,
    version: u64,
) -> Result<Bytes> {
    let SegmentLocation { at, len, checksum, .. } = location;
    read_body(segment, at, len, version, checksum)
}
