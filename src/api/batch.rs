//! The batch endpoint, and imports: lines of JSON, applied in order as they come (contract.md,
//! 3.5).
//!
//! Lines are gathered into groups, and each group is one commit; while one is made durable, the
//! next is read. There is no atomicity over lines, and a batch that is cut leaves the lines before
//! the cut.

use super::Api;
use super::auth::Principal;
use super::error::{Error, json};
use super::ndjson::{self, Parsed, Refused};
use super::query::Query;
use crate::http::{Body, RequestHead, Response, Stream};
use crate::kv::batch::BatchItem;
use crate::kv::import::{IfExists, ImportItem, ImportOutcome};
use crate::kv::types::{Key, StoreId};
use crate::kv::{self, Kv, PIECE_BYTES, Value};
use crate::wire::{BatchError, BatchReport, ImportReport};
use bytes::{Bytes, BytesMut};
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

/// A group that is being made durable: its lines' numbers and keys, and the commit, which tells
/// what became of each line of an import.
type Running = (Vec<(u64, String)>, JoinHandle<Result<Vec<ImportOutcome>, kv::Error>>);

/// What is done with an item that is there, and how many lines came to what.
#[derive(Clone, Copy)]
struct Import {
    if_exists: IfExists,
    /// Whether an item that stays counts as a failure.
    fails: bool,
    written: u64,
    skipped: u64,
}

/// The state of one batch.
struct Batch<'a> {
    kv: &'a Arc<Kv>,
    pass: &'a Principal,
    store: StoreId,
    request: u64,
    /// The number of the next line.
    index: u64,
    /// Set for an import.
    import: Option<Import>,
    lines: Vec<ImportItem>,
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
        pass: &Principal,
    ) -> Result<Response, Error> {
        let batch = Batch::new(&self.kv, pass, store?, request, None);
        self.take_lines(batch, body).await
    }

    pub(super) async fn import<S: Stream>(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
        body: &mut Body<'_, S>,
        request: u64,
        pass: &Principal,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let (if_exists, fails) = match query.word("if_exists")? {
            None | Some("overwrite") => (IfExists::Overwrite, false),
            Some("skip") => (IfExists::Skip, false),
            Some("fail") => (IfExists::Skip, true),
            Some(_) => {
                let reason = "if_exists must be overwrite, skip or fail";
                return Err(Error::Invalid(reason.into()));
            }
        };
        let import = Some(Import { if_exists, fails, written: 0, skipped: 0 });
        let batch = Batch::new(&self.kv, pass, store?, request, import);
        self.take_lines(batch, body).await
    }

    async fn take_lines<S: Stream>(
        &self,
        mut batch: Batch<'_>,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        self.kv.describe_store(&batch.store).await?;
        let _share = self.limiter.upload(HELD_BYTES).await?;
        let line_max = self.kv.value_bytes_max().div_ceil(3).saturating_mul(4) + LINE_SPARE_BYTES;
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
                long = Some(self.limiter.long_line(2 * line_max as u64).await?);
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
    fn new(
        kv: &'a Arc<Kv>,
        pass: &'a Principal,
        store: StoreId,
        request: u64,
        import: Option<Import>,
    ) -> Batch<'a> {
        let (lines, named, errors) = (Vec::new(), Vec::new(), Vec::new());
        let (index, bytes, failed, status) = (0, 0, 0, 200);
        Batch {
            kv,
            pass,
            store,
            request,
            index,
            import,
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
                let key = String::from_utf8_lossy(line.line.key.as_bytes()).into_owned();
                self.named.push((self.index, key));
                self.index += 1;
                self.bytes += line.line.value.len().min(PIECE_BYTES as u64);
                self.lines.push(line);
                if self.lines.len() >= GROUP_LINES || self.bytes >= GROUP_BYTES {
                    self.commit().await;
                }
            }
        }
    }

    async fn parse(&self, line: &[u8]) -> Result<ImportItem, Refused> {
        let max = self.kv.value_bytes_max();
        let allowed = |key: &Key| self.pass.check_key(key);
        let parsed = ndjson::parse(line, self.import.is_some(), max, allowed)?;
        let Parsed { key, ttl, metadata, value, expires, generation, modified } = parsed;
        let value = match self.place(value).await {
            Ok(value) => value,
            Err(e) => return Err((String::from_utf8_lossy(key.as_bytes()).into_owned(), e)),
        };
        Ok(ImportItem {
            line: BatchItem { key, ttl, metadata, value },
            expires,
            generation,
            modified,
        })
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
        let (kv, store, import) = (self.kv.clone(), self.store, self.import);
        let lines = std::mem::take(&mut self.lines);
        let commit = tokio::spawn(async move {
            match import {
                Some(Import { if_exists, .. }) => kv.import(&store, &lines, if_exists).await,
                None => {
                    let lines = lines.into_iter().map(|arrival| arrival.line).collect();
                    kv.put_batch(&store, lines).await.map(|()| Vec::new())
                }
            }
        });
        self.running = Some((std::mem::take(&mut self.named), commit));
        self.bytes = 0;
    }

    /// Waits for the commit that runs.
    async fn settle(&mut self) {
        let Some((named, commit)) = self.running.take() else { return };
        let done = commit.await;
        let e = match done {
            Ok(Ok(arrived)) => return self.count(named, arrived),
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

    /// Counts what became of the lines of an import.
    fn count(&mut self, named: Vec<(u64, String)>, arrived: Vec<ImportOutcome>) {
        for ((index, key), arrived) in named.into_iter().zip(arrived) {
            let Some(import) = &mut self.import else { return };
            match arrived {
                ImportOutcome::Written => import.written += 1,
                ImportOutcome::Exists if import.fails => {
                    self.report(index, key, &kv::Error::Precondition);
                }
                ImportOutcome::Exists | ImportOutcome::Expired => import.skipped += 1,
            }
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
