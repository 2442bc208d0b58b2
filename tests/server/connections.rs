//! Tests of connections: keep-alive, pipelining, timeouts, half-closed clients, and errors during
//! uploads.

use crate::HEALTH;
use crate::support::{Client, DiskServer, Server, TOKEN};
use std::time::{Duration, Instant};

/// Returns the head of a request with the token and `headers`, each of which ends with CR LF.
fn head(request: &str, headers: &str) -> String {
    format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{headers}\r\n")
}

fn send(server: &Server, bytes: impl AsRef<[u8]>) -> Client {
    let mut client = server.connect();
    client.send(bytes).unwrap();
    client
}

#[test]
fn a_connection_serves_requests_in_sequence() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let mut client = server.connect();
    for n in 0..50 {
        let item = format!("/resources/stores/kv/{store}/keys/k{n}");
        let value = n.to_string();
        let put = client.request(&format!("PUT {item}"), &[], value.as_bytes()).unwrap();
        assert_eq!((put.status, put.has_header("Connection")), (200, false));
        assert_eq!(client.get(&item).unwrap().text(), value);
        assert_eq!(client.request(&format!("DELETE {item}"), &[], b"").unwrap().status, 204);
        assert_eq!(client.get(&item).unwrap().status, 404);
    }
}

#[test]
fn connection_close_is_echoed_and_honored() {
    let server = Server::memory(&[]);
    for field in ["close", "Close", "keep-alive, CLOSE", "close,x"] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: {field}\r\n\r\n");
        let mut client = send(&server, request + HEALTH);
        let response = client.read_response(false).unwrap();
        assert_eq!((response.status, response.header("Connection")), (200, "close"), "{field}");
        assert!(
            client.closes_without_response(),
            "the connection stayed open after Connection: {field}"
        );
    }
    let keeps_open =
        format!("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\n{HEALTH}");
    let mut client = send(&server, keeps_open);
    assert!((0..2).all(|_| client.read_response(false).unwrap().status == 200));
}

#[test]
fn http_1_0_closes_unless_keep_alive_is_requested() {
    let server = Server::memory(&[]);
    let mut client = send(&server, "GET /healthz HTTP/1.0\r\n\r\n");
    let response = client.read_response(false).unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "ok\n"));
    assert!(client.closes_without_response());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
        let response = client.read_response(false).unwrap();
        assert_eq!((response.status, response.header("Connection")), (200, "keep-alive"));
    }
    client.send("GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(client.read_response(false).unwrap().header("Connection"), "close");
    assert!(client.closes_without_response());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let mut requests = String::new();
    for n in 0..200 {
        let item = format!("/resources/stores/kv/{store}/keys/k{n}");
        let value = format!("value {n}");
        let headers = format!("Content-Length: {}\r\n", value.len());
        requests += &(head(&format!("PUT {item}"), &headers) + &value);
        requests += &head(&format!("GET {item}"), "");
        requests += &head(&format!("HEAD {item}"), "");
        requests += &head(&format!("DELETE {item}-not"), "");
    }
    let mut client = send(&server, requests);
    for n in 0..200 {
        assert_eq!(client.read_response(false).unwrap().status, 200);
        assert_eq!(client.read_response(false).unwrap().text(), format!("value {n}"));
        assert_eq!(client.read_response(true).unwrap().status, 200);
        assert_eq!(client.read_response(false).unwrap().status, 404);
    }
}

#[test]
fn head_responses_have_the_content_length_of_get_and_no_body() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    server.request(&format!("PUT {item}"), &[], &[b'v'; 300_000]);
    let kv = "/resources/stores/kv";
    let (one, keys) = (format!("{kv}/{store}"), format!("{kv}/{store}/keys"));
    let missing = format!("{item}-gone");
    for path in [&item, &missing, &one, &keys, kv, "/healthz", "/verify", "/none", "/metrics"] {
        let get = server.get(path);
        let mut client = send(&server, head(&format!("HEAD {path}"), "") + HEALTH);
        let head_only = client.read_response(true).unwrap();
        assert_eq!(head_only.status, get.status, "{path}");
        // The metrics change between the two requests, so their length may differ.
        if path != "/metrics" {
            assert_eq!(head_only.header("Content-Length"), get.header("Content-Length"), "{path}");
        }
        let next = client.read_response(false).unwrap();
        assert_eq!((next.status, next.text().as_str()), (200, "ok\n"), "after HEAD {path}");
    }
    let mut client = send(&server, format!("HEAD {item} HTTP/1.1\r\nHost: h\r\n\r\n{HEALTH}"));
    assert_eq!(client.read_response(true).unwrap().status, 401);
    assert_eq!(client.read_response(false).unwrap().text(), "ok\n");
}

#[test]
fn a_half_closed_client_still_gets_its_response() {
    let disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    for size in [5, 3_000_000] {
        let value = vec![b'v'; size];
        let mut client = disk.server.connect();
        client.send(head(&format!("PUT {item}"), &format!("Content-Length: {size}\r\n"))).unwrap();
        client.send(&value).unwrap();
        client.shutdown_write();
        assert_eq!(client.read_response(false).unwrap().status, 200, "{size}");
        let mut client = send(&disk.server, head(&format!("GET {item}"), ""));
        client.shutdown_write();
        assert_eq!(client.read_response(false).unwrap().body, value);
        assert!(client.closes_without_response());
    }
}

#[test]
fn a_connection_with_an_incomplete_head_is_closed_without_a_response() {
    let server = Server::memory(&[]);
    for split_at in 1..HEALTH.len() {
        let mut client = send(&server, &HEALTH[..split_at]);
        client.shutdown_write();
        assert!(client.closes_without_response(), "split at byte {split_at}");
    }
}

#[test]
fn a_head_may_be_split_at_any_byte() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let headers = "Content-Length: 5\r\nmetadata: m\r\n";
    let text =
        head(&format!("PUT /resources/stores/kv/{store}/keys/k"), headers) + "hello" + HEALTH;
    for split_at in 0..text.len() {
        let mut client = send(&server, &text[..split_at]);
        std::thread::sleep(Duration::from_millis(2));
        client.send(&text[split_at..]).unwrap();
        assert_eq!(client.read_response(false).unwrap().status, 200, "split at byte {split_at}");
        assert_eq!(client.read_response(false).unwrap().text(), "ok\n", "split at byte {split_at}");
    }
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    let server = Server::memory(&[]);
    let mut client = send(&server, format!("\r\n{HEALTH}\r\n\r\n{HEALTH}"));
    assert!((0..2).all(|_| client.read_response(false).unwrap().text() == "ok\n"));
}

#[test]
fn a_slow_head_is_rejected_with_408() {
    let server = Server::memory(&["--header-timeout", "1"]);
    let start = Instant::now();
    let mut partial = send(&server, "GET /healthz HTTP/1.1\r\nHost:");
    let mut drip = server.connect();
    let mut sent = 0;
    // Receiving more bytes must not extend the deadline for the head.
    while start.elapsed() < Duration::from_secs(3) && drip.send("G").is_ok() {
        sent += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(sent > 5, "the connection was closed before the header timeout of 1 s");
    for client in [&mut partial, &mut drip] {
        let response = client.read_response(false).unwrap();
        assert_eq!(response.expect_error(408), "timed out reading the request head");
        assert_eq!(response.header("Connection"), "close");
    }
    assert!(partial.closes_without_response());
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_stalled_body_is_rejected_with_408_and_changes_nothing() {
    let disk = DiskServer::new(&["--body-timeout", "1"]);
    let server = &disk.server;
    let store = server.create_store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    server.request(&format!("PUT {item}"), &[], b"old");
    let mut clients: Vec<_> =
        ["Content-Length: 10\r\n", "Content-Length: 9000000\r\n", "Transfer-Encoding: chunked\r\n"]
            .map(|headers| send(server, head(&format!("PUT {item}"), headers) + "5\r\nhe"))
            .into();
    for client in &mut clients {
        let response = client.read_response(false).unwrap();
        assert_eq!(response.expect_error(408), "no body data received for 1 s");
        assert_eq!(response.header("Connection"), "close");
        assert!(client.closes_without_response());
    }
    assert_eq!(server.get(&item).text(), "old");
}

#[test]
fn a_body_below_the_minimum_rate_is_rejected_with_408_and_changes_nothing() {
    let disk = DiskServer::new(&["--body-timeout", "1"]);
    let server = &disk.server;
    let item = format!("/resources/stores/kv/{}/keys/k", server.create_store("s"));
    let mut client = send(server, head(&format!("PUT {item}"), "Content-Length: 9000000\r\n"));
    let start = Instant::now();
    // Each byte arrives well within the read timeout.
    let mut sender = client.try_clone();
    let drip = std::thread::spawn(move || {
        while start.elapsed() < Duration::from_secs(30) && sender.send("v").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let response = client.read_response(false).unwrap();
    assert!(response.expect_error(408).starts_with("the body arrives too slowly"));
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(response.header("Connection"), "close");
    drop(client);
    drip.join().unwrap();
    assert_eq!(server.get(&item).status, 404);
}

#[test]
fn an_idle_connection_is_closed_without_a_response() {
    let server = Server::memory(&["--idle-timeout", "1"]);
    let mut fresh = server.connect();
    let mut used = server.connect();
    assert_eq!(used.request("GET /healthz", &[], b"").unwrap().status, 200);
    let start = Instant::now();
    assert!(fresh.closes_without_response() && used.closes_without_response());
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// Sends a complete request before reading the response, as simple clients do.
fn upload(server: &Server, request: &str, headers: &str, body: &[u8]) -> crate::support::Response {
    let mut client = server.connect();
    client.send(format!("{request} HTTP/1.1\r\nHost: h\r\n{headers}\r\n")).unwrap();
    client.send(body).unwrap();
    client.read_response(false).unwrap()
}

#[test]
fn the_error_for_a_rejected_25_mib_upload_arrives_without_a_reset() {
    let disk = DiskServer::new(&["--max-value", "1000000"]);
    let store = disk.server.create_store("s");
    let item = format!("PUT /resources/stores/kv/{store}/keys/k");
    let body = vec![b'v'; 25 << 20];
    let length = format!("Content-Length: {}\r\n", body.len());
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    upload(&disk.server, &item, &length, &body).expect_error(401);
    upload(&disk.server, &item, &format!("Fastly-Key: wrong\r\n{length}"), &body).expect_error(401);
    upload(&disk.server, &item, &format!("{key}{length}"), &body).expect_error(413);
    let none = "PUT /resources/stores/kv/0000000000000000000000/keys/k";
    upload(&disk.server, none, &format!("{key}{length}"), &body).expect_error(404);
    let mut chunks = format!("{:x}\r\n", body.len()).into_bytes();
    chunks.extend_from_slice(&body);
    chunks.extend_from_slice(b"\r\n0\r\n\r\n");
    let chunked = format!("{key}Transfer-Encoding: chunked\r\n");
    upload(&disk.server, &item, &chunked, &chunks).expect_error(413);
    let stale = format!("{key}if-generation-match: 7\r\n{length}");
    assert_eq!(upload(&disk.server, &item, &stale, b"short and left").status, 413);
    assert_eq!(disk.server.request(&item.replace("PUT", "GET"), &[], b"").status, 404);
}

#[test]
fn a_connection_stays_open_after_a_rejected_small_upload() {
    let server = Server::memory(&[]);
    let mut client = server.connect();
    let body = vec![b'v'; 500_000];
    for _ in 0..3 {
        let none = "PUT /resources/stores/kv/0000000000000000000000/keys/k";
        let response = client.request(none, &[], &body).unwrap();
        response.expect_error(404);
        assert!(!response.has_header("Connection"));
    }
    assert_eq!(client.get("/healthz").unwrap().status, 200);
}
