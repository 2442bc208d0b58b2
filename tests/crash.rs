//! kill -9 under load, again and again: after each restart every acknowledged write is there, and a
//! write that was not acknowledged is there whole or not at all.
//!
//! Each writer has keys of its own, keeps a journal of what was acknowledged, and knows the one
//! operation that was under way when the server died. `STEADFAST_CRASH_ROUNDS` makes it longer,
//! `STEADFAST_SEED` repeats a run's choices (though not its timing).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TOKEN: &str = "crash-test-token-0123456789";
const WRITERS: u64 = 8;
const KEYS: u64 = 6;

fn binary() -> String {
    std::env::var("STEADFAST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_steadfast").into())
}

/// A server on a port of its own; killed when dropped.
struct Server {
    child: Child,
    port: u16,
    started: Duration,
}

impl Server {
    fn start(data: &Path) -> Server {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        Server::spawn(command)
    }

    fn spawn(mut command: Command) -> Server {
        let start = Instant::now();
        let mut child = command
            .env("STEADFAST_TOKEN", TOKEN)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("the first line was {line:?}"));
        Server { child, port, started: start.elapsed() }
    }

    /// kill -9 to the whole group: under strace the server is a child of the child.
    fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One connection that speaks as little HTTP as it needs.
struct Client(BufReader<TcpStream>);

struct Answer {
    status: u16,
    generation: Option<u64>,
    body: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Client(BufReader::new(stream)))
    }

    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
        let len = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: t\r\nfastly-key: {TOKEN}\r\ncontent-length: {len}\r\n\r\n"
        );
        let stream = self.0.get_mut();
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let (mut status, mut generation, mut length) = (0, None, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.parse().unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("generation: ") {
                generation = rest.parse().ok();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Answer { status, generation, body })
    }
}

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
            let path = format!("/resources/stores/kv/{store}/batch");
            client.ask("PUT", &path, line.as_bytes())
        } else {
            let body: &[u8] = if method == "PUT" { &value } else { b"" };
            client.ask(method, &format!("{path}{query}"), body)
        };
        let Ok(answer) = answer else { return };
        let refused = answer.status == 412 && query == "?add=true" && known.value.is_some();
        assert!(
            matches!(answer.status, 200 | 204) || refused,
            "{method} {query}: {}",
            answer.status
        );
        if let Some(generation) = answer.generation {
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
        let answer = client.ask("GET", &format!("/resources/stores/kv/{store}/keys/{key}"), b"");
        let answer = answer.unwrap();
        let found = match answer.status {
            200 => Some(answer.body),
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
        if let Some(generation) = answer.generation {
            assert!(generation >= known.generation, "round {round}: {key} went back");
            known.generation = generation;
        }
        known.value = found;
    }
    let list = client.ask("GET", &format!("/resources/stores/kv/{store}/keys"), b"").unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.body).unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let mut server = Server::start(dir.path());
    let made = Client::connect(server.port)
        .and_then(|mut c| c.ask("POST", "/resources/stores/kv", b"{\"name\":\"crash\"}"))
        .unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let store = made["id"].as_str().unwrap().to_owned();
    let mut writers: Vec<(Journal, Random)> =
        (0..WRITERS).map(|_| (Journal::new(), Random(random.next()))).collect();
    let (acked, mut checked, mut slowest) = (AtomicU64::new(0), 0, Duration::ZERO);
    for round in 0..rounds {
        let pause = Duration::from_millis(100 + random.below(500));
        std::thread::scope(|scope| {
            for (writer, (journal, random)) in writers.iter_mut().enumerate() {
                let (port, store, acked) = (server.port, &store, &acked);
                scope.spawn(move || write(port, store, writer as u64, journal, random, acked));
            }
            std::thread::sleep(pause);
            server.kill();
        });
        server = Server::start(dir.path());
        slowest = slowest.max(server.started);
        let mut all = Journal::new();
        for (journal, _) in &mut writers {
            all.append(journal);
        }
        checked += check(server.port, &store, &mut all, round);
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
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let server = Server::start(dir.path());
        let health = Client::connect(server.port).unwrap().ask("GET", "/readyz", b"").unwrap();
        assert_eq!(health.status, 200);
        drop(server);
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
    command.arg(trace).arg(binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    let server = Server::spawn(command);
    let mut client = Client::connect(server.port).unwrap();
    let made = client.ask("POST", "/resources/stores/kv", b"{\"name\":\"s\"}").unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let path = format!("/resources/stores/kv/{}/keys/k", made["id"].as_str().unwrap());
    for size in [10, 1000, 700_000] {
        let put = client.ask("PUT", &path, &vec![b'v'; size]).unwrap();
        assert_eq!(put.status, 200);
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
    let server = Server::start(dir.path());
    let port = server.port;
    let mut client = Client::connect(port).unwrap();
    let made = client.ask("POST", "/resources/stores/kv", b"{\"name\":\"s\"}").unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let path = format!("/resources/stores/kv/{}/keys/k", made["id"].as_str().unwrap());
    // A request whose body is still on its way when the server is told to stop.
    let stream = client.0.get_mut();
    let head = format!("PUT {path} HTTP/1.1\r\nfastly-key: {TOKEN}\r\ncontent-length: 10\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"12345").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let stopped = Arc::new(AtomicBool::new(false));
    let waiter = {
        let (stopped, mut server) = (stopped.clone(), server);
        let pid = server.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        std::thread::spawn(move || {
            let status = server.child.wait().unwrap();
            stopped.store(true, Ordering::SeqCst);
            status
        })
    };
    std::thread::sleep(Duration::from_millis(300));
    assert!(!stopped.load(Ordering::SeqCst), "it waits for the request that runs");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "and accepts no other");
    client.0.get_mut().write_all(b"67890").unwrap();
    let mut answer = String::new();
    client.0.read_line(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(client);
    assert!(waiter.join().unwrap().success());
    let server = Server::start(dir.path());
    let found = Client::connect(server.port).unwrap().ask("GET", &path, b"").unwrap();
    assert_eq!(found.body, b"1234567890");
}
