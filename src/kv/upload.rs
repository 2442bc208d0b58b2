//! Receives a value in chunks: buffered in memory while it is small, written to a blob otherwise.

use super::{Error, Kv, Result, Value};
use crate::engine::{BlobWriter, INLINE_BYTES_MAX};
use bytes::{Bytes, BytesMut};

/// Collects the chunks of a value and enforces the size limit. Dropping it discards the value.
pub struct Upload<'k> {
    kv: &'k Kv,
    size: u64,
    /// The only chunk so far, uncopied; empty once there are two.
    first: Bytes,
    /// All chunks so far, once there are two.
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
    /// [`Error::TooLarge`] once the size limit is exceeded.
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

    /// Returns the complete value; a blob is durable, but not yet referenced by an item.
    pub async fn finish(self) -> Result<Value> {
        if let Some(blob) = self.blob {
            return Ok(Value(blob.finish().await?));
        }
        let joined = !self.joined.is_empty();
        Ok(Value::from(if joined { self.joined.freeze() } else { self.first }))
    }
}
