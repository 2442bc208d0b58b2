//! The reference engine: sorted maps in memory behind one lock, without persistence.

use super::{
    BlobWriter, Body, BoxFuture, Commit, Engine, EngineError, KeyedRecord, Mutation, Outcome,
    Projection, ReadFuture, Record, Result, Scan, ScanPage, ScannedRecord, Snapshot, Stats,
};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An engine whose contents are lost when it is dropped.
#[derive(Default)]
pub struct Memory {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    records: BTreeMap<Bytes, Record>,
    /// Keys of expiring records, ordered by expiry time.
    by_expiry: BTreeSet<(u64, Bytes)>,
    /// Number of records by the first byte of their keys.
    counts: BTreeMap<u8, u64>,
    last_version: u64,
    closed: bool,
    stats: Stats,
}

impl Memory {
    /// Creates an empty engine.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn read_lock(&self) -> Result<RwLockReadGuard<'_, Tables>> {
        let tables = self.tables.read().map_err(poisoned)?;
        if tables.closed { Err(EngineError::Closed) } else { Ok(tables) }
    }

    fn write_lock(&self) -> Result<RwLockWriteGuard<'_, Tables>> {
        let tables = self.tables.write().map_err(poisoned)?;
        if tables.closed { Err(EngineError::Closed) } else { Ok(tables) }
    }
}

fn poisoned<T>(_: std::sync::PoisonError<T>) -> EngineError {
    EngineError::Failed("a commit panicked while holding the lock".into())
}

impl Tables {
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
        let version_of = |key| self.records.get(key).map_or(0, |record: &Record| record.version);
        if !commit.preconditions.iter().all(|p| version_of(&p.key) == p.version) {
            self.stats.conflicts += 1;
            return Outcome::Conflict;
        }
        let version = commit.version_min.max(self.last_version + 1);
        self.last_version = version;
        for mutation in commit.mutations {
            self.apply(mutation, version);
        }
        self.stats.commits += 1;
        self.stats.groups += 1;
        Outcome::Committed(version)
    }

    fn apply(&mut self, mutation: Mutation, version: u64) {
        let first = mutation.key.first().copied().unwrap_or_default();
        let key = Bytes::copy_from_slice(&mutation.key);
        let old = match mutation.record {
            Some(new) => {
                let (expires_at, meta) = (new.expires_at, Bytes::copy_from_slice(&new.meta));
                // The body is copied, because it may be a slice of a much larger network buffer.
                let body = match new.body {
                    Body::Bytes(bytes) => Body::Bytes(Bytes::copy_from_slice(&bytes)),
                    Body::Stored(stored) => Body::Stored(stored),
                };
                if expires_at > 0 {
                    self.by_expiry.insert((expires_at, key.clone()));
                }
                *self.counts.entry(first).or_default() += 1;
                self.records.insert(key.clone(), Record { version, expires_at, meta, body })
            }
            None => self.records.remove(&key),
        };
        if let Some(old) = old {
            let new_expiry = self.records.get(&key).map_or(0, |record| record.expires_at);
            if old.expires_at > 0 && old.expires_at != new_expiry {
                self.by_expiry.remove(&(old.expires_at, key));
            }
            if let Some(count) = self.counts.get_mut(&first) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

impl Engine for Memory {
    fn read<'a>(&'a self, key: &'a [u8], projection: Projection) -> ReadFuture<'a> {
        Box::pin(async move {
            let mut found = self.read_lock()?.records.get(key).cloned();
            if let (Projection::Meta, Some(record)) = (projection, &mut found) {
                record.body = Body::EMPTY;
            }
            Ok(found)
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move { Ok(self.read_lock()?.scan(&scan)) })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        Box::pin(async move {
            let records = self.read_lock()?.records.clone();
            Ok(Box::new(MemorySnapshot(records)) as Box<dyn Snapshot>)
        })
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        Box::pin(async move {
            let tables = self.read_lock()?;
            let expired = tables.by_expiry.iter().take_while(|(at, _)| *at <= until);
            let with_version = |(_, key): &(u64, Bytes)| {
                (key.clone(), tables.records.get(key).map_or(0, |record| record.version))
            };
            Ok(expired.take(limit).map(with_version).collect())
        })
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { Ok(self.read_lock()?.counts.get(&first).copied().unwrap_or(0)) })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move { Ok(self.write_lock()?.commit(commit)) })
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        Box::pin(async move { Ok(Box::new(MemoryBlobWriter::default()) as Box<dyn BlobWriter>) })
    }

    fn buffers_blobs(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.write_lock()?.closed = true;
            Ok(())
        })
    }

    fn stats(&self) -> Stats {
        self.tables.read().map(|tables| tables.stats).unwrap_or_default()
    }
}

/// A copy of the record map; keys and bodies are shared with the original.
struct MemorySnapshot(BTreeMap<Bytes, Record>);

impl Snapshot for MemorySnapshot {
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        bytes: u64,
    ) -> BoxFuture<'_, Result<Vec<KeyedRecord>>> {
        let (mut records, mut body_bytes) = (Vec::new(), 0);
        let range = (start < end).then(|| self.0.range(start..end));
        for (key, record) in range.into_iter().flatten().take(limit) {
            records.push((key.clone(), record.clone()));
            body_bytes += record.body.len();
            if body_bytes >= bytes {
                break;
            }
        }
        Box::pin(async { Ok(records) })
    }
}

#[derive(Default)]
struct MemoryBlobWriter(BytesMut);

impl BlobWriter for MemoryBlobWriter {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>> {
        self.0.extend_from_slice(&chunk);
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body>> {
        Box::pin(async move { Ok(Body::Bytes(self.0.freeze())) })
    }
}
