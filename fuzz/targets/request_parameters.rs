//! Fuzzes query parameters and header fields of put, delete, get and list: each request is
//! accepted, or rejected with a reason, and a rejected request changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast_fuzz::{SENTINEL_KEY, with_server};

const NAMES: [&str; 5] = ["metadata", "time_to_live_sec", "if-generation-match", "range", "x"];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let mut parts = rest.split(|byte| *byte == 0);
    let query: Vec<u8> = parts.next().unwrap_or_default().to_vec();
    let query: Vec<u8> = query.into_iter().filter(|byte| *byte > b' ' && *byte != 0x7f).collect();
    let mut fields = Vec::new();
    for (name, value) in NAMES.iter().zip(parts) {
        let value: Vec<u8> = value.iter().copied().filter(|b| !matches!(b, 13 | 10)).collect();
        fields.extend_from_slice(&[name.as_bytes(), b": ", &value, b"\r\n"].concat());
    }
    with_server(|server| {
        let list = format!("/resources/stores/kv/{}/keys", server.store);
        let (method, path) = match first % 4 {
            0 => ("PUT", server.item(SENTINEL_KEY)),
            1 => ("DELETE", server.item(SENTINEL_KEY)),
            2 => ("GET", server.item(SENTINEL_KEY)),
            _ => ("GET", list),
        };
        let target = [path.as_bytes(), b"?", &query].concat();
        let response = server.send_request(method.as_bytes(), &target, &fields, b"new");
        if response.status >= 400 {
            server.assert_intact();
        }
        let known = [200, 204, 206, 400, 404, 412, 413, 414, 416, 431];
        assert!(known.contains(&response.status), "{response:?}");
        assert!(response.status != 400 || !response.body.is_empty(), "the 400 has no reason");
    });
});
