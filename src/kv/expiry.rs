//! Taking back the space of expired items, and of expired tokens with them. They are absent to
//! every read from the moment they expire; this is only about space.

use super::clock::SECOND;
use super::limits::EXPIRED_RETENTION_SECS;
use super::{Error, Kv};
use crate::engine::{Commit, Mutation, Outcome, Precondition};

/// Items removed in one commit; small, so that other writers wait for little.
const SWEEP_ITEMS: usize = 256;

impl Kv {
    /// Removes some of the items and tokens that expired at least [`EXPIRED_RETENTION_SECS`] ago;
    /// answers how many it removed, which is 0 when there are none left.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn purge_expired(&self) -> Result<usize, Error> {
        let until = self.clock.now().saturating_sub(EXPIRED_RETENTION_SECS * SECOND);
        let expires_at = self.engine.expired(until, SWEEP_ITEMS).await?;
        if expires_at.is_empty() {
            return Ok(0);
        }
        let (mut preconditions, mut write) = (Vec::new(), Vec::new());
        for (key, version) in expires_at {
            preconditions.push(Precondition { key: key.clone(), version });
            write.push(Mutation { key, record: None });
        }
        let version_min = self.clock.now();
        let all =
            Commit { version_min, preconditions: preconditions.clone(), mutations: write.clone() };
        if let Outcome::Committed(_) = self.engine.commit(all).await? {
            return Ok(write.len());
        }
        // Some were written anew meanwhile, and stay; one by one the others go.
        let mut removed = 0;
        for (preconditions, write) in preconditions.into_iter().zip(write) {
            let one =
                Commit { version_min, preconditions: vec![preconditions], mutations: vec![write] };
            removed += usize::from(self.engine.commit(one).await? != Outcome::Conflict);
        }
        Ok(removed)
    }
}
