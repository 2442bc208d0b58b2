//! A line of a batch or of an import, from JSON (contract.md, 3.5).

use crate::kv;
use crate::kv::import::ImportedGeneration;
use crate::kv::types::{Key, Metadata, Ttl};
use crate::wire;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value as Json;
use std::borrow::Cow;

/// Standard base64, with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a batch's line may have; all else in it is ignored.
#[derive(Deserialize)]
struct RawLine<'l> {
    #[serde(borrow)]
    key: Cow<'l, str>,
    #[serde(borrow)]
    value: Cow<'l, str>,
    #[serde(default)]
    time_to_live_sec: Option<u64>,
    #[serde(borrow, default)]
    metadata: Option<Cow<'l, str>>,
    #[serde(default)]
    background_fetch: Option<bool>,
}

/// What an import's line may have besides.
#[derive(Default, Deserialize)]
struct RawRest<'l> {
    #[serde(borrow, default)]
    metadata_base64: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    expires: Option<Cow<'l, str>>,
    #[serde(default)]
    generation: Option<u64>,
    #[serde(borrow, default)]
    modified: Option<Cow<'l, str>>,
}

/// A line that was refused: its key, where it could be read, and why.
pub(super) type Refused = (String, kv::Error);

/// A line that keeps the rules.
pub(super) struct Parsed {
    pub(super) key: Key,
    pub(super) ttl: Option<Ttl>,
    pub(super) metadata: Metadata,
    pub(super) value: Bytes,
    /// Only of an import, as are those that follow: see [`kv::import::ImportItem`].
    pub(super) expires: Option<u64>,
    pub(super) generation: Option<ImportedGeneration>,
    pub(super) modified: Option<u64>,
}

/// Reads a line; `full` for one of an import. `allowed` judges its key before its value is looked
/// at.
pub(super) fn parse(
    line: &[u8],
    full: bool,
    value_bytes_max: u64,
    allowed: impl Fn(&Key) -> Result<(), kv::Error>,
) -> Result<Parsed, Refused> {
    // A list of the values would be read as an object of them.
    if line.starts_with(b"[") {
        return Err((String::new(), kv::Error::invalid("line", "must be a JSON object")));
    }
    let raw: RawLine<'_> = serde_json::from_slice(line).map_err(|e| explain(line, &e, full))?;
    let rest = match full {
        true => serde_json::from_slice::<RawRest<'_>>(line).map_err(|e| explain(line, &e, full))?,
        false => RawRest::default(),
    };
    let named = |e: kv::Error| (raw.key.clone().into_owned(), e);
    let key = Key::parse(raw.key.as_bytes()).map_err(named)?;
    allowed(&key).map_err(named)?;
    let ttl = raw.time_to_live_sec.map(Ttl::new).transpose().map_err(named)?;
    let time = |field, text: Option<&str>| {
        let wrong = || kv::Error::invalid(field, "must be a time by RFC 3339, from 1970 on");
        text.map(|text| wire::parse_rfc3339(text).ok_or_else(wrong)).transpose()
    };
    let expires = time("expires", rest.expires.as_deref()).map_err(named)?;
    if expires.is_some() && ttl.is_some() {
        let reason = "must not be given together with time_to_live_sec";
        return Err(named(kv::Error::invalid("expires", reason)));
    }
    let modified = time("modified", rest.modified.as_deref()).map_err(named)?;
    let generation = rest.generation.map(ImportedGeneration::new).transpose().map_err(named)?;
    let metadata = metadata(raw.metadata.as_deref(), rest.metadata_base64.as_deref());
    let metadata = metadata.map_err(named)?;
    let value = BASE64
        .decode(raw.value.as_bytes())
        .map_err(|_| named(kv::Error::invalid("value", "must be base64")))?;
    if value.len() as u64 > value_bytes_max {
        return Err(named(kv::Error::TooLarge(value_bytes_max)));
    }
    // Nothing is to be fetched in the background here.
    let _ = raw.background_fetch;
    Ok(Parsed { key, ttl, metadata, value: value.into(), expires, generation, modified })
}

fn metadata(text: Option<&str>, base64: Option<&str>) -> Result<Metadata, kv::Error> {
    let Some(base64) = base64 else {
        let text = text.unwrap_or_default().trim_matches([' ', '\t']);
        return Metadata::parse(text.as_bytes());
    };
    if text.is_some() {
        let reason = "must not be given together with metadata";
        return Err(kv::Error::invalid("metadata_base64", reason));
    }
    let bytes = BASE64.decode(base64);
    let bytes = bytes.map_err(|_| kv::Error::invalid("metadata_base64", "must be base64"))?;
    // As every reader of header fields does.
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    Metadata::parse(bytes.get(start..end).unwrap_or_default())
}

/// Says what is wrong with a line that does not have the shape, by the field.
fn explain(line: &[u8], e: &serde_json::Error, full: bool) -> Refused {
    let invalid = |field, reason: String| kv::Error::invalid(field, reason);
    let Ok(Json::Object(fields)) = serde_json::from_slice(line) else {
        return (String::new(), invalid("line", format!("must be a JSON object: {e}")));
    };
    let key = fields.get("key").and_then(Json::as_str).unwrap_or_default().to_owned();
    let field = |name: &str| fields.get(name);
    let no_text = |name: &str| field(name).is_some_and(|text| !text.is_null() && !text.is_string());
    let reason = if !field("key").is_some_and(Json::is_string) {
        invalid("key", "must be there and a string".into())
    } else if !field("value").is_some_and(Json::is_string) {
        invalid("value", "must be there and a string of base64".into())
    } else if field("time_to_live_sec").is_some_and(|ttl| !ttl.is_null() && !ttl.is_u64()) {
        Ttl::invalid()
    } else if no_text("metadata") {
        invalid("metadata", "must be a string".into())
    } else if field("background_fetch").is_some_and(|b| !b.is_null() && !b.is_boolean()) {
        invalid("background_fetch", "must be true or false".into())
    } else if full && field("generation").is_some_and(|n| !n.is_null() && !n.is_u64()) {
        invalid("generation", "must be a whole number".into())
    } else if let Some(name) =
        ["metadata_base64", "expires", "modified"].into_iter().find(|n| full && no_text(n))
    {
        invalid(name, "must be a string".into())
    } else {
        invalid("line", format!("must be a JSON object: {e}"))
    };
    (key, reason)
}
