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
//!   the request. Only one of the two threads can claim a request. The withdrawn request and its
//!   bodies remain in the queue until the writer reaches it, so the checkpointer sends no other
//!   request before then.
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
    /// Returns whether a request can be sent. It cannot while writes are stalled, because the
    /// writer would not handle it, or while a withdrawn request is in the queue of the writer.
    pub(super) fn can_relocate(&self) -> bool {
        // The request has the other reference.
        let is_queued = |claimed: &Arc<AtomicBool>| Arc::strong_count(claimed) > 1;
        !self.withdrawn.as_ref().is_some_and(is_queued)
            && !self.shared.backpressure.should_stall(&self.shared)
    }

    /// Sends the relocations to the writer and waits until it has performed them. Returns `false`
    /// if the writer did not perform them, because the engine is closing, the queue of the writer
    /// is full or has a withdrawn request, or writes are stalled until this thread runs a
    /// checkpoint.
    pub(super) fn relocate(&mut self, batch: RelocationBatch, frees_segment: bool) -> Result<bool> {
        let relocations = batch.relocations;
        if relocations.is_empty() {
            return Ok(true);
        }
        if !self.can_relocate() {
            return Ok(false);
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
                        self.withdrawn = Some(claimed);
                        return Ok(false);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EngineError;
    use super::super::memtable::Memtable;
    use super::super::stepped_engine::SteppedEngine;
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn batch() -> RelocationBatch {
        let body = Bytes::from_static(b"body");
        let (key, meta) = (Bytes::from_static(b"key"), Bytes::new());
        let relocation = Relocation { key, version: 1, expires_at: 0, meta, body };
        RelocationBatch { relocations: vec![relocation], bytes: 4 }
    }

    #[test]
    fn no_relocation_is_requested_while_writes_are_stalled() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(dir.path(), 1 << 20);
        engine.create_garbage();
        SteppedEngine::fill_memtable(&engine.shared, 3000);
        assert!(engine.shared.backpressure.should_stall(&engine.shared));
        for _ in 0..3 {
            assert!(!engine.checkpointer.collect_garbage());
        }
        assert_eq!(engine.queue.try_iter().count(), 0);
    }

    #[test]
    fn at_most_one_withdrawn_request_is_in_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(dir.path(), 1 << 20);
        let shared = engine.shared.clone();
        // The writer stalls after the request was sent.
        let request = std::thread::scope(|scope| {
            let checkpointer = &mut engine.checkpointer;
            let relocated = scope.spawn(move || checkpointer.relocate(batch(), true));
            let Ok(WriterCommand::Relocate(request)) = engine.queue.recv() else { panic!() };
            SteppedEngine::fill_memtable(&shared, 3000);
            assert!(!relocated.join().unwrap().unwrap());
            request
        });
        *shared.memtable_mut() = Memtable::default();
        assert!(!engine.checkpointer.relocate(batch(), true).unwrap());
        assert_eq!(engine.queue.try_iter().count(), 0);
        // Once the writer has dropped the withdrawn request, another one can be sent.
        assert!(!request.claim());
        drop(request);
        let reply = |command| {
            let WriterCommand::Relocate(request) = command else { panic!() };
            assert!(request.claim());
            request.reply.send(Ok(())).unwrap();
        };
        assert!(
            engine.with_writer(reply, |checkpointer| checkpointer.relocate(batch(), true)).unwrap()
        );
    }

    #[test]
    fn garbage_collection_does_not_delay_a_checkpoint_that_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(dir.path(), 4 << 20);
        engine.create_garbage();
        SteppedEngine::fill_memtable(&engine.shared, 8000);
        let (shared, requests) = (engine.shared.clone(), AtomicUsize::new(0));
        let to = shared.wal_position();
        let handle = |command| {
            let WriterCommand::Relocate(request) = command else { panic!() };
            // More than 150 % of the entries that trigger a checkpoint delay writes.
            let entries = shared.memtable().len();
            assert!(entries < 6200, "a checkpoint of {entries} entries waits for a relocation");
            requests.fetch_add(1, Ordering::Relaxed);
            assert!(request.claim());
            request.reply.send(Err(EngineError::Full(String::new()))).unwrap();
        };
        engine.with_writer(handle, |checkpointer| checkpointer.checkpoint(to, None)).unwrap();
        assert!(requests.load(Ordering::Relaxed) > 0);
    }
    #[test]
    fn garbage_collection_continues_if_it_is_further_behind_than_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SteppedEngine::open(dir.path(), 4 << 20);
        let backpressure = &engine.shared.backpressure;
        assert!(!backpressure.is_checkpoint_behind(&engine.shared));
        SteppedEngine::fill_memtable(&engine.shared, 7000);
        assert!(backpressure.is_checkpoint_behind(&engine.shared));
        backpressure.set_space_debt(1 << 30, 0);
        assert!(!backpressure.is_checkpoint_behind(&engine.shared));
    }
}
