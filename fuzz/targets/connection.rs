//! Fuzzes the bytes on a connection: all responses are well-formed, and the server stays available.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast_fuzz::{TOKEN, parse_responses, with_server};

fuzz_target!(|data: &[u8]| {
    with_server(|server| {
        // `TOKEN` and `STORE` in the input are placeholders.
        let text = replace(data, b"TOKEN", TOKEN.as_bytes());
        let bytes = replace(&text, b"STORE", server.store.as_bytes());
        let sent = server.send(&bytes);
        // Responses to HEAD have no body. Telling which responses those are would require a parser
        // like the server's, so only inputs without HEAD are checked strictly.
        let heads = bytes.windows(4).any(|four| four.eq_ignore_ascii_case(b"HEAD"));
        if !heads {
            parse_responses(&sent, &[]);
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
