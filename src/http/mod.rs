//! HTTP/1.1 on one connection: heads, bodies, time-outs, and answers to what is no request.
//!
//! The tokens of a head are read by `httparse`; the rest is here because each byte matters to this
//! API: the target must reach the router as it was sent, a request that two servers could read in
//! two ways must be refused, and every refusal has the API's one shape. Knows nothing of stores.

mod body;
mod buffered_stream;
mod connection;
mod request;
mod response;

pub use body::{Body, BodyError};
pub use connection::serve;
pub use request::RequestHead;
pub use response::{BodySource, Payload, Response};

use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection's two ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Bytes of a request's target at most: a key of 1024 bytes takes 3 KiB when all of it is escaped.
pub const TARGET_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request's header fields at most.
pub const FIELDS_BYTES_MAX: usize = 32 * 1024;
/// Header fields of a request at most.
pub const FIELDS_MAX: usize = 100;

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the next bytes of a body.
    pub body: Duration,
    /// For a client to take the next bytes of an answer.
    pub write: Duration,
}

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers a request; the body is read only as far as this asks for it.
    fn call<S: Stream>(
        &self,
        head: &RequestHead,
        body: &mut Body<'_, S>,
    ) -> impl Future<Output = Response> + Send;

    /// Answers what is no request that could be served.
    fn refuse(&self, refusal: RequestError) -> Response;
}

/// Why a request could not even be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// It breaks the rules of HTTP.
    Malformed(String),
    /// Its target is longer than [`TARGET_BYTES_MAX`].
    TargetTooLong,
    /// Its header fields are larger than [`FIELDS_BYTES_MAX`] or more than [`FIELDS_MAX`].
    FieldsTooLarge,
    /// Its head did not come in time.
    HeadTimeout,
    /// Its body is coded in another way than `chunked`.
    UnknownCoding,
    /// It expects what is not offered.
    UnknownExpectation,
    /// It is of another version than HTTP/1.
    UnknownVersion,
}
