//! Group commit: queued commits share the round trips and the sync of one transaction. Each commit
//! still gets its own outcome.

use super::super::{Body, Commit, EngineError, Mutation, Outcome, Result};
use super::commit::{CommitError, LockWait};
use super::{Inner, RETRY_TIMEOUT};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

/// Number of concurrent transactions, not counting slow ones.
const WORKERS: usize = 2;
/// Time after which a worker starts its next transaction without waiting for the current one. A
/// transaction is slow if, for example, another server has locked one of its rows.
const SLOW_TRANSACTION: Duration = Duration::from_millis(100);
/// Maximum number of concurrent transactions, including slow ones.
const TRANSACTIONS_MAX: usize = 12;
/// A group takes no further commits once it has this many commits or bytes.
const GROUP_COMMITS: usize = 64;
const GROUP_BYTES: usize = 1 << 20;
/// Maximum number of queued commits. Further callers wait for room in the queue.
const QUEUE_COMMITS: usize = 1024;

struct PendingCommit {
    commit: Commit,
    reply: oneshot::Sender<Result<Outcome>>,
}

/// Queues commits for the workers, which stop when the queue is dropped.
pub(super) struct GroupCommitter(mpsc::Sender<PendingCommit>);

impl GroupCommitter {
    pub(super) fn new(inner: &Arc<Inner>) -> GroupCommitter {
        let (sender, receiver) = mpsc::channel(QUEUE_COMMITS);
        let receiver = Arc::new(Mutex::new(receiver));
        let slots = Arc::new(Semaphore::new(TRANSACTIONS_MAX));
        for _ in 0..WORKERS {
            tokio::spawn(run_worker(inner.clone(), receiver.clone(), slots.clone()));
        }
        GroupCommitter(sender)
    }

    /// Adds a commit to the next group and returns its outcome. Dropping the future does not cancel
    /// a queued commit.
    pub(super) async fn commit(&self, commit: Commit) -> Result<Outcome> {
        let (reply, result) = oneshot::channel();
        let queued = self.0.send(PendingCommit { commit, reply }).await;
        queued.map_err(|_| EngineError::Closed)?;
        result.await.map_err(|_| EngineError::Failed("the commit task panicked".into()))?
    }
}

async fn run_worker(
    inner: Arc<Inner>,
    queue: Arc<Mutex<mpsc::Receiver<PendingCommit>>>,
    slots: Arc<Semaphore>,
) {
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let group = {
            let mut queue = queue.lock().await;
            let Some(first) = queue.recv().await else { return };
            let mut bytes = size(&first.commit);
            let mut group = vec![first];
            while group.len() < GROUP_COMMITS && bytes < GROUP_BYTES {
                let Ok(next) = queue.try_recv() else { break };
                bytes += size(&next.commit);
                group.push(next);
            }
            group
        };
        let inner = inner.clone();
        // The group runs in a separate task, so that a panic does not end the worker.
        let running = tokio::spawn(async move {
            commit_group(&inner, group).await;
            drop(slot);
        });
        let _ = tokio::time::timeout(SLOW_TRANSACTION, running).await;
    }
}

async fn commit_group(inner: &Inner, group: Vec<PendingCommit>) {
    let wait = if group.len() > 1 { LockWait::Short } else { LockWait::Long };
    let deadline = Instant::now() + RETRY_TIMEOUT;
    let Some(group) = commit_and_reply(inner, group, wait, deadline).await else { return };
    // A row is locked. Commit the part of the group that needs no locked row first, then the rest.
    let commits: Vec<&Commit> = group.iter().map(|pending| &pending.commit).collect();
    let blocked = inner.blocked(&commits).await;
    let blocked = blocked.unwrap_or_else(|_| vec![true; group.len()]);
    let (blocked, free): (Vec<_>, Vec<_>) =
        group.into_iter().zip(blocked).partition(|(_, blocked)| *blocked);
    for part in [free, blocked] {
        let group: Vec<PendingCommit> = part.into_iter().map(|(pending, _)| pending).collect();
        if !group.is_empty() {
            commit_and_reply(inner, group, LockWait::Long, deadline).await;
        }
    }
}

/// Commits a group in one transaction and replies to its callers. If the wait of
/// [`LockWait::Short`] expired, returns the group instead.
async fn commit_and_reply(
    inner: &Inner,
    group: Vec<PendingCommit>,
    wait: LockWait,
    deadline: Instant,
) -> Option<Vec<PendingCommit>> {
    let commits: Vec<&Commit> = group.iter().map(|pending| &pending.commit).collect();
    match commit_measured(inner, &commits, wait, deadline).await {
        Ok(outcomes) => {
            for (pending, outcome) in group.into_iter().zip(outcomes) {
                let _ = pending.reply.send(Ok(outcome));
            }
        }
        Err(CommitError::LockTimeout) => return Some(group),
        // Nothing was written. Retry the commits one by one, so that only the rejected one fails.
        Err(CommitError::Rejected(_)) if group.len() > 1 => {
            for PendingCommit { commit, reply } in group {
                let result = commit_measured(inner, &[&commit], LockWait::Long, deadline).await;
                let none = || EngineError::Failed("the commit has no outcome".into());
                let outcome = result.map_err(CommitError::into_engine_error);
                let _ = reply.send(outcome.and_then(|all| all.first().copied().ok_or_else(none)));
            }
        }
        Err(error) => {
            let e = error.into_engine_error();
            for pending in group {
                let _ = pending.reply.send(Err(e.clone()));
            }
        }
    }
    None
}

async fn commit_measured(
    inner: &Inner,
    commits: &[&Commit],
    wait: LockWait,
    deadline: Instant,
) -> Result<Vec<Outcome>, CommitError> {
    let start = Instant::now();
    let outcomes = inner.commit(commits, wait, deadline).await?;
    let conflicts = outcomes.iter().filter(|outcome| **outcome == Outcome::Conflict).count();
    let committed = (outcomes.len() - conflicts) as u64;
    let counters = &inner.counters;
    counters.conflicts.fetch_add(conflicts as u64, Ordering::Relaxed);
    counters.commits.fetch_add(committed, Ordering::Relaxed);
    counters.groups.fetch_add(u64::from(committed > 0), Ordering::Relaxed);
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
    Ok(outcomes)
}

fn size(commit: &Commit) -> usize {
    let body_len = |mutation: &Mutation| match mutation.record.as_ref().map(|record| &record.body) {
        Some(Body::Bytes(bytes)) => bytes.len(),
        Some(Body::Stored(_)) | None => 0,
    };
    commit.mutations.iter().map(|mutation| mutation.key.len() + body_len(mutation)).sum()
}
