//! Fuzzes raw request paths with all methods: every response is well-formed, and an item is changed
//! only by requests that name it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast_fuzz::{SENTINEL_KEY, with_server};

const METHODS: [&[u8]; 5] = [b"GET", b"HEAD", b"PUT", b"DELETE", b"POST"];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let method = METHODS[usize::from(*first) % METHODS.len()];
    // The target `connection` covers the delimiters of the request line.
    let rest: Vec<u8> = rest.iter().copied().filter(|byte| *byte > b' ' && *byte != 0x7f).collect();
    with_server(|server| {
        let below = format!("/resources/stores/kv/{}", server.store);
        let target = match *first / 64 {
            0 => [b"/", &rest[..]].concat(),
            1 => [below.as_bytes(), &rest[..]].concat(),
            2 => [below.as_bytes(), b"/", &rest[..]].concat(),
            _ => [below.as_bytes(), b"/keys/", &rest[..]].concat(),
        };
        let response = server.send_request(method, &target, b"", b"");
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let item = [below.as_bytes(), b"/keys/"].concat();
        let object = [b"/resources/stores/object/", server.store.as_bytes(), b"/keys/"].concat();
        let key = path.strip_prefix(&item[..]).or_else(|| path.strip_prefix(&object[..]));
        // Only a request that names the sentinel item may change it.
        let names_sentinel = key.is_some_and(|key| decoded(key) == SENTINEL_KEY.as_bytes());
        if !names_sentinel || response.status >= 400 {
            server.assert_intact();
        }
        if method == b"PUT" && response.status == 200 && key.is_some() {
            let key = decoded(key.unwrap_or_default());
            assert!(!key.is_empty() && key.len() <= 1024 && std::str::from_utf8(&key).is_ok());
            let text = String::from_utf8_lossy(&key).into_owned();
            assert!(text != "." && text != ".." && !text.contains("../"), "{text:?}");
            assert!(!text.contains(['\r', '\n', '#', ';', '?', '^', '|']), "{text:?}");
        }
    });
});

/// Decodes percent escapes, independently of the server.
fn decoded(raw: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let escaped = (raw[at] == b'%').then(|| raw.get(at + 1..at + 3)).flatten();
        let byte = escaped.and_then(|two| std::str::from_utf8(two).ok());
        match byte.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                at += 3;
            }
            None => {
                bytes.push(raw[at]);
                at += 1;
            }
        }
    }
    bytes
}
