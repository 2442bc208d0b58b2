//! Every bound of the data model, once (contract.md, section 4).

/// Store names have 1 to so many characters.
pub const STORE_NAME_CHARS_MAX: usize = 255;
/// Keys have 1 to so many bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;
/// Metadata has up to so many bytes.
pub const METADATA_BYTES_MAX: usize = 2000;
/// The default bound of a value: 25 MiB, inclusive.
pub const VALUE_BYTES_MAX: u64 = 25 << 20;
/// A page of a list holds up to so many entries; also the default.
pub const LIST_LIMIT_MAX: usize = 1000;
/// There are at most so many limited tokens. Servers that make the last ones at the same moment
/// over one database may pass it by a few.
pub const TOKENS_MAX: usize = 1000;
/// A token's name has 1 to so many characters.
pub const TOKEN_NAME_CHARS_MAX: usize = 255;
/// A token is limited to at most so many stores.
pub const TOKEN_STORES_MAX: usize = 100;
/// The prefix that a token is limited to has up to so many bytes of UTF-8.
pub const TOKEN_PREFIX_BYTES_MAX: usize = 1024;
/// Seconds for which an expired item still answers a plain delete with success before its space
/// is taken back (contract.md, 11.1).
pub const EXPIRED_RETENTION_SECS: u64 = 60;
