//! An element of a JSON array that describes an item.

use super::checked_item::{check_properties, too_large};
use super::json_reader::TextPosition;
use super::source_notes::SourceNotes;
use super::{ItemPosition, SourceError};
use crate::wire::item_line::{ItemLine, copy_base64, write_base64};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The value of an item.
pub(super) enum ElementValue<'e> {
    /// A string that is the value itself.
    Text(Cow<'e, str>),
    /// A string that is the value in base64.
    Base64(Cow<'e, str>),
}

/// An item that an element describes.
pub(super) struct ElementItem<'e> {
    pub(super) value: ElementValue<'e>,
    /// Metadata; empty if the item has none.
    pub(super) metadata: String,
    /// Time of expiry, RFC 3339.
    pub(super) expires: Option<String>,
    /// Time to live in seconds.
    pub(super) time_to_live_sec: Option<u64>,
}

impl<'e> ElementItem<'e> {
    /// Creates an item that has no metadata and never expires.
    pub(super) fn new(value: ElementValue<'e>) -> ElementItem<'e> {
        ElementItem { value, metadata: String::new(), expires: None, time_to_live_sec: None }
    }
}

/// The members of an element.
pub(super) trait Element<'e>: Deserialize<'e> {
    /// Returns the key.
    ///
    /// # Errors
    /// Returns the key as far as it is known, and the reason for rejecting the element.
    fn key(&self) -> Result<Cow<'e, str>, (String, String)>;

    /// Returns the other properties of the item. `position` and `key` are for notes.
    ///
    /// # Errors
    /// Returns the reason for rejecting the element.
    fn item(
        &self,
        position: ItemPosition,
        key: &str,
        notes: &SourceNotes,
    ) -> Result<ElementItem<'e>, String>;
}

/// Checks that a text is JSON, except for the characters in its strings.
pub(super) fn check_syntax(text: &[u8], at: TextPosition) -> Result<(), SourceError> {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(e) => Err(at.of_error(&e).error(&without_position(&e))),
    }
}

/// Parses the members of an element.
///
/// # Errors
/// Returns a [`SourceError`] for a syntax error, and the reason for rejecting an element in which
/// only the names or values of members are invalid.
pub(super) fn parse<'e, T: Deserialize<'e>>(
    element: &'e [u8],
    at: TextPosition,
) -> Result<Result<T, String>, SourceError> {
    let reason = match std::str::from_utf8(element) {
        Ok(_) if !element.starts_with(b"{") => "must be a JSON object".into(),
        Ok(text) => match serde_json::from_str(text) {
            Ok(parsed) => return Ok(Ok(parsed)),
            Err(e) => without_position(&e),
        },
        Err(_) => "must be UTF-8".into(),
    };
    check_syntax(element, at).map(|()| Err(reason))
}

/// Returns the description of an error without its position, which serde counts from the start of
/// the element.
fn without_position(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text).to_owned()
}

/// Checks an item and appends its line to `out`.
///
/// # Errors
/// Returns the reason for rejecting the item.
pub(super) fn write_item(
    key: &str,
    item: &ElementItem<'_>,
    value_bytes_max: u64,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let line = ItemLine {
        key,
        metadata: item.metadata.as_bytes(),
        expires: item.expires.as_deref(),
        time_to_live_sec: item.time_to_live_sec,
        ..ItemLine::default()
    };
    check_properties(&line)?;
    let start = out.len();
    line.write_start(out);
    let size = match &item.value {
        ElementValue::Text(text) if text.len() as u64 > value_bytes_max => Some(text.len() as u64),
        ElementValue::Text(text) => {
            write_base64(text.as_bytes(), out);
            Some(text.len() as u64)
        }
        ElementValue::Base64(text) => copy_base64(text.as_bytes(), out),
    };
    let valid = match size {
        Some(size) if size > value_bytes_max => Err(too_large(value_bytes_max)),
        Some(_) => Ok(()),
        None => Err("value must be base64".into()),
    };
    match valid {
        Ok(()) => line.write_end(out),
        Err(_) => out.truncate(start),
    }
    valid
}

/// Parses a member that must be a string. Returns `None` if the member is missing or null.
///
/// # Errors
/// Returns a message that contains the name of the member.
pub(super) fn string<'e>(
    name: &str,
    member: Option<&'e RawValue>,
) -> Result<Option<Cow<'e, str>>, String> {
    #[derive(Deserialize)]
    struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
    let Some(member) = member else { return Ok(None) };
    match serde_json::from_str::<Text<'e>>(member.get()) {
        Ok(text) => Ok(Some(text.0)),
        Err(_) if member.get().starts_with('"') => {
            Err(format!("{name} must not contain unpaired surrogates"))
        }
        Err(_) => Err(format!("{name} must be a string")),
    }
}

/// Parses a member that must be a string.
///
/// # Errors
/// Returns a message that contains the name of the member.
pub(super) fn required_string<'e>(
    name: &str,
    member: Option<&'e RawValue>,
) -> Result<Cow<'e, str>, String> {
    string(name, member)?.ok_or_else(|| format!("{name} is required and must be a string"))
}
