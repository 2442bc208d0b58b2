//! The interface to the store that is compared with the model.

use steadfast::kv::Error;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::types::Ttl;

/// An item as read.
pub(crate) struct ReadItem {
    pub(crate) value: Vec<u8>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) generation: u64,
    /// The expiry; `None` if the interface does not report it.
    pub(crate) expires: Option<Option<u64>>,
}

/// One store, reached through one or several processes. Writes name their process (`by`), because
/// generations are ordered per process; reads choose one.
pub(crate) trait StoreUnderTest {
    fn processes(&self) -> usize;
    /// The process for the next operation.
    fn next(&self) -> usize;
    async fn put(&self, by: usize, key: &str, put: &PutRequest, value: &[u8])
    -> Result<u64, Error>;
    async fn delete(&self, by: usize, key: &str, delete: DeleteRequest) -> Result<(), Error>;
    async fn batch(&self, by: usize, lines: &[(&str, Option<Ttl>, Vec<u8>)]);
    /// All keys with this prefix, read in pages of `limit`.
    async fn list(&self, prefix: &str, limit: usize) -> Vec<String>;
    async fn get(&self, key: &str) -> Option<ReadItem>;
    /// The size and generation of an item that exists.
    async fn head(&self, key: &str) -> (u64, u64);
    /// The name of the store.
    async fn name(&self) -> String;
    async fn rename(&self, name: &str);
    async fn delete_store(&self) -> Result<(), Error>;
    /// Reopens the store, or kills a process and restarts it; returns the process that was killed.
    async fn reopen(&mut self) -> Option<usize>;
    /// Sets the clock; returns whether the clock can be set.
    fn set_clock(&self, now: u64) -> bool;
    /// Removes all items whose expiry is past the retention of expired records.
    async fn sweep(&self);
    /// The number of stored records, expired ones included; `None` if it is unknown.
    async fn count(&self) -> Option<u64>;
    async fn close(&self);
}
