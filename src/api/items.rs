//! Reading, writing and deleting one item (docs/contract.md sections 3.1 to 3.3).

use super::Api;
use super::error::{Error, log_aborted, without_body};
use super::limiter::Permit;
use super::percent::decode_segment;
use super::query::Query;
use crate::http::{Body, BodySource, Payload, RequestHead, Response, Stream, http_date};
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
use std::pin::{Pin, pin};

/// Memory reserved for a large upload, in bytes: the current chunk and data not yet written.
const UPLOAD_BUFFER_BYTES: u64 = 6 * PIECE_BYTES as u64;

impl Api {
    pub(super) async fn get_item(
        &self,
        store: Result<StoreId, Error>,
        key: &[u8],
        head: &RequestHead,
        request_id: u64,
    ) -> Result<Response, Error> {
        let key = parse_key(key)?;
        let (item, permit) = self.admit(&store?, &key).await?;
        item_response(item, permit, head, request_id).await
    }

    /// Reads an item and acquires a permit for its value.
    ///
    /// If no permit is free, the value is dropped before the wait and read again afterwards,
    /// because the limit does not cover values held by waiting requests.
    pub(super) async fn admit(&self, store: &StoreId, key: &Key) -> Result<(Item, Permit), Error> {
        let mut admitted = None;
        loop {
            let item = self.kv.get(store, key).await?;
            let memory = self.kv.download_memory_bytes(&item);
            match admitted {
                Some((permit, bytes)) if memory <= bytes => return Ok((item, permit)),
                // There is no permit yet, or the value has outgrown the permit.
                Some(_) | None => {}
            }
            if let Some(permit) = self.limiter.try_download(memory) {
                return Ok((item, permit));
            }
            drop(item);
            admitted = Some((self.limiter.download(memory).await?, memory));
        }
    }

    pub(super) async fn head_item(
        &self,
        store: Result<StoreId, Error>,
        key: &[u8],
    ) -> Result<Response, Error> {
        let key = parse_key(key)?;
        let item = self.kv.head(&store?, &key).await?;
        Ok(head_response(&item))
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
        let memory = self.kv.upload_memory_bytes(declared, UPLOAD_BUFFER_BYTES);
        let memory = memory.saturating_add(self.kv.join_memory_bytes(&check));
        let permit = body.while_connected(pin!(self.limiter.upload(memory))).await??;
        if let Some(contention) = permit.contention() {
            body.yield_to(contention);
        }
        let mut upload = self.kv.upload();
        while let Some(chunk) = body.chunk().await? {
            upload.push(chunk).await?;
        }
        let value = upload.finish().await?;
        let generation = self.kv.put_checked(&store, &key, &put, check, value).await?;
        Ok(without_body(200).header_u64(wire::GENERATION, generation))
    }

    pub(super) async fn delete_item(
        &self,
        store: Result<StoreId, Error>,
        key: &[u8],
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let key = parse_key(key)?;
        let force = Query::parse(head.query())?.flag("force")?;
        let if_generation = parse_u64_header(head, wire::IF_GENERATION_MATCH)?;
        self.kv.delete(&store?, &key, DeleteRequest { force, if_generation }).await?;
        Ok(without_body(204))
    }
}

/// Builds the response to a HEAD request.
pub(super) fn head_response(item: &Item) -> Response {
    item_headers(Response::new(200), item).payload(Payload::LengthOnly(item.size))
}

/// Builds the response to a GET: the item or, if a range is requested, a part of its value.
pub(super) async fn item_response(
    mut item: Item,
    permit: Permit,
    head: &RequestHead,
    request_id: u64,
) -> Result<Response, Error> {
    let size = item.size;
    let value = std::mem::replace(&mut item.value, Value::EMPTY);
    let range = parse_range(head, size)?;
    let response = match &range {
        None => item_headers(Response::new(200), &item),
        Some(Range { start, end }) => {
            let range = format!("bytes {start}-{}/{size}", end - 1);
            item_headers(Response::new(206), &item).header("Content-Range", range.as_bytes())
        }
    };
    let range = range.unwrap_or(0..size);
    let payload = value_payload(value, range, request_id).await?;
    let contention = permit.contention();
    Ok(response.payload(payload).yielding_to(contention).holding(Some(permit)))
}

/// Decodes and validates the key of a raw path.
pub(super) fn parse_key(raw: &[u8]) -> Result<Key, Error> {
    let decoded = decode_segment(raw)
        .ok_or_else(|| Error::Invalid("key must be percent-encoded UTF-8".into()))?;
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
    // Validated and ignored, because reads never return an outdated value.
    query.flag("background_fetch")?;
    let if_generation = parse_u64_header(head, wire::IF_GENERATION_MATCH)?;
    let ttl = match single_header(head, wire::TIME_TO_LIVE_SEC)? {
        None => None,
        Some(value) => Some(Ttl::new(parse_u64(value).ok_or_else(Ttl::invalid)?)?),
    };
    let metadata = match single_header(head, wire::METADATA)? {
        None => Metadata::NONE,
        Some(value) => Metadata::parse(value)?,
    };
    Ok(PutRequest { mode, if_generation, ttl, metadata })
}

/// Returns the value of a header that must not be repeated.
fn single_header<'h>(head: &'h RequestHead, name: &'h str) -> Result<Option<&'h [u8]>, Error> {
    let mut values = head.header_values(name);
    let first = values.next();
    match values.next() {
        Some(_) => Err(Error::Invalid(format!("{name} must not be repeated"))),
        None => Ok(first),
    }
}

fn parse_u64_header(head: &RequestHead, name: &str) -> Result<Option<u64>, Error> {
    let Some(value) = single_header(head, name)? else { return Ok(None) };
    let max = u64::MAX;
    let invalid = || Error::Invalid(format!("{name} must be a whole number from 0 to {max}"));
    parse_u64(value).map(Some).ok_or_else(invalid)
}

fn parse_u64(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok()?.parse().ok().filter(|_| digits)
}

/// Adds the headers that describe an item (docs/contract.md section 3.1).
fn item_headers(response: Response, item: &Item) -> Response {
    let modified = http_date(item.modified_at / SECOND);
    response
        .header("Content-Type", b"application/octet-stream")
        .header_u64(wire::STORED_CONTENT_LENGTH, item.size)
        .header_u64(wire::GENERATION, item.generation)
        .header(wire::METADATA, item.metadata.as_bytes())
        .header("Last-Modified", modified.as_bytes())
        .header("Cache-Control", b"no-store")
        .header("Pragma", b"no-cache")
        .header("Accept-Ranges", b"bytes")
}

/// Parses the `Range` header. Returns `None` if the response contains the whole value.
///
/// A header that is not a single byte range is ignored (RFC 9110 section 14.2). A range with
/// `If-Range` is also ignored, because the server sends no strong validators.
fn parse_range(head: &RequestHead, size: u64) -> Result<Option<Range<u64>>, Error> {
    let mut ranges = head.header_values("Range");
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Ok(None) };
    let spec = range.strip_prefix(b"bytes=").filter(|spec| !spec.contains(&b','));
    let conditional = head.header_values("If-Range").next().is_some();
    let Some(spec) = spec.filter(|_| !conditional) else { return Ok(None) };
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return Ok(None) };
    let (first, last) = spec.split_at(dash);
    let last = last.get(1..).unwrap_or_default();
    let range = match (first, last) {
        (b"", last) => match parse_u64(last) {
            Some(suffix) => size.saturating_sub(suffix)..size,
            None => return Ok(None),
        },
        (first, b"") => match parse_u64(first) {
            Some(first) => first..size,
            None => return Ok(None),
        },
        (first, last) => match (parse_u64(first), parse_u64(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
            _ => return Ok(None),
        },
    };
    if range.start < range.end { Ok(Some(range)) } else { Err(Error::Range(size)) }
}

/// Builds the body for a range of a value: in memory if the value is small, otherwise streamed.
async fn value_payload(value: Value, range: Range<u64>, request_id: u64) -> Result<Payload, Error> {
    if let Some(bytes) = value.in_memory() {
        let index = |at| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        return Ok(Payload::Bytes(bytes.slice(index(range.start)..index(range.end))));
    }
    let len = range.end - range.start;
    if value.len() <= SINGLE_READ_BYTES_MAX {
        // Read the value before the head is sent, so that damage is still reported with status 500.
        return Ok(Payload::Bytes(value.read(range.start, len as usize).await?));
    }
    Ok(Payload::Sized(len, Box::new(ValueSource { value, range, request_id })))
}

/// Streams a range of a large value.
struct ValueSource {
    value: Value,
    range: Range<u64>,
    request_id: u64,
}

impl BodySource for ValueSource {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + '_>> {
        Box::pin(async move {
            // Reads end at the engine's block boundaries, so that no block is read twice.
            let piece = PIECE_BYTES as u64;
            let end = ((self.range.start / piece + 1) * piece).min(self.range.end);
            let len = end - self.range.start;
            if len == 0 {
                return Ok(None);
            }
            // `len` is at most PIECE_BYTES, so the cast is lossless.
            match self.value.read(self.range.start, len as usize).await {
                Ok(bytes) => {
                    self.range.start = end;
                    Ok(Some(bytes))
                }
                Err(e) => Err(log_aborted(self.request_id, &e)),
            }
        })
    }
}
