//! An HTTP/1.1 server for one connection: request heads, bodies, timeouts and responses.
//!
//! `httparse` tokenizes request heads. The rest is implemented here, because the API depends on
//! details that HTTP frameworks hide: the router needs the raw target, requests with ambiguous
//! framing must be rejected, and every error needs the API's JSON body.

mod body;
mod buffered_stream;
mod connection;
mod request;
mod response;
mod transfer_rate;

pub use body::{Body, BodyError, CHUNK_BYTES_MAX};
pub use connection::{reject, serve};
pub use request::RequestHead;
pub use response::{BodySource, Payload, Response, http_date};
pub use transfer_rate::{Contention, Waiting};

use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A bidirectional byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Maximum size of a request target in bytes; a key of 1024 bytes takes 3 KiB when fully escaped.
pub const TARGET_BYTES_MAX: usize = 16 * 1024;
/// Maximum total size of request headers in bytes.
pub const FIELDS_BYTES_MAX: usize = 32 * 1024;
/// Maximum number of request headers.
pub const FIELDS_MAX: usize = 100;

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Time limit for receiving a request head, from the first byte to the last.
    pub head: Duration,
    /// Time limit for an idle connection between requests.
    pub idle: Duration,
    /// Time limit for the next bytes of a request body; also the delay before the minimum transfer
    /// rate is enforced.
    pub body: Duration,
    /// Time limit for sending the next bytes of a response; also the delay before the minimum
    /// transfer rate is enforced.
    pub write: Duration,
}

/// The application that answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers a request. The implementation may leave the body unread.
    fn call<S: Stream>(
        &self,
        head: &RequestHead,
        body: &mut Body<'_, S>,
    ) -> impl Future<Output = Response> + Send;

    /// Answers a request whose head could not be read; the connection closes afterwards.
    fn reject(&self, error: RequestError) -> Response;
}

/// An error in a request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The head violates the syntax or framing rules of HTTP.
    Malformed(String),
    /// The client started a TLS handshake on a plain HTTP port.
    Tls,
    /// The target exceeds [`TARGET_BYTES_MAX`].
    TargetTooLong,
    /// The headers exceed [`FIELDS_BYTES_MAX`] or [`FIELDS_MAX`].
    FieldsTooLarge,
    /// The head did not arrive in time.
    HeadTimeout,
    /// `Transfer-Encoding` is not `chunked`.
    UnknownCoding,
    /// `Expect` is not `100-continue`.
    UnknownExpectation,
    /// The version is not HTTP/1.0 or HTTP/1.1.
    UnknownVersion,
    /// The client sent plain HTTP to a TLS port.
    PlainHttp,
}
