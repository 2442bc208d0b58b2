//! The endpoint that lists keys (contract.md, 3.4).

use super::Api;
use super::error::{Error, json_bytes};
use super::query::Query;
use crate::http::{RequestHead, Response};
use crate::kv::limits::LIST_LIMIT_MAX;
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
        let limit = query.limit(LIST_LIMIT_MAX)?;
        let after = query.text("cursor")?.map(cursor::decode).transpose()?;
        let prefix = query.text("prefix")?;
        let consistency = match query.word("consistency")? {
            None | Some("strong") => None,
            // What has nothing older to offer answers as it is, and says what was asked for.
            Some("eventual") => Some("eventual".to_owned()),
            Some(_) => {
                return Err(Error::Invalid("consistency must be strong or eventual".into()));
            }
        };
        let eventual = consistency.is_some();
        let prefix_text = prefix.unwrap_or_default().into();
        let list = ListKeys { prefix: prefix_text, after, limit, eventual };
        let page = self.kv.list_keys(&store?, &list).await?;

        let mut body = Vec::with_capacity(64 + page.len() * 24);
        body.extend_from_slice(b"{\"data\":[");
        let mut last = None;
        for key in page.keys() {
            if last.replace(key).is_some() {
                body.push(b',');
            }
            push_text(&mut body, key)?;
        }
        let next_cursor = last.filter(|_| page.more).map(cursor::encode);
        let prefix = prefix.map(str::to_owned);
        let meta = KeyListMeta { limit, next_cursor, prefix, consistency };
        body.extend_from_slice(b"],\"meta\":");
        serde_json::to_writer(&mut body, &meta).map_err(|_| damaged())?;
        body.push(b'}');
        Ok(json_bytes(200, body))
    }
}

/// Whether a text stands for itself in JSON, as most keys do. Looks at eight bytes at a time, as a
/// list has a thousand keys.
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The high bit of the lowest byte that is below `least`, and perhaps of others above it.
    let below = |eight: u64, least: u8| eight.wrapping_sub(ONES * u64::from(least)) & !eight & HIGH;
    let is = |eight: u64, byte: u8| below(eight ^ (ONES * u64::from(byte)), 1);
    let odd = |eight: u64| {
        (eight & HIGH) | below(eight, b' ') | is(eight, 0x7f) | is(eight, b'"') | is(eight, b'\\')
    };
    let (eights, rest) = text.as_chunks::<8>();
    let mut last = [b' '; 8];
    last.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
    eights.iter().chain([&last]).all(|eight| odd(u64::from_ne_bytes(*eight)) == 0)
}

/// Appends a key as a JSON string.
fn push_text(body: &mut Vec<u8>, key: &[u8]) -> Result<(), Error> {
    if is_plain(key) {
        body.push(b'"');
        body.extend_from_slice(key);
        body.push(b'"');
        return Ok(());
    }
    let text = std::str::from_utf8(key).map_err(|_| damaged())?;
    serde_json::to_writer(body, text).map_err(|_| damaged())
}

fn damaged() -> Error {
    Error::Kv(kv::Error::Internal("stored data is damaged: a key is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_plain_when_each_of_its_bytes_is() {
        for len in 0..20 {
            assert!(is_plain(&vec![b'k'; len]));
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b' '; len];
                    text[at] = byte;
                    let plain = matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain(&text), plain, "{byte:#x} at {at} of {len}");
                }
            }
        }
    }
}
