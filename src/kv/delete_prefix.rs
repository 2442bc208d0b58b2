//! Deleting many items at once, by what their keys begin with.

use super::types::StoreId;
use super::{Error, Kv, keyspace};
use crate::engine::{Commit, Mutation, Outcome, Precondition, Scan};

/// Items deleted in one commit; others have their turn in between.
const GROUP_ITEMS: usize = 500;
/// Items looked at together.
const COUNT_ITEMS: usize = 1000;
/// After so many commits in a row that met others' writes it gives up.
const CROSSED_MAX: usize = 100;

/// How a [`Kv::clear`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixDeletion {
    /// Items deleted; expired ones are not counted.
    pub deleted: u64,
    /// Whether there are more.
    pub more: bool,
}

impl Kv {
    /// Deletes up to `limit` items whose keys begin with `prefix`, in the order of their keys. An
    /// item that is written meanwhile is deleted as it is then. What was deleted is durable, also
    /// when it fails in the end.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::Busy`], or when the engine fails.
    pub async fn delete_prefix(
        &self,
        store: &StoreId,
        prefix: &str,
        limit: u64,
    ) -> Result<PrefixDeletion, Error> {
        self.open_store(store).await?;
        let mut start = keyspace::prefixed_items(store, prefix);
        let end = keyspace::end_of(&start);
        let (mut deleted, mut crossed) = (0, 0);
        loop {
            let left = usize::try_from(limit - deleted).unwrap_or(usize::MAX).min(GROUP_ITEMS);
            let skip_expired_at = self.clock.now();
            // One more than wanted tells whether there are more.
            let limit = left + 1;
            let (from, to) = (start.clone(), end.clone());
            let scan = Scan { start: from, end: to, limit, skip_expired_at, eventual: false };
            let page = self.engine.scan(scan).await?;
            if page.is_empty() || left == 0 {
                return Ok(PrefixDeletion { deleted, more: !page.is_empty() });
            }
            let mut commit = Commit { version_min: self.clock.now(), ..Commit::default() };
            for found in page.iter().take(left) {
                let key = bytes::Bytes::copy_from_slice(found.key);
                commit
                    .preconditions
                    .push(Precondition { key: key.clone(), version: found.version });
                commit.mutations.push(Mutation { key, record: None });
            }
            let gone = commit.mutations.len() as u64;
            let last = commit.mutations.last().map(|write| keyspace::after(&write.key));
            match self.engine.commit(commit).await? {
                Outcome::Committed(_) => {
                    (deleted, crossed) = (deleted + gone, 0);
                    start = last.unwrap_or(start);
                }
                Outcome::Conflict if crossed < CROSSED_MAX => crossed += 1,
                Outcome::Conflict => return Err(Error::Busy),
            }
        }
    }

    /// How many items there are whose keys begin with `prefix`; looks at each of them.
    ///
    /// # Errors
    /// [`Error::NoStore`], or when the engine fails.
    pub async fn count_prefix(&self, store: &StoreId, prefix: &str) -> Result<u64, Error> {
        self.open_store(store).await?;
        let mut start = keyspace::prefixed_items(store, prefix);
        let end = keyspace::end_of(&start);
        let mut count = 0;
        loop {
            let (from, to, skip_expired_at) = (start.clone(), end.clone(), self.clock.now());
            let limit = COUNT_ITEMS;
            let scan = Scan { start: from, end: to, limit, skip_expired_at, eventual: false };
            let page = self.engine.scan(scan).await?;
            count += page.len() as u64;
            match page.iter().last() {
                Some(last) if page.len() == limit => start = keyspace::after(last.key),
                _ => return Ok(count),
            }
        }
    }
}
