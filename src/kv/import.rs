//! Imports items from another store, with their generations, expiry times and modification times.

use super::batch::BatchItem;
use super::clock::SECOND;
use super::codec::ItemMeta;
use super::items;
use super::preconditions::ItemState;
use super::types::StoreId;
use super::{ATTEMPTS_MAX, Error, Kv, Result, keyspace};
use crate::engine::{Commit, Mutation, NewRecord, Outcome, Precondition, Projection};
use crate::wire::IfExists;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// Maximum generation of a write or an import: 2^53 - 1, the largest integer that JavaScript
/// clients can represent exactly.
pub(super) const GENERATION_MAX: u64 = (1 << 53) - 1;
/// Maximum time by which an imported generation may be ahead of the clock, in microseconds: one
/// day. The server assigns greater generations to later writes.
const AHEAD_MAX: u64 = 24 * 60 * 60 * SECOND;

/// Returns the maximum generation of an imported item at time `now`.
pub(super) fn generation_max(now: u64) -> u64 {
    now.saturating_add(AHEAD_MAX).min(GENERATION_MAX)
}

/// The generation of an imported item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedGeneration(u64);

impl ImportedGeneration {
    /// Validates a generation at time `now`, in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the generation is 0, more than a day ahead of `now`, or at
    /// least 2^53.
    pub fn new(generation: u64, now: u64) -> Result<ImportedGeneration> {
        let max = generation_max(now);
        if (1..=max).contains(&generation) {
            return Ok(ImportedGeneration(generation));
        }
        let ahead = "a day ahead of the server's clock";
        let reason = format!("must be a whole number from 1 to {max}, which is {ahead}");
        Err(Error::invalid("generation", reason))
    }
}

/// An item to import, with the properties that it had in the source.
#[derive(Clone, Debug)]
pub struct ImportItem {
    /// Key, value, metadata, and the time to live from now.
    pub item: BatchItem,
    /// Expiry time, in microseconds since the Unix epoch; overrides the time to live.
    pub expires_at: Option<u64>,
    /// The item's generation in the source.
    pub generation: Option<ImportedGeneration>,
    /// The item's modification time in the source, in microseconds since the Unix epoch.
    pub modified_at: Option<u64>,
}

/// The outcome of importing one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The item was written.
    Written,
    /// An item with the same key already existed and was kept.
    Exists,
    /// The item has already expired and was not written.
    Expired,
}

impl Kv {
    /// Imports all items atomically and durably, and returns an outcome for each. If several items
    /// have the same key, the last one wins; with [`IfExists::Skip`] or [`IfExists::Fail`], the
    /// first one does.
    ///
    /// A later put of the same key gets a greater generation than the imported one.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`].
    pub async fn import(
        &self,
        store: &StoreId,
        imports: &[ImportItem],
        if_exists: IfExists,
    ) -> Result<Vec<ImportOutcome>> {
        for _ in 0..ATTEMPTS_MAX {
            let now = self.clock.now();
            let mut commit = self.require_store(store).await?.into_commit(now);
            let mut outcomes = vec![ImportOutcome::Written; imports.len()];
            for (import, outcome) in imports.iter().zip(&mut outcomes) {
                if import.expires_at.is_some_and(|expires_at| expires_at <= now) {
                    *outcome = ImportOutcome::Expired;
                }
            }
            match if_exists {
                IfExists::Overwrite => add_overwrites(store, imports, &outcomes, now, &mut commit),
                IfExists::Skip | IfExists::Fail => {
                    self.add_missing(store, imports, &mut outcomes, now, &mut commit).await?;
                }
            }
            if commit.mutations.is_empty() {
                return Ok(outcomes);
            }
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(outcomes);
            }
        }
        Err(Error::Busy)
    }

    /// For each key without a live item, adds its first import to the commit.
    async fn add_missing(
        &self,
        store: &StoreId,
        imports: &[ImportItem],
        outcomes: &mut [ImportOutcome],
        now: u64,
        commit: &mut Commit,
    ) -> Result<()> {
        let mut first = HashMap::with_capacity(imports.len());
        for (index, import) in imports.iter().enumerate() {
            let key = keyspace::item(store, &import.item.key);
            match outcomes.get_mut(index) {
                Some(ImportOutcome::Expired) | None => {}
                Some(outcome) => match first.contains_key(&key) {
                    true => *outcome = ImportOutcome::Exists,
                    false => drop(first.insert(key, index)),
                },
            }
        }
        let reads = first.keys().map(|key| self.engine.read(key, Projection::Meta));
        let records = futures_util::future::try_join_all(reads).await?;
        for ((key, index), record) in first.iter().zip(records) {
            let (Some(import), Some(outcome)) = (imports.get(*index), outcomes.get_mut(*index))
            else {
                continue;
            };
            match self.item_state(record.as_ref())? {
                ItemState::Live { .. } => *outcome = ImportOutcome::Exists,
                ItemState::Absent | ItemState::Expired => {
                    let version = record.map_or(0, |record| record.version);
                    commit.preconditions.push(Precondition { key: key.clone(), version });
                    import.add_to(key.clone(), now, commit);
                }
            }
        }
        Ok(())
    }
}

/// Adds the last import of each key to the commit.
fn add_overwrites(
    store: &StoreId,
    imports: &[ImportItem],
    outcomes: &[ImportOutcome],
    now: u64,
    commit: &mut Commit,
) {
    let mut seen = HashSet::with_capacity(imports.len());
    for (import, outcome) in imports.iter().zip(outcomes).rev() {
        let key = keyspace::item(store, &import.item.key);
        if *outcome == ImportOutcome::Written && seen.insert(key.clone()) {
            import.add_to(key, now, commit);
        }
    }
}

impl ImportItem {
    fn add_to(&self, key: Bytes, now: u64, commit: &mut Commit) {
        let BatchItem { ttl, metadata, value, .. } = &self.item;
        let expires_at = self.expires_at.unwrap_or_else(|| items::expiry(*ttl, now));
        let generation = self.generation.map(|ImportedGeneration(generation)| generation);
        // The generation of a later put is its version. Raising `version_min` keeps it above the
        // imported generation.
        commit.version_min = commit.version_min.max(generation.unwrap_or(0));
        let (modified_at, size) = (self.modified_at.unwrap_or(now), value.len());
        let meta = ItemMeta { generation, modified_at, size, metadata: metadata.clone() };
        let record = NewRecord { expires_at, meta: meta.encode(), body: value.0.clone() };
        commit.mutations.push(Mutation { key, record: Some(record) });
    }
}
