//! Receives a value in chunks. A value of up to 256 KiB is buffered in memory, and a larger one is
//! passed to the engine's blob writer.

use super::{Error, Kv, Result, Value};
use crate::engine::{BlobWriter, INLINE_BYTES_MAX};
use bytes::{Bytes, BytesMut};

/// Collects the chunks of a value and enforces the size limit. Dropping the upload discards the
/// value.
pub struct Upload<'k> {
    kv: &'k Kv,
    size: u64,
    /// The first chunk, which is not copied; empty once there is a second chunk.
    first: Bytes,
    /// All chunks received so far, once there are at least two.
    joined: BytesMut,
    blob: Option<Box<dyn BlobWriter>>,
}

impl Kv {
    /// Starts receiving a value.
    pub fn upload(&self) -> Upload<'_> {
        let (first, joined) = (Bytes::new(), BytesMut::new());
        Upload { kv: self, size: 0, first, joined, blob: None }
    }
}

impl Upload<'_> {
    /// Appends a chunk.
    ///
    /// # Errors
    /// Returns [`Error::TooLarge`] once the size limit is exceeded.
    pub async fn push(&mut self, chunk: Bytes) -> Result<()> {
        self.size = self.size.saturating_add(chunk.len() as u64);
        if self.size > self.kv.value_bytes_max {
            return Err(Error::TooLarge(self.kv.value_bytes_max));
        }
        if let Some(blob) = &mut self.blob {
            return Ok(blob.write(chunk).await?);
        }
        if self.size > INLINE_BYTES_MAX as u64 {
            let mut blob = self.kv.engine.create_blob().await?;
            for part in [std::mem::take(&mut self.first), self.joined.split().freeze(), chunk] {
                blob.write(part).await?;
            }
            self.blob = Some(blob);
        } else if self.first.is_empty() && self.joined.is_empty() {
            self.first = chunk;
        } else {
            let first = std::mem::take(&mut self.first);
            self.joined.extend_from_slice(&first);
            self.joined.extend_from_slice(&chunk);
        }
        Ok(())
    }

    /// Returns the complete value. No item refers to it yet.
    pub async fn finish(self) -> Result<Value> {
        if let Some(blob) = self.blob {
            return Ok(Value(blob.finish().await?));
        }
        let joined = !self.joined.is_empty();
        Ok(Value::from(if joined { self.joined.freeze() } else { self.first }))
    }
}
