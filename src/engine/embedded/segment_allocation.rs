//! Allocation of the segments to which the writer appends WAL records.

use super::super::{EngineError, Result};
use super::maintenance::MaintenanceTask;
use super::wal::segment::Segment;
use super::writer::Writer;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Minimum time between two attempts to create a file of full size, if the first attempt failed.
/// Each attempt fills the rest of the disk, which a checkpoint may need, and delays the writer.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The segment to which the writer appends WAL records.
pub(super) struct ActiveSegment {
    pub(super) segment: Arc<Segment>,
    /// Offset of the end of the last WAL record, in bytes.
    pub(super) end: u64,
    /// Whether the file of the segment was reserved for relocations. Commits must not use such a
    /// file.
    pub(super) is_reserved: bool,
}

/// The purpose of a WAL record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Commits,
    Relocations,
    /// Relocations on a full disk, which use a reserved segment file.
    ReservedRelocations,
}

impl Writer {
    /// Returns a segment with room for `len` bytes, and the offset to write at.
    pub(super) fn segment_with_room(
        &mut self,
        len: u64,
        purpose: Purpose,
    ) -> Result<(Arc<Segment>, u64)> {
        let segments = &self.shared.segments;
        if let Some(ActiveSegment { segment, end, is_reserved }) = &self.active {
            let is_permitted = match purpose {
                Purpose::Commits => !is_reserved,
                Purpose::Relocations => true,
                Purpose::ReservedRelocations => *is_reserved,
            };
            // The writer switches from a segment that is not preallocated as soon as a preallocated
            // one is free.
            let is_best = segment.is_preallocated() || !segments.has_preallocated();
            if segment.has_room(*end, len) && is_permitted && is_best {
                return Ok((segment.clone(), *end));
            }
        }
        let was_reserved = self.active.as_ref().is_some_and(|active| active.is_reserved);
        let segment = match purpose {
            Purpose::ReservedRelocations => segments.allocate_reserved(self.next_seq)?,
            // After a reserved segment, allocates a file of full size. On a full disk this fails
            // immediately, whereas an empty file could be created but not filled.
            Purpose::Commits if was_reserved && !segments.has_preallocated() => {
                self.allocate_full_size()?
            }
            Purpose::Commits | Purpose::Relocations => segments.allocate(self.next_seq)?,
        };
        self.rotate();
        self.next_seq += 1;
        let is_reserved = purpose == Purpose::ReservedRelocations;
        self.active = Some(ActiveSegment { segment: segment.clone(), end: 0, is_reserved });
        let _ = self.maintenance.try_send(MaintenanceTask::AllocateSegments);
        Ok((segment, 0))
    }

    /// Allocates a segment from a new file of full size. If the last attempt failed recently,
    /// returns its error.
    fn allocate_full_size(&mut self) -> Result<Arc<Segment>> {
        if let Some((failed_at, e)) = &self.failed_allocation
            && failed_at.elapsed() < RETRY_INTERVAL
        {
            return Err(e.clone());
        }
        let segments = &self.shared.segments;
        let log = self.shared.dir.path().join("log");
        let allocated = ensure_available(&log, segments.segment_bytes())
            .and_then(|()| segments.allocate_new(self.next_seq));
        self.failed_allocation = allocated.as_ref().err().map(|e| (Instant::now(), e.clone()));
        allocated
    }
}

/// Fails if the file system of a directory has fewer than `bytes` bytes available. Has no effect if
/// the file system does not report its size. A quota may still prevent the allocation.
pub(super) fn ensure_available(dir: &Path, bytes: u64) -> Result<()> {
    let Ok(found) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    if found.f_blocks > 0 && available < bytes {
        let problem = format!("a WAL segment needs {bytes} bytes, but {available} are available");
        return Err(EngineError::Full(problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::stepped_engine::SteppedEngine;
    use super::*;
    use std::fs;
    use std::sync::mpsc::sync_channel;

    /// Returns a writer that has used the last reserved file.
    fn writer_after_reserved_segment(engine: &SteppedEngine) -> Writer {
        engine.shared.segments.ensure_file().unwrap();
        let mut writer = engine.writer(sync_channel(1).1);
        writer.segment_with_room(1, Purpose::ReservedRelocations).unwrap();
        assert!(writer.active.as_ref().is_some_and(|active| active.is_reserved));
        writer
    }

    #[test]
    fn a_failed_allocation_for_commits_is_not_repeated_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SteppedEngine::open(dir.path(), 1 << 20);
        let mut writer = writer_after_reserved_segment(&engine);
        let (log, moved) = (dir.path().join("log"), dir.path().join("moved"));
        fs::rename(&log, &moved).unwrap();
        writer.segment_with_room(1, Purpose::Commits).unwrap_err();
        fs::rename(&moved, &log).unwrap();
        writer.segment_with_room(1, Purpose::Commits).unwrap_err();
        assert_eq!(fs::read_dir(&log).unwrap().count(), 1);
        let (failed_at, _) = writer.failed_allocation.as_mut().unwrap();
        *failed_at = failed_at.checked_sub(RETRY_INTERVAL).unwrap();
        writer.segment_with_room(1, Purpose::Commits).unwrap();
        assert_eq!(fs::read_dir(&log).unwrap().count(), 2);
    }

    #[test]
    fn a_file_larger_than_the_available_space_is_not_allocated() {
        let dir = tempfile::tempdir().unwrap();
        ensure_available(dir.path(), 1).unwrap();
        let e = ensure_available(dir.path(), u64::MAX).unwrap_err();
        assert!(matches!(e, EngineError::Full(_)), "{e}");
    }
}
