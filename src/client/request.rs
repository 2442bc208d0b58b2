//! One request and its answer.

use super::body::Body;
use super::error::Error;
use super::{Client, STILL_TIMEOUT, endpoint};
use crate::wire::FASTLY_KEY;
use bytes::Bytes;
use futures_util::stream::{Stream, poll_fn};
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use serde::de::DeserializeOwned;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// An answer in JSON may have so many bytes: a page of 1000 items with metadata, and room.
const JSON_BYTES_MAX: usize = 64 << 20;
/// So much of the body of a refusal is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// A request in the making.
pub(super) struct Request<'a> {
    method: Method,
    segments: &'a [&'a str],
    query: Vec<(&'a str, &'a str)>,
    headers: HeaderMap,
    /// What is asked for, for the texts of errors.
    what: &'a str,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, segments: &'a [&'a str], what: &'a str) -> Request<'a> {
        Request { method, segments, query: Vec::new(), headers: HeaderMap::new(), what }
    }

    pub(super) fn what(&self) -> &str {
        self.what
    }

    pub(super) fn query(mut self, name: &'a str, value: Option<&'a str>) -> Request<'a> {
        self.query.extend(value.map(|value| (name, value)));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: Option<HeaderValue>) -> Request<'a> {
        if let (Some(value), Ok(name)) =
            (value, reqwest::header::HeaderName::from_bytes(name.as_bytes()))
        {
            self.headers.insert(name, value);
        }
        self
    }
}

/// An answer that says yes.
pub(super) struct Response {
    response: reqwest::Response,
    endpoint: String,
    what: String,
}

impl Client {
    /// Sends a request without a body, again and again as the policy says.
    pub(super) async fn ask(&self, ask: &Request<'_>) -> Result<Response, Error> {
        self.retry.run(|| self.once(ask, None)).await
    }

    /// Sends a request with JSON, as often as the policy says if that does no harm.
    pub(super) async fn tell<T: serde::Serialize + Sync>(
        &self,
        ask: &mut Request<'_>,
        json: &T,
        again: bool,
    ) -> Result<Response, Error> {
        let body = serde_json::to_vec(json).map_err(|e| Error::Usage(e.to_string()))?;
        let body = Bytes::from(body);
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let ask = &*ask;
        if again {
            return self.retry.run(|| self.once(ask, Some(Body::bytes(body.clone())))).await;
        }
        self.once(ask, Some(Body::bytes(body))).await
    }

    /// Sends a request once.
    pub(super) async fn once(
        &self,
        ask: &Request<'_>,
        body: Option<Body>,
    ) -> Result<Response, Error> {
        let response = self.exchange(ask, body).await?;
        if response.status().is_success() {
            let (endpoint, what) = (self.endpoint.to_string(), ask.what.to_owned());
            return Ok(Response { response, endpoint, what });
        }
        Err(self.refusal(ask.what, response).await)
    }

    /// The same, whatever the answer's status is.
    pub(super) async fn any(
        &self,
        ask: &Request<'_>,
        body: Option<Body>,
    ) -> Result<(u16, Response), Error> {
        let response = self.exchange(ask, body).await?;
        let status = response.status().as_u16();
        Ok((
            status,
            Response { response, endpoint: self.endpoint.to_string(), what: ask.what.to_owned() },
        ))
    }

    async fn exchange(
        &self,
        ask: &Request<'_>,
        body: Option<Body>,
    ) -> Result<reqwest::Response, Error> {
        let url = endpoint::url(&self.endpoint, ask.segments, &ask.query)?;
        let mut request = self.http.request(ask.method.clone(), url);
        request = request.headers(ask.headers.clone());
        request = request.header(FASTLY_KEY, self.token.clone());
        let moved = Arc::new(Notify::new());
        if let Some(Body { pieces, length }) = body {
            if let Some(length) = length {
                request = request.header(CONTENT_LENGTH, length);
            }
            let watched = watched(pieces, Arc::clone(&moved));
            request = request.body(reqwest::Body::wrap_stream(watched));
        }
        let mut answer = Box::pin(request.send());
        loop {
            tokio::select! {
                done = &mut answer => return done.map_err(|e| self.failed(ask.what, &e)),
                () = moved.notified() => {}
                () = tokio::time::sleep(STILL_TIMEOUT) => return Err(still(self, ask.what)),
            }
        }
    }

    fn failed(&self, what: &str, e: &reqwest::Error) -> Error {
        let (what, endpoint, why) = (what.to_owned(), self.endpoint.to_string(), cause(e));
        if e.is_connect() {
            Error::Unreachable { what, endpoint, why }
        } else {
            Error::Cut { what, endpoint, why }
        }
    }

    async fn refusal(&self, what: &str, response: reqwest::Response) -> Error {
        let status = response.status().as_u16();
        let mut answer =
            Response { response, endpoint: self.endpoint.to_string(), what: what.to_owned() };
        let after = answer.retry_after();
        // Without its body the status still says enough.
        let body = answer.all(REFUSAL_BYTES_MAX).await.unwrap_or_default();
        Error::refused(what, status, &body, after)
    }
}

fn still(client: &Client, what: &str) -> Error {
    Error::Cut {
        what: what.to_owned(),
        endpoint: client.endpoint.to_string(),
        why: format!("nothing came within {} seconds", STILL_TIMEOUT.as_secs()),
    }
}

/// Tells whenever a piece is taken.
fn watched<S>(mut pieces: S, moved: Arc<Notify>) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    poll_fn(move |context| {
        let piece = std::pin::Pin::new(&mut pieces).poll_next(context);
        if piece.is_ready() {
            moved.notify_one();
        }
        piece
    })
}

/// The innermost cause, which says what happened; the outer ones repeat the URL.
pub(super) fn cause(e: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = e;
    while let Some(next) = inner.source() {
        inner = next;
    }
    if e.is_timeout() && e.is_connect() {
        return "no answer within 10 seconds".into();
    }
    inner.to_string()
}

impl Response {
    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let after = self.headers().get(RETRY_AFTER)?.to_str().ok()?;
        after.trim().parse().ok().map(Duration::from_secs)
    }

    /// The next piece of the body; `None` once it is whole.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let why = match tokio::time::timeout(STILL_TIMEOUT, self.response.chunk()).await {
            Ok(Ok(piece)) => return Ok(piece),
            Ok(Err(e)) => cause(&e),
            Err(_) => format!("nothing came within {} seconds", STILL_TIMEOUT.as_secs()),
        };
        Err(Error::Cut { what: self.what.clone(), endpoint: self.endpoint.clone(), why })
    }

    /// The whole body, which may have at most so many bytes.
    pub(super) async fn all(&mut self, most: usize) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            if whole.len() + piece.len() > most {
                return Err(self.unexpected(&format!("it has more than {most} bytes")));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// The body as JSON.
    pub(super) async fn json<T: DeserializeOwned>(mut self) -> Result<T, Error> {
        let body = self.all(JSON_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|e| self.unexpected(&e.to_string()))
    }

    pub(super) fn unexpected(&self, why: &str) -> Error {
        Error::Unexpected { what: self.what.clone(), why: why.to_owned() }
    }
}
