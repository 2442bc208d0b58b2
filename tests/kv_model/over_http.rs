//! A store that is accessed over HTTP through three servers that share a database. The test cannot
//! set their clock, so it extends every time to live beyond the duration of the test.

use crate::MAX;
use crate::engines::ProcessPicker;
use crate::store_under_test::{ReadItem, StoreUnderTest};
use crate::support::{Response, Server};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::cell::{Cell, RefCell};
use steadfast::kv::Error;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::preconditions::PutMode;
use steadfast::kv::types::Ttl;

const STORES: &str = "/resources/stores/kv";
/// One day, which is added to every time to live.
const TTL_OFFSET_SECS: u64 = 86_400;

/// The servers that all cases share. The cases run one after another.
pub(crate) struct Servers {
    url: String,
    flags: [String; 2],
    servers: RefCell<Vec<Server>>,
    cases: Cell<usize>,
}

impl Servers {
    pub(crate) fn new(url: String) -> Servers {
        let flags = ["--max-value".into(), MAX.to_string()];
        let servers = Servers { url, flags, servers: RefCell::default(), cases: Cell::new(0) };
        for _ in 0..3 {
            servers.servers.borrow_mut().push(servers.start());
        }
        servers
    }

    fn start(&self) -> Server {
        Server::postgres_with_flags(&self.url, &self.flags.each_ref().map(String::as_str))
    }

    /// Sends SIGKILL to a server and starts a replacement.
    fn kill(&self, number: usize) {
        self.servers.borrow_mut()[number].kill();
        self.servers.borrow_mut()[number] = self.start();
    }
}

/// A case, which has its own store on the shared servers.
pub(crate) struct OverHttp<'s> {
    servers: &'s Servers,
    turns: ProcessPicker,
    /// The prefix of all store names in the case. It keeps the names of different cases distinct.
    name_prefix: String,
    store: String,
}

impl<'s> OverHttp<'s> {
    pub(crate) fn new(servers: &'s Servers) -> OverHttp<'s> {
        let case = servers.cases.replace(servers.cases.get() + 1);
        let name_prefix = format!("case{case}-");
        let turns = ProcessPicker::new(servers.servers.borrow().len());
        let store =
            servers.servers.borrow()[turns.next()].create_store(&format!("{name_prefix}s0"));
        OverHttp { servers, turns, name_prefix, store }
    }

    fn request(&self, by: usize, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.servers.servers.borrow()[by].request(request, headers, body)
    }

    /// Returns `METHOD TARGET`. The target is the path of the store, followed by `rest`.
    fn store_request(&self, method: &str, rest: &str) -> String {
        format!("{method} {STORES}/{}{rest}", self.store)
    }

    fn item_request(&self, method: &str, key: &str, query: &str) -> String {
        let escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.store_request(method, &format!("/keys/{escaped}{query}"))
    }
}

fn error_of(response: &Response) -> Error {
    match response.status {
        404 => Error::NoItem,
        409 => Error::StoreNotEmpty,
        412 => Error::Precondition,
        413 => Error::TooLarge(MAX),
        _ => panic!("{response:?}"),
    }
}

impl StoreUnderTest for OverHttp<'_> {
    fn processes(&self) -> usize {
        self.servers.servers.borrow().len()
    }

    fn next(&self) -> usize {
        self.turns.next()
    }

    async fn put(&self, by: usize, key: &str, put: &PutRequest, body: &[u8]) -> Result<u64, Error> {
        let query = match put.mode {
            PutMode::Overwrite => "",
            PutMode::Add => "?add=true",
            PutMode::Append => "?append=true",
            PutMode::Prepend => "?prepend=true",
        };
        let mut headers = Vec::new();
        headers.extend(
            put.if_generation.map(|condition| ("if-generation-match", condition.to_string())),
        );
        headers.extend(
            put.ttl.map(|ttl| ("time_to_live_sec", (ttl.secs() + TTL_OFFSET_SECS).to_string())),
        );
        let metadata = String::from_utf8(put.metadata.as_bytes().to_vec()).unwrap();
        headers.extend(Some(("metadata", metadata)).filter(|(_, text)| !text.is_empty()));
        let headers: Vec<_> = headers.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let response = self.request(by, &self.item_request("PUT", key, query), &headers, body);
        if response.status == 200 { Ok(response.generation()) } else { Err(error_of(&response)) }
    }

    async fn delete(&self, by: usize, key: &str, delete: DeleteRequest) -> Result<(), Error> {
        let query = if delete.force { "?force=true" } else { "" };
        let expected_generation = delete.if_generation.map(|condition| condition.to_string());
        let headers: Vec<_> =
            expected_generation.iter().map(|g| ("if-generation-match", g.as_str())).collect();
        let response = self.request(by, &self.item_request("DELETE", key, query), &headers, b"");
        if response.status == 204 { Ok(()) } else { Err(error_of(&response)) }
    }

    async fn batch(&self, by: usize, lines: &[(&str, Option<Ttl>, Vec<u8>)]) {
        let line = |(key, ttl, value): &(&str, Option<Ttl>, Vec<u8>)| {
            let mut line = serde_json::json!({ "key": key, "value": STANDARD.encode(value) });
            if let Some(ttl) = ttl {
                line["time_to_live_sec"] = (ttl.secs() + TTL_OFFSET_SECS).into();
            }
            format!("{line}\n")
        };
        let lines: String = lines.iter().map(line).collect();
        let response =
            self.request(by, &self.store_request("PUT", "/batch"), &[], lines.as_bytes());
        assert_eq!(response.status, 200, "{response:?}");
    }

    async fn list(&self, prefix: &str, limit: usize) -> Vec<String> {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let query = format!("/keys?prefix={prefix}&limit={limit}{cursor}");
            let page =
                self.request(self.next(), &self.store_request("GET", &query), &[], b"").json();
            let keys = page["data"].as_array().unwrap();
            found.extend(keys.iter().map(|key| key.as_str().unwrap().to_owned()));
            match page["meta"]["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", next.replace('+', "%2B")),
                None => return found,
            }
        }
    }

    async fn get(&self, key: &str) -> Option<ReadItem> {
        let response = self.request(self.next(), &self.item_request("GET", key, ""), &[], b"");
        if response.status == 404 {
            return None;
        }
        assert_eq!(response.status, 200, "{response:?}");
        let metadata = response.headers("Metadata").concat().into_bytes();
        let generation = response.generation();
        Some(ReadItem { value: response.body, metadata, generation, expires: None })
    }

    async fn head(&self, key: &str) -> (u64, u64) {
        let response = self.request(self.next(), &self.item_request("HEAD", key, ""), &[], b"");
        (response.header("Content-Length").parse().unwrap(), response.generation())
    }

    async fn name(&self) -> String {
        let described = self.request(self.next(), &self.store_request("GET", ""), &[], b"").json();
        described["name"].as_str().unwrap().strip_prefix(&self.name_prefix).unwrap().to_owned()
    }

    async fn rename(&self, name: &str) {
        let body = serde_json::json!({ "name": format!("{}{name}", self.name_prefix) }).to_string();
        let response =
            self.request(self.next(), &self.store_request("PUT", ""), &[], body.as_bytes());
        assert_eq!(response.status, 200, "{response:?}");
    }

    async fn delete_store(&self) -> Result<(), Error> {
        let response = self.request(self.next(), &self.store_request("DELETE", ""), &[], b"");
        if response.status == 204 { Ok(()) } else { Err(error_of(&response)) }
    }

    async fn reopen(&mut self) -> Option<usize> {
        let killed = self.next();
        self.servers.kill(killed);
        Some(killed)
    }

    fn set_clock(&self, _: u64) -> bool {
        false
    }

    async fn sweep(&self) {}

    async fn count(&self) -> Option<u64> {
        None
    }

    async fn close(&self) {}
}
