//! Deletes or counts the items whose keys have a common prefix.

use super::items::DeleteRequest;
use super::types::StoreId;
use super::{Error, Kv, Result, keyspace};
use crate::engine::{Commit, Mutation, Outcome, Precondition, Scan, successor};
use bytes::Bytes;

/// Maximum number of items deleted per commit. Other writers can proceed between commits.
const COMMIT_ITEMS: usize = 500;
/// Maximum number of items per scan when counting.
pub const SCAN_ITEMS: usize = 1000;
/// Maximum number of items counted by one request.
const COUNT_MAX: u64 = 1_000_000;

/// The result of [`Kv::delete_prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixDeletion {
    /// Number of live items deleted.
    pub deleted: u64,
    /// Whether items remain because the limit was reached.
    pub more: bool,
}

/// The result of [`Kv::count_prefix`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCount {
    /// Number of items counted.
    pub matched: u64,
    /// The last key counted if more items may follow; `None` if all were counted.
    pub last: Option<Vec<u8>>,
}

impl Kv {
    /// Deletes up to `limit` items whose keys begin with `prefix`, in key order.
    ///
    /// The deletion is not atomic. Items written while it runs may be deleted too, and items
    /// deleted before an error stay deleted.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`] or [`Error::Busy`].
    pub async fn delete_prefix(
        &self,
        store: &StoreId,
        prefix: &str,
        limit: u64,
    ) -> Result<PrefixDeletion> {
        self.require_store(store).await?;
        let mut start = keyspace::prefixed_items(store, prefix);
        let end = keyspace::prefix_end(&start);
        let (mut deleted, mut batch) = (0, COMMIT_ITEMS);
        loop {
            batch = batch.min(usize::try_from(limit - deleted).unwrap_or(usize::MAX));
            let (from, end, skip_expired_at) = (start.clone(), end.clone(), self.clock.now());
            // Scan one item more than needed, to find out whether items remain.
            let limit = batch + 1;
            let scan = Scan { start: from, end, limit, skip_expired_at, eventual: false };
            let page = self.engine.scan(scan).await?;
            let items = page.iter().take(batch);
            let items: Vec<_> =
                items.map(|item| (Bytes::copy_from_slice(item.key), item.version)).collect();
            let Some((last, _)) = items.last() else {
                return Ok(PrefixDeletion { deleted, more: !page.is_empty() });
            };
            let next = successor(last);
            match self.delete_scanned(store, items).await? {
                Some(count) => {
                    deleted += count;
                    (start, batch) = (next, COMMIT_ITEMS.min(2 * batch));
                }
                // Another writer has changed one of the items. Smaller batches conflict less often.
                None => batch = batch.div_ceil(2),
            }
        }
    }

    /// Deletes items by engine key and version, and returns the number deleted. Returns `None` if
    /// there are several items and one of them has changed.
    async fn delete_scanned(
        &self,
        store: &StoreId,
        mut items: Vec<(Bytes, u64)>,
    ) -> Result<Option<u64>> {
        if items.len() == 1
            && let Some((key, _)) = items.pop()
        {
            // `delete_at` locks the key, so that other writers cannot make the deletion conflict
            // forever.
            return match self.delete_at(store, &key, DeleteRequest::default()).await {
                Ok(()) => Ok(Some(1)),
                Err(Error::NoItem) => Ok(Some(0)),
                Err(e) => Err(e),
            };
        }
        let count = items.len() as u64;
        let mut commit = Commit { version_min: self.clock.now(), ..Commit::default() };
        for (key, version) in items {
            commit.preconditions.push(Precondition { key: key.clone(), version });
            commit.mutations.push(Mutation { key, record: None });
        }
        let outcome = self.engine.commit(commit).await?;
        Ok((outcome != Outcome::Conflict).then_some(count))
    }

    /// Counts up to a million items whose keys begin with `prefix` and follow `after`.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`].
    pub async fn count_prefix(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&[u8]>,
    ) -> Result<PrefixCount> {
        self.require_store(store).await?;
        let items = keyspace::items(store);
        let mut start = keyspace::prefixed_items(store, prefix);
        let end = keyspace::prefix_end(&start);
        if let Some(after) = after {
            start = successor(&[&items[..], after].concat()).max(start);
        }
        let mut matched = 0;
        loop {
            let (end, limit, skip_expired_at) = (end.clone(), SCAN_ITEMS, self.clock.now());
            let scan = Scan { start, end, limit, skip_expired_at, eventual: false };
            let page = self.engine.scan(scan).await?;
            matched += page.len() as u64;
            let Some(last) = page.iter().last().filter(|_| page.len() == limit) else {
                return Ok(PrefixCount { matched, last: None });
            };
            if matched >= COUNT_MAX {
                let last = last.key.get(items.len()..).map(<[u8]>::to_vec);
                return Ok(PrefixCount { matched, last });
            }
            start = successor(last.key);
            // A scan may complete without yielding, and only a task that yields can be cancelled.
            tokio::task::yield_now().await;
        }
    }
}
