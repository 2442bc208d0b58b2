//! Streams the items of a store as NDJSON, from one snapshot.

use crate::http::BodySource;
use crate::kv::Value;
use crate::kv::export::{ExportStream, KeyedItem};
use crate::kv::items::Item;
use crate::kv::{self, PIECE_BYTES};
use crate::wire::record::{ItemLine, write_base64};
use crate::wire::rfc3339;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// Bytes of a chunk of the response, before the last line is completed.
const CHUNK_BYTES: usize = 128 << 10;
/// The longest an export may take: its snapshot prevents the space of deleted items from being
/// reclaimed.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// The body of an export response.
pub(super) struct ExportBody {
    export: ExportStream,
    request: u64,
    deadline: Instant,
    page: std::vec::IntoIter<KeyedItem>,
    /// The large value being streamed.
    large: Option<LargeValue>,
    done: bool,
}

/// A value that is streamed in pieces, and the end of its line.
struct LargeValue {
    value: Value,
    offset: u64,
    /// Bytes of an incomplete base64 group, fewer than three.
    carry: Vec<u8>,
    line_end: Vec<u8>,
}

impl ExportBody {
    pub(super) fn new(export: ExportStream, request: u64) -> ExportBody {
        let page = Vec::new().into_iter();
        let deadline = Instant::now() + TIME_MAX;
        ExportBody { export, request, deadline, page, large: None, done: false }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, kv::Error> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        while out.len() < CHUNK_BYTES && !self.done {
            if Instant::now() > self.deadline {
                let secs = TIME_MAX.as_secs();
                return Err(kv::Error::Internal(format!("export exceeded {secs} s")));
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

impl BodySource for ExportBody {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>> {
        Box::pin(async move {
            self.chunk().await.map_err(|e| {
                let request = format_args!("{:016x}", self.request);
                tracing::error!(%request, error = %e, "export aborted");
                io::Error::other(e.to_string())
            })
        })
    }
}

impl LargeValue {
    /// Appends the next piece, and the end of the line after the last; returns whether it was the
    /// last.
    async fn push(&mut self, out: &mut Vec<u8>) -> Result<bool, kv::Error> {
        let len = (self.value.len() - self.offset).min(PIECE_BYTES as u64);
        // At most PIECE_BYTES, which fits.
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

/// Appends the line of an item, or its start if the value is not in memory.
fn write_item(out: &mut Vec<u8>, key: &[u8], item: &Item) -> Result<Option<LargeValue>, kv::Error> {
    let key = std::str::from_utf8(key)
        .map_err(|_| kv::Error::Internal("stored data is damaged: a key is not UTF-8".into()))?;
    let (expires, modified) = (item.expires_at.map(rfc3339), rfc3339(item.modified_at));
    let line = ItemLine {
        key,
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
