//! A request's body, read as far as its handler asks.

use super::Stream;
use super::buffered_stream::BufferedStream;
use super::request::{Framing, RequestHead};
use bytes::Bytes;
use std::io as stdio;
use std::time::Duration;

/// Bytes of a chunk that is handed on, at most.
const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a line between chunks, and of all trailers, at most.
const LINE_BYTES_MAX: usize = 1024;
const TRAILERS_BYTES_MAX: usize = 8 * 1024;
/// What is left unread up to this size is taken, so that the connection can go on.
pub(super) const DRAIN_BYTES_MAX: u64 = 1 << 20;

/// Why a body did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection ended before the body.
    #[error("the body ended before its length")]
    Cut,
    /// No bytes came for too long.
    #[error("no bytes of the body came for {} s", .0.as_secs())]
    Timeout(Duration),
    /// Its chunks break the rules.
    #[error("the body's chunks are malformed: {0}")]
    Malformed(&'static str),
}

/// Where the reading of a body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of a body with a length are left.
    Sized(u64),
    /// A line with a chunk's size comes next.
    ChunkSize,
    /// So many bytes of a chunk are left.
    ChunkData(u64),
    /// All was read.
    Done,
    /// It cannot be read on.
    Broken,
}

/// A request's body.
pub struct Body<'c, S> {
    io: &'c mut BufferedStream<S>,
    state: State,
    /// The client still waits for leave to send.
    asked: bool,
    limit: Duration,
}

impl<'c, S: Stream> Body<'c, S> {
    pub(super) fn new(
        io: &'c mut BufferedStream<S>,
        head: &RequestHead,
        limit: Duration,
    ) -> Body<'c, S> {
        let state = match head.framing {
            Framing::Length(0) => State::Done,
            Framing::Length(left) => State::Sized(left),
            Framing::Chunked => State::ChunkSize,
        };
        Body { io, state, asked: head.expects_continue, limit }
    }

    /// The next bytes, at most 256 KiB; `None` at the end. The first call tells a client that
    /// waits to send.
    ///
    /// # Errors
    /// When the body is cut, stalls or is malformed; it cannot be read on then.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let read = self.next().await;
        if read.is_err() {
            self.state = State::Broken;
        }
        read
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if std::mem::take(&mut self.asked) && self.io.input.is_empty() {
            self.io.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        loop {
            match self.state {
                State::Done => return Ok(None),
                State::Broken => return Err(BodyError::Cut),
                State::Sized(left) => {
                    let bytes = self.take(left).await?;
                    let left = left - bytes.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Sized(left) };
                    return Ok(Some(bytes));
                }
                State::ChunkSize => match parse_size(&self.line().await?)? {
                    0 => {
                        self.trailers().await?;
                        self.state = State::Done;
                    }
                    size => self.state = State::ChunkData(size),
                },
                State::ChunkData(left) => {
                    let bytes = self.take(left).await?;
                    let left = left - bytes.len() as u64;
                    if left > 0 {
                        self.state = State::ChunkData(left);
                    } else if self.line().await?.is_empty() {
                        self.state = State::ChunkSize;
                    } else {
                        return Err(BodyError::Malformed("a chunk is longer than its size"));
                    }
                    return Ok(Some(bytes));
                }
            }
        }
    }

    async fn take(&mut self, left: u64) -> Result<Bytes, BodyError> {
        // At most CHUNK_BYTES_MAX, which fits.
        let len = left.min(CHUNK_BYTES_MAX as u64) as usize;
        self.io.take(len, self.limit).await.map_err(|e| self.failed(&e))
    }

    /// A line without its end.
    async fn line(&mut self) -> Result<Bytes, BodyError> {
        let mut searched = 0;
        loop {
            let fresh = self.io.input.get(searched..).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', fresh) {
                if searched + at > LINE_BYTES_MAX {
                    return Err(BodyError::Malformed("a line is too long"));
                }
                let line = self.io.input.split_to(searched + at + 1);
                return match line.strip_suffix(b"\r\n") {
                    Some(line) => Ok(Bytes::copy_from_slice(line)),
                    None => Err(BodyError::Malformed("a line does not end in CR LF")),
                };
            }
            searched = self.io.input.len();
            if searched > LINE_BYTES_MAX {
                return Err(BodyError::Malformed("a line is too long"));
            }
            match self.io.fill(self.limit).await {
                Ok(0) => return Err(BodyError::Cut),
                Ok(_) => {}
                Err(e) => return Err(self.failed(&e)),
            }
        }
    }

    async fn trailers(&mut self) -> Result<(), BodyError> {
        let mut bytes = 0;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            bytes += line.len();
            if bytes > TRAILERS_BYTES_MAX {
                return Err(BodyError::Malformed("too many trailers"));
            }
        }
    }

    fn failed(&self, e: &stdio::Error) -> BodyError {
        if e.kind() == stdio::ErrorKind::TimedOut {
            BodyError::Timeout(self.limit)
        } else {
            BodyError::Cut
        }
    }

    /// Whether the connection can go on when this body is dropped here: all of it was read, or
    /// what is left is known to be little and is on its way.
    pub(super) fn drainable(&self) -> bool {
        match self.state {
            State::Done => true,
            State::Sized(left) => left <= DRAIN_BYTES_MAX && !self.asked,
            State::ChunkSize | State::ChunkData(_) | State::Broken => false,
        }
    }

    /// Bytes left of a body that is [drainable](Body::drainable).
    pub(super) fn left(&self) -> u64 {
        match self.state {
            State::Sized(left) => left,
            State::ChunkSize | State::ChunkData(_) | State::Done | State::Broken => 0,
        }
    }

    /// The last `left` bytes of a body that was put aside for its answer.
    pub(super) fn rest(io: &'c mut BufferedStream<S>, left: u64, limit: Duration) -> Body<'c, S> {
        Body { io, state: State::Sized(left), asked: false, limit }
    }

    /// Takes what is left; whether that worked.
    pub(super) async fn drain(mut self) -> bool {
        loop {
            match self.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}

fn parse_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let hex = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).unwrap_or_default();
    let size = u64::from_str_radix(text, 16).ok().filter(|_| hex);
    size.ok_or(BodyError::Malformed("a chunk's size must be hexadecimal"))
}
