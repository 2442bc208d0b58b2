//! What the model is held against: one store, reached through one process or several.

use steadfast::kv::Error;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::types::Ttl;

/// An item as it was read.
pub(crate) struct Found {
    pub(crate) value: Vec<u8>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) generation: u64,
    /// When it expires, where that is told.
    pub(crate) expires: Option<Option<u64>>,
}

/// Writes say which process makes them, as that bounds their generation; all else goes through
/// another process each time.
pub(crate) trait Face {
    fn processes(&self) -> usize;
    /// Whose turn it is.
    fn next(&self) -> usize;
    async fn put(&self, by: usize, key: &str, put: &PutRequest, value: &[u8])
    -> Result<u64, Error>;
    async fn delete(&self, by: usize, key: &str, delete: DeleteRequest) -> Result<(), Error>;
    async fn batch(&self, by: usize, lines: &[(&str, Option<Ttl>, Vec<u8>)]);
    /// All keys, by pages of `limit`.
    async fn list(&self, prefix: &str, limit: usize) -> Vec<String>;
    async fn get(&self, key: &str) -> Option<Found>;
    /// Size and generation of an item that is there.
    async fn head(&self, key: &str) -> (u64, u64);
    /// The name of the store.
    async fn name(&self) -> String;
    async fn rename(&self, name: &str);
    async fn delete_store(&self) -> Result<(), Error>;
    /// Begins anew with what was kept; answers which process was killed, if one was.
    async fn reopen(&mut self) -> Option<usize>;
    /// Whether the time is what the test says.
    fn set_clock(&self, now: u64) -> bool;
    /// Removes all that is long expired.
    async fn sweep(&self);
    /// How many items take space, where that is told.
    async fn count(&self) -> Option<u64>;
    async fn close(&self);
}
