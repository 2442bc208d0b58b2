//! Export of a store's items from one snapshot.

use super::items::{self, Item};
use super::types::StoreId;
use super::{Error, Kv, Result, keyspace};
use crate::engine::{Projection, Snapshot, successor};
use bytes::Bytes;

/// Maximum number of items, and of value bytes, per scan of the snapshot.
const PAGE_ITEMS: usize = 1000;
const PAGE_BYTES: u64 = 1 << 20;

/// A stream of a store's items in key order.
pub struct ExportStream {
    snapshot: Box<dyn Snapshot>,
    next: Bytes,
    end: Bytes,
    /// Length of the part of an engine key that precedes the item key, in bytes.
    key_offset: usize,
    /// The time at which expiry is evaluated.
    now: u64,
}

/// An item with its key.
pub type KeyedItem = (Bytes, Item);

impl Kv {
    /// Starts an export of the current items whose keys begin with `prefix`.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`].
    pub async fn export(&self, store: &StoreId, prefix: &str) -> Result<ExportStream> {
        let mut snapshot = self.engine.snapshot().await?;
        let now = self.clock.now();
        let store_key = keyspace::store(store);
        let found = snapshot.scan(store_key.clone(), successor(&store_key), 1, 1).await?;
        if found.is_empty() {
            return Err(Error::NoStore);
        }
        let next = keyspace::prefixed_items(store, prefix);
        let (end, key_offset) = (keyspace::prefix_end(&next), keyspace::items(store).len());
        Ok(ExportStream { snapshot, next, end, key_offset, now })
    }
}

impl ExportStream {
    /// Returns the next items; an empty list marks the end.
    ///
    /// # Errors
    /// Fails if the engine fails or a record is damaged.
    pub async fn next(&mut self) -> Result<Vec<KeyedItem>> {
        loop {
            let (start, end) = (self.next.clone(), self.end.clone());
            let page = self.snapshot.scan(start, end, PAGE_ITEMS, PAGE_BYTES).await?;
            let Some((last, _)) = page.last() else { return Ok(Vec::new()) };
            self.next = successor(last);
            let mut live = Vec::with_capacity(page.len());
            for (key, record) in page {
                if record.expires_at == 0 || record.expires_at > self.now {
                    let key = key.slice(self.key_offset..);
                    live.push((key, items::from_record(record, Projection::Full)?));
                }
            }
            if !live.is_empty() {
                return Ok(live);
            }
        }
    }
}
