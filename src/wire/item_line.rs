//! The item line: one item as a line of JSON. The server and the CLI share this format.
//!
//! The batch endpoint reads `key`, `value`, `metadata`, `time_to_live_sec` and `background_fetch`
//! (docs/contract.md section 3.5). Imports and exports add `metadata_base64`, `expires`,
//! `generation` and `modified`. Parsing checks the types of fields and borrows from the line. The
//! caller must check the limits of keys, values and metadata.

use super::time::parse_rfc3339;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// Standard base64; padding is optional when decoding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Bytes allowed besides the value: spaces, and a key and metadata with every character escaped.
const LINE_EXTRA_BYTES: u64 = 32 * 1024;

/// Returns the maximum length of a line in bytes for a given maximum value size.
pub fn line_bytes_max(value_bytes_max: u64) -> u64 {
    value_bytes_max.div_ceil(3).saturating_mul(4).saturating_add(LINE_EXTRA_BYTES)
}

/// Strips spaces and tabs around metadata, as header parsing does.
pub fn trim_metadata(metadata: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = metadata.iter().position(|byte| !is_space(byte)).unwrap_or(metadata.len());
    let end = metadata.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    metadata.get(start..end).unwrap_or_default()
}

/// The fields that a line may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFields {
    /// The fields of the batch endpoint; others are ignored.
    Batch,
    /// All fields of imports and exports; others are ignored.
    Import,
}

/// An error in one field of a line. The field name `line` stands for the line as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct FieldError {
    /// Name of the field.
    pub field: &'static str,
    /// The rule that the field violates.
    pub reason: String,
}

impl FieldError {
    fn new(field: &'static str, reason: impl Into<String>) -> FieldError {
        FieldError { field, reason: reason.into() }
    }
}

/// A line that could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The key of the line; empty if it could not be parsed.
    pub key: String,
    /// The invalid field.
    pub error: FieldError,
}

/// A parsed line. Strings are borrowed from the line unless they contain escapes.
#[derive(Debug, Default, Deserialize)]
pub struct ParsedLine<'l> {
    /// Key.
    #[serde(borrow)]
    pub key: Cow<'l, str>,
    #[serde(borrow)]
    value: Cow<'l, str>,
    #[serde(borrow)]
    metadata: Option<Cow<'l, str>>,
    /// Time to live in seconds, counted from the time of the write.
    pub time_to_live_sec: Option<u64>,
    /// Ignored, but must be a boolean.
    #[serde(rename = "background_fetch")]
    _background_fetch: Option<bool>,
    #[serde(borrow)]
    metadata_base64: Option<Cow<'l, str>>,
    #[serde(borrow)]
    expires: Option<Cow<'l, str>>,
    /// Generation.
    pub generation: Option<u64>,
    #[serde(borrow)]
    modified: Option<Cow<'l, str>>,
}

/// A line of the batch endpoint. This type has no import-only fields, so such fields in a line are
/// ignored, whatever their types.
#[derive(Deserialize)]
struct BatchLine<'l> {
    #[serde(borrow)]
    key: Cow<'l, str>,
    #[serde(borrow)]
    value: Cow<'l, str>,
    #[serde(borrow)]
    metadata: Option<Cow<'l, str>>,
    time_to_live_sec: Option<u64>,
    #[serde(rename = "background_fetch")]
    _background_fetch: Option<bool>,
}

impl<'l> From<BatchLine<'l>> for ParsedLine<'l> {
    fn from(line: BatchLine<'l>) -> ParsedLine<'l> {
        let BatchLine { key, value, metadata, time_to_live_sec, .. } = line;
        ParsedLine { key, value, metadata, time_to_live_sec, ..ParsedLine::default() }
    }
}

impl<'l> ParsedLine<'l> {
    /// Parses a line and checks the types of its fields.
    ///
    /// # Errors
    /// Returns a [`LineError`] with the first invalid field.
    pub fn parse(line: &'l [u8], fields: LineFields) -> Result<ParsedLine<'l>, LineError> {
        // serde also accepts an array that contains the fields in order.
        if line.trim_ascii_start().starts_with(b"[") {
            let error = FieldError::new("line", "must be a JSON object");
            return Err(LineError { key: String::new(), error });
        }
        let parsed = match fields {
            LineFields::Batch => serde_json::from_slice::<BatchLine<'_>>(line).map(Into::into),
            LineFields::Import => serde_json::from_slice(line),
        };
        parsed.map_err(|e| explain(line, &e, fields))
    }

    /// Decodes the value.
    ///
    /// # Errors
    /// Returns a [`FieldError`] if the value is not base64.
    pub fn value(&self) -> Result<Vec<u8>, FieldError> {
        BASE64.decode(self.value.as_bytes()).map_err(|_| not_base64("value"))
    }

    /// Returns the metadata without surrounding spaces and tabs. It is empty if the line has none.
    ///
    /// # Errors
    /// Returns a [`FieldError`] if the line has both metadata fields or `metadata_base64` is
    /// invalid.
    pub fn metadata(&self) -> Result<Cow<'_, [u8]>, FieldError> {
        match (&self.metadata, &self.metadata_base64) {
            (Some(_), Some(_)) => {
                let reason = "must not be given together with metadata";
                Err(FieldError::new("metadata_base64", reason))
            }
            (Some(text), None) => Ok(Cow::Borrowed(trim_metadata(text.as_bytes()))),
            (None, Some(text)) => match BASE64.decode(text.as_bytes()) {
                Ok(bytes) => Ok(Cow::Owned(trim_metadata(&bytes).to_vec())),
                Err(_) => Err(not_base64("metadata_base64")),
            },
            (None, None) => Ok(Cow::Borrowed(&[])),
        }
    }

    /// Returns the time of expiry, if any, in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns a [`FieldError`] if `expires` is not a time or the line also has a time to live.
    pub fn expires_at(&self) -> Result<Option<u64>, FieldError> {
        let at = parse_time("expires", self.expires.as_deref())?;
        if at.is_some() && self.time_to_live_sec.is_some() {
            let reason = "must not be given together with time_to_live_sec";
            return Err(FieldError::new("expires", reason));
        }
        Ok(at)
    }

    /// Returns the time of the last write, if any, in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns a [`FieldError`] if `modified` is not a time.
    pub fn modified_at(&self) -> Result<Option<u64>, FieldError> {
        parse_time("modified", self.modified.as_deref())
    }
}

fn not_base64(field: &'static str) -> FieldError {
    FieldError::new(field, "must be base64")
}

fn parse_time(field: &'static str, text: Option<&str>) -> Result<Option<u64>, FieldError> {
    let invalid = || FieldError::new(field, "must be an RFC 3339 time from 1970 to 9999 in UTC");
    text.map(|text| parse_rfc3339(text).ok_or_else(invalid)).transpose()
}

/// Finds the field that caused parsing to fail.
fn explain(line: &[u8], e: &serde_json::Error, fields: LineFields) -> LineError {
    let invalid = |field, reason: String| FieldError { field, reason };
    let Ok(Members(members)) = serde_json::from_slice(line) else {
        // An error about a value of the wrong type contains the value, which may be long.
        let detail = if e.is_data() { String::new() } else { format!(": {}", in_line(e)) };
        let error = invalid("line", format!("must be a JSON object{detail}"));
        return LineError { key: String::new(), error };
    };
    let field = |name: &str| members.get(name).filter(|kind| **kind != Kind::Null);
    let not_string = |name: &str| field(name).is_some_and(|kind| !matches!(kind, Kind::Text(_)));
    let import = fields == LineFields::Import;
    let missing = |name: &str| !matches!(members.get(name), Some(Kind::Text(_)));
    let error = if missing("key") {
        invalid("key", "is required and must be a string".into())
    } else if missing("value") {
        invalid("value", "is required and must be a base64 string".into())
    } else if field("time_to_live_sec").is_some_and(|kind| *kind != Kind::Whole) {
        let reason = format!("must be a whole number of seconds from 1 to {}", u32::MAX);
        invalid("time_to_live_sec", reason)
    } else if not_string("metadata") {
        invalid("metadata", "must be a string".into())
    } else if field("background_fetch").is_some_and(|kind| *kind != Kind::Bool) {
        invalid("background_fetch", "must be true or false".into())
    } else if import && field("generation").is_some_and(|kind| *kind != Kind::Whole) {
        invalid("generation", "must be a whole number".into())
    } else if let Some(name) = ["metadata_base64", "expires", "modified"]
        .into_iter()
        .find(|name| import && not_string(name))
    {
        invalid(name, "must be a string".into())
    } else {
        invalid("line", format!("must be a JSON object: {}", in_line(e)))
    };
    let key = match members.get("key") {
        Some(Kind::Text(key)) => key.clone(),
        _ => String::new(),
    };
    LineError { key, error }
}

/// The type of a field. The contents of arrays and objects are skipped, because a parsed tree takes
/// many times the memory of the line.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Bool,
    /// A non-negative whole number.
    Whole,
    /// A string, truncated to [`TEXT_BYTES_MAX`].
    Text(String),
    Other,
}

/// Maximum size of a string kept for an error, in bytes; larger than any valid key.
const TEXT_BYTES_MAX: usize = 4096;

struct Members(HashMap<&'static str, Kind>);

/// The fields whose types [`explain`] examines.
const NAMES: [&str; 9] = [
    "key",
    "value",
    "metadata",
    "time_to_live_sec",
    "background_fetch",
    "metadata_base64",
    "expires",
    "generation",
    "modified",
];

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = HashMap::new();
                while let Some(name) = map.next_key::<Kind>()? {
                    let kind = map.next_value()?;
                    let Kind::Text(name) = name else { continue };
                    if let Some(name) = NAMES.into_iter().find(|known| *known == name) {
                        members.insert(name, kind);
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        struct KindVisitor;
        impl<'de> Visitor<'de> for KindVisitor {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
                Ok(Kind::Bool)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
                Ok(Kind::Whole)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
                Ok(Kind::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
                Ok(Kind::Other)
            }

            fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
                Ok(Kind::Text(super::cut(text, TEXT_BYTES_MAX).to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kind::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Kind::Other)
            }
        }
        deserializer.deserialize_any(KindVisitor)
    }
}

/// Describes an error with its column only, because serde always reports line 1.
fn in_line(e: &serde_json::Error) -> String {
    e.to_string().replace(" at line 1 column ", " at column ")
}

/// Returns the key of a line. If the key comes first and has no escapes, the rest is not parsed.
pub fn key_of(line: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct KeyOnly<'l> {
        #[serde(borrow)]
        key: Cow<'l, str>,
    }
    let plain = line.strip_prefix(b"{\"key\":\"").and_then(|rest| {
        let end = memchr::memchr2(b'"', b'\\', rest)?;
        let (key, rest) = rest.split_at_checked(end)?;
        (rest.first() == Some(&b'"')).then_some(key)
    });
    match plain {
        Some(key) => std::str::from_utf8(key).ok().map(Cow::Borrowed),
        None => serde_json::from_slice::<KeyOnly<'_>>(line).ok().map(|line| line.key),
    }
}

/// An item to write as a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct ItemLine<'i> {
    /// Key.
    pub key: &'i str,
    /// Value.
    pub value: &'i [u8],
    /// Metadata; empty if the item has none.
    pub metadata: &'i [u8],
    /// Time of expiry, RFC 3339.
    pub expires: Option<&'i str>,
    /// Time to live in seconds.
    pub time_to_live_sec: Option<u64>,
    /// Generation.
    pub generation: Option<u64>,
    /// Time of the last write, RFC 3339.
    pub modified: Option<&'i str>,
}

/// The fields that follow the value, in the order of an export.
#[derive(Serialize)]
struct Trailer<'i> {
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'i str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<&'i str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_live_sec: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<&'i str>,
}

impl ItemLine<'_> {
    /// Appends the line, including its line feed, to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_start(out);
        write_base64(self.value, out);
        self.write_end(out);
    }

    /// Appends the part of the line before the value. [`write_base64`] appends the value itself.
    pub fn write_start(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"key\":");
        // Serializing a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, self.key);
        out.extend_from_slice(b",\"value\":\"");
    }

    /// Appends the part of the line after the value.
    pub fn write_end(&self, out: &mut Vec<u8>) {
        let text = std::str::from_utf8(self.metadata);
        let trailer = Trailer {
            metadata: text.ok().filter(|text| !text.is_empty()),
            metadata_base64: text.is_err().then(|| BASE64.encode(self.metadata)),
            expires: self.expires,
            time_to_live_sec: self.time_to_live_sec,
            generation: self.generation,
            modified: self.modified,
        };
        out.push(b'"');
        let start = out.len();
        let _ = serde_json::to_writer(&mut *out, &trailer);
        // The trailer continues the object of the line, so replace its opening brace with a comma,
        // or remove the brace if the trailer is empty.
        match out.get_mut(start..) {
            Some([b'{', b'}']) => drop(out.remove(start)),
            Some([brace, ..]) => *brace = b',',
            Some([]) | None => {}
        }
        out.push(b'\n');
    }
}

/// Appends bytes as base64. If a value is written in pieces, the size of every piece except the
/// last must be a multiple of 3 bytes.
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    // The buffer has exactly the encoded length.
    let written = BASE64.encode_slice(bytes, room).unwrap_or(0);
    out.truncate(start + written);
}

/// Decodes base64 with or without padding. Returns `None` if the text is not base64.
pub fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// Appends a base64 text to `out`, and adds missing padding. The text is decoded in pieces, because
/// it may be long. Returns the number of bytes that it encodes, or `None` if it is not base64. In
/// the latter case, the start of the text may have been appended.
pub fn copy_base64(text: &[u8], out: &mut Vec<u8>) -> Option<u64> {
    /// Sizes of a full piece before and after decoding, in bytes.
    const ENCODED: usize = 4096;
    const DECODED: usize = ENCODED / 4 * 3;
    let (mut size, mut decoded) = (0, [0; DECODED + 3]);
    out.reserve(text.len() + 3);
    let mut pieces = text.chunks(ENCODED).peekable();
    while let Some(piece) = pieces.next() {
        let written = BASE64.decode_slice(piece, &mut decoded).ok()?;
        // Padding is valid only at the end.
        if pieces.peek().is_some() && written != DECODED {
            return None;
        }
        write_base64(decoded.get(..written)?, out);
        size += written as u64;
    }
    Some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_written_in_the_order_of_an_export() {
        let mut out = Vec::new();
        let item = ItemLine {
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
    fn keys_and_values_are_borrowed_and_unknown_fields_are_ignored() {
        let line = br#" {"value":"aGk","key":"k","metadata":" m","new":[1],"generation":"no"} "#;
        let parsed = ParsedLine::parse(line, LineFields::Batch).unwrap();
        assert!(matches!(parsed.value, Cow::Borrowed("aGk")));
        assert!(matches!(parsed.key, Cow::Borrowed("k")));
        assert_eq!(parsed.value().unwrap(), b"hi");
        assert_eq!(parsed.metadata().unwrap(), &b"m"[..]);
        assert_eq!(parsed.expires_at(), Ok(None));
        let error = ParsedLine::parse(line, LineFields::Import).unwrap_err();
        assert_eq!((error.key.as_str(), error.error.field), ("k", "generation"));
    }

    #[test]
    fn errors_do_not_contain_long_values() {
        let long = "x".repeat(100_000);
        for line in [
            format!("\"{long}\""),
            format!("{{\"key\":\"{long}\"}}"),
            format!("{{\"key\":\"k\",\"value\":\"\",\"time_to_live_sec\":\"{long}\"}}"),
            format!("{{\"key\":\"k\",\"value\":\"\",\"background_fetch\":\"{long}\"}}"),
            format!("{{\"{long}\":[{long}"),
        ] {
            let LineError { key, error } =
                ParsedLine::parse(line.as_bytes(), LineFields::Import).unwrap_err();
            let len = key.len() + error.reason.len();
            assert!(len < 5000 && !error.reason.contains("struct"), "{len}: {:.80}", error.reason);
        }
    }

    #[test]
    fn an_expiry_time_is_parsed_and_conflicts_with_a_time_to_live() {
        let expires = |fields: &str| {
            let text = format!("{{\"key\":\"k\",\"value\":\"\",{fields}}}");
            ParsedLine::parse(text.as_bytes(), LineFields::Import).unwrap().expires_at()
        };
        assert_eq!(expires("\"expires\":\"1970-01-01T00:00:01Z\""), Ok(Some(1_000_000)));
        assert!(expires("\"expires\":\"soon\"").is_err());
        assert!(expires("\"expires\":\"2030-01-01T00:00:00Z\",\"time_to_live_sec\":1").is_err());
    }

    #[test]
    fn base64_is_copied_in_pieces_and_checked() {
        for len in [0, 1, 2, 3, 3071, 3072, 3073, 3074, 6144, 10_000] {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            let (mut text, mut out) = (Vec::new(), b"before".to_vec());
            write_base64(&bytes, &mut text);
            let unpadded = text.iter().take_while(|c| **c != b'=').copied().collect::<Vec<_>>();
            for given in [&text, &unpadded] {
                out.truncate(6);
                assert_eq!(copy_base64(given, &mut out), Some(len as u64));
                assert_eq!(out[6..], text[..]);
                assert_eq!(decode_base64(given).as_ref(), Some(&bytes));
            }
        }
        let padded = |at: usize| [vec![b'A'; at], b"AA==".to_vec(), vec![b'A'; 4096]].concat();
        for invalid in [b"A".to_vec(), b"A*AA".to_vec(), padded(0), padded(4092), padded(8)] {
            assert_eq!(copy_base64(&invalid, &mut Vec::new()), None);
        }
    }

    proptest! {
        #[test]
        fn a_written_line_parses_to_the_same_item(
            key in "\\PC{1,40}", value in proptest::collection::vec(any::<u8>(), 0..300),
            metadata in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut out = Vec::new();
            ItemLine { key: &key, value: &value, metadata: &metadata, ..ItemLine::default() }
                .write(&mut out);
            let line = ParsedLine::parse(&out, LineFields::Import).unwrap();
            prop_assert_eq!(&line.key, &key);
            prop_assert_eq!(line.value().unwrap(), value);
            prop_assert_eq!(&line.metadata().unwrap()[..], trim_metadata(&metadata));
            prop_assert_eq!(key_of(&out).unwrap(), key);
        }

        #[test]
        fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = key_of(&bytes);
            let _ = ParsedLine::parse(&bytes, LineFields::Import).map(|line| line.value().is_ok());
        }
    }
}
