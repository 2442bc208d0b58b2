//! `steadfast check`: sound data passes, and each kind of damage is told.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Home, binary};

fn check(data: &Path) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(binary()).args(["check", "--data"]).arg(data).output().unwrap();
    let said = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8(said).unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => fs::copy(entry.path(), target).map(|_| ()).unwrap(),
        }
    }
}

/// A server with two stores, small, empty, large and expiring items.
fn filled() -> (Home, String) {
    let home = Home::new(&[]);
    home.server.store("other");
    let store = home.server.store("first");
    let keys = format!("/resources/stores/kv/{store}/keys");
    let put = |key: &str, fields: &[(&str, &str)], len: usize| {
        let put = home.server.ask(&format!("PUT {keys}/{key}"), fields, &vec![b'v'; len]);
        assert_eq!(put.status, 200);
    };
    for n in 0..40 {
        put(&format!("k{n}"), &[("metadata", "m")], n * 100);
    }
    put("large", &[], 700_000);
    put("brief", &[("time_to_live_sec", "1")], 10);
    let token = br#"{"name":"n","scope":"global"}"#;
    assert_eq!(home.server.ask("POST /_/v1/tokens", &[], token).status, 201);
    (home, store)
}

#[test]
fn sound_data_passes_whether_it_was_stopped_or_killed() {
    let (mut home, _) = filled();
    let (status, said) = check(&home.data());
    assert_eq!(status, 2, "in use: {said}");
    assert!(said.contains("is in use by another steadfast"), "{said}");
    home.server.kill();
    let before = fs::read_dir(home.data().join("log")).unwrap().count();
    for _ in 0..2 {
        let (status, said) = check(&home.data());
        assert_eq!(status, 0, "{said}");
        assert!(said.starts_with("2 stores, 42 items, 47 records with "), "{said}");
        assert!(said.contains("1 blob files") && said.ends_with(": no problems found\n"), "{said}");
        assert!(!said.contains(" 0 records in the WAL"), "a look folds nothing: {said}");
    }
    assert_eq!(fs::read_dir(home.data().join("log")).unwrap().count(), before);
    home.crash(&[]);
    home.server.terminate();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let stopped = loop {
        let (status, said) = check(&home.data());
        if status != 2 {
            break (status, said);
        }
        assert!(std::time::Instant::now() < end, "{said}");
    };
    assert_eq!(stopped.0, 0, "{}", stopped.1);
    assert!(stopped.1.contains(" 0 records in the WAL: no problems found"), "{}", stopped.1);
}

#[test]
fn what_is_no_data_directory_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (status, said) = check(&dir.path().join("absent"));
    assert_eq!((status, said.contains("there is no steadfast.db in")), (2, true), "{said}");
    assert!(!dir.path().join("absent").exists(), "and nothing is made");
    fs::write(dir.path().join("steadfast.db"), "no database at all, whatever its name").unwrap();
    let (status, said) = check(dir.path());
    assert_eq!(status, 2, "{said}");
}

fn large(data: &Path) -> PathBuf {
    let folders = fs::read_dir(data.join("blobs")).unwrap();
    let mut files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.next().unwrap().unwrap().path()
}

#[test]
fn every_kind_of_damage_is_told() {
    let (home, store) = filled();
    let data = home.data();
    let Home { server, .. } = &home;
    server.terminate();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while check(&data).0 == 2 {
        assert!(std::time::Instant::now() < end);
    }
    let item = format!("CAST('i{store}k7' AS BLOB)");
    let id = format!("CAST('s{store}' AS BLOB)");
    let damages = [
        (format!("UPDATE heads SET data = zeroblob(40) WHERE key = {item}"), "its checksum"),
        (format!("UPDATE heads SET due = 5 WHERE key = {item}"), "is not indexed by when"),
        (format!("DELETE FROM heads WHERE key = {item}"), "belongs to no record"),
        (format!("DELETE FROM heads WHERE key = {item}"), "and the count is"),
        (format!("DELETE FROM heads WHERE key = {id}"), "items belong to no store"),
        (format!("DELETE FROM heads WHERE key = {id}"), "is of no store"),
        (
            "DELETE FROM heads WHERE key > CAST('o' AS BLOB) AND key < CAST('p' AS BLOB)".into(),
            "it is missing in the order of lists",
        ),
        ("UPDATE bodies SET body = zeroblob(3) WHERE id = 3".into(), "does not match its checksum"),
        ("DELETE FROM bodies WHERE id = 4".into(), "is missing"),
        ("UPDATE counts SET n = n + 1 WHERE first = 105".into(), "begin with 'i', and the count"),
        ("UPDATE blobs SET size = size + 1".into(), "and the count differs"),
        ("DELETE FROM blobs".into(), "is not listed"),
        ("DELETE FROM counts".into(), "and the count is 0"),
    ];
    for (sql, says) in damages {
        let dir = tempfile::tempdir().unwrap();
        copy(&data, dir.path());
        let changed = Connection::open(dir.path().join("steadfast.db")).unwrap().execute(&sql, []);
        assert!(changed.unwrap() > 0, "{sql}");
        let (status, said) = check(dir.path());
        assert_eq!((status, said.contains(says)), (1, true), "{sql}: {said}");
        assert!(said.contains("problem"), "{said}");
    }
    type Spoil = fn(&mut Vec<u8>);
    let spoils: [Spoil; 3] = [|bytes| bytes[500_000] ^= 1, Vec::clear, |bytes| bytes.truncate(9)];
    for spoil in spoils {
        let dir = tempfile::tempdir().unwrap();
        copy(&data, dir.path());
        let mut bytes = fs::read(large(dir.path())).unwrap();
        spoil(&mut bytes);
        fs::write(large(dir.path()), bytes).unwrap();
        let (status, said) = check(dir.path());
        assert_eq!((status, said.contains("blob file")), (1, true), "{said}");
        fs::remove_file(large(dir.path())).unwrap();
        let (status, said) = check(dir.path());
        assert_eq!((status, said.contains("is missing")), (1, true), "{said}");
    }
    // A page of the database that is nothing.
    let dir = tempfile::tempdir().unwrap();
    copy(&data, dir.path());
    let path = dir.path().join("steadfast.db");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 8192..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (status, said) = check(dir.path());
    assert_ne!(status, 0, "{said}");
}
