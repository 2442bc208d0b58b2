//! What a server did to its files, call by call: builds `trace.c`, starts servers under it, and
//! reads what it wrote down.

use crate::shim::Shim;
use crate::support::{self, Server, TOKEN};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a trace may hold; the file is sparse.
const ROOM: u64 = 1 << 30;
const HEAD: u64 = 24;
const RECORD: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of bytes at a place.
    Write,
    SyncBegins,
    SyncEnds,
    /// To a size.
    Truncate,
    Create,
    Unlink,
    /// To the path that the bytes are.
    Rename,
    Mkdir,
}

/// One call, before it was made (write, create, the begin of a sync) or after it succeeded.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) thread: u32,
    /// Microseconds since 1970.
    pub(crate) time: u64,
    pub(crate) at: u64,
    /// Below the data directory.
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

/// A built shim and the file it writes to.
pub(crate) struct Recorder {
    dir: tempfile::TempDir,
    file: File,
}

impl Recorder {
    /// Builds it; `None`, said aloud, where there is no C compiler.
    pub(crate) fn build() -> Option<Recorder> {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/trace.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("trace.so")).arg(source);
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
        let file = options.read(true).write(true).create_new(true).open(dir.path().join("trace"));
        let file = file.unwrap();
        file.set_len(HEAD + ROOM).unwrap();
        file.write_all_at(&ROOM.to_ne_bytes(), 8).unwrap();
        Some(Recorder { dir, file })
    }

    /// Where the servers have their data.
    pub(crate) fn data(&self) -> PathBuf {
        // As the kernel names it.
        self.dir.path().canonicalize().unwrap().join("data")
    }

    /// A server whose calls are written down. Its log is short, so that it is folded often.
    pub(crate) fn server(&self) -> Server {
        Server::spawn(self.command())
    }

    /// The same, under the rules of another shim too.
    pub(crate) fn server_under(&self, shim: &Shim) -> Server {
        let mut command = self.command();
        let both = format!("{}:{}", self.library().display(), shim.library().display());
        command.env("LD_PRELOAD", both).env("STEADFAST_SHIM", shim.control());
        Server::spawn(command)
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("trace.so")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(support::binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--wal-bytes", "1048576"]);
        command.arg("--data").arg(self.data());
        command.env("STEADFAST_TOKEN", TOKEN);
        command.env("STEADFAST_TRACE", self.dir.path().join("trace"));
        command.env("STEADFAST_TRACE_BELOW", self.data());
        command.env("LD_PRELOAD", self.library());
        command
    }

    fn number(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// All that was written down so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        assert_eq!(self.number(16) >> 32, 0, "the trace has no room for more");
        let mut bytes = vec![0; self.number(0) as usize];
        self.file.read_exact_at(&mut bytes, HEAD).unwrap();
        let below = self.data().to_str().unwrap().to_owned();
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let (record, len) = parse(&bytes[at..], &below);
            records.push(record);
            at += len;
        }
        records
    }
}

/// A record and its length.
fn parse(bytes: &[u8], below: &str) -> (Record, usize) {
    let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let kind = match number(0) as u32 {
        1 => Kind::Write,
        2 => Kind::SyncBegins,
        3 => Kind::SyncEnds,
        4 => Kind::Truncate,
        5 => Kind::Create,
        6 => Kind::Unlink,
        7 => Kind::Rename,
        8 => Kind::Mkdir,
        other => panic!("a record of kind {other}"),
    };
    let (thread, time, at) = ((number(0) >> 32) as u32, number(8), number(16));
    let (path, len) = (number(24) as usize, number(32) as usize);
    let name = |bytes: &[u8]| {
        let whole = std::str::from_utf8(bytes).unwrap();
        whole.strip_prefix(below).unwrap().trim_start_matches('/').to_owned()
    };
    let body = &bytes[RECORD + path..RECORD + path + len];
    let bytes_of = if kind == Kind::Rename { name(body).into_bytes() } else { body.to_vec() };
    let path_of = name(&bytes[RECORD..RECORD + path]);
    let whole = (RECORD + path + len).next_multiple_of(8);
    (Record { kind, thread, time, at, path: path_of, bytes: bytes_of }, whole)
}
