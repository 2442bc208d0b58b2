//! Purges expired items and tokens. Reads already treat them as absent; purging reclaims their
//! space.

use super::clock::SECOND;
use super::limits::EXPIRED_RETENTION_SECS;
use super::{Kv, Result};
use crate::engine::{Commit, Mutation, Outcome, Precondition};

/// Maximum number of records removed per commit. It is low, so that other writers do not wait long.
const PURGE_RECORDS: usize = 256;

impl Kv {
    /// Removes a batch of items and tokens that expired at least [`EXPIRED_RETENTION_SECS`] ago.
    /// Returns the number of records removed.
    pub async fn purge_expired(&self) -> Result<usize> {
        let until = self.clock.now().saturating_sub(EXPIRED_RETENTION_SECS * SECOND);
        let expired = self.engine.expired(until, PURGE_RECORDS).await?;
        if expired.is_empty() {
            return Ok(0);
        }
        let (mut preconditions, mut mutations) = (Vec::new(), Vec::new());
        for (key, version) in expired {
            preconditions.push(Precondition { key: key.clone(), version });
            mutations.push(Mutation { key, record: None });
        }
        let version_min = self.clock.now();
        let all = (preconditions.clone(), mutations.clone());
        let commit = Commit { version_min, preconditions: all.0, mutations: all.1 };
        if let Outcome::Committed(_) = self.engine.commit(commit).await? {
            return Ok(mutations.len());
        }
        // At least one record has been overwritten and must be kept. Remove the others one by one.
        let mut removed = 0;
        for (precondition, mutation) in preconditions.into_iter().zip(mutations) {
            let (preconditions, mutations) = (vec![precondition], vec![mutation]);
            let commit = Commit { version_min, preconditions, mutations };
            removed += usize::from(self.engine.commit(commit).await? != Outcome::Conflict);
        }
        Ok(removed)
    }
}
