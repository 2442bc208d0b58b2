//! The keeper: a thread for what would otherwise hold up the writer. It folds the log into the
//! database while commits go on, removes files that lost their record, and after the start sweeps
//! the files that no record ever named.

use super::Fatal;
use super::blobs::Blobs;
use super::writer::checkpoint;
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// What the keeper is asked to do.
pub(super) enum Chore {
    /// Fold the log as far as readers allow.
    Fold,
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
    pub(super) fatal: Fatal,
}

impl Keeper {
    /// Serves until the writer is gone.
    pub(super) fn run(self) {
        while let Ok(chore) = self.chores.recv() {
            match chore {
                Chore::Fold => self.fold(),
                Chore::Unlink(id) => self.blobs.remove(id),
                Chore::Sweep => {
                    if let Err(e) = self.sweep() {
                        tracing::warn!(error = %e, "blob files without a record stay for now");
                    }
                }
            }
        }
    }

    fn fold(&self) {
        match checkpoint(&self.conn, "PASSIVE") {
            Ok(_) => {}
            // A sync that failed here leaves pages of which nobody knows whether they are durable.
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => {
                self.fatal.stop(&format!("could not fold the log: {e}"));
            }
            Err(e) => tracing::warn!(error = %e, "the log could not be folded"),
        }
    }

    fn sweep(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut swept = 0_u64;
        for id in self.blobs.list()? {
            // In this order: a blob leaves the staged ones only once its record can be read.
            if self.blobs.is_staged(id) {
                continue;
            }
            let mut named = self.conn.prepare_cached("SELECT 1 FROM blobs WHERE id = ?1")?;
            if named.query_row([id], |_| Ok(())).optional()?.is_none() {
                self.blobs.remove(id);
                swept += 1;
            }
        }
        if swept > 0 {
            tracing::info!(files = swept, "removed blob files that no record names");
        }
        Ok(())
    }
}
