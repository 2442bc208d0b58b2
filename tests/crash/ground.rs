//! A data directory with a server on it, a load, and the check after each stop.

use crate::check::{self, Verdict};
use crate::journal::{self, APPENDED, Journal};
use crate::load::{self, Load, Sizes};
use crate::random::Random;
use crate::support::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Appends to one key after which it is begun anew.
const APPENDED_MAX: usize = 1000;

pub(crate) struct Ground {
    dir: tempfile::TempDir,
    pub(crate) server: Server,
    pub(crate) store: String,
    pub(crate) journals: Vec<Journal>,
    pub(crate) random: Random,
    pub(crate) checked: u64,
    pub(crate) slowest: Duration,
}

impl Ground {
    /// With a plain server.
    pub(crate) fn new(seed: u64, writers: u32) -> Ground {
        Ground::with(seed, writers, plain)
    }

    pub(crate) fn with(seed: u64, writers: u32, start: impl FnOnce(&Path) -> Server) -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let server = start(&dir.path().join("data"));
        let (store, journals) =
            (server.create_store("s"), (0..writers).map(Journal::new).collect());
        let (random, checked, slowest) = (Random(seed), 0, Duration::ZERO);
        Ground { dir, server, store, journals, random, checked, slowest }
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

    /// Loads the server while `during` does something to it.
    pub(crate) fn load(&mut self, sizes: Sizes, faults: bool, during: impl FnOnce(&mut Server)) {
        let (port, store, keys) = (self.server.port, self.store.clone(), 6);
        let load = Load { port, store, sizes, keys, faults };
        let Ground { server, journals, random, .. } = self;
        load::run(&load, journals, random, || during(server));
    }

    /// Kills the server if it is still there, and starts another on the same data.
    pub(crate) fn restart(&mut self, start: impl FnOnce(&Path) -> Server) {
        self.server.kill();
        self.server = start(&self.data());
        self.slowest = self.slowest.max(self.server.startup_time);
    }

    /// Compares what is there with the journals.
    pub(crate) fn verdict(&self) -> Verdict {
        let expected = journal::expected(&self.journals);
        let observed = check::observe(self.server.port, &self.store, &expected);
        check::compare(&expected, &observed)
    }

    /// Demands that everything is as it must be, and goes on from there.
    pub(crate) fn check(&mut self, when: &str) {
        let Verdict { faults, mut found, checked } = self.verdict();
        assert!(faults.is_empty(), "{when}: {faults:#?}");
        self.checked += checked;
        if found.appended.len() > APPENDED_MAX {
            let request = format!("DELETE {}", self.path(APPENDED));
            assert_eq!(self.server.request(&format!("{request}?force=true"), &[], b"").status, 204);
            found.appended.clear();
        }
        self.journals.iter_mut().for_each(|journal| journal.settle(&found));
    }
}

/// A server without further ado.
pub(crate) fn plain(data: &Path) -> Server {
    Server::start(data, &[])
}
