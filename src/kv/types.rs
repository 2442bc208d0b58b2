//! Validated types of the data model: store ids and names, item keys, metadata and times to live.
//! Each value is validated once, when it is parsed (docs/contract.md sections 2, 4 and 11).

use super::limits::{KEY_BYTES_MAX, METADATA_BYTES_MAX, STORE_NAME_CHARS_MAX};
use super::{Error, Result};
use bytes::Bytes;
use std::fmt;

/// A store id: 22 characters from `[0-9a-z]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId([u8; StoreId::LEN]);

impl StoreId {
    /// Length of an id, in characters.
    pub const LEN: usize = 22;

    /// Parses an id.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`] for a malformed id, as for an unknown one (docs/contract.md
    /// section 2.3).
    pub fn parse(text: &[u8]) -> Result<StoreId> {
        parse_id(text).map(StoreId).ok_or(Error::NoStore)
    }

    /// Generates an id from 128 random bits; fails if the system's random number generator fails.
    pub fn random() -> Result<StoreId> {
        random_id().map(StoreId)
    }

    /// Returns the characters of the id.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// Parses the id of a store or a token.
pub(super) fn parse_id(text: &[u8]) -> Option<[u8; StoreId::LEN]> {
    let id: [u8; StoreId::LEN] = text.try_into().ok()?;
    let valid = id.iter().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
    valid.then_some(id)
}

/// Generates the id of a store or a token.
pub(super) fn random_id() -> Result<[u8; StoreId::LEN]> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| Error::Internal(e.to_string()))?;
    // 36^22 is slightly less than 2^114, so the highest bits are unused.
    let mut rest = u128::from_le_bytes(random);
    let mut id = [0; StoreId::LEN];
    for c in &mut id {
        let digit = u32::try_from(rest % 36).unwrap_or(0);
        *c = char::from_digit(digit, 36).map_or(b'0', |c| c as u8);
        rest /= 36;
    }
    Ok(id)
}

/// A store name: 1 to 255 characters, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreName(String);

impl StoreName {
    /// Validates a name.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] with the rule that the name violates.
    pub fn parse(name: &str) -> Result<StoreName> {
        let invalid = |reason: String| Err(Error::invalid("name", reason));
        if name.is_empty() {
            return invalid("must not be empty".into());
        }
        let chars = name.chars().count();
        if chars > STORE_NAME_CHARS_MAX {
            let max = STORE_NAME_CHARS_MAX;
            return invalid(format!("must have at most {max} characters, but has {chars}"));
        }
        if name.chars().any(char::is_control) {
            return invalid("must not contain control characters".into());
        }
        Ok(StoreName(name.into()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The region requested for a store. It is stored, but has no effect (docs/contract.md section
/// 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Asia.
    Asia,
    /// Australia.
    Aus,
    /// Europe.
    Eu,
    /// United States.
    Us,
}

impl Location {
    /// Parses `US`, `EU`, `ASIA` or `AUS`.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] for any other text.
    pub fn parse(text: &str) -> Result<Location> {
        match text {
            "ASIA" => Ok(Location::Asia),
            "AUS" => Ok(Location::Aus),
            "EU" => Ok(Location::Eu),
            "US" => Ok(Location::Us),
            _ => Err(Error::invalid("location", "must be one of US, EU, ASIA, AUS")),
        }
    }
}

/// An item key: 1 to 1024 bytes of UTF-8 (docs/contract.md section 4 lists the rules).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// Validates a key.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] with the rule that the key violates.
    pub fn parse(bytes: &[u8]) -> Result<Key> {
        let invalid = |reason: &str| Err(Error::invalid("key", reason));
        if bytes.is_empty() {
            return invalid("must not be empty");
        }
        if bytes.len() > KEY_BYTES_MAX {
            let (max, len) = (KEY_BYTES_MAX, bytes.len());
            return invalid(&format!("must be at most {max} bytes of UTF-8, but is {len}"));
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return invalid("must be UTF-8") };
        let forbidden = |c: char| matches!(c, '\r' | '\n' | '#' | ';' | '?' | '^' | '|');
        if let Some(c) = text.chars().find(|c| forbidden(*c)) {
            return invalid(&format!("must not contain {c:?}"));
        }
        if text == "." || text == ".." {
            return invalid("must not be . or ..");
        }
        if text.contains("./") || text.ends_with("/.") || text.ends_with("/..") {
            return invalid("must not contain ./ or ../ nor end in /. or /..");
        }
        if text.starts_with(".well-known/acme-challenge") {
            return invalid("must not begin with .well-known/acme-challenge");
        }
        let mut chars = text.chars();
        if let (Some('\0'..=' ' | '\u{fffe}' | '\u{ffff}'), None) = (chars.next(), chars.next()) {
            return invalid("of one character must not be U+0000 to U+0020, U+FFFE or U+FFFF");
        }
        Ok(Key(Bytes::copy_from_slice(bytes)))
    }

    /// Returns the bytes of the key, which are valid UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An item's user metadata: up to 2000 bytes that are valid in an HTTP header value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Bytes);

impl Metadata {
    /// No metadata, which is equivalent to empty metadata.
    pub const NONE: Metadata = Metadata(Bytes::new());

    /// Validates metadata, which need not be UTF-8.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the metadata is too long or contains a control character other
    /// than a tab.
    pub fn parse(bytes: &[u8]) -> Result<Metadata> {
        let invalid = |reason: &str| Err(Error::invalid("metadata", reason));
        if bytes.len() > METADATA_BYTES_MAX {
            let (max, len) = (METADATA_BYTES_MAX, bytes.len());
            return invalid(&format!("must be at most {max} bytes, but is {len}"));
        }
        if bytes.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return invalid("must not contain control characters other than a tab");
        }
        Ok(Metadata(Bytes::copy_from_slice(bytes)))
    }

    /// Wraps stored metadata without validating it.
    pub(super) fn from_stored(bytes: Bytes) -> Metadata {
        Metadata(bytes)
    }

    /// Returns the bytes of the metadata.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An item's time to live: 1 to 2^32 - 1 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(u32);

impl Ttl {
    /// Validates a time to live in seconds.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the number is out of range.
    pub fn new(secs: u64) -> Result<Ttl> {
        match u32::try_from(secs) {
            Ok(secs) if secs > 0 => Ok(Ttl(secs)),
            _ => Err(Ttl::invalid()),
        }
    }

    /// Returns the error for an invalid time to live.
    pub fn invalid() -> Error {
        let reason = format!("must be a whole number of seconds from 1 to {}", u32::MAX);
        Error::invalid("time_to_live_sec", reason)
    }

    /// Returns the time to live in seconds.
    pub fn secs(self) -> u64 {
        u64::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_against_the_documented_rules() {
        for good in ["a", "*", "[a]", "//", "..x", ".hidden", "a/b", "a..b", "é", "!", "a ", "%2F"]
        {
            assert!(Key::parse(good.as_bytes()).is_ok(), "{good:?}");
        }
        let segments = ["", ".", "..", "a/.", "a/..", "a./b", "../a", "./a"];
        let characters = ["a#b", "a;b", "a?b", "a^b", "a|b", "a\rb", "a\nb", " ", "\0", "\u{1f}"];
        let others = ["\u{fffe}", "\u{ffff}", ".well-known/acme-challenge/x"];
        for bad in segments.iter().chain(&characters).chain(&others) {
            assert!(Key::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Key::parse(&[b'k'; 1024]).is_ok() && Key::parse(&[b'k'; 1025]).is_err());
        assert!(Key::parse(&[0xff, 0xfe]).is_err(), "a key that is not UTF-8 was accepted");
    }

    #[test]
    fn names_are_limited_in_characters_and_metadata_in_bytes() {
        let name = format!("a{}", "ö".repeat(254));
        assert!(StoreName::parse(&name).is_ok());
        assert!(StoreName::parse(&format!("{name}ö")).is_err());
        for good in ["2024-site", "_x", "Ünï", " a", "-", ".", "東京", "'\""] {
            assert!(StoreName::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", "\ta", "a\tb", "a\u{7f}", "\u{85}a", "\0"] {
            assert!(StoreName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Metadata::parse(&[0xe9; 2000]).is_ok() && Metadata::parse(&[b'm'; 2001]).is_err());
        assert!(Metadata::parse(b"a\tb").is_ok() && Metadata::parse(b"a\nb").is_err());
    }

    #[test]
    fn random_store_ids_are_valid() {
        let ids: Vec<_> = (0..100).filter_map(|_| StoreId::random().ok()).collect();
        assert_eq!(ids.len(), 100);
        for id in &ids {
            assert_eq!(StoreId::parse(id.to_string().as_bytes()).ok(), Some(*id));
        }
        assert!(StoreId::parse(b"0c5m1x2v7q9r4t8k3h6j1A").is_err());
    }
}
