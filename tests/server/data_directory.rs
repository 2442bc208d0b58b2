//! Tests with a data directory that is moved, replaced or removed while the server is running.

use crate::support::{Client, DiskServer, Server};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The exit status after a storage failure.
const EXIT_FATAL: i32 = 70;

/// Puts values of 300,000 bytes until a put is not acknowledged. Calls `act` after three puts.
/// Returns the number of acknowledged puts.
fn put_until_failure(disk: &DiskServer, store: &str, act: impl Fn()) -> usize {
    let mut acknowledged = 0;
    while acknowledged < 10_000 {
        if acknowledged == 3 {
            act();
        }
        let put = format!("PUT /resources/stores/kv/{store}/keys/k{acknowledged}");
        let response = Client::connect(disk.server.port)
            .and_then(|mut client| client.request(&put, &[], &vec![b'v'; 300_000]));
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
        assert_eq!((got.status, got.body.len()), (200, 300_000), "item k{number} of {count}");
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
    for len in [10, 300_000] {
        let put = format!("PUT /resources/stores/kv/{store}/keys/k");
        let response = Client::connect(disk.server.port)
            .and_then(|mut client| client.request(&put, &[], &vec![b'v'; len]));
        assert!(response.is_err() || response.is_ok_and(|response| response.status >= 500));
    }
    expect_fatal_exit(&mut disk);
    assert!(!disk.data().exists(), "the server created the data directory again");
}

#[test]
fn a_server_stops_when_its_database_is_removed() {
    let mut disk = DiskServer::new(&[]);
    fs::remove_file(disk.data().join("steadfast.db")).unwrap();
    expect_fatal_exit(&mut disk);
}
