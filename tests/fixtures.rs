//! Tests that data directories of earlier versions can be opened without loss of data.
//!
//! The server that created `tests/fixtures/format-1` was stopped, restarted, written to and killed.
//! Part of the data is in the database, part in the WAL. The zeros after the last WAL record were
//! removed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    let format: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(format, 1, "the check must not change the format");
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
