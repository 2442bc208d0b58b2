//! What a request carries.

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use std::io;
use std::pin::Pin;

/// How much of a value is handed to the connection at once.
const PIECE: usize = 256 << 10;

type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A body, all of it or as it comes.
pub struct Body {
    pub(super) pieces: Pieces,
    pub(super) length: Option<u64>,
}

impl Body {
    /// What is in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Body {
        let bytes: Bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        let pieces = stream::unfold(bytes, |mut rest| async move {
            let piece = rest.split_to(rest.len().min(PIECE));
            if piece.is_empty() { None } else { Some((Ok(piece), rest)) }
        });
        Body { pieces: Box::pin(pieces), length }
    }

    /// What comes in pieces; sent in chunks where its length is not known. If it ends before
    /// that length or fails, the server sees a cut request, and changes nothing.
    pub fn stream<S>(pieces: S, length: Option<u64>) -> Body
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        Body { pieces: Box::pin(pieces), length }
    }
}
