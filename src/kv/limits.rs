//! Limits of the data model (docs/contract.md section 4). The limits of tokens are specific to
//! Steadfast.

/// Maximum length of a store name, in characters; the minimum is 1.
pub const STORE_NAME_CHARS_MAX: usize = 255;
/// Maximum size of an item key, in bytes of UTF-8; the minimum is 1.
pub const KEY_BYTES_MAX: usize = 1024;
/// Maximum size of an item's metadata, in bytes.
pub const METADATA_BYTES_MAX: usize = 2000;
/// Default maximum size of a value, in bytes (25 MiB).
pub const VALUE_BYTES_MAX: u64 = 25 << 20;
/// Maximum number of entries per page of a list; also the default.
pub const LIST_LIMIT_MAX: usize = 1000;
/// Maximum number of limited tokens. Servers that share a database may exceed it slightly when
/// they create tokens at the same time.
pub const TOKENS_MAX: usize = 1000;
/// Maximum length of a token name, in characters; the minimum is 1.
pub const TOKEN_NAME_CHARS_MAX: usize = 255;
/// Maximum number of stores that a token can be limited to.
pub const TOKEN_STORES_MAX: usize = 100;
/// Maximum size of the key prefix that a token can be limited to, in bytes of UTF-8.
pub const TOKEN_PREFIX_BYTES_MAX: usize = 1024;
/// Time for which the record of an expired item is kept, in seconds. During this time an
/// unconditional delete of the item still succeeds (docs/contract.md section 11.1).
pub const EXPIRED_RETENTION_SECS: u64 = 60;
