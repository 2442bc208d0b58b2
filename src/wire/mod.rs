//! The names and shapes of the API's JSON and header fields (contract.md, sections 1 to 3), shared
//! by the server and by clients.

mod endpoint;
mod token;

pub use endpoint::{DEFAULT_PORT, Endpoint};
pub use token::Token;

use serde::{Deserialize, Serialize};

/// Carries the token.
pub const FASTLY_KEY: &str = "Fastly-Key";
/// An item's generation, in answers.
pub const GENERATION: &str = "Generation";
/// An item's metadata, both ways.
pub const METADATA: &str = "Metadata";
/// The generation that a write demands.
pub const IF_GENERATION_MATCH: &str = "if-generation-match";
/// Seconds that an item lives; with underscores, as clients send it.
pub const TIME_TO_LIVE_SEC: &str = "time_to_live_sec";
/// The size of an item's whole value.
pub const STORED_CONTENT_LENGTH: &str = "Stored-Content-Length";

/// The API's description, by OpenAPI 3.1.
pub static OPENAPI: &[u8] = include_bytes!("../api/openapi.json");

/// Every refusal but a 412 on an item and a batch's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What clients show first.
    pub msg: String,
    /// The same, for clients that look here.
    pub title: String,
    /// What exactly is wrong.
    pub detail: String,
    /// The status again.
    pub status: u16,
}

/// The body of a create or a rename.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreName {
    /// The name.
    pub name: String,
}

/// A store; these fields in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Store {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `YYYY-MM-DD HH:MM:SS`, UTC.
    pub created_at: String,
    /// The same form.
    pub updated_at: String,
}

/// A page of stores.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreList {
    /// The stores.
    pub data: Vec<Store>,
    /// What else there is to say; flat scalars only.
    pub meta: StoreListMeta,
}

/// What a page of stores says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreListMeta {
    /// How many stores a page holds.
    pub limit: usize,
    /// How many there are.
    pub total: u64,
    /// Where the next page begins; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What a page of keys says of itself; flat scalars only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyListMeta {
    /// How many keys a page holds.
    pub limit: usize,
    /// Where the next page begins; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// The prefix that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `eventual` when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistency: Option<String>,
}

/// The answer to a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchReport {
    /// Empty when all went well.
    #[serde(rename = "type")]
    pub kind: String,
    /// In words.
    pub title: String,
    /// One for each line that failed.
    pub errors: Vec<BatchError>,
}

/// Why a line of a batch failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchError {
    /// The line's key, where it could be read.
    pub key: String,
    /// The line's number, from 0.
    pub index: u64,
    /// The status the line would have had by itself, as text.
    pub code: String,
    /// What is wrong.
    pub reason: String,
}

/// A page of keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// The keys, in the order of their bytes.
    pub data: Vec<String>,
    /// What else there is to say; flat scalars only.
    pub meta: KeyListMeta,
}

/// What a server says of itself at `GET /_/v1`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// `steadfast`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A page of a store's items with their details.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetailsPage {
    /// The items, in the order of their keys.
    pub data: Vec<Details>,
    /// As in a list of keys.
    pub meta: KeyListMeta,
}

/// All there is to know of an item but its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Its key.
    pub key: String,
    /// Bytes of its value.
    pub size: u64,
    /// Its metadata, where that is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// Its metadata in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_base64: Option<String>,
    /// Its generation.
    pub generation: u64,
    /// When it was written last: RFC 3339, UTC, microseconds.
    pub modified: String,
    /// When it expires, in the same form.
    pub expires: Option<String>,
}

/// The answer to a deletion of many items.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deleted {
    /// How many are deleted.
    pub deleted: u64,
    /// Whether there are more that match.
    pub more: bool,
}

/// The answer to a dry run of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Matched {
    /// How many items match.
    pub matched: u64,
}

/// The answer to an import.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportReport {
    /// How many items were written.
    pub written: u64,
    /// How many were there already, or had expired.
    pub skipped: u64,
    /// How many could not be written.
    pub failed: u64,
    /// One for each line that failed.
    pub errors: Vec<BatchError>,
}

/// A limited token; without its secret, but in the answer that made it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitedToken {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `global` or `global:read`.
    pub scope: String,
    /// The ids of the only stores it reaches; none: all of them.
    pub stores: Vec<String>,
    /// What each key it touches begins with.
    pub prefix: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; `None` for never.
    pub expires_at: Option<String>,
    /// The secret, told once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
}

/// What a new token shall be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// What its owner calls it.
    pub name: String,
    /// `global` or `global:read`.
    pub scope: String,
    /// The ids of the stores it may use; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<Vec<String>>,
    /// What the keys it may use begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// When it expires: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// All limited tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenList {
    /// The tokens, the oldest first.
    pub data: Vec<LimitedToken>,
}

/// A time in microseconds by RFC 3339, UTC, with six digits of a second's fraction.
pub fn rfc3339(micros: u64) -> String {
    let date = timestamp(micros).replace(' ', "T");
    format!("{date}.{:06}Z", micros % 1_000_000)
}

/// The microseconds of a time by RFC 3339, with any offset; `None` for what is none, or is before
/// 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let format = &time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(text, format).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1000).ok()
}

/// A time in microseconds as the API writes it: `YYYY-MM-DD HH:MM:SS`, UTC.
pub fn timestamp(micros: u64) -> String {
    let secs = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let at =
        time::OffsetDateTime::from_unix_timestamp(secs).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_the_recorded_form() {
        assert_eq!(super::timestamp(1_750_707_675_999_999), "2025-06-23 19:41:15");
        assert_eq!(super::timestamp(0), "1970-01-01 00:00:00");
    }

    #[test]
    fn times_by_rfc_3339_come_back() {
        let at = 1_750_707_675_009_999;
        assert_eq!(super::rfc3339(at), "2025-06-23T19:41:15.009999Z");
        for micros in [0, 1, at, 253_402_300_799_999_999] {
            assert_eq!(super::parse_rfc3339(&super::rfc3339(micros)), Some(micros));
        }
        let offset = "2025-06-23T21:41:15.009999+02:00";
        assert_eq!(super::parse_rfc3339(offset), Some(at));
        assert_eq!(super::parse_rfc3339("2025-06-23T19:41:15Z"), Some(at / 1_000_000 * 1_000_000));
        for wrong in ["", "2025-06-23", "2025-06-23T19:41:15", "1750707675", "1969-12-31T23:59:58Z"]
        {
            assert_eq!(super::parse_rfc3339(wrong), None, "{wrong}");
        }
    }
}
