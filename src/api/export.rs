//! Exports: a line of JSON for each item, as the batch endpoint takes them and with all that an
//! item has besides.

use crate::http::BodySource;
use crate::kv::Value;
use crate::kv::export::{ExportStream, KeyedItem};
use crate::kv::items::Item;
use crate::kv::{self, PIECE_BYTES};
use crate::wire;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// Bytes that are handed on together.
const CHUNK_BYTES: usize = 128 << 10;
/// For how long an export may take: its snapshot keeps what was deleted from being given back.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// The lines of an export.
pub(super) struct Lines {
    export: ExportStream,
    request: u64,
    end: Instant,
    waiting: std::vec::IntoIter<KeyedItem>,
    /// The large value that is on its way.
    large: Option<Large>,
    done: bool,
}

/// A value that is read piece by piece, and what stands behind it.
struct Large {
    value: Value,
    at: u64,
    /// Bytes that do not fill a group of base64 yet: fewer than three.
    carry: Vec<u8>,
    tail: Vec<u8>,
}

impl Lines {
    pub(super) fn new(export: ExportStream, request: u64) -> Lines {
        let waiting = Vec::new().into_iter();
        let end = Instant::now() + TIME_MAX;
        Lines { export, request, end, waiting, large: None, done: false }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, kv::Error> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        while out.len() < CHUNK_BYTES && !self.done {
            if Instant::now() > self.end {
                let secs = TIME_MAX.as_secs();
                return Err(kv::Error::Internal(format!("an export took more than {secs} s")));
            }
            if let Some(large) = &mut self.large {
                if large.push(&mut out).await? {
                    self.large = None;
                }
            } else if let Some((key, item)) = self.waiting.next() {
                self.large = push(&mut out, &key, &item)?;
            } else {
                self.waiting = self.export.next().await?.into_iter();
                self.done = self.waiting.len() == 0;
            }
        }
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }
}

impl BodySource for Lines {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>> {
        Box::pin(async move {
            self.chunk().await.map_err(|e| {
                let request = format_args!("{:016x}", self.request);
                tracing::error!(%request, error = %e, "an export was cut short");
                io::Error::other(e.to_string())
            })
        })
    }
}

impl Large {
    /// Appends the next piece, or at last what stands behind the value; says whether that was it.
    async fn push(&mut self, out: &mut Vec<u8>) -> Result<bool, kv::Error> {
        let len = (self.value.len() - self.at).min(PIECE_BYTES as u64);
        // At most PIECE_BYTES, which fits.
        let piece = self.value.read(self.at, len as usize).await?;
        self.at += len;
        let last = self.at == self.value.len();
        self.carry.extend_from_slice(&piece);
        let whole = if last { self.carry.len() } else { self.carry.len() / 3 * 3 };
        let rest = self.carry.split_off(whole);
        push_base64(out, &self.carry);
        self.carry = rest;
        if last {
            out.append(&mut self.tail);
        }
        Ok(last)
    }
}

/// Appends an item's line; or, when its value is not in memory, what comes before the value.
fn push(out: &mut Vec<u8>, key: &[u8], item: &Item) -> Result<Option<Large>, kv::Error> {
    let damaged = |what: &str| kv::Error::Internal(format!("stored data is damaged: {what}"));
    let key = std::str::from_utf8(key).map_err(|_| damaged("a key is not UTF-8"))?;
    out.extend_from_slice(b"{\"key\":");
    push_text(out, key);
    out.extend_from_slice(b",\"value\":\"");
    let tail = tail(item);
    match item.value.in_memory() {
        Some(bytes) => {
            push_base64(out, bytes);
            out.extend_from_slice(&tail);
            Ok(None)
        }
        None => {
            let (value, carry) = (item.value.clone(), Vec::with_capacity(PIECE_BYTES + 2));
            Ok(Some(Large { value, at: 0, carry, tail }))
        }
    }
}

/// What stands behind the value.
fn tail(item: &Item) -> Vec<u8> {
    let mut tail = Vec::with_capacity(128 + item.metadata.as_bytes().len());
    tail.push(b'"');
    match std::str::from_utf8(item.metadata.as_bytes()) {
        Ok("") => {}
        Ok(text) => {
            tail.extend_from_slice(b",\"metadata\":");
            push_text(&mut tail, text);
        }
        Err(_) => {
            tail.extend_from_slice(b",\"metadata_base64\":\"");
            push_base64(&mut tail, item.metadata.as_bytes());
            tail.push(b'"');
        }
    }
    if let Some(expires) = item.expires_at {
        tail.extend_from_slice(b",\"expires\":\"");
        tail.extend_from_slice(wire::rfc3339(expires).as_bytes());
        tail.push(b'"');
    }
    tail.extend_from_slice(b",\"generation\":");
    tail.extend_from_slice(item.generation.to_string().as_bytes());
    tail.extend_from_slice(b",\"modified\":\"");
    tail.extend_from_slice(wire::rfc3339(item.modified_at).as_bytes());
    tail.extend_from_slice(b"\"}\n");
    tail
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    // A string always serializes, and a vector takes it.
    let _ = serde_json::to_writer(out, text);
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    // The room is as large as what goes into it.
    let written = STANDARD.encode_slice(bytes, room).unwrap_or(0);
    out.truncate(start + written);
}
