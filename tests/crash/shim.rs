//! Faults at named points of the unchanged binary: builds `shim.c` and writes the rules it obeys.

use crate::support::{self, Server, TOKEN};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls that a rule is about; they can be added up.
pub(crate) const WRITE: u32 = 1;
pub(crate) const SYNC: u32 = 2;
pub(crate) const UNLINK: u32 = 4;
pub(crate) const TRUNCATE: u32 = 16;
pub(crate) const OPEN: u32 = 32;
pub(crate) const SEND: u32 = 64;

pub(crate) const EIO: u32 = 5;
pub(crate) const ENOSPC: u32 = 28;

/// The log, the database and the blob files.
pub(crate) const LOG: &str = "/log/slot-";
/// Where the log is folded into first: the database's own log.
pub(crate) const FOLD: &str = "steadfast.db-wal$";
pub(crate) const DATABASE: &str = "steadfast.db$";
pub(crate) const BLOBS: &str = "/blobs/";

const RULES: usize = 8;
const HEAD: usize = 128;
const RULE: usize = 128;
const PATH: usize = 88;

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Count,
    KillBefore,
    KillAfter,
    /// Half of a write is done; other calls are done whole.
    KillHalfway,
    /// With this errno.
    Fail(u32),
    Short,
    /// For so many milliseconds.
    Delay(u32),
    /// It is not done, and said to be.
    #[allow(dead_code, reason = "for the power cuts' test of the test")]
    Skip,
}

/// One rule: what happens to which calls on which path, from which hit on and how often (0: on and
/// on).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) calls: u32,
    pub(crate) path: &'static str,
    pub(crate) action: Action,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Rule {
    /// For every hit.
    pub(crate) fn every(calls: u32, path: &'static str, action: Action) -> Rule {
        Rule { calls, path, action, first: 1, count: 0 }
    }

    fn bytes(self) -> [u8; RULE] {
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
        let mut bytes = [0; RULE];
        bytes[..4].copy_from_slice(&self.calls.to_ne_bytes());
        bytes[4..8].copy_from_slice(&action.to_ne_bytes());
        bytes[8..12].copy_from_slice(&amount.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.count.to_ne_bytes());
        assert!(self.path.len() < PATH, "{} is too long", self.path);
        bytes[40..40 + self.path.len()].copy_from_slice(self.path.as_bytes());
        bytes
    }
}

/// A built shim with its rules.
pub(crate) struct Shim {
    dir: tempfile::TempDir,
    control: File,
}

impl Shim {
    /// Builds it; `None`, said aloud, where there is no C compiler.
    pub(crate) fn build() -> Option<Shim> {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("shim.so")).arg(source);
        match cc.arg("-ldl").output() {
            Err(e) => {
                println!("skipped: cc cannot be run ({e})");
                return None;
            }
            Ok(built) => {
                let said = String::from_utf8_lossy(&built.stderr);
                assert!(built.status.success(), "the shim does not build: {said}");
            }
        }
        let mut options = File::options();
        let control = options.read(true).write(true).create_new(true);
        let control = control.open(dir.path().join("control")).unwrap();
        control.set_len((HEAD + RULES * RULE) as u64).unwrap();
        Some(Shim { dir, control })
    }

    /// A server under the shim; what it logs goes to [`Shim::log`].
    pub(crate) fn server(&self, data: &Path) -> Server {
        Server::spawn(self.command(data))
    }

    fn command(&self, data: &Path) -> Command {
        let mut command = Command::new(support::binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        // A short log is folded often.
        command.args(["--wal-bytes", "1048576"]);
        command.env("STEADFAST_TOKEN", TOKEN);
        command.env("STEADFAST_SHIM", self.control()).env("LD_PRELOAD", self.library());
        let log = File::options().create(true).append(true).open(self.dir.path().join("log"));
        command.stderr(log.unwrap());
        command
    }

    /// The library, for a command that loads another one too.
    pub(crate) fn library(&self) -> PathBuf {
        self.dir.path().join("shim.so")
    }

    /// The file with the rules: `STEADFAST_SHIM`.
    pub(crate) fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// What the servers said on their standard error so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Sets a rule, and its counter to 0. The calls are written last: they switch it on.
    pub(crate) fn set(&self, slot: usize, rule: Rule) {
        assert!(slot < RULES, "there are {RULES} rules");
        let at = (HEAD + slot * RULE) as u64;
        let bytes = rule.bytes();
        self.control.write_all_at(&[0; 4], at).unwrap();
        self.control.write_all_at(&bytes[4..], at + 4).unwrap();
        self.control.write_all_at(&bytes[..4], at).unwrap();
    }

    /// Switches a rule off; its counter stays.
    pub(crate) fn off(&self, slot: usize) {
        self.control.write_all_at(&[0; 4], (HEAD + slot * RULE) as u64).unwrap();
    }

    /// How often a rule was met.
    pub(crate) fn hits(&self, slot: usize) -> u64 {
        let mut hits = [0; 8];
        self.control.read_exact_at(&mut hits, (HEAD + slot * RULE + 32) as u64).unwrap();
        u64::from_ne_bytes(hits)
    }

    /// Sets the server's clock so many seconds ahead.
    pub(crate) fn clock(&self, seconds: i64) {
        self.control.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}
