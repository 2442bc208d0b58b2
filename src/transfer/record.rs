//! The line that an item travels as: a superset of a line of the batch endpoint, with all that is
//! known of the item.

use super::Wrong;
use crate::kv::clock::{Clock, SECOND, SystemClock};
use crate::kv::types::{Key, Metadata, Ttl};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::borrow::Cow;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// No value may be larger: 1 GiB.
pub const VALUE_BYTES_HARD: u64 = 1 << 30;
/// Bytes of a line besides its value: a key and metadata with every character escaped, and space.
const SPARE_BYTES: u64 = 32 * 1024;

/// Standard base64, with or without its padding when it is read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes that a line may have whose value has at most so many.
pub fn line_bytes_max(value_bytes_max: u64) -> u64 {
    value_bytes_max.div_ceil(3).saturating_mul(4).saturating_add(SPARE_BYTES)
}

/// A line as it was read; the value is not copied unless it holds escapes.
#[derive(Debug, Deserialize)]
pub struct Line<'l> {
    /// The key.
    #[serde(borrow)]
    pub key: Cow<'l, str>,
    /// The value in base64.
    #[serde(borrow)]
    pub value: Cow<'l, str>,
    #[serde(borrow, default)]
    metadata: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    metadata_base64: Option<Cow<'l, str>>,
    /// When the item ends, RFC 3339.
    #[serde(borrow, default)]
    pub expires: Option<Cow<'l, str>>,
    /// Its generation.
    #[serde(default)]
    pub generation: Option<u64>,
    /// When it was written, RFC 3339.
    #[serde(borrow, default)]
    pub modified: Option<Cow<'l, str>>,
    /// Seconds that it lives from when it is written.
    #[serde(default)]
    pub time_to_live_sec: Option<u64>,
}

impl<'l> Line<'l> {
    /// Reads a line's shape.
    ///
    /// # Errors
    /// In words.
    pub fn parse(line: &'l [u8]) -> Result<Line<'l>, String> {
        // A list of the values would be read as an object of them.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err("line must be a JSON object".into());
        }
        serde_json::from_slice(line).map_err(|e| format!("line must be an item as JSON: {e}"))
    }

    /// The metadata's bytes; none and empty are the same.
    ///
    /// # Errors
    /// When there are two, or what should be base64 is none.
    pub fn metadata(&self) -> Result<Cow<'_, [u8]>, String> {
        match (&self.metadata, &self.metadata_base64) {
            (Some(_), Some(_)) => Err("metadata must come once, and came in two ways".into()),
            (Some(text), None) => Ok(Cow::Borrowed(text.as_bytes())),
            (None, Some(text)) => {
                BASE64.decode(text.as_bytes()).map(Cow::Owned).map_err(|_| METADATA_WRONG.into())
            }
            (None, None) => Ok(Cow::Borrowed(&[])),
        }
    }

    /// The value's bytes.
    ///
    /// # Errors
    /// When it is not base64.
    pub fn value(&self) -> Result<Vec<u8>, String> {
        BASE64.decode(self.value.as_bytes()).map_err(|_| "value must be base64".to_owned())
    }

    /// Seconds that the item has left to live: `None` for ever, 0 when it is over.
    ///
    /// # Errors
    /// When the times are none, or are two.
    pub fn left(&self) -> Result<Option<u64>, String> {
        match (&self.expires, self.time_to_live_sec) {
            (Some(_), Some(_)) => Err("expires and time_to_live_sec must not both be there".into()),
            (Some(at), None) => {
                let at = micros(at).ok_or("expires must be a time as RFC 3339")?;
                let left = at.saturating_sub(SystemClock.now()).div_ceil(SECOND);
                Ok(Some(left.min(u64::from(u32::MAX))))
            }
            (None, Some(secs)) => Ttl::new(secs).map(|ttl| Some(ttl.secs())).map_err(told),
            (None, None) => Ok(None),
        }
    }

    /// Checks all that a server would.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, value_bytes_max: u64) -> Result<Checked, String> {
        Key::parse(self.key.as_bytes()).map_err(told)?;
        let metadata = self.metadata()?;
        let metadata = Metadata::parse(trim(&metadata)).map_err(told)?;
        let left = self.left()?;
        let value = self.value()?;
        if value.len() as u64 > value_bytes_max {
            return Err(too_large(value_bytes_max));
        }
        Ok(Checked { value, metadata: metadata.as_bytes().to_vec(), left })
    }
}

/// What stands in a line, decoded and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The value.
    pub value: Vec<u8>,
    /// The metadata, empty for none.
    pub metadata: Vec<u8>,
    /// Seconds that the item has left to live; 0 when it is over.
    pub left: Option<u64>,
}

const METADATA_WRONG: &str = "metadata_base64 must be base64";

/// What to say of a value beyond the bound.
pub fn too_large(value_bytes_max: u64) -> String {
    format!("value must have at most {value_bytes_max} bytes (--max-value)")
}

/// Metadata as it comes back: fields lose the spaces around them.
fn trim(metadata: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let from = metadata.iter().position(|byte| !space(byte)).unwrap_or(metadata.len());
    let to = metadata.iter().rposition(|byte| !space(byte)).map_or(from, |last| last + 1);
    metadata.get(from..to).unwrap_or_default()
}

fn told(e: crate::kv::Error) -> String {
    e.to_string()
}

/// A time as RFC 3339, in microseconds since 1970; `None` when it is none, or before 1970.
pub fn micros(text: &str) -> Option<u64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1000).ok()
}

/// The time of an HTTP date, in the form of lines.
pub fn modified(http: &str) -> Option<String> {
    let at = httpdate::parse_http_date(http).ok()?;
    let at = OffsetDateTime::from(at);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000000Z"))
}

/// The key that a line holds, without reading all of the line where that can be.
pub fn key_of(line: &[u8]) -> Option<Cow<'_, str>> {
    let quick = line.strip_prefix(b"{\"key\":\"").and_then(|rest| {
        let end = memchr::memchr2(b'"', b'\\', rest)?;
        let (key, rest) = rest.split_at_checked(end)?;
        (rest.first() == Some(&b'"')).then_some(key)
    });
    match quick.map(std::str::from_utf8) {
        Some(Ok(key)) => Some(Cow::Borrowed(key)),
        Some(Err(_)) => None,
        None => Line::parse(line).ok().map(|line| Cow::Owned(line.key.into_owned())),
    }
}

/// An item to be written as a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Item<'i> {
    /// The key.
    pub key: &'i str,
    /// The value.
    pub value: &'i [u8],
    /// The metadata, empty for none.
    pub metadata: &'i [u8],
    /// When it ends, RFC 3339.
    pub expires: Option<&'i str>,
    /// Seconds that it lives.
    pub time_to_live_sec: Option<u64>,
    /// Its generation.
    pub generation: Option<u64>,
    /// When it was written, RFC 3339.
    pub modified: Option<&'i str>,
}

impl Item<'_> {
    /// Writes the line behind what `out` holds, with its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"key\":");
        quote(self.key, out);
        out.extend_from_slice(b",\"value\":\"");
        encode(self.value, out);
        out.push(b'"');
        match std::str::from_utf8(self.metadata) {
            Ok("") => {}
            Ok(text) => {
                out.extend_from_slice(b",\"metadata\":");
                quote(text, out);
            }
            Err(_) => {
                out.extend_from_slice(b",\"metadata_base64\":\"");
                encode(self.metadata, out);
                out.push(b'"');
            }
        }
        let text = |name: &str, value: Option<&str>, out: &mut Vec<u8>| {
            if let Some(value) = value {
                out.extend_from_slice(format!(",\"{name}\":").as_bytes());
                quote(value, out);
            }
        };
        let number = |name: &str, value: Option<u64>, out: &mut Vec<u8>| {
            if let Some(value) = value {
                out.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
            }
        };
        text("expires", self.expires, out);
        number("time_to_live_sec", self.time_to_live_sec, out);
        number("generation", self.generation, out);
        text("modified", self.modified, out);
        out.extend_from_slice(b"}\n");
    }
}

fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    let room = bytes.len().div_ceil(3) * 4;
    out.resize(from + room, 0);
    if let Some(room) = out.get_mut(from..) {
        // The room is what padded base64 takes.
        let _ = BASE64.encode_slice(bytes, room);
    }
}

/// Checks what a file gave and writes it as a line.
pub(super) fn take(number: u64, item: &Item<'_>, out: &mut Vec<u8>) -> super::Next {
    let wrong =
        |reason: String| super::Next::Wrong(Wrong { number, key: item.key.to_owned(), reason });
    if let Err(e) = Key::parse(item.key.as_bytes()) {
        return wrong(told(e));
    }
    if let Err(e) = Metadata::parse(trim(item.metadata)) {
        return wrong(told(e));
    }
    if let Some(Err(e)) = item.time_to_live_sec.map(Ttl::new) {
        return wrong(told(e));
    }
    item.write(out);
    super::Next::Line(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_has_its_fields_in_the_order_of_an_export() {
        let mut out = Vec::new();
        let item = Item {
            key: "a\"b",
            value: b"\x00\x01",
            metadata: b"m",
            expires: Some("2030-01-01T00:00:00.000000Z"),
            time_to_live_sec: None,
            generation: Some(17),
            modified: Some("2026-01-01T00:00:00.000000Z"),
        };
        item.write(&mut out);
        let line = "{\"key\":\"a\\\"b\",\"value\":\"AAE=\",\"metadata\":\"m\",\
                    \"expires\":\"2030-01-01T00:00:00.000000Z\",\"generation\":17,\
                    \"modified\":\"2026-01-01T00:00:00.000000Z\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), line);
        assert_eq!(key_of(line.as_bytes()).as_deref(), Some("a\"b"));
    }

    #[test]
    fn values_are_borrowed_and_lines_of_the_batch_are_read() {
        let line = Line::parse(br#" {"value":"aGk","key":"k","metadata":"m","new":[1]} "#).unwrap();
        assert!(matches!(line.value, Cow::Borrowed("aGk")));
        assert_eq!(line.value().unwrap(), b"hi");
        assert_eq!(line.metadata().unwrap(), &b"m"[..]);
        assert_eq!(line.left(), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told() {
        let told =
            |text: &str| Line::parse(text.as_bytes()).and_then(|line| line.check(3)).unwrap_err();
        for (line, word) in [
            ("[\"k\",\"\"]", "JSON object"),
            ("{\"key\":\"k\"}", "value"),
            ("{\"key\":\"a#b\",\"value\":\"\"}", "key must not contain"),
            ("{\"key\":\"k\",\"value\":\"*\"}", "base64"),
            ("{\"key\":\"k\",\"value\":\"AAAAAA==\"}", "at most 3 bytes"),
            ("{\"key\":\"k\",\"value\":\"\",\"metadata\":\"a\\nb\"}", "metadata must not"),
            ("{\"key\":\"k\",\"value\":\"\",\"metadata_base64\":\"?\"}", "metadata_base64"),
            ("{\"key\":\"k\",\"value\":\"\",\"time_to_live_sec\":0}", "time_to_live_sec"),
            ("{\"key\":\"k\",\"value\":\"\",\"expires\":\"soon\"}", "expires"),
        ] {
            assert!(told(line).contains(word), "{line}: {}", told(line));
        }
    }

    #[test]
    fn what_is_over_has_nothing_left_and_what_is_not_has_something() {
        let left = |at: &str| {
            let text = format!("{{\"key\":\"k\",\"value\":\"\",\"expires\":\"{at}\"}}");
            Line::parse(text.as_bytes()).unwrap().left().unwrap()
        };
        assert_eq!(left("2001-01-01T00:00:00Z"), Some(0));
        assert!(left("2101-01-01T00:00:00.5+02:00").unwrap() > 1_000_000_000);
    }

    #[test]
    fn times_of_header_fields_become_times_of_lines() {
        let told = modified("Mon, 23 Jun 2025 19:41:19 GMT");
        assert_eq!(told.as_deref(), Some("2025-06-23T19:41:19.000000Z"));
        assert_eq!(micros(&told.unwrap()), Some(1_750_707_679_000_000));
        assert_eq!(modified("soon"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            key in "\\PC{1,40}", value in proptest::collection::vec(any::<u8>(), 0..300),
            metadata in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut out = Vec::new();
            Item { key: &key, value: &value, metadata: &metadata, ..Item::default() }
                .write(&mut out);
            let line = Line::parse(&out).unwrap();
            prop_assert_eq!(&line.key, &key);
            prop_assert_eq!(line.value().unwrap(), value);
            prop_assert_eq!(line.metadata().unwrap(), metadata);
            prop_assert_eq!(key_of(&out).unwrap(), key);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = key_of(&bytes);
            let _ = Line::parse(&bytes).map(|line| line.check(100).is_ok());
        }
    }
}
