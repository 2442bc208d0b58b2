//! What each endpoint means, over HTTP with literal bytes, against the binary as it is shipped.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test may panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod batch;
mod concurrency;
mod errors;
mod expiry;
mod extensions;
mod items_delete;
mod items_get;
mod items_put;
mod key_lists;
mod paths_and_keys;
mod stores;
mod tokens;

use std::time::{Duration, UNIX_EPOCH};
use support::{Client, Response, Server, TOKEN};

/// Where stores are.
const STORES: &str = "/resources/stores/kv";
/// An id of the right form that was never given out.
const NO_STORE: &str = "0000000000000000000000";

/// A server in memory with one store.
struct Case {
    server: Server,
    id: String,
}

impl Case {
    fn new() -> Case {
        Case::with(&[])
    }

    /// With flags for the server.
    fn with(flags: &[&str]) -> Case {
        let server = Server::memory(flags);
        let id = server.create_store("main");
        Case { server, id }
    }

    /// The path of the store.
    fn at(&self) -> String {
        format!("{STORES}/{}", self.id)
    }

    /// The path of an item; `key` goes out as it is and may carry a query.
    fn path(&self, key: &str) -> String {
        format!("{}/keys/{key}", self.at())
    }

    fn put(&self, key: &str, fields: &[(&str, &str)], value: &[u8]) -> Response {
        self.server.request(&format!("PUT {}", self.path(key)), fields, value)
    }

    fn get(&self, key: &str) -> Response {
        self.server.request(&format!("GET {}", self.path(key)), &[], b"")
    }

    fn head(&self, key: &str) -> Response {
        self.server.request(&format!("HEAD {}", self.path(key)), &[], b"")
    }

    fn delete(&self, key: &str, fields: &[(&str, &str)]) -> Response {
        self.server.request(&format!("DELETE {}", self.path(key)), fields, b"")
    }

    /// A page of keys; `query` begins with its question mark.
    fn list(&self, query: &str) -> Response {
        self.server.request(&format!("GET {}/keys{query}", self.at()), &[], b"")
    }

    /// All keys of the store.
    fn keys(&self) -> Vec<String> {
        let page = self.list("").json();
        assert!(page["meta"].get("next_cursor").is_none(), "{page}");
        serde_json::from_value(page["data"].clone()).unwrap()
    }

    /// Puts an item, which must succeed, and answers its generation.
    fn stored(&self, key: &str, fields: &[(&str, &str)], value: &[u8]) -> u64 {
        accepted(&self.put(key, fields, value));
        self.get(key).generation()
    }

    /// The value of an item, which must be there.
    fn value(&self, key: &str) -> Vec<u8> {
        let got = self.get(key);
        assert_eq!(got.status, 200, "{key}: {}", got.head);
        got.body
    }

    /// A connection on which a request's head was sent with these lines besides the token.
    fn begin(&self, request: &str, lines: &str) -> Client {
        let mut client = self.server.connect();
        let head = format!("{request} HTTP/1.1\r\nHost: test\r\nFastly-Key: {TOKEN}\r\n");
        client.send(format!("{head}{lines}\r\n")).unwrap();
        client
    }
}

/// The status line of an answer.
fn status_line(answer: &Response) -> &str {
    answer.head.split("\r\n").next().unwrap_or_default()
}

/// Checks the answer to a put that was done.
fn accepted(answer: &Response) {
    assert_eq!(status_line(answer), "HTTP/1.1 200 OK", "{}", answer.head);
    assert_eq!(answer.header("Content-Length"), "0");
    assert!(!answer.has_header("Content-Type") && answer.body.is_empty(), "{}", answer.head);
}

/// Checks the answer to a write whose condition did not hold: empty, as recorded.
fn unmet(answer: &Response) {
    assert_eq!(status_line(answer), "HTTP/1.1 412 Precondition Failed", "{}", answer.head);
    assert_eq!(answer.header("Content-Length"), "0");
    assert!(!answer.has_header("Content-Type") && answer.body.is_empty(), "{}", answer.head);
}

/// Checks an answer that has nothing to say and no word of a length.
fn gone(answer: &Response) {
    assert_eq!(status_line(answer), "HTTP/1.1 204 No Content", "{}", answer.head);
    for name in ["Content-Length", "Content-Type", "Transfer-Encoding"] {
        assert!(!answer.has_header(name), "{}", answer.head);
    }
}

/// Checks a refusal that must name what is wrong in its first word; names of header fields have
/// no letter case.
fn refused_for(answer: &Response, status: u16, field: &str) {
    let detail = answer.expect_error(status);
    let named = detail.split(' ').next().unwrap_or_default();
    assert!(named.eq_ignore_ascii_case(field), "{field}: {detail}");
}

/// The time of a generation's second, as header fields show it.
fn http_date(generation: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(generation / 1_000_000))
}

/// Lines of a chunked body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}
