//! Allocation of the segments to which the writer appends WAL records.

use super::super::Result;
use super::maintenance::MaintenanceTask;
use super::wal::segment::Segment;
use super::writer::Writer;
use std::sync::Arc;

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
            // one is free, or the disk is full.
            let is_best =
                segment.is_preallocated() || !segments.has_preallocated() && !segments.is_full();
            if segment.has_room(*end, len) && is_permitted && is_best {
                return Ok((segment.clone(), *end));
            }
        }
        let allocated = match purpose {
            Purpose::ReservedRelocations => {
                segments.allocate_reserved(self.next_seq, self.shared.is_checkpointed())
            }
            Purpose::Commits | Purpose::Relocations => segments.allocate(self.next_seq),
        };
        // If there is space again, the maintenance thread creates a file for the next attempt.
        let segment = allocated.inspect_err(|_| {
            let _ = self.maintenance.try_send(MaintenanceTask::AllocateSegments);
        })?;
        self.rotate();
        self.next_seq += 1;
        let is_reserved = purpose == Purpose::ReservedRelocations;
        self.active = Some(ActiveSegment { segment: segment.clone(), end: 0, is_reserved });
        let _ = self.maintenance.try_send(MaintenanceTask::AllocateSegments);
        Ok((segment, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::stepped_engine::SteppedEngine;
    use super::*;
    use std::fs;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn on_a_full_disk_commits_use_no_reserved_file_and_create_none() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SteppedEngine::open(dir.path(), 1 << 20);
        let segments = &engine.shared.segments;
        segments.replenish(true).unwrap();
        let files = || fs::read_dir(dir.path().join("log")).unwrap().count();
        let initial = files();
        segments.report_full();
        let mut writer = engine.writer(sync_channel(1).1);
        for _ in 2..initial {
            writer.segment_with_room(1, Purpose::Commits).unwrap();
            writer.active = None;
        }
        writer.segment_with_room(1, Purpose::Commits).unwrap_err();
        writer.segment_with_room(1, Purpose::ReservedRelocations).unwrap();
        assert!(writer.active.as_ref().is_some_and(|active| active.is_reserved));
        writer.segment_with_room(1, Purpose::Commits).unwrap_err();
        assert!(segments.release_reserve().unwrap());
        assert!(!segments.release_reserve().unwrap());
        assert_eq!(files(), initial - 1);
        segments.replenish(true).unwrap();
        assert!(!segments.is_full());
        writer.segment_with_room(1, Purpose::Commits).unwrap();
        assert!(segments.release_reserve().unwrap());
    }
}
