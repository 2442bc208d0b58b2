//! Helpers for the fuzz targets: an in-process server on the memory engine and an in-memory stream.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use steadfast::api::{Api, Auth};
use steadfast::engine::memory::Memory;
use steadfast::http::{self, Timeouts};
use steadfast::kv::Kv;
use steadfast::kv::clock::SystemClock;
use steadfast::kv::types::StoreName;
use steadfast::metrics::Metrics;
use steadfast::wire::Token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The root token of the server.
pub const TOKEN: &str = "fuzz-token-0123456789";
/// Maximum size of a value, in bytes; small enough that inputs exceed it.
pub const VALUE_BYTES_MAX: u64 = 2000;
/// The key of the sentinel item, which is written before each input.
pub const SENTINEL_KEY: &str = "kept";
/// Number of inputs after which the server is replaced, to bound the size of its store.
const INPUTS_MAX: u32 = 2000;

/// A server with one store and the sentinel item.
pub struct Server {
    runtime: Runtime,
    api: Arc<Api>,
    /// The id of the store.
    pub store: String,
    _drain: watch::Sender<bool>,
    draining: watch::Receiver<bool>,
    inputs: u32,
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// Runs `work` on this thread's server after putting the sentinel item.
pub fn with_server<T>(work: impl FnOnce(&Server) -> T) -> T {
    SERVER.with_borrow_mut(|server| {
        if server.as_ref().is_none_or(|server| server.inputs >= INPUTS_MAX) {
            *server = Some(Server::new());
        }
        let server = server.as_mut().expect("just created");
        server.inputs += 1;
        let put = server.request("PUT", &server.item(SENTINEL_KEY), "", b"value");
        assert_eq!(put.status, 200, "the sentinel item cannot be put");
        work(server)
    })
}

/// A response from the server.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The status line and header fields, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Server {
    fn new() -> Server {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let engine = Arc::new(Memory::new());
        let kv = Arc::new(Kv::new(engine, Arc::new(SystemClock), VALUE_BYTES_MAX));
        let name = StoreName::parse("store").expect("a name");
        let store = runtime.block_on(kv.create_store(name, None)).expect("a store");
        let auth = Auth::new(Token::parse(TOKEN).expect("a token"));
        let api = Arc::new(Api::new(kv, auth, Arc::new(Metrics::default()), 16 << 20));
        let (drain, draining) = watch::channel(false);
        let store = store.id.to_string();
        Server { runtime, api, store, _drain: drain, draining, inputs: 0 }
    }

    /// Returns the path of an item.
    pub fn item(&self, key: &str) -> String {
        format!("/resources/stores/kv/{}/keys/{key}", self.store)
    }

    /// Sends bytes, closes the client's side of the connection, and returns all bytes that the
    /// server sends.
    pub fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let second = Duration::from_secs(1);
        let timeouts = Timeouts { head: second, idle: second, body: second, write: second };
        let (api, draining) = (self.api.clone(), self.draining.clone());
        self.runtime.block_on(async {
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            let mut response = Vec::new();
            let serve = http::serve(theirs, &*api, timeouts, draining);
            let client = async {
                // The server may close the connection before it has read everything.
                let _ = ours.write_all(bytes).await;
                let _ = ours.shutdown().await;
                let _ = ours.read_to_end(&mut response).await;
            };
            tokio::join!(serve, client);
            response
        })
    }

    /// Sends a request and returns the response. The target must not contain spaces or control
    /// characters.
    pub fn request(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> Response {
        self.send_request(method.as_bytes(), target.as_bytes(), fields.as_bytes(), body)
    }

    /// Sends a request like [`Server::request`], but accepts arbitrary bytes.
    pub fn send_request(
        &self,
        method: &[u8],
        target: &[u8],
        fields: &[u8],
        body: &[u8],
    ) -> Response {
        let rest = format!(
            " HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\nContent-Length: {}\r\n\
             Connection: close\r\n",
            body.len()
        );
        let request = [method, b" ", target, rest.as_bytes(), fields, b"\r\n", body].concat();
        let responses = parse_responses(&self.send(&request), &[method == b"HEAD"]);
        let [response] = <[Response; 1]>::try_from(responses).expect("exactly one response");
        response
    }

    /// Asserts that the store exists and that the sentinel item is unchanged.
    pub fn assert_intact(&self) {
        let path = format!("/resources/stores/kv/{}", self.store);
        assert_eq!(self.request("GET", &path, "", b"").status, 200, "the store was deleted");
        let sentinel = self.request("GET", &self.item(SENTINEL_KEY), "", b"");
        assert_eq!(
            (sentinel.status, &sentinel.body[..]),
            (200, &b"value"[..]),
            "the sentinel item changed"
        );
    }
}

/// Splits a byte stream into responses, and asserts that each is well-formed. `bodiless` states for
/// each response, in order, whether it responds to HEAD.
pub fn parse_responses(mut bytes: &[u8], bodiless: &[bool]) -> Vec<Response> {
    let mut responses = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("a head without an end: {bytes:?}"));
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        bytes = &bytes[end + 4..];
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3));
        let status: u16 = status.and_then(|status| status.parse().ok()).expect("a status line");
        assert!((100..600).contains(&status) && status / 100 != 3, "{head}");
        assert!(status != 500, "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut len = length.map_or(0, |len| len.parse().expect("a length"));
        assert!(length.is_some() != (status == 204 || status < 200), "{head}");
        if bodiless.get(responses.len()).copied().unwrap_or(false) {
            // The response to a malformed request head has a body, because the method is unknown.
            len = if bytes.len() == len { len } else { 0 };
        }
        assert!(bytes.len() >= len, "the body is truncated");
        let (body, rest) = bytes.split_at(len);
        bytes = rest;
        if head.contains("content-type: application/json") && !body.is_empty() {
            serde_json::from_slice::<serde_json::Value>(body).expect("JSON");
        }
        if status >= 200 {
            responses.push(Response { status, head, body: body.to_vec() });
        }
    }
    responses
}
