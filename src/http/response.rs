//! An answer, and how it is written.

use super::Stream;
use super::buffered_stream::BufferedStream;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::io::Write as _;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bodies up to this size are written together with their head.
const TOGETHER_BYTES: usize = 64 * 1024;

/// Hands out a body that is too large to hold, piece by piece.
pub trait BodySource: Send {
    /// The next bytes; `None` at the end. An error cuts the connection, so that the client sees
    /// that the body is not whole.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>>;
}

/// An answer's body.
pub enum Payload {
    /// None, and no word of a length: for 204.
    Nothing,
    /// In memory.
    Bytes(Bytes),
    /// Of a known length, piece by piece.
    Stream(u64, Box<dyn BodySource>),
    /// Of a length that nobody knows yet, piece by piece: in chunks, or up to the end of the
    /// connection for a client of HTTP/1.0.
    Open(Box<dyn BodySource>),
    /// Only the length is known: for HEAD.
    Length(u64),
}

/// An answer.
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its header fields but those of the connection, as they are written.
    fields: Vec<u8>,
    /// Its body.
    pub payload: Payload,
    /// Whether the connection ends with it.
    pub close: bool,
    /// Kept until the answer is written: a share of some bound.
    pub hold: Option<Box<dyn Send>>,
    /// Whether the client knows no chunks.
    old: bool,
}

impl Response {
    /// An answer without header fields and with an empty body.
    pub fn new(status: u16) -> Response {
        let payload = if status == 204 { Payload::Nothing } else { Payload::Bytes(Bytes::new()) };
        let fields = Vec::with_capacity(320);
        Response { status, fields, payload, close: false, hold: None, old: false }
    }

    /// Adds a header field. The value must hold no control character but a tab.
    #[must_use]
    pub fn field(mut self, name: &str, value: &[u8]) -> Response {
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        self.fields.extend_from_slice(value);
        self.fields.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a header field with a number.
    #[must_use]
    pub fn number(mut self, name: &str, value: u64) -> Response {
        // Writing to a vector does not fail.
        let _ = write!(self.fields, "{name}: {value}\r\n");
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Response {
        self.payload = payload;
        self
    }

    /// Makes it the last on its connection, or not.
    #[must_use]
    pub fn closing(mut self, close: bool) -> Response {
        self.close = close;
        self
    }

    /// For a client of HTTP/1.0, which knows no chunks: the end of the connection ends the body.
    pub(super) fn for_old_client(&mut self) {
        self.old = true;
        self.close |= matches!(self.payload, Payload::Open(_));
    }

    /// Writes it; without its body when `bodiless`.
    pub(super) async fn write<S: Stream>(
        mut self,
        io: &mut BufferedStream<S>,
        date: &mut Date,
        bodiless: bool,
        limit: Duration,
    ) -> io::Result<()> {
        let out = &mut io.output;
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        out.append(&mut self.fields);
        match &self.payload {
            Payload::Nothing => Ok(()),
            Payload::Bytes(bytes) => write!(out, "Content-Length: {}\r\n", bytes.len()),
            Payload::Stream(len, _) | Payload::Length(len) => {
                write!(out, "Content-Length: {len}\r\n")
            }
            Payload::Open(_) if self.old => Ok(()),
            Payload::Open(_) => out.write_all(b"Transfer-Encoding: chunked\r\n"),
        }?;
        out.extend_from_slice(date.line());
        out.extend_from_slice(if self.close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
        match self.payload {
            _ if bodiless => Ok(()),
            Payload::Nothing | Payload::Length(_) => Ok(()),
            Payload::Bytes(bytes) if bytes.len() <= TOGETHER_BYTES => {
                out.extend_from_slice(&bytes);
                if out.len() > TOGETHER_BYTES { io.flush(limit).await } else { Ok(()) }
            }
            Payload::Bytes(bytes) => io.write(&bytes, limit).await,
            Payload::Stream(len, mut source) => {
                let mut left = len;
                while let Some(bytes) = source.next().await? {
                    let after = left.checked_sub(bytes.len() as u64);
                    left = after.ok_or(io::ErrorKind::InvalidData)?;
                    io.write(&bytes, limit).await?;
                }
                if left == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
            Payload::Open(mut source) => {
                while let Some(bytes) = source.next().await? {
                    if bytes.is_empty() {
                        continue;
                    }
                    if !self.old {
                        // Goes out with the bytes that follow.
                        write!(io.output, "{:x}\r\n", bytes.len())?;
                    }
                    io.write(&bytes, limit).await?;
                    if !self.old {
                        io.output.extend_from_slice(b"\r\n");
                    }
                }
                if !self.old {
                    io.output.extend_from_slice(b"0\r\n\r\n");
                }
                io.flush(limit).await
            }
        }
    }
}

/// The `Date` line, made anew once a second.
#[derive(Default)]
pub(super) struct Date {
    second: u64,
    line: Vec<u8>,
}

impl Date {
    #[expect(clippy::disallowed_methods, reason = "the wall clock is what this field shows")]
    fn line(&mut self) -> &[u8] {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != second || self.line.is_empty() {
            self.second = second;
            self.line = format!("Date: {}\r\n", httpdate::fmt_http_date(now)).into_bytes();
        }
        &self.line
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}
