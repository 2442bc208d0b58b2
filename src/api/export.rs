//! Streams the items of a store as NDJSON, from one snapshot.

use super::Api;
use super::error::{Error, log_aborted};
use super::keys::utf8;
use super::query::Query;
use crate::http::{BodySource, Payload, RequestHead, Response};
use crate::kv::Value;
use crate::kv::export::{ExportStream, KeyedItem};
use crate::kv::items::Item;
use crate::kv::types::StoreId;
use crate::kv::{self, PIECE_BYTES};
use crate::wire::item_line::{ItemLine, write_base64};
use crate::wire::rfc3339;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// Memory reserved for one export, in bytes.
const EXPORT_BYTES: u64 = 4 << 20;
/// Size in bytes at which a chunk is sent. The last item or piece of a value appended to a chunk
/// may make the chunk larger.
const CHUNK_BYTES: usize = 128 << 10;
/// Time limit of an export. While its snapshot is open, space used by deleted data is not
/// reclaimed.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// Streams an export as a response body.
struct ExportSource {
    export: ExportStream,
    request_id: u64,
    deadline: Instant,
    page: std::vec::IntoIter<KeyedItem>,
    /// The large value being streamed.
    large: Option<LargeValue>,
    done: bool,
}

/// A value that is written in pieces, and the end of its line.
struct LargeValue {
    value: Value,
    offset: u64,
    /// Up to two bytes of an incomplete base64 group, left over from the previous piece.
    carry: Vec<u8>,
    line_end: Vec<u8>,
}

impl Api {
    pub(super) async fn export(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
        request_id: u64,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let prefix = query.text("prefix")?.unwrap_or_default();
        let store = store?;
        self.kv.describe_store(&store).await?;
        let memory = EXPORT_BYTES + self.kv.held_memory_bytes_max();
        let permits = (self.limiter.snapshot().await?, self.limiter.download(memory).await?);
        let export = self.kv.export(&store, prefix).await?;
        let (deadline, page) = (Instant::now() + TIME_MAX, Vec::new().into_iter());
        let source = ExportSource { export, request_id, deadline, page, large: None, done: false };
        Ok(Response::new(200)
            .header("Content-Type", b"application/x-ndjson")
            .header("Cache-Control", b"no-store")
            .payload(Payload::Chunked(Box::new(source)))
            .holding(Some(permits)))
    }
}

impl ExportSource {
    async fn chunk(&mut self) -> Result<Option<Bytes>, kv::Error> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        while out.len() < CHUNK_BYTES && !self.done {
            if Instant::now() > self.deadline {
                let secs = TIME_MAX.as_secs();
                return Err(kv::Error::Internal(format!("the export took more than {secs} s")));
            }
            if let Some(large) = &mut self.large {
                if large.push(&mut out).await? {
                    self.large = None;
                }
            } else if let Some((key, item)) = self.page.next() {
                self.large = write_item(&mut out, &key, &item)?;
            } else {
                self.page = self.export.next().await?.into_iter();
                self.done = self.page.len() == 0;
            }
        }
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }
}

impl BodySource for ExportSource {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>> {
        Box::pin(async move { self.chunk().await.map_err(|e| log_aborted(self.request_id, &e)) })
    }
}

impl LargeValue {
    /// Appends the next piece of the value and, after the last piece, the end of the line. Returns
    /// whether the line is complete.
    async fn push(&mut self, out: &mut Vec<u8>) -> Result<bool, kv::Error> {
        let len = (self.value.len() - self.offset).min(PIECE_BYTES as u64);
        // `len` is at most PIECE_BYTES, so the cast is lossless.
        let piece = self.value.read(self.offset, len as usize).await?;
        self.offset += len;
        let last = self.offset == self.value.len();
        self.carry.extend_from_slice(&piece);
        let complete = if last { self.carry.len() } else { self.carry.len() / 3 * 3 };
        let rest = self.carry.split_off(complete);
        write_base64(&self.carry, out);
        self.carry = rest;
        if last {
            out.append(&mut self.line_end);
        }
        Ok(last)
    }
}

/// Appends an item as a line, or only the start of the line if its value is not in memory.
fn write_item(out: &mut Vec<u8>, key: &[u8], item: &Item) -> Result<Option<LargeValue>, kv::Error> {
    let (expires, modified) = (item.expires_at.map(rfc3339), rfc3339(item.modified_at));
    let line = ItemLine {
        key: utf8(key)?,
        value: item.value.in_memory().map(Bytes::as_ref).unwrap_or_default(),
        metadata: item.metadata.as_bytes(),
        expires: expires.as_deref(),
        time_to_live_sec: None,
        generation: Some(item.generation),
        modified: Some(&modified),
    };
    if item.value.in_memory().is_some() {
        line.write(out);
        return Ok(None);
    }
    line.write_start(out);
    let mut line_end = Vec::new();
    line.write_end(&mut line_end);
    let (value, carry) = (item.value.clone(), Vec::with_capacity(PIECE_BYTES + 2));
    Ok(Some(LargeValue { value, offset: 0, carry, line_end }))
}
