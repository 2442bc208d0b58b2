//! The maintenance thread: preallocates WAL segment files and deletes replaced and orphaned blob
//! files, so that the writer and the checkpointer do not block on it.

use super::Shared;
use super::blob_files::BlobFiles;
use super::wal::record::BodyLocation;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

pub(super) enum MaintenanceTask {
    /// Recycle and preallocate WAL segment files.
    AllocateSegments,
    /// The same, and delete files that an idle server does not need.
    TrimSegments,
    /// Delete a blob file whose record was replaced or deleted.
    DeleteBlob(i64),
    /// Delete the blob files that no record refers to.
    DeleteOrphans,
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
        if let Err(e) = self.shared.segments.replenish(busy) {
            tracing::warn!(error = %e, "could not preallocate WAL segments");
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
