//! Items that come from elsewhere, and keep what they had there.

use super::batch::BatchItem;
use super::codec::ItemMeta;
use super::items;
use super::preconditions::Current;
use super::types::StoreId;
use super::{ATTEMPTS_MAX, Error, Kv, keyspace};
use crate::engine::{Commit, Mutation, NewRecord, Outcome, Precondition, Projection};
use crate::wire::IfExists;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// No generation that is brought along may be larger: 2^53 - 1, the largest that every client
/// reads as it is.
pub const GENERATION_BROUGHT_MAX: u64 = (1 << 53) - 1;

/// A generation that an item had elsewhere: 1 to [`GENERATION_BROUGHT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedGeneration(u64);

impl ImportedGeneration {
    /// Checks a generation.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of its bounds.
    pub fn new(generation: u64) -> Result<ImportedGeneration, Error> {
        if (1..=GENERATION_BROUGHT_MAX).contains(&generation) {
            return Ok(ImportedGeneration(generation));
        }
        let reason = format!("must be a whole number from 1 to {GENERATION_BROUGHT_MAX}");
        Err(Error::invalid("generation", reason))
    }
}

/// A line, and what the item had where it comes from.
#[derive(Clone, Debug)]
pub struct ImportItem {
    /// As in a batch; its time to live counts from now.
    pub line: BatchItem,
    /// When it expires, in microseconds; instead of a time to live.
    pub expires: Option<u64>,
    /// Its generation there.
    pub generation: Option<ImportedGeneration>,
    /// When it was written there, in microseconds.
    pub modified: Option<u64>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It is written.
    Written,
    /// There was an item, which stays.
    Exists,
    /// Its time was over.
    Expired,
}

impl Kv {
    /// Puts items as they were elsewhere, and says for each what became of it. All are durable
    /// when it answers, or none was written (unless the engine failed). Of lines with the same key
    /// the last one stays; with [`IfExists::Skip`] the first.
    ///
    /// A later write of a key has a greater generation than the one that was brought along.
    ///
    /// # Errors
    /// [`Error::NoStore`], or when the engine fails.
    pub async fn import(
        &self,
        store: &StoreId,
        arrivals: &[ImportItem],
        if_exists: IfExists,
    ) -> Result<Vec<ImportOutcome>, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let now = self.clock.now();
            let mut commit = self.open_store(store).await?.commit(now);
            let mut outcome = vec![ImportOutcome::Written; arrivals.len()];
            for (arrival, outcome) in arrivals.iter().zip(&mut outcome) {
                if arrival.expires.is_some_and(|expires| expires <= now) {
                    *outcome = ImportOutcome::Expired;
                }
            }
            match if_exists {
                IfExists::Overwrite => last_of_each(store, arrivals, &outcome, now, &mut commit),
                IfExists::Skip | IfExists::Fail => {
                    self.first_of_each(store, arrivals, &mut outcome, now, &mut commit).await?;
                }
            }
            if commit.mutations.is_empty() {
                return Ok(outcome);
            }
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(outcome);
            }
        }
        Err(Error::Busy)
    }

    /// Fills a commit with the first line of each key under which there is nothing.
    async fn first_of_each(
        &self,
        store: &StoreId,
        arrivals: &[ImportItem],
        outcome: &mut [ImportOutcome],
        now: u64,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let mut firsts = HashMap::with_capacity(arrivals.len());
        for (at, arrival) in arrivals.iter().enumerate() {
            let key = keyspace::item(store, &arrival.line.key);
            match outcome.get_mut(at) {
                Some(ImportOutcome::Expired) | None => {}
                Some(outcome) => match firsts.contains_key(&key) {
                    true => *outcome = ImportOutcome::Exists,
                    false => drop(firsts.insert(key, at)),
                },
            }
        }
        let reads = firsts.keys().map(|key| self.engine.read(key, Projection::Meta));
        let found = futures_util::future::try_join_all(reads).await?;
        for ((key, at), found) in firsts.iter().zip(found) {
            match self.current(found.as_ref())? {
                Current::Live { .. } => {
                    outcome.get_mut(*at).into_iter().for_each(|o| *o = ImportOutcome::Exists);
                }
                Current::Absent | Current::Expired => {
                    let version = found.map_or(0, |record| record.version);
                    commit.preconditions.push(Precondition { key: key.clone(), version });
                    let arrival = arrivals.get(*at);
                    arrival.into_iter().for_each(|arrival| arrival.put(key.clone(), now, commit));
                }
            }
        }
        Ok(())
    }
}

/// Fills a commit with the last line of each key.
fn last_of_each(
    store: &StoreId,
    arrivals: &[ImportItem],
    outcome: &[ImportOutcome],
    now: u64,
    commit: &mut Commit,
) {
    let mut seen = HashSet::with_capacity(arrivals.len());
    for (arrival, outcome) in arrivals.iter().zip(outcome).rev() {
        let key = keyspace::item(store, &arrival.line.key);
        if *outcome == ImportOutcome::Written && seen.insert(key.clone()) {
            arrival.put(key, now, commit);
        }
    }
}

impl ImportItem {
    fn put(&self, key: Bytes, now: u64, commit: &mut Commit) {
        let BatchItem { ttl, metadata, value, .. } = &self.line;
        let expires_at = self.expires.unwrap_or_else(|| items::expires_at(*ttl, now));
        let generation = self.generation.map(|ImportedGeneration(generation)| generation);
        // Whatever is written later under the key has a greater one.
        commit.version_min = commit.version_min.max(generation.unwrap_or(0));
        let (modified, size) = (self.modified.unwrap_or(now), value.len());
        let meta = ItemMeta { generation, modified, size, metadata: metadata.clone() };
        let record = NewRecord { expires_at, meta: meta.encode(), body: value.0.clone() };
        commit.mutations.push(Mutation { key, record: Some(record) });
    }
}
