//! The order of sync and answer as the system sees it, and stops without a load.

use crate::support::{self, DiskServer, Server, TOKEN};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_server_that_was_killed_while_nothing_ran_starts_at_once() {
    let mut home = DiskServer::new(&[]);
    for _ in 0..3 {
        assert_eq!(home.server.request("GET /readyz", &[], b"").status, 200);
        home.kill_and_restart(&[]);
    }
}

/// The calls of the server that sync or answer, in order, as strace saw them.
fn traced(data: &Path, trace: &Path) -> Vec<String> {
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-s",
        "40",
        "-e",
        "trace=fdatasync,fsync,write,sendto,writev",
        "-o",
    ]);
    command.arg(trace).arg(support::binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    command.env("STEADFAST_TOKEN", TOKEN);
    let server = Server::spawn(command);
    let store = server.create_store("s");
    for size in [10, 1000, 700_000] {
        let request = format!("PUT /resources/stores/kv/{store}/keys/k");
        assert_eq!(server.request(&request, &[], &vec![b'v'; size]).status, 200);
    }
    drop(server);
    std::fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_log_is_synced_before_the_answer() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let calls = traced(&dir.path().join("data"), &dir.path().join("trace"));
    let answers: Vec<_> =
        calls.iter().enumerate().filter(|(_, call)| call.contains("\"HTTP/1.1 20")).collect();
    assert_eq!(answers.len(), 4, "{calls:#?}");
    let mut from = 0;
    for (at, answer) in answers {
        let synced = calls[from..at].iter().any(|call| {
            let sync = call.contains("fdatasync(") || call.contains("fsync(");
            sync || call.contains("fdatasync resumed") || call.contains("fsync resumed")
        });
        assert!(synced, "no sync before {answer} in {:#?}", &calls[from..at]);
        from = at + 1;
    }
}

#[test]
fn a_stop_ends_what_runs_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (port, store) = (server.port, server.create_store("s"));
    let path = format!("/resources/stores/kv/{store}/keys/k");
    // A request whose body is still on its way when the server is told to stop.
    let mut client = server.connect();
    let head = format!("PUT {path} HTTP/1.1\r\nfastly-key: {TOKEN}\r\ncontent-length: 10\r\n\r\n");
    client.send(format!("{head}12345")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    let waiter = std::thread::spawn(move || server.wait());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiter.is_finished(), "it waits for the request that runs");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "and accepts no other");
    client.send("67890").unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 200);
    drop(client);
    assert!(waiter.join().unwrap().success());
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.request(&format!("GET {path}"), &[], b"").body, b"1234567890");
}
