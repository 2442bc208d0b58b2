//! What a Steadfast server can do beyond the hosted API.

use super::body::Body;
use super::request::{Request, Response};
use super::{Client, Error};
use crate::wire::{About, BatchReport, Deleted, DetailsPage, ImportReport, Matched, Store};
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde::de::DeserializeOwned;

/// Items that one request deletes: it is answered before anybody loses patience.
const DELETED_AT_ONCE: &str = "10000";
/// A report may have so many bytes.
const REPORT_BYTES_MAX: usize = 64 << 20;

/// What an import does with an item that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// Replaces it.
    Overwrite,
    /// Leaves it as it is.
    Skip,
    /// Counts the line as failed.
    Fail,
}

impl IfExists {
    /// As the server reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            IfExists::Overwrite => "overwrite",
            IfExists::Skip => "skip",
            IfExists::Fail => "fail",
        }
    }
}

/// All items of a store, as they were at one moment: lines that come piece by piece.
pub struct Export(Response);

impl Export {
    /// The next piece; `None` once all is there.
    ///
    /// # Errors
    /// [`Error::Cut`] when the connection ends before: what came is not whole.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        self.0.piece().await
    }
}

/// An answer that names the lines that failed.
pub(super) trait Report {
    /// How many there are.
    fn failed(&self) -> usize;
}

impl Report for BatchReport {
    fn failed(&self) -> usize {
        self.errors.len()
    }
}

impl Report for ImportReport {
    fn failed(&self) -> usize {
        self.errors.len()
    }
}

fn items(store: &Store) -> [&str; 5] {
    ["_", "v1", "stores", &store.id, "items"]
}

impl Client {
    /// Whether the server is Steadfast, and can do what this file says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn is_steadfast(&self) -> Result<bool, Error> {
        let ask = Request::new(Method::GET, &["_", "v1"], "the server");
        match self.ask(&ask).await {
            Ok(answer) => {
                Ok(answer.json::<About>().await.is_ok_and(|about| about.name == "steadfast"))
            }
            Err(Error::Refused { status: 400 | 404 | 405, .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// A page of items with all but their values.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn details(
        &self,
        store: &Store,
        prefix: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<DetailsPage, Error> {
        let what = format!("the items of store {:?}", store.name);
        let (path, limit) = (items(store), limit.to_string());
        let ask = Request::new(Method::GET, &path, &what)
            .query("limit", Some(&limit))
            .query("prefix", (!prefix.is_empty()).then_some(prefix))
            .query("cursor", cursor);
        self.ask(&ask).await?.json().await
    }

    /// How many items have keys that begin so; all, for an empty prefix.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count_by_prefix(&self, store: &Store, prefix: &str) -> Result<u64, Error> {
        let what = format!("the items of store {:?}", store.name);
        let path = items(store);
        let ask = of_prefix(Request::new(Method::DELETE, &path, &what), prefix);
        let answer = self.ask(&ask.query("dry_run", Some("true"))).await?;
        Ok(answer.json::<Matched>().await?.matched)
    }

    /// Deletes some of the items whose keys begin so, and says whether there are more: call it
    /// until there are none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_by_prefix(&self, store: &Store, prefix: &str) -> Result<Deleted, Error> {
        let what = format!("the items of store {:?}", store.name);
        let path = items(store);
        let ask = of_prefix(Request::new(Method::DELETE, &path, &what), prefix);
        self.ask(&ask.query("limit", Some(DELETED_AT_ONCE))).await?.json().await
    }

    /// All items as lines, as they were at one moment.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn export(&self, store: &Store, prefix: &str) -> Result<Export, Error> {
        let what = format!("the export of store {:?}", store.name);
        let path = ["_", "v1", "stores", &store.id, "export"];
        let prefix = (!prefix.is_empty()).then_some(prefix);
        self.ask(&Request::new(Method::GET, &path, &what).query("prefix", prefix)).await.map(Export)
    }

    /// All stores and items as they were at one moment, in the form that `restore` reads.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn backup(&self) -> Result<Export, Error> {
        self.ask(&Request::new(Method::GET, &["_", "v1", "backup"], "the backup")).await.map(Export)
    }

    /// Writes the items of lines as an export gives them, once. To repeat lines does no harm
    /// unless items that exist are failures.
    ///
    /// # Errors
    /// See [`Error`]; lines that failed are in the report.
    pub async fn import(
        &self,
        store: &Store,
        lines: Body,
        if_exists: IfExists,
    ) -> Result<ImportReport, Error> {
        let what = format!("an import into store {:?}", store.name);
        let path = ["_", "v1", "stores", &store.id, "import"];
        let ndjson = HeaderValue::from_static("application/x-ndjson");
        let ask = Request::new(Method::PUT, &path, &what)
            .query("if_exists", Some(if_exists.as_str()))
            .header("content-type", Some(ndjson));
        self.reported(&ask, lines).await
    }

    /// The report in an answer with a status that refuses; else what the answer says.
    pub(super) async fn report_or_refusal<T: DeserializeOwned + Report>(
        &self,
        ask: &Request<'_>,
        status: u16,
        mut answer: Response,
    ) -> Result<T, Error> {
        let after = answer.retry_after();
        let body = answer.all(REPORT_BYTES_MAX).await?;
        match serde_json::from_slice::<T>(&body) {
            Ok(report) if report.failed() > 0 => Ok(report),
            Ok(_) | Err(_) => Err(Error::refused(ask.what(), status, &body, after)),
        }
    }
}

fn of_prefix<'a>(ask: Request<'a>, prefix: &'a str) -> Request<'a> {
    if prefix.is_empty() {
        ask.query("all", Some("true"))
    } else {
        ask.query("prefix", Some(prefix))
    }
}
