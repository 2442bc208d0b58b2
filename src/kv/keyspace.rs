//! The layout of keys in the engine:
//!
//! | key | meta | body |
//! |---|---|---|
//! | `i` store-id item-key | [`ItemMeta`](super::codec::ItemMeta) | the value |
//! | `o` UPPER-CASE-NAME `00` name | [`StoreMeta`](super::codec::StoreMeta) | |
//! | `s` store-id | [`StoreMeta`](super::codec::StoreMeta) | |
//! | `t` SHA-256 of the secret | [`TokenMeta`](super::codec::TokenMeta) | |
//!
//! Each store has two records with the same meta, `s` by id and `o` in list order. Records of items
//! and tokens expire. Store ids have a fixed length, and names contain no control characters, so
//! no separator is ambiguous.

use super::types::{Key, StoreId};
use bytes::Bytes;

/// First byte of the keys of stores by id; one record per store.
pub const STORES: u8 = b's';
/// First byte of the keys of items.
pub const ITEMS: u8 = b'i';
/// First byte of the keys of stores in list order.
pub const STORE_ORDER: u8 = b'o';
/// First byte of the keys of limited tokens.
pub const TOKENS: u8 = b't';
/// Length of a token's hash, in bytes.
pub const TOKEN_HASH_BYTES: usize = 32;

/// Returns the key of a store by id.
pub fn store(id: &StoreId) -> Bytes {
    [&[STORES][..], id.as_bytes()].concat().into()
}

/// Returns the key of a store in list order: by name with ASCII letters in upper case, then by name
/// (docs/contract.md sections 2.2 and 11.2). Accepts any text, because cursors may contain any.
pub fn store_order(name: &str) -> Bytes {
    let upper = name.to_ascii_uppercase();
    [&[STORE_ORDER][..], upper.as_bytes(), &[0], name.as_bytes()].concat().into()
}

/// Returns the key range of all stores in list order.
pub fn store_orders() -> (Bytes, Bytes) {
    (Bytes::from_static(&[STORE_ORDER]), Bytes::from_static(&[STORE_ORDER + 1]))
}

/// Returns the key of a limited token, from the SHA-256 of its secret.
pub fn token(hash: &[u8; TOKEN_HASH_BYTES]) -> Bytes {
    [&[TOKENS][..], hash].concat().into()
}

/// Returns the key range of all limited tokens.
pub fn tokens() -> (Bytes, Bytes) {
    (Bytes::from_static(&[TOKENS]), Bytes::from_static(&[TOKENS + 1]))
}

/// Returns the key of an item.
pub fn item(store: &StoreId, key: &Key) -> Bytes {
    [&[ITEMS][..], store.as_bytes(), key.as_bytes()].concat().into()
}

/// Returns the common prefix of the keys of a store's items.
pub fn items(store: &StoreId) -> Bytes {
    [&[ITEMS][..], store.as_bytes()].concat().into()
}

/// Returns the common prefix of the keys of a store's items whose item keys begin with `prefix`.
pub fn prefixed_items(store: &StoreId, prefix: &str) -> Bytes {
    [&[ITEMS][..], store.as_bytes(), prefix.as_bytes()].concat().into()
}

/// Returns the first key after all keys with this prefix, which must not consist of `FF` bytes
/// only.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Bytes::from(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::successor;

    #[test]
    fn stores_sort_in_the_recorded_order() {
        let mut names = ["test_store", "TestStoreA", "test-store", "a", "A", "B", "b"];
        names.sort_by_key(|name| store_order(name));
        assert_eq!(names, ["A", "a", "B", "b", "test-store", "TestStoreA", "test_store"]);
    }

    #[test]
    fn prefix_end_is_after_all_keys_with_the_prefix() {
        assert_eq!(prefix_end(b"ab"), &b"ac"[..]);
        assert_eq!(prefix_end(b"a\xff\xff"), &b"b"[..]);
        let next = successor(b"a");
        assert!(next > b"a"[..] && next < b"a\x01"[..]);
    }
}
