//! Clients that mean harm, or are broken in ways that look like it. After each attack the server
//! is up, serves others promptly, and has not panicked. Attacks run one at a time, so that what
//! is measured is theirs. `STEADFAST_HOSTILE_LONG` cuts an upload at every kilobyte;
//! `STEADFAST_SEED` repeats the random bytes of a run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may panic and print"
)]

#[path = "../support/mod.rs"]
mod support;

mod concurrent_batches;
mod concurrent_uploads;
mod half_closed_connections;
mod idle_connections;
mod oversized_requests;
mod pipelining;
mod random_input;
mod slow_clients;
mod truncated_uploads;
mod unread_responses;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{Client, Server, TOKEN, binary};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) const MIB: u64 = 1 << 20;

/// A server under attack, with one item, `kept`, that must outlive it.
pub(crate) struct Victim {
    pub(crate) server: Server,
    pub(crate) store: String,
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Victim {
    pub(crate) fn new(flags: &[&str]) -> Victim {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path().join("data"));
        command.args(flags).env("STEADFAST_TOKEN", TOKEN);
        command.stderr(File::create(dir.path().join("log")).unwrap());
        let server = Server::spawn(command);
        let store = server.create_store("s");
        let victim = Victim { server, store, dir, _alone: alone };
        let put = victim.server.request(&format!("PUT {}", victim.item("kept")), &[], b"kept");
        assert_eq!(put.status, 200);
        victim
    }

    /// The path of an item.
    pub(crate) fn item(&self, key: &str) -> String {
        format!("/resources/stores/kv/{}/keys/{key}", self.store)
    }

    /// The head of a request with the token; `fields` end in CR LF each.
    pub(crate) fn head(&self, request: &str, fields: &str) -> String {
        format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {TOKEN}\r\n{fields}\r\n")
    }

    pub(crate) fn connect(&self) -> Client {
        self.server.connect()
    }

    /// What others meet while an attack goes on: an answer to each of these.
    pub(crate) fn answers_others(&self) {
        assert_eq!(self.server.request("GET /readyz", &[], b"").status, 200);
        let item = self.item("others");
        assert_eq!(self.server.request(&format!("PUT {item}"), &[], b"fine").status, 200);
        assert_eq!(self.server.request(&format!("GET {item}"), &[], b"").text(), "fine");
    }

    /// The same, all of it in the 2 s after which people ask what is wrong.
    pub(crate) fn serves_others(&self) {
        let start = Instant::now();
        self.answers_others();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "others waited for {took:?}");
    }

    /// What must hold when the attack is over; ends the server.
    pub(crate) fn unharmed(self) {
        self.answers_others();
        assert_eq!(
            self.server.request(&format!("GET {}", self.item("kept")), &[], b"").text(),
            "kept"
        );
        let Victim { server, dir, _alone, .. } = self;
        server.stop();
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        for word in ["panicked", "ERROR"] {
            assert!(!log.contains(word), "{log}");
        }
    }

    /// Bytes of the server's memory: `VmRSS` for now, `VmHWM` for the most so far.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kib: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
        kib * 1024
    }

    /// Holds the most memory so far to a bound, and says it.
    pub(crate) fn held_below(&self, bound: u64) {
        let most = self.memory("VmHWM");
        println!("at most {} MiB were held, {} MiB are allowed", most / MIB, bound / MIB);
        assert!(most < bound, "{} MiB of {}", most / MIB, bound / MIB);
    }

    /// Files of large values.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.dir.path().join("data/blobs")).unwrap();
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    }

    /// Connections that the server counts as open, this question's included.
    pub(crate) fn connections(&self) -> u64 {
        let text = self.server.request("GET /metrics", &[], b"").text();
        let count = text.lines().find_map(|line| line.strip_prefix("steadfast_http_connections "));
        count.unwrap().parse().unwrap()
    }

    /// Waits until no connection is left but the one that asks.
    pub(crate) fn lets_go(&self) {
        eventually("connections stay", || self.connections() <= 1);
    }
}

/// Waits for what must come true, for a minute.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
