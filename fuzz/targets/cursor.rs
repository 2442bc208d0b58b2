//! Cursors: what is decoded is encoded the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast::kv::cursor;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = cursor::decode(text)
    {
        assert!((1..=1024).contains(&key.len()));
        let again = cursor::encode(&key);
        assert_eq!(cursor::decode(&again).expect("our own cursor"), key);
    }
    if (1..=1024).contains(&data.len()) {
        assert_eq!(cursor::decode(&cursor::encode(data)).expect("our own cursor"), data);
    }
});
