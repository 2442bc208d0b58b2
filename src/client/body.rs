//! Request bodies.

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use std::io;
use std::pin::Pin;

/// Bytes of an in-memory body that are handed to the connection at once.
const CHUNK_BYTES: usize = 256 << 10;

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A request body, in memory or streamed.
pub struct RequestBody {
    pub(super) chunks: Chunks,
    pub(super) length: Option<u64>,
}

impl RequestBody {
    /// Makes a body of bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> RequestBody {
        let bytes: Bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        let chunks = stream::unfold(bytes, |mut rest| async move {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            if chunk.is_empty() { None } else { Some((Ok(chunk), rest)) }
        });
        RequestBody { chunks: Box::pin(chunks), length }
    }

    /// Makes a body of a stream; without a length it is sent with chunked encoding. If the stream
    /// fails or ends early, the server sees an incomplete request and changes nothing.
    pub fn stream<S>(chunks: S, length: Option<u64>) -> RequestBody
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        RequestBody { chunks: Box::pin(chunks), length }
    }
}
