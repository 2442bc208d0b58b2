//! The interface of the store that is compared with the model.

use steadfast::kv::Error;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::types::Ttl;

/// An item as the store returns it.
pub(crate) struct ReadItem {
    pub(crate) value: Vec<u8>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) generation: u64,
    /// The expiry, or `None` if the interface does not report it.
    pub(crate) expires: Option<Option<u64>>,
}

/// A store that is accessed through one or more processes. The caller chooses the process for a
/// write (`by`), because generations are ordered per process. A read may use any process.
pub(crate) trait StoreUnderTest {
    fn processes(&self) -> usize;
    /// Chooses the process for the next operation.
    fn next(&self) -> usize;
    async fn put(&self, by: usize, key: &str, put: &PutRequest, value: &[u8])
    -> Result<u64, Error>;
    async fn delete(&self, by: usize, key: &str, delete: DeleteRequest) -> Result<(), Error>;
    async fn batch(&self, by: usize, lines: &[(&str, Option<Ttl>, Vec<u8>)]);
    /// Returns all keys with this prefix. Reads them in pages of `limit` keys.
    async fn list(&self, prefix: &str, limit: usize) -> Vec<String>;
    async fn get(&self, key: &str) -> Option<ReadItem>;
    /// Returns the size and generation of an item that exists.
    async fn head(&self, key: &str) -> (u64, u64);
    /// Returns the name of the store.
    async fn name(&self) -> String;
    async fn rename(&self, name: &str);
    async fn delete_store(&self) -> Result<(), Error>;
    /// Reopens the store, or kills and restarts a process. Returns the process that was killed.
    async fn reopen(&mut self) -> Option<usize>;
    /// Sets the clock if possible; returns whether it was set.
    fn set_clock(&self, now: u64) -> bool;
    /// Removes all expired items whose retention period is over.
    async fn sweep(&self);
    /// Returns the number of stored items including expired ones, or `None` if it is unknown.
    async fn count(&self) -> Option<u64>;
    async fn close(&self);
}
