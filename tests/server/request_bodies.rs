//! Tests of request bodies: `Content-Length`, chunked coding and `Expect`. The end of a body is
//! never ambiguous, so a body cannot smuggle a request.

use crate::HEALTH;
use crate::support::{Client, Response, Server, TOKEN};
use std::time::Duration;

/// A server with one item, which has the value `old`.
struct Fixture {
    server: Server,
    item: String,
}

impl Fixture {
    fn new() -> Fixture {
        let server = Server::memory(&[]);
        let item = format!("/resources/stores/kv/{}/keys/k", server.create_store("s"));
        assert_eq!(server.request(&format!("PUT {item}"), &[], b"old").status, 200);
        Fixture { server, item }
    }

    fn value(&self) -> Vec<u8> {
        self.server.get(&self.item).body
    }

    /// Returns the head of an upload with `headers`, each of which ends with CR LF.
    fn head(&self, headers: &str) -> String {
        let item = &self.item;
        format!("PUT {item} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{headers}\r\n")
    }

    fn put(&self, headers: &str, body: impl AsRef<[u8]>) -> Client {
        let mut client = self.server.connect();
        client.send([self.head(headers).as_bytes(), body.as_ref()].concat()).unwrap();
        client
    }

    /// Sends an upload, followed by another request. The upload must fail with `status`, change
    /// nothing and close the connection before the other request is served.
    fn assert_rejected(&self, headers: &str, body: &str, status: u16) {
        let mut client = self.put(headers, format!("{body}{HEALTH}"));
        let response = client.read_response(false).unwrap();
        response.expect_error(status);
        assert_eq!(response.header("Connection"), "close", "{headers:?} {body:?}");
        assert!(
            client.closes_without_response(),
            "a smuggled request was served after {headers:?} {body:?}"
        );
        assert_eq!(self.value(), b"old", "{headers:?} {body:?}");
    }
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const CHUNKED_BODY: &str = "5;name=value\r\nhello\r\n00b ; a=\"b;c\"\r\n, chunked w\r\n\
                            4\r\norld\r\n000;last\r\nTrailer: x\r\nAnother: y\r\n\r\n";

#[test]
fn chunks_may_be_split_at_any_byte() {
    let fixture = Fixture::new();
    for split_at in 0..=CHUNKED_BODY.len() {
        let mut client = fixture.put(CHUNKED, &CHUNKED_BODY[..split_at]);
        std::thread::sleep(Duration::from_millis(2));
        client.send(format!("{}{HEALTH}", &CHUNKED_BODY[split_at..])).unwrap();
        assert_eq!(client.read_response(false).unwrap().status, 200, "split at byte {split_at}");
        assert_eq!(client.read_response(false).unwrap().text(), "ok\n", "split at byte {split_at}");
        assert_eq!(fixture.value(), b"hello, chunked world", "split at byte {split_at}");
    }
    let mut client = fixture.put("transfer-encoding: ChunKed \r\n", "");
    for byte in CHUNKED_BODY.as_bytes() {
        client.send([*byte]).unwrap();
    }
    assert_eq!(client.read_response(false).unwrap().status, 200);
}

#[test]
fn a_chunked_upload_without_data_stores_an_empty_value() {
    let fixture = Fixture::new();
    let mut client = fixture.put(CHUNKED, "0\r\n\r\n");
    assert_eq!(client.read_response(false).unwrap().status, 200);
    assert_eq!(fixture.value(), b"");
}

#[test]
fn malformed_chunks_are_rejected_with_400_and_change_nothing() {
    let fixture = Fixture::new();
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(2000));
    let trailers = format!("0\r\n{}\r\n", format!("x: {}\r\n", "y".repeat(500)).repeat(30));
    for chunks in [
        "-5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n", "5 5\r\nhello\r\n0\r\n\r\n", "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n", ";x\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n", "5\r\nhello\r\n0\r\nx: y\n\r\n", &long, &trailers,
    ] {
        fixture.assert_rejected(CHUNKED, chunks, 400);
    }
}

#[test]
fn an_incomplete_body_changes_nothing() {
    let fixture = Fixture::new();
    for split_at in 0..CHUNKED_BODY.len() {
        let mut client = fixture.put(CHUNKED, &CHUNKED_BODY[..split_at]);
        client.shutdown_write();
        client.read_response(false).unwrap().expect_error(400);
        assert!(client.closes_without_response());
    }
    for size in [0, 1, 9] {
        let mut client = fixture.put("Content-Length: 10\r\n", vec![b'v'; size]);
        client.shutdown_write();
        client.read_response(false).unwrap().expect_error(400);
        assert!(client.closes_without_response());
    }
    assert_eq!(fixture.value(), b"old");
}

#[test]
fn an_ambiguous_body_length_is_rejected_with_400_and_closes_the_connection() {
    let fixture = Fixture::new();
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 5\r\n",
        "Content-Length: 5,6\r\n",
    ] {
        fixture.assert_rejected(headers, "0\r\n\r\n", 400);
    }
}

#[test]
fn an_invalid_content_length_is_rejected_with_400() {
    let fixture = Fixture::new();
    for length in [
        "-5", "+5", "5 5", "5.0", "0x5", "5e0", "five", "", "\"5\"", "5;", "18446744073709551616",
        "99999999999999999999999999",
    ] {
        fixture.assert_rejected(&format!("Content-Length: {length}\r\n"), "hello", 400);
    }
    fixture.assert_rejected("Content-Length: 18446744073709551615\r\n", "hello", 413);
    let mut client = fixture.put("Content-Length:  \t005 \t\r\n", format!("hello{HEALTH}"));
    assert_eq!(client.read_response(false).unwrap().status, 200);
    assert_eq!(client.read_response(false).unwrap().text(), "ok\n");
    assert_eq!(fixture.value(), b"hello");
}

#[test]
fn transfer_codings_other_than_chunked_are_rejected_with_501() {
    let fixture = Fixture::new();
    for coding in [
        "gzip", "identity", "gzip, chunked", "chunked, gzip", "chunked, chunked", "chunked,",
        ", chunked", "\"chunked\"", "chunked;q=1", "xchunked", "chunkedx", "",
    ] {
        fixture.assert_rejected(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n", 501);
    }
    fixture.assert_rejected(&format!("{CHUNKED}{CHUNKED}"), "0\r\n\r\n", 501);
    fixture.assert_rejected(&format!("{CHUNKED}Transfer-Encoding: gzip\r\n"), "0\r\n\r\n", 501);
    fixture.assert_rejected("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n", 400);
}

#[test]
fn chunked_coding_with_http_1_0_is_rejected_with_400() {
    let fixture = Fixture::new();
    let mut client = fixture.server.connect();
    let head = fixture.head(CHUNKED).replace("HTTP/1.1", "HTTP/1.0");
    client.send(format!("{head}0\r\n\r\n{HEALTH}")).unwrap();
    client.read_response(false).unwrap().expect_error(400);
    assert!(client.closes_without_response());
    assert_eq!(fixture.value(), b"old");
}

#[test]
fn an_unexpected_body_is_not_parsed_as_a_request() {
    let fixture = Fixture::new();
    let length = format!("Content-Length: {}\r\n", HEALTH.len());
    for method in ["GET", "HEAD", "DELETE"] {
        let head = fixture.head(&length).replacen("PUT", method, 1);
        let mut client = fixture.server.connect();
        client.send(format!("{head}{HEALTH}{HEALTH}")).unwrap();
        let status = client.read_response(method == "HEAD").unwrap().status;
        assert!([200, 204].contains(&status), "{method}: {status}");
        assert_eq!(client.read_response(false).unwrap().text(), "ok\n", "{method}");
        client.shutdown_write();
        assert!(client.closes_without_response(), "the body of {method} was parsed as a request");
    }
}

#[test]
fn continue_100_is_sent_once_the_head_is_accepted() {
    let fixture = Fixture::new();
    for headers in ["Content-Length: 5\r\n", CHUNKED] {
        let mut client = fixture.put(&format!("Expect: 100-Continue\r\n{headers}"), "");
        let interim = client.read_response(false).unwrap();
        assert_eq!(interim.head, "HTTP/1.1 100 Continue");
        let body = if headers == CHUNKED { "5\r\nfresh\r\n0\r\n\r\n" } else { "fresh" };
        client.send(format!("{body}{HEALTH}")).unwrap();
        assert_eq!(client.read_response(false).unwrap().status, 200);
        assert_eq!(client.read_response(false).unwrap().text(), "ok\n");
        assert_eq!(fixture.value(), b"fresh");
    }
}

#[test]
fn a_rejected_head_gets_no_100_continue() {
    let fixture = Fixture::new();
    let item = &fixture.item;
    let send_head = |request: &str, headers: &str| -> (Client, Response) {
        let mut client = fixture.server.connect();
        let expect = "Expect: 100-continue\r\nHost: h\r\n";
        client.send(format!("{request} HTTP/1.1\r\n{expect}{headers}\r\n")).unwrap();
        let response = client.read_response(false).unwrap();
        (client, response)
    };
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    let none = "/resources/stores/kv/0000000000000000000000/keys/k";
    let invalid_key = item.replace("/keys/k", "/keys/..");
    for (request, headers, status) in [
        (format!("PUT {item}"), "Content-Length: 5\r\n".to_owned(), 401),
        (format!("PUT {item}"), "Fastly-Key: other\r\nContent-Length: 5\r\n".to_owned(), 401),
        (format!("PUT {none}"), format!("{key}Content-Length: 5\r\n"), 404),
        (format!("PUT {invalid_key}"), format!("{key}Content-Length: 5\r\n"), 400),
        (format!("PUT {item}?add=true"), format!("{key}Content-Length: 5\r\n"), 412),
        (format!("PUT {item}"), format!("{key}if-generation-match: 1\r\n{CHUNKED}"), 412),
        (format!("PUT {item}"), format!("{key}time_to_live_sec: 0\r\n{CHUNKED}"), 400),
        (format!("PUT {item}"), format!("{key}Content-Length: 26214401\r\n"), 413),
        (format!("POST {item}"), format!("{key}Content-Length: 5\r\n"), 405),
        (format!("PUT {item}/../x?add"), format!("{key}Content-Length: 5\r\n"), 400),
        ("PUT /no/such/path".to_owned(), format!("{key}Content-Length: 5\r\n"), 404),
    ] {
        let (mut client, response) = send_head(&request, &headers);
        assert_eq!(response.status, status, "{request} {headers}");
        // The server cannot know whether the client will send the body, so it must close.
        assert_eq!(response.header("Connection"), "close", "{request}");
        assert!(client.closes_without_response(), "{request}");
    }
    assert_eq!(fixture.value(), b"old");
}

#[test]
fn unknown_expectations_are_rejected_with_417() {
    let fixture = Fixture::new();
    for what in ["200-ok", "100-continue, x", "continue", ""] {
        fixture.assert_rejected(&format!("Expect: {what}\r\nContent-Length: 5\r\n"), "hello", 417);
    }
}

#[test]
fn http_1_0_gets_no_100_continue() {
    let fixture = Fixture::new();
    let head = fixture.head("Expect: 100-continue\r\nContent-Length: 5\r\n");
    let mut client = fixture.server.connect();
    client.send(head.replace("HTTP/1.1", "HTTP/1.0") + "hello").unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 200);
    assert_eq!(fixture.value(), b"hello");
}
