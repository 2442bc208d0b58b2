//! Requests that only a Steadfast server supports (docs/extensions.md).

use super::body::RequestBody;
use super::items::check_prefix;
use super::request::{Request, Response};
use super::{Client, Error};
use crate::wire::{
    BatchReport, DeletedCount, IfExists, ImportReport, ItemDetailsList, MatchedCount, ServerInfo,
    Store,
};
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde::de::DeserializeOwned;

/// Maximum number of items deleted per request. A request of this size completes well within any
/// timeout.
const DELETE_LIMIT: &str = "10000";
/// The maximum size of a report in bytes.
const REPORT_BYTES_MAX: usize = 64 << 20;

/// An export or backup, streamed from one consistent snapshot.
pub struct SnapshotStream(Response);

impl SnapshotStream {
    /// Reads the next chunk, or returns `None` at the end.
    ///
    /// # Errors
    /// Returns [`Error::Disconnected`] if the connection is lost and the stream is incomplete.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.0.next_chunk().await
    }
}

/// A response body with a list of failed lines.
pub(super) trait LineReport {
    /// Returns the number of failed lines listed.
    fn failed(&self) -> usize;
}

impl LineReport for BatchReport {
    fn failed(&self) -> usize {
        self.errors.len()
    }
}

impl LineReport for ImportReport {
    fn failed(&self) -> usize {
        self.errors.len()
    }
}

fn items_path(store: &Store) -> [&str; 5] {
    ["_", "v1", "stores", &store.id, "items"]
}

impl Client {
    /// Returns whether the server is Steadfast and supports the requests of this module.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn is_steadfast(&self) -> Result<bool, Error> {
        let request = Request::new(Method::GET, &["_", "v1"], "the server");
        match self.send(&request).await {
            Ok(response) => {
                let info = response.json::<ServerInfo>().await;
                Ok(info.is_ok_and(|info| info.name == "steadfast"))
            }
            Err(Error::Status { status: 400 | 404 | 405, .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lists a page of items with details.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn details(
        &self,
        store: &Store,
        prefix: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<ItemDetailsList, Error> {
        let subject = format!("the items of store {:?}", store.name);
        let (path, limit) = (items_path(store), limit.to_string());
        let request = Request::new(Method::GET, &path, &subject)
            .query("limit", Some(&limit))
            .query("prefix", (!prefix.is_empty()).then_some(prefix))
            .query("cursor", cursor);
        let page: ItemDetailsList = self.send(&request).await?.json().await?;
        check_prefix(&subject, prefix, page.data.iter().map(|item| &item.key))?;
        Ok(page)
    }

    /// Counts the items with a key prefix; an empty prefix matches all items.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count_by_prefix(&self, store: &Store, prefix: &str) -> Result<u64, Error> {
        let subject = format!("the items of store {:?}", store.name);
        let path = items_path(store);
        let (mut count, mut cursor) = (0, None::<String>);
        loop {
            let request = with_prefix(Request::new(Method::DELETE, &path, &subject), prefix)
                .query("dry_run", Some("true"))
                .query("cursor", cursor.as_deref());
            let page = self.send(&request).await?.json::<MatchedCount>().await?;
            count += page.matched;
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(count),
            }
        }
    }

    /// Deletes up to 10,000 items with a key prefix; repeat while `more` is set.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_by_prefix(
        &self,
        store: &Store,
        prefix: &str,
    ) -> Result<DeletedCount, Error> {
        let subject = format!("the items of store {:?}", store.name);
        let path = items_path(store);
        let request = with_prefix(Request::new(Method::DELETE, &path, &subject), prefix);
        self.send(&request.query("limit", Some(DELETE_LIMIT))).await?.json().await
    }

    /// Exports a snapshot of the items with a key prefix as NDJSON.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn export(&self, store: &Store, prefix: &str) -> Result<SnapshotStream, Error> {
        let subject = format!("the export of store {:?}", store.name);
        let path = ["_", "v1", "stores", &store.id, "export"];
        let prefix = (!prefix.is_empty()).then_some(prefix);
        let request = Request::new(Method::GET, &path, &subject).query("prefix", prefix);
        self.send(&request).await.map(SnapshotStream)
    }

    /// Streams a snapshot of all stores in the format that `restore` reads.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn backup(&self) -> Result<SnapshotStream, Error> {
        let request = Request::new(Method::GET, &["_", "v1", "backup"], "the backup");
        self.send(&request).await.map(SnapshotStream)
    }

    /// Imports NDJSON without retries. The caller can safely retry unless `if_exists` is `fail`.
    ///
    /// # Errors
    /// See [`Error`]. Failed lines are listed in the report.
    pub async fn import(
        &self,
        store: &Store,
        lines: RequestBody,
        if_exists: IfExists,
    ) -> Result<ImportReport, Error> {
        let subject = format!("an import into store {:?}", store.name);
        let path = ["_", "v1", "stores", &store.id, "import"];
        let ndjson = HeaderValue::from_static("application/x-ndjson");
        let request = Request::new(Method::PUT, &path, &subject)
            .query("if_exists", Some(if_exists.as_str()))
            .header("content-type", Some(ndjson));
        self.send_for_report(&request, lines).await
    }

    /// Reads the report from an error response, or returns an error if the response contains no
    /// report.
    pub(super) async fn report_or_error<T: DeserializeOwned + LineReport>(
        &self,
        request: &Request<'_>,
        status: u16,
        mut response: Response,
    ) -> Result<T, Error> {
        let retry_after = response.retry_after();
        let body = response.read_to_end(REPORT_BYTES_MAX).await?;
        match serde_json::from_slice::<T>(&body) {
            Ok(report) if report.failed() > 0 => Ok(report),
            Ok(_) | Err(_) => {
                Err(Error::from_response(request.subject(), status, &body, retry_after))
            }
        }
    }
}

fn with_prefix<'a>(request: Request<'a>, prefix: &'a str) -> Request<'a> {
    if prefix.is_empty() {
        request.query("all", Some("true"))
    } else {
        request.query("prefix", Some(prefix))
    }
}
