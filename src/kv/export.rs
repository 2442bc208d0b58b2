//! All items of a store as they were at one moment.

use super::items::{self, Item};
use super::types::StoreId;
use super::{Error, Kv, keyspace};
use crate::engine::{Projection, Snapshot};
use bytes::Bytes;

/// Items and bytes of values taken from the snapshot at once.
const PAGE_ITEMS: usize = 1000;
const PAGE_BYTES: u64 = 1 << 20;

/// A walk through the items of a store, in the order of their keys.
pub struct ExportStream {
    snapshot: Box<dyn Snapshot>,
    next: Bytes,
    end: Bytes,
    /// Bytes before the key of an item.
    skip: usize,
    /// Items that expired by then are not in it.
    now: u64,
}

/// An item under its key.
pub type KeyedItem = (Bytes, Item);

impl Kv {
    /// All items of a store whose keys begin with `prefix`, as they are now.
    ///
    /// # Errors
    /// [`Error::NoStore`], or when the engine fails.
    pub async fn export(&self, store: &StoreId, prefix: &str) -> Result<ExportStream, Error> {
        let mut snapshot = self.engine.snapshot().await?;
        let now = self.clock.now();
        let at = keyspace::store(store);
        let found = snapshot.scan(at.clone(), keyspace::after(&at), 1, 1).await?;
        if found.is_empty() {
            return Err(Error::NoStore);
        }
        let next = keyspace::prefixed_items(store, prefix);
        let (end, skip) = (keyspace::end_of(&next), keyspace::items(store).len());
        Ok(ExportStream { snapshot, next, end, skip, now })
    }
}

impl ExportStream {
    /// The next items; none at the end.
    ///
    /// # Errors
    /// When the engine fails, or finds something damaged.
    pub async fn next(&mut self) -> Result<Vec<KeyedItem>, Error> {
        loop {
            let (start, end) = (self.next.clone(), self.end.clone());
            let page = self.snapshot.scan(start, end, PAGE_ITEMS, PAGE_BYTES).await?;
            let Some((last, _)) = page.last() else { return Ok(Vec::new()) };
            self.next = keyspace::after(last);
            let mut found = Vec::with_capacity(page.len());
            for (key, record) in page {
                if record.expires_at == 0 || record.expires_at > self.now {
                    found.push((key.slice(self.skip..), items::item(record, Projection::Full)?));
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}
