//! Any bytes to a connection: only well-formed answers come back, and the server goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast_fuzz::{TOKEN, answers, with};

fuzz_target!(|data: &[u8]| {
    with(|server| {
        // `TOKEN` and `STORE` in the input stand for what only a running server knows.
        let text = replace(data, b"TOKEN", TOKEN.as_bytes());
        let bytes = replace(&text, b"STORE", server.store.as_bytes());
        let sent = server.send(&bytes);
        // Which answers are to HEAD cannot be told from outside without parsing as the server
        // does; inputs without it are held to the letter.
        let heads = bytes.windows(4).any(|four| four.eq_ignore_ascii_case(b"HEAD"));
        if !heads {
            answers(&sent, &[]);
        } else if !sent.is_empty() {
            assert!(sent.starts_with(b"HTTP/1.1 "), "{sent:?}");
        }
        let ready = server.request("GET", "/readyz", "", b"");
        assert_eq!(ready.status, 200);
    });
});

fn replace(data: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(data.len()), data);
    while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}
