//! The keeper: a thread for what would otherwise hold up the writer or the folder. It makes files
//! for the log ahead of their use, removes files that lost their record, and after the start
//! sweeps the files that no record ever named.

use super::Shared;
use super::blob_files::BlobFiles;
use super::wal::record::BodyLocation;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// What the keeper is asked to do.
pub(super) enum MaintenanceTask {
    /// Have files ready for the log.
    AllocateSegments,
    /// Give back the files that the log does not need while nothing happens.
    TrimSegments,
    /// Remove a blob file.
    DeleteBlob(i64),
    /// Remove the blob files that no record names.
    DeleteOrphans,
}

/// What the keeper thread owns.
pub(super) struct Maintenance {
    pub(super) conn: Connection,
    pub(super) tasks: Receiver<MaintenanceTask>,
    pub(super) blobs: Arc<BlobFiles>,
    pub(super) shared: Arc<Shared>,
}

impl Maintenance {
    /// Serves until the writer and the folder are gone.
    pub(super) fn run(self) {
        while let Ok(task) = self.tasks.recv() {
            match task {
                MaintenanceTask::AllocateSegments => self.replenish(true),
                MaintenanceTask::TrimSegments => self.replenish(false),
                MaintenanceTask::DeleteBlob(id) => self.blobs.delete(id),
                MaintenanceTask::DeleteOrphans => {
                    if let Err(e) = self.sweep() {
                        tracing::warn!(error = %e, "blob files without a record stay for now");
                    }
                }
            }
        }
    }

    fn replenish(&self, busy: bool) {
        if let Err(e) = self.shared.segments.replenish(busy) {
            tracing::warn!(error = %e, "no files could be made for the log ahead of their use");
        }
    }

    fn sweep(&self) -> Result<(), Box<dyn std::error::Error>> {
        // In this order: a blob is staged, then named by the overlay, then by the database, and
        // leaves each only once it is in the next.
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
            let mut referenced = self.conn.prepare_cached("SELECT 1 FROM blobs WHERE id = ?1")?;
            if referenced.query_row([id], |_| Ok(())).optional()?.is_none() {
                self.blobs.delete(id);
                deleted += 1;
            }
        }
        if deleted > 0 {
            tracing::info!(files = deleted, "removed blob files that no record names");
        }
        Ok(())
    }
}
