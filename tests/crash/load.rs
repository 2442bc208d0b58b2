//! The load: writers that do everything the API can do to items, and keep a journal.

use crate::journal::{APPENDED, COUNTED, Change, Event, Item, Journal, Op, What};
use crate::random::{Random, now};
use crate::support::{Client, Response};
use crate::value;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::sync::atomic::{AtomicBool, Ordering};

/// No value grows past this, nor past so many pieces.
const VALUE_BYTES_MAX: u64 = 3_000_000;
const PIECES_MAX: usize = 24;

/// How large values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// From nothing to 2 MB, most of them small.
    Mixed,
    /// Up to 2 kB.
    Small,
    /// Some 100 to 250 kB: they fill the log.
    Log,
    /// Around the bound above which a value has a file, and above it.
    Files,
}

impl Sizes {
    fn draw(self, random: &mut Random) -> u32 {
        let around = 262_144 - 100 + random.below(200);
        let bytes = match (self, random.below(100)) {
            (Sizes::Mixed, 0..=5) => around,
            (Sizes::Mixed, 6..=9) => 262_145 + random.below(1_800_000),
            (Sizes::Mixed, 10..=19) => 3900 + random.below(9000),
            (Sizes::Log, 0..=89) => 100_000 + random.below(150_000),
            (Sizes::Files, 0..=19) => around,
            (Sizes::Files, 20..=79) => 262_145 + random.below(500_000),
            _ => random.below(1500),
        };
        bytes as u32
    }
}

/// Where the load goes and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) port: u16,
    pub(crate) store: String,
    pub(crate) sizes: Sizes,
    /// Keys of each writer.
    pub(crate) keys: u64,
    /// Whether the server may answer that it failed or is full.
    pub(crate) faults: bool,
}

/// Runs all writers while `during` does; they end when it does, or when the server is gone.
pub(crate) fn run(
    load: &Load,
    journals: &mut [Journal],
    random: &mut Random,
    during: impl FnOnce(),
) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for journal in journals {
            let (random, stop) = (Random(random.next()), &stop);
            scope.spawn(move || {
                let mut writer = Writer { load, journal, random, client: None };
                while !stop.load(Ordering::Relaxed) && writer.step().is_some() {}
            });
        }
        during();
        stop.store(true, Ordering::Relaxed);
    });
}

struct Writer<'l> {
    load: &'l Load,
    journal: &'l mut Journal,
    random: Random,
    client: Option<Client>,
}

/// One operation as it is asked for.
struct Ask {
    op: Op,
    query: &'static str,
    if_generation: Option<u64>,
    method: &'static str,
    body: Vec<u8>,
}

impl Writer<'_> {
    /// One operation; `None` when the server is gone.
    fn step(&mut self) -> Option<()> {
        if self.client.is_none() {
            self.client = Some(Client::connect(self.load.port).ok()?);
        }
        match self.random.below(100) {
            0..=7 => self.batch(),
            8..=12 => self.append_shared(),
            13..=15 => self.count(),
            _ => self.own(),
        }
        Some(())
    }

    fn target(&self, key: &str) -> String {
        format!("/resources/stores/kv/{}/keys/{key}", self.load.store)
    }

    /// Asks; `None` when no answer came. The next step connects anew where that is needed.
    fn ask(&mut self, request: &str, fields: &[(&str, &str)], body: &[u8]) -> Option<Response> {
        let answer = self.client.as_mut()?.request(request, fields, body).ok();
        let closes = |answer: &Response| {
            answer.headers("Connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
        };
        if answer.as_ref().is_none_or(closes) {
            self.client = None;
        }
        answer
    }

    fn done(&mut self, key: &str, what: What) {
        self.journal.push(Event { at: now(), key: key.to_owned(), what });
    }

    /// What an answer says of an operation that was to be done, or to be refused.
    fn told(&self, op: &Op, answer: Option<&Response>, said: &str) -> What {
        let Some(answer) = answer else { return What::Unknown };
        let refused = matches!(op.change, Change::Nothing);
        match answer.status {
            200 | 204 if !refused => {
                What::Acknowledged(answer.has_header("Generation").then(|| answer.generation()))
            }
            404 | 412 if refused => What::Refused,
            507 | 503 if self.load.faults => What::Refused,
            500 if self.load.faults => What::Unknown,
            status => panic!("{said} {op:?}: {status} {:?}", String::from_utf8_lossy(&answer.body)),
        }
    }

    /// Anything to a key of its own.
    fn own(&mut self) {
        let key = self.journal.key(self.random.below(self.load.keys));
        let known = self.journal.known(&key);
        let ask = match known.certain(now()) {
            None => self.replace(&key),
            Some(there) => self.any(&key, there.cloned()),
        };
        self.send(ask);
    }

    fn send(&mut self, ask: Ask) {
        let Ask { op, query, if_generation, method, body } = ask;
        let key = op.key.clone();
        let request = format!("{method} {}{query}", self.target(&key));
        let (ttl, generation) = (op.ttl.map(|ttl| ttl.to_string()), if_generation);
        let generation = generation.map(|generation| generation.to_string());
        let mut fields = vec![("metadata", op.metadata.as_str())];
        fields.extend(ttl.as_deref().map(|ttl| ("time_to_live_sec", ttl)));
        fields.extend(generation.as_deref().map(|number| ("if-generation-match", number)));
        self.journal.invoke(now(), op.clone());
        let floor = self.journal.known(&key).floor;
        let answer = self.ask(&request, &fields, &body);
        let what = self.told(&op, answer.as_ref(), &request);
        if let What::Acknowledged(Some(generation)) = what {
            assert!(generation > floor, "{request}: {generation} after {floor}");
        }
        self.done(&key, what);
    }

    /// What may be done whatever is there: overwriting it, or removing it by force.
    fn replace(&mut self, key: &str) -> Ask {
        if self.random.one_in(6) {
            return self.delete(key, "?force=true", None, Change::Delete);
        }
        self.put(key, "", None, Change::Replace)
    }

    fn any(&mut self, key: &str, there: Option<Item>) -> Ask {
        let room = there.as_ref().is_none_or(|item| {
            item.bytes() < VALUE_BYTES_MAX - 2_100_000 && item.pieces.len() < PIECES_MAX
        });
        let generation = there.as_ref().and_then(|item| item.generation);
        let exists = there.is_some();
        match self.random.below(20) {
            0..=3 if room => self.put(key, "?append=true", None, |p| joined(p, Change::Append)),
            4..=5 if room => self.put(key, "?prepend=true", None, |p| joined(p, Change::Prepend)),
            6..=7 if exists => self.put(key, "?add=true", None, |_| Change::Nothing),
            6..=7 => self.put(key, "?add=true", None, Change::Replace),
            8..=9 if generation.is_some() => self.put(key, "", generation, Change::Replace),
            // Of a generation that is not this one's, if there is one.
            10 => self.put(key, "", Some(generation.map_or(1, |g| g - 1)), |_| Change::Nothing),
            11 if generation.is_some() => self.delete(key, "", generation, Change::Delete),
            12 if exists => self.delete(key, "", None, Change::Delete),
            12 => self.delete(key, "", None, Change::Nothing),
            13 if exists => self.delete(key, "", Some(1), Change::Nothing),
            _ => self.replace(key),
        }
    }

    fn delete(
        &self,
        key: &str,
        query: &'static str,
        if_generation: Option<u64>,
        change: Change,
    ) -> Ask {
        let op = Op { key: key.to_owned(), change, metadata: String::new(), ttl: None };
        Ask { op, query, if_generation, method: "DELETE", body: Vec::new() }
    }

    fn put(
        &mut self,
        key: &str,
        query: &'static str,
        if_generation: Option<u64>,
        change: impl FnOnce(Option<value::Piece>) -> Change,
    ) -> Ask {
        let joins = query.contains("pend=");
        // Nothing appended to nothing is still an item; but an empty piece cannot be told apart.
        let piece = (joins || !self.random.one_in(12)).then(|| {
            let bytes = self.load.sizes.draw(&mut self.random);
            self.journal.piece(key, bytes)
        });
        let body = piece.map(|piece| piece.make(key)).unwrap_or_default();
        let (metadata, ttl) = self.extras();
        let op = Op { key: key.to_owned(), change: change(piece), metadata, ttl };
        Ask { op, query, if_generation, method: "PUT", body }
    }

    fn extras(&mut self) -> (String, Option<u32>) {
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

    /// Several of its keys, each line by itself.
    fn batch(&mut self) {
        let (mut ops, mut body) = (Vec::new(), Vec::new());
        for number in 0..self.load.keys {
            if ops.is_empty() || self.random.one_in(2) {
                let key = self.journal.key(number);
                let put = self.put(&key, "", None, Change::Replace);
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
        let at = now();
        ops.iter().for_each(|op| self.journal.invoke(at, op.clone()));
        let request = format!("PUT /resources/stores/kv/{}/batch", self.load.store);
        let answer = self.ask(&request, &[], &body);
        for (index, op) in ops.iter().enumerate() {
            let what = match &answer {
                Some(answer) if answer.status != 200 => self.line(answer, index),
                answer => self.told(op, answer.as_ref(), &request),
            };
            self.done(&op.key, what);
        }
    }

    /// How a line went in a batch that had errors.
    fn line(&self, answer: &Response, index: usize) -> What {
        assert!(self.load.faults && answer.status == 503, "{answer:?}");
        let report = answer.json();
        let errors = report["errors"].as_array().unwrap();
        match errors.iter().find(|error| error["index"] == index) {
            Some(error) if error["code"] == "500" => What::Unknown,
            Some(error) => {
                assert!(matches!(error["code"].as_str(), Some("503" | "507")), "{error}");
                What::Refused
            }
            // The answer comes before the end of the lines when the server fails.
            None if answer.has_header("Connection") => What::Unknown,
            None => What::Acknowledged(None),
        }
    }

    fn append_shared(&mut self) {
        let bytes = self.random.below(300) as u32;
        let piece = self.journal.piece(APPENDED, bytes);
        let (key, metadata) = (APPENDED.to_owned(), String::new());
        let op = Op { key, change: Change::Append(piece), metadata, ttl: None };
        let (if_generation, method, body) = (None, "PUT", piece.make(APPENDED));
        self.send(Ask { op, query: "?append=true", if_generation, method, body });
    }

    /// Counts up by one, if nobody else does at once.
    fn count(&mut self) {
        let target = self.target(COUNTED);
        let Some(read) = self.ask(&format!("GET {target}"), &[], b"") else { return };
        let (count, generation) = match read.status {
            200 => (value::parse(COUNTED, &read.body).unwrap()[0].sequence, read.generation()),
            404 => (0, 0),
            status => panic!("GET {target}: {status}"),
        };
        let piece = value::Piece::new(COUNTED, self.journal.writer, count + 1, 0);
        let (key, metadata) = (COUNTED.to_owned(), String::new());
        let op = Op { key, change: Change::Replace(Some(piece)), metadata, ttl: None };
        self.journal.invoke(now(), op.clone());
        let number = generation.to_string();
        let fields = [("if-generation-match", number.as_str())];
        let answer = self.ask(&format!("PUT {target}"), &fields, &piece.make(COUNTED));
        let what = match &answer {
            Some(answer) if answer.status == 412 => What::Refused,
            answer => self.told(&op, answer.as_ref(), "PUT"),
        };
        self.done(COUNTED, what);
    }
}

fn joined(piece: Option<value::Piece>, how: impl FnOnce(value::Piece) -> Change) -> Change {
    piece.map_or(Change::Nothing, how)
}
