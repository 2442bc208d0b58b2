//! Builds responses and writes them to the connection.

use super::Stream;
use super::buffered_stream::BufferedStream;
use super::transfer_rate::{Contention, TransferRate};
use bytes::Bytes;
use std::future::Future;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bodies up to this size, in bytes, are copied into the output buffer after the head; larger
/// bodies are written without a copy. With this limit, the output buffer stays within the capacity
/// that an idle connection keeps.
const COALESCE_BYTES_MAX: usize = 4 * 1024;
/// The last second that an HTTP date can express, in the year 9999.
const HTTP_DATE_MAX_SECS: u64 = 253_402_300_799;

/// Produces, piece by piece, a response body that is too large for memory.
pub trait BodySource: Send {
    /// Returns the next bytes, or `None` at the end. An error closes the connection, so that the
    /// client detects that the body is incomplete.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>>;
}

/// A response body.
pub enum Payload {
    /// No body and no `Content-Length`, for 204.
    Empty,
    /// A body in memory.
    Bytes(Bytes),
    /// A streamed body of this length.
    Sized(u64, Box<dyn BodySource>),
    /// A streamed body of unknown length. It is chunked or, in HTTP/1.0, ended by closing the
    /// connection.
    Chunked(Box<dyn BodySource>),
    /// Only a `Content-Length`, for HEAD.
    LengthOnly(u64),
}

/// A response.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers in wire format, except those about framing and the connection.
    headers: Vec<u8>,
    /// The body.
    pub payload: Payload,
    /// Whether the connection closes after this response.
    pub close: bool,
    /// Whether authentication failed. The server limits how many connections it drains after failed
    /// authentication.
    pub(super) unauthenticated: bool,
    /// A value, such as a permit, that is dropped once the response is written.
    _guard: Option<Box<dyn Send>>,
    /// The contention for the resource held by `_guard`.
    contention: Option<Contention>,
    http_10: bool,
}

impl Response {
    /// Creates a response without headers and with an empty body.
    pub fn new(status: u16) -> Response {
        let payload = if status == 204 { Payload::Empty } else { Payload::Bytes(Bytes::new()) };
        let headers = Vec::with_capacity(320);
        Response {
            status,
            headers,
            payload,
            close: false,
            unauthenticated: false,
            _guard: None,
            contention: None,
            http_10: false,
        }
    }

    /// Adds a header. The value must not contain control characters other than tab.
    #[must_use]
    pub fn header(mut self, name: &str, value: &[u8]) -> Response {
        self.headers.extend_from_slice(name.as_bytes());
        self.headers.extend_from_slice(b": ");
        self.headers.extend_from_slice(value);
        self.headers.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a header with a number.
    #[must_use]
    pub fn header_u64(mut self, name: &str, value: u64) -> Response {
        push_number_header(&mut self.headers, name, value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Response {
        self.payload = payload;
        self
    }

    /// Sets whether the connection closes after this response.
    #[must_use]
    pub fn closing(mut self, close: bool) -> Response {
        self.close = close;
        self
    }

    /// Marks this as the response to a request that failed authentication.
    #[must_use]
    pub fn unauthenticated(mut self) -> Response {
        self.unauthenticated = true;
        self
    }

    /// Requires the client to read faster while other requests wait for memory that this response
    /// holds.
    #[must_use]
    pub fn yielding_to(mut self, contention: Option<Contention>) -> Response {
        self.contention = contention;
        self
    }

    /// Attaches a value, such as a permit, that is dropped once the response is written.
    #[must_use]
    pub fn holding(mut self, guard: Option<impl Send + 'static>) -> Response {
        self._guard = guard.map(|guard| Box::new(guard) as Box<dyn Send>);
        self
    }

    /// Ends a body of unknown length by closing the connection, as HTTP/1.0 requires.
    pub(super) fn downgrade_to_http_10(&mut self) {
        self.http_10 = true;
        self.close |= matches!(self.payload, Payload::Chunked(_));
    }

    /// Writes the response. If `omit_body` is set, the body is omitted.
    pub(super) async fn write<S: Stream>(
        mut self,
        io: &mut BufferedStream<S>,
        date: &mut DateHeader,
        omit_body: bool,
        timeout: Duration,
    ) -> io::Result<()> {
        let out = &mut io.output;
        let mut status = itoa::Buffer::new();
        for part in
            ["HTTP/1.1 ", status.format(self.status), " ", reason_phrase(self.status), "\r\n"]
        {
            out.extend_from_slice(part.as_bytes());
        }
        out.append(&mut self.headers);
        match &self.payload {
            Payload::Bytes(bytes) => {
                push_number_header(out, "Content-Length", bytes.len() as u64);
            }
            Payload::Sized(len, _) | Payload::LengthOnly(len) => {
                push_number_header(out, "Content-Length", *len);
            }
            Payload::Chunked(_) if !self.http_10 => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            Payload::Empty | Payload::Chunked(_) => {}
        }
        out.extend_from_slice(date.line());
        out.extend_from_slice(match (self.close, self.http_10) {
            (true, _) => b"Connection: close\r\n\r\n",
            // Without this header, an HTTP/1.0 client waits for the connection to close.
            (false, true) => b"Connection: keep-alive\r\n\r\n",
            (false, false) => b"\r\n",
        });
        let rate = &mut TransferRate::new(timeout, self.contention.take());
        match self.payload {
            _ if omit_body => Ok(()),
            Payload::Empty | Payload::LengthOnly(_) => Ok(()),
            Payload::Bytes(bytes) if bytes.len() <= COALESCE_BYTES_MAX => {
                out.extend_from_slice(&bytes);
                if out.len() > COALESCE_BYTES_MAX { io.flush(timeout).await } else { Ok(()) }
            }
            Payload::Bytes(bytes) => io.write(&bytes, rate).await,
            Payload::Sized(len, mut source) => {
                let mut remaining = len;
                while let Some(bytes) = next_piece(&mut *source, io).await? {
                    let after = remaining.checked_sub(bytes.len() as u64);
                    remaining = after.ok_or(io::ErrorKind::InvalidData)?;
                    io.write(&bytes, rate).await?;
                }
                if remaining == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
            Payload::Chunked(mut source) => {
                while let Some(bytes) = next_piece(&mut *source, io).await? {
                    if bytes.is_empty() {
                        continue;
                    }
                    if !self.http_10 {
                        // The size line is buffered and written together with the data.
                        write!(io.output, "{:x}\r\n", bytes.len())?;
                    }
                    io.write(&bytes, rate).await?;
                    if !self.http_10 {
                        io.output.extend_from_slice(b"\r\n");
                    }
                }
                if !self.http_10 {
                    io.output.extend_from_slice(b"0\r\n\r\n");
                }
                io.flush(timeout).await
            }
        }
    }
}

/// Appends a header with a number. This takes a fraction of the time of `write!`.
fn push_number_header(out: &mut Vec<u8>, name: &str, value: u64) {
    let mut digits = itoa::Buffer::new();
    for part in [name, ": ", digits.format(value), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Returns the next bytes of a body, or an error if the client disconnects first. Passes no interim
/// response, because none can be sent once the response has started.
async fn next_piece<S: Stream>(
    source: &mut dyn BodySource,
    io: &mut BufferedStream<S>,
) -> io::Result<Option<Bytes>> {
    let mut next = source.next();
    io.while_connected(b"", next.as_mut()).await?
}

/// Formats a time in seconds since the Unix epoch as an HTTP date. Times after the year 9999 are
/// formatted as the last second of that year.
pub fn http_date(secs: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(secs.min(HTTP_DATE_MAX_SECS));
    httpdate::fmt_http_date(time)
}

/// The `Date` header line, formatted at most once per second.
#[derive(Default)]
pub(super) struct DateHeader {
    second: u64,
    line: Vec<u8>,
}

impl DateHeader {
    #[expect(clippy::disallowed_methods, reason = "the header states the wall-clock time")]
    fn line(&mut self) -> &[u8] {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != second || self.line.is_empty() {
            self.second = second;
            self.line = format!("Date: {}\r\n", http_date(second)).into_bytes();
        }
        &self.line
    }
}

fn reason_phrase(status: u16) -> &'static str {
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
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_seconds_is_formatted_as_an_http_date() {
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        let last = "Fri, 31 Dec 9999 23:59:59 GMT";
        for secs in [HTTP_DATE_MAX_SECS, HTTP_DATE_MAX_SECS + 1, u64::MAX] {
            assert_eq!(http_date(secs), last, "{secs}");
        }
    }
}
