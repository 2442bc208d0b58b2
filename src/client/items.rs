//! Item requests (docs/contract.md section 3).

use super::body::RequestBody;
use super::request::{Request, Response};
use super::{Client, Error};
use crate::wire::{
    BatchReport, GENERATION, IF_GENERATION_MATCH, KeyList, METADATA, STORED_CONTENT_LENGTH, Store,
    TIME_TO_LIVE_SEC,
};
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LAST_MODIFIED};

/// The item properties in response headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemHeaders {
    /// Value size in bytes.
    pub size: u64,
    /// Generation.
    pub generation: u64,
    /// Metadata as raw bytes; empty if the item has none.
    pub metadata: Vec<u8>,
    /// Time of the last write as an HTTP date, if the server sends one.
    pub modified: Option<String>,
}

/// An item whose value is streamed.
pub struct ValueStream {
    /// The item's properties.
    pub headers: ItemHeaders,
    response: Response,
}

impl ValueStream {
    /// Reads the next chunk of the value, or returns `None` at the end.
    ///
    /// # Errors
    /// Returns [`Error::Disconnected`] if the connection is lost before the end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.response.next_chunk().await
    }

    /// Reads the whole value, which may have at most `max` bytes.
    ///
    /// # Errors
    /// Returns [`Error::Disconnected`] if the connection is lost, or [`Error::Unexpected`] if the
    /// value is larger than `max`.
    pub async fn read_to_end(mut self, max: usize) -> Result<Vec<u8>, Error> {
        self.response.read_to_end(max).await
    }
}

/// How a PUT treats an existing item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutMode {
    /// Replaces the item.
    #[default]
    Overwrite,
    /// Fails if the item exists.
    Add,
    /// Appends to the value of the item.
    Append,
    /// Prepends to the value of the item.
    Prepend,
}

/// The parameters of a PUT.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Metadata as raw bytes.
    pub metadata: Option<Vec<u8>>,
    /// Time to live in seconds. With `None`, the item never expires.
    pub time_to_live: Option<u32>,
    /// How to treat an existing item.
    pub mode: PutMode,
    /// The generation that the item must have. 0 means that the item must not exist.
    pub if_generation_match: Option<u64>,
}

impl PutOptions {
    fn is_idempotent(&self) -> bool {
        self.mode == PutMode::Overwrite && self.if_generation_match.is_none()
    }

    fn request<'a>(&self, segments: &'a [&'a str], subject: &'a str) -> Result<Request<'a>, Error> {
        let metadata = self.metadata.as_deref().map(HeaderValue::from_bytes).transpose();
        let metadata = metadata
            .map_err(|_| Error::Usage("metadata must not contain control characters".into()))?;
        let request = Request::new(Method::PUT, segments, subject)
            .header("content-type", Some(HeaderValue::from_static("application/octet-stream")))
            .header(METADATA, metadata)
            .header(TIME_TO_LIVE_SEC, self.time_to_live.map(HeaderValue::from))
            .header(IF_GENERATION_MATCH, self.if_generation_match.map(HeaderValue::from));
        Ok(match self.mode {
            PutMode::Overwrite => request,
            PutMode::Add => request.query("add", Some("true")),
            PutMode::Append => request.query("append", Some("true")),
            PutMode::Prepend => request.query("prepend", Some("true")),
        })
    }
}

fn subject(store: &Store, key: &str) -> String {
    format!("item {key:?} of store {:?}", store.name)
}

fn path<'a>(store: &'a Store, key: &'a str) -> [&'a str; 6] {
    ["resources", "stores", "kv", &store.id, "keys", key]
}

fn parse_headers(headers: &HeaderMap) -> Option<ItemHeaders> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let size = text(STORED_CONTENT_LENGTH).or_else(|| text(CONTENT_LENGTH.as_str()));
    Some(ItemHeaders {
        size: size?.parse().ok()?,
        generation: text(GENERATION)?.parse().ok()?,
        metadata: headers.get(METADATA).map(|value| value.as_bytes().to_vec()).unwrap_or_default(),
        modified: text(LAST_MODIFIED.as_str()).map(str::to_owned),
    })
}

/// Checks that the server applied the requested prefix, because callers may delete the listed
/// items.
pub(super) fn check_prefix<'k>(
    subject: &str,
    prefix: &str,
    mut keys: impl Iterator<Item = &'k String>,
) -> Result<(), Error> {
    match keys.find(|key| !key.starts_with(prefix)) {
        None => Ok(()),
        Some(key) => Err(Error::Unexpected {
            subject: subject.to_owned(),
            reason: format!("key {key:?} does not have the prefix {prefix:?}"),
        }),
    }
}

const HEADERS_MISSING: &str = "the generation or the length is missing";

impl Client {
    /// Gets an item and streams its value.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, store: &Store, key: &str) -> Result<ValueStream, Error> {
        let (subject, path) = (subject(store, key), path(store, key));
        let response = self.send(&Request::new(Method::GET, &path, &subject)).await?;
        match parse_headers(response.headers()) {
            Some(headers) => Ok(ValueStream { headers, response }),
            None => Err(response.unexpected(HEADERS_MISSING)),
        }
    }

    /// Gets the properties of an item without its value.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head(&self, store: &Store, key: &str) -> Result<ItemHeaders, Error> {
        let (subject, path) = (subject(store, key), path(store, key));
        let response = self.send(&Request::new(Method::HEAD, &path, &subject)).await?;
        let headers = parse_headers(response.headers());
        headers.ok_or_else(|| response.unexpected(HEADERS_MISSING))
    }

    /// Puts a value from memory. The request is retried if it is idempotent.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        store: &Store,
        key: &str,
        value: Bytes,
        options: &PutOptions,
    ) -> Result<(), Error> {
        let (subject, path) = (subject(store, key), path(store, key));
        let request = options.request(&path, &subject)?;
        let body = || Some(RequestBody::bytes(value.clone()));
        if options.is_idempotent() {
            self.retry.run(|| self.send_once(&request, body())).await?;
        } else {
            self.send_once(&request, body()).await?;
        }
        Ok(())
    }

    /// Puts a streamed value without retries.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_stream(
        &self,
        store: &Store,
        key: &str,
        value: RequestBody,
        options: &PutOptions,
    ) -> Result<(), Error> {
        let (subject, path) = (subject(store, key), path(store, key));
        self.send_once(&options.request(&path, &subject)?, Some(value)).await?;
        Ok(())
    }

    /// Deletes an item. With `force`, a missing item is not an error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(
        &self,
        store: &Store,
        key: &str,
        force: bool,
        if_generation_match: Option<u64>,
    ) -> Result<(), Error> {
        let (subject, path) = (subject(store, key), path(store, key));
        let request = Request::new(Method::DELETE, &path, &subject)
            .query("force", force.then_some("true"))
            .header(IF_GENERATION_MATCH, if_generation_match.map(HeaderValue::from));
        // Without `force`, a retry fails if the first attempt deleted the item.
        if force && if_generation_match.is_none() {
            self.send(&request).await?;
        } else {
            self.send_once(&request, None).await?;
        }
        Ok(())
    }

    /// Lists a page of keys.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn keys(
        &self,
        store: &Store,
        prefix: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<KeyList, Error> {
        let subject = format!("the keys of store {:?}", store.name);
        let path = ["resources", "stores", "kv", &store.id, "keys"];
        let limit = limit.to_string();
        let request = Request::new(Method::GET, &path, &subject)
            .query("limit", Some(&limit))
            .query("prefix", (!prefix.is_empty()).then_some(prefix))
            .query("cursor", cursor);
        let page: KeyList = self.send(&request).await?.json().await?;
        // A repeated cursor would cause an endless loop.
        if cursor.is_some() && page.meta.next_cursor.as_deref() == cursor {
            return Err(Error::Unexpected { subject, reason: "the cursor repeats".into() });
        }
        check_prefix(&subject, prefix, page.data.iter())?;
        Ok(page)
    }

    /// Puts a batch of items, with retries.
    ///
    /// # Errors
    /// See [`Error`]. Failed lines are listed in the report.
    pub async fn batch(&self, store: &Store, lines: Bytes) -> Result<BatchReport, Error> {
        let subject = format!("a batch for store {:?}", store.name);
        let path = ["resources", "stores", "kv", &store.id, "batch"];
        let ndjson = HeaderValue::from_static("application/x-ndjson");
        let request = Request::new(Method::PUT, &path, &subject);
        let request = request.header("content-type", Some(ndjson));
        let send = || self.send_for_report(&request, RequestBody::bytes(lines.clone()));
        self.retry.run(send).await
    }

    /// Sends a request whose error responses may contain a report.
    pub(super) async fn send_for_report<T>(
        &self,
        request: &Request<'_>,
        body: RequestBody,
    ) -> Result<T, Error>
    where
        T: serde::de::DeserializeOwned + super::extensions::LineReport,
    {
        let (status, response) = self.send_any_status(request, Some(body)).await?;
        if (200..300).contains(&status) {
            return response.json().await;
        }
        self.report_or_error(request, status, response).await
    }
}
