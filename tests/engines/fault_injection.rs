//! An engine wrapper that injects planned faults: before a commit, after a commit, or in a read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use steadfast::engine::{
    BlobWriter, BoxFuture, Commit, Engine, EngineError, Mutation, NewRecord, Outcome, Projection,
    Record, Result, Scan, ScanPage, Snapshot, Stats,
};

/// The planned outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call succeeds.
    None,
    /// The commit reports a conflict, and nothing is written.
    Conflict,
    /// The commit fails because there is no space left, and nothing is written.
    Full,
    /// The commit fails, and nothing is written.
    BeforeCommit,
    /// The commit is written and then fails, so its outcome is unknown to the caller.
    AfterCommit,
    /// The read fails.
    Read,
}

/// Wraps an engine and injects faults; see the module documentation.
pub(crate) struct FaultInjectingEngine {
    engine: Arc<dyn Engine>,
    /// The planned outcomes of the next calls, in reverse order.
    plan: Mutex<Vec<Fault>>,
    injected_count: AtomicU64,
    contended: AtomicBool,
}

impl FaultInjectingEngine {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> FaultInjectingEngine {
        let (plan, injected_count) = (Mutex::default(), AtomicU64::new(0));
        FaultInjectingEngine { engine, plan, injected_count, contended: AtomicBool::new(false) }
    }

    /// Makes each commit of several records conflict with another writer, which rewrites the first
    /// of these records just before the commit.
    #[allow(dead_code, reason = "not every suite uses it")]
    pub(crate) fn contend(&self) {
        self.contended.store(true, Ordering::Relaxed);
    }

    async fn rewrite(&self, key: bytes::Bytes) -> Result<()> {
        let Some(found) = self.engine.read(&key, Projection::Full).await? else { return Ok(()) };
        let Record { expires_at, meta, body, .. } = found;
        let record = Some(NewRecord { expires_at, meta, body });
        let mutations = vec![Mutation { key, record }];
        self.injected_count.fetch_add(1, Ordering::Relaxed);
        self.engine.commit(Commit { mutations, ..Commit::default() }).await.map(|_| ())
    }

    /// Plans the outcomes of the next calls, and drops those planned before.
    pub(crate) fn plan(&self, faults: &[Fault]) {
        *self.plan.lock().unwrap() = faults.iter().rev().copied().collect();
    }

    /// Returns the number of injected faults.
    pub(crate) fn injected_count(&self) -> u64 {
        self.injected_count.load(Ordering::Relaxed)
    }

    fn next(&self, wanted: impl Fn(Fault) -> bool) -> Fault {
        let mut plan = self.plan.lock().unwrap();
        match plan.last().copied() {
            Some(Fault::None) => {
                plan.pop();
                Fault::None
            }
            Some(fault) if wanted(fault) => {
                plan.pop();
                self.injected_count.fetch_add(1, Ordering::Relaxed);
                fault
            }
            _ => Fault::None,
        }
    }

    fn fail_read(&self) -> Result<()> {
        match self.next(|fault| fault == Fault::Read) {
            Fault::None => Ok(()),
            Fault::Conflict
            | Fault::Full
            | Fault::BeforeCommit
            | Fault::AfterCommit
            | Fault::Read => Err(EngineError::Failed("injected".into())),
        }
    }
}

impl Engine for FaultInjectingEngine {
    fn read<'a>(
        &'a self,
        key: &'a [u8],
        part: Projection,
    ) -> BoxFuture<'a, Result<Option<Record>>> {
        Box::pin(async move {
            self.fail_read()?;
            self.engine.read(key, part).await
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            self.fail_read()?;
            self.engine.scan(scan).await
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            self.fail_read()?;
            self.engine.snapshot().await
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(bytes::Bytes, u64)>>> {
        self.engine.expired(until, limit)
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        self.engine.count(first)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            if commit.mutations.len() > 1 && self.contended.load(Ordering::Relaxed) {
                self.rewrite(commit.mutations[0].key.clone()).await?;
            }
            match self.next(|fault| fault != Fault::Read) {
                Fault::None | Fault::Read => self.engine.commit(commit).await,
                Fault::Conflict => Ok(Outcome::Conflict),
                Fault::Full => Err(EngineError::Full("injected".into())),
                Fault::BeforeCommit => Err(EngineError::Failed("injected".into())),
                Fault::AfterCommit => match self.engine.commit(commit).await? {
                    Outcome::Committed(_) => Err(EngineError::Failed("injected".into())),
                    Outcome::Conflict => Ok(Outcome::Conflict),
                },
            }
        })
    }

    fn buffers_blobs(&self) -> bool {
        self.engine.buffers_blobs()
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        self.engine.create_blob()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.engine.close()
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }
}
