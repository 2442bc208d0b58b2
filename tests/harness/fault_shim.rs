//! Injects faults into system calls of the unmodified binary: preloads `fault_shim.c` and writes
//! the rules that it applies.

use super::preload;
use crate::support::{self, Server, TOKEN};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The calls that a rule matches, as a bit set.
pub(crate) const WRITE: u32 = 1;
pub(crate) const SYNC: u32 = 2;
pub(crate) const UNLINK: u32 = 4;
pub(crate) const TRUNCATE: u32 = 16;
pub(crate) const OPEN: u32 = 32;
pub(crate) const SEND: u32 = 64;

pub(crate) const EIO: u32 = 5;
pub(crate) const ENOSPC: u32 = 28;

/// Path patterns. A final `$` anchors a pattern at the end of the path.
pub(crate) const WAL: &str = "/log/slot-";
/// The WAL of SQLite, to which a checkpoint writes first.
pub(crate) const SQLITE_WAL: &str = "steadfast.db-wal$";
pub(crate) const DATABASE: &str = "steadfast.db$";
pub(crate) const BLOBS: &str = "/blobs/";

/// The layout of the control file, which `fault_shim.c` also defines.
const RULES: usize = 8;
const HEADER_BYTES: usize = 128;
const RULE_BYTES: usize = 128;
const PATH_BYTES: usize = 88;

/// The fault that a rule injects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Count,
    KillBefore,
    KillAfter,
    /// Kills the process after half of a write, or after any other call.
    KillHalfway,
    /// Makes the call fail with this errno.
    Fail(u32),
    /// Writes only half of the bytes.
    Short,
    /// Delays the call by this many milliseconds.
    Delay(u32),
    /// Skips the call and reports success.
    Skip,
}

/// A rule: the calls and paths that it matches, the action, the first hit on which it acts, and the
/// number of hits on which it acts (0 means unlimited).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) calls: u32,
    pub(crate) path: &'static str,
    pub(crate) action: Action,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Rule {
    /// Returns a rule that acts on every hit.
    pub(crate) fn every(calls: u32, path: &'static str, action: Action) -> Rule {
        Rule { calls, path, action, first: 1, count: 0 }
    }

    fn encode(self) -> [u8; RULE_BYTES] {
        let (action, amount) = match self.action {
            Action::Count => (0_u32, 0),
            Action::KillBefore => (1, 0),
            Action::KillAfter => (2, 0),
            Action::KillHalfway => (3, 0),
            Action::Fail(errno) => (4, errno),
            Action::Short => (5, 0),
            Action::Delay(millis) => (6, millis),
            Action::Skip => (7, 0),
        };
        let mut bytes = [0; RULE_BYTES];
        bytes[..4].copy_from_slice(&self.calls.to_ne_bytes());
        bytes[4..8].copy_from_slice(&action.to_ne_bytes());
        bytes[8..12].copy_from_slice(&amount.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.count.to_ne_bytes());
        assert!(self.path.len() < PATH_BYTES, "the path {} is too long", self.path);
        bytes[40..40 + self.path.len()].copy_from_slice(self.path.as_bytes());
        bytes
    }
}

/// The compiled shim and its control file.
pub(crate) struct FaultShim {
    dir: tempfile::TempDir,
    library: PathBuf,
    control: File,
}

impl FaultShim {
    /// Compiles the shim. Prints a notice and returns `None` if there is no C compiler.
    pub(crate) fn build() -> Option<FaultShim> {
        let dir = tempfile::tempdir().unwrap();
        let library = preload::build("tests/harness/fault_shim.c", dir.path())?;
        let mut options = File::options();
        let control = options.read(true).write(true).create_new(true);
        let control = control.open(dir.path().join("control")).unwrap();
        control.set_len((HEADER_BYTES + RULES * RULE_BYTES) as u64).unwrap();
        Some(FaultShim { dir, library, control })
    }

    /// Starts a server with the shim. [`FaultShim::log`] returns the log.
    pub(crate) fn server(&self, data: &Path) -> Server {
        let mut command = self.command(data);
        // With a small WAL, checkpoints are frequent.
        command.args(["--wal-bytes", "1048576"]);
        Server::spawn(command)
    }

    /// Returns a command that starts a server with the shim and default settings.
    pub(crate) fn command(&self, data: &Path) -> Command {
        let mut command = Command::new(support::binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        command.env("STEADFAST_TOKEN", TOKEN);
        command.env("STEADFAST_SHIM", self.control()).env("LD_PRELOAD", self.library());
        let log = File::options().create(true).append(true).open(self.dir.path().join("log"));
        command.stderr(log.unwrap());
        command
    }

    /// Returns the path of the library, for a command that preloads another library too.
    pub(crate) fn library(&self) -> &Path {
        &self.library
    }

    /// Returns the path of the control file, for `STEADFAST_SHIM`.
    pub(crate) fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// Returns the logs of all servers that were started with the shim.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Enables a rule and resets its hit counter. Writes the set of calls last, because the shim
    /// ignores a rule whose set is empty.
    pub(crate) fn set(&self, slot: usize, rule: Rule) {
        assert!(slot < RULES, "there are only {RULES} rules");
        let at = (HEADER_BYTES + slot * RULE_BYTES) as u64;
        let bytes = rule.encode();
        self.control.write_all_at(&[0; 4], at).unwrap();
        self.control.write_all_at(&bytes[4..], at + 4).unwrap();
        self.control.write_all_at(&bytes[..4], at).unwrap();
    }

    /// Disables a rule and keeps its hit counter.
    pub(crate) fn disable(&self, slot: usize) {
        self.control.write_all_at(&[0; 4], (HEADER_BYTES + slot * RULE_BYTES) as u64).unwrap();
    }

    /// Returns how often a rule has matched.
    pub(crate) fn hits(&self, slot: usize) -> u64 {
        let mut hits = [0; 8];
        let at = (HEADER_BYTES + slot * RULE_BYTES + 32) as u64;
        self.control.read_exact_at(&mut hits, at).unwrap();
        u64::from_ne_bytes(hits)
    }

    /// Sets the server's wall clock this many seconds ahead of the system clock.
    pub(crate) fn advance_clock(&self, seconds: i64) {
        self.control.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}
