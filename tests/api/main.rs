//! Tests of the HTTP API of the binary, endpoint by endpoint. Requests are sent as literal bytes.
//! Responses are compared byte for byte where a recording of the hosted API exists.
//!
//! The suite runs on every engine: `api` uses the memory engine, `api_embedded` the embedded engine
//! and `api_postgres` PostgreSQL.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]

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
mod memory;
mod paths_and_keys;
mod simulation;
mod stores;
mod tokens;

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use support::{Client, Response, Server, TOKEN, create_database, drop_database};
use tempfile::TempDir;

/// The path of the store collection.
const STORES: &str = "/resources/stores/kv";
/// A well-formed id that no store has.
const UNKNOWN_STORE: &str = "0000000000000000000000";

/// A server that runs on the engine of this suite and has no stores at first.
struct TestServer {
    server: Server,
    /// The data directory of the embedded engine.
    _dir: Option<TempDir>,
    /// The database of the PostgreSQL engine. It is dropped after the server has stopped.
    database: Option<String>,
}

impl TestServer {
    /// Starts the server with these additional flags. If `STEADFAST_TEST_POSTGRES` is not set, the
    /// PostgreSQL suite prints a notice and uses the memory engine.
    fn start(flags: &[&str]) -> TestServer {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let in_memory = || TestServer { server: Server::memory(flags), _dir: None, database: None };
        match env!("CARGO_CRATE_NAME") {
            "api_embedded" => {
                let dir = tempfile::tempdir().unwrap();
                let server = Server::start(&dir.path().join("data"), flags);
                TestServer { server, _dir: Some(dir), database: None }
            }
            "api_postgres" => {
                let name = format!("api{}", NEXT.fetch_add(1, Ordering::Relaxed));
                let Some(url) = create_database(&name) else { return in_memory() };
                let server = Server::postgres_with_flags(&url, flags);
                TestServer { server, _dir: None, database: Some(url) }
            }
            _ => in_memory(),
        }
    }
}

impl Deref for TestServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.server.kill();
        if let Some(url) = &self.database {
            drop_database(url);
        }
    }
}

/// A server with one store.
struct Case {
    server: TestServer,
    id: String,
}

impl Case {
    fn new() -> Case {
        Case::with(&[])
    }

    /// Starts the server with these additional flags.
    fn with(flags: &[&str]) -> Case {
        let server = TestServer::start(flags);
        let id = server.create_store("main");
        Case { server, id }
    }

    /// Returns the path of the store.
    fn store_path(&self) -> String {
        format!("{STORES}/{}", self.id)
    }

    /// Returns the path of an item. `key` is used unchanged and may be followed by a query.
    fn item_path(&self, key: &str) -> String {
        format!("{}/keys/{key}", self.store_path())
    }

    fn put(&self, key: &str, headers: &[(&str, &str)], value: &[u8]) -> Response {
        self.server.request(&format!("PUT {}", self.item_path(key)), headers, value)
    }

    fn get(&self, key: &str) -> Response {
        self.server.get(&self.item_path(key))
    }

    fn head(&self, key: &str) -> Response {
        self.server.request(&format!("HEAD {}", self.item_path(key)), &[], b"")
    }

    fn delete(&self, key: &str, headers: &[(&str, &str)]) -> Response {
        self.server.request(&format!("DELETE {}", self.item_path(key)), headers, b"")
    }

    /// Requests a page of keys. `query` is empty or begins with `?`.
    fn list(&self, query: &str) -> Response {
        self.server.get(&format!("{}/keys{query}", self.store_path()))
    }

    /// Returns all keys in the store. They must fit on one page.
    fn list_keys(&self) -> Vec<String> {
        let page = self.list("").json();
        assert!(page["meta"].get("next_cursor").is_none(), "{page}");
        serde_json::from_value(page["data"].clone()).unwrap()
    }

    /// Puts an item, checks that the put succeeds, and returns the generation.
    fn put_ok(&self, key: &str, headers: &[(&str, &str)], value: &[u8]) -> u64 {
        assert_put_ok(&self.put(key, headers, value));
        self.get(key).generation()
    }

    /// Returns the value of an item. The item must exist.
    fn get_value(&self, key: &str) -> Vec<u8> {
        let got = self.get(key);
        assert_eq!(got.status, 200, "{key}: {}", got.head);
        got.body
    }

    /// Opens a connection and sends the head of a request with the token and these header lines.
    fn send_head(&self, request: &str, lines: &str) -> Client {
        let mut client = self.server.connect();
        let head = format!("{request} HTTP/1.1\r\nHost: test\r\nFastly-Key: {TOKEN}\r\n");
        client.send(format!("{head}{lines}\r\n")).unwrap();
        client
    }
}

/// Returns the status line of a response.
fn status_line(response: &Response) -> &str {
    response.head.split("\r\n").next().unwrap_or_default()
}

/// Checks the response to a successful put.
fn assert_put_ok(response: &Response) {
    assert_eq!(status_line(response), "HTTP/1.1 200 OK", "{}", response.head);
    assert_eq!(response.header("Content-Length"), "0");
    assert!(!response.has_header("Content-Type") && response.body.is_empty(), "{}", response.head);
}

/// Checks that a response is the empty 412 response to a write with a failed condition.
fn assert_412(response: &Response) {
    assert_eq!(status_line(response), "HTTP/1.1 412 Precondition Failed", "{}", response.head);
    assert_eq!(response.header("Content-Length"), "0");
    assert!(!response.has_header("Content-Type") && response.body.is_empty(), "{}", response.head);
    assert_not_cached(response);
}

/// Checks the headers that prevent a response from being cached.
fn assert_not_cached(response: &Response) {
    assert_eq!(response.header("Cache-Control"), "no-store");
    assert_eq!(response.header("Pragma"), "no-cache");
}

/// Checks that a response is a 204 without headers that describe a body.
fn assert_204(response: &Response) {
    assert_eq!(status_line(response), "HTTP/1.1 204 No Content", "{}", response.head);
    for name in ["Content-Length", "Content-Type", "Transfer-Encoding"] {
        assert!(!response.has_header(name), "{}", response.head);
    }
    assert_not_cached(response);
}

/// Checks an error. The detail must begin with the name of the invalid field, in any letter case.
fn assert_error(response: &Response, status: u16, field: &str) {
    let detail = response.expect_error(status);
    let named = detail.split(' ').next().unwrap_or_default();
    assert!(named.eq_ignore_ascii_case(field), "{field}: {detail}");
}

/// Converts a generation to an HTTP date.
fn http_date(generation: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(generation / 1_000_000))
}

/// Encodes bytes as a chunk of a chunked body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Escapes a cursor for use in a query.
fn escape_cursor(cursor: &str) -> String {
    cursor.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}
