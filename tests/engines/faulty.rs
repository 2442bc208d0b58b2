//! An engine that fails as a plan says, over another: before a commit, after it, or in a read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use steadfast::engine::{
    BlobWriter, BoxFuture, Commit, Engine, EngineError, Outcome, Projection, Record, Result, Scan,
    ScanPage, Snapshot, Stats,
};

/// What happens to the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// A commit meets a conflict that is none of its own.
    Conflict,
    /// There is no space; nothing is written.
    Full,
    /// It fails, and nothing is written.
    Before,
    /// It is written, and then it fails: who asked does not know.
    After,
    /// A read fails.
    Read,
}

/// See the module.
pub(crate) struct Faulty {
    engine: Arc<dyn Engine>,
    /// What happens to the calls to come, the next one last.
    plan: Mutex<Vec<Fault>>,
    met: AtomicU64,
}

impl Faulty {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Faulty {
        Faulty { engine, plan: Mutex::default(), met: AtomicU64::new(0) }
    }

    /// Sets what happens to the calls to come.
    pub(crate) fn plan(&self, faults: &[Fault]) {
        *self.plan.lock().unwrap() = faults.iter().rev().copied().collect();
    }

    /// How many faults were met.
    pub(crate) fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
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
                self.met.fetch_add(1, Ordering::Relaxed);
                fault
            }
            _ => Fault::None,
        }
    }

    fn read_fails(&self) -> Result<()> {
        match self.next(|fault| fault == Fault::Read) {
            Fault::None => Ok(()),
            Fault::Conflict | Fault::Full | Fault::Before | Fault::After | Fault::Read => {
                Err(EngineError::Failed("planned".into()))
            }
        }
    }
}

impl Engine for Faulty {
    fn read<'a>(
        &'a self,
        key: &'a [u8],
        part: Projection,
    ) -> BoxFuture<'a, Result<Option<Record>>> {
        Box::pin(async move {
            self.read_fails()?;
            self.engine.read(key, part).await
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            self.read_fails()?;
            self.engine.scan(scan).await
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            self.read_fails()?;
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
            match self.next(|fault| fault != Fault::Read) {
                Fault::None | Fault::Read => self.engine.commit(commit).await,
                Fault::Conflict => Ok(Outcome::Conflict),
                Fault::Full => Err(EngineError::Full("planned".into())),
                Fault::Before => Err(EngineError::Failed("planned".into())),
                Fault::After => match self.engine.commit(commit).await? {
                    Outcome::Committed(_) => Err(EngineError::Failed("planned".into())),
                    Outcome::Conflict => Ok(Outcome::Conflict),
                },
            }
        })
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
