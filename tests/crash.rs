//! kill -9 under load, again and again: after each restart every acknowledged write is there, and a
//! write that was not acknowledged is there whole or not at all.
//!
//! Each writer has keys of its own, keeps a journal of what was acknowledged, and knows the one
//! operation that was under way when the server died. `STEADFAST_CRASH_ROUNDS` makes it longer,
//! `STEADFAST_SEED` repeats a run's choices (though not its timing).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test may read its environment")]

mod support;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::{Client, Home, Server, TOKEN};

const WRITERS: u64 = 8;
const KEYS: u64 = 6;

/// Small and repeatable random numbers (splitmix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = match self.below(20) {
            0 => 0,
            1 => 300_000 + self.below(900_000),
            2 => 4096,
            _ => 1 + self.below(1500),
        };
        let seed = self.next();
        (0..len).map(|i| (seed.wrapping_mul(i | 1) >> 32) as u8).collect()
    }
}

/// What a writer knows of one of its keys.
#[derive(Clone, Default)]
struct Known {
    /// The value that was acknowledged last.
    value: Option<Vec<u8>>,
    /// What the value is if the operation under way took place.
    pending: Option<Option<Vec<u8>>>,
    generation: u64,
}

type Journal = BTreeMap<String, Known>;

/// Works until the server dies; what is pending then is in the journal.
fn write(
    port: u16,
    store: &str,
    writer: u64,
    journal: &mut Journal,
    random: &mut Random,
    acked: &AtomicU64,
) {
    let Ok(mut client) = Client::connect(port) else { return };
    loop {
        let key = format!("w{writer}-{}", random.below(KEYS));
        let path = format!("/resources/stores/kv/{store}/keys/{key}");
        let known = journal.entry(key.clone()).or_default();
        let value = random.bytes();
        let there = known.value.clone();
        let (method, query, after) = match random.below(10) {
            0..=3 => ("PUT", "", Some(value.clone())),
            4 | 5 => {
                ("PUT", "?append=true", Some([there.unwrap_or_default(), value.clone()].concat()))
            }
            6 => {
                ("PUT", "?prepend=true", Some([value.clone(), there.unwrap_or_default()].concat()))
            }
            7 => ("PUT", "?add=true", Some(there.unwrap_or(value.clone()))),
            8 => ("DELETE", "?force=true", None),
            _ => ("BATCH", "", Some(value.clone())),
        };
        if after.as_ref().is_some_and(|value| value.len() > 3_000_000) {
            continue;
        }
        known.pending = Some(after.clone());
        let answer = if method == "BATCH" {
            let value = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &value);
            let line = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n");
            let request = format!("PUT /resources/stores/kv/{store}/batch");
            client.ask(&request, &[], line.as_bytes())
        } else {
            let body: &[u8] = if method == "PUT" { &value } else { b"" };
            client.ask(&format!("{method} {path}{query}"), &[], body)
        };
        let Ok(answer) = answer else { return };
        let refused = answer.status == 412 && query == "?add=true" && known.value.is_some();
        assert!(
            matches!(answer.status, 200 | 204) || refused,
            "{method} {query}: {}",
            answer.status
        );
        if answer.has("Generation") {
            let generation = answer.generation();
            assert!(generation > known.generation, "{key}: generations grow");
            known.generation = generation;
        }
        (known.value, known.pending) = (after, None);
        acked.fetch_add(1, Ordering::Relaxed);
    }
}

/// Compares what is there with what the journal allows; then what is there is what is known.
fn check(port: u16, store: &str, journal: &mut Journal, round: u64) -> u64 {
    let mut client = Client::connect(port).unwrap();
    for (key, known) in journal.iter_mut() {
        let request = format!("GET /resources/stores/kv/{store}/keys/{key}");
        let answer = client.ask(&request, &[], b"").unwrap();
        let found = match answer.status {
            200 => Some(answer.body.clone()),
            404 => None,
            status => panic!("round {round}: {key} answers {status}"),
        };
        let pending = known.pending.take();
        let size = |value: &Option<Vec<u8>>| value.as_ref().map(Vec::len);
        assert!(
            found == known.value || pending.as_ref().is_some_and(|after| *after == found),
            "round {round}: {key} has {:?} bytes, acknowledged {:?}, under way {:?}",
            size(&found),
            size(&known.value),
            pending.as_ref().map(size),
        );
        if answer.has("Generation") {
            let generation = answer.generation();
            assert!(generation >= known.generation, "round {round}: {key} went back");
            known.generation = generation;
        }
        known.value = found;
    }
    let list = client.ask(&format!("GET /resources/stores/kv/{store}/keys"), &[], b"").unwrap();
    let list = list.json();
    let listed: Vec<_> = list["data"].as_array().unwrap().iter().map(|k| k.as_str()).collect();
    let wanted = journal.iter().filter(|(_, known)| known.value.is_some());
    let wanted: Vec<_> = wanted.map(|(key, _)| Some(key.as_str())).collect();
    assert_eq!(listed, wanted, "round {round}: the list agrees with the items");
    journal.len() as u64
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_acknowledged_write_is_lost_by_kill_nine_under_load() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (rounds, seed) = (number("STEADFAST_CRASH_ROUNDS", 10), number("STEADFAST_SEED", now));
    println!("{rounds} rounds, STEADFAST_SEED={seed}");
    let mut home = Home::new(&[]);
    let mut random = Random(seed);
    let store = home.server.store("crash");
    let mut writers: Vec<(Journal, Random)> =
        (0..WRITERS).map(|_| (Journal::new(), Random(random.next()))).collect();
    let (acked, mut checked, mut slowest) = (AtomicU64::new(0), 0, Duration::ZERO);
    for round in 0..rounds {
        let pause = Duration::from_millis(100 + random.below(500));
        let port = home.server.port;
        std::thread::scope(|scope| {
            for (writer, (journal, random)) in writers.iter_mut().enumerate() {
                let (port, store, acked) = (port, &store, &acked);
                scope.spawn(move || write(port, store, writer as u64, journal, random, acked));
            }
            std::thread::sleep(pause);
            home.server.kill();
        });
        home.crash(&[]);
        slowest = slowest.max(home.server.started);
        let mut all = Journal::new();
        for (journal, _) in &mut writers {
            all.append(journal);
        }
        checked += check(home.server.port, &store, &mut all, round);
        for (writer, (journal, _)) in writers.iter_mut().enumerate() {
            let mine = format!("w{writer}-");
            *journal = all.iter().filter(|(key, _)| key.starts_with(&mine)).map(copy).collect();
        }
    }
    let acked = acked.into_inner();
    println!("{acked} writes acknowledged, {checked} items checked, slowest start {slowest:?}");
    assert!(acked > rounds * WRITERS, "the load was real");
}

fn copy((key, known): (&String, &Known)) -> (String, Known) {
    (key.clone(), known.clone())
}

#[test]
fn a_server_that_was_killed_while_nothing_ran_starts_at_once() {
    let mut home = Home::new(&[]);
    for _ in 0..3 {
        assert_eq!(home.server.ask("GET /readyz", &[], b"").status, 200);
        home.crash(&[]);
    }
}

/// The calls of the server that sync or answer, in order, as strace saw them.
fn traced(data: &Path, trace: &Path) -> Vec<String> {
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-s",
        "40",
        "-e",
        "trace=fdatasync,fsync,write,sendto,writev",
        "-o",
    ]);
    command.arg(trace).arg(support::binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    command.env("STEADFAST_TOKEN", TOKEN);
    let server = Server::spawn(command);
    let store = server.store("s");
    for size in [10, 1000, 700_000] {
        let request = format!("PUT /resources/stores/kv/{store}/keys/k");
        assert_eq!(server.ask(&request, &[], &vec![b'v'; size]).status, 200);
    }
    drop(server);
    std::fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_log_is_synced_before_the_answer() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let calls = traced(&dir.path().join("data"), &dir.path().join("trace"));
    let answers: Vec<_> =
        calls.iter().enumerate().filter(|(_, call)| call.contains("\"HTTP/1.1 20")).collect();
    assert_eq!(answers.len(), 4, "{calls:#?}");
    let mut from = 0;
    for (at, answer) in answers {
        let synced = calls[from..at].iter().any(|call| {
            let sync = call.contains("fdatasync(") || call.contains("fsync(");
            sync || call.contains("fdatasync resumed") || call.contains("fsync resumed")
        });
        assert!(synced, "no sync before {answer} in {:#?}", &calls[from..at]);
        from = at + 1;
    }
}

#[test]
fn a_stop_ends_what_runs_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (port, store) = (server.port, server.store("s"));
    let path = format!("/resources/stores/kv/{store}/keys/k");
    // A request whose body is still on its way when the server is told to stop.
    let mut client = server.connect();
    let head = format!("PUT {path} HTTP/1.1\r\nfastly-key: {TOKEN}\r\ncontent-length: 10\r\n\r\n");
    client.send(format!("{head}12345")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    let waiter = std::thread::spawn(move || server.wait());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiter.is_finished(), "it waits for the request that runs");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "and accepts no other");
    client.send("67890").unwrap();
    assert_eq!(client.answer(false).unwrap().status, 200);
    drop(client);
    assert!(waiter.join().unwrap().success());
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.ask(&format!("GET {path}"), &[], b"").body, b"1234567890");
}
