//! Fuzzes the meta of item, store and token records: decoding never panics, and accepted bytes
//! round-trip, except that times after the year 9999 are replaced by the end of that year.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use steadfast::kv::codec::{ItemMeta, StoreMeta, TokenMeta};
use steadfast::wire::MICROS_MAX;

/// Asserts that `encoded` equals `original`, unless one of the decoded `times` was replaced.
fn assert_round_trip(encoded: &Bytes, original: &Bytes, times: &[u64]) {
    match times.contains(&MICROS_MAX) {
        true => assert_eq!(encoded.len(), original.len()),
        false => assert_eq!(encoded, original),
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(meta) = ItemMeta::decode(&bytes) {
        assert_round_trip(&meta.encode(), &bytes, &[meta.modified_at]);
    }
    if let Ok(meta) = TokenMeta::decode(&bytes) {
        assert_round_trip(&meta.encode(), &bytes, &[meta.created_at]);
    }
    if let Ok(meta) = StoreMeta::decode(&bytes) {
        let times = [meta.info.created_at, meta.info.updated_at];
        assert_round_trip(&meta.encode(), &bytes, &times);
        assert_eq!(StoreMeta::reopened(&bytes).expect("valid meta").is_some(), meta.closing);
    }
});
