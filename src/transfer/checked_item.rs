//! Checks items against the limits of a KV store before they are sent.

use super::{ItemPosition, NextItem, RejectedItem};
use crate::kv::clock::{Clock, SECOND, SystemClock};
use crate::kv::import::ImportedGeneration;
use crate::kv::types::{Key, Metadata, Ttl};
use crate::wire::item_line::{ItemLine, LineFields, ParsedLine, trim_metadata};

/// The maximum size of a value in an export, in bytes.
pub const VALUE_BYTES_MAX: u64 = 1 << 30;

/// The expiry of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The item never expires.
    Never,
    /// The item expires at this time, in microseconds since the Unix epoch.
    At(u64),
    /// The item expires this many seconds after it is written.
    After(u64),
}

impl Expiry {
    /// Returns the remaining time to live in seconds: `None` if the item never expires, 0 if it has
    /// expired.
    pub fn remaining_secs(self) -> Option<u64> {
        match self {
            Expiry::Never => None,
            Expiry::After(secs) => Some(secs),
            Expiry::At(at) => {
                let remaining = at.saturating_sub(SystemClock.now()).div_ceil(SECOND);
                Some(remaining.min(u64::from(u32::MAX)))
            }
        }
    }
}

/// A decoded item that satisfies the limits of a KV store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedItem {
    /// Key.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
    /// Metadata; empty if the item has none.
    pub metadata: Vec<u8>,
    /// Expiry.
    pub expiry: Expiry,
    /// The generation in the source. Only Steadfast servers import it.
    pub generation: Option<u64>,
}

impl CheckedItem {
    /// Parses, decodes and checks a line.
    ///
    /// # Errors
    /// Returns a [`RejectedItem`] with the given position if the line is invalid or exceeds a
    /// limit.
    pub fn parse(
        line: &[u8],
        position: ItemPosition,
        value_bytes_max: u64,
    ) -> Result<CheckedItem, RejectedItem> {
        let line = ParsedLine::parse(line, LineFields::Import).map_err(|e| {
            let reason = e.error.to_string();
            RejectedItem { position, key: e.key, reason }
        })?;
        CheckedItem::check(&line, value_bytes_max).map_err(|reason| {
            let key = line.key.clone().into_owned();
            RejectedItem { position, key, reason }
        })
    }

    /// Checks that the generation is at least 1 and at most one day ahead of the clock. A Steadfast
    /// server does the same with its own clock.
    ///
    /// # Errors
    /// Returns a [`RejectedItem`] with the given position if the generation is invalid.
    pub fn check_generation(self, position: ItemPosition) -> Result<CheckedItem, RejectedItem> {
        let now = SystemClock.now();
        match self.generation.map(|n| ImportedGeneration::new(n, now)).transpose() {
            Ok(_) => Ok(self),
            Err(e) => Err(RejectedItem { position, key: self.key, reason: text(e) }),
        }
    }

    fn check(line: &ParsedLine<'_>, value_bytes_max: u64) -> Result<CheckedItem, String> {
        check_key(&line.key)?;
        let metadata = line.metadata().map_err(text)?.into_owned();
        Metadata::parse(&metadata).map_err(text)?;
        let expiry = match (line.expires_at().map_err(text)?, line.time_to_live_sec) {
            (Some(at), _) => Expiry::At(at),
            (None, Some(secs)) => Expiry::After(Ttl::new(secs).map_err(text)?.secs()),
            (None, None) => Expiry::Never,
        };
        line.modified_at().map_err(text)?;
        let value = line.value().map_err(text)?;
        if value.len() as u64 > value_bytes_max {
            return Err(too_large(value_bytes_max));
        }
        let (key, generation) = (line.key.clone().into_owned(), line.generation);
        Ok(CheckedItem { key, value, metadata, expiry, generation })
    }
}

/// Returns the reason for rejecting a value that exceeds the limit.
pub fn too_large(value_bytes_max: u64) -> String {
    format!("value must be at most {value_bytes_max} bytes (see --max-value)")
}

fn check_key(key: &str) -> Result<(), String> {
    Key::parse(key.as_bytes()).map(|_| ()).map_err(text)
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// Checks an item except for its value.
///
/// # Errors
/// Returns the reason for rejecting the item.
pub(super) fn check_properties(item: &ItemLine<'_>) -> Result<(), String> {
    check_key(item.key)?;
    Metadata::parse(trim_metadata(item.metadata)).map_err(text)?;
    item.time_to_live_sec.map(Ttl::new).transpose().map_err(text)?;
    Ok(())
}

/// Checks an item except for the size of its value, and either writes its line or rejects it.
pub(super) fn write_checked(
    position: ItemPosition,
    item: &ItemLine<'_>,
    out: &mut Vec<u8>,
) -> NextItem {
    match check_properties(item) {
        Ok(()) => {
            item.write(out);
            NextItem::Line(position)
        }
        Err(reason) => {
            NextItem::Rejected(RejectedItem { position, key: item.key.to_owned(), reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<CheckedItem, RejectedItem> {
        CheckedItem::parse(text.as_bytes(), ItemPosition::line(7), 3)
    }

    #[test]
    fn invalid_lines_are_rejected_with_a_reason() {
        for (line, reason) in [
            ("[\"k\",\"\"]", "JSON object"),
            ("{\"key\":\"k\"}", "value"),
            ("{\"key\":\"a#b\",\"value\":\"\"}", "key must not contain"),
            ("{\"key\":\"k\",\"value\":\"*\"}", "base64"),
            ("{\"key\":\"k\",\"value\":\"AAAAAA==\"}", "at most 3 bytes"),
            ("{\"key\":\"k\",\"value\":\"\",\"metadata\":\"a\\nb\"}", "metadata must not"),
            ("{\"key\":\"k\",\"value\":\"\",\"metadata_base64\":\"?\"}", "metadata_base64"),
            ("{\"key\":\"k\",\"value\":\"\",\"time_to_live_sec\":0}", "time_to_live_sec"),
            ("{\"key\":\"k\",\"value\":\"\",\"expires\":\"soon\"}", "expires"),
            ("{\"key\":\"k\",\"value\":\"\",\"modified\":\"soon\"}", "modified"),
        ] {
            let rejected = parse(line).unwrap_err();
            assert!(rejected.reason.contains(reason), "{line}: {}", rejected.reason);
            assert_eq!(rejected.position, ItemPosition::line(7));
        }
    }

    #[test]
    fn expired_items_have_no_remaining_time_to_live() {
        let remaining = |at: &str| {
            let line = format!("{{\"key\":\"k\",\"value\":\"\",\"expires\":\"{at}\"}}");
            parse(&line).unwrap().expiry.remaining_secs()
        };
        assert_eq!(remaining("2001-01-01T00:00:00Z"), Some(0));
        assert!(remaining("2101-01-01T00:00:00.5+02:00").unwrap() > 1_000_000_000);
        assert_eq!(parse("{\"key\":\"k\",\"value\":\"\"}").unwrap().expiry, Expiry::Never);
    }

    proptest! {
        #[test]
        fn checking_a_line_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CheckedItem::parse(&bytes, ItemPosition::NONE, 100);
        }
    }
}
