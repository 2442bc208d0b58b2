//! Where a body ends: lengths, chunks, and the leave to send. No second request can hide in one.

use crate::support::{Answer, Client, Server, TOKEN};
use std::time::Duration;

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";

/// A server with one item, `old`.
struct Fixture {
    server: Server,
    item: String,
}

impl Fixture {
    fn new() -> Fixture {
        let server = Server::memory(&[]);
        let item = format!("/resources/stores/kv/{}/keys/k", server.store("s"));
        assert_eq!(server.ask(&format!("PUT {item}"), &[], b"old").status, 200);
        Fixture { server, item }
    }

    fn value(&self) -> Vec<u8> {
        self.server.ask(&format!("GET {}", self.item), &[], b"").body
    }

    /// The head of an upload; `fields` end in CR LF each.
    fn head(&self, fields: &str) -> String {
        let item = &self.item;
        format!("PUT {item} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{fields}\r\n")
    }

    fn put(&self, fields: &str, body: impl AsRef<[u8]>) -> Client {
        let mut client = self.server.connect();
        client.send([self.head(fields).as_bytes(), body.as_ref()].concat()).unwrap();
        client
    }

    /// An upload that is refused, with nothing behind it answered and nothing changed.
    fn refused(&self, fields: &str, body: &str, status: u16) {
        let mut client = self.put(fields, format!("{body}{HEALTH}"));
        let answer = client.answer(false).unwrap();
        answer.refused(status);
        assert_eq!(answer.field("Connection"), "close", "{fields:?} {body:?}");
        assert!(client.ends(), "a request hid behind {fields:?} {body:?}");
        assert_eq!(self.value(), b"old", "{fields:?} {body:?}");
    }
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const CHUNKS: &str = "5;name=value\r\nhello\r\n00b ; a=\"b;c\"\r\n, chunked w\r\n4\r\norld\r\n\
                      000;last\r\nTrailer: x\r\nAnother: y\r\n\r\n";

#[test]
fn chunks_are_read_wherever_the_network_cuts_them() {
    let fixture = Fixture::new();
    for cut in 0..=CHUNKS.len() {
        let mut client = fixture.put(CHUNKED, &CHUNKS[..cut]);
        std::thread::sleep(Duration::from_millis(2));
        client.send(format!("{}{HEALTH}", &CHUNKS[cut..])).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200, "cut at {cut}");
        assert_eq!(client.answer(false).unwrap().text(), "ok\n", "cut at {cut}");
        assert_eq!(fixture.value(), b"hello, chunked world", "cut at {cut}");
    }
    let mut client = fixture.put("transfer-encoding: ChunKed \r\n", "");
    for byte in CHUNKS.as_bytes() {
        client.send([*byte]).unwrap();
    }
    assert_eq!(client.answer(false).unwrap().status, 200);
}

#[test]
fn an_upload_of_no_chunks_is_an_empty_value() {
    let fixture = Fixture::new();
    let mut client = fixture.put(CHUNKED, "0\r\n\r\n");
    assert_eq!(client.answer(false).unwrap().status, 200);
    assert_eq!(fixture.value(), b"");
}

#[test]
fn malformed_chunks_are_refused_and_change_nothing() {
    let fixture = Fixture::new();
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(2000));
    let trailers = format!("0\r\n{}\r\n", format!("x: {}\r\n", "y".repeat(500)).repeat(30));
    for chunks in [
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";x\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\nx: y\n\r\n",
        &long,
        &trailers,
    ] {
        fixture.refused(CHUNKED, chunks, 400);
    }
}

#[test]
fn a_body_that_breaks_off_changes_nothing() {
    let fixture = Fixture::new();
    for cut in 0..CHUNKS.len() {
        let mut client = fixture.put(CHUNKED, &CHUNKS[..cut]);
        client.finish();
        client.answer(false).unwrap().refused(400);
        assert!(client.ends());
    }
    for size in [0, 1, 9] {
        let mut client = fixture.put("Content-Length: 10\r\n", vec![b'v'; size]);
        client.finish();
        client.answer(false).unwrap().refused(400);
        assert!(client.ends());
    }
    assert_eq!(fixture.value(), b"old");
}

#[test]
fn a_body_with_two_possible_ends_is_refused_and_nothing_behind_it_is_answered() {
    let fixture = Fixture::new();
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,6\r\n",
    ] {
        fixture.refused(fields, "0\r\n\r\n", 400);
    }
}

#[test]
fn a_length_is_a_whole_number_and_nothing_else() {
    let fixture = Fixture::new();
    for length in [
        "-5",
        "+5",
        "5 5",
        "5.0",
        "0x5",
        "5e0",
        "five",
        "",
        "\"5\"",
        "5;",
        "18446744073709551616",
        "99999999999999999999999999",
    ] {
        fixture.refused(&format!("Content-Length: {length}\r\n"), "hello", 400);
    }
    fixture.refused("Content-Length: 18446744073709551615\r\n", "hello", 413);
    let mut client = fixture.put("Content-Length:  \t005 \t\r\n", format!("hello{HEALTH}"));
    assert_eq!(client.answer(false).unwrap().status, 200);
    assert_eq!(client.answer(false).unwrap().text(), "ok\n");
    assert_eq!(fixture.value(), b"hello");
}

#[test]
fn codings_other_than_chunked_are_not_implemented() {
    let fixture = Fixture::new();
    for coding in [
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ", chunked",
        "\"chunked\"",
        "chunked;q=1",
        "xchunked",
        "chunkedx",
        "",
    ] {
        fixture.refused(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n", 501);
    }
    fixture.refused(&format!("{CHUNKED}{CHUNKED}"), "0\r\n\r\n", 501);
    fixture.refused(&format!("{CHUNKED}Transfer-Encoding: gzip\r\n"), "0\r\n\r\n", 501);
    fixture.refused("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n", 400);
}

#[test]
fn http_1_0_has_no_chunks() {
    let fixture = Fixture::new();
    let mut client = fixture.server.connect();
    let head = fixture.head(CHUNKED).replace("HTTP/1.1", "HTTP/1.0");
    client.send(format!("{head}0\r\n\r\n{HEALTH}")).unwrap();
    client.answer(false).unwrap().refused(400);
    assert!(client.ends());
    assert_eq!(fixture.value(), b"old");
}

#[test]
fn the_body_of_a_request_that_has_none_is_not_taken_for_the_next_one() {
    let fixture = Fixture::new();
    let length = format!("Content-Length: {}\r\n", HEALTH.len());
    for method in ["GET", "HEAD", "DELETE"] {
        let head = fixture.head(&length).replacen("PUT", method, 1);
        let mut client = fixture.server.connect();
        client.send(format!("{head}{HEALTH}{HEALTH}")).unwrap();
        let status = client.answer(method == "HEAD").unwrap().status;
        assert!([200, 204].contains(&status), "{method}: {status}");
        assert_eq!(client.answer(false).unwrap().text(), "ok\n", "{method}");
        client.finish();
        assert!(client.ends(), "the body of {method} was answered");
    }
}

#[test]
fn leave_to_send_comes_once_all_that_the_head_tells_is_in_order() {
    let fixture = Fixture::new();
    for fields in ["Content-Length: 5\r\n", CHUNKED] {
        let mut client = fixture.put(&format!("Expect: 100-Continue\r\n{fields}"), "");
        let leave = client.answer(false).unwrap();
        assert_eq!(leave.head, "HTTP/1.1 100 Continue");
        let body = if fields == CHUNKED { "5\r\nfresh\r\n0\r\n\r\n" } else { "fresh" };
        client.send(format!("{body}{HEALTH}")).unwrap();
        assert_eq!(client.answer(false).unwrap().status, 200);
        assert_eq!(client.answer(false).unwrap().text(), "ok\n");
        assert_eq!(fixture.value(), b"fresh");
    }
}

#[test]
fn what_the_head_alone_forbids_is_refused_without_leave_to_send() {
    let fixture = Fixture::new();
    let item = &fixture.item;
    let ask = |request: &str, fields: &str| -> (Client, Answer) {
        let mut client = fixture.server.connect();
        let expect = "Expect: 100-continue\r\nHost: h\r\n";
        client.send(format!("{request} HTTP/1.1\r\n{expect}{fields}\r\n")).unwrap();
        let answer = client.answer(false).unwrap();
        (client, answer)
    };
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    let none = "/resources/stores/kv/0000000000000000000000/keys/k";
    let dots = item.replace("/keys/k", "/keys/..");
    for (request, fields, status) in [
        (format!("PUT {item}"), "Content-Length: 5\r\n".to_owned(), 401),
        (format!("PUT {item}"), "Fastly-Key: other\r\nContent-Length: 5\r\n".to_owned(), 401),
        (format!("PUT {none}"), format!("{key}Content-Length: 5\r\n"), 404),
        (format!("PUT {dots}"), format!("{key}Content-Length: 5\r\n"), 400),
        (format!("PUT {item}?add=true"), format!("{key}Content-Length: 5\r\n"), 412),
        (format!("PUT {item}"), format!("{key}if-generation-match: 1\r\n{CHUNKED}"), 412),
        (format!("PUT {item}"), format!("{key}time_to_live_sec: 0\r\n{CHUNKED}"), 400),
        (format!("PUT {item}"), format!("{key}Content-Length: 26214401\r\n"), 413),
        (format!("POST {item}"), format!("{key}Content-Length: 5\r\n"), 405),
        (format!("PUT {item}/../x?add"), format!("{key}Content-Length: 5\r\n"), 400),
        ("PUT /no/such/path".to_owned(), format!("{key}Content-Length: 5\r\n"), 404),
    ] {
        let (mut client, answer) = ask(&request, &fields);
        assert_eq!(answer.status, status, "{request} {fields}");
        // Whether the client sends its body now is not known, so the connection cannot go on.
        assert_eq!(answer.field("Connection"), "close", "{request}");
        assert!(client.ends(), "{request}");
    }
    assert_eq!(fixture.value(), b"old");
}

#[test]
fn an_expectation_that_nobody_knows_is_refused() {
    let fixture = Fixture::new();
    for what in ["200-ok", "100-continue, x", "continue", ""] {
        fixture.refused(&format!("Expect: {what}\r\nContent-Length: 5\r\n"), "hello", 417);
    }
}

#[test]
fn http_1_0_gets_no_leave_to_send() {
    let fixture = Fixture::new();
    let head = fixture.head("Expect: 100-continue\r\nContent-Length: 5\r\n");
    let mut client = fixture.server.connect();
    client.send(head.replace("HTTP/1.1", "HTTP/1.0") + "hello").unwrap();
    assert_eq!(client.answer(false).unwrap().status, 200);
    assert_eq!(fixture.value(), b"hello");
}
