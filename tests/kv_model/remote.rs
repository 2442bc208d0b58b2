//! A store of three servers over one database, asked over HTTP. Time is the database's: what has a
//! time to live gets one that no test sees the end of.

use crate::MAX;
use crate::engines::Turns;
use crate::face::{Face, Found};
use crate::support::{Answer, Server};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::cell::{Cell, RefCell};
use steadfast::kv::Error;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::preconditions::PutMode;
use steadfast::kv::types::Ttl;

const STORES: &str = "/resources/stores/kv";
/// A day, in seconds.
const LATER: u64 = 86_400;

/// Servers that several cases use, one after the other.
pub(crate) struct Servers {
    url: String,
    flags: [String; 2],
    servers: RefCell<Vec<Server>>,
    cases: Cell<usize>,
}

impl Servers {
    pub(crate) fn over(url: String) -> Servers {
        let flags = ["--max-value".into(), MAX.to_string()];
        let servers = Servers { url, flags, servers: RefCell::default(), cases: Cell::new(0) };
        for _ in 0..3 {
            servers.servers.borrow_mut().push(servers.start());
        }
        servers
    }

    fn start(&self) -> Server {
        Server::over_with(&self.url, &self.flags.each_ref().map(String::as_str))
    }

    /// kill -9, and another in its place.
    fn kill(&self, number: usize) {
        self.servers.borrow_mut()[number].kill();
        self.servers.borrow_mut()[number] = self.start();
    }
}

/// A store of its own on them.
pub(crate) struct Remote<'s> {
    servers: &'s Servers,
    turns: Turns,
    /// What its names begin with: others are there.
    first: String,
    store: String,
}

impl<'s> Remote<'s> {
    pub(crate) fn new(servers: &'s Servers) -> Remote<'s> {
        let case = servers.cases.replace(servers.cases.get() + 1);
        let first = format!("case{case}-");
        let turns = Turns::among(servers.servers.borrow().len());
        let store = servers.servers.borrow()[turns.next()].store(&format!("{first}s0"));
        Remote { servers, turns, first, store }
    }

    fn ask(&self, by: usize, request: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.servers.servers.borrow()[by].ask(request, fields, body)
    }

    /// `METHOD /path/of/the/store` and what follows.
    fn at(&self, method: &str, rest: &str) -> String {
        format!("{method} {STORES}/{}{rest}", self.store)
    }

    fn item(&self, method: &str, key: &str, query: &str) -> String {
        let escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.at(method, &format!("/keys/{escaped}{query}"))
    }
}

fn refused(answer: &Answer) -> Error {
    match answer.status {
        404 => Error::NoItem,
        409 => Error::StoreNotEmpty,
        412 => Error::Precondition,
        413 => Error::TooLarge(MAX),
        _ => panic!("{answer:?}"),
    }
}

impl Face for Remote<'_> {
    fn processes(&self) -> usize {
        self.servers.servers.borrow().len()
    }

    fn next(&self) -> usize {
        self.turns.next()
    }

    async fn put(
        &self,
        by: usize,
        key: &str,
        put: &PutRequest,
        value: &[u8],
    ) -> Result<u64, Error> {
        let query = match put.mode {
            PutMode::Overwrite => "",
            PutMode::Add => "?add=true",
            PutMode::Append => "?append=true",
            PutMode::Prepend => "?prepend=true",
        };
        let mut fields = Vec::new();
        fields.extend(put.if_generation.map(|demand| ("if-generation-match", demand.to_string())));
        fields.extend(put.ttl.map(|ttl| ("time_to_live_sec", (ttl.secs() + LATER).to_string())));
        let metadata = String::from_utf8(put.metadata.as_bytes().to_vec()).unwrap();
        fields.extend(Some(("metadata", metadata)).filter(|(_, text)| !text.is_empty()));
        let fields: Vec<_> = fields.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let answer = self.ask(by, &self.item("PUT", key, query), &fields, value);
        if answer.status == 200 { Ok(answer.generation()) } else { Err(refused(&answer)) }
    }

    async fn delete(&self, by: usize, key: &str, delete: DeleteRequest) -> Result<(), Error> {
        let query = if delete.force { "?force=true" } else { "" };
        let demanded = delete.if_generation.map(|demand| demand.to_string());
        let fields: Vec<_> = demanded.iter().map(|g| ("if-generation-match", g.as_str())).collect();
        let answer = self.ask(by, &self.item("DELETE", key, query), &fields, b"");
        if answer.status == 204 { Ok(()) } else { Err(refused(&answer)) }
    }

    async fn batch(&self, by: usize, lines: &[(&str, Option<Ttl>, Vec<u8>)]) {
        let line = |(key, ttl, value): &(&str, Option<Ttl>, Vec<u8>)| {
            let mut line = serde_json::json!({ "key": key, "value": STANDARD.encode(value) });
            if let Some(ttl) = ttl {
                line["time_to_live_sec"] = (ttl.secs() + LATER).into();
            }
            format!("{line}\n")
        };
        let lines: String = lines.iter().map(line).collect();
        let answer = self.ask(by, &self.at("PUT", "/batch"), &[], lines.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    async fn list(&self, prefix: &str, limit: usize) -> Vec<String> {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let query = format!("/keys?prefix={prefix}&limit={limit}{cursor}");
            let page = self.ask(self.next(), &self.at("GET", &query), &[], b"").json();
            let keys = page["data"].as_array().unwrap();
            found.extend(keys.iter().map(|key| key.as_str().unwrap().to_owned()));
            match page["meta"]["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", next.replace('+', "%2B")),
                None => return found,
            }
        }
    }

    async fn get(&self, key: &str) -> Option<Found> {
        let answer = self.ask(self.next(), &self.item("GET", key, ""), &[], b"");
        if answer.status == 404 {
            return None;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        let metadata = answer.fields("Metadata").concat().into_bytes();
        let generation = answer.generation();
        Some(Found { value: answer.body, metadata, generation, expires: None })
    }

    async fn head(&self, key: &str) -> (u64, u64) {
        let answer = self.ask(self.next(), &self.item("HEAD", key, ""), &[], b"");
        (answer.field("Content-Length").parse().unwrap(), answer.generation())
    }

    async fn name(&self) -> String {
        let told = self.ask(self.next(), &self.at("GET", ""), &[], b"").json();
        told["name"].as_str().unwrap().strip_prefix(&self.first).unwrap().to_owned()
    }

    async fn rename(&self, name: &str) {
        let body = serde_json::json!({ "name": format!("{}{name}", self.first) }).to_string();
        let answer = self.ask(self.next(), &self.at("PUT", ""), &[], body.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    async fn delete_store(&self) -> Result<(), Error> {
        let answer = self.ask(self.next(), &self.at("DELETE", ""), &[], b"");
        if answer.status == 204 { Ok(()) } else { Err(refused(&answer)) }
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
