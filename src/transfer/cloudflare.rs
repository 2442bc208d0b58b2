//! Parses the elements of Cloudflare's bulk JSON, which `wrangler kv bulk put` reads.

use super::ItemPosition;
use super::element::{Element, ElementItem, ElementValue, required_string};
use super::source_notes::SourceNotes;
use crate::kv::clock::SECOND;
use crate::wire::{MICROS_MAX, rfc3339};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A key-value pair.
#[derive(Deserialize)]
pub(super) struct Pair<'e> {
    #[serde(borrow)]
    key: Option<&'e RawValue>,
    #[serde(borrow)]
    value: Option<&'e RawValue>,
    #[serde(borrow)]
    base64: Option<&'e RawValue>,
    #[serde(borrow)]
    expiration: Option<&'e RawValue>,
    #[serde(borrow)]
    expiration_ttl: Option<&'e RawValue>,
    #[serde(borrow)]
    metadata: Option<&'e RawValue>,
}

impl<'e> Element<'e> for Pair<'e> {
    fn key(&self) -> Result<Cow<'e, str>, (String, String)> {
        required_string("key", self.key).map_err(|reason| (String::new(), reason))
    }

    fn item(&self, _: ItemPosition, _: &str, _: &SourceNotes) -> Result<ElementItem<'e>, String> {
        let text = required_string("value", self.value)?;
        let value = match self.base64.map(RawValue::get) {
            None | Some("false") => ElementValue::Text(text),
            Some("true") => ElementValue::Base64(text),
            Some(_) => return Err("base64 must be true or false".into()),
        };
        let expires = whole("expiration", self.expiration, MICROS_MAX / SECOND)?;
        let time_to_live_sec = whole("expiration_ttl", self.expiration_ttl, u64::from(u32::MAX))?;
        if time_to_live_sec == Some(0) {
            return Err("expiration_ttl must be at least 1".into());
        }
        // Cloudflare's API ignores expiration if both are given.
        let expires = expires.filter(|_| time_to_live_sec.is_none());
        Ok(ElementItem {
            value,
            metadata: self.metadata.map_or_else(String::new, |json| compact(json.get())),
            expires: expires.map(|secs| rfc3339(secs * SECOND)),
            time_to_live_sec,
        })
    }
}

/// Parses a member that must be a whole number of seconds. The number may be written as a decimal
/// fraction, like `1577836800.0`.
fn whole(name: &str, member: Option<&RawValue>, max: u64) -> Result<Option<u64>, String> {
    let Some(text) = member.map(RawValue::get) else { return Ok(None) };
    let digits = match text.split_once('.') {
        Some((digits, zeros)) if !zeros.is_empty() && zeros.bytes().all(|c| c == b'0') => digits,
        _ => text,
    };
    match digits.parse::<u64>() {
        Ok(secs) if secs <= max => Ok(Some(secs)),
        _ => Err(format!("{name} must be a whole number of seconds up to {max}")),
    }
}

/// Removes the white space between the tokens of a JSON text, because metadata must not contain
/// line breaks.
fn compact(json: &str) -> String {
    let (mut text, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if quoted || !matches!(c, ' ' | '\t' | '\n' | '\r') {
            text.push(c);
        }
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::json_array::ArrayFormat;
    use super::super::json_array::tests::read_all;

    fn read(members: &str) -> Result<String, String> {
        let text = format!("[{{\"key\":\"k\",{members}}}]");
        let mut read = read_all(ArrayFormat::Cloudflare, text.as_bytes(), 100, 16);
        assert_eq!(read.error, None);
        match read.rejected.pop() {
            Some(rejected) => Err(rejected.split_once(": ").unwrap().1.to_owned()),
            None => Ok(read.lines.trim_end().replace("{\"key\":\"k\",\"value\":", "")),
        }
    }

    #[test]
    fn values_are_text_or_base64() {
        assert_eq!(read(r#""value":"""#).unwrap(), "\"\"}");
        assert_eq!(read(r#""value":"h\u00e9\n""#).unwrap(), "\"aMOpCg==\"}");
        assert_eq!(read(r#""value":"aGk=","base64":false"#).unwrap(), "\"YUdrPQ==\"}");
        assert_eq!(read(r#""value":"aGk=","base64":true"#).unwrap(), "\"aGk=\"}");
        assert_eq!(read(r#""value":"aGk","base64":true"#).unwrap(), "\"aGk=\"}");
        assert_eq!(read(r#""value":"a","base64":null"#).unwrap(), "\"YQ==\"}");
        assert_eq!(read(r#""value":"*","base64":true"#).unwrap_err(), "value must be base64");
        for other in ["1", "\"true\"", "{}"] {
            let error = read(&format!("\"value\":\"\",\"base64\":{other}")).unwrap_err();
            assert_eq!(error, "base64 must be true or false");
        }
    }

    #[test]
    fn expiration_is_a_time_and_expiration_ttl_takes_precedence() {
        let expires = "\"\",\"expires\":\"2020-01-01T00:00:00.000000Z\"}";
        assert_eq!(read(r#""value":"","expiration":1577836800"#).unwrap(), expires);
        assert_eq!(read(r#""value":"","expiration":1577836800.0"#).unwrap(), expires);
        let ttl = "\"\",\"time_to_live_sec\":30}";
        assert_eq!(read(r#""value":"","expiration_ttl":30"#).unwrap(), ttl);
        assert_eq!(read(r#""value":"","expiration_ttl":30,"expiration":5"#).unwrap(), ttl);
        assert_eq!(read(r#""value":"","expiration_ttl":null,"expiration":null"#).unwrap(), "\"\"}");
        let last = "\"\",\"expires\":\"9999-12-31T23:59:59.000000Z\"}";
        assert_eq!(read(r#""value":"","expiration":253402300799"#).unwrap(), last);
        for invalid in ["-1", "1.5", "\"5\"", "1e3", "true", "253402300800"] {
            let error = read(&format!("\"value\":\"\",\"expiration\":{invalid}")).unwrap_err();
            assert!(error.starts_with("expiration must be a whole number of seconds"), "{error}");
        }
        for (invalid, reason) in [
            ("0", "expiration_ttl must be at least 1"),
            ("4294967296", "expiration_ttl must be a whole number of seconds up to 4294967295"),
            ("-60", "expiration_ttl must be a whole number of seconds up to 4294967295"),
        ] {
            let error = read(&format!("\"value\":\"\",\"expiration_ttl\":{invalid}"));
            assert_eq!(error.unwrap_err(), reason);
        }
    }

    #[test]
    fn metadata_is_stored_as_compact_json() {
        let metadata = |json: &str| {
            let line = read(&format!("\"value\":\"\",\"metadata\":{json}"))?;
            let line: serde_json::Value =
                serde_json::from_str(&format!("{{\"value\":{line}")).unwrap();
            Ok::<_, String>(line.get("metadata").map(|text| text.as_str().unwrap().to_owned()))
        };
        let nested = metadata("{ \"b\" : [1.50, \"x  \\\" y\\\\\"],\n\t\"a\": null }").unwrap();
        assert_eq!(nested.unwrap(), r#"{"b":[1.50,"x  \" y\\"],"a":null}"#);
        assert_eq!(metadata("\"text\"").unwrap().unwrap(), "\"text\"");
        assert_eq!(metadata("7").unwrap().unwrap(), "7");
        assert_eq!(metadata("\"é\"").unwrap().unwrap(), "\"é\"");
        assert_eq!(metadata("null").unwrap(), None);
        let deep = ["[".repeat(900), "]".repeat(900)].concat();
        assert_eq!(metadata(&deep).unwrap().unwrap(), deep);
        let long = metadata(&format!("\"{}\"", "x".repeat(2000))).unwrap_err();
        assert_eq!(long, "metadata must be at most 2000 bytes, but is 2002");
        let control = metadata("\"\u{7f}\"").unwrap_err();
        assert!(control.contains("metadata must not contain control characters"), "{control}");
    }
}
