//! The segments and free files of a [`SegmentPool`](super::segment::SegmentPool).

#[cfg(doc)]
use super::super::database::SegmentRow;
use super::segment::{Segment, SegmentFile};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Number of preallocated files that are reserved for a full disk. One is used by garbage
/// collection, which needs space to free space. The other one is deleted if the database cannot
/// grow, because a checkpoint needs space to retire segments.
pub(super) const RESERVED_FILES: usize = 2;

/// The state of a pool.
#[derive(Debug, Default)]
pub(super) struct PoolState {
    /// Segments with commits that are not checkpointed yet, the oldest first; the last one is
    /// active.
    pub(super) live: Vec<Arc<Segment>>,
    /// Checkpointed segments that records in the database refer to, by sequence number.
    pub(super) sealed: BTreeMap<u64, Arc<Segment>>,
    /// Live bytes by sequence number, as committed in the table `segments`; see
    /// [`SegmentRow::live`]. Segments that no record in the database refers to are absent.
    pub(super) live_bytes: BTreeMap<u64, u64>,
    /// Checkpointed segments that no record in the database refers to, but that readers may still
    /// use.
    pub(super) retired: Vec<Arc<Segment>>,
    /// Files without a segment, in ascending order of their size. Writes use small files first, so
    /// that large ones remain in reserve.
    pub(super) free: Vec<SegmentFile>,
    /// Whether the disk is full: a file could not be created or extended, and has not been created
    /// since.
    pub(super) is_full: bool,
    /// Whether the last allocation for commits failed because the disk is full.
    pub(super) was_refused: bool,
    /// Room in the active segment in bytes, if that is a reserved one.
    pub(super) reserved_room: u64,
    /// Whether a reserved file was deleted and has not been replaced.
    pub(super) is_reserve_released: bool,
    /// Time of the next attempt to create a file, if the last one failed although enough space
    /// seemed to be available.
    pub(super) retry_at: Option<Instant>,
}

impl PoolState {
    /// Returns the number of free preallocated files.
    pub(super) fn preallocated(&self) -> usize {
        self.free.iter().filter(|file| file.is_preallocated()).count()
    }

    /// Returns whether there is a free preallocated file that is not reserved.
    pub(super) fn has_preallocated(&self) -> bool {
        self.preallocated() > RESERVED_FILES
    }

    /// Returns the number of free preallocated files that garbage collection must not use.
    /// `is_checkpointed` states whether there is nothing to checkpoint.
    pub(super) fn reserved_for_database(&self, is_checkpointed: bool) -> usize {
        // If kills left a single file, the checkpoint may need it, and comes first. A checkpoint of
        // relocations alone overwrites rows, so the database does not grow.
        let needs_file = self.preallocated() > 1 || !is_checkpointed;
        usize::from(!self.is_reserve_released && needs_file)
    }

    /// Adds a free file. Of files of the same size, the one that has been free for the longest time
    /// is used first.
    pub(super) fn add_free(&mut self, file: SegmentFile) {
        let at = self.free.partition_point(|other| other.len <= file.len);
        self.free.insert(at, file);
    }

    /// Records whether the disk is full, and whether a reserved file that was deleted has been
    /// replaced.
    pub(super) fn end_release(&mut self, is_full: bool) {
        self.is_full = is_full;
        self.is_reserve_released &= self.preallocated() < RESERVED_FILES;
    }

    /// Removes and returns the smallest free preallocated file if there are more than `kept`.
    pub(super) fn take_preallocated(&mut self, kept: usize) -> Option<SegmentFile> {
        if self.preallocated() > kept { self.take_free(SegmentFile::is_preallocated) } else { None }
    }

    /// Removes and returns the largest free preallocated file if there are more than `kept`.
    pub(super) fn take_largest_preallocated(&mut self, kept: usize) -> Option<SegmentFile> {
        if self.preallocated() > kept { self.free.pop() } else { None }
    }

    /// Removes and returns the smallest free file that passes `filter`.
    pub(super) fn take_free(
        &mut self,
        filter: impl Fn(&SegmentFile) -> bool,
    ) -> Option<SegmentFile> {
        let at = self.free.iter().position(filter)?;
        Some(self.free.remove(at))
    }

    /// Moves up to `count` free files that pass `filter` to `taken`, the smallest first.
    pub(super) fn take_up_to(
        &mut self,
        count: usize,
        filter: impl Fn(&SegmentFile) -> bool,
        taken: &mut Vec<SegmentFile>,
    ) {
        taken.extend((0..count).map_while(|_| self.take_free(&filter)));
    }
}
