//! Uploads the items of a source to a store. Reads ahead, sends batches concurrently and saves the
//! progress.

use super::batch_sender::{BatchOutcome, BatchSender};
use super::memory_budget::{MemoryBudget, Reservation};
use super::report::FailureLog;
use crate::cli::error::{CommandError, local_error};
use crate::cli::output::{print_error, styled_bar};
use crate::client::Error;
use crate::transfer::batches::{Batch, BatchLimits, BatchReader};
use crate::transfer::detect::OpenSource;
use crate::transfer::resume::{ImportCounts, ResumeState};
use crate::transfer::{ItemSource, SourceError};
use indicatif::ProgressBar;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The maximum number of batches that are read ahead.
const READ_AHEAD: usize = 2;

/// A batch that was read, and the memory reserved for it until it has been sent.
struct ReadBatch {
    batch: Batch,
    reservation: Reservation,
}

/// A batch that was sent, and its outcome.
struct SentBatch {
    from: u64,
    to: u64,
    key_hashes: Vec<u64>,
    outcome: Result<BatchOutcome, Error>,
}

pub(super) struct Uploader<'r> {
    sender: BatchSender,
    state: ResumeState,
    failures: &'r mut FailureLog,
    jobs: usize,
    bar: ProgressBar,
    bytes_read: Arc<AtomicU64>,
    progress_in_bytes: bool,
    /// The number of lines in flight, by key hash.
    keys_in_flight: HashMap<u64, u32>,
    in_flight: JoinSet<SentBatch>,
    next: Option<ReadBatch>,
    aborted: Option<CommandError>,
    source_failed: bool,
    ended: bool,
}

pub(super) struct UploadSummary {
    pub(super) counts: ImportCounts,
    pub(super) state: ResumeState,
    /// The reason the upload stopped before the end of its source.
    pub(super) aborted: Option<CommandError>,
    /// Whether an error from the source stopped the upload.
    pub(super) source_failed: bool,
}

/// Uploads the items of a source, starting at the position in `state`.
pub(super) async fn upload(
    sender: BatchSender,
    input: OpenSource,
    state: ResumeState,
    failures: &mut FailureLog,
    jobs: usize,
) -> UploadSummary {
    let limits = sender.limits();
    let batches = read_ahead(input.source, limits, state.acknowledged(), state.sent());
    let uploader = Uploader {
        sender,
        state,
        failures,
        jobs,
        bar: progress_bar(input.size),
        bytes_read: input.bytes_read,
        progress_in_bytes: input.size.is_some(),
        keys_in_flight: HashMap::new(),
        in_flight: JoinSet::new(),
        next: None,
        aborted: None,
        source_failed: false,
        ended: false,
    };
    uploader.run(batches).await
}

/// Reads batches on a separate thread, because a read from a pipe can block indefinitely.
fn read_ahead(
    source: Box<dyn ItemSource>,
    limits: BatchLimits,
    done: u64,
    sent: u64,
) -> mpsc::Receiver<Result<ReadBatch, SourceError>> {
    let (to, from) = mpsc::channel(READ_AHEAD);
    let (budget, runtime) = (MemoryBudget::new(), Handle::current());
    std::thread::spawn(move || {
        let mut batches = match BatchReader::new(source, limits, done, sent) {
            Ok(batches) => batches,
            Err(e) => return drop(to.blocking_send(Err(e))),
        };
        while let Some(batch) = batches.next_batch().transpose() {
            let failed = batch.is_err();
            let reserved = batch.and_then(|batch| {
                let reserved = runtime.block_on(budget.reserve(batch.bytes as u64));
                let reservation = reserved.map_err(|e| SourceError(e.to_string()))?;
                Ok(ReadBatch { batch, reservation })
            });
            if to.blocking_send(reserved).is_err() || failed {
                return;
            }
        }
    });
    from
}

fn progress_bar(size: Option<u64>) -> ProgressBar {
    let style = match size {
        Some(_) => "{wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left; {msg}",
        None => "{human_pos} items, {per_sec}; {msg}",
    };
    styled_bar(size, style)
}

impl Uploader<'_> {
    async fn run(
        mut self,
        mut batches: mpsc::Receiver<Result<ReadBatch, SourceError>>,
    ) -> UploadSummary {
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        loop {
            let receive = self.next.is_none() && !self.ended && self.aborted.is_none();
            tokio::select! {
                batch = batches.recv(), if receive => match batch {
                    Some(Ok(batch)) => self.next = Some(batch),
                    Some(Err(e)) => {
                        self.source_failed = self.aborted.is_none();
                        self.abort_with(format!("the input {e}"));
                    }
                    None => self.ended = true,
                },
                Some(done) = self.in_flight.join_next(), if !self.in_flight.is_empty() => {
                    match done {
                        Ok(sent) => self.complete(sent),
                        Err(e) => self.abort_with(format!("task failed: {e}")),
                    }
                }
                _ = &mut interrupt => {
                    if self.aborted.is_some() {
                        // A second interrupt also aborts the batches in flight.
                        self.in_flight.abort_all();
                        break;
                    }
                    self.abort(CommandError::Interrupted);
                    interrupt.set(tokio::signal::ctrl_c());
                }
            }
            self.dispatch();
            self.show_progress();
            let done = self.aborted.is_some() || (self.ended && self.next.is_none());
            if done && self.in_flight.is_empty() {
                break;
            }
        }
        self.bar.finish_and_clear();
        if self.aborted.is_some()
            && let Err(e) = self.state.save()
        {
            print_error(&e.to_string());
        }
        let Uploader { state, aborted, source_failed, .. } = self;
        UploadSummary { counts: state.counts(), state, aborted, source_failed }
    }

    /// Sends the next batch unless one of its keys is in flight. If several lines have the same
    /// key, they must be written in the order of the input.
    fn dispatch(&mut self) {
        if self.in_flight.len() >= self.jobs || self.aborted.is_some() {
            return;
        }
        let keys = &self.keys_in_flight;
        let is_free =
            |next: &mut ReadBatch| !next.batch.key_hashes.iter().any(|key| keys.contains_key(key));
        let Some(next) = self.next.take_if(is_free) else { return };
        let ReadBatch { mut batch, reservation } = next;
        if let Err(e) = self.state.record_sent(batch.to) {
            return self.abort_with(e.to_string());
        }
        let key_hashes = std::mem::take(&mut batch.key_hashes);
        for key in &key_hashes {
            *self.keys_in_flight.entry(*key).or_default() += 1;
        }
        let sender = self.sender.clone();
        self.in_flight.spawn(async move {
            let (from, to) = (batch.from, batch.to);
            let outcome = Box::pin(sender.send(batch)).await;
            drop(reservation);
            SentBatch { from, to, key_hashes, outcome }
        });
    }

    fn complete(&mut self, sent: SentBatch) {
        for key in &sent.key_hashes {
            if let Some(count) = self.keys_in_flight.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.keys_in_flight.remove(key);
                }
            }
        }
        match sent.outcome {
            Ok(outcome) => {
                let reported = self.failures.report(&outcome.failures, &self.bar);
                self.state.record_done(sent.from, sent.to, outcome.counts);
                if let Err(e) = reported {
                    self.abort(e);
                }
            }
            Err(e) => self.abort(e.into()),
        }
    }

    /// Stops sending. Only the first reason is kept.
    fn abort(&mut self, reason: CommandError) {
        self.next = None;
        if self.aborted.is_none() {
            self.aborted = Some(reason);
        }
    }

    fn abort_with(&mut self, message: String) {
        self.abort(local_error(message));
    }

    fn show_progress(&self) {
        let ImportCounts { written, skipped, failed, .. } = self.state.counts();
        let items = written + skipped + failed;
        if self.progress_in_bytes {
            self.bar.set_position(self.bytes_read.load(Ordering::Relaxed));
            self.bar.set_message(format!("{items} items, {failed} failed"));
        } else {
            self.bar.set_position(items);
            self.bar.set_message(format!("{failed} failed"));
        }
    }
}
