//! Tests that data directories of earlier versions can be opened without loss of data.
//!
//! The server that created `tests/fixtures/format-1` was stopped, restarted, written to and killed.
//! Part of the data is in the database, part in the WAL. The zeros after the last WAL record were
//! removed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "tests may read the environment and the clock")]
#![allow(clippy::print_stdout, reason = "a test prints its seed and why it is skipped")]

#[path = "harness/mod.rs"]
mod harness;
mod support;

use harness::fault_shim::{Action, ENOSPC, FaultShim, Rule, WRITE};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Server, binary, copy_dir};

const STORE: &str = "/resources/stores/kv/y51ro7lv4zu5rdbulm95gt";

fn fixture() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    copy_dir(Path::new("tests/fixtures/format-1"), &data);
    (dir, data)
}

/// Returns the value of the large items, a sequence of eight-digit numbers.
fn digits() -> Vec<u8> {
    (0..40_000).flat_map(|n| format!("{n:08}").into_bytes()).collect()
}

fn assert_contents(server: &Server) {
    let stores = server.get("/resources/stores/kv").text();
    let empty =
        r#"{"id":"57d4en7upeagvdnoeb8z5v","name":"empty","created_at":"2026-11-23 21:25:51""#;
    assert!(stores.starts_with(&format!(r#"{{"data":[{empty}"#)), "{stores}");
    assert!(stores.contains(r#""name":"Fixture""#), "{stores}");
    let backwards: Vec<u8> = digits().into_iter().rev().collect();
    let bytes: Vec<u8> = (0..40 * 256).map(|n| n as u8).collect();
    let items: [(&str, &[u8], &str, u64); 11] = [
        ("plain", b"one", "", 1_795_469_151_715_133),
        ("told", b"two", "m\u{c3}\u{a9}", 1_795_469_151_716_286), // UTF-8 decoded as Latin-1
        ("empty", b"", "", 1_795_469_151_717_178),
        ("dir%2Fa%20b%2B%E2%98%83", b"strange", "", 1_795_469_151_717_716),
        ("large", &bytes, "", 1_795_469_151_718_257),
        ("blob", &digits(), "", 1_795_469_151_721_877),
        ("lives", b"long", "", 1_795_469_151_724_531),
        ("over", b"newest", "again", 1_795_469_151_741_579),
        ("later", b"in the log", "", 1_795_469_151_739_632),
        ("blob%20later", &backwards, "", 1_795_469_151_746_295),
        ("batch/3", b"v3", "", 1_795_469_151_747_167),
    ];
    for (key, value, metadata, generation) in items {
        let got = server.get(&format!("{STORE}/keys/{}", key.replace('/', "%2F")));
        assert_eq!((got.status, got.generation()), (200, generation), "{key}");
        assert_eq!(got.header("Metadata"), metadata, "{key}");
        assert!(got.body == value, "the value of {key} differs");
    }
    for key in ["kept", "deleted", "never"] {
        assert_eq!(server.get(&format!("{STORE}/keys/{key}")).status, 404, "{key}");
    }
    let keys = server.get(&format!("{STORE}/keys?prefix=b")).text();
    let wanted = r#"["batch/0","batch/1","batch/2","batch/3","batch/4","blob","blob later"]"#;
    assert!(keys.contains(wanted), "{keys}");
}

#[test]
fn format_1_data_opens_with_all_acknowledged_writes() {
    let (_dir, data) = fixture();
    let server = Server::start(&data, &[]);
    assert_contents(&server);
    server.stop();
    // Check again after a shutdown, which checkpoints the whole WAL.
    let server = Server::start(&data, &[]);
    assert_contents(&server);
    wait_for_migration(&data);
    assert_contents(&server);
    server.stop();
    let server = Server::start(&data, &[]);
    assert_contents(&server);
    assert_eq!(server.request(&format!("PUT {STORE}/keys/plain"), &[], b"new").status, 200);
    let after = server.get(&format!("{STORE}/keys/plain"));
    assert!(after.generation() > 1_795_469_151_747_167, "a generation was reused");
    server.stop();
}

#[test]
fn format_1_data_passes_the_check_command() {
    let (_dir, data) = fixture();
    let out = Command::new(binary()).args(["check", "--data"]).arg(&data).output().unwrap();
    let output = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{output}");
    assert!(output.contains("2 blob files, 9 records in the WAL: no problems found"), "{output}");
    assert_eq!(format(&data), 1, "the check must not change the format");
}

/// Returns the format of a data directory.
fn format(data: &Path) -> i64 {
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// Returns the files below a directory with their contents, except for the files that every opening
/// of the database creates.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else if !["LOCK", "steadfast.db-shm", "steadfast.db-wal"]
            .iter()
            .any(|n| path.ends_with(n))
        {
            files.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    files
}

#[test]
fn format_1_data_stays_unchanged_if_the_disk_is_full_during_the_upgrade() {
    let Some(shim) = FaultShim::build() else { return };
    // The disk becomes full at the first write to the database, then at the second, and so on,
    // until the upgrade succeeds.
    for first in 1.. {
        let (_dir, data) = fixture();
        let before = contents(&data);
        let rule = Rule::every(WRITE, "/steadfast.db", Action::Fail(ENOSPC));
        shim.set(0, Rule { first, ..rule });
        let mut command = shim.command(&data);
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut output).unwrap();
        let is_upgraded = !output.is_empty();
        if is_upgraded {
            server.kill().unwrap();
        }
        let refused = server.wait_with_output().unwrap();
        shim.disable(0);
        // Opening the database may change it, so the test opens a copy.
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&data, copy.path());
        if is_upgraded {
            assert!(first > 1, "the server did not write to the database");
            assert_eq!(format(copy.path()), 2, "write {first}");
        } else {
            let message = String::from_utf8(refused.stderr).unwrap();
            let advice = "database or disk is full; free disk space, and try again";
            assert!(message.contains(advice), "write {first}: {message}");
            assert_eq!(refused.status.code(), Some(1), "write {first}: {message}");
            assert!(contents(&data) == before, "write {first}: the data directory has changed");
            assert_eq!(format(copy.path()), 1, "write {first}");
        }
        let server = Server::start(&data, &[]);
        assert_contents(&server);
        server.stop();
        if is_upgraded {
            return;
        }
    }
}

/// Waits until the server has migrated all values in the database to WAL segments.
fn wait_for_migration(data: &Path) {
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let sql = "SELECT count(*) FROM bodies";
        let left: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
        if left == 0 {
            return;
        }
        assert!(Instant::now() < end, "{left} values are not migrated");
        std::thread::sleep(Duration::from_millis(50));
    }
}
