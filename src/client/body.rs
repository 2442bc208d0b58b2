//! Request bodies.

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use std::io;
use std::pin::Pin;

/// The chunk size of an in-memory body in bytes.
const CHUNK_BYTES: usize = 256 << 10;

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A request body, in memory or streamed.
pub struct RequestBody {
    pub(super) chunks: Chunks,
    pub(super) length: Option<u64>,
}

impl RequestBody {
    /// Creates a body from bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> RequestBody {
        let bytes: Bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        let chunks = stream::unfold(bytes, |mut rest| async move {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            if chunk.is_empty() { None } else { Some((Ok(chunk), rest)) }
        });
        RequestBody { chunks: Box::pin(chunks), length }
    }

    /// Creates a body from a stream, which is sent with chunked encoding if `length` is `None`. If
    /// the stream fails or ends early, the request is incomplete and the server rejects it.
    pub fn stream<S>(chunks: S, length: Option<u64>) -> RequestBody
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        RequestBody { chunks: Box::pin(chunks), length }
    }
}
