//! Fuzzes cursors: decoding and encoding round-trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast::kv::cursor;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = cursor::decode(text)
    {
        assert!((1..=1024).contains(&key.len()));
        let again = cursor::encode(&key);
        assert_eq!(cursor::decode(&again).expect("an encoded cursor"), key);
    }
    if (1..=1024).contains(&data.len()) {
        assert_eq!(cursor::decode(&cursor::encode(data)).expect("an encoded cursor"), data);
    }
});
