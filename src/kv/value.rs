//! A value: bytes in memory while there are few, or in the engine's keeping.

use super::Error;
pub use crate::engine::SINGLE_READ_BYTES_MAX;
use crate::engine::{Body, INLINE_BYTES_MAX};
use bytes::Bytes;

/// Values of up to so many bytes are in memory whole; those over [`SINGLE_READ_BYTES_MAX`] are best read
/// in pieces of this size, from multiples of it.
pub const PIECE_BYTES: usize = INLINE_BYTES_MAX;

/// The value of an item.
#[derive(Clone, Debug)]
pub struct Value(pub(super) Body);

impl Value {
    /// Of no bytes.
    pub const EMPTY: Value = Value(Body::EMPTY);

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its bytes, when they are in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.0 {
            Body::Bytes(bytes) => Some(bytes),
            Body::Stored(_) => None,
        }
    }

    /// `len` bytes from `offset`; the range must lie within the value.
    ///
    /// # Errors
    /// When the engine fails, or finds the bytes damaged.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        Ok(self.0.read(offset, len).await?)
    }

    /// All its bytes, for values that are known to be small enough.
    ///
    /// # Errors
    /// As [`Value::read`].
    pub async fn read_all(&self) -> Result<Bytes, Error> {
        let len = usize::try_from(self.len()).map_err(|e| Error::Internal(e.to_string()))?;
        self.read(0, len).await
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Value {
        Value(Body::Bytes(bytes))
    }
}
