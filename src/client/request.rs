//! Sends requests and reads responses.

use super::body::RequestBody;
use super::error::Error;
use super::{Client, IDLE_TIMEOUT, request_url};
use crate::wire::FASTLY_KEY;
use bytes::Bytes;
use futures_util::stream::{Stream, poll_fn};
use reqwest::Method;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use serde::de::DeserializeOwned;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The maximum size of a JSON response in bytes: ample for 1000 items with metadata.
const JSON_BYTES_MAX: usize = 64 << 20;
/// The maximum number of bytes read from the body of an error response.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;

/// A request without its body.
pub(super) struct Request<'a> {
    method: Method,
    segments: &'a [&'a str],
    query: Vec<(&'a str, &'a str)>,
    headers: HeaderMap,
    /// The subject of the request, for error messages.
    subject: &'a str,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, segments: &'a [&'a str], subject: &'a str) -> Request<'a> {
        Request { method, segments, query: Vec::new(), headers: HeaderMap::new(), subject }
    }

    pub(super) fn subject(&self) -> &str {
        self.subject
    }

    pub(super) fn query(mut self, name: &'a str, value: Option<&'a str>) -> Request<'a> {
        self.query.extend(value.map(|value| (name, value)));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: Option<HeaderValue>) -> Request<'a> {
        if let (Some(value), Ok(name)) = (value, HeaderName::from_bytes(name.as_bytes())) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// A response whose body has not been read.
pub(super) struct Response {
    response: reqwest::Response,
    endpoint: String,
    subject: String,
}

impl Client {
    /// Sends an idempotent request without a body, with retries.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        self.retry.run(|| self.send_once(request, None)).await
    }

    /// Sends a request with a JSON body. The request is retried if `idempotent` is set.
    pub(super) async fn send_json<T: serde::Serialize + Sync>(
        &self,
        request: &mut Request<'_>,
        json: &T,
        idempotent: bool,
    ) -> Result<Response, Error> {
        let body = serde_json::to_vec(json).map_err(|e| Error::Usage(e.to_string()))?;
        let body = Bytes::from(body);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = &*request;
        let send = || self.send_once(request, Some(RequestBody::bytes(body.clone())));
        if idempotent { self.retry.run(send).await } else { send().await }
    }

    /// Sends a request without retries. An error status in the response is returned as an error.
    pub(super) async fn send_once(
        &self,
        request: &Request<'_>,
        body: Option<RequestBody>,
    ) -> Result<Response, Error> {
        let (status, mut response) = self.send_any_status(request, body).await?;
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let retry_after = response.retry_after();
        // If the body cannot be read, report the status alone.
        let body = response.read_to_end(ERROR_BODY_BYTES_MAX).await.unwrap_or_default();
        Err(Error::from_response(request.subject, status, &body, retry_after))
    }

    /// Sends a request without retries and returns the response whatever its status.
    pub(super) async fn send_any_status(
        &self,
        request: &Request<'_>,
        body: Option<RequestBody>,
    ) -> Result<(u16, Response), Error> {
        self.verify_identity().await?;
        self.exchange(request, body, Some(&self.token)).await
    }

    /// Sends a request without a token and without retries. Returns the response whatever its
    /// status.
    pub(super) async fn send_without_token(
        &self,
        request: &Request<'_>,
    ) -> Result<(u16, Response), Error> {
        self.exchange(request, None, None).await
    }

    async fn exchange(
        &self,
        request: &Request<'_>,
        body: Option<RequestBody>,
        token: Option<&HeaderValue>,
    ) -> Result<(u16, Response), Error> {
        let response = self.exchange_raw(request, body, token).await?;
        let (endpoint, subject) = (self.endpoint.to_string(), request.subject.to_owned());
        Ok((response.status().as_u16(), Response { response, endpoint, subject }))
    }

    async fn exchange_raw(
        &self,
        request: &Request<'_>,
        body: Option<RequestBody>,
        token: Option<&HeaderValue>,
    ) -> Result<reqwest::Response, Error> {
        let url = request_url::url(&self.endpoint, request.segments, &request.query)?;
        let mut builder = self.http.request(request.method.clone(), url);
        builder = builder.headers(request.headers.clone());
        if let Some(token) = token {
            builder = builder.header(FASTLY_KEY, token.clone());
        }
        let progress = Arc::new(Notify::new());
        if let Some(RequestBody { chunks, length }) = body {
            if let Some(length) = length {
                builder = builder.header(CONTENT_LENGTH, length);
            }
            let chunks = notify_progress(chunks, Arc::clone(&progress));
            builder = builder.body(reqwest::Body::wrap_stream(chunks));
        }
        let mut response = Box::pin(builder.send());
        loop {
            tokio::select! {
                done = &mut response => return done.map_err(|e| self.failed(request.subject, &e)),
                () = progress.notified() => {}
                () = tokio::time::sleep(IDLE_TIMEOUT) => {
                    let (subject, endpoint) = (request.subject.to_owned(), &self.endpoint);
                    let (endpoint, reason) = (endpoint.to_string(), timed_out());
                    return Err(Error::Disconnected { subject, endpoint, reason });
                }
            }
        }
    }

    fn failed(&self, subject: &str, e: &reqwest::Error) -> Error {
        let (subject, endpoint) = (subject.to_owned(), self.endpoint.to_string());
        let mut reason = root_cause(e);
        if reason.starts_with("invalid peer certificate") {
            reason.push_str("; specify the CA certificates to trust with --ca-file");
        }
        if e.is_connect() {
            Error::Unreachable { subject, endpoint, reason }
        } else {
            Error::Disconnected { subject, endpoint, reason }
        }
    }
}

fn timed_out() -> String {
    format!("no progress for {} seconds", IDLE_TIMEOUT.as_secs())
}

/// Signals `progress` for each chunk taken from the stream.
fn notify_progress<S>(
    mut chunks: S,
    progress: Arc<Notify>,
) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    poll_fn(move |context| {
        let chunk = std::pin::Pin::new(&mut chunks).poll_next(context);
        if chunk.is_ready() {
            progress.notify_one();
        }
        chunk
    })
}

/// Returns the innermost cause of an error, because the outer errors only repeat the URL.
pub(super) fn root_cause(e: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = e;
    while let Some(next) = inner.source() {
        inner = next;
    }
    if e.is_timeout() && e.is_connect() {
        return format!("no connection within {} seconds", super::CONNECT_TIMEOUT.as_secs());
    }
    inner.to_string()
}

/// Describes invalid JSON without naming Rust types.
fn describe(e: &serde_json::Error) -> String {
    let text = e.to_string();
    match text.split_once("expected struct ") {
        Some((start, rest)) => {
            let position = rest.split_once(' ').map_or("", |(_, position)| position);
            format!("{start}expected an object {position}")
        }
        None => text,
    }
}

impl Response {
    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns the delay that the server requests before a retry.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let after = self.headers().get(RETRY_AFTER)?.to_str().ok()?;
        after.trim().parse().ok().map(Duration::from_secs)
    }

    /// Reads the next chunk of the body, or returns `None` at the end.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let reason = match tokio::time::timeout(IDLE_TIMEOUT, self.response.chunk()).await {
            Ok(Ok(chunk)) => return Ok(chunk),
            Ok(Err(e)) => root_cause(&e),
            Err(_) => timed_out(),
        };
        let (subject, endpoint) = (self.subject.clone(), self.endpoint.clone());
        Err(Error::Disconnected { subject, endpoint, reason })
    }

    /// Reads the whole body, which may have at most `max` bytes.
    pub(super) async fn read_to_end(&mut self, max: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk().await? {
            if body.len() + chunk.len() > max {
                return Err(self.unexpected(&format!("the body has more than {max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads the body as JSON.
    pub(super) async fn json<T: DeserializeOwned>(mut self) -> Result<T, Error> {
        let body = self.read_to_end(JSON_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|e| self.unexpected(&describe(&e)))
    }

    pub(super) fn unexpected(&self, reason: &str) -> Error {
        Error::Unexpected { subject: self.subject.clone(), reason: reason.to_owned() }
    }
}
