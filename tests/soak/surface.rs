//! Sends random valid and abusive requests to every route and kills the server with kill -9.
//!
//! The operations, their parameters and their statuses come from `steadfast openapi`. A new route
//! is therefore covered as soon as it is described there.

use crate::random::{Random, env_number, run_seed};
use crate::requests::{Operation, RandomRequest};
use crate::support::{Client, DiskServer, TOKEN};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: u64 = 8;
const KILLS: u32 = 2;
/// Flags of the server. They allow little memory, so that requests reach the limits.
const FLAGS: [&str; 6] =
    ["--max-in-flight", "33554432", "--cache", "16777216", "--wal-bytes", "4194304"];
/// Maximum resident memory of the server in KiB, for bodies in flight, the cache, the memtable,
/// connections and allocator overhead.
const RSS_KIB_MAX: u64 = 400 << 10;

/// The state that the clients share.
struct Surface {
    operations: Vec<Operation>,
    port: AtomicU16,
    /// Incremented before each kill and after each restart. It is odd while no server listens.
    kills: AtomicU64,
    stop: AtomicBool,
    /// The ids of stores that exist or have existed.
    stores: Mutex<Vec<String>>,
    tokens: Mutex<Vec<String>>,
    /// The statuses that each operation has returned.
    seen: Mutex<BTreeMap<String, BTreeSet<u16>>>,
    answered: AtomicU64,
}

#[test]
fn every_route_survives_abusive_requests_and_kills() {
    let seconds = env_number("STEADFAST_SOAK_SECONDS").unwrap_or(15);
    let seed = run_seed("surface");
    let mut disk = DiskServer::logged(&FLAGS);
    let surface = Surface::new(&disk);
    std::thread::scope(|threads| {
        // Stop the clients if this thread panics, so that the scope can end.
        let stop = StopOnDrop(&surface.stop);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let surface = &surface;
                threads.spawn(move || surface.run_client(Random(seed.wrapping_add(number))))
            })
            .collect();
        for _ in 0..KILLS {
            wait(seconds, &disk, &surface);
            surface.kills.fetch_add(1, Ordering::SeqCst);
            disk.kill_and_restart(&FLAGS);
            surface.port.store(disk.server.port, Ordering::SeqCst);
            surface.kills.fetch_add(1, Ordering::SeqCst);
        }
        wait(seconds, &disk, &surface);
        drop(stop);
        for client in clients {
            client.join().unwrap_or_else(|_| panic!("a client failed, STEADFAST_SEED={seed}"));
        }
    });
    surface.check_coverage();
    expect_idle(&disk);
    let log = disk.stop_and_read_log();
    for sign in ["panicked", "ERROR"] {
        let line = log.lines().find(|line| line.contains(sign));
        assert!(line.is_none(), "STEADFAST_SEED={seed}: {line:?}");
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for the time between two kills, and checks the memory of the server during this time.
fn wait(seconds: u64, disk: &DiskServer, surface: &Surface) {
    let until = Instant::now() + Duration::from_secs(seconds) / (KILLS + 1);
    while Instant::now() < until && !surface.stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        let kib = status_number(disk.server.pid(), "VmRSS:");
        assert!(kib <= RSS_KIB_MAX, "the server uses {kib} KiB of memory");
    }
}

/// Reads a number from the status file of a process.
fn status_number(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Checks that no connections, files or memory permits are in use after the clients disconnected.
fn expect_idle(disk: &DiskServer) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = disk.server.get("/metrics").text();
        let name = "steadfast_http_connections ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let connections: u64 = line.unwrap().trim().parse().unwrap();
        let files = fs::read_dir(format!("/proc/{}/fd", disk.server.pid())).unwrap().count();
        // Allow the connection of the metrics request, and the files that the engine keeps open.
        if connections <= 1 && files < 100 {
            break;
        }
        assert!(
            Instant::now() < until,
            "{connections} connections and {files} files are still open"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let store = disk.server.create_store("after the run");
    let item = format!("/resources/stores/kv/{store}/keys/large");
    let value = vec![b'v'; 25 << 20];
    assert_eq!(disk.server.request(&format!("PUT {item}"), &[], &value).status, 200);
    assert!(disk.server.get(&item).body == value);
}

impl Surface {
    fn new(disk: &DiskServer) -> Surface {
        Surface {
            operations: Operation::all(),
            port: AtomicU16::new(disk.server.port),
            kills: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            stores: Mutex::new(vec![disk.server.create_store("first")]),
            tokens: Mutex::new(vec![TOKEN.to_owned()]),
            seen: Mutex::default(),
            answered: AtomicU64::new(0),
        }
    }

    fn run_client(&self, mut random: Random) {
        let mut client = None;
        while !self.stop.load(Ordering::Relaxed) {
            let kills = self.kills.load(Ordering::SeqCst);
            if client.is_none() || random.one_in(50) {
                client = Client::connect(self.port.load(Ordering::SeqCst)).ok();
            }
            let Some(connection) = &mut client else { continue };
            let request = self.random_request(&mut random);
            match self.exchange(connection, &request, &mut random) {
                Ok(true) => {}
                Ok(false) => client = None,
                Err(error) => {
                    client = None;
                    let killed = kills % 2 == 1 || self.kills.load(Ordering::SeqCst) != kills;
                    assert!(killed || !request.is_valid, "{}: {error}", request.text());
                }
            }
        }
    }

    fn random_request(&self, random: &mut Random) -> RandomRequest {
        let operation = &self.operations[random.below(self.operations.len() as u64) as usize];
        let pick = |from: &Mutex<Vec<String>>, random: &mut Random| {
            let from = from.lock().unwrap();
            from[random.below(from.len() as u64) as usize].clone()
        };
        let store = pick(&self.stores, random);
        let token = match random.below(8) {
            0 => pick(&self.tokens, random),
            _ => TOKEN.to_owned(),
        };
        RandomRequest::new(operation, &store, &token, random)
    }

    /// Sends a request and checks the response. Returns whether the connection can be used again.
    fn exchange(
        &self,
        client: &mut Client,
        request: &RandomRequest,
        random: &mut Random,
    ) -> std::io::Result<bool> {
        let sent = client.send(&request.bytes);
        if request.is_truncated {
            // Disconnect in the middle of the request. In half of the cases, half-close first.
            if random.one_in(2) {
                client.shutdown_write();
            }
            return Ok(false);
        }
        let mut response = client.read_response(request.method == "HEAD");
        if response.as_ref().is_ok_and(|response| response.status == 100) {
            response = client.read_response(request.method == "HEAD");
        }
        // The server may respond and close the connection before it has read the whole request.
        let response = response.or_else(|error| sent.and(Err(error)))?;
        let name = &request.operation;
        assert!(
            request.statuses.contains(&response.status) && response.status != 500,
            "{name} returned {}: {}",
            response.status,
            String::from_utf8_lossy(&response.body)
        );
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.seen.lock().unwrap().entry(name.clone()).or_default().insert(response.status);
        if response.status == 201 {
            self.remember(name, &response.json());
        }
        Ok(!response.headers("Connection").contains(&"close"))
    }

    /// Records the id of a new store or the secret of a new token for later requests.
    fn remember(&self, operation: &str, created: &serde_json::Value) {
        let (list, name) = match operation.contains("tokens") {
            true => (&self.tokens, "access_token"),
            false => (&self.stores, "id"),
        };
        let mut list = list.lock().unwrap();
        list.push(created[name].as_str().unwrap().to_owned());
        if list.len() > 20 {
            list.remove(1);
        }
    }

    /// Checks that the run covered the API: every operation got a response, at least four fifths of
    /// the operations succeeded at least once, and items were written and read.
    fn check_coverage(&self) {
        let seen = self.seen.lock().unwrap();
        println!("{} responses: {seen:#?}", self.answered.load(Ordering::Relaxed));
        let succeeded = |statuses: &BTreeSet<u16>| statuses.iter().any(|status| *status < 300);
        for operation in &self.operations {
            let statuses = seen.get(&operation.name);
            assert!(statuses.is_some(), "{} never got a response", operation.name);
        }
        let failed: Vec<_> = seen.iter().filter(|(_, all)| !succeeded(all)).collect();
        assert!(failed.len() * 5 <= seen.len(), "operations that never succeeded: {failed:?}");
        for name in
            ["GET", "PUT"].map(|m| format!("{m} /resources/stores/kv/{{store_id}}/keys/{{key}}"))
        {
            assert!(succeeded(&seen[&name]), "{name}: {:?}", seen[&name]);
        }
    }
}
