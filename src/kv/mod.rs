//! What a KV store means: stores, items, their conditions, lists and lifetimes, over any engine.
//!
//! Nothing here knows HTTP, files or a named engine, and time comes through [`Clock`] alone. Every
//! write is the same walk: read what is there, let a pure function of [`decide`] judge it, commit
//! with the versions that were read as expectations, and on a conflict do it again.

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
use key_locks::Locks;
use std::sync::Arc;
use types::{StoreId, StoreName};

/// After so many conflicts in a row a write gives up; each of them is another write's success.
const ATTEMPTS_MAX: usize = 100;

/// What the API shows of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Its id, made at creation.
    pub id: StoreId,
    /// Its name, unique.
    pub name: StoreName,
    /// When it was created, in microseconds.
    pub created_at: u64,
    /// When it was created or last renamed, in microseconds.
    pub updated_at: u64,
}

/// All stores, over one engine.
pub struct Kv {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    locks: Locks,
    value_bytes_max: u64,
}

impl Kv {
    /// Over an engine and a clock; values may have up to `value_bytes_max` bytes.
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, value_bytes_max: u64) -> Kv {
        Kv { engine, clock, locks: Locks::default(), value_bytes_max }
    }

    /// The bound of a value, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// Bytes of memory that an upload of so many bytes may take, if `streamed` bytes are enough for
    /// an engine that takes it piece by piece; `None` for an upload of unknown size.
    pub fn upload_memory_bytes(&self, declared: Option<u64>, streamed: u64) -> u64 {
        let most = declared.unwrap_or(self.value_bytes_max);
        if self.engine.buffers_blobs() { most } else { most.min(streamed) }
    }

    /// How many stores there are.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn stores_count(&self) -> Result<u64, Error> {
        Ok(self.engine.count(keyspace::STORES).await?)
    }

    /// How many items there are, expired ones that still take space included.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn items_count(&self) -> Result<u64, Error> {
        Ok(self.engine.count(keyspace::ITEMS).await?)
    }

    /// The engine's figures.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Finishes what was accepted and shuts the engine.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn close(&self) -> Result<(), Error> {
        Ok(self.engine.close().await?)
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field breaks its rule.
    #[error("{field} {reason}")]
    Invalid {
        /// The field's name in the API.
        field: &'static str,
        /// The rule, to follow the name in a sentence.
        reason: String,
    },
    /// There is no such store.
    #[error("no store with that id")]
    NoStore,
    /// There is no such item.
    #[error("no item with that key")]
    NoItem,
    /// There is no such token.
    #[error("no token with that id")]
    NoToken,
    /// Whoever asks may not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A store of that name exists.
    #[error("store with name '{0}' already exists")]
    StoreExists(String),
    /// The store has items.
    #[error("the store is not empty; delete its items first")]
    StoreNotEmpty,
    /// A condition of the write does not hold.
    #[error("the item does not meet the condition")]
    Precondition,
    /// The value is larger than allowed.
    #[error("value must have at most {0} bytes")]
    TooLarge(u64),
    /// Others kept changing the same item for too long.
    #[error("the item is written by too many others at once")]
    Busy,
    /// There is no space for writes.
    #[error("storage is full: {0}")]
    Full(String),
    /// The storage cannot be reached; nothing was written.
    #[error("storage cannot be reached: {0}")]
    Unavailable(String),
    /// The server failed; a write may or may not have happened.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// A field that breaks its rule.
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
        Error::Invalid { field, reason: reason.into() }
    }
}

impl From<EngineError> for Error {
    fn from(e: EngineError) -> Error {
        match e {
            EngineError::Full(what) => Error::Full(what),
            EngineError::Unavailable(what) => Error::Unavailable(what),
            e @ (EngineError::Closed | EngineError::Corrupt(_) | EngineError::Failed(_)) => {
                Error::Internal(e.to_string())
            }
        }
    }
}
