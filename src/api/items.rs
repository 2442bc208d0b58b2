//! Endpoints of items (contract.md, 3.1 to 3.3).

use super::Api;
use super::error::Error;
use super::query::{Query, decode_segment};
use crate::http::{Body, BodySource, Payload, RequestHead, Response, Stream};
use crate::kv::clock::SECOND;
use crate::kv::items::{DeleteRequest, Item, PutRequest};
use crate::kv::preconditions::PutMode;
use crate::kv::types::{Key, Metadata, StoreId, Ttl};
use crate::kv::{PIECE_BYTES, SINGLE_READ_BYTES_MAX, Value};
use crate::wire;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of a large upload that are held at once: a chunk on its way and what is not yet written.
const STAGE_BYTES: u64 = 6 * PIECE_BYTES as u64;

impl Api {
    pub(super) async fn get_item(
        &self,
        store: Result<StoreId, Error>,
        key: &[u8],
        head: &RequestHead,
        request: u64,
    ) -> Result<Response, Error> {
        let key = parse_key(key)?;
        let mut item = self.kv.get(&store?, &key).await?;
        let size = item.size;
        let value = std::mem::replace(&mut item.value, Value::EMPTY);
        let range = wanted_range(head, size)?;
        let response = match &range {
            None => described(Response::new(200), &item),
            Some(Range { start, end }) => {
                let span = format!("bytes {start}-{}/{size}", end - 1);
                described(Response::new(206), &item).field("Content-Range", span.as_bytes())
            }
        };
        let range = range.unwrap_or(0..size);
        // A part of what is in memory keeps all of it.
        let held = if size <= SINGLE_READ_BYTES_MAX { size } else { PIECE_BYTES as u64 };
        let share = self.admission.download(held).await?;
        let mut response = response.payload(payload(value, range, request).await?);
        response.hold = share.map(|share| Box::new(share) as Box<dyn Send>);
        Ok(response)
    }

    pub(super) async fn head_item(
        &self,
        store: Result<StoreId, Error>,
        key: &[u8],
    ) -> Result<Response, Error> {
        let key = parse_key(key)?;
        let item = self.kv.head(&store?, &key).await?;
        Ok(described(Response::new(200), &item).payload(Payload::Length(item.size)))
    }

    pub(super) async fn put_item<S: Stream>(
        &self,
        store: Result<StoreId, Error>,
        key: &[u8],
        head: &RequestHead,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        let key = parse_key(key)?;
        let put = parse_put(head)?;
        let store = store?;
        let declared = head.content_length();
        let check = self.kv.check_put(&store, &key, &put, declared).await?;
        let held = self.kv.upload_memory_bytes(declared, STAGE_BYTES);
        let _share = self.admission.upload(held).await?;
        let mut upload = self.kv.upload();
        while let Some(chunk) = body.chunk().await? {
            upload.push(chunk).await?;
        }
        let value = upload.finish().await?;
        let generation = self.kv.put_checked(&store, &key, &put, check, value).await?;
        Ok(Response::new(200)
            .number(wire::GENERATION, generation)
            .field("Cache-Control", b"no-store")
            .field("Pragma", b"no-cache"))
    }

    pub(super) async fn delete_item(
        &self,
        store: Result<StoreId, Error>,
        key: &[u8],
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let key = parse_key(key)?;
        let force = Query::parse(head.query())?.flag("force")?;
        let if_generation = number(head, wire::IF_GENERATION_MATCH)?;
        self.kv.delete(&store?, &key, DeleteRequest { force, if_generation }).await?;
        Ok(Response::new(204))
    }
}

/// The key in a raw path: decoded once, then judged.
fn parse_key(raw: &[u8]) -> Result<Key, Error> {
    let decoded = decode_segment(raw)
        .ok_or_else(|| Error::Invalid("key must be percent-encoded as UTF-8".into()))?;
    Ok(Key::parse(&decoded)?)
}

fn parse_put(head: &RequestHead) -> Result<PutRequest, Error> {
    let query = Query::parse(head.query())?;
    let modes = [("add", PutMode::Add), ("append", PutMode::Append), ("prepend", PutMode::Prepend)];
    let mut mode = PutMode::Overwrite;
    for (name, named) in modes {
        if query.flag(name)? {
            if mode != PutMode::Overwrite {
                let reason = "only one of add, append and prepend may be true";
                return Err(Error::Invalid(reason.into()));
            }
            mode = named;
        }
    }
    // Allows readers elsewhere to see the old value for a while: here there are none.
    query.flag("background_fetch")?;
    let if_generation = number(head, wire::IF_GENERATION_MATCH)?;
    let ttl = match single(head, wire::TIME_TO_LIVE_SEC)? {
        None => None,
        Some(value) => Some(Ttl::new(parse_number(value).ok_or_else(Ttl::invalid)?)?),
    };
    let metadata = match single(head, wire::METADATA)? {
        None => Metadata::NONE,
        Some(value) => Metadata::parse(value)?,
    };
    Ok(PutRequest { mode, if_generation, ttl, metadata })
}

/// The value of a header field that may be given once.
fn single<'h>(head: &'h RequestHead, name: &'h str) -> Result<Option<&'h [u8]>, Error> {
    let mut values = head.values(name);
    let first = values.next();
    match values.next() {
        Some(_) => Err(Error::Invalid(format!("{name} must be given only once"))),
        None => Ok(first),
    }
}

fn number(head: &RequestHead, name: &str) -> Result<Option<u64>, Error> {
    let Some(value) = single(head, name)? else { return Ok(None) };
    let max = u64::MAX;
    let invalid = || Error::Invalid(format!("{name} must be a whole number from 0 to {max}"));
    parse_number(value).map(Some).ok_or_else(invalid)
}

fn parse_number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok()?.parse().ok().filter(|_| digits)
}

/// The header fields of an item, as recorded.
fn described(response: Response, item: &Item) -> Response {
    let modified = UNIX_EPOCH + Duration::from_secs(item.modified_at / SECOND);
    response
        .field("Content-Type", b"application/octet-stream")
        .number(wire::STORED_CONTENT_LENGTH, item.size)
        .number(wire::GENERATION, item.generation)
        .field(wire::METADATA, item.metadata.as_bytes())
        .field("Last-Modified", httpdate::fmt_http_date(modified).as_bytes())
        .field("Cache-Control", b"no-store")
        .field("Pragma", b"no-cache")
        .field("Accept-Ranges", b"bytes")
}

/// The range a GET asks for; `None` for all of it. What is no single range of bytes is ignored
/// (RFC 9110, 14.2), and so is one that depends on a validator, of which there is none.
fn wanted_range(head: &RequestHead, size: u64) -> Result<Option<Range<u64>>, Error> {
    let mut ranges = head.values("Range");
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Ok(None) };
    let spec = range.strip_prefix(b"bytes=").filter(|spec| !spec.contains(&b','));
    let conditional = head.values("If-Range").next().is_some();
    let Some(spec) = spec.filter(|_| !conditional) else { return Ok(None) };
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return Ok(None) };
    let (first, last) = spec.split_at(dash);
    let last = last.get(1..).unwrap_or_default();
    let range = match (first, last) {
        (b"", last) => match parse_number(last) {
            Some(suffix) => size.saturating_sub(suffix)..size,
            None => return Ok(None),
        },
        (first, b"") => match parse_number(first) {
            Some(first) => first..size,
            None => return Ok(None),
        },
        (first, last) => match (parse_number(first), parse_number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
            _ => return Ok(None),
        },
    };
    if range.start < range.end { Ok(Some(range)) } else { Err(Error::Range(size)) }
}

/// The bytes of a range: at once, or as the client takes them.
async fn payload(value: Value, range: Range<u64>, request: u64) -> Result<Payload, Error> {
    if let Some(bytes) = value.in_memory() {
        let index = |at| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        return Ok(Payload::Bytes(bytes.slice(index(range.start)..index(range.end))));
    }
    let len = range.end - range.start;
    if value.len() <= SINGLE_READ_BYTES_MAX {
        // The length fits. What is damaged is told while an answer can still say so.
        return Ok(Payload::Bytes(value.read(range.start, len as usize).await?));
    }
    Ok(Payload::Stream(len, Box::new(Pieces { value, range, request })))
}

/// A large value, read as the client takes it.
struct Pieces {
    value: Value,
    range: Range<u64>,
    request: u64,
}

impl BodySource for Pieces {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>> {
        Box::pin(async move {
            // Pieces end where the engine's blocks do, so that no block is read twice.
            let piece = PIECE_BYTES as u64;
            let end = ((self.range.start / piece + 1) * piece).min(self.range.end);
            let len = end - self.range.start;
            if len == 0 {
                return Ok(None);
            }
            // At most PIECE_BYTES, which fits.
            match self.value.read(self.range.start, len as usize).await {
                Ok(bytes) => {
                    self.range.start = end;
                    Ok(Some(bytes))
                }
                Err(e) => {
                    let request = format_args!("{:016x}", self.request);
                    tracing::error!(%request, error = %e, "an answer was cut short");
                    Err(io::Error::other(e.to_string()))
                }
            }
        })
    }
}
