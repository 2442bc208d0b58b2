//! Relocation: moves bodies of records in the database to the end of the WAL, to free the segments
//! or the rows of `bodies` that contain them. The checkpointer selects the bodies, and the writer
//! appends them to the WAL. The records keep their versions.
//!
//! A relocation is an ordinary entry of a WAL record and enters the memtable like a commit. The
//! next checkpoint stores the new location in the database. The following rules ensure that a
//! relocation never revives a record that was replaced or deleted:
//!
//! - The checkpointer selects records in the database, sends a request to the writer, and waits for
//!   the reply. Records in the database change only in checkpoint steps, which run on the same
//!   thread. When the writer handles the request, each selected record is therefore the newest one
//!   of its key, unless the memtable has an entry for the key.
//! - The writer skips a relocation if the memtable has an entry for its key. The writer handles one
//!   command at a time, so no commit can occur between this check and the relocation.
//! - If the checkpointer stops waiting, it claims the request first, and the writer then ignores
//!   the request. Only one of the two threads can claim a request.
//! - In the WAL, the relocation follows the commit of the record and precedes every later commit to
//!   the key. Recovery replays the entries in this order.

use super::super::Result;
use super::checkpoint::Checkpointer;
use super::writer::WriterCommand;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Limits at which a request takes no further records: number of records, and total size of their
/// bodies in bytes. Commits wait while the writer handles a request.
pub(super) const RECORDS_MAX: usize = 256;
pub(super) const BYTES_MAX: usize = 512 << 10;
/// Interval between checks for a stalled writer.
const POLL: Duration = Duration::from_millis(10);

/// A record in the database, and the body to relocate.
#[derive(Debug)]
pub(super) struct Relocation {
    pub(super) key: Bytes,
    pub(super) version: u64,
    pub(super) expires_at: u64,
    pub(super) meta: Bytes,
    /// The body. Its checksum has been verified.
    pub(super) body: Bytes,
}

/// A request to the writer to relocate bodies.
pub(super) struct RelocationRequest {
    pub(super) relocations: Vec<Relocation>,
    /// Whether the relocations free a segment. If so, they may use a reserved segment file when the
    /// disk is full.
    pub(super) frees_segment: bool,
    /// Set by the thread that claims the request: the writer to handle the request, or the
    /// checkpointer to withdraw it.
    claimed: Arc<AtomicBool>,
    pub(super) reply: SyncSender<Result<()>>,
}

impl RelocationRequest {
    /// Claims the request. Returns `false` if it was already claimed.
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
    /// Sends the relocations to the writer and waits until it has performed them. Returns `false`
    /// if the writer did not perform them, because the engine is closing, the queue of the writer
    /// is full, or writes are stalled until this thread runs a checkpoint.
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
            // Drops the sender before waiting, because the writer ends only once all senders are
            // dropped.
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
                    // A stalled writer waits for a checkpoint, which runs on this thread.
                    if self.shared.backpressure.should_stall(&self.shared) && claim(&claimed) {
                        return Ok(false);
                    }
                }
            }
        }
    }
}
