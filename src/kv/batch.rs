//! Batches: many puts in one commit.

use super::types::{Key, Metadata, StoreId, Ttl};
use super::{ATTEMPTS_MAX, Error, Kv, Result, Value, items, keyspace};
use crate::engine::Outcome;
use std::collections::HashSet;

/// An unconditional put in a batch.
#[derive(Clone, Debug)]
pub struct BatchItem {
    /// The item's key.
    pub key: Key,
    /// Time to live; `None` if the item does not expire.
    pub ttl: Option<Ttl>,
    /// The user metadata.
    pub metadata: Metadata,
    /// The value, whose size the caller has checked.
    pub value: Value,
}

impl Kv {
    /// Puts all items atomically and durably. If several items have the same key, the last one
    /// wins.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`].
    pub async fn put_batch(&self, store: &StoreId, batch: Vec<BatchItem>) -> Result<()> {
        let mut seen = HashSet::with_capacity(batch.len());
        let mut puts = Vec::with_capacity(batch.len());
        for item in batch.into_iter().rev() {
            let key = keyspace::item(store, &item.key);
            if seen.insert(key.clone()) {
                puts.push((key, item));
            }
        }
        for _ in 0..ATTEMPTS_MAX {
            let now = self.clock.now();
            let mut commit = self.require_store(store).await?.into_commit(now);
            commit.mutations.extend(puts.iter().map(|(key, item)| {
                let (expires_at, body) = (items::expiry(item.ttl, now), item.value.0.clone());
                items::put_mutation(key.clone(), expires_at, &item.metadata, body, now)
            }));
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }
}
