//! Hostile and broken clients. After each attack the server is up, serves other clients promptly
//! and has logged no error or panic. The tests run one at a time, because they measure time and
//! memory. With `STEADFAST_ABUSE_LONG` an upload is truncated at every KiB; `STEADFAST_SEED`
//! repeats the random input of a run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::print_stdout, reason = "tests print and read variables")]

#[path = "../harness/random.rs"]
#[allow(dead_code, clippy::disallowed_methods, reason = "each suite uses a part")]
mod random;
#[path = "../support/mod.rs"]
mod support;

mod concurrent_batches;
mod concurrent_uploads;
mod half_closed_connections;
mod idle_connections;
mod memory_ceiling;
mod oversized_requests;
mod pipelining;
mod random_input;
mod slow_clients;
mod truncated_uploads;
mod unauthenticated_clients;
mod unread_responses;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{Client, DiskServer, Response, TOKEN, process_memory};

/// Serializes the tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) const MIB: u64 = 1 << 20;

/// A server under attack, with one item, `kept`, that must survive.
pub(crate) struct Target {
    disk: DiskServer,
    pub(crate) store: String,
    _serial: MutexGuard<'static, ()>,
}

impl Target {
    pub(crate) fn new(flags: &[&str]) -> Target {
        let serial = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = DiskServer::logged(flags);
        let store = disk.server.create_store("s");
        let target = Target { disk, store, _serial: serial };
        let put = target.request(&format!("PUT {}", target.item("kept")), &[], b"kept");
        assert_eq!(put.status, 200);
        target
    }

    /// The path of an item.
    pub(crate) fn item(&self, key: &str) -> String {
        format!("/resources/stores/kv/{}/keys/{key}", self.store)
    }

    /// The head of a request with the token; each header ends with CR LF.
    pub(crate) fn head(&self, request: &str, headers: &str) -> String {
        format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{headers}\r\n")
    }

    pub(crate) fn connect(&self) -> Client {
        self.disk.server.connect()
    }

    /// Sends one request on a new connection.
    pub(crate) fn request(&self, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.disk.server.request(request, headers, body)
    }

    /// Sends a GET request on a new connection.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.disk.server.get(path)
    }

    /// Checks that the server serves other clients.
    pub(crate) fn assert_available(&self) {
        assert_eq!(self.get("/readyz").status, 200);
        let item = self.item("others");
        assert_eq!(self.request(&format!("PUT {item}"), &[], b"fine").status, 200);
        assert_eq!(self.get(&item).text(), "fine");
    }

    /// Checks that the server serves other clients within 2 s.
    pub(crate) fn assert_responsive(&self) {
        let start = Instant::now();
        self.assert_available();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "other clients waited {took:?}");
    }

    /// Checks data and availability after the attack, stops the server, and checks its log.
    pub(crate) fn assert_healthy_and_stop(self) {
        self.assert_available();
        assert_eq!(self.get(&self.item("kept")).text(), "kept");
        let Target { disk, _serial, .. } = self;
        let log = disk.stop_and_read_log();
        for word in ["panicked", "ERROR"] {
            assert!(!log.contains(word), "{log}");
        }
    }

    /// A memory figure of the server process: `VmRSS` (current) or `VmHWM` (peak).
    pub(crate) fn memory_bytes(&self, name: &str) -> u64 {
        process_memory(self.disk.server.pid(), name).unwrap()
    }

    /// Checks the peak memory of the server process, and prints it.
    pub(crate) fn assert_peak_memory_below(&self, limit: u64) {
        let peak = self.memory_bytes("VmHWM");
        println!("peak memory {} MiB, limit {} MiB", peak / MIB, limit / MIB);
        assert!(peak < limit, "{} MiB of {}", peak / MIB, limit / MIB);
    }

    pub(crate) fn blob_files(&self) -> Vec<PathBuf> {
        let directories = fs::read_dir(self.disk.data().join("blobs")).unwrap();
        let files = directories.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    }

    /// The open connections according to the metrics, including the one of this request.
    pub(crate) fn open_connections(&self) -> u64 {
        let text = self.get("/metrics").text();
        let count = text.lines().find_map(|line| line.strip_prefix("steadfast_http_connections "));
        count.unwrap().parse().unwrap()
    }

    /// Waits until only the connection of the request for the metrics is open.
    pub(crate) fn wait_until_connections_close(&self) {
        wait_until("connections are still open", || self.open_connections() <= 1);
    }
}

/// Raises the limit of open files for this many connections, and returns how many are possible.
pub(crate) fn raise_file_limit(connections: u64) -> u64 {
    /// File descriptors that the test and the server need for other purposes.
    const SPARE_FILES: u64 = 1024;
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.unwrap_or(u64::MAX).min(connections + SPARE_FILES);
    if limit.current.is_some_and(|current| current < files) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: limit.maximum })
            .unwrap();
    }
    let count = connections.min(files.saturating_sub(SPARE_FILES));
    if count < connections {
        println!("only {count} connections: the limit of open files is {files}");
    }
    count
}

/// Waits up to a minute for a condition; panics with `message` if it does not become true.
pub(crate) fn wait_until(message: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "{message}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
