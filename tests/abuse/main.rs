//! Tests with hostile and broken clients. After each attack, the server must be running, serve
//! other clients promptly and have logged no error or panic. The tests run one at a time, because
//! they measure time and memory. If `STEADFAST_ABUSE_LONG` is set, uploads are truncated at every
//! KiB. `STEADFAST_SEED` sets the random seed; runs with the same seed send the same random input.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::print_stdout, reason = "tests may print")]

#[path = "../harness/random.rs"]
#[allow(dead_code, clippy::disallowed_methods, reason = "not every suite uses all of it")]
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

/// Held by a test while it runs, so that the tests run one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) const MIB: u64 = 1 << 20;

/// A server under attack. It has an item, `kept`, that must survive.
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

    /// Returns the path of an item.
    pub(crate) fn item(&self, key: &str) -> String {
        format!("/resources/stores/kv/{}/keys/{key}", self.store)
    }

    /// Returns the head of a request with the token and `headers`. Each header ends with CR LF.
    pub(crate) fn head(&self, request: &str, headers: &str) -> String {
        format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{headers}\r\n")
    }

    pub(crate) fn connect(&self) -> Client {
        self.disk.server.connect()
    }

    /// Sends a request on a new connection.
    pub(crate) fn request(&self, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.disk.server.request(request, headers, body)
    }

    /// Sends a GET request on a new connection.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.disk.server.get(path)
    }

    /// Checks that the server accepts and serves a write from another client.
    pub(crate) fn assert_available(&self) {
        assert_eq!(self.get("/readyz").status, 200);
        let item = self.item("others");
        assert_eq!(self.request(&format!("PUT {item}"), &[], b"fine").status, 200);
        assert_eq!(self.get(&item).text(), "fine");
    }

    /// Checks that the server serves another client within 2 s.
    pub(crate) fn assert_responsive(&self) {
        let start = Instant::now();
        self.assert_available();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "another client waited for {took:?}");
    }

    /// Checks the data and the availability after the attack, stops the server, and checks the log.
    pub(crate) fn assert_healthy_and_stop(self) {
        self.assert_available();
        assert_eq!(self.get(&self.item("kept")).text(), "kept");
        let Target { disk, _serial, .. } = self;
        let log = disk.stop_and_read_log();
        for word in ["panicked", "ERROR"] {
            assert!(!log.contains(word), "{log}");
        }
    }

    /// Returns the memory of the server process in bytes: `VmRSS` (current) or `VmHWM` (peak).
    pub(crate) fn memory_bytes(&self, name: &str) -> u64 {
        process_memory(self.disk.server.pid(), name).unwrap()
    }

    /// Prints the peak memory of the server process and checks that it is below `limit`.
    pub(crate) fn assert_peak_memory_below(&self, limit: u64) {
        let peak = self.memory_bytes("VmHWM");
        println!("peak memory {} MiB, limit {} MiB", peak / MIB, limit / MIB);
        assert!(
            peak < limit,
            "the peak memory is {} MiB, but the limit is {} MiB",
            peak / MIB,
            limit / MIB
        );
    }

    pub(crate) fn blob_files(&self) -> Vec<PathBuf> {
        let directories = fs::read_dir(self.disk.data().join("blobs")).unwrap();
        let files = directories.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    }

    /// Returns the number of open connections from the metrics. The count includes the connection
    /// that requests the metrics.
    pub(crate) fn open_connections(&self) -> u64 {
        let text = self.get("/metrics").text();
        let count = text.lines().find_map(|line| line.strip_prefix("steadfast_http_connections "));
        count.unwrap().parse().unwrap()
    }

    /// Waits until all connections are closed, except the one that requests the metrics.
    pub(crate) fn wait_until_connections_close(&self) {
        wait_until("connections are still open", || self.open_connections() <= 1);
    }
}

/// Raises the limit on open files so that the test can open this many connections. Returns the
/// number of connections that the limit allows, which may be smaller.
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
        println!("using only {count} connections because the limit on open files is {files}");
    }
    count
}

/// Waits up to a minute for a condition. Panics with `message` if it does not become true.
pub(crate) fn wait_until(message: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "{message}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
