//! Traces the file system calls of a server: preloads `syscall_trace.c` and reads its records.

use crate::harness::fault_shim::FaultShim;
use crate::harness::preload;
use crate::support::{self, Server, TOKEN};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// Capacity of a trace in bytes. The file is sparse.
const CAPACITY: u64 = 1 << 30;
const HEADER_BYTES: u64 = 24;
const RECORD_BYTES: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syscall {
    /// Writes `bytes` at `at`.
    Write,
    SyncBegins,
    SyncEnds,
    /// Resizes the file to `at` bytes.
    Truncate,
    Create,
    Unlink,
    /// Renames the file to the path in `bytes`.
    Rename,
    Mkdir,
}

/// A call. A write, a create, a mkdir and the start of an fsync are recorded before the call, all
/// others after the call has succeeded.
#[derive(Clone, Debug)]
pub(crate) struct TraceRecord {
    pub(crate) kind: Syscall,
    pub(crate) thread: u32,
    /// The time in microseconds since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) at: u64,
    /// The path relative to the data directory.
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

/// The compiled tracer and its output file.
pub(crate) struct SyscallTracer {
    dir: tempfile::TempDir,
    library: PathBuf,
    file: File,
}

impl SyscallTracer {
    /// Compiles the tracer. Prints a notice and returns `None` if there is no C compiler.
    pub(crate) fn build() -> Option<SyscallTracer> {
        let dir = tempfile::tempdir().unwrap();
        let library = preload::build("tests/power_loss/syscall_trace.c", dir.path())?;
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(dir.path().join("trace"));
        let file = file.unwrap();
        file.set_len(HEADER_BYTES + CAPACITY).unwrap();
        file.write_all_at(&CAPACITY.to_ne_bytes(), 8).unwrap();
        Some(SyscallTracer { dir, library, file })
    }

    /// Returns the path of the data directory that the traced servers use.
    pub(crate) fn data(&self) -> PathBuf {
        // Resolve symbolic links, because the tracer compares paths as the kernel reports them.
        self.dir.path().canonicalize().unwrap().join("data")
    }

    /// Starts a traced server with a small WAL, which causes frequent checkpoints.
    pub(crate) fn server(&self) -> Server {
        Server::spawn(self.command())
    }

    /// Starts a traced server with a fault shim.
    pub(crate) fn server_with_faults(&self, shim: &FaultShim) -> Server {
        let mut command = self.command();
        let both = format!("{}:{}", self.library.display(), shim.library().display());
        command.env("LD_PRELOAD", both).env("STEADFAST_SHIM", shim.control());
        Server::spawn(command)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(support::binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--wal-bytes", "1048576"]);
        command.arg("--data").arg(self.data());
        command.env("STEADFAST_TOKEN", TOKEN);
        command.env("STEADFAST_TRACE", self.dir.path().join("trace"));
        command.env("STEADFAST_TRACE_ROOT", self.data());
        command.env("LD_PRELOAD", &self.library);
        command
    }

    fn read_u64(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// Returns all records written so far.
    pub(crate) fn records(&self) -> Vec<TraceRecord> {
        assert_eq!(self.read_u64(16) >> 32, 0, "the trace exceeds its capacity");
        let mut bytes = vec![0; self.read_u64(0) as usize];
        self.file.read_exact_at(&mut bytes, HEADER_BYTES).unwrap();
        let root = self.data().to_str().unwrap().to_owned();
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let (record, len) = decode(&bytes[at..], &root);
            records.push(record);
            at += len;
        }
        records
    }
}

/// Decodes a record. Returns the record and its encoded length.
fn decode(bytes: &[u8], root: &str) -> (TraceRecord, usize) {
    let read_u64 = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let kind = match read_u64(0) as u32 {
        1 => Syscall::Write,
        2 => Syscall::SyncBegins,
        3 => Syscall::SyncEnds,
        4 => Syscall::Truncate,
        5 => Syscall::Create,
        6 => Syscall::Unlink,
        7 => Syscall::Rename,
        8 => Syscall::Mkdir,
        other => panic!("unknown record kind {other}"),
    };
    let (thread, time, at) = ((read_u64(0) >> 32) as u32, read_u64(8), read_u64(16));
    let (path, len) = (read_u64(24) as usize, read_u64(32) as usize);
    let name = |bytes: &[u8]| {
        let whole = std::str::from_utf8(bytes).unwrap();
        whole.strip_prefix(root).unwrap().trim_start_matches('/').to_owned()
    };
    let body = &bytes[RECORD_BYTES + path..RECORD_BYTES + path + len];
    let payload = if kind == Syscall::Rename { name(body).into_bytes() } else { body.to_vec() };
    let relative = name(&bytes[RECORD_BYTES..RECORD_BYTES + path]);
    let whole = (RECORD_BYTES + path + len).next_multiple_of(8);
    (TraceRecord { kind, thread, time, at, path: relative, bytes: payload }, whole)
}
