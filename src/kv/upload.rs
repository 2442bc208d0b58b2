//! A value on its way in: in memory while it is small, staged by the engine when it is not.

use super::{Error, Kv, Value};
use crate::engine::{BlobWriter, INLINE_BYTES_MAX};
use bytes::{Bytes, BytesMut};

/// Takes a value's chunks and bounds their sum. Dropped unfinished, it leaves nothing behind.
pub struct Upload<'k> {
    kv: &'k Kv,
    size: u64,
    /// The only chunk so far, uncopied; or empty.
    first: Bytes,
    /// All chunks so far, from the second on.
    joined: BytesMut,
    stage: Option<Box<dyn BlobWriter>>,
}

impl Kv {
    /// Begins a value.
    pub fn upload(&self) -> Upload<'_> {
        let (first, joined) = (Bytes::new(), BytesMut::new());
        Upload { kv: self, size: 0, first, joined, stage: None }
    }
}

impl Upload<'_> {
    /// Appends a chunk.
    ///
    /// # Errors
    /// [`Error::TooLarge`] once the sum passes the bound, or when the engine fails.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.size = self.size.saturating_add(chunk.len() as u64);
        if self.size > self.kv.value_bytes_max {
            return Err(Error::TooLarge(self.kv.value_bytes_max));
        }
        if let Some(stage) = &mut self.stage {
            return Ok(stage.write(chunk).await?);
        }
        if self.size > INLINE_BYTES_MAX as u64 {
            let mut stage = self.kv.engine.create_blob().await?;
            for part in [std::mem::take(&mut self.first), self.joined.split().freeze(), chunk] {
                stage.write(part).await?;
            }
            self.stage = Some(stage);
        } else if self.first.is_empty() && self.joined.is_empty() {
            self.first = chunk;
        } else {
            let first = std::mem::take(&mut self.first);
            self.joined.extend_from_slice(&first);
            self.joined.extend_from_slice(&chunk);
        }
        Ok(())
    }

    /// Ends the value; a staged one is durable then, though not yet part of an item.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn finish(self) -> Result<Value, Error> {
        if let Some(stage) = self.stage {
            return Ok(Value(stage.finish().await?));
        }
        let joined = !self.joined.is_empty();
        Ok(Value::from(if joined { self.joined.freeze() } else { self.first }))
    }
}
