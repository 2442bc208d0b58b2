//! Heads of items, stores and tokens: whatever the bytes, decoding answers, and what it takes it
//! can give back.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use steadfast::kv::codec::{ItemMeta, StoreMeta, TokenMeta};

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(head) = ItemMeta::decode(&bytes) {
        assert_eq!(head.encode(), bytes);
    }
    if let Ok(head) = TokenMeta::decode(&bytes) {
        assert_eq!(head.encode(), bytes);
    }
    if let Ok(head) = StoreMeta::decode(&bytes) {
        assert_eq!(head.encode(), bytes);
        assert_eq!(StoreMeta::reopened(&bytes).expect("it is sound").is_some(), head.closing);
    }
});
