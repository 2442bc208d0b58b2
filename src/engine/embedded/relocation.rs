//! Relocations: the checkpointer moves bodies of records in the database to the end of the WAL, to
//! free the segment or the row of `bodies` they are in. The records keep their versions.
//!
//! A relocation is an ordinary entry of a WAL record, and enters the memtable like a commit; the
//! next checkpoint stores the new location. It must not revive a record that was replaced or
//! deleted:
//!
//! - The checkpointer finds the records to move in the database, and waits for the writer. The
//!   database changes only in checkpoint steps, which the same thread runs. So when the writer
//!   handles the request, a record found in the database is the newest one of its key, unless the
//!   memtable has an entry for the key.
//! - The writer drops the relocation of a key that has an entry in the memtable. It handles one
//!   command at a time, so no commit comes between this check and the relocation.
//! - If the checkpointer gives up waiting, the writer does not handle the request later: only one
//!   of the two can claim it.
//! - In the WAL, the relocation follows the commit of the record, and precedes every later commit
//!   to the key. Recovery replays them in this order.

use super::super::Result;
use super::checkpoint::Checkpointer;
use super::writer::WriterCommand;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Limits of one request: number of records, and size of their bodies. Commits wait meanwhile.
pub(super) const RECORDS_MAX: usize = 256;
pub(super) const BYTES_MAX: usize = 512 << 10;
/// Interval between checks for a stalled writer.
const POLL: Duration = Duration::from_millis(10);

/// A record of the database whose body is to be moved.
#[derive(Debug)]
pub(super) struct Relocation {
    pub(super) key: Bytes,
    pub(super) version: u64,
    pub(super) expires_at: u64,
    pub(super) meta: Bytes,
    /// The body, whose checksum has been verified.
    pub(super) body: Bytes,
}

/// Relocations for the writer.
pub(super) struct RelocationRequest {
    pub(super) relocations: Vec<Relocation>,
    /// Whether they free a segment, and may take space reserved for that on a full disk.
    pub(super) frees_segment: bool,
    /// Set by whoever decides the request: the writer to handle it, the checkpointer to give up.
    claimed: Arc<AtomicBool>,
    pub(super) reply: SyncSender<Result<()>>,
}

impl RelocationRequest {
    /// Returns whether the caller is the one to decide the request.
    pub(super) fn claim(&self) -> bool {
        claim(&self.claimed)
    }
}

fn claim(claimed: &AtomicBool) -> bool {
    !claimed.swap(true, Ordering::AcqRel)
}

/// Relocations collected up to the limits of a request.
#[derive(Default)]
pub(super) struct RelocationBatch {
    relocations: Vec<Relocation>,
    bytes: usize,
}

impl RelocationBatch {
    pub(super) fn extend(&mut self, relocation: Option<Relocation>) {
        self.bytes += relocation.as_ref().map_or(0, |relocation| relocation.body.len());
        self.relocations.extend(relocation);
    }

    pub(super) fn is_full(&self) -> bool {
        self.relocations.len() >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }
}

impl Checkpointer {
    /// Has the writer move the bodies. Returns `false` if it did not: the engine is closing, or
    /// writes are stalled until this thread runs a checkpoint.
    pub(super) fn relocate(&self, batch: RelocationBatch, frees_segment: bool) -> Result<bool> {
        let relocations = batch.relocations;
        if relocations.is_empty() {
            return Ok(true);
        }
        let (reply, result) = sync_channel(1);
        let claimed = Arc::new(AtomicBool::new(false));
        let request =
            RelocationRequest { relocations, frees_segment, claimed: claimed.clone(), reply };
        {
            // Not kept longer: the writer ends once no sender is left.
            let Some(commands) = self.commands.upgrade() else { return Ok(false) };
            if commands.try_send(WriterCommand::Relocate(request)).is_err() {
                return Ok(false);
            }
        }
        loop {
            match result.recv_timeout(POLL) {
                Ok(moved) => return moved.map(|()| true),
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {
                    // A stalled writer waits for this thread.
                    if self.shared.backpressure.should_stall(&self.shared) && claim(&claimed) {
                        return Ok(false);
                    }
                }
            }
        }
    }
}
