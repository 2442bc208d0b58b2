//! The batch endpoint: lines of JSON, applied in order as they come (contract.md, 3.5).
//!
//! Lines are gathered into groups, and each group is one commit; while one is made durable, the
//! next is read. There is no atomicity over lines, and a batch that is cut leaves the lines before
//! the cut.

use super::Api;
use super::auth::Pass;
use super::error::{Error, json};
use crate::http::{Body, Response, Stream};
use crate::kv::batch::Line;
use crate::kv::types::{Key, Metadata, StoreId, Ttl};
use crate::kv::{self, Kv, PIECE_BYTES, Value};
use crate::wire::{BatchError, BatchReport};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Lines and bytes of values that make a group.
const GROUP_LINES: usize = 1000;
const GROUP_BYTES: u64 = 1 << 20;
/// Bytes a batch may hold besides a long line: two groups, and what is read ahead.
const HELD_BYTES: u64 = 4 << 20;
/// Lines longer than this are counted against the bound by themselves.
const LONG_LINE_BYTES: usize = 1 << 20;
/// Bytes of a line besides its value: a key and metadata with every character escaped, and space.
const LINE_SPARE_BYTES: u64 = 32 * 1024;
/// After so many lines others have their turn.
const TURN_LINES: u64 = 32;
/// Errors told in one answer; a batch may have any number of lines.
const ERRORS_MAX: usize = 10_000;

/// Standard base64, with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
struct RawLine<'l> {
    #[serde(borrow)]
    key: Cow<'l, str>,
    #[serde(borrow)]
    value: Cow<'l, str>,
    #[serde(default)]
    time_to_live_sec: Option<u64>,
    #[serde(borrow, default)]
    metadata: Option<Cow<'l, str>>,
    #[serde(default)]
    background_fetch: Option<bool>,
}

/// A line that was refused: its key, where it could be read, and why.
type Refused = (String, kv::Error);

/// A group that is being made durable: its lines' numbers and keys, and the commit.
type Running = (Vec<(u64, String)>, JoinHandle<Result<(), kv::Error>>);

/// The state of one batch.
struct Batch<'a> {
    kv: &'a Arc<Kv>,
    pass: &'a Pass,
    store: StoreId,
    request: u64,
    /// The number of the next line.
    index: u64,
    lines: Vec<Line>,
    named: Vec<(u64, String)>,
    bytes: u64,
    running: Option<Running>,
    errors: Vec<BatchError>,
    failed: u64,
    /// The largest class of error so far decides the status: 413, then 400, then 503.
    status: u16,
}

impl Api {
    pub(super) async fn put_batch<S: Stream>(
        &self,
        store: Result<StoreId, Error>,
        body: &mut Body<'_, S>,
        request: u64,
        pass: &Pass,
    ) -> Result<Response, Error> {
        let store = store?;
        self.kv.describe_store(&store).await?;
        let _share = self.admission.upload(HELD_BYTES).await?;
        let line_max = self.kv.value_bytes_max().div_ceil(3).saturating_mul(4) + LINE_SPARE_BYTES;
        let line_max = usize::try_from(line_max).unwrap_or(usize::MAX);
        let mut batch = Batch::new(&self.kv, pass, store, request);
        let mut pending = BytesMut::new();
        let (mut long, mut skipping, mut searched) = (None, false, 0);
        while let Some(chunk) = body.chunk().await? {
            pending.extend_from_slice(&chunk);
            loop {
                let fresh = pending.get(searched..).unwrap_or_default();
                let Some(at) = memchr::memchr(b'\n', fresh) else { break };
                let line = pending.split_to(searched + at + 1);
                searched = 0;
                if !std::mem::take(&mut skipping) {
                    batch.line(&line, line_max).await;
                }
                if batch.status >= 500 {
                    return Ok(batch.finish().await.closing(true));
                }
                if batch.index.is_multiple_of(TURN_LINES) {
                    tokio::task::yield_now().await;
                }
            }
            searched = pending.len();
            if searched > line_max && !std::mem::replace(&mut skipping, true) {
                batch.refuse(String::new(), &too_long(line_max)).await;
            }
            if skipping {
                pending.clear();
                searched = 0;
            }
            if searched > LONG_LINE_BYTES && long.is_none() {
                long = Some(self.admission.long_line(2 * line_max as u64).await?);
            }
        }
        if !skipping && !pending.is_empty() {
            batch.line(&pending, line_max).await;
        }
        Ok(batch.finish().await)
    }
}

fn too_long(max: usize) -> kv::Error {
    kv::Error::TooLarge(max as u64)
}

impl<'a> Batch<'a> {
    fn new(kv: &'a Arc<Kv>, pass: &'a Pass, store: StoreId, request: u64) -> Batch<'a> {
        let (lines, named, errors) = (Vec::new(), Vec::new(), Vec::new());
        let (index, bytes, failed, status) = (0, 0, 0, 200);
        Batch {
            kv,
            pass,
            store,
            request,
            index,
            lines,
            named,
            bytes,
            running: None,
            errors,
            failed,
            status,
        }
    }

    /// Takes a line, with or without its end.
    async fn line(&mut self, line: &[u8], line_max: usize) {
        let line = line.trim_ascii();
        if line.is_empty() {
            self.index += 1;
            return;
        }
        if line.len() > line_max {
            return self.refuse(String::new(), &too_long(line_max)).await;
        }
        match self.parse(line).await {
            Err((key, e)) => self.refuse(key, &e).await,
            Ok(line) => {
                let key = String::from_utf8_lossy(line.key.as_bytes()).into_owned();
                self.named.push((self.index, key));
                self.index += 1;
                self.bytes += line.value.len().min(PIECE_BYTES as u64);
                self.lines.push(line);
                if self.lines.len() >= GROUP_LINES || self.bytes >= GROUP_BYTES {
                    self.commit().await;
                }
            }
        }
    }

    async fn parse(&self, line: &[u8]) -> Result<Line, Refused> {
        // A list of the values would be read as an object of them.
        if line.starts_with(b"[") {
            return Err((String::new(), kv::Error::invalid("line", "must be a JSON object")));
        }
        let raw: RawLine<'_> = serde_json::from_slice(line).map_err(|e| explain(line, &e))?;
        let named = |e: kv::Error| (raw.key.clone().into_owned(), e);
        let key = Key::parse(raw.key.as_bytes()).map_err(named)?;
        self.pass.check_key(&key).map_err(named)?;
        let ttl = raw.time_to_live_sec.map(Ttl::new).transpose().map_err(named)?;
        let metadata = raw.metadata.as_deref().unwrap_or_default().trim_matches([' ', '\t']);
        let metadata = Metadata::parse(metadata.as_bytes()).map_err(named)?;
        let value = BASE64
            .decode(raw.value.as_bytes())
            .map_err(|_| named(kv::Error::invalid("value", "must be base64")))?;
        let max = self.kv.value_bytes_max();
        if value.len() as u64 > max {
            return Err(named(kv::Error::TooLarge(max)));
        }
        // Nothing is to be fetched in the background here.
        let _ = raw.background_fetch;
        let value = self.place(Bytes::from(value)).await.map_err(named)?;
        Ok(Line { key, ttl, metadata, value })
    }

    async fn place(&self, value: Bytes) -> Result<Value, kv::Error> {
        let mut upload = self.kv.upload();
        upload.push(value).await?;
        upload.finish().await
    }

    /// Starts the commit of the lines gathered, once the one before is done.
    async fn commit(&mut self) {
        self.settle().await;
        if self.lines.is_empty() || self.status >= 500 {
            return;
        }
        let (kv, store) = (self.kv.clone(), self.store);
        let lines = std::mem::take(&mut self.lines);
        let commit = tokio::spawn(async move { kv.put_batch(&store, lines).await });
        self.running = Some((std::mem::take(&mut self.named), commit));
        self.bytes = 0;
    }

    /// Waits for the commit that runs.
    async fn settle(&mut self) {
        let Some((named, commit)) = self.running.take() else { return };
        let done = commit.await;
        let e = match done {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e,
            Err(e) => kv::Error::Internal(e.to_string()),
        };
        if matches!(e, kv::Error::Internal(_) | kv::Error::Unavailable(_)) {
            let request = format_args!("{:016x}", self.request);
            tracing::error!(%request, error = %e, "a group of a batch failed");
        }
        for (index, key) in named {
            self.report(index, key, &e);
        }
    }

    /// Refuses the line that comes next.
    async fn refuse(&mut self, key: String, e: &kv::Error) {
        let index = self.index;
        self.index += 1;
        self.report(index, key, e);
    }

    fn report(&mut self, index: u64, key: String, e: &kv::Error) {
        let code = super::error::kv_status(e);
        let class = match code {
            413 => 413,
            500.. => 503,
            _ => 400,
        };
        // 413 only while sizes alone have failed.
        self.status = match (self.status, class) {
            (200, class) => class,
            (503, _) | (_, 503) => 503,
            (413, 413) => 413,
            _ => 400,
        };
        self.failed += 1;
        if self.errors.len() < ERRORS_MAX {
            let mut reason = e.to_string();
            if let kv::Error::Internal(_) = e {
                reason = "the server failed; the line may not be written".into();
            } else if let kv::Error::Full(_) = e {
                reason = "storage is full; the line is not written".into();
            } else if let kv::Error::Unavailable(_) = e {
                reason = "storage cannot be reached; the line is not written".into();
            }
            self.errors.push(BatchError { key, index, code: code.to_string(), reason });
        }
    }

    /// Commits what is left and tells how all of it went.
    async fn finish(mut self) -> Response {
        self.commit().await;
        self.settle().await;
        let untried = std::mem::take(&mut self.named);
        for (index, key) in untried {
            self.report(index, key, &kv::Error::Busy);
        }
        self.errors.sort_by_key(|error| error.index);
        let kind = match self.status {
            200 => "",
            413 => "payload_too_large",
            503 => "service_unavailable",
            _ => "bad_request",
        };
        let mut title = match self.failed {
            0 => "success".to_owned(),
            failed if failed > ERRORS_MAX as u64 => {
                format!("batch had {failed} errors, the first follow")
            }
            _ => "batch had errors".to_owned(),
        };
        if self.status >= 500 {
            title = format!("{title} (request {:016x})", self.request);
        }
        json(self.status, &BatchReport { kind: kind.into(), title, errors: self.errors })
    }
}

/// Says what is wrong with a line that does not have the shape, by the field.
fn explain(line: &[u8], e: &serde_json::Error) -> Refused {
    let invalid = |field, reason: String| kv::Error::invalid(field, reason);
    let Ok(Json::Object(fields)) = serde_json::from_slice(line) else {
        return (String::new(), invalid("line", format!("must be a JSON object: {e}")));
    };
    let key = fields.get("key").and_then(Json::as_str).unwrap_or_default().to_owned();
    let field = |name: &str| fields.get(name);
    let reason = if !field("key").is_some_and(Json::is_string) {
        invalid("key", "must be there and a string".into())
    } else if !field("value").is_some_and(Json::is_string) {
        invalid("value", "must be there and a string of base64".into())
    } else if field("time_to_live_sec").is_some_and(|ttl| !ttl.is_null() && !ttl.is_u64()) {
        Ttl::invalid()
    } else if field("metadata").is_some_and(|meta| !meta.is_null() && !meta.is_string()) {
        invalid("metadata", "must be a string".into())
    } else if field("background_fetch").is_some_and(|b| !b.is_null() && !b.is_boolean()) {
        invalid("background_fetch", "must be true or false".into())
    } else {
        invalid("line", format!("must be a JSON object: {e}"))
    };
    (key, reason)
}
