//! The maintenance thread: preallocates WAL segment files and deletes replaced and orphaned blob
//! files, so that this work does not block the writer and the checkpointer.

use super::Shared;
use super::blob_files::BlobFiles;
use super::wal::record::BodyLocation;
use rusqlite::{Connection, OptionalExtension};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};

pub(super) enum MaintenanceTask {
    /// Recycle and preallocate WAL segment files.
    AllocateSegments,
    /// Recycle and preallocate WAL segment files, and delete those that an idle server does not
    /// need.
    TrimSegments,
    /// Delete a blob file whose record was replaced or deleted.
    DeleteBlob(i64),
    /// Delete the blob files that no record refers to.
    DeleteOrphans,
}

/// Maximum number of deletions that wait for room in the queue of the maintenance thread.
const WAITING_DELETIONS_MAX: usize = 64 * 1024;

/// Blob files to be deleted by the maintenance thread. They are held here while its queue is full,
/// because a full queue must not delay the acknowledgement of a commit.
pub(super) struct BlobDeletions {
    tasks: SyncSender<MaintenanceTask>,
    waiting: VecDeque<i64>,
}

impl BlobDeletions {
    pub(super) fn new(tasks: SyncSender<MaintenanceTask>) -> BlobDeletions {
        BlobDeletions { tasks, waiting: VecDeque::new() }
    }

    pub(super) fn extend(&mut self, ids: impl IntoIterator<Item = i64>) {
        self.waiting.extend(ids);
    }

    /// Sends deletions while the queue has room. Blocks only if too many are waiting.
    pub(super) fn send(&mut self) {
        while let Some(id) = self.waiting.pop_front() {
            let task = MaintenanceTask::DeleteBlob(id);
            if self.waiting.len() >= WAITING_DELETIONS_MAX {
                let _ = self.tasks.send(task);
            } else if let Err(TrySendError::Full(_)) = self.tasks.try_send(task) {
                return self.waiting.push_front(id);
            }
        }
    }

    /// Sends all deletions, waiting for room in the queue.
    pub(super) fn send_all(&mut self) {
        for id in self.waiting.drain(..) {
            let _ = self.tasks.send(MaintenanceTask::DeleteBlob(id));
        }
    }
}

pub(super) struct Maintenance {
    pub(super) conn: Connection,
    pub(super) tasks: Receiver<MaintenanceTask>,
    pub(super) blobs: Arc<BlobFiles>,
    pub(super) shared: Arc<Shared>,
}

impl Maintenance {
    /// Runs until the writer and the checkpointer threads end.
    pub(super) fn run(self) {
        while let Ok(task) = self.tasks.recv() {
            match task {
                MaintenanceTask::AllocateSegments => self.replenish(true),
                MaintenanceTask::TrimSegments => self.replenish(false),
                MaintenanceTask::DeleteBlob(id) => self.blobs.delete(id),
                MaintenanceTask::DeleteOrphans => {
                    if let Err(e) = self.delete_orphans() {
                        tracing::warn!(error = %e, "could not delete orphaned blob files");
                    }
                }
            }
        }
    }

    fn replenish(&self, busy: bool) {
        // On a full disk, each refused write leads to another attempt.
        let was_full = self.shared.segments.is_full();
        match self.shared.segments.replenish(busy) {
            Err(e) if !was_full => {
                tracing::warn!(error = %e, "could not preallocate WAL segments");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn delete_orphans(&self) -> Result<(), Box<dyn std::error::Error>> {
        // Order matters: a blob is first staged, then in the memtable, then in the database, and is
        // removed from each only after it was added to the next.
        let mut orphans = self.blobs.list()?;
        orphans.retain(|id| !self.blobs.is_staged(*id));
        let referenced: HashSet<i64> = {
            let memtable = self.shared.memtable();
            let locations = memtable.after(None).filter_map(|(_, entry)| match entry.location {
                BodyLocation::Blob { id, .. } => Some(id),
                BodyLocation::Removed | BodyLocation::Empty | BodyLocation::Inline { .. } => None,
            });
            locations.collect()
        };
        orphans.retain(|id| !referenced.contains(id));
        let mut deleted = 0_u64;
        for id in orphans {
            let mut find = self.conn.prepare_cached("SELECT 1 FROM blobs WHERE id = ?1")?;
            if find.query_row([id], |_| Ok(())).optional()?.is_none() {
                self.blobs.delete(id);
                deleted += 1;
            }
        }
        if deleted > 0 {
            tracing::info!(files = deleted, "deleted orphaned blob files");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::stepped_engine::SteppedEngine;
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;
    use std::sync::mpsc::sync_channel;

    const MIB: u64 = 1 << 20;

    /// Opens a data directory whose free segment files have these sizes in MiB, and sets the size
    /// of new files to 12 MiB.
    fn engine_with_files(dir: &Path, sizes: &[u64]) -> SteppedEngine {
        fs::create_dir_all(dir.join("log")).unwrap();
        drop(SteppedEngine::open(dir, u64::MAX));
        for (number, size) in (1..).zip(sizes) {
            let file = File::create(dir.join(format!("log/slot-{number:04}"))).unwrap();
            file.set_len(size * MIB).unwrap();
        }
        let engine = SteppedEngine::open(dir, u64::MAX);
        engine.shared.segments.adapt_segment_bytes(64 * 12 * MIB, 1000, 96 * MIB);
        engine
    }

    /// Returns the sizes of the segment files in MiB, in ascending order.
    fn sizes(dir: &Path) -> Vec<u64> {
        let files = fs::read_dir(dir.join("log")).unwrap();
        let mut sizes: Vec<_> =
            files.map(|file| file.unwrap().metadata().unwrap().len() / MIB).collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn free_segment_files_of_unsuitable_size_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine_with_files(dir.path(), &[0, 8, 8, 10, 129]);
        engine.shared.segments.replenish(true).unwrap();
        assert_eq!(sizes(dir.path()), [10, 12, 12, 12]);
    }

    #[test]
    fn free_segment_files_of_unsuitable_size_are_kept_until_they_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine_with_files(dir.path(), &[0, 8, 8, 8, 8, 9]);
        let (log, moved) = (dir.path().join("log"), dir.path().join("moved"));
        fs::rename(&log, &moved).unwrap();
        engine.shared.segments.replenish(true).unwrap_err();
        // The smaller files are allocated first, so the reserved file is the largest one.
        for seq in 1..=2 {
            assert_eq!(engine.shared.segments.allocate(seq).unwrap().disk_bytes() / MIB, 8);
            engine.shared.segments.replenish(true).unwrap_err();
        }
        assert!(!engine.shared.segments.has_preallocated());
        let reserved = engine.shared.segments.allocate_reserved(3, true).unwrap();
        assert_eq!(reserved.disk_bytes() / MIB, 9);
    }

    #[test]
    fn deletions_do_not_block_while_the_queue_is_full() {
        let (tasks, queue) = sync_channel(2);
        let mut deletions = BlobDeletions::new(tasks);
        deletions.extend(0..10);
        let received = |queue: &Receiver<MaintenanceTask>| {
            let id = |task| if let MaintenanceTask::DeleteBlob(id) = task { id } else { -1 };
            queue.try_iter().map(id).collect::<Vec<_>>()
        };
        deletions.send();
        assert_eq!(received(&queue), [0, 1]);
        deletions.send();
        deletions.send();
        assert_eq!(received(&queue), [2, 3]);
        let sender = std::thread::spawn(move || deletions.send_all());
        assert_eq!(queue.iter().count(), 6);
        sender.join().unwrap();
    }
}
