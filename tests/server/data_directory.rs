//! Tests with a data directory that is moved, replaced or removed while the server is running.

use crate::support::{Client, DiskServer, Server, TOKEN, binary, run};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The exit status after a storage failure.
const EXIT_FATAL: i32 = 70;

/// Size of a value that is stored in a blob file, in bytes.
const VALUE_BYTES: usize = 1_300_000;

/// Puts large values until a put is not acknowledged. Calls `act` after three puts.
/// Returns the number of acknowledged puts.
fn put_until_failure(disk: &DiskServer, store: &str, act: impl Fn()) -> usize {
    let mut acknowledged = 0;
    while acknowledged < 10_000 {
        if acknowledged == 3 {
            act();
        }
        let put = format!("PUT /resources/stores/kv/{store}/keys/k{acknowledged}");
        let response = Client::connect(disk.server.port)
            .and_then(|mut client| client.request(&put, &[], &vec![b'v'; VALUE_BYTES]));
        match response {
            Ok(response) if response.status == 200 => acknowledged += 1,
            _ => return acknowledged,
        }
    }
    panic!("the server did not stop");
}

fn expect_fatal_exit(disk: &mut DiskServer) {
    let status = disk.server.wait_for_exit(Duration::from_secs(30));
    assert_eq!(status.and_then(|status| status.code()), Some(EXIT_FATAL));
}

fn expect_values(data: &Path, store: &str, count: usize) {
    let server = Server::start(data, &[]);
    for number in 0..count {
        let got = server.get(&format!("/resources/stores/kv/{store}/keys/k{number}"));
        assert_eq!((got.status, got.body.len()), (200, VALUE_BYTES), "item k{number} of {count}");
    }
}

#[test]
fn a_server_stops_when_its_data_directory_is_moved() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let moved = disk.data().with_file_name("moved");
    let count = put_until_failure(&disk, &store, || fs::rename(disk.data(), &moved).unwrap());
    expect_fatal_exit(&mut disk);
    assert!(!disk.data().exists(), "the server created the data directory again");
    expect_values(&moved, &store, count);
}

#[test]
fn a_server_writes_nothing_into_a_directory_that_replaced_its_data_directory() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let moved = disk.data().with_file_name("moved");
    let count = put_until_failure(&disk, &store, || {
        fs::rename(disk.data(), &moved).unwrap();
        fs::create_dir(disk.data()).unwrap();
    });
    expect_fatal_exit(&mut disk);
    let names = fs::read_dir(disk.data()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.is_empty(), "{names:?}");
    expect_values(&moved, &store, count);
}

#[test]
fn a_server_acknowledges_no_write_into_a_removed_data_directory() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    fs::remove_dir_all(disk.data()).unwrap();
    for len in [10, VALUE_BYTES] {
        let put = format!("PUT /resources/stores/kv/{store}/keys/k");
        let response = Client::connect(disk.server.port)
            .and_then(|mut client| client.request(&put, &[], &vec![b'v'; len]));
        assert!(response.is_err() || response.is_ok_and(|response| response.status >= 500));
    }
    expect_fatal_exit(&mut disk);
    assert!(!disk.data().exists(), "the server created the data directory again");
}

#[test]
fn a_server_stops_when_its_lock_file_or_a_database_file_is_removed() {
    for name in ["LOCK", "steadfast.db", "steadfast.db-wal"] {
        let mut disk = DiskServer::new(&[]);
        fs::remove_file(disk.data().join(name)).unwrap();
        expect_fatal_exit(&mut disk);
    }
}

#[test]
fn the_lock_of_a_data_directory_outlives_its_lock_file() {
    let mut disk = DiskServer::new(&[]);
    let (data, backup) = (disk.data(), disk.data().with_file_name("backup"));
    // Suspend the server, so that it cannot notice the removal.
    signal(&disk, "-STOP");
    fs::remove_file(data.join("LOCK")).unwrap();
    let (data, backup) = (data.to_str().unwrap(), backup.to_str().unwrap());
    let commands = [
        &["serve", "--listen", "127.0.0.1:0", "--data", data][..],
        &["check", "--data", data],
        &["copy", "--from", data, "--to", backup],
    ];
    for args in commands {
        let output = run(Command::new(binary()).args(args));
        assert_ne!(output.code, 0, "{args:?}");
        output.assert_err("is locked by another steadfast process");
    }
    // The backup command must not read the directory. It must request the backup from the server.
    let args = ["backup", "--data", data, "-o", backup];
    let mut command = Command::new(binary());
    let mut child = command.args(args).env("FASTLY_API_TOKEN", TOKEN).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none(), "the backup command did not wait for the server");
    child.kill().unwrap();
    child.wait().unwrap();
    signal(&disk, "-CONT");
    expect_fatal_exit(&mut disk);
}

fn signal(disk: &DiskServer, name: &str) {
    let pid = disk.server.pid().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[test]
fn a_server_stops_when_a_subdirectory_is_moved_or_replaced() {
    for (name, is_replaced) in [("log", false), ("log", true), ("blobs", false), ("blobs", true)] {
        let mut disk = DiskServer::new(&[]);
        let store = disk.server.create_store("s");
        let (path, moved) = (disk.data().join(name), disk.data().with_file_name("moved"));
        let count = put_until_failure(&disk, &store, || {
            fs::rename(&path, &moved).unwrap();
            if is_replaced {
                fs::create_dir(&path).unwrap();
            }
        });
        expect_fatal_exit(&mut disk);
        if is_replaced {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::rename(&moved, &path).unwrap();
        expect_values(&disk.data(), &store, count);
    }
}

#[test]
fn no_large_value_is_acknowledged_when_its_directory_was_replaced() {
    let disk = DiskServer::new(&[]);
    let store = disk.server.create_store("s");
    let put = format!("PUT /resources/stores/kv/{store}/keys/k");
    let len = VALUE_BYTES + 1_300_000;
    let head = format!("Content-Length: {len}\r\nFastly-Key: {TOKEN}\r\n");
    let mut client = disk.server.connect();
    client.send(format!("{put} HTTP/1.1\r\nHost: h\r\n{head}\r\n")).unwrap();
    client.send(vec![b'v'; len - 10_000]).unwrap();
    let blobs = disk.data().join("blobs");
    let entries = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let end = Instant::now() + Duration::from_secs(30);
    let directory = loop {
        if let Some(directory) = entries(&blobs).find(|dir| entries(dir).count() > 0) {
            break directory;
        }
        assert!(Instant::now() < end, "no blob file was created");
        std::thread::sleep(Duration::from_millis(5));
    };
    fs::rename(&directory, directory.with_extension("moved")).unwrap();
    fs::create_dir(&directory).unwrap();
    client.send(vec![b'v'; 10_000]).unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 500);
}
