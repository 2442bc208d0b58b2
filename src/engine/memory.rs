//! The reference engine: the contract in its plainest form, in memory, gone with the process.

use super::{
    BlobWriter, Body, BoxFuture, Commit, Engine, EngineError, KeyedRecord, Mutation, Outcome,
    Projection, Record, Result, Scan, ScanPage, ScannedRecord, Snapshot, Stats,
};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Records in a sorted map behind one lock.
#[derive(Default)]
pub struct Memory {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Bytes, Record>,
    expires_at: BTreeSet<(u64, Bytes)>,
    counts: BTreeMap<u8, u64>,
    last_version: u64,
    closed: bool,
    stats: Stats,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn shared(&self) -> Result<RwLockReadGuard<'_, State>> {
        let state = self.state.read().map_err(poisoned)?;
        if state.closed { Err(EngineError::Closed) } else { Ok(state) }
    }

    fn exclusive(&self) -> Result<RwLockWriteGuard<'_, State>> {
        let state = self.state.write().map_err(poisoned)?;
        if state.closed { Err(EngineError::Closed) } else { Ok(state) }
    }
}

fn poisoned<T>(_: std::sync::PoisonError<T>) -> EngineError {
    EngineError::Failed("a writer of the memory engine panicked".into())
}

impl State {
    fn scan(&self, scan: &Scan) -> ScanPage {
        let mut page = ScanPage::default();
        if scan.start >= scan.end {
            return page;
        }
        for (key, record) in self.records.range(scan.start.clone()..scan.end.clone()) {
            if page.len() == scan.limit {
                break;
            }
            let Record { version, expires_at, ref meta, .. } = *record;
            if expires_at == 0 || expires_at > scan.skip_expired_at {
                page.push(ScannedRecord { key, version, expires_at, meta });
            }
        }
        page
    }

    fn commit(&mut self, commit: Commit) -> Outcome {
        let held = |e: &super::Precondition| {
            self.records.get(&e.key).map_or(0, |record| record.version) == e.version
        };
        if !commit.preconditions.iter().all(held) {
            self.stats.conflicts += 1;
            return Outcome::Conflict;
        }
        let version = commit.version_min.max(self.last_version + 1);
        self.last_version = version;
        for write in commit.mutations {
            self.write(write, version);
        }
        self.stats.commits += 1;
        self.stats.groups += 1;
        Outcome::Committed(version)
    }

    fn write(&mut self, write: Mutation, version: u64) {
        let first = write.key.first().copied().unwrap_or_default();
        let key = Bytes::copy_from_slice(&write.key);
        let old = match write.record {
            Some(new) => {
                let (expires_at, meta) = (new.expires_at, Bytes::copy_from_slice(&new.meta));
                // A body may be a slice of a much larger network buffer: keep only the slice.
                let body = match new.body {
                    Body::Bytes(bytes) => Body::Bytes(Bytes::copy_from_slice(&bytes)),
                    Body::Stored(stored) => Body::Stored(stored),
                };
                if expires_at > 0 {
                    self.expires_at.insert((expires_at, key.clone()));
                }
                *self.counts.entry(first).or_default() += 1;
                self.records.insert(key.clone(), Record { version, expires_at, meta, body })
            }
            None => self.records.remove(&key),
        };
        if let Some(old) = old {
            let still = self.records.get(&key).map_or(0, |record| record.expires_at);
            if old.expires_at > 0 && old.expires_at != still {
                self.expires_at.remove(&(old.expires_at, key));
            }
            if let Some(count) = self.counts.get_mut(&first) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

impl Engine for Memory {
    fn read<'a>(
        &'a self,
        key: &'a [u8],
        part: Projection,
    ) -> BoxFuture<'a, Result<Option<Record>>> {
        Box::pin(async move {
            let mut found = self.shared()?.records.get(key).cloned();
            if let (Projection::Meta, Some(record)) = (part, &mut found) {
                record.body = Body::EMPTY;
            }
            Ok(found)
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move { Ok(self.shared()?.scan(&scan)) })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            let records = self.shared()?.records.clone();
            Ok(Box::new(Frozen { records }) as Box<dyn Snapshot>)
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(async move {
            let state = self.shared()?;
            let mut found = Vec::new();
            for (_, key) in state
                .expires_at
                .iter()
                .take_while(|(expires_at, _)| *expires_at <= until)
                .take(limit)
            {
                let version = state.records.get(key).map_or(0, |record| record.version);
                found.push((key.clone(), version));
            }
            Ok(found)
        })
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { Ok(self.shared()?.counts.get(&first).copied().unwrap_or(0)) })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move { Ok(self.exclusive()?.commit(commit)) })
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        Box::pin(async move { Ok(Box::new(MemoryStage::default()) as Box<dyn BlobWriter>) })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.exclusive()?.closed = true;
            Ok(())
        })
    }

    fn stats(&self) -> Stats {
        self.state.read().map(|state| state.stats).unwrap_or_default()
    }
}

/// A copy of the map; keys and bodies are shared with it.
struct Frozen {
    records: BTreeMap<Bytes, Record>,
}

impl Snapshot for Frozen {
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        bytes: u64,
    ) -> BoxFuture<'_, Result<Vec<KeyedRecord>>> {
        let (mut found, mut held) = (Vec::new(), 0);
        let range = (start < end).then(|| self.records.range(start..end));
        for (key, record) in range.into_iter().flatten().take(limit) {
            found.push((key.clone(), record.clone()));
            held += record.body.len();
            if held >= bytes {
                break;
            }
        }
        Box::pin(async { Ok(found) })
    }
}

#[derive(Default)]
struct MemoryStage {
    bytes: BytesMut,
}

impl BlobWriter for MemoryStage {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>> {
        self.bytes.extend_from_slice(&chunk);
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body>> {
        Box::pin(async move { Ok(Body::Bytes(self.bytes.freeze())) })
    }
}
