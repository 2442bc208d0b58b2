//! Batches and imports: NDJSON items written in order while the body is received (docs/contract.md
//! section 3.5).
//!
//! Items are collected into groups, and each group is one commit; the next group is read while the
//! previous one commits. A batch is not atomic: if the connection is lost, items already committed
//! remain.

use super::Api;
use super::auth::Principal;
use super::batch_line::{self, RejectedLine, ValidLine};
use super::error::{Error, json};
use super::query::Query;
use crate::http::{Body, RequestHead, Response, Stream};
use crate::kv::batch::BatchItem;
use crate::kv::import::{ImportItem, ImportOutcome};
use crate::kv::limits::KEY_BYTES_MAX;
use crate::kv::types::{Key, StoreId};
use crate::kv::{self, Kv, PIECE_BYTES, Value};
use crate::wire;
use crate::wire::item_line::{LineFields, line_bytes_max};
use crate::wire::{BatchError, BatchReport, IfExists, ImportReport};
use bytes::{Bytes, BytesMut};
use std::pin::pin;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A group is committed once it has this many items, or this many bytes of values in memory.
const GROUP_ITEMS: usize = 1000;
const GROUP_BYTES: u64 = 1 << 20;
/// Memory reserved for a batch without long lines, in bytes: two groups and a read buffer.
const BATCH_BYTES: u64 = 4 << 20;
/// A batch with a line longer than this, in bytes, also needs a permit for long lines.
const LONG_LINE_BYTES: usize = 1 << 20;
/// Number of lines after which the task yields to the scheduler.
const YIELD_LINES: u64 = 32;
/// Maximum number of errors listed in a report, and maximum size of the listed keys and reasons in
/// bytes. The number of lines in a batch is not limited.
const ERRORS_MAX: usize = 10_000;
const ERRORS_BYTES_MAX: usize = 1 << 20;

/// A group being committed: the line number and key of each item, and the task, which returns the
/// outcomes of an import.
type Committing = (Vec<(u64, String)>, JoinHandle<Result<Vec<ImportOutcome>, kv::Error>>);

/// The options and counts of an import.
#[derive(Clone, Copy)]
struct Import {
    if_exists: IfExists,
    written: u64,
    skipped: u64,
}

/// A batch or import in progress.
struct BatchRequest<'a> {
    kv: &'a Arc<Kv>,
    principal: &'a Principal,
    store: StoreId,
    request_id: u64,
    /// Index of the next line, counted from 0.
    index: u64,
    /// Present if this is an import.
    import: Option<Import>,
    /// The items of the current group, and the line number and key of each item.
    items: Vec<ImportItem>,
    keys: Vec<(u64, String)>,
    bytes: u64,
    committing: Option<Committing>,
    errors: Vec<BatchError>,
    errors_bytes: usize,
    failed: u64,
    /// Status of the response so far. In ascending order of severity: 200, 413, 400, 503.
    status: u16,
}

impl Api {
    pub(super) async fn put_batch<S: Stream>(
        &self,
        store: Result<StoreId, Error>,
        body: &mut Body<'_, S>,
        request_id: u64,
        principal: &Principal,
    ) -> Result<Response, Error> {
        let batch = BatchRequest::new(&self.kv, principal, store?, request_id, None);
        self.read_lines(batch, body).await
    }

    pub(super) async fn import<S: Stream>(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
        body: &mut Body<'_, S>,
        request_id: u64,
        principal: &Principal,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let invalid = || Error::Invalid("if_exists must be overwrite, skip or fail".into());
        let if_exists = match query.word("if_exists")? {
            None => IfExists::default(),
            Some(word) => IfExists::parse(word).ok_or_else(invalid)?,
        };
        let import = Some(Import { if_exists, written: 0, skipped: 0 });
        let batch = BatchRequest::new(&self.kv, principal, store?, request_id, import);
        self.read_lines(batch, body).await
    }

    async fn read_lines<S: Stream>(
        &self,
        mut batch: BatchRequest<'_>,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        self.kv.describe_store(&batch.store).await?;
        let permit = body.while_connected(pin!(self.limiter.upload(BATCH_BYTES))).await??;
        if let Some(contention) = permit.contention() {
            body.yield_to(contention);
        }
        let line_max = line_bytes_max(self.kv.value_bytes_max());
        let line_max = usize::try_from(line_max).unwrap_or(usize::MAX);
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
                    batch.add_line(&line, line_max).await;
                }
                if batch.status >= 500 {
                    let response = batch.finish().await.closing(true);
                    return Ok(response.holding(Some(permit)));
                }
                if batch.index.is_multiple_of(YIELD_LINES) {
                    tokio::task::yield_now().await;
                }
            }
            searched = pending.len();
            if searched > line_max && !std::mem::replace(&mut skipping, true) {
                batch.reject(String::new(), &too_long(line_max)).await;
            }
            if skipping {
                pending.clear();
                searched = 0;
            }
            if searched > LONG_LINE_BYTES && long.is_none() {
                // Reserve memory for the line, its decoded value, and the part of the value that
                // stays in memory until the commit.
                let held = 2 * line_max as u64 + self.kv.held_memory_bytes_max();
                let permit = body.while_connected(pin!(self.limiter.long_line(held))).await??;
                if let Some(contention) = permit.contention() {
                    body.yield_to(contention);
                }
                long = Some(permit);
            }
        }
        if !skipping && !pending.is_empty() {
            batch.add_line(&pending, line_max).await;
        }
        Ok(batch.finish().await.holding(Some(permit)))
    }
}

fn too_long(max: usize) -> kv::Error {
    kv::Error::TooLarge(max as u64)
}

impl<'a> BatchRequest<'a> {
    fn new(
        kv: &'a Arc<Kv>,
        principal: &'a Principal,
        store: StoreId,
        request_id: u64,
        import: Option<Import>,
    ) -> BatchRequest<'a> {
        BatchRequest {
            kv,
            principal,
            store,
            request_id,
            index: 0,
            import,
            items: Vec::new(),
            keys: Vec::new(),
            bytes: 0,
            committing: None,
            errors: Vec::new(),
            errors_bytes: 0,
            failed: 0,
            status: 200,
        }
    }

    /// Adds the item on a line to the group. The line may include its line feed.
    async fn add_line(&mut self, line: &[u8], line_max: usize) {
        let line =
            if self.index == 0 { line.strip_prefix(wire::BOM).unwrap_or(line) } else { line };
        let line = line.trim_ascii();
        if line.is_empty() {
            self.index += 1;
            return;
        }
        if line.len() > line_max {
            return self.reject(String::new(), &too_long(line_max)).await;
        }
        match self.parse(line).await {
            Err((key, e)) => self.reject(key, &e).await,
            Ok(item) => {
                let key = String::from_utf8_lossy(item.item.key.as_bytes()).into_owned();
                self.keys.push((self.index, key));
                self.index += 1;
                let bytes = self.kv.held_memory_bytes(item.item.value.len());
                self.bytes += bytes;
                self.items.push(item);
                if self.items.len() >= GROUP_ITEMS || self.bytes >= GROUP_BYTES {
                    self.commit().await;
                }
                if bytes > PIECE_BYTES as u64 {
                    // Only one large value is in memory at a time.
                    self.finish_commit().await;
                }
            }
        }
    }

    async fn parse(&self, line: &[u8]) -> Result<ImportItem, RejectedLine> {
        let max = self.kv.value_bytes_max();
        let authorize = |key: &Key| self.principal.check_key(key);
        let fields = if self.import.is_some() { LineFields::Import } else { LineFields::Batch };
        let line = batch_line::parse(line, fields, max, self.kv.now(), authorize)?;
        let ValidLine { key, ttl, metadata, value, expires, generation, modified } = line;
        let value = match self.upload(value).await {
            Ok(value) => value,
            Err(e) => return Err((String::from_utf8_lossy(key.as_bytes()).into_owned(), e)),
        };
        Ok(ImportItem {
            item: BatchItem { key, ttl, metadata, value },
            expires_at: expires,
            generation,
            modified_at: modified,
        })
    }

    async fn upload(&self, value: Bytes) -> Result<Value, kv::Error> {
        let mut upload = self.kv.upload();
        upload.push(value).await?;
        upload.finish().await
    }

    /// Waits for the previous commit, then starts committing the group.
    async fn commit(&mut self) {
        self.finish_commit().await;
        if self.items.is_empty() || self.status >= 500 {
            return;
        }
        let (kv, store, import) = (self.kv.clone(), self.store, self.import);
        let items = std::mem::take(&mut self.items);
        let commit = tokio::spawn(async move {
            match import {
                Some(Import { if_exists, .. }) => kv.import(&store, &items, if_exists).await,
                None => {
                    let items = items.into_iter().map(|item| item.item).collect();
                    kv.put_batch(&store, items).await.map(|()| Vec::new())
                }
            }
        });
        self.committing = Some((std::mem::take(&mut self.keys), commit));
        self.bytes = 0;
    }

    /// Waits for the previous commit and records its outcomes.
    async fn finish_commit(&mut self) {
        let Some((keys, commit)) = self.committing.take() else { return };
        let e = match commit.await {
            Ok(Ok(outcomes)) => return self.count(keys, outcomes),
            Ok(Err(e)) => e,
            Err(e) => kv::Error::Internal(e.to_string()),
        };
        if matches!(e, kv::Error::Internal(_) | kv::Error::Unavailable(_)) {
            let request_id = format_args!("{:016x}", self.request_id);
            tracing::error!(%request_id, error = %e, "batch commit failed");
        }
        for (index, key) in keys {
            self.report(index, key, &e);
        }
    }

    /// Counts the outcomes of an imported group.
    fn count(&mut self, keys: Vec<(u64, String)>, outcomes: Vec<ImportOutcome>) {
        for ((index, key), outcome) in keys.into_iter().zip(outcomes) {
            let Some(import) = &mut self.import else { return };
            match outcome {
                ImportOutcome::Written => import.written += 1,
                ImportOutcome::Exists if import.if_exists == IfExists::Fail => {
                    self.report(index, key, &kv::Error::Precondition);
                }
                ImportOutcome::Exists | ImportOutcome::Expired => import.skipped += 1,
            }
        }
    }

    /// Rejects the next line.
    async fn reject(&mut self, key: String, e: &kv::Error) {
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
        // 413 if all errors are size errors, 503 if any error is a server error, and otherwise 400.
        self.status = match (self.status, class) {
            (200, class) => class,
            (503, _) | (_, 503) => 503,
            (413, 413) => 413,
            _ => 400,
        };
        let mut reason = e.to_string();
        if let kv::Error::Internal(_) = e {
            reason = "internal error; the item may not have been written".into();
        } else if let kv::Error::Full(_) = e {
            reason = "storage is full; the item was not written".into();
        } else if let kv::Error::Unavailable(_) = e {
            reason = "storage is unavailable; the item was not written".into();
        }
        self.list_error(index, &key, code, reason);
    }

    /// Counts a failed line, and lists it if the report has space left.
    fn list_error(&mut self, index: u64, key: &str, code: u16, reason: String) {
        self.failed += 1;
        let key = wire::cut(key, KEY_BYTES_MAX);
        // Count the size of an error that does not fit, so that no later error is listed instead.
        self.errors_bytes = self.errors_bytes.saturating_add(key.len() + reason.len());
        if self.errors.len() < ERRORS_MAX && self.errors_bytes <= ERRORS_BYTES_MAX {
            let (key, code) = (key.to_owned(), code.to_string());
            self.errors.push(BatchError { key, index, code, reason });
        }
    }

    /// Commits the last group and builds the response.
    async fn finish(mut self) -> Response {
        self.commit().await;
        self.finish_commit().await;
        // After a server error, the items of the last group are not committed.
        for (index, key) in std::mem::take(&mut self.keys) {
            let reason = "not written, because an earlier item failed; send it again".into();
            self.list_error(index, &key, 503, reason);
        }
        self.errors.sort_by_key(|error| error.index);
        if let Some(Import { written, skipped, .. }) = self.import {
            let (failed, errors) = (self.failed, self.errors);
            return json(self.status, &ImportReport { written, skipped, failed, errors });
        }
        let kind = match self.status {
            200 => "",
            413 => "payload_too_large",
            503 => "service_unavailable",
            _ => "bad_request",
        };
        let listed = self.errors.len() as u64;
        let mut title = match self.failed {
            0 => "success".to_owned(),
            failed if failed > listed => {
                format!("batch had {failed} errors; the first {listed} are listed")
            }
            _ => "batch had errors".to_owned(),
        };
        if self.status >= 500 {
            title = format!("{title} (request {:016x})", self.request_id);
        }
        json(self.status, &BatchReport { kind: kind.into(), title, errors: self.errors })
    }
}
