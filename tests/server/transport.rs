//! Connections: how long they live, in which order they answer, and what a client that goes wrong
//! gets to read.

use crate::support::{Client, Home, Server, TOKEN};
use std::time::{Duration, Instant};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";

/// The head of a request with the token; `fields` end in CR LF each.
fn head(request: &str, fields: &str) -> String {
    format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{fields}\r\n")
}

fn send(server: &Server, bytes: impl AsRef<[u8]>) -> Client {
    let mut client = server.connect();
    client.send(bytes).unwrap();
    client
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let mut client = server.connect();
    for n in 0..50 {
        let item = format!("/resources/stores/kv/{store}/keys/k{n}");
        let value = n.to_string();
        let put = client.ask(&format!("PUT {item}"), &[], value.as_bytes()).unwrap();
        assert_eq!((put.status, put.has("Connection")), (200, false));
        assert_eq!(client.ask(&format!("GET {item}"), &[], b"").unwrap().text(), value);
        assert_eq!(client.ask(&format!("DELETE {item}"), &[], b"").unwrap().status, 204);
        assert_eq!(client.ask(&format!("GET {item}"), &[], b"").unwrap().status, 404);
    }
}

#[test]
fn a_client_that_wants_to_close_is_told_so_and_closed() {
    let server = Server::memory(&[]);
    for field in ["close", "Close", "keep-alive, CLOSE", "close,x"] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: {field}\r\n\r\n");
        let mut client = send(&server, request + HEALTH);
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status, answer.field("Connection")), (200, "close"), "{field}");
        assert!(client.ends(), "nothing follows after {field}");
    }
    let stays = format!("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\n{HEALTH}");
    let mut client = send(&server, stays);
    assert!((0..2).all(|_| client.answer(false).unwrap().status == 200));
}

#[test]
fn http_1_0_ends_with_its_answer_unless_it_asks_to_stay() {
    let server = Server::memory(&[]);
    let mut client = send(&server, "GET /healthz HTTP/1.0\r\n\r\n");
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"));
    assert!(client.ends());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let mut requests = String::new();
    for n in 0..200 {
        let item = format!("/resources/stores/kv/{store}/keys/k{n}");
        let value = format!("value {n}");
        let fields = format!("Content-Length: {}\r\n", value.len());
        requests += &(head(&format!("PUT {item}"), &fields) + &value);
        requests += &head(&format!("GET {item}"), "");
        requests += &head(&format!("HEAD {item}"), "");
        requests += &head(&format!("DELETE {item}-not"), "");
    }
    let mut client = send(&server, requests);
    for n in 0..200 {
        assert_eq!(client.answer(false).unwrap().status, 200);
        assert_eq!(client.answer(false).unwrap().text(), format!("value {n}"));
        assert_eq!(client.answer(true).unwrap().status, 200);
        assert_eq!(client.answer(false).unwrap().status, 404);
    }
}

#[test]
fn an_answer_to_head_has_the_length_and_no_body() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    server.ask(&format!("PUT {item}"), &[], &[b'v'; 300_000]);
    let kv = "/resources/stores/kv";
    let (one, keys) = (format!("{kv}/{store}"), format!("{kv}/{store}/keys"));
    let gone = format!("{item}-gone");
    for path in [&item, &gone, &one, &keys, kv, "/healthz", "/verify", "/none", "/metrics"] {
        let get = server.ask(&format!("GET {path}"), &[], b"");
        let mut client = send(&server, head(&format!("HEAD {path}"), "") + HEALTH);
        let bare = client.answer(true).unwrap();
        assert_eq!(bare.status, get.status, "{path}");
        // The metrics have changed in between.
        if path != "/metrics" {
            assert_eq!(bare.field("Content-Length"), get.field("Content-Length"), "{path}");
        }
        let next = client.answer(false).unwrap();
        assert_eq!((next.status, next.text().as_str()), (200, "ok\n"), "after HEAD {path}");
    }
    let mut client = send(&server, format!("HEAD {item} HTTP/1.1\r\nHost: h\r\n\r\n{HEALTH}"));
    assert_eq!(client.answer(true).unwrap().status, 401);
    assert_eq!(client.answer(false).unwrap().text(), "ok\n");
}

#[test]
fn a_client_that_only_ended_its_own_side_still_gets_its_answer() {
    let home = Home::new(&[]);
    let store = home.server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    for size in [5, 3_000_000] {
        let value = vec![b'v'; size];
        let mut client = home.server.connect();
        client.send(head(&format!("PUT {item}"), &format!("Content-Length: {size}\r\n"))).unwrap();
        client.send(&value).unwrap();
        client.finish();
        assert_eq!(client.answer(false).unwrap().status, 200, "{size}");
        let mut client = send(&home.server, head(&format!("GET {item}"), ""));
        client.finish();
        assert_eq!(client.answer(false).unwrap().body, value);
        assert!(client.ends());
    }
}

#[test]
fn a_head_that_breaks_off_is_no_request() {
    let server = Server::memory(&[]);
    for cut in 1..HEALTH.len() {
        let mut client = send(&server, &HEALTH[..cut]);
        client.finish();
        assert!(client.ends(), "cut at {cut}");
    }
}

#[test]
fn a_head_is_read_wherever_the_network_cuts_it() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let fields = "Content-Length: 5\r\nmetadata: m\r\n";
    let text = head(&format!("PUT /resources/stores/kv/{store}/keys/k"), fields) + "hello" + HEALTH;
    for cut in 0..text.len() {
        let mut client = send(&server, &text[..cut]);
        std::thread::sleep(Duration::from_millis(2));
        client.send(&text[cut..]).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200, "cut at {cut}");
        assert_eq!(client.answer(false).unwrap().text(), "ok\n", "cut at {cut}");
    }
}

#[test]
fn empty_lines_before_a_request_are_passed_over() {
    let server = Server::memory(&[]);
    let mut client = send(&server, format!("\r\n{HEALTH}\r\n\r\n{HEALTH}"));
    assert!((0..2).all(|_| client.answer(false).unwrap().text() == "ok\n"));
}

#[test]
fn a_head_that_does_not_come_in_time_is_refused_however_it_drips() {
    let server = Server::memory(&["--header-timeout", "1"]);
    let start = Instant::now();
    let mut whole = send(&server, "GET /healthz HTTP/1.1\r\nHost:");
    let mut drip = server.connect();
    let mut sent = 0;
    // Each byte comes in time; all of them do not.
    while start.elapsed() < Duration::from_secs(3) && drip.send("G").is_ok() {
        sent += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(sent > 5, "the server may end it only after its second");
    for client in [&mut whole, &mut drip] {
        let answer = client.answer(false).unwrap();
        assert_eq!(answer.refused(408), "timed out reading the request head");
        assert_eq!(answer.field("Connection"), "close");
    }
    assert!(whole.ends());
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_body_that_stops_coming_is_refused_and_changes_nothing() {
    let home = Home::new(&["--body-timeout", "1"]);
    let server = &home.server;
    let store = server.store("s");
    let item = format!("/resources/stores/kv/{store}/keys/k");
    server.ask(&format!("PUT {item}"), &[], b"old");
    let mut clients: Vec<_> =
        ["Content-Length: 10\r\n", "Content-Length: 9000000\r\n", "Transfer-Encoding: chunked\r\n"]
            .map(|fields| send(server, head(&format!("PUT {item}"), fields) + "5\r\nhe"))
            .into();
    for client in &mut clients {
        let answer = client.answer(false).unwrap();
        assert_eq!(answer.refused(408), "no bytes of the body arrived for 1 s");
        assert_eq!(answer.field("Connection"), "close");
        assert!(client.ends());
    }
    assert_eq!(server.ask(&format!("GET {item}"), &[], b"").text(), "old");
}

#[test]
fn a_connection_that_rests_too_long_is_closed_without_a_word() {
    let server = Server::memory(&["--idle-timeout", "1"]);
    let mut fresh = server.connect();
    let mut used = server.connect();
    assert_eq!(used.ask("GET /healthz", &[], b"").unwrap().status, 200);
    let start = Instant::now();
    assert!(fresh.ends() && used.ends());
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// Sends a whole upload before it looks for the answer, as simple clients do.
fn upload(server: &Server, request: &str, fields: &str, body: &[u8]) -> crate::support::Answer {
    let mut client = server.connect();
    client.send(format!("{request} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).unwrap();
    client.send(body).unwrap();
    client.answer(false).unwrap()
}

#[test]
fn a_refused_upload_of_25_mb_reads_its_refusal_and_no_reset() {
    let home = Home::new(&["--max-value", "1000000"]);
    let store = home.server.store("s");
    let item = format!("PUT /resources/stores/kv/{store}/keys/k");
    let body = vec![b'v'; 25 << 20];
    let length = format!("Content-Length: {}\r\n", body.len());
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    upload(&home.server, &item, &length, &body).refused(401);
    upload(&home.server, &item, &format!("Fastly-Key: wrong\r\n{length}"), &body).refused(401);
    upload(&home.server, &item, &format!("{key}{length}"), &body).refused(413);
    let none = "PUT /resources/stores/kv/0000000000000000000000/keys/k";
    upload(&home.server, none, &format!("{key}{length}"), &body).refused(404);
    let mut chunks = format!("{:x}\r\n", body.len()).into_bytes();
    chunks.extend_from_slice(&body);
    chunks.extend_from_slice(b"\r\n0\r\n\r\n");
    let chunked = format!("{key}Transfer-Encoding: chunked\r\n");
    upload(&home.server, &item, &chunked, &chunks).refused(413);
    let stale = format!("{key}if-generation-match: 7\r\n{length}");
    assert_eq!(upload(&home.server, &item, &stale, b"short and left").status, 413);
    assert_eq!(home.server.ask(&item.replace("PUT", "GET"), &[], b"").status, 404);
}

#[test]
fn a_refused_small_upload_keeps_its_connection() {
    let server = Server::memory(&[]);
    let mut client = server.connect();
    let body = vec![b'v'; 500_000];
    for _ in 0..3 {
        let none = "PUT /resources/stores/kv/0000000000000000000000/keys/k";
        let answer = client.ask(none, &[], &body).unwrap();
        answer.refused(404);
        assert!(!answer.has("Connection"));
    }
    assert_eq!(client.ask("GET /healthz", &[], b"").unwrap().status, 200);
}
