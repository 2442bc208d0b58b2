//! The workload: writers that use every write operation of the API and record each in a journal.

use super::journal::{APPENDED, COUNTED, Effect, Event, EventKind, Item, Journal, Op};
use super::random::{Random, now_micros};
use super::tagged_value;
use crate::support::{Client, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::sync::atomic::{AtomicBool, Ordering};

/// A writer does not append to values that reach these limits.
const VALUE_BYTES_MAX: u64 = 3_000_000;
const CHUNKS_MAX: usize = 24;

/// The distribution of value sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueSizes {
    /// From 0 bytes to 2 MB, mostly small.
    Mixed,
    /// Up to 2 kB.
    Small,
    /// Mostly 100 to 250 kB, to fill the WAL quickly.
    FillsWal,
    /// Mostly near or above the size threshold for blob files.
    BlobFiles,
    /// Mostly 30 to 60 kB, with more keys than the other workloads. With a small WAL, overwrites
    /// leave garbage in the segments.
    Garbage,
}

impl ValueSizes {
    fn sample(self, random: &mut Random) -> u32 {
        // Values of up to 256 KiB are read with their item, and values of up to 1 MiB are stored in
        // the WAL.
        let edge = if random.one_in(2) { 262_144 } else { 1_048_576 };
        let around = edge - 100 + random.below(200);
        let bytes = match (self, random.below(100)) {
            (ValueSizes::Mixed, 0..=5) => around,
            (ValueSizes::Mixed, 6..=9) => 262_145 + random.below(1_800_000),
            (ValueSizes::Mixed, 10..=19) => 3900 + random.below(9000),
            (ValueSizes::FillsWal, 0..=89) => 100_000 + random.below(150_000),
            (ValueSizes::BlobFiles, 0..=19) => around,
            (ValueSizes::BlobFiles, 20..=79) => 1_048_577 + random.below(500_000),
            (ValueSizes::Garbage, 0..=94) => 30_000 + random.below(30_000),
            _ => random.below(1500),
        };
        bytes as u32
    }

    /// Returns the number of keys of each writer.
    pub(crate) fn keys(self) -> u64 {
        if self == ValueSizes::Garbage { 40 } else { 6 }
    }
}

/// The target and the parameters of a run.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) port: u16,
    pub(crate) store: String,
    pub(crate) sizes: ValueSizes,
    /// The number of keys that belong to each writer.
    pub(crate) keys: u64,
    /// Whether the server may return 500, 503 and 507.
    pub(crate) errors_allowed: bool,
}

/// Runs all writers while `during` runs. A writer ends early if it cannot connect to the server.
pub(crate) fn run(
    workload: &Workload,
    journals: &mut [Journal],
    random: &mut Random,
    during: impl FnOnce(),
) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for journal in journals {
            let (random, stop) = (Random(random.next()), &stop);
            scope.spawn(move || {
                let mut writer = Writer { workload, journal, random, client: None };
                while !stop.load(Ordering::Relaxed) && writer.step().is_some() {}
            });
        }
        during();
        stop.store(true, Ordering::Relaxed);
    });
}

struct Writer<'l> {
    workload: &'l Workload,
    journal: &'l mut Journal,
    random: Random,
    client: Option<Client>,
}

/// A request, and its effect on the key.
struct PlannedRequest {
    op: Op,
    query: &'static str,
    if_generation: Option<u64>,
    method: &'static str,
    body: Vec<u8>,
}

impl Writer<'_> {
    /// Runs one operation. Returns `None` if the server does not accept connections.
    fn step(&mut self) -> Option<()> {
        if self.client.is_none() {
            self.client = Some(Client::connect(self.workload.port).ok()?);
        }
        match self.random.below(100) {
            0..=7 => self.batch(),
            8..=12 => self.append_shared(),
            13..=15 => self.increment_counter(),
            _ => self.own_key(),
        }
        Some(())
    }

    fn target(&self, key: &str) -> String {
        format!("/resources/stores/kv/{}/keys/{key}", self.workload.store)
    }

    /// Sends a request. Returns `None` if there is no response; the next step then reconnects.
    fn request(&mut self, request: &str, fields: &[(&str, &str)], body: &[u8]) -> Option<Response> {
        let reply = self.client.as_mut()?.request(request, fields, body).ok();
        let closes = |reply: &Response| {
            reply.headers("Connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
        };
        if reply.as_ref().is_none_or(closes) {
            self.client = None;
        }
        reply
    }

    fn record(&mut self, key: &str, kind: EventKind) {
        self.journal.push(Event { at: now_micros(), key: key.to_owned(), kind });
    }

    /// Maps a response to the outcome of an operation. Panics if the status is not allowed.
    fn classify(&self, op: &Op, reply: Option<&Response>, request: &str) -> EventKind {
        let Some(reply) = reply else { return EventKind::Unknown };
        let must_fail = matches!(op.effect, Effect::MustFail);
        match reply.status {
            200 | 204 if !must_fail => {
                EventKind::Acknowledged(reply.has_header("Generation").then(|| reply.generation()))
            }
            404 | 412 if must_fail => EventKind::Rejected,
            507 | 503 if self.workload.errors_allowed => EventKind::Rejected,
            500 if self.workload.errors_allowed => EventKind::Unknown,
            status => {
                panic!("{request} {op:?}: {status} {:?}", String::from_utf8_lossy(&reply.body))
            }
        }
    }

    /// Runs a random operation on a key that this writer owns.
    fn own_key(&mut self) {
        let key = self.journal.key(self.random.below(self.workload.keys));
        let state = self.journal.key_state(&key);
        let planned = match state.definite(now_micros()) {
            None => self.unconditional_write(&key),
            Some(current) => self.random_operation(&key, current.cloned()),
        };
        self.send(planned);
    }

    fn send(&mut self, planned: PlannedRequest) {
        let PlannedRequest { op, query, if_generation, method, body } = planned;
        let key = op.key.clone();
        let request = format!("{method} {}{query}", self.target(&key));
        let (ttl, generation) = (op.ttl.map(|ttl| ttl.to_string()), if_generation);
        let generation = generation.map(|generation| generation.to_string());
        let mut fields = vec![("metadata", op.metadata.as_str())];
        fields.extend(ttl.as_deref().map(|ttl| ("time_to_live_sec", ttl)));
        fields.extend(generation.as_deref().map(|number| ("if-generation-match", number)));
        self.journal.record_invocation(now_micros(), op.clone());
        let last = self.journal.key_state(&key).last_generation;
        let reply = self.request(&request, &fields, &body);
        let kind = self.classify(&op, reply.as_ref(), &request);
        if let EventKind::Acknowledged(Some(generation)) = kind {
            assert!(generation > last, "{request}: generation {generation} after {last}");
        }
        self.record(&key, kind);
    }

    /// Plans a write that succeeds in every state: an overwrite or a forced delete.
    fn unconditional_write(&mut self, key: &str) -> PlannedRequest {
        if self.random.one_in(6) {
            return self.delete(key, "?force=true", None, Effect::Delete);
        }
        self.put(key, "", None, Effect::Replace)
    }

    fn random_operation(&mut self, key: &str, current: Option<Item>) -> PlannedRequest {
        let room = current.as_ref().is_none_or(|item| {
            item.bytes() < VALUE_BYTES_MAX - 2_100_000 && item.chunks.len() < CHUNKS_MAX
        });
        let generation = current.as_ref().and_then(|item| item.generation);
        let exists = current.is_some();
        match self.random.below(20) {
            0..=3 if room => {
                self.put(key, "?append=true", None, |p| concatenation(p, Effect::Append))
            }
            4..=5 if room => {
                self.put(key, "?prepend=true", None, |p| concatenation(p, Effect::Prepend))
            }
            6..=7 if exists => self.put(key, "?add=true", None, |_| Effect::MustFail),
            6..=7 => self.put(key, "?add=true", None, Effect::Replace),
            8..=9 if generation.is_some() => self.put(key, "", generation, Effect::Replace),
            // Use a generation that does not match.
            10 => self.put(key, "", Some(generation.map_or(1, |g| g - 1)), |_| Effect::MustFail),
            11 if generation.is_some() => self.delete(key, "", generation, Effect::Delete),
            12 if exists => self.delete(key, "", None, Effect::Delete),
            12 => self.delete(key, "", None, Effect::MustFail),
            13 if exists => self.delete(key, "", Some(1), Effect::MustFail),
            _ => self.unconditional_write(key),
        }
    }

    fn delete(
        &self,
        key: &str,
        query: &'static str,
        if_generation: Option<u64>,
        effect: Effect,
    ) -> PlannedRequest {
        let op = Op { key: key.to_owned(), effect, metadata: String::new(), ttl: None };
        PlannedRequest { op, query, if_generation, method: "DELETE", body: Vec::new() }
    }

    fn put(
        &mut self,
        key: &str,
        query: &'static str,
        if_generation: Option<u64>,
        effect: impl FnOnce(Option<tagged_value::Chunk>) -> Effect,
    ) -> PlannedRequest {
        let concatenates = query.contains("pend=");
        // Never append an empty chunk, because the checker cannot identify it.
        let chunk = (concatenates || !self.random.one_in(12)).then(|| {
            let bytes = self.workload.sizes.sample(&mut self.random);
            self.journal.chunk(key, bytes)
        });
        let body = chunk.map(|chunk| chunk.encode(key)).unwrap_or_default();
        let (metadata, ttl) = self.random_attributes();
        let op = Op { key: key.to_owned(), effect: effect(chunk), metadata, ttl };
        PlannedRequest { op, query, if_generation, method: "PUT", body }
    }

    fn random_attributes(&mut self) -> (String, Option<u32>) {
        let metadata = match self.random.below(4) {
            0 => format!("m{}", self.random.below(1 << 40)),
            1 => "x".repeat(self.random.below(2000) as usize),
            _ => String::new(),
        };
        let ttl = match self.random.below(12) {
            0 => Some(1 + self.random.below(2) as u32),
            1 => Some(3600),
            _ => None,
        };
        (metadata, ttl)
    }

    /// Sends a batch with some of the keys of this writer. Each line has its own outcome.
    fn batch(&mut self) {
        let (mut ops, mut body) = (Vec::new(), Vec::new());
        for number in 0..self.workload.keys {
            if ops.is_empty() || self.random.one_in(2) {
                let key = self.journal.key(number);
                let put = self.put(&key, "", None, Effect::Replace);
                let mut line = serde_json::json!({
                    "key": key,
                    "value": BASE64_STANDARD.encode(&put.body),
                    "metadata": put.op.metadata,
                });
                if let Some(ttl) = put.op.ttl {
                    line["time_to_live_sec"] = ttl.into();
                }
                body.extend_from_slice(format!("{line}\n").as_bytes());
                ops.push(put.op);
            }
        }
        let at = now_micros();
        ops.iter().for_each(|op| self.journal.record_invocation(at, op.clone()));
        let request = format!("PUT /resources/stores/kv/{}/batch", self.workload.store);
        let reply = self.request(&request, &[], &body);
        for (index, op) in ops.iter().enumerate() {
            let kind = match &reply {
                Some(reply) if reply.status != 200 => self.classify_line(reply, index),
                reply => self.classify(op, reply.as_ref(), &request),
            };
            self.record(&op.key, kind);
        }
    }

    /// Returns the outcome of one line of a batch that reported errors.
    fn classify_line(&self, reply: &Response, index: usize) -> EventKind {
        assert!(self.workload.errors_allowed && reply.status == 503, "{reply:?}");
        let report = reply.json();
        let errors = report["errors"].as_array().unwrap();
        match errors.iter().find(|error| error["index"] == index) {
            Some(error) if error["code"] == "500" => EventKind::Unknown,
            Some(error) => {
                assert!(matches!(error["code"].as_str(), Some("503" | "507")), "{error}");
                EventKind::Rejected
            }
            // The server may fail and respond before it has read all lines.
            None if reply.has_header("Connection") => EventKind::Unknown,
            None => EventKind::Acknowledged(None),
        }
    }

    fn append_shared(&mut self) {
        let bytes = self.random.below(300) as u32;
        let chunk = self.journal.chunk(APPENDED, bytes);
        let (key, metadata) = (APPENDED.to_owned(), String::new());
        let op = Op { key, effect: Effect::Append(chunk), metadata, ttl: None };
        let (if_generation, method, body) = (None, "PUT", chunk.encode(APPENDED));
        self.send(PlannedRequest { op, query: "?append=true", if_generation, method, body });
    }

    /// Increments the shared counter. The write is rejected if another writer increments it first.
    fn increment_counter(&mut self) {
        let target = self.target(COUNTED);
        let Some(read) = self.request(&format!("GET {target}"), &[], b"") else { return };
        let (count, generation) = match read.status {
            200 => {
                (tagged_value::decode(COUNTED, &read.body).unwrap()[0].sequence, read.generation())
            }
            404 => (0, 0),
            status => panic!("GET {target} returned {status}"),
        };
        let chunk = tagged_value::Chunk::new(COUNTED, self.journal.writer, count + 1, 0);
        let (key, metadata) = (COUNTED.to_owned(), String::new());
        let op = Op { key, effect: Effect::Replace(Some(chunk)), metadata, ttl: None };
        self.journal.record_invocation(now_micros(), op.clone());
        let number = generation.to_string();
        let fields = [("if-generation-match", number.as_str())];
        let reply = self.request(&format!("PUT {target}"), &fields, &chunk.encode(COUNTED));
        let kind = match &reply {
            Some(reply) if reply.status == 412 => EventKind::Rejected,
            reply => self.classify(&op, reply.as_ref(), "PUT"),
        };
        self.record(COUNTED, kind);
    }
}

fn concatenation(
    chunk: Option<tagged_value::Chunk>,
    how: impl FnOnce(tagged_value::Chunk) -> Effect,
) -> Effect {
    chunk.map_or(Effect::MustFail, how)
}
