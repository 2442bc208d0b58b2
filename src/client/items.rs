//! Items.

use super::body::Body;
use super::request::{Request, Response};
use super::{Client, Error};
use crate::wire::{
    BatchReport, GENERATION, IF_GENERATION_MATCH, KeyList, METADATA, STORED_CONTENT_LENGTH, Store,
    TIME_TO_LIVE_SEC,
};
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LAST_MODIFIED};

/// What an answer tells of an item beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemHeaders {
    /// Bytes of its value.
    pub size: u64,
    /// Its generation.
    pub generation: u64,
    /// Its metadata, byte for byte.
    pub metadata: Vec<u8>,
    /// When it was written last, in the form of HTTP dates; some servers do not tell.
    pub modified: Option<String>,
}

/// An item whose value comes piece by piece.
pub struct Value {
    /// All but the value.
    pub head: ItemHeaders,
    answer: Response,
}

impl Value {
    /// The next piece of the value; `None` once it is whole.
    ///
    /// # Errors
    /// [`Error::Cut`] when the connection ends before.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        self.answer.piece().await
    }

    /// The whole value, which may have at most so many bytes.
    ///
    /// # Errors
    /// [`Error::Cut`], or [`Error::Unexpected`] when it has more.
    pub async fn all(mut self, most: usize) -> Result<Vec<u8>, Error> {
        self.answer.all(most).await
    }
}

/// What a put does with an item that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Replaces it.
    #[default]
    Overwrite,
    /// Fails.
    Add,
    /// Puts the value behind its value.
    Append,
    /// Puts the value before its value.
    Prepend,
}

/// How an item is put.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Byte for byte.
    pub metadata: Option<Vec<u8>>,
    /// Seconds that it lives; for ever without.
    pub time_to_live: Option<u32>,
    /// What becomes of an item that is there.
    pub mode: Mode,
    /// The generation that it must have; 0 if it must not be there.
    pub if_generation_match: Option<u64>,
}

impl PutOptions {
    /// Whether a second put like this leaves what the first one did, and is answered alike.
    fn repeatable(&self) -> bool {
        self.mode == Mode::Overwrite && self.if_generation_match.is_none()
    }

    fn ask<'a>(&self, segments: &'a [&'a str], what: &'a str) -> Result<Request<'a>, Error> {
        let metadata = self.metadata.as_deref().map(HeaderValue::from_bytes).transpose();
        let metadata = metadata.map_err(|_| {
            Error::Usage("the metadata must not hold control characters or line ends".into())
        })?;
        let ask = Request::new(Method::PUT, segments, what)
            .header("content-type", Some(HeaderValue::from_static("application/octet-stream")))
            .header(METADATA, metadata)
            .header(TIME_TO_LIVE_SEC, self.time_to_live.map(HeaderValue::from))
            .header(IF_GENERATION_MATCH, self.if_generation_match.map(HeaderValue::from));
        Ok(match self.mode {
            Mode::Overwrite => ask,
            Mode::Add => ask.query("add", Some("true")),
            Mode::Append => ask.query("append", Some("true")),
            Mode::Prepend => ask.query("prepend", Some("true")),
        })
    }
}

fn named(store: &Store, key: &str) -> String {
    format!("item {key:?} of store {:?}", store.name)
}

fn path<'a>(store: &'a Store, key: &'a str) -> [&'a str; 6] {
    ["resources", "stores", "kv", &store.id, "keys", key]
}

fn head(headers: &HeaderMap) -> Option<ItemHeaders> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let size = text(STORED_CONTENT_LENGTH).or_else(|| text(CONTENT_LENGTH.as_str()));
    Some(ItemHeaders {
        size: size?.parse().ok()?,
        generation: text(GENERATION)?.parse().ok()?,
        metadata: headers.get(METADATA).map(|value| value.as_bytes().to_vec()).unwrap_or_default(),
        modified: text(LAST_MODIFIED.as_str()).map(str::to_owned),
    })
}

impl Client {
    /// An item, with its value still to come.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, store: &Store, key: &str) -> Result<Value, Error> {
        let (what, path) = (named(store, key), path(store, key));
        let answer = self.ask(&Request::new(Method::GET, &path, &what)).await?;
        match head(answer.headers()) {
            Some(head) => Ok(Value { head, answer }),
            None => Err(answer.unexpected("it has no generation or no length")),
        }
    }

    /// An item without its value.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head(&self, store: &Store, key: &str) -> Result<ItemHeaders, Error> {
        let (what, path) = (named(store, key), path(store, key));
        let answer = self.ask(&Request::new(Method::HEAD, &path, &what)).await?;
        let head = head(answer.headers());
        head.ok_or_else(|| answer.unexpected("it has no generation or no length"))
    }

    /// Puts a value that is in memory. Repeated as the policy says if that does no harm.
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
        let (what, path) = (named(store, key), path(store, key));
        let ask = options.ask(&path, &what)?;
        if options.repeatable() {
            self.retry.run(|| self.once(&ask, Some(Body::bytes(value.clone())))).await?;
        } else {
            self.once(&ask, Some(Body::bytes(value))).await?;
        }
        Ok(())
    }

    /// Puts a value as it comes, once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_stream(
        &self,
        store: &Store,
        key: &str,
        value: Body,
        options: &PutOptions,
    ) -> Result<(), Error> {
        let (what, path) = (named(store, key), path(store, key));
        self.once(&options.ask(&path, &what)?, Some(value)).await?;
        Ok(())
    }

    /// Deletes an item; with `force` one that is not there is no failure.
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
        let (what, path) = (named(store, key), path(store, key));
        let ask = Request::new(Method::DELETE, &path, &what)
            .query("force", force.then_some("true"))
            .header(IF_GENERATION_MATCH, if_generation_match.map(HeaderValue::from));
        // A second try may find the item deleted by the first.
        if force && if_generation_match.is_none() {
            self.ask(&ask).await?;
        } else {
            self.once(&ask, None).await?;
        }
        Ok(())
    }

    /// A page of keys.
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
        let what = format!("the keys of store {:?}", store.name);
        let path = ["resources", "stores", "kv", &store.id, "keys"];
        let limit = limit.to_string();
        let ask = Request::new(Method::GET, &path, &what)
            .query("limit", Some(&limit))
            .query("prefix", (!prefix.is_empty()).then_some(prefix))
            .query("cursor", cursor);
        let page: KeyList = self.ask(&ask).await?.json().await?;
        // A server that gives the same place again would have us ask for ever.
        if cursor.is_some() && page.meta.next_cursor.as_deref() == cursor {
            return Err(Error::Unexpected { what, why: "the list goes in a circle".into() });
        }
        Ok(page)
    }

    /// Puts the items of lines in the batch format; repeated as the policy says. The report names
    /// the lines that failed; a batch that was refused as a whole is an error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn batch(&self, store: &Store, lines: Bytes) -> Result<BatchReport, Error> {
        let what = format!("a batch for store {:?}", store.name);
        let path = ["resources", "stores", "kv", &store.id, "batch"];
        let ndjson = HeaderValue::from_static("application/x-ndjson");
        let ask = Request::new(Method::PUT, &path, &what).header("content-type", Some(ndjson));
        self.retry.run(|| self.reported(&ask, Body::bytes(lines.clone()))).await
    }

    /// An answer that is a report whatever its status, where it names lines that failed.
    pub(super) async fn reported<T>(&self, ask: &Request<'_>, body: Body) -> Result<T, Error>
    where
        T: serde::de::DeserializeOwned + super::extensions::Report,
    {
        let (status, answer) = self.any(ask, Some(body)).await?;
        if (200..300).contains(&status) {
            return answer.json().await;
        }
        self.report_or_refusal(ask, status, answer).await
    }
}
