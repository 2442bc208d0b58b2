//! Clients that race for a few keys and write down what they asked and were told.

use crate::checker::check;
use crate::history::{Asked, Mode, Operation, Told};
use crate::random::Random;
use crate::support::{Client, Response};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keys that the clients of a phase race for.
pub(crate) const KEYS: u64 = 6;
const CLIENTS: u64 = 8;

/// Whether some requests are given up before their answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Long,
    Short,
}

struct Shared {
    clock: Instant,
    stop: AtomicBool,
    port: AtomicU16,
    /// Servers over the same data, among which clients are spread.
    others: Vec<u16>,
    /// How often the server has been started, and until when what was lost before can happen.
    starts: AtomicU64,
    /// Operations by key.
    history: Vec<Mutex<Vec<Operation>>>,
    /// When each server that was killed was surely dead.
    deaths: Mutex<Vec<u64>>,
    path: String,
}

/// The clients of one phase.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Fleet {
    pub(crate) fn start(
        port: u16,
        others: &[u16],
        store: &str,
        phase: u64,
        seed: u64,
        patience: Patience,
    ) -> Fleet {
        let shared = Arc::new(Shared {
            clock: Instant::now(),
            stop: AtomicBool::new(false),
            port: AtomicU16::new(port),
            others: others.to_vec(),
            starts: AtomicU64::new(0),
            history: (0..KEYS).map(|_| Mutex::default()).collect(),
            deaths: Mutex::default(),
            path: format!("/resources/stores/kv/{store}/keys/phase-{phase}-key-"),
        });
        let client = |number: u64| {
            let mut client = Racer {
                number,
                shared: shared.clone(),
                random: Random(seed.wrapping_add(number)),
                patience,
                connection: None,
                known: vec![0; KEYS as usize],
                written: 0,
            };
            std::thread::spawn(move || client.run())
        };
        let clients = (0..CLIENTS).map(client).collect();
        Fleet { shared, clients }
    }

    /// Nanoseconds of the clock that operations are timed by.
    pub(crate) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Another server answers at `port`; the one before was dead at `killed`.
    pub(crate) fn restarted(&self, killed: u64, port: u16) {
        self.shared.deaths.lock().unwrap().push(killed);
        self.shared.port.store(port, Ordering::SeqCst);
        self.shared.starts.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends the clients, reads every key once more, and checks every key; returns how many
    /// operations were checked.
    pub(crate) fn finish(self, seed: u64) -> u64 {
        self.shared.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("a client met something else than it should");
        }
        let deaths = self.shared.deaths.lock().unwrap().clone();
        let mut reader = Client::connect(self.shared.port.load(Ordering::SeqCst)).unwrap();
        let mut checked = 0;
        for key in 0..KEYS {
            let mut operations =
                std::mem::take(&mut *self.shared.history[key as usize].lock().unwrap());
            let began = self.shared.now();
            let answer = reader.request(&self.shared.request("GET", key), &[], b"").unwrap();
            let (told, ended) = (told(&Asked::Get, &answer), self.shared.now());
            operations.push(Operation { client: CLIENTS, asked: Asked::Get, told, began, ended });
            for operation in operations.iter_mut().filter(|o| o.told == Told::Nothing) {
                // What was on its way to a server that is dead cannot happen any more.
                let dead = deaths.iter().copied().find(|dead| *dead > operation.began);
                operation.ended = dead.unwrap_or(u64::MAX).max(operation.began + 1);
            }
            checked += operations.len() as u64;
            if let Err(why) = check(&operations) {
                panic!("key {key}, STEADFAST_SEED={seed}: {why}");
            }
        }
        checked
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn port_of(&self, client: u64) -> u16 {
        let servers = self.others.len() as u64 + 1;
        match (client % servers).checked_sub(1) {
            Some(other) => self.others[other as usize],
            None => self.port.load(Ordering::SeqCst),
        }
    }

    fn request(&self, method: &str, key: u64) -> String {
        format!("{method} {}{key}", self.path)
    }
}

/// What an answer says of what was asked.
fn told(asked: &Asked, answer: &Response) -> Told {
    match (asked, answer.status) {
        (Asked::Get, 200) => Told::Value(answer.text(), answer.generation()),
        (Asked::Put(..), 200) => Told::Written(answer.generation()),
        (Asked::Delete(_), 204) => Told::Deleted,
        (Asked::Get | Asked::Delete(_), 404) => Told::Absent,
        (Asked::Put(..) | Asked::Delete(_), 412) => Told::Refused,
        _ => panic!("{asked:?} was answered by {answer:?}"),
    }
}

struct Racer {
    number: u64,
    shared: Arc<Shared>,
    random: Random,
    patience: Patience,
    connection: Option<(u64, Client)>,
    /// The generation of each key that this client was told last.
    known: Vec<u64>,
    written: u64,
}

impl Racer {
    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let starts = self.shared.starts.load(Ordering::SeqCst);
            if self.connection.as_ref().is_none_or(|(of, _)| *of != starts) {
                let port = self.shared.port_of(self.number);
                self.connection = Client::connect(port).ok().map(|client| (starts, client));
            }
            match self.connection.is_some() {
                true => self.step(),
                false => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn step(&mut self) {
        let key = self.random.below(KEYS);
        let asked = self.asked(key);
        let impatient = self.patience == Patience::Short && self.random.one_in(60);
        let Some((_, client)) = &mut self.connection else { return };
        if impatient {
            client.set_read_timeout(Duration::from_micros(50 + self.random.below(400)));
        }
        let (method, query, generation, body) = match &asked {
            Asked::Get => ("GET", "", None, ""),
            Asked::Put(mode, bytes, demanded) => ("PUT", query(*mode), *demanded, bytes.as_str()),
            Asked::Delete(demanded) => ("DELETE", "", *demanded, ""),
        };
        let request = self.shared.request(method, key) + query;
        let demanded = generation.map(|generation| generation.to_string());
        let fields: Vec<(&str, &str)> =
            demanded.iter().map(|g| ("if-generation-match", g.as_str())).collect();
        let began = self.shared.now();
        let answer = client.request(&request, &fields, body.as_bytes());
        let ended = self.shared.now();
        let told = match &answer {
            Ok(answer) => told(&asked, answer),
            Err(_) => Told::Nothing,
        };
        if answer.is_err() || impatient {
            self.connection = None;
        }
        if let Told::Value(_, generation) | Told::Written(generation) = &told {
            self.known[key as usize] = *generation;
        }
        let operation = Operation { client: self.number, asked, told, began, ended };
        self.shared.history[key as usize].lock().unwrap().push(operation);
    }

    fn asked(&mut self, key: u64) -> Asked {
        let known = Some(self.known[key as usize]).filter(|generation| *generation > 0);
        self.written += 1;
        // Each is written once, so that a value tells who wrote it.
        let bytes = format!("{}-{};", self.number, self.written);
        match self.random.below(100) {
            0..40 => Asked::Get,
            40..58 => Asked::Put(Mode::Overwrite, bytes, None),
            58..66 => Asked::Put(Mode::Add, bytes, None),
            66..72 => Asked::Put(Mode::Append, bytes, None),
            72..76 => Asked::Put(Mode::Prepend, bytes, None),
            76..87 if known.is_some() => Asked::Put(Mode::Overwrite, bytes, known),
            87..90 if known.is_some() => Asked::Put(Mode::Append, bytes, known),
            90..94 if known.is_some() => Asked::Delete(known),
            _ => Asked::Delete(None),
        }
    }
}

fn query(mode: Mode) -> &'static str {
    match mode {
        Mode::Overwrite => "",
        Mode::Add => "?add=true",
        Mode::Append => "?append=true",
        Mode::Prepend => "?prepend=true",
    }
}
