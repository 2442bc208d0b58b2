//! The wire format shared by the server and its clients: headers, JSON bodies, times and item lines
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

/// Request header with the token.
pub const FASTLY_KEY: &str = "Fastly-Key";
/// Response header with the generation of an item.
pub const GENERATION: &str = "Generation";
/// Request and response header with the metadata of an item.
pub const METADATA: &str = "Metadata";
/// Request header with the generation that the item must have.
pub const IF_GENERATION_MATCH: &str = "if-generation-match";
/// The UTF-8 byte order mark, which some editors write at the start of a file.
pub const BOM: &[u8] = b"\xef\xbb\xbf";
/// Request header with the time to live of an item, in seconds. Clients send it with underscores.
pub const TIME_TO_LIVE_SEC: &str = "time_to_live_sec";
/// Response header with the size of the whole value, even if only a range is returned.
pub const STORED_CONTENT_LENGTH: &str = "Stored-Content-Length";

/// Response header with the effects of `serve --simulate` on a response, one per line: `latency`,
/// `stale`, `rate-limit`, `error` or `error-after-commit`.
pub const SIMULATED: &str = "Steadfast-Simulated";

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

    /// Parses the keyword. Returns `None` if it is unknown.
    pub fn parse(text: &str) -> Option<IfExists> {
        let all = [IfExists::Skip, IfExists::Overwrite, IfExists::Fail];
        all.into_iter().find(|if_exists| if_exists.as_str() == text)
    }
}

/// The body of error responses, except batch reports and empty 412 responses to item requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Summary of the error, in the field that most clients show.
    pub msg: String,
    /// Same as `msg`, for clients that show this field.
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
    /// Time of the last change: `YYYY-MM-DD HH:MM:SS`, UTC.
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

/// The position of a page of stores. Scalars only: clients decode it as a map of strings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreListMeta {
    /// Page size.
    pub limit: usize,
    /// Number of stores.
    pub total: u64,
    /// Cursor of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The position of a page of keys. Scalars only: clients decode it as a map of strings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyListMeta {
    /// Page size.
    pub limit: usize,
    /// Cursor of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Requested prefix; absent if none was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `eventual` if eventual consistency was requested; otherwise absent.
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
    /// Key of the line; empty if it could not be parsed.
    pub key: String,
    /// Index of the line, counted from 0.
    pub index: u64,
    /// Status code, as text, that a separate request for this item would return.
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
    /// The answer to the challenge. Absent if the request has no challenge or the server has no
    /// data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// The simulation of faults; absent if the server simulates none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulation: Option<SimulationInfo>,
}

/// A simulation of faults, as `serve --simulate` configures it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulationInfo {
    /// The settings, such as `stale=5s, errors=1%`.
    pub spec: String,
    /// The seed, with which `serve --simulate-seed` repeats the simulation.
    pub seed: u64,
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
    /// Metadata, if it is valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// Metadata in base64, if it is not valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_base64: Option<String>,
    /// Generation.
    pub generation: u64,
    /// Time of the last write, RFC 3339 in UTC with microseconds.
    pub modified: String,
    /// Time of expiry, RFC 3339 in UTC with microseconds; `None` if the item never expires.
    pub expires: Option<String>,
}

/// The response to a deletion by prefix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeletedCount {
    /// Number of deleted items.
    pub deleted: u64,
    /// Whether items that match the request remain.
    pub more: bool,
}

/// The response to a dry run of a deletion by prefix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MatchedCount {
    /// Number of matching items after the requested cursor, up to a million.
    pub matched: u64,
    /// Cursor for counting the remaining items; absent if none remain.
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
    /// Ids of the stores that the token may access; empty if it may access all stores.
    pub stores: Vec<String>,
    /// Prefix of the keys that the token may access.
    pub prefix: String,
    /// Time of creation, RFC 3339.
    pub created_at: String,
    /// Time of expiry, RFC 3339; `None` if the token never expires.
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
    /// Ids of the stores that the token may access; absent if it may access all stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<Vec<String>>,
    /// Prefix of the keys that the token may access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Time of expiry, RFC 3339; absent if the token never expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A list of tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenList {
    /// Limited tokens, oldest first.
    pub data: Vec<LimitedToken>,
}

/// Returns the longest prefix of `text` that has at most `bytes_max` bytes.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let cut = |back| text.get(..bytes_max.checked_sub(back)?);
    // A character has at most four bytes.
    if text.len() <= bytes_max { text } else { (0..4).find_map(cut).unwrap_or_default() }
}

/// Formats bytes as lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
