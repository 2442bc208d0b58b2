//! The key-value data model: stores, items, tokens, preconditions, lists and expiry. It runs on any
//! engine.
//!
//! It does not depend on HTTP, files or a particular engine, and gets the time only from [`Clock`].
//! Writes use optimistic concurrency control. A write reads the current records, evaluates the pure
//! functions of [`preconditions`], commits on condition that the records are unchanged, and retries
//! on a conflict.

pub mod backup;
pub mod batch;
pub mod clock;
pub mod codec;
pub mod cursor;
pub mod delete_prefix;
pub mod expiry;
pub mod export;
pub mod import;
pub mod integrity;
pub mod items;
mod key_locks;
pub mod keyspace;
pub mod limits;
pub mod listing;
pub mod preconditions;
pub mod stores;
pub mod tokens;
pub mod types;
pub mod upload;
mod value;

pub use crate::engine::Stats;
pub use value::{PIECE_BYTES, SINGLE_READ_BYTES_MAX, Value};

use crate::engine::{Engine, EngineError};
use clock::Clock;
use items::Item;
use key_locks::KeyLocks;
use std::sync::Arc;
use types::{StoreId, StoreName};

/// Maximum number of attempts at a write. Each conflict means that another write succeeded.
const ATTEMPTS_MAX: usize = 100;

/// The result of an operation on the data model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The properties of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// The store's id, generated when the store is created.
    pub id: StoreId,
    /// The store's name, unique among all stores.
    pub name: StoreName,
    /// When the store was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// When the store was created or last renamed, in microseconds since the Unix epoch.
    pub updated_at: u64,
}

/// The stores of one engine. Every operation may return [`Error::Full`], [`Error::Unavailable`] or
/// [`Error::Internal`] if the engine fails, in addition to its documented errors.
pub struct Kv {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    locks: KeyLocks,
    value_bytes_max: u64,
}

impl Kv {
    /// Creates the data model on top of an engine. `value_bytes_max` is the maximum size of a
    /// value, in bytes.
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, value_bytes_max: u64) -> Kv {
        Kv { engine, clock, locks: KeyLocks::default(), value_bytes_max }
    }

    /// Returns the maximum size of a value, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// Returns the current time, in microseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Returns how much memory to reserve for an upload, in bytes. `declared` is the size of the
    /// value, if known. `streamed` is the maximum to reserve if the engine does not buffer blobs.
    pub fn upload_memory_bytes(&self, declared: Option<u64>, streamed: u64) -> u64 {
        let size = declared.unwrap_or(self.value_bytes_max);
        if self.engine.buffers_blobs() { size } else { size.min(streamed) }
    }

    /// Returns how much memory an item's value takes while it is being sent, in bytes.
    pub fn download_memory_bytes(&self, item: &Item) -> u64 {
        let streamed = item.size > SINGLE_READ_BYTES_MAX && !self.engine.buffers_blobs();
        // Sending a range of an in-memory value keeps the whole value allocated.
        if streamed { PIECE_BYTES as u64 } else { item.size }
    }

    /// Returns how much memory to reserve for a completely received value of `size` bytes, in
    /// bytes.
    pub fn held_memory_bytes(&self, size: u64) -> u64 {
        // The engine may keep a value in memory if it is small enough to be read in one call.
        let is_held = size <= SINGLE_READ_BYTES_MAX || self.engine.buffers_blobs();
        if is_held { size } else { PIECE_BYTES as u64 }
    }

    /// Returns the maximum of [`Kv::held_memory_bytes`] over all value sizes, in bytes.
    pub fn held_memory_bytes_max(&self) -> u64 {
        let max = self.value_bytes_max;
        if self.engine.buffers_blobs() { max } else { max.min(SINGLE_READ_BYTES_MAX) }
    }

    /// Returns the number of stores.
    pub async fn stores_count(&self) -> Result<u64> {
        Ok(self.engine.count(keyspace::STORES).await?)
    }

    /// Returns the number of items, including expired items that are not yet purged.
    pub async fn items_count(&self) -> Result<u64> {
        Ok(self.engine.count(keyspace::ITEMS).await?)
    }

    /// Returns the engine's statistics.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Completes all accepted writes and closes the engine.
    pub async fn close(&self) -> Result<()> {
        Ok(self.engine.close().await?)
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field is invalid.
    #[error("{field} {reason}")]
    Invalid {
        /// The name of the field in the API.
        field: &'static str,
        /// The rule that the field violates, phrased to follow the field's name.
        reason: String,
    },
    /// The store does not exist.
    #[error("no store with that id")]
    NoStore,
    /// The item does not exist.
    #[error("no item with that key")]
    NoItem,
    /// The token does not exist.
    #[error("no token with that id")]
    NoToken,
    /// The token does not permit the operation.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A store with the requested name already exists.
    #[error("store with name '{0}' already exists")]
    StoreExists(String),
    /// The store still has items.
    #[error("the store is not empty; delete its items first")]
    StoreNotEmpty,
    /// A precondition of the write failed.
    #[error("the item does not satisfy the precondition")]
    Precondition,
    /// The value is larger than this maximum, in bytes.
    #[error("value must be at most {0} bytes")]
    TooLarge(u64),
    /// Every attempt conflicted with a concurrent write.
    #[error("too many concurrent writes to the same item")]
    Busy,
    /// The storage is full; nothing was written.
    #[error("storage is full: {0}")]
    Full(String),
    /// The storage is unreachable; nothing was written.
    #[error("storage cannot be reached: {0}")]
    Unavailable(String),
    /// Any other failure; a write may or may not have been applied.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// Creates an [`Error::Invalid`].
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
        Error::Invalid { field, reason: reason.into() }
    }
}

impl From<EngineError> for Error {
    fn from(e: EngineError) -> Error {
        match e {
            EngineError::Full(e) => Error::Full(e),
            EngineError::Unavailable(e) => Error::Unavailable(e),
            e @ (EngineError::Closed | EngineError::Corrupt(_) | EngineError::Failed(_)) => {
                Error::Internal(e.to_string())
            }
        }
    }
}
