//! The layout of the engine's keys:
//!
//! | key | meta | body |
//! |---|---|---|
//! | `i` store-id item-key | [`ItemMeta`](super::codec::ItemMeta) | the value |
//! | `o` UPPER-CASE-NAME `00` name | [`StoreMeta`](super::codec::StoreMeta) | |
//! | `s` store-id | [`StoreMeta`](super::codec::StoreMeta) | |
//! | `t` SHA-256 of the secret | [`TokenMeta`](super::codec::TokenMeta) | |
//!
//! Each store has two records, `s` by id and `o` in list order. They have the same meta, except
//! that only the record by id is marked while the store is being deleted. Records of items and
//! tokens may have an expiry time. The keys are unambiguous, because store ids have a fixed length
//! and names contain no control characters.

use super::types::{Key, StoreId};
use bytes::Bytes;

/// First byte of the keys of stores by id. There is one such record per store.
pub const STORES: u8 = b's';
/// First byte of the keys of items.
pub const ITEMS: u8 = b'i';
/// First byte of the keys of stores in list order.
pub const STORE_ORDER: u8 = b'o';
/// First byte of the keys of limited tokens.
pub const TOKENS: u8 = b't';
/// Length of the hash of a token's secret, in bytes.
pub const TOKEN_HASH_BYTES: usize = 32;

/// Returns the key of a store's record by id.
pub fn store(id: &StoreId) -> Bytes {
    [&[STORES][..], id.as_bytes()].concat().into()
}

/// Returns the key of a store's record in list order. Stores are ordered by name with ASCII letters
/// in upper case, then by name (docs/contract.md sections 2.2 and 11.2). Any text is accepted,
/// because a cursor may contain any text.
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

/// Returns the common prefix of the engine keys of a store's items.
pub fn items(store: &StoreId) -> Bytes {
    [&[ITEMS][..], store.as_bytes()].concat().into()
}

/// Returns the common prefix of the engine keys of those items in a store whose keys begin with
/// `prefix`.
pub fn prefixed_items(store: &StoreId, prefix: &str) -> Bytes {
    [&[ITEMS][..], store.as_bytes(), prefix.as_bytes()].concat().into()
}

/// Returns the first key after all keys with this prefix. At least one byte of the prefix must
/// differ from `FF`.
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
    fn stores_sort_in_the_order_of_the_hosted_api() {
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
