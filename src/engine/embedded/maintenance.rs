//! The keeper: a thread for what would otherwise hold up the writer or the folder. It makes files
//! for the log ahead of their use, removes files that lost their record, and after the start
//! sweeps the files that no record ever named.

use super::Shared;
use super::blob_files::Blobs;
use super::wal::record::Home;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// What the keeper is asked to do.
pub(super) enum Chore {
    /// Have files ready for the log.
    Prepare,
    /// Give back the files that the log does not need while nothing happens.
    Settle,
    /// Remove a blob file.
    Unlink(i64),
    /// Remove the blob files that no record names.
    Sweep,
}

/// What the keeper thread owns.
pub(super) struct Keeper {
    pub(super) conn: Connection,
    pub(super) chores: Receiver<Chore>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) shared: Arc<Shared>,
}

impl Keeper {
    /// Serves until the writer and the folder are gone.
    pub(super) fn run(self) {
        while let Ok(chore) = self.chores.recv() {
            match chore {
                Chore::Prepare => self.prepare(true),
                Chore::Settle => self.prepare(false),
                Chore::Unlink(id) => self.blobs.drop_committed(id),
                Chore::Sweep => {
                    if let Err(e) = self.sweep() {
                        tracing::warn!(error = %e, "blob files without a record stay for now");
                    }
                }
            }
        }
    }

    fn prepare(&self, busy: bool) {
        if let Err(e) = self.shared.slots.prepare(busy) {
            tracing::warn!(error = %e, "no files could be made for the log ahead of their use");
        }
    }

    fn sweep(&self) -> Result<(), Box<dyn std::error::Error>> {
        // In this order: a blob is staged, then named by the overlay, then by the database, and
        // leaves each only once it is in the next.
        let mut orphans = self.blobs.list()?;
        orphans.retain(|id| !self.blobs.is_staged(*id));
        let named: HashSet<i64> = {
            let overlay = self.shared.overlay();
            let homes = overlay.after(None).filter_map(|(_, entry)| match entry.home {
                Home::Blob { id, .. } => Some(id),
                Home::Removed | Home::Empty | Home::Inline { .. } => None,
            });
            homes.collect()
        };
        orphans.retain(|id| !named.contains(id));
        let mut swept = 0_u64;
        for id in orphans {
            let mut named = self.conn.prepare_cached("SELECT 1 FROM blobs WHERE id = ?1")?;
            if named.query_row([id], |_| Ok(())).optional()?.is_none() {
                self.blobs.drop_committed(id);
                swept += 1;
            }
        }
        if swept > 0 {
            tracing::info!(files = swept, "removed blob files that no record names");
        }
        Ok(())
    }
}
