//! Several engines that share the same data, like several processes. Each call uses a random
//! engine.

use super::ProcessPicker;
use bytes::Bytes;
use std::sync::Arc;
use steadfast::engine::{
    BlobWriter, BoxFuture, Commit, Engine, Outcome, Projection, Record, Result, Scan, ScanPage,
    Snapshot, Stats,
};

/// Distributes calls among engines; see the module documentation.
pub(crate) struct MultiProcessEngine {
    engines: Vec<Arc<dyn Engine>>,
    picker: ProcessPicker,
}

impl MultiProcessEngine {
    pub(crate) fn new(engines: Vec<Arc<dyn Engine>>) -> MultiProcessEngine {
        MultiProcessEngine { picker: ProcessPicker::new(engines.len()), engines }
    }

    fn next(&self) -> &dyn Engine {
        &*self.engines[self.picker.next()]
    }
}

impl Engine for MultiProcessEngine {
    fn read<'a>(
        &'a self,
        key: &'a [u8],
        part: Projection,
    ) -> BoxFuture<'a, Result<Option<Record>>> {
        self.next().read(key, part)
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>> {
        self.next().scan(scan)
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>> {
        self.next().snapshot()
    }

    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>> {
        self.next().expired(until, limit)
    }

    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>> {
        self.next().count(first)
    }

    /// Commits to a random engine. The bodies may come from another engine, so they must be bytes
    /// and not stored blobs.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>> {
        self.next().commit(commit)
    }

    fn buffers_blobs(&self) -> bool {
        self.next().buffers_blobs()
    }

    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>> {
        self.next().create_blob()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            for engine in &self.engines {
                engine.close().await?;
            }
            Ok(())
        })
    }

    fn stats(&self) -> Stats {
        self.next().stats()
    }
}
