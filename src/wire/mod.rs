//! The wire format shared by server and clients: headers, JSON bodies, times and item lines
//! (docs/contract.md sections 1 to 3).

mod endpoint;
pub mod item_line;
pub mod server_secret;
mod time;
mod token;

pub use endpoint::{DEFAULT_PORT, Endpoint};
pub use server_secret::ServerSecret;
pub use time::{MICROS_MAX, http_date_to_rfc3339, parse_rfc3339, rfc3339, timestamp};
pub use token::Token;

use serde::{Deserialize, Serialize};

/// The token, in requests.
pub const FASTLY_KEY: &str = "Fastly-Key";
/// The generation of an item, in responses.
pub const GENERATION: &str = "Generation";
/// The metadata of an item, in requests and responses.
pub const METADATA: &str = "Metadata";
/// The generation that a write requires, in requests.
pub const IF_GENERATION_MATCH: &str = "if-generation-match";
/// The UTF-8 byte order mark, which some editors write at the start of a file.
pub const BOM: &[u8] = b"\xef\xbb\xbf";
/// The time to live of an item in seconds, in requests. Clients send it with underscores.
pub const TIME_TO_LIVE_SEC: &str = "time_to_live_sec";
/// The size of the whole value, in responses, including those to range requests.
pub const STORED_CONTENT_LENGTH: &str = "Stored-Content-Length";

/// The OpenAPI 3.1 description of the API.
pub static OPENAPI: &[u8] = include_bytes!("../api/openapi.json");

/// How an import treats existing items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum IfExists {
    /// Leave the existing item unchanged
    Skip,
    /// Replace the existing item
    #[default]
    Overwrite,
    /// Count the new item as failed and continue
    Fail,
}

impl IfExists {
    /// Returns the keyword used in queries and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            IfExists::Skip => "skip",
            IfExists::Overwrite => "overwrite",
            IfExists::Fail => "fail",
        }
    }

    /// Parses the keyword.
    pub fn parse(text: &str) -> Option<IfExists> {
        let all = [IfExists::Skip, IfExists::Overwrite, IfExists::Fail];
        all.into_iter().find(|if_exists| if_exists.as_str() == text)
    }
}

/// The body of error responses, except for batch reports and the empty 412 of items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Summary, in the field most clients show.
    pub msg: String,
    /// The same summary, for clients that read this field.
    pub title: String,
    /// Details of the error.
    pub detail: String,
    /// Status of the response.
    pub status: u16,
}

/// The body of requests that create or rename a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreRequest {
    /// Name.
    pub name: String,
}

/// A store. Clients depend on the order of the fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Store {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Time of creation: `YYYY-MM-DD HH:MM:SS`, UTC.
    pub created_at: String,
    /// Time of the last change, in the same form.
    pub updated_at: String,
}

/// A page of stores.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreList {
    /// Stores.
    pub data: Vec<Store>,
    /// Position in the list.
    pub meta: StoreListMeta,
}

/// The position of a page of stores. Flat scalars only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreListMeta {
    /// Page size.
    pub limit: usize,
    /// Number of stores.
    pub total: u64,
    /// Cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The position of a page of keys. Flat scalars only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyListMeta {
    /// Page size.
    pub limit: usize,
    /// Cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Requested prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `eventual` if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistency: Option<String>,
}

/// The response to a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchReport {
    /// Class of the error; empty on success.
    #[serde(rename = "type")]
    pub kind: String,
    /// Summary.
    pub title: String,
    /// Failed lines.
    pub errors: Vec<BatchError>,
}

/// A failed line of a batch or import.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchError {
    /// Key of the line; empty if it could not be read.
    pub key: String,
    /// Number of the line, from 0.
    pub index: u64,
    /// Status of a separate request for this item, as text.
    pub code: String,
    /// Cause.
    pub reason: String,
}

/// A page of keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// Keys in byte order.
    pub data: Vec<String>,
    /// Position in the list.
    pub meta: KeyListMeta,
}

/// The response to `GET /_/v1`, which identifies a Steadfast server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    /// `steadfast`.
    pub name: String,
    /// Version.
    pub version: String,
    /// The answer to the challenge of the request, if there was one and the server has a data
    /// directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// A page of items with their details.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ItemDetailsList {
    /// Items in byte order of their keys.
    pub data: Vec<ItemDetails>,
    /// Position in the list.
    pub meta: KeyListMeta,
}

/// The properties of an item, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemDetails {
    /// Key.
    pub key: String,
    /// Value size in bytes.
    pub size: u64,
    /// Metadata that is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// Metadata that is not UTF-8, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_base64: Option<String>,
    /// Generation.
    pub generation: u64,
    /// Time of the last write: RFC 3339, UTC, microseconds.
    pub modified: String,
    /// Time of expiry in the same form; `None` if it never expires.
    pub expires: Option<String>,
}

/// The response to a deletion by prefix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeletedCount {
    /// Number of deleted items.
    pub deleted: u64,
    /// Whether more items match.
    pub more: bool,
}

/// The response to a dry run of a deletion by prefix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MatchedCount {
    /// Number of matching items after the cursor of the request, up to a million.
    pub matched: u64,
    /// Cursor to count the following items; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The response to an import.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportReport {
    /// Number of items written.
    pub written: u64,
    /// Number of items skipped because they existed or had expired.
    pub skipped: u64,
    /// Number of items that failed.
    pub failed: u64,
    /// Failed lines.
    pub errors: Vec<BatchError>,
}

/// A limited token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitedToken {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// `global` or `global:read`.
    pub scope: String,
    /// Ids of the stores it may access; empty for all.
    pub stores: Vec<String>,
    /// Prefix of the keys it may access.
    pub prefix: String,
    /// Time of creation, RFC 3339.
    pub created_at: String,
    /// Time of expiry, RFC 3339; `None` if it never expires.
    pub expires_at: Option<String>,
    /// Secret; present only in the response that creates the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
}

/// The body of a request that creates a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// Name.
    pub name: String,
    /// `global` or `global:read`.
    pub scope: String,
    /// Ids of the stores it may access; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<Vec<String>>,
    /// Prefix of the keys it may access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Time of expiry, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A list of tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenList {
    /// Limited tokens, oldest first.
    pub data: Vec<LimitedToken>,
}

/// Returns the longest prefix of `text` of at most `bytes_max` bytes.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let cut = |back| text.get(..bytes_max.checked_sub(back)?);
    // A character has at most four bytes.
    if text.len() <= bytes_max { text } else { (0..4).find_map(cut).unwrap_or_default() }
}

/// Formats bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
