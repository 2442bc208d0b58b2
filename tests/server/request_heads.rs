//! Tests of request lines and headers: malformed requests are rejected, and valid targets reach the
//! API unchanged.

use crate::HEALTH;
use crate::support::{Response, Server, TOKEN};
use std::time::Duration;

/// Sends bytes that must be rejected with `status`, followed by a request that must not be
/// answered.
fn assert_rejected(server: &Server, bytes: &[u8], status: u16) {
    let displayed = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
    let mut client = server.connect();
    client.send([bytes, HEALTH.as_bytes()].concat()).unwrap();
    let response = client.read_response(false).unwrap_or_else(|e| panic!("{displayed:?}: {e}"));
    assert_eq!(response.status, status, "{displayed:?}");
    response.expect_error(status);
    assert_eq!(response.header("Connection"), "close", "{displayed:?}");
    assert!(client.closes_without_response(), "another response was sent after {displayed:?}");
}

fn request(server: &Server, request: &str) -> Response {
    let mut client = server.connect();
    let head = format!("{request}\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n\r\n");
    client.send(head).unwrap();
    client.read_response(false).unwrap()
}

#[test]
fn malformed_headers_are_rejected_with_400_and_close_the_connection() {
    let server = Server::memory(&[]);
    for headers in [
        "metadata: a\r\n b\r\n", "metadata: a\r\n\tb\r\n", " metadata: a\r\n", "metadata : a\r\n",
        "metadata\t: a\r\n", "Content-Length : 5\r\n", "Transfer-Encoding : chunked\r\n",
        "metadata: a\rb\r\n", "metadata: a\nx: b\r\n", "metadata: a\0b\r\n",
        "metadata: a\x07b\r\n", "metadata: a\x7fb\r\n", "meta\0data: a\r\n", "meta data: a\r\n",
        "meta(data): a\r\n", "m\u{e9}tadata: a\r\n", ": a\r\n", "metadata\r\n", "\r\r\n",
        "\nx: y\r\n",
    ] {
        let head = format!("GET /healthz HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        assert_rejected(&server, head.as_bytes(), 400);
    }
}

#[test]
fn malformed_request_lines_are_rejected_and_close_the_connection() {
    let server = Server::memory(&[]);
    for request in [
        "GET /healthz", "GET  /healthz HTTP/1.1", "GET /healthz  HTTP/1.1",
        "GET /heal thz HTTP/1.1", " GET /healthz HTTP/1.1", " /healthz HTTP/1.1", "GET HTTP/1.1",
        "GET", "G\0T /healthz HTTP/1.1", "G(T /healthz HTTP/1.1", "GET /heal\0thz HTTP/1.1",
        "GET /heal\tthz HTTP/1.1", "GET /heal\x7fthz HTTP/1.1", "GET /healthz HTTP/1.1 x",
        "GET /healthz HTTP/1.1\rX: y", "GET /healthz http/1.1", "GET /healthz HTTP/11",
        "GET /healthz HTTPS/1.1",
    ] {
        let mut client = server.connect();
        client.send(format!("{request}\r\nHost: h\r\n\r\n{HEALTH}")).unwrap();
        let response = client.read_response(false).unwrap();
        assert!([400, 505].contains(&response.status), "{request:?}: {}", response.head);
        response.expect_error(response.status);
        assert!(client.closes_without_response(), "another response was sent after {request:?}");
    }
}

#[test]
fn versions_other_than_http_1_are_rejected_with_505() {
    let server = Server::memory(&[]);
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        assert_rejected(
            &server,
            format!("GET /healthz {version}\r\nHost: h\r\n\r\n").as_bytes(),
            505,
        );
    }
    assert_rejected(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
}

#[test]
fn lines_that_end_with_a_bare_lf_are_rejected() {
    let server = Server::memory(&["--header-timeout", "1"]);
    assert_rejected(&server, b"GET /healthz HTTP/1.1\nHost: h\n\n", 400);
    assert_rejected(&server, b"GET /healthz HTTP/1.1\nHost: h\n\r\n\r\n", 400);
    assert_rejected(&server, b"GET /healthz HTTP/1.1\r\nHost: h\n\r\n", 400);
    assert_rejected(&server, b"GET /healthz HTTP/1.1\r\nHost: h\n\n", 400);
    assert_rejected(&server, b"GET /healthz HTTP/1.1\nHost: h\r\n\r\n", 400);
}

/// Sends bytes and then waits. Returns the detail of the 400 response, which must arrive before
/// the header timeout.
fn rejected_at_once(server: &Server, bytes: &[u8]) -> String {
    let mut client = server.connect();
    client.set_read_timeout(Duration::from_secs(10));
    client.send(bytes).unwrap();
    let displayed = String::from_utf8_lossy(bytes);
    let response = client.read_response(false).unwrap_or_else(|e| panic!("{displayed:?}: {e}"));
    assert_eq!(response.header("Connection"), "close");
    response.expect_error(400)
}

#[test]
fn a_head_that_cannot_become_valid_is_rejected_before_its_timeout() {
    let server = Server::memory(&["--header-timeout", "60"]);
    for bytes in [
        &b"GET /healthz HTTP/1.1\nHost: h\n\n"[..],
        b"GET /healthz HTTP/1.1\r\nHost: h\n",
        b"\n",
        b"\0",
        b"\x80\x2e\x01",
        b" GET",
    ] {
        rejected_at_once(&server, bytes);
    }
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let detail = rejected_at_once(&server, hello);
    assert_eq!(detail, "this port serves plain HTTP, but the client uses TLS: use http://");
}

#[test]
fn http_1_1_requires_one_valid_host() {
    let server = Server::memory(&[]);
    let head = |version: &str, hosts: &str| format!("GET /healthz HTTP/{version}\r\n{hosts}\r\n");
    for hosts in ["Host: h\r\n", "hOST: [::1]:7070\r\n", "Host:\r\n", "Host: my_host:80\r\n"] {
        let mut client = server.connect();
        client.send(head("1.1", hosts)).unwrap();
        assert_eq!(client.read_response(false).unwrap().status, 200, "{hosts:?}");
    }
    for hosts in [
        "Host: a\r\nHost: a\r\n", "Host: a\r\nX: y\r\nhost: b\r\n", "Host: a b\r\n",
        "Host: a/b\r\n", "Host: user@a\r\n", "Host: a:x\r\n", "Host: a, b\r\n",
    ] {
        assert_rejected(&server, head("1.1", hosts).as_bytes(), 400);
        assert_rejected(&server, head("1.0", hosts).as_bytes(), 400);
    }
    assert_rejected(&server, head("1.1", "").as_bytes(), 400);
    assert_rejected(&server, b"GET http://h/healthz HTTP/1.1\r\n\r\n", 400);
    let mut client = server.connect();
    client.send(head("1.0", "")).unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 200);
}

#[test]
fn methods_are_case_sensitive() {
    let server = Server::memory(&[]);
    for method in ["get", "Get", "PATCH", "TRACE", "OPTIONS", "CONNECT", "M-SEARCH", "A"] {
        let response = request(&server, &format!("{method} /verify HTTP/1.1"));
        response.expect_error(405);
        assert_eq!(response.header("Allow"), "GET, HEAD", "{method}");
    }
}

#[test]
fn targets_are_not_normalized_before_routing() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys");
    server.request(&format!("PUT {item}/a"), &[], b"a");
    let status = |target: &str| request(&server, &format!("GET {target} HTTP/1.1")).status;
    for absolute in ["http://h", "https://h:443", "http://other.example"] {
        assert_eq!(status(&format!("{absolute}{item}/a")), 200, "{absolute}");
    }
    for unknown in [
        "*", "h:80", "http://h", "http://h?x", "http:/healthz", "ftp://h/healthz", "healthz",
        "/healthz#x", "/healthz/", "//healthz", "/./healthz", "/x/../healthz", "/%68ealthz",
        "/HEALTHZ",
    ] {
        assert_eq!(status(unknown), 404, "{unknown}");
    }
    assert_eq!(status("/healthz?anything=%zz"), 200);
    // A `#` does not start a fragment. It is part of the key, where it is forbidden.
    request(&server, &format!("GET {item}/a#b HTTP/1.1")).expect_error(400);
}

#[test]
fn non_ascii_bytes_in_a_target_are_part_of_the_key_or_rejected() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys");
    let raw = server.request(&format!("PUT {item}/é✓"), &[], b"raw");
    if raw.status == 200 {
        let escaped = server.get(&format!("{item}/%C3%A9%E2%9C%93"));
        assert_eq!(escaped.text(), "raw", "raw and percent-encoded UTF-8 must name the same key");
    } else {
        raw.expect_error(400);
    }
    for bytes in [&b"\xe9"[..], b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"] {
        let mut head = format!("PUT {item}/").into_bytes();
        head.extend_from_slice(bytes);
        let headers = format!("Host: h\r\nFastly-Key: {TOKEN}\r\nContent-Length: 0\r\n");
        head.extend_from_slice(format!(" HTTP/1.1\r\n{headers}\r\n").as_bytes());
        let mut client = server.connect();
        client.send(head).unwrap();
        client.read_response(false).unwrap().expect_error(400);
    }
}

#[test]
fn targets_are_limited_to_16_kib() {
    let server = Server::memory(&[]);
    let pad = |len: usize| format!("/healthz?{}", "x".repeat(len - "/healthz?".len()));
    assert_eq!(request(&server, &format!("GET {} HTTP/1.1", pad(16 * 1024))).status, 200);
    for len in [16 * 1024 + 1, 16 * 1024 + 100, 40_000, 200_000] {
        let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", pad(len));
        assert_rejected(&server, head.as_bytes(), 414);
    }
    // Send a target that does not end.
    assert_rejected(&server, "GET /".repeat(20_000).as_bytes(), 414);
}

#[test]
fn a_fully_escaped_key_of_maximum_length_is_accepted() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/{}", "%C3%A9".repeat(512));
    assert_eq!(server.request(&format!("PUT {item}"), &[], b"v").status, 200);
    assert_eq!(server.get(&item).text(), "v");
    let keys = server.get(&format!("/resources/stores/kv/{store}/keys")).json();
    assert_eq!(keys["data"][0], "é".repeat(512));
    server.request(&format!("PUT {item}x"), &[], b"v").expect_error(400);
}

#[test]
fn headers_are_limited_to_32_kib_and_100_lines() {
    let server = Server::memory(&[]);
    let with = |headers: &str| format!("GET /healthz HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    let many = |n: usize| (0..n).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let large = |n: usize| format!("x: {}\r\n", "y".repeat(n));
    for headers in [many(99), large(32_000), large(500).repeat(60)] {
        let mut client = server.connect();
        client.send(with(&headers)).unwrap();
        assert_eq!(client.read_response(false).unwrap().status, 200);
    }
    for headers in [many(100), many(1000), large(32 * 1024), large(100_000), large(1000).repeat(99)]
    {
        assert_rejected(&server, with(&headers).as_bytes(), 431);
    }
    // Headers that do not end are rejected, so the memory of a connection is bounded.
    let endless = format!("GET /healthz HTTP/1.1\r\n{}", large(500).repeat(2000));
    assert_rejected(&server, endless.trim_end().as_bytes(), 431);
}

#[test]
fn header_names_may_contain_underscores_and_use_any_case() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    for name in ["time_to_live_sec", "Time_To_Live_Sec", "TIME_TO_LIVE_SEC"] {
        assert_eq!(server.request(&format!("PUT {item}"), &[(name, "1")], b"v").status, 200);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(server.get(&item).status, 404, "{name}");
    }
    // A name with dashes instead of underscores is a different header.
    server.request(&format!("PUT {item}"), &[("time-to-live-sec", "1"), ("METADATA", "m")], b"v");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.get(&item).header("metadata"), "m");
}
