//! A server with a data directory. Runs the workload on it and checks the data after each restart.

use crate::harness::checker::{self, Verdict};
use crate::harness::fault_shim::{Action, FaultShim, Rule, WAL, WRITE};
use crate::harness::journal::{self, APPENDED, Journal};
use crate::harness::random::Random;
use crate::harness::workload::{self, ValueSizes, Workload};
use crate::support::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Number of chunks after which the shared key [`APPENDED`] is deleted.
const APPENDED_MAX: usize = 1000;

pub(crate) struct Testbed {
    dir: tempfile::TempDir,
    pub(crate) server: Server,
    pub(crate) store: String,
    pub(crate) journals: Vec<Journal>,
    pub(crate) random: Random,
    pub(crate) items_checked: u64,
    pub(crate) slowest_start: Duration,
}

impl Testbed {
    pub(crate) fn new(seed: u64, writers: u32) -> Testbed {
        Testbed::with(seed, writers, start_server)
    }

    pub(crate) fn with(seed: u64, writers: u32, start: impl FnOnce(&Path) -> Server) -> Testbed {
        let dir = tempfile::tempdir().unwrap();
        let server = start(&dir.path().join("data"));
        let (store, journals) =
            (server.create_store("s"), (0..writers).map(Journal::new).collect());
        let (random, items_checked, slowest_start) = (Random(seed), 0, Duration::ZERO);
        Testbed { dir, server, store, journals, random, items_checked, slowest_start }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.journals.iter().map(|journal| journal.acknowledged).sum()
    }

    pub(crate) fn path(&self, key: &str) -> String {
        format!("/resources/stores/kv/{}/keys/{key}", self.store)
    }

    /// Runs the workload while `during` runs.
    pub(crate) fn run_workload(
        &mut self,
        sizes: ValueSizes,
        errors_allowed: bool,
        during: impl FnOnce(&mut Server),
    ) {
        let (port, store, keys) = (self.server.port, self.store.clone(), sizes.keys());
        let workload = Workload { port, store, sizes, keys, errors_allowed };
        let Testbed { server, journals, random, .. } = self;
        workload::run(&workload, journals, random, || during(server));
    }

    /// Kills the server if it is running, and starts another one with the same data.
    pub(crate) fn restart(&mut self, start: impl FnOnce(&Path) -> Server) {
        self.server.kill();
        self.server = start(&self.data());
        self.slowest_start = self.slowest_start.max(self.server.startup_time);
    }

    /// Compares the store with the journals.
    pub(crate) fn verdict(&self) -> Verdict {
        let expected = journal::expected(&self.journals);
        let observed = checker::observe(self.server.port, &self.store, &expected);
        checker::compare(&expected, &observed)
    }

    /// Asserts that the store matches the journals, and restarts the journals from the state found.
    pub(crate) fn check(&mut self, when: &str) {
        let Verdict { violations, mut settled, checked } = self.verdict();
        assert!(violations.is_empty(), "{when}: {violations:#?}");
        self.items_checked += checked;
        if settled.appended.len() > APPENDED_MAX {
            let request = format!("DELETE {}?force=true", self.path(APPENDED));
            assert_eq!(self.server.request(&request, &[], b"").status, 204);
            settled.appended.clear();
        }
        self.journals.iter_mut().for_each(|journal| journal.reset_to(&settled));
    }
}

/// Starts a server with a small WAL, so that checkpoints and garbage collection run under load.
pub(crate) fn start_with_small_wal(data: &Path) -> Server {
    Server::start(data, &["--wal-bytes", "1048576"])
}

/// Starts a server with default settings.
pub(crate) fn start_server(data: &Path) -> Server {
    Server::start(data, &[])
}

/// Waits until the server no longer preallocates segment files. Changes slot 0 of the shim.
pub(crate) fn wait_for_preallocation(shim: &FaultShim) {
    shim.set(0, Rule::every(WRITE, WAL, Action::Count));
    let mut hits = u64::MAX;
    while hits != shim.hits(0) {
        hits = shim.hits(0);
        std::thread::sleep(Duration::from_millis(200));
    }
}
