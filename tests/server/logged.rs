//! A server whose log is kept, so that a test can read it.

use crate::support::{Server, TOKEN, binary};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server with its data and its log in a directory that goes with it.
pub(crate) struct Logged {
    pub(crate) server: Server,
    dir: tempfile::TempDir,
}

impl Logged {
    pub(crate) fn new(flags: &[&str]) -> Logged {
        let dir = tempfile::tempdir().unwrap();
        Logged { server: Logged::spawn(dir.path(), flags), dir }
    }

    fn spawn(dir: &Path, flags: &[&str]) -> Server {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.join("data"));
        command.args(flags).env("STEADFAST_TOKEN", TOKEN);
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        command.stderr(log);
        Server::spawn(command)
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Kills it with -9 and starts it again; its log goes on.
    pub(crate) fn crash(&mut self, flags: &[&str]) {
        self.server.kill();
        self.server = Logged::spawn(self.dir.path(), flags);
    }

    /// Stops the server in order; what it had logged.
    pub(crate) fn stop(self) -> String {
        self.server.stop();
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}
