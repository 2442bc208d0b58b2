//! An in-process server on an in-memory stream, to measure requests without sockets.

use std::sync::Arc;
use std::time::Duration;
use steadfast::api::{Api, Auth};
use steadfast::engine::Engine;
use steadfast::engine::embedded::{Embedded, FatalErrorHandler, Options};
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

const TOKEN: &str = "bench-token-0123456789";
/// Number of items in the store. Each value is 1 KB long.
pub const ITEMS: usize = 10_000;

/// A server with one store of [`ITEMS`] items.
pub struct Server {
    runtime: Runtime,
    api: Arc<Api>,
    store: String,
    _drain: watch::Sender<bool>,
    draining: watch::Receiver<bool>,
    _dir: Option<tempfile::TempDir>,
}

impl Server {
    /// Creates a server on the memory engine.
    #[allow(dead_code, reason = "each benchmark uses one constructor")]
    pub fn memory() -> Server {
        Server::over(Arc::new(Memory::new()), None)
    }

    /// Creates a server on the embedded engine. Reopens the engine to move all items to the
    /// database, because instruction counts depend on the share of items that are still in the WAL.
    #[allow(dead_code, reason = "each benchmark uses one constructor")]
    pub fn embedded() -> Server {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        let open = || -> Arc<dyn Engine> {
            let engine = Embedded::open(Options {
                dir: data.clone(),
                cache_bytes: 128 << 20,
                wal_bytes: 128 << 20,
                fatal: FatalErrorHandler::new(|why| panic!("{why}")),
            });
            Arc::new(engine.expect("an engine"))
        };
        let engine = open();
        let mut server = Server::over(engine.clone(), Some(dir));
        server.runtime.block_on(engine.close()).expect("close");
        server.api = Server::api(&new_kv(open()));
        server
    }

    fn api(kv: &Arc<Kv>) -> Arc<Api> {
        let auth = Auth::new(Token::parse(TOKEN).expect("a token"));
        Arc::new(Api::new(kv.clone(), auth, Arc::new(Metrics::default()), 256 << 20))
    }

    fn over(engine: Arc<dyn Engine>, dir: Option<tempfile::TempDir>) -> Server {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let kv = new_kv(engine);
        let name = StoreName::parse("store").expect("a name");
        let store = runtime.block_on(kv.create_store(name, None)).expect("a store").id.to_string();
        let api = Server::api(&kv);
        let (drain, draining) = watch::channel(false);
        let server = Server { runtime, api, store, _drain: drain, draining, _dir: dir };
        let lines: Vec<String> = (0..ITEMS).map(line).collect();
        server.send(&server.request("PUT", "/batch", &lines.concat()), 1);
        server
    }

    /// Formats a request to the store.
    pub fn request(&self, method: &str, below: &str, body: &str) -> Vec<u8> {
        let store = &self.store;
        let length = match method {
            "PUT" => format!("Content-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        format!(
            "{method} /resources/stores/kv/{store}{below} HTTP/1.1\r\nHost: 127.0.0.1:7678\r\n\
             User-Agent: bench\r\nAccept: */*\r\nFastly-Key: {TOKEN}\r\n{length}\r\n{body}"
        )
        .into_bytes()
    }

    /// Sends a request `times` times in sequence on one connection.
    pub fn send(&self, request: &[u8], times: usize) {
        let minute = Duration::from_secs(60);
        let timeouts = Timeouts { head: minute, idle: minute, body: minute, write: minute };
        self.runtime.block_on(async {
            let (mut ours, theirs) = tokio::io::duplex(64 << 10);
            let serve = http::serve(theirs, &*self.api, timeouts, self.draining.clone());
            let client = async {
                ours.write_all(request).await.expect("cannot write the request");
                let mut bytes = read_response(&mut ours).await;
                // Responses to identical requests have the same length, so only the first is
                // parsed.
                for _ in 1..times {
                    ours.write_all(request).await.expect("cannot write the request");
                    ours.read_exact(&mut bytes).await.expect("a response");
                    assert!(bytes.starts_with(b"HTTP/1.1 200 "), "the response is not a 200");
                }
                drop(ours);
            };
            tokio::join!(serve, client);
        })
    }
}

fn new_kv(engine: Arc<dyn Engine>) -> Arc<Kv> {
    Arc::new(Kv::new(engine, Arc::new(SystemClock), 25 << 20))
}

/// Formats a line of a batch.
pub fn line(n: usize) -> String {
    // 1360 base64 characters decode to 1020 bytes.
    format!("{{\"key\":\"{}\",\"value\":\"{}\"}}\n", key(n), "c3Rl".repeat(340))
}

/// Returns the key of the item with the given number.
pub fn key(n: usize) -> String {
    format!("folder/key-{n:08}")
}

/// Reads one response, which must be a 200; returns its head and body.
async fn read_response(stream: &mut tokio::io::DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4096);
    let head = loop {
        assert!(
            stream.read_buf(&mut bytes).await.expect("a response") > 0,
            "the connection was closed"
        );
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200 "), "{text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").trim().parse().expect("a number");
    let had = bytes.len();
    bytes.resize(head + length, 0);
    stream.read_exact(&mut bytes[had..]).await.expect("the rest");
    bytes
}
