//! Tests of `steadfast check`: intact data passes, and every kind of damage is reported.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{DiskServer, binary, copy_dir};

fn check(data: &Path) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(binary()).args(["check", "--data"]).arg(data).output().unwrap();
    let message = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8(message).unwrap())
}

/// Starts a server with two stores that have small, empty, large and expiring items. Returns the
/// server and the id of a store.
fn with_items() -> (DiskServer, String) {
    let disk = DiskServer::new(&[]);
    disk.server.create_store("other");
    let store = disk.server.create_store("first");
    let keys = format!("/resources/stores/kv/{store}/keys");
    let put = |key: &str, headers: &[(&str, &str)], len: usize| {
        let body = vec![if key == "k1" { b'w' } else { b'v' }; len];
        let put = disk.server.request(&format!("PUT {keys}/{key}"), headers, &body);
        assert_eq!(put.status, 200);
    };
    for n in 0..40 {
        put(&format!("k{n}"), &[("metadata", "m")], n * 100);
    }
    put("large", &[], 1_700_000);
    put("brief", &[("time_to_live_sec", "1")], 10);
    let token = br#"{"name":"n","scope":"global"}"#;
    assert_eq!(disk.server.request("POST /_/v1/tokens", &[], token).status, 201);
    (disk, store)
}

#[test]
fn intact_data_passes_after_a_shutdown_and_a_kill() {
    let (mut disk, _) = with_items();
    let (status, message) = check(&disk.data());
    assert_eq!(status, 2, "the directory must be locked: {message}");
    assert!(message.contains("is locked by another steadfast"), "{message}");
    disk.server.kill();
    let before = fs::read_dir(disk.data().join("log")).unwrap().count();
    for _ in 0..2 {
        let (status, message) = check(&disk.data());
        assert_eq!(status, 0, "{message}");
        assert!(message.starts_with("2 stores, 42 items, 47 records with "), "{message}");
        assert!(
            message.contains("1 blob file,") && message.ends_with(": no problems found\n"),
            "{message}"
        );
        assert!(
            !message.contains(" 0 records in the WAL"),
            "the check must not run a checkpoint: {message}"
        );
    }
    assert_eq!(fs::read_dir(disk.data().join("log")).unwrap().count(), before);
    disk.kill_and_restart(&[]);
    disk.server.terminate();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let stopped = loop {
        let (status, message) = check(&disk.data());
        if status != 2 {
            break (status, message);
        }
        assert!(std::time::Instant::now() < end, "{message}");
    };
    assert_eq!(stopped.0, 0, "{}", stopped.1);
    assert!(stopped.1.contains(" 0 records in the WAL: no problems found"), "{}", stopped.1);
}

#[test]
fn a_missing_or_invalid_data_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (status, message) = check(&dir.path().join("absent"));
    assert_eq!((status, message.contains("there is no steadfast.db in")), (2, true), "{message}");
    assert!(!dir.path().join("absent").exists(), "the check must not create anything");
    fs::write(dir.path().join("steadfast.db"), "not a database, despite its name").unwrap();
    let (status, message) = check(dir.path());
    assert_eq!(status, 2, "{message}");
}

#[test]
fn offline_commands_raise_the_limit_on_open_files() {
    const FILES: u64 = 200;
    let (mut disk, _) = with_items();
    disk.server.kill();
    let data = disk.data();
    // Every segment file stays open, also a free one.
    (0..FILES).for_each(|number| {
        fs::File::create(data.join("log").join(format!("slot-{}", 5000 + number))).unwrap();
    });
    let to = tempfile::tempdir().unwrap();
    let run = |limit: &str, args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit {limit} -n 64 && exec \"$0\" \"$@\"")]);
        let Output { status, stderr, .. } =
            command.arg(binary()).args(args).current_dir(to.path()).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let path = data.to_str().unwrap();
    let check = ["check", "--data", path];
    for args in [
        &check[..],
        &["backup", "--data", path, "-o", "backup"],
        &["copy", "--from", path, "--to", "copy"],
    ] {
        let (status, message) = run("-S", args);
        assert_eq!(status, Some(0), "{args:?}: {message}");
    }
    let (status, message) = run("", &check);
    assert_eq!(status, Some(2), "{message}");
    assert!(message.contains("raise the hard limit on open files"), "{message}");
}

fn large_blob_file(data: &Path) -> PathBuf {
    let directories = fs::read_dir(data.join("blobs")).unwrap();
    let mut files = directories.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    files.next().unwrap().unwrap().path()
}

#[test]
fn every_kind_of_damage_is_reported() {
    let (disk, store) = with_items();
    let data = disk.data();
    let DiskServer { server, .. } = &disk;
    server.terminate();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while check(&data).0 == 2 {
        assert!(std::time::Instant::now() < end);
    }
    let item = format!("CAST('i{store}k7' AS BLOB)");
    let large = format!("CAST('i{store}large' AS BLOB)");
    let id = format!("CAST('s{store}' AS BLOB)");
    let damages = [
        (format!("UPDATE heads SET data = zeroblob(40) WHERE key = {item}"), "its checksum"),
        (format!("UPDATE heads SET due = 5 WHERE key = {item}"), "in the expiry index"),
        (format!("DELETE FROM heads WHERE key = {large}"), "belongs to no record"),
        (format!("DELETE FROM heads WHERE key = {item}"), "but the stored size is"),
        (format!("DELETE FROM heads WHERE key = {item}"), "but the stored count is"),
        (format!("DELETE FROM heads WHERE key = {id}"), "items refer to store"),
        (format!("DELETE FROM heads WHERE key = {id}"), "refers to a store that does not exist"),
        (
            "DELETE FROM heads WHERE key > CAST('o' AS BLOB) AND key < CAST('p' AS BLOB)".into(),
            "its list-order record is missing",
        ),
        ("UPDATE segments SET live = live + 1".into(), "but the stored size is"),
        ("INSERT INTO segments VALUES (999, 999, 5)".into(), "no record has a body in WAL segment"),
        ("DELETE FROM segments".into(), ": WAL segment "),
        ("INSERT INTO bodies VALUES (4, 4, x'04')".into(), "body 4 belongs to no record"),
        ("UPDATE counts SET n = n + 1 WHERE first = 105".into(), "start with 'i', but the stored"),
        ("UPDATE blobs SET size = size + 1".into(), "bytes, but the stored count is"),
        ("DELETE FROM blobs".into(), "is not in the table of blobs"),
        ("DELETE FROM counts".into(), "but the stored count is 0"),
    ];
    for (sql, expected) in damages {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&data, dir.path());
        let changed = Connection::open(dir.path().join("steadfast.db")).unwrap().execute(&sql, []);
        assert!(changed.unwrap() > 0, "{sql}");
        let (status, message) = check(dir.path());
        assert_eq!((status, message.contains(expected)), (1, true), "{sql}: {message}");
        assert!(message.contains("problem"), "{message}");
    }
    type Damage = fn(&mut Vec<u8>);
    let damage_kinds: [Damage; 3] =
        [|bytes| bytes[500_000] ^= 1, Vec::clear, |bytes| bytes.truncate(9)];
    for damage in damage_kinds {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&data, dir.path());
        let mut bytes = fs::read(large_blob_file(dir.path())).unwrap();
        damage(&mut bytes);
        fs::write(large_blob_file(dir.path()), bytes).unwrap();
        let (status, message) = check(dir.path());
        assert_eq!((status, message.contains("blob file")), (1, true), "{message}");
        fs::remove_file(large_blob_file(dir.path())).unwrap();
        let (status, message) = check(dir.path());
        assert_eq!((status, message.contains("is missing")), (1, true), "{message}");
    }
    // Overwrite two pages of the database.
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&data, dir.path());
    let path = dir.path().join("steadfast.db");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 8192..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (status, message) = check(dir.path());
    assert_ne!(status, 0, "{message}");
    assert_reports_damaged_segments(&data, &store);
}

/// Asserts that `check` names each item whose value in a segment is damaged, and only those.
fn assert_reports_damaged_segments(data: &Path, store: &str) {
    // Only the value of `k1` has these bytes. An idle checkpoint may spread the items over several
    // segments.
    let value = [b'w'; 100];
    type Damage = fn(&mut Vec<u8>, usize);
    let damages: [(Damage, &str); 3] = [
        (|bytes, at| bytes[at] ^= 1, "does not match its checksum"),
        (|bytes, at| bytes.truncate(at), "a WAL segment is truncated"),
        (|bytes, _| bytes.clear(), "a WAL segment is truncated"),
    ];
    for (number, (damage, expected)) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(data, dir.path());
        let mut damaged = None;
        for file in fs::read_dir(dir.path().join("log")).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(100).position(|window| window == value) {
                damage(&mut bytes, at);
                fs::write(&path, bytes).unwrap();
                damaged = Some(path);
            }
        }
        let named = format!("record \"i{store}k1\": ");
        let (status, message) = check(dir.path());
        assert_eq!((status, message.contains(&named)), (1, true), "{message}");
        assert!(message.contains(expected), "{message}");
        let problems = message.matches(expected).count();
        assert!(problems == 1 || number > 0, "damage {number}: {message}");
        fs::remove_file(damaged.unwrap()).unwrap();
        let (status, message) = check(dir.path());
        assert_eq!((status, message.contains(&named)), (1, true), "{message}");
        assert!(message.contains("is missing"), "{message}");
    }
}

#[test]
fn damaged_bodies_of_format_1_are_reported() {
    for (sql, expected) in [
        ("UPDATE bodies SET body = zeroblob(3) WHERE id = 3", "body 3 does not match its checksum"),
        ("DELETE FROM bodies WHERE id = 4", "body 4 is missing"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(Path::new("tests/fixtures/format-1"), dir.path());
        let changed = Connection::open(dir.path().join("steadfast.db")).unwrap().execute(sql, []);
        assert!(changed.unwrap() > 0, "{sql}");
        let (status, message) = check(dir.path());
        assert_eq!((status, message.contains(expected)), (1, true), "{sql}: {message}");
    }
}

#[test]
fn check_rejects_a_missing_wal_until_it_is_reset() {
    let (mut disk, _) = with_items();
    disk.server.kill();
    let log = disk.data().join("log");
    fs::read_dir(&log).unwrap().for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
    let (status, message) = check(&disk.data());
    assert_eq!(status, 1, "{message}");
    assert!(message.contains("all segment files are missing from the WAL"), "{message}");
    let backup = disk.data().with_file_name("lost.backup");
    let data = disk.data();
    let (data, backup) = (data.to_str().unwrap(), backup.to_str().unwrap());
    for args in [&["serve", "--data", data][..], &["backup", "--data", data, "-o", backup]] {
        let Output { status, stderr, .. } = Command::new(binary()).args(args).output().unwrap();
        let message = String::from_utf8(stderr).unwrap();
        assert!(!status.success() && message.contains("--reset-wal"), "{args:?}: {message}");
    }
    let reset = Command::new(binary()).args(["check", "--reset-wal", "--data", data]).output();
    let Output { status, stderr, .. } = reset.unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert!(message.starts_with("reset the WAL"), "{message}");
    assert_eq!(status.code(), Some(0), "{message}");
}

#[test]
fn segments_that_were_lost_before_a_reset_of_the_wal_are_logged_at_every_start() {
    let mut disk = DiskServer::logged(&[]);
    disk.server.kill();
    // A checkpoint was interrupted after it had stored locations in a segment that was then lost.
    let conn = Connection::open(disk.data().join("steadfast.db")).unwrap();
    conn.execute("INSERT INTO segments VALUES (900, 901, 5)", []).unwrap();
    drop(conn);
    disk.kill_and_restart(&[]);
    let log = disk.stop_and_read_log();
    let line =
        log.lines().find(|line| line.contains("WAL segment that contains values is missing"));
    assert!(line.is_some_and(|line| line.contains("slot-0901")), "{log}");
}

/// A read-only bind mount of a directory. It is unmounted when this value is dropped.
struct ReadOnlyMount(tempfile::TempDir);

impl ReadOnlyMount {
    /// Mounts a directory read-only. Returns `None` if the test is not permitted to mount anything.
    fn new(dir: &Path) -> Option<ReadOnlyMount> {
        let at = tempfile::tempdir().unwrap();
        let mount = |args: &[&str], dir: &Path| {
            let mut command = Command::new("mount");
            let output = command.args(args).arg(dir).arg(at.path()).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !mount(&["--bind"], dir) {
            return None;
        }
        let mounted = ReadOnlyMount(at);
        let at = mounted.0.path();
        let read_only = Command::new("mount").args(["-o", "remount,ro,bind"]).arg(at).output();
        read_only.is_ok_and(|output| output.status.success()).then_some(mounted)
    }
}

impl Drop for ReadOnlyMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn check_and_backup_work_on_a_read_only_file_system() {
    let (mut disk, _) = with_items();
    let data = disk.data();
    let Some(mount) = ReadOnlyMount::new(&data) else {
        return println!("skipped: no permission to mount a file system");
    };
    let files = tempfile::tempdir().unwrap();
    let read_only = mount.0.path();
    let (status, message) = check(read_only);
    assert!(status == 2 && message.contains("is locked by another steadfast"), "{message}");
    let check_and_back_up = |name: &str| {
        let (status, message) = check(read_only);
        assert_eq!(status, 0, "{name}: {message}");
        assert!(message.starts_with("2 stores, 42 items, "), "{name}: {message}");
        let backup = files.path().join(name);
        let mut command = Command::new(binary());
        command.args(["backup", "--data"]).arg(read_only).arg("-o").arg(&backup);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let output = Command::new(binary()).args(["check", "--backup"]).arg(&backup).output();
        let Output { stdout, .. } = output.unwrap();
        assert_eq!(String::from_utf8_lossy(&stdout), "2 stores, 42 items: no problems found\n");
    };
    // The files of a killed server include the WAL and SQLite's WAL.
    disk.server.kill();
    check_and_back_up("killed");
    let server = support::Server::start(&data, &[]);
    server.stop();
    check_and_back_up("stopped");
    fs::remove_file(data.join("LOCK")).unwrap();
    check_and_back_up("without a lock file");
    let to = files.path().join("copy");
    let mut copy = Command::new(binary());
    copy.args(["copy", "--from"]).arg(read_only).arg("--to").arg(&to);
    let output = copy.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("copied 2 stores, 42 items, "));
    let mut server = support::Server::start(&data, &[]);
    server.kill();
    let shm = data.join("steadfast.db-shm");
    fs::remove_file(&shm).unwrap();
    check_and_back_up("without the index of SQLite's WAL");
    let wal = data.join("steadfast.db-wal");
    fs::remove_file(&wal).unwrap();
    fs::create_dir(&wal).unwrap();
    let (status, message) = check(read_only);
    assert_eq!(status, 2, "{message}");
    let path = read_only.join("steadfast.db").display().to_string();
    assert!(message.contains(&path) && message.contains("to a writable file system"), "{message}");
}

#[test]
fn a_database_without_its_wal_is_reported_as_empty_or_incomplete() {
    let mut disk = DiskServer::new(&[]);
    let data = disk.data();
    disk.server.kill();
    for name in ["steadfast.db-wal", "steadfast.db-shm"] {
        fs::remove_file(data.join(name)).unwrap();
    }
    let (status, message) = check(&data);
    assert_eq!(status, 2, "{message}");
    assert!(message.contains("steadfast.db is empty or incomplete"), "{message}");
    let backup = data.with_file_name("backup");
    let args = [&data, Path::new("-o"), &backup];
    let output = Command::new(binary()).args(["backup", "--data"]).args(args).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("steadfast.db is empty or incomplete"), "{message}");
}
