//! Fills a store from a source: reads ahead, sends several batches at once, keeps how far it came.

use super::report::Report;
use super::request::{Outcome, Sender};
use crate::cli::error::{CommandError, local_error};
use crate::client::Error;
use crate::transfer::batches::{Batch, Batches, Bounds};
use crate::transfer::detect::Opened;
use crate::transfer::resume::{Counts, State};
use crate::transfer::{Broken, Source};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Batches that are read ahead.
const AHEAD: usize = 2;

/// Why a filling ended before its source did.
pub(super) enum Cut {
    /// The person at the terminal wanted it.
    Interrupted,
    /// It cannot go on.
    Failed(CommandError),
}

/// A batch that was sent.
struct Sent {
    from: u64,
    to: u64,
    keys: Vec<u64>,
    outcome: Result<Outcome, Error>,
}

/// A filling under way.
pub(super) struct Filling<'r> {
    sender: Sender,
    state: State,
    report: &'r mut Report,
    jobs: usize,
    bar: ProgressBar,
    read: Arc<AtomicU64>,
    by_bytes: bool,
    /// How many lines under way have a key of this hash.
    under_way: HashMap<u64, u32>,
    sending: JoinSet<Sent>,
    waiting: Option<Batch>,
    cut: Option<Cut>,
    ended: bool,
}

/// How a filling ended.
pub(super) struct Filled {
    pub(super) counts: Counts,
    pub(super) state: State,
    pub(super) cut: Option<Cut>,
}

/// Sends all that a source has, from where the state says.
pub(super) async fn fill(
    sender: Sender,
    opened: Opened,
    state: State,
    report: &mut Report,
    jobs: usize,
) -> Filled {
    let bounds = sender.bounds();
    let (bar, by_bytes) = (bar(opened.size), opened.size.is_some());
    let batches = read_ahead(opened.source, bounds, state.acknowledged(), state.sent());
    let filling = Filling {
        sender,
        state,
        report,
        jobs,
        bar,
        read: opened.read,
        by_bytes,
        under_way: HashMap::new(),
        sending: JoinSet::new(),
        waiting: None,
        cut: None,
        ended: false,
    };
    filling.run(batches).await
}

/// Cuts a source into batches on a thread of its own, which may wait for a pipe for ever.
fn read_ahead(
    source: Box<dyn Source>,
    bounds: Bounds,
    done: u64,
    sent: u64,
) -> mpsc::Receiver<Result<Batch, Broken>> {
    let (to, from) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut batches = match Batches::new(source, bounds, done, sent) {
            Ok(batches) => batches,
            Err(e) => return drop(to.blocking_send(Err(e))),
        };
        while let Some(batch) = batches.cut().transpose() {
            let over = batch.is_err();
            if to.blocking_send(batch).is_err() || over {
                return;
            }
        }
    });
    from
}

fn bar(size: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    let style = match size {
        Some(_) => "{wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left; {msg}",
        None => "{human_pos} items, {per_sec}; {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

impl Filling<'_> {
    async fn run(mut self, mut batches: mpsc::Receiver<Result<Batch, Broken>>) -> Filled {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let wanted = self.waiting.is_none() && !self.ended && self.cut.is_none();
            tokio::select! {
                batch = batches.recv(), if wanted => match batch {
                    Some(Ok(batch)) => self.waiting = Some(batch),
                    Some(Err(e)) => self.stop(Cut::Failed(local_error(format!("the input {e}")))),
                    None => self.ended = true,
                },
                Some(done) = self.sending.join_next(), if !self.sending.is_empty() => {
                    match done {
                        Ok(sent) => self.settle(sent),
                        Err(e) => self.stop(Cut::Failed(local_error(format!("a task ended: {e}")))),
                    }
                }
                _ = &mut interrupted => {
                    if self.cut.is_some() {
                        // Asked twice: what is in flight is not waited for.
                        self.sending.abort_all();
                        break;
                    }
                    self.stop(Cut::Interrupted);
                    interrupted.set(tokio::signal::ctrl_c());
                }
            }
            self.dispatch();
            self.show();
            let over = self.cut.is_some() || (self.ended && self.waiting.is_none());
            if over && self.sending.is_empty() {
                break;
            }
        }
        self.bar.finish_and_clear();
        Filled { counts: self.state.counts(), state: self.state, cut: self.cut }
    }

    /// Sends the batch that waits, if it may go: no line under way has a key of it, so that the
    /// last line of a key stays the last.
    fn dispatch(&mut self) {
        if self.sending.len() >= self.jobs || self.cut.is_some() {
            return;
        }
        let free = |batch: &Batch| batch.keys.iter().all(|key| !self.under_way.contains_key(key));
        let Some(mut batch) = self.waiting.take_if(|batch| free(batch)) else { return };
        if let Err(e) = self.state.sending(batch.to) {
            return self.stop(Cut::Failed(local_error(e.to_string())));
        }
        let keys = std::mem::take(&mut batch.keys);
        for key in &keys {
            *self.under_way.entry(*key).or_default() += 1;
        }
        let sender = self.sender.clone();
        self.sending.spawn(async move {
            let (from, to) = (batch.from, batch.to);
            Sent { from, to, keys, outcome: Box::pin(sender.send(batch)).await }
        });
    }

    fn settle(&mut self, sent: Sent) {
        for key in &sent.keys {
            if let Some(count) = self.under_way.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.under_way.remove(key);
                }
            }
        }
        match sent.outcome {
            Ok(outcome) => {
                let told = self.report.tell(&outcome.failures, &self.bar);
                let kept = self.state.done(sent.from, sent.to, outcome.counts);
                if let Err(stop) = told.and(kept.map_err(|e| local_error(e.to_string()))) {
                    self.stop(Cut::Failed(stop));
                }
            }
            Err(e) => self.stop(Cut::Failed(e.into())),
        }
    }

    /// Sends nothing more; the first reason is the one that is told.
    fn stop(&mut self, cut: Cut) {
        self.waiting = None;
        if self.cut.is_none() {
            self.cut = Some(cut);
        }
    }

    fn show(&self) {
        let Counts { written, skipped, failed, .. } = self.state.counts();
        let items = written + skipped + failed;
        if self.by_bytes {
            self.bar.set_position(self.read.load(Ordering::Relaxed));
            self.bar.set_message(format!("{items} items, {failed} failed"));
        } else {
            self.bar.set_position(items);
            self.bar.set_message(format!("{failed} failed"));
        }
    }
}
