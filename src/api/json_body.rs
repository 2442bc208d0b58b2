//! JSON request bodies, accepted with any `Content-Type`.

use super::error::Error;
use super::limiter::MemoryLimiter;
use crate::http::{Body, CHUNK_BYTES_MAX, Stream};
use serde_json::{Map, Value};
use std::pin::pin;

/// Maximum size of a body in bytes; a name of 255 characters takes up to 3 KiB when escaped.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// Reads a JSON object that has a `name` field.
pub(super) async fn read<S: Stream>(
    body: &mut Body<'_, S>,
    limiter: &MemoryLimiter,
) -> Result<Map<String, Value>, Error> {
    let invalid = |what: &str| Error::Invalid(format!("the body {what}"));
    let too_large = || invalid(&format!("must be at most {JSON_BYTES_MAX} bytes"));
    let declared = body.declared_bytes();
    if declared.is_some_and(|bytes| bytes > JSON_BYTES_MAX as u64) {
        return Err(too_large());
    }
    // Without a declared size, the last chunk may exceed the limit.
    let memory = declared.unwrap_or((JSON_BYTES_MAX + CHUNK_BYTES_MAX) as u64);
    let permit = body.while_connected(pin!(limiter.upload(memory))).await??;
    if let Some(contention) = permit.contention() {
        body.yield_to(contention);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > JSON_BYTES_MAX {
            return Err(too_large());
        }
    }
    if bytes.is_empty() {
        return Err(invalid("must be a JSON object with a name, but is empty"));
    }
    let value = serde_json::from_slice(&bytes)
        .map_err(|e| invalid(&format!("must be a JSON object with a name: {e}")))?;
    let fields = if let Value::Object(fields) = value { Some(fields) } else { None };
    fields
        .filter(|fields| fields.contains_key("name"))
        .ok_or_else(|| invalid("must be a JSON object with a name"))
}

/// Returns a string field, or `None` if it is absent.
pub(super) fn text<'f>(
    fields: &'f Map<String, Value>,
    name: &str,
) -> Result<Option<&'f str>, Error> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::Invalid(format!("{name} must be a string"))),
    }
}
