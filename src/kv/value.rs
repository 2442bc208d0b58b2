//! Item values, which are held in memory or stored as a blob by the engine.

use super::{Error, Result};
pub use crate::engine::SINGLE_READ_BYTES_MAX;
use crate::engine::{Body, INLINE_BYTES_MAX};
use bytes::Bytes;

/// Chunk size for reading values larger than [`SINGLE_READ_BYTES_MAX`], in bytes. An aligned chunk
/// is one checksummed block of the engine. An uploaded value of up to this size is kept in memory.
pub const PIECE_BYTES: usize = INLINE_BYTES_MAX;

/// The value of an item.
#[derive(Clone, Debug)]
pub struct Value(pub(super) Body);

impl Value {
    /// An empty value.
    pub const EMPTY: Value = Value(Body::EMPTY);

    /// Returns the size of the value, in bytes.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes of the value if they are in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.0 {
            Body::Bytes(bytes) => Some(bytes),
            Body::Stored(_) => None,
        }
    }

    /// Reads `len` bytes at `offset`; the range must lie within the value.
    ///
    /// # Errors
    /// Fails if the engine fails or the bytes are damaged.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        Ok(self.0.read(offset, len).await?)
    }

    /// Reads the whole value; the caller must ensure that it fits in memory.
    ///
    /// # Errors
    /// Same as [`Value::read`].
    pub async fn read_all(&self) -> Result<Bytes> {
        let len = usize::try_from(self.len()).map_err(|e| Error::Internal(e.to_string()))?;
        self.read(0, len).await
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Value {
        Value(Body::Bytes(bytes))
    }
}
