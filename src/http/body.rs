//! Request bodies, read on demand.

use super::Stream;
use super::buffered_stream::BufferedStream;
use super::request::{Framing, RequestHead};
use super::transfer_rate::{BYTES_PER_SEC_MIN, Contention, TransferRate};
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

/// Maximum size in bytes of the chunks that [`Body::chunk`] returns.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Maximum size in bytes of a line in chunked framing.
const LINE_BYTES_MAX: usize = 1024;
/// Maximum total size of trailers in bytes.
const TRAILERS_BYTES_MAX: usize = 8 * 1024;
/// Maximum number of unread body bytes that are discarded to keep the connection open.
const DRAIN_BYTES_MAX: u64 = 1 << 20;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection ended before the body was complete.
    #[error("the connection ended before the body was complete")]
    Truncated,
    /// The next bytes did not arrive in time.
    #[error("no body data received for {} s", .0.as_secs())]
    Timeout(Duration),
    /// The average transfer rate was too low.
    #[error("the body arrives too slowly: send at least {BYTES_PER_SEC_MIN} bytes per second")]
    TooSlow,
    /// The client closed the connection while the server was processing the request.
    #[error("the client closed the connection")]
    Disconnected,
    /// The chunked framing is invalid.
    #[error("malformed chunked body: {0}")]
    Malformed(&'static str),
}

/// The next element to read from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// This many bytes of a body with `Content-Length`.
    Sized(u64),
    /// The size line of a chunk.
    ChunkSize,
    /// This many bytes of a chunk.
    ChunkData(u64),
    /// The body is complete.
    End,
    /// Reading failed.
    Failed,
    /// The client closed the connection.
    Disconnected,
}

/// The body of a request.
pub struct Body<'c, S> {
    io: &'c mut BufferedStream<S>,
    position: Position,
    /// Whether the client waits for `100 Continue`.
    expects_continue: bool,
    /// The interim response that is sent to detect whether the client has disconnected; empty for
    /// HTTP/1.0 clients.
    interim: &'static [u8],
    rate: TransferRate,
}

impl<'c, S: Stream> Body<'c, S> {
    pub(super) fn new(
        io: &'c mut BufferedStream<S>,
        head: &RequestHead,
        timeout: Duration,
    ) -> Body<'c, S> {
        let position = match head.framing {
            Framing::Length(0) => Position::End,
            Framing::Length(len) => Position::Sized(len),
            Framing::Chunked => Position::ChunkSize,
        };
        let interim: &[u8] = if head.http_10 { b"" } else { b"HTTP/1.1 102 Processing\r\n\r\n" };
        let rate = TransferRate::new(timeout, None);
        Body { io, position, expects_continue: head.expects_continue, interim, rate }
    }

    /// Returns the number of unread body bytes, or `None` if the client did not declare the size.
    pub fn declared_bytes(&self) -> Option<u64> {
        match self.position {
            Position::End | Position::Failed | Position::Disconnected => Some(0),
            Position::Sized(remaining) => Some(remaining),
            Position::ChunkSize | Position::ChunkData(_) => None,
        }
    }

    /// Requires a higher rate while other requests wait for memory that this request holds.
    pub fn yield_to(&mut self, contention: Contention) {
        self.rate.yield_to(contention);
    }

    /// Runs `work`, but drops it if the client disconnects. If `work` completes without waiting,
    /// the connection is not checked. Bytes that the client sends in the meantime are kept.
    ///
    /// A client that only shuts down its sending side still gets a response. While an HTTP/1.1
    /// client waits for it, `102 Processing` is sent every second; sending fails once the client
    /// has disconnected.
    ///
    /// # Errors
    /// Returns [`BodyError::Disconnected`] if the client has disconnected; no response is sent.
    pub async fn while_connected<T>(
        &mut self,
        work: Pin<&mut (impl Future<Output = T> + Send)>,
    ) -> Result<T, BodyError> {
        self.io.while_connected(self.interim, work).await.map_err(|_| {
            self.position = Position::Disconnected;
            BodyError::Disconnected
        })
    }

    /// Reads the next bytes, at most 256 KiB, or returns `None` at the end. The first call sends
    /// `100 Continue` if the client expects it.
    ///
    /// # Errors
    /// Fails if the body is truncated, malformed or too slow, or if the client has disconnected.
    /// All later calls fail too.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let read = self.next().await;
        if read.is_err() && self.position != Position::Disconnected {
            self.position = Position::Failed;
        }
        read
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if std::mem::take(&mut self.expects_continue) && self.io.input.is_empty() {
            self.io.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        loop {
            match self.position {
                Position::End => return Ok(None),
                Position::Failed => return Err(BodyError::Truncated),
                Position::Disconnected => return Err(BodyError::Disconnected),
                Position::Sized(remaining) => {
                    let bytes = self.read_data(remaining).await?;
                    self.position = match remaining - bytes.len() as u64 {
                        0 => Position::End,
                        remaining => Position::Sized(remaining),
                    };
                    return Ok(Some(bytes));
                }
                Position::ChunkSize => match parse_chunk_size(&self.read_line().await?)? {
                    0 => {
                        self.skip_trailers().await?;
                        self.position = Position::End;
                    }
                    size => self.position = Position::ChunkData(size),
                },
                Position::ChunkData(remaining) => {
                    let bytes = self.read_data(remaining).await?;
                    let remaining = remaining - bytes.len() as u64;
                    if remaining > 0 {
                        self.position = Position::ChunkData(remaining);
                    } else if self.read_line().await?.is_empty() {
                        self.position = Position::ChunkSize;
                    } else {
                        return Err(BodyError::Malformed("a chunk exceeds its declared size"));
                    }
                    return Ok(Some(bytes));
                }
            }
        }
    }

    async fn read_data(&mut self, remaining: u64) -> Result<Bytes, BodyError> {
        // The minimum is at most CHUNK_BYTES_MAX, so the cast is lossless.
        let len = remaining.min(CHUNK_BYTES_MAX as u64) as usize;
        self.io.read_exact(len, &mut self.rate).await.map_err(|e| self.error(&e))
    }

    /// Reads a line and removes the CR LF.
    async fn read_line(&mut self) -> Result<Bytes, BodyError> {
        let mut searched = 0;
        loop {
            let unsearched = self.io.input.get(searched..).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', unsearched) {
                if searched + at > LINE_BYTES_MAX {
                    return Err(BodyError::Malformed("a line is too long"));
                }
                let line = self.io.input.split_to(searched + at + 1);
                let line = line.strip_suffix(b"\r\n").map(Bytes::copy_from_slice);
                return line.ok_or(BodyError::Malformed("a line does not end in CR LF"));
            }
            searched = self.io.input.len();
            if searched > LINE_BYTES_MAX {
                return Err(BodyError::Malformed("a line is too long"));
            }
            if self.io.fill_body(&mut self.rate).await.map_err(|e| self.error(&e))? == 0 {
                return Err(BodyError::Truncated);
            }
        }
    }

    async fn skip_trailers(&mut self) -> Result<(), BodyError> {
        let mut bytes = 0;
        while bytes <= TRAILERS_BYTES_MAX {
            match self.read_line().await?.len() {
                0 => return Ok(()),
                len => bytes += len,
            }
        }
        Err(BodyError::Malformed("trailers are too long"))
    }

    fn error(&self, e: &io::Error) -> BodyError {
        match e.kind() == io::ErrorKind::TimedOut {
            true if self.rate.is_stalled() => BodyError::Timeout(self.rate.timeout()),
            true => BodyError::TooSlow,
            false => BodyError::Truncated,
        }
    }

    /// Returns whether the connection can stay open: either the body is complete, or the size of
    /// the unread part is known and small.
    pub(super) fn is_drainable(&self) -> bool {
        match self.position {
            Position::End => true,
            Position::Sized(remaining) => remaining <= DRAIN_BYTES_MAX && !self.expects_continue,
            Position::ChunkSize | Position::ChunkData(_) => false,
            Position::Failed | Position::Disconnected => false,
        }
    }

    /// Returns whether the client is known to have disconnected.
    pub(super) fn is_disconnected(&self) -> bool {
        self.position == Position::Disconnected
    }
}

fn parse_chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let hex = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).unwrap_or_default();
    let size = u64::from_str_radix(text, 16).ok().filter(|_| hex);
    size.ok_or(BodyError::Malformed("a chunk's size must be hexadecimal"))
}
