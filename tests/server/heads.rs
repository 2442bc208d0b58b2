//! Request lines and header fields: what is no HTTP/1.1 is refused, and what is reaches the API
//! to the byte.

use crate::support::{Answer, Server, TOKEN};
use std::time::Duration;

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";

/// Sends bytes, with a request behind them that must not be answered.
fn refused(server: &Server, bytes: &[u8], status: u16) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
    let mut client = server.connect();
    client.send([bytes, HEALTH.as_bytes()].concat()).unwrap();
    let answer = client.answer(false).unwrap_or_else(|e| panic!("{shown:?}: {e}"));
    assert_eq!(answer.status, status, "{shown:?}");
    answer.refused(status);
    assert_eq!(answer.field("Connection"), "close", "{shown:?}");
    assert!(client.ends(), "more was answered after {shown:?}");
}

fn line(server: &Server, request: &str) -> Answer {
    let mut client = server.connect();
    let head = format!("{request}\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n\r\n");
    client.send(head).unwrap();
    client.answer(false).unwrap()
}

#[test]
fn malformed_fields_are_refused_and_nothing_behind_them_is_answered() {
    let server = Server::memory(&[]);
    for fields in [
        "metadata: a\r\n b\r\n",
        "metadata: a\r\n\tb\r\n",
        " metadata: a\r\n",
        "metadata : a\r\n",
        "metadata\t: a\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "metadata: a\rb\r\n",
        "metadata: a\nx: b\r\n",
        "metadata: a\0b\r\n",
        "metadata: a\x07b\r\n",
        "metadata: a\x7fb\r\n",
        "meta\0data: a\r\n",
        "meta data: a\r\n",
        "meta(data): a\r\n",
        "m\u{e9}tadata: a\r\n",
        ": a\r\n",
        "metadata\r\n",
        "\r\r\n",
        "\nx: y\r\n",
    ] {
        let head = format!("GET /healthz HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        refused(&server, head.as_bytes(), 400);
    }
}

#[test]
fn malformed_request_lines_are_refused() {
    let server = Server::memory(&[]);
    for request in [
        "GET /healthz",
        "GET  /healthz HTTP/1.1",
        "GET /healthz  HTTP/1.1",
        "GET /heal thz HTTP/1.1",
        " GET /healthz HTTP/1.1",
        " /healthz HTTP/1.1",
        "GET HTTP/1.1",
        "GET",
        "G\0T /healthz HTTP/1.1",
        "G(T /healthz HTTP/1.1",
        "GET /heal\0thz HTTP/1.1",
        "GET /heal\tthz HTTP/1.1",
        "GET /heal\x7fthz HTTP/1.1",
        "GET /healthz HTTP/1.1 x",
        "GET /healthz HTTP/1.1\rX: y",
        "GET /healthz http/1.1",
        "GET /healthz HTTP/11",
        "GET /healthz HTTPS/1.1",
    ] {
        let mut client = server.connect();
        client.send(format!("{request}\r\nHost: h\r\n\r\n{HEALTH}")).unwrap();
        let answer = client.answer(false).unwrap();
        assert!([400, 505].contains(&answer.status), "{request:?}: {}", answer.head);
        answer.refused(answer.status);
        assert!(client.ends(), "more was answered after {request:?}");
    }
}

#[test]
fn versions_other_than_http_1_are_refused() {
    let server = Server::memory(&[]);
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        refused(&server, format!("GET /healthz {version}\r\nHost: h\r\n\r\n").as_bytes(), 505);
    }
    refused(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
}

#[test]
fn lines_that_end_in_lf_alone_are_never_answered_as_requests() {
    let server = Server::memory(&["--header-timeout", "1"]);
    refused(&server, b"GET /healthz HTTP/1.1\nHost: h\n\n", 400);
    refused(&server, b"GET /healthz HTTP/1.1\nHost: h\n\r\n\r\n", 400);
    refused(&server, b"GET /healthz HTTP/1.1\r\nHost: h\n\r\n", 400);
    refused(&server, b"GET /healthz HTTP/1.1\r\nHost: h\n\n", 400);
    refused(&server, b"GET /healthz HTTP/1.1\nHost: h\r\n\r\n", 400);
    let mut client = server.connect();
    client.send("GET /healthz HTTP/1.1\nHost: h\n\n").unwrap();
    client.answer(false).unwrap().refused(408);
    assert!(client.ends());
}

#[test]
fn methods_are_told_apart_by_case() {
    let server = Server::memory(&[]);
    for method in ["get", "Get", "PATCH", "TRACE", "OPTIONS", "CONNECT", "M-SEARCH", "A"] {
        let answer = line(&server, &format!("{method} /verify HTTP/1.1"));
        answer.refused(405);
        assert_eq!(answer.field("Allow"), "GET, HEAD", "{method}");
    }
}

#[test]
fn targets_reach_the_router_as_they_were_sent() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys");
    server.ask(&format!("PUT {item}/a"), &[], b"a");
    let status = |target: &str| line(&server, &format!("GET {target} HTTP/1.1")).status;
    for absolute in ["http://h", "https://h:443", "http://other.example"] {
        assert_eq!(status(&format!("{absolute}{item}/a")), 200, "{absolute}");
    }
    for unknown in [
        "*",
        "h:80",
        "http://h",
        "http://h?x",
        "http:/healthz",
        "ftp://h/healthz",
        "healthz",
        "/healthz#x",
        "/healthz/",
        "//healthz",
        "/./healthz",
        "/x/../healthz",
        "/%68ealthz",
        "/HEALTHZ",
    ] {
        assert_eq!(status(unknown), 404, "{unknown}");
    }
    assert_eq!(status("/healthz?anything=%zz"), 200);
    // A `#` cuts nothing off: it belongs to the key, which may not hold it.
    line(&server, &format!("GET {item}/a#b HTTP/1.1")).refused(400);
}

#[test]
fn bytes_beyond_ascii_in_a_target_are_the_key_or_refused() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys");
    let raw = server.ask(&format!("PUT {item}/é✓"), &[], b"raw");
    if raw.status == 200 {
        let escaped = server.ask(&format!("GET {item}/%C3%A9%E2%9C%93"), &[], b"");
        assert_eq!(escaped.text(), "raw", "one key however it is written");
    } else {
        raw.refused(400);
    }
    for bytes in [&b"\xe9"[..], b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"] {
        let mut head = format!("PUT {item}/").into_bytes();
        head.extend_from_slice(bytes);
        let fields = format!("Host: h\r\nFastly-Key: {TOKEN}\r\nContent-Length: 0\r\n");
        head.extend_from_slice(format!(" HTTP/1.1\r\n{fields}\r\n").as_bytes());
        let mut client = server.connect();
        client.send(head).unwrap();
        client.answer(false).unwrap().refused(400);
    }
}

#[test]
fn a_target_may_have_16_kib_and_no_more() {
    let server = Server::memory(&[]);
    let pad = |len: usize| format!("/healthz?{}", "x".repeat(len - "/healthz?".len()));
    assert_eq!(line(&server, &format!("GET {} HTTP/1.1", pad(16 * 1024))).status, 200);
    for len in [16 * 1024 + 1, 16 * 1024 + 100, 40_000, 200_000] {
        let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", pad(len));
        refused(&server, head.as_bytes(), 414);
    }
    // Without an end, too.
    refused(&server, "GET /".repeat(20_000).as_bytes(), 414);
}

#[test]
fn a_key_whose_every_byte_is_escaped_fits() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/{}", "%C3%A9".repeat(512));
    assert_eq!(server.ask(&format!("PUT {item}"), &[], b"v").status, 200);
    assert_eq!(server.ask(&format!("GET {item}"), &[], b"").text(), "v");
    let keys = server.ask(&format!("GET /resources/stores/kv/{store}/keys"), &[], b"").json();
    assert_eq!(keys["data"][0], "é".repeat(512));
    server.ask(&format!("PUT {item}x"), &[], b"v").refused(400);
}

#[test]
fn fields_may_have_32_kib_and_be_a_hundred_and_no_more() {
    let server = Server::memory(&[]);
    let with = |fields: &str| format!("GET /healthz HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let many = |n: usize| (0..n).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let large = |n: usize| format!("x: {}\r\n", "y".repeat(n));
    for fields in [many(99), large(32_000), large(500).repeat(60)] {
        let mut client = server.connect();
        client.send(with(&fields)).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200);
    }
    for fields in [many(100), many(1000), large(32 * 1024), large(100_000), large(1000).repeat(99)]
    {
        refused(&server, with(&fields).as_bytes(), 431);
    }
    // Without an end, too: what one connection can hold is bounded.
    let endless = format!("GET /healthz HTTP/1.1\r\n{}", large(500).repeat(2000));
    refused(&server, endless.trim_end().as_bytes(), 431);
}

#[test]
fn field_names_may_have_underscores_and_any_case() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    for name in ["time_to_live_sec", "Time_To_Live_Sec", "TIME_TO_LIVE_SEC"] {
        assert_eq!(server.ask(&format!("PUT {item}"), &[(name, "1")], b"v").status, 200);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(server.ask(&format!("GET {item}"), &[], b"").status, 404, "{name}");
    }
    // Dashes make another name.
    server.ask(&format!("PUT {item}"), &[("time-to-live-sec", "1"), ("METADATA", "m")], b"v");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.ask(&format!("GET {item}"), &[], b"").field("metadata"), "m");
}
