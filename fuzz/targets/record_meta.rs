//! The meta of item, store and token records: decoding never panics, and accepted bytes round-trip.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use steadfast::kv::codec::{ItemMeta, StoreMeta, TokenMeta};

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(meta) = ItemMeta::decode(&bytes) {
        assert_eq!(meta.encode(), bytes);
    }
    if let Ok(meta) = TokenMeta::decode(&bytes) {
        assert_eq!(meta.encode(), bytes);
    }
    if let Ok(meta) = StoreMeta::decode(&bytes) {
        assert_eq!(meta.encode(), bytes);
        assert_eq!(StoreMeta::reopened(&bytes).expect("valid meta").is_some(), meta.closing);
    }
});
