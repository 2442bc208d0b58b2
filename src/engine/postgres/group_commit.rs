//! Commits that wait together are made together, in one transaction: they share its round trips and
//! its sync. Each is still judged by itself, and answered by itself.

use super::super::{Body, Commit, EngineError, Mutation, Outcome, Result};
use super::commit::{Unmade, Wait};
use super::{Inner, PATIENCE};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

/// Transactions under way at once, as long as each takes its usual time.
const AT_ONCE: usize = 2;
/// One that takes longer, as a row of it is locked by another server, is not waited for; so many
/// may be under way in all.
const SOON: Duration = Duration::from_millis(100);
const UNDER_WAY_MAX: usize = 12;
/// Commits and bytes in one transaction; a larger commit goes with those that came before it.
const COMMITS_MAX: usize = 64;
const BYTES_MAX: usize = 1 << 20;
/// Commits that wait for their transaction; more wait to be taken in.
const WAITING_MAX: usize = 1024;

struct Job {
    commit: Commit,
    reply: oneshot::Sender<Result<Outcome>>,
}

/// Takes commits in.
pub(super) struct Groups(mpsc::Sender<Job>);

impl Groups {
    /// Begins to serve; ends when it is dropped.
    pub(super) fn new(inner: &Arc<Inner>) -> Groups {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        for _ in 0..AT_ONCE {
            tokio::spawn(serve(inner.clone(), receiver.clone(), places.clone()));
        }
        Groups(sender)
    }

    /// Makes a commit together with others. A caller who goes away does not undo it.
    pub(super) async fn commit(&self, commit: Commit) -> Result<Outcome> {
        let (reply, answer) = oneshot::channel();
        let taken = self.0.send(Job { commit, reply }).await;
        taken.map_err(|_| EngineError::Closed)?;
        answer.await.map_err(|_| EngineError::Failed("a commit was given up".into()))?
    }
}

async fn serve(inner: Arc<Inner>, jobs: Arc<Mutex<mpsc::Receiver<Job>>>, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let taken = {
            let mut jobs = jobs.lock().await;
            let Some(first) = jobs.recv().await else { return };
            let mut bytes = size(&first.commit);
            let mut taken = vec![first];
            while taken.len() < COMMITS_MAX && bytes < BYTES_MAX {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += size(&job.commit);
                taken.push(job);
            }
            taken
        };
        let inner = inner.clone();
        // A task of its own: whatever befalls a group, others are served after it.
        let running = tokio::spawn(async move {
            group(&inner, taken).await;
            drop(place);
        });
        let _ = tokio::time::timeout(SOON, running).await;
    }
}

async fn group(inner: &Inner, jobs: Vec<Job>) {
    let wait = if jobs.len() > 1 { Wait::Briefly } else { Wait::Long };
    let until = Instant::now() + PATIENCE;
    let Some(jobs) = answered(inner, jobs, wait, until).await else { return };
    // A row stays locked: only those that need it go on waiting, and the others go first.
    let commits: Vec<&Commit> = jobs.iter().map(|job| &job.commit).collect();
    let held = inner.held(&commits).await;
    let held = held.unwrap_or_else(|_| vec![true; jobs.len()]);
    let (waiting, free): (Vec<_>, Vec<_>) = jobs.into_iter().zip(held).partition(|(_, held)| *held);
    for part in [free, waiting] {
        let jobs: Vec<Job> = part.into_iter().map(|(job, _)| job).collect();
        if !jobs.is_empty() {
            answered(inner, jobs, Wait::Long, until).await;
        }
    }
}

/// Makes commits in one transaction and answers them, or gives them back when a row stays locked
/// and they were to wait briefly.
async fn answered(inner: &Inner, jobs: Vec<Job>, wait: Wait, until: Instant) -> Option<Vec<Job>> {
    let commits: Vec<&Commit> = jobs.iter().map(|job| &job.commit).collect();
    let made = timed(inner, &commits, wait, until).await;
    let alone = jobs.len() == 1;
    match made {
        Ok(outcomes) => {
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                let _ = job.reply.send(Ok(outcome));
            }
        }
        Err(Unmade::Held) => return Some(jobs),
        // What the database refuses of one must not fall on the others; nothing was written.
        Err(Unmade::Refused(_)) if !alone => {
            for Job { commit, reply } in jobs {
                let made = timed(inner, &[&commit], Wait::Long, until).await;
                let made = made.map_err(Unmade::into_error);
                let outcome = made.map(|outcomes| outcomes.first().copied());
                let none = || EngineError::Failed("a commit without an outcome".into());
                let _ = reply.send(outcome.and_then(|outcome| outcome.ok_or_else(none)));
            }
        }
        Err(unmade) => {
            let e = unmade.into_error();
            for job in jobs {
                let _ = job.reply.send(Err(e.clone()));
            }
        }
    }
    None
}

async fn timed(
    inner: &Inner,
    commits: &[&Commit],
    wait: Wait,
    until: Instant,
) -> std::result::Result<Vec<Outcome>, Unmade> {
    let start = Instant::now();
    let outcomes = inner.commit(commits, wait, until).await?;
    let conflicts = outcomes.iter().filter(|outcome| **outcome == Outcome::Conflict).count();
    let written = (outcomes.len() - conflicts) as u64;
    let figures = &inner.figures;
    figures.conflicts.fetch_add(conflicts as u64, Ordering::Relaxed);
    figures.commits.fetch_add(written, Ordering::Relaxed);
    figures.groups.fetch_add(u64::from(written > 0), Ordering::Relaxed);
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    figures.micros.fetch_add(micros, Ordering::Relaxed);
    Ok(outcomes)
}

fn size(commit: &Commit) -> usize {
    let bytes = |write: &Mutation| match write.record.as_ref().map(|record| &record.body) {
        Some(Body::Bytes(bytes)) => bytes.len(),
        Some(Body::Stored(_)) | None => 0,
    };
    commit.mutations.iter().map(|write| write.key.len() + bytes(write)).sum()
}
