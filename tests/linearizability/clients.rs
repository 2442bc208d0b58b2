//! Concurrent clients that access a few keys and record their operations.

use crate::checker::check;
use crate::history::{Invocation, Mode, Operation, Response};
use crate::random::Random;
use crate::support::{self, Client};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Number of keys per phase.
pub(crate) const KEYS: u64 = 6;
const CLIENTS: u64 = 8;

/// Whether clients disconnect before the response to some requests arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandonment {
    Never,
    Sometimes,
}

struct Shared {
    clock: Instant,
    stop: AtomicBool,
    port: AtomicU16,
    /// The ports of additional servers that share the data. The clients are spread across all
    /// servers.
    other_ports: Vec<u16>,
    /// The number of restarts. Clients reconnect when it changes.
    starts: AtomicU64,
    /// The operations on each key.
    history: Vec<Mutex<Vec<Operation>>>,
    /// For each killed server, a time at which it was known to be dead.
    server_deaths: Mutex<Vec<u64>>,
    path: String,
}

/// The clients of one phase.
pub(crate) struct ClientPool {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl ClientPool {
    pub(crate) fn start(
        port: u16,
        other_ports: &[u16],
        store: &str,
        phase: u64,
        seed: u64,
        abandonment: Abandonment,
    ) -> ClientPool {
        let shared = Arc::new(Shared {
            clock: Instant::now(),
            stop: AtomicBool::new(false),
            port: AtomicU16::new(port),
            other_ports: other_ports.to_vec(),
            starts: AtomicU64::new(0),
            history: (0..KEYS).map(|_| Mutex::default()).collect(),
            server_deaths: Mutex::default(),
            path: format!("/resources/stores/kv/{store}/keys/phase-{phase}-key-"),
        });
        let client = |number: u64| {
            let mut client = ClientThread {
                number,
                shared: shared.clone(),
                random: Random(seed.wrapping_add(number)),
                abandonment,
                connection: None,
                last_generations: vec![0; KEYS as usize],
                written: 0,
            };
            std::thread::spawn(move || client.run())
        };
        let clients = (0..CLIENTS).map(client).collect();
        ClientPool { shared, clients }
    }

    /// Returns the time on the clock of the history, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Directs clients to a new server at `port`. The previous server was dead at the time
    /// `killed`.
    pub(crate) fn restarted(&self, killed: u64, port: u16) {
        self.shared.server_deaths.lock().unwrap().push(killed);
        self.shared.port.store(port, Ordering::SeqCst);
        self.shared.starts.fetch_add(1, Ordering::SeqCst);
    }

    /// Stops the clients, reads every key once more and checks the history of each key. Returns the
    /// number of operations checked.
    pub(crate) fn finish(self, seed: u64) -> u64 {
        self.shared.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("a client failed");
        }
        let server_deaths = self.shared.server_deaths.lock().unwrap().clone();
        let mut reader = Client::connect(self.shared.port.load(Ordering::SeqCst)).unwrap();
        let mut checked = 0;
        for key in 0..KEYS {
            let mut operations =
                std::mem::take(&mut *self.shared.history[key as usize].lock().unwrap());
            let invoked_at = self.shared.now();
            let reply = reader.request(&self.shared.request("GET", key), &[], b"").unwrap();
            let invocation = Invocation::Get;
            let (response, returned_at) = (response_of(&invocation, &reply), self.shared.now());
            let client = CLIENTS;
            operations.push(Operation { client, invocation, response, invoked_at, returned_at });
            for operation in operations.iter_mut().filter(|o| o.response == Response::Unknown) {
                // A request cannot take effect after its server has died.
                let dead = server_deaths.iter().copied().find(|dead| *dead > operation.invoked_at);
                operation.returned_at = dead.unwrap_or(u64::MAX).max(operation.invoked_at + 1);
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
        let servers = self.other_ports.len() as u64 + 1;
        match (client % servers).checked_sub(1) {
            Some(other) => self.other_ports[other as usize],
            None => self.port.load(Ordering::SeqCst),
        }
    }

    fn request(&self, method: &str, key: u64) -> String {
        format!("{method} {}{key}", self.path)
    }
}

/// Converts an HTTP response to a response in the history.
fn response_of(invocation: &Invocation, reply: &support::Response) -> Response {
    match (invocation, reply.status) {
        (Invocation::Get, 200) => Response::Value(reply.text(), reply.generation()),
        (Invocation::Put(..), 200) => Response::Written(reply.generation()),
        (Invocation::Delete(_), 204) => Response::Deleted,
        (Invocation::Get | Invocation::Delete(_), 404) => Response::Absent,
        (Invocation::Put(..) | Invocation::Delete(_), 412) => Response::Rejected,
        _ => panic!("unexpected response to {invocation:?}: {reply:?}"),
    }
}

struct ClientThread {
    number: u64,
    shared: Arc<Shared>,
    random: Random,
    abandonment: Abandonment,
    connection: Option<(u64, Client)>,
    /// The last generation that this client has seen for each key.
    last_generations: Vec<u64>,
    written: u64,
}

impl ClientThread {
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
        let invocation = self.random_invocation(key);
        let abandon = self.abandonment == Abandonment::Sometimes && self.random.one_in(60);
        let Some((_, client)) = &mut self.connection else { return };
        if abandon {
            client.set_read_timeout(Duration::from_micros(50 + self.random.below(400)));
        }
        let (method, query, generation, body) = match &invocation {
            Invocation::Get => ("GET", "", None, ""),
            Invocation::Put(mode, bytes, expected) => {
                ("PUT", query(*mode), *expected, bytes.as_str())
            }
            Invocation::Delete(expected) => ("DELETE", "", *expected, ""),
        };
        let request = self.shared.request(method, key) + query;
        let expected = generation.map(|generation| generation.to_string());
        let fields: Vec<(&str, &str)> =
            expected.iter().map(|g| ("if-generation-match", g.as_str())).collect();
        let invoked_at = self.shared.now();
        let reply = client.request(&request, &fields, body.as_bytes());
        let returned_at = self.shared.now();
        let response = match &reply {
            Ok(reply) => response_of(&invocation, reply),
            Err(_) => Response::Unknown,
        };
        if reply.is_err() || abandon {
            self.connection = None;
        }
        if let Response::Value(_, generation) | Response::Written(generation) = &response {
            self.last_generations[key as usize] = *generation;
        }
        let operation =
            Operation { client: self.number, invocation, response, invoked_at, returned_at };
        self.shared.history[key as usize].lock().unwrap().push(operation);
    }

    fn random_invocation(&mut self, key: u64) -> Invocation {
        let known = Some(self.last_generations[key as usize]).filter(|last| *last > 0);
        self.written += 1;
        // Every value is unique, so the value in a read identifies the write.
        let bytes = format!("{}-{};", self.number, self.written);
        match self.random.below(100) {
            0..40 => Invocation::Get,
            40..58 => Invocation::Put(Mode::Overwrite, bytes, None),
            58..66 => Invocation::Put(Mode::Add, bytes, None),
            66..72 => Invocation::Put(Mode::Append, bytes, None),
            72..76 => Invocation::Put(Mode::Prepend, bytes, None),
            76..87 if known.is_some() => Invocation::Put(Mode::Overwrite, bytes, known),
            87..90 if known.is_some() => Invocation::Put(Mode::Append, bytes, known),
            90..94 if known.is_some() => Invocation::Delete(known),
            _ => Invocation::Delete(None),
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
