//! Checks items against the limits of a KV store before sending them.

use super::{NextItem, RejectedItem};
use crate::kv::clock::{Clock, SECOND, SystemClock};
use crate::kv::import::ImportedGeneration;
use crate::kv::types::{Key, Metadata, Ttl};
use crate::wire::item_line::{ItemLine, LineFields, ParsedLine, trim_metadata};

/// The maximum size of an exported value in bytes.
pub const VALUE_BYTES_MAX: u64 = 1 << 30;

/// When an item expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// At this time, in microseconds since 1970.
    At(u64),
    /// This many seconds after it is written.
    After(u64),
}

impl Expiry {
    /// Returns the remaining time to live in seconds: `None` for never, 0 if the item has expired.
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
    /// Metadata; empty for none.
    pub metadata: Vec<u8>,
    /// When it expires.
    pub expiry: Expiry,
    /// The generation in its source, which only Steadfast imports.
    pub generation: Option<u64>,
}

impl CheckedItem {
    /// Parses, decodes and checks a line.
    ///
    /// # Errors
    /// The rejected item with this number.
    pub fn parse(
        line: &[u8],
        number: u64,
        value_bytes_max: u64,
    ) -> Result<CheckedItem, RejectedItem> {
        let line = ParsedLine::parse(line, LineFields::Import).map_err(|e| {
            let reason = e.error.to_string();
            RejectedItem { number, key: e.key, reason }
        })?;
        CheckedItem::check(&line, value_bytes_max).map_err(|reason| {
            let key = line.key.clone().into_owned();
            RejectedItem { number, key, reason }
        })
    }

    /// Checks the generation, at most a day ahead of this machine's clock, as a Steadfast server
    /// checks it by its own clock.
    ///
    /// # Errors
    /// The rejected item with this number.
    pub fn check_generation(self, number: u64) -> Result<CheckedItem, RejectedItem> {
        let now = SystemClock.now();
        match self.generation.map(|n| ImportedGeneration::new(n, now)).transpose() {
            Ok(_) => Ok(self),
            Err(e) => Err(RejectedItem { number, key: self.key, reason: text(e) }),
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

/// Returns the reason for rejecting a value above the limit.
pub fn too_large(value_bytes_max: u64) -> String {
    format!("value must be at most {value_bytes_max} bytes (see --max-value)")
}

fn check_key(key: &str) -> Result<(), String> {
    Key::parse(key.as_bytes()).map(|_| ()).map_err(text)
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// Checks everything except the size of the value, then writes the line or rejects the item.
pub(super) fn write_checked(number: u64, item: &ItemLine<'_>, out: &mut Vec<u8>) -> NextItem {
    let check = || {
        check_key(item.key)?;
        Metadata::parse(trim_metadata(item.metadata)).map_err(text)?;
        item.time_to_live_sec.map(Ttl::new).transpose().map_err(text)
    };
    match check() {
        Ok(_) => {
            item.write(out);
            NextItem::Line(number)
        }
        Err(reason) => {
            NextItem::Rejected(RejectedItem { number, key: item.key.to_owned(), reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<CheckedItem, RejectedItem> {
        CheckedItem::parse(text.as_bytes(), 7, 3)
    }

    #[test]
    fn invalid_lines_are_rejected_with_the_reason() {
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
            assert_eq!(rejected.number, 7);
        }
    }

    #[test]
    fn expired_items_have_no_time_to_live_remaining() {
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
        fn no_line_makes_checking_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CheckedItem::parse(&bytes, 1, 100);
        }
    }
}
