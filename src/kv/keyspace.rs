//! Where things live in an engine's keys:
//!
//! | key | record |
//! |---|---|
//! | `i` store-id item-key | an item: its head, its value as body, due at its expiry |
//! | `o` folded-name `00` name | a store's head, in the order of lists |
//! | `s` store-id | the same head, by id |
//! | `t` SHA-256 of a secret | a limited token, due at its expiry |
//!
//! The heads are [`ItemMeta`](super::codec::ItemHead), [`StoreMeta`](super::codec::StoreHead) and
//! [`TokenMeta`](super::codec::TokenHead).
//! Names hold no control characters, so the `00` ends the folded name; ids have a fixed length.

use super::types::{Key, StoreId};
use bytes::{BufMut, Bytes, BytesMut};

/// The first byte of the keys of stores by id, which are as many as there are stores.
pub const STORES: u8 = b's';
/// The first byte of the keys of items.
pub const ITEMS: u8 = b'i';
/// The first byte of the keys of stores in the order of lists.
pub const ORDER: u8 = b'o';
/// The first byte of the keys of limited tokens.
pub const TOKENS: u8 = b't';
/// Bytes of the hash that a token is kept under.
pub const TOKEN_HASH_BYTES: usize = 32;

/// The key of a store.
pub fn store(id: &StoreId) -> Bytes {
    prefixed(STORES, &[id.as_bytes()])
}

/// The key of a store in the order of lists: by name with ASCII letters folded to upper case,
/// then by name (contract.md, 2.2 and 11.2). Takes any text, for cursors.
pub fn store_order(name: &str) -> Bytes {
    prefixed(ORDER, &[name.to_ascii_uppercase().as_bytes(), &[0], name.as_bytes()])
}

/// The range of all stores in the order of lists.
pub fn store_orders() -> (Bytes, Bytes) {
    (Bytes::from_static(&[ORDER]), Bytes::from_static(&[ORDER + 1]))
}

/// The key of a limited token, by the SHA-256 of its secret.
pub fn token(hash: &[u8; TOKEN_HASH_BYTES]) -> Bytes {
    prefixed(TOKENS, &[hash])
}

/// The range of all limited tokens.
pub fn tokens() -> (Bytes, Bytes) {
    (Bytes::from_static(&[TOKENS]), Bytes::from_static(&[TOKENS + 1]))
}

/// The key of an item.
pub fn item(store: &StoreId, key: &Key) -> Bytes {
    prefixed(ITEMS, &[store.as_bytes(), key.as_bytes()])
}

/// What all keys of a store's items begin with.
pub fn items(store: &StoreId) -> Bytes {
    prefixed(ITEMS, &[store.as_bytes()])
}

/// What all keys of a store's items begin with whose own keys begin with `prefix`.
pub fn prefixed_items(store: &StoreId, prefix: &str) -> Bytes {
    prefixed(ITEMS, &[store.as_bytes(), prefix.as_bytes()])
}

/// The first key after all that begin with `prefix`, which must not be all `FF`.
pub fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Bytes::from(end)
}

/// The first key after `key`.
pub fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

fn prefixed(first: u8, parts: &[&[u8]]) -> Bytes {
    let len = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut key = BytesMut::with_capacity(len);
    key.put_u8(first);
    for part in parts {
        key.put_slice(part);
    }
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_come_in_the_recorded_order() {
        let mut names = ["test_store", "TestStoreA", "test-store", "a", "A", "B", "b"];
        names.sort_by_key(|name| store_order(name));
        assert_eq!(names, ["A", "a", "B", "b", "test-store", "TestStoreA", "test_store"]);
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(end_of(b"ab"), &b"ac"[..]);
        assert_eq!(end_of(b"a\xff\xff"), &b"b"[..]);
        assert!(after(b"a") > b"a"[..] && after(b"a") < b"a\x01"[..]);
    }
}
