//! Many puts in one commit.

use super::types::{Key, Metadata, StoreId, Ttl};
use super::{ATTEMPTS_MAX, Error, Kv, Value, items, keyspace};
use crate::engine::Outcome;
use std::collections::HashSet;

/// One put of a batch: a plain overwrite.
#[derive(Clone, Debug)]
pub struct BatchItem {
    /// The item's key.
    pub key: Key,
    /// For how long it lives from now.
    pub ttl: Option<Ttl>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its value, already checked against the bound.
    pub value: Value,
}

impl Kv {
    /// Puts items in the order given: the last one of a key stays. All of them are durable when it
    /// answers, or none was written (unless the engine failed).
    ///
    /// # Errors
    /// [`Error::NoStore`], or when the engine fails.
    pub async fn put_batch(&self, store: &StoreId, lines: Vec<BatchItem>) -> Result<(), Error> {
        let mut seen = HashSet::with_capacity(lines.len());
        let mut last = Vec::with_capacity(lines.len());
        for line in lines.into_iter().rev() {
            let key = keyspace::item(store, &line.key);
            if seen.insert(key.clone()) {
                last.push((key, line));
            }
        }
        for _ in 0..ATTEMPTS_MAX {
            let now = self.clock.now();
            let mut commit = self.open_store(store).await?.commit(now);
            commit.mutations.extend(last.iter().map(|(key, line)| {
                let expires_at = items::expires_at(line.ttl, now);
                items::write(key.clone(), expires_at, &line.metadata, line.value.0.clone(), now)
            }));
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }
}
