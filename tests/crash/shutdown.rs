//! Tests of graceful shutdown, and of kill -9 of an idle server.

use crate::harness::random::run_seed;
use crate::harness::workload::ValueSizes;
use crate::support::{DiskServer, Server, TOKEN};
use crate::testbed::{Testbed, start_server};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn acknowledged_writes_survive_graceful_shutdown_under_load() {
    let mut testbed = Testbed::new(run_seed("shutdown under load"), 6);
    for round in 0..3 {
        testbed.run_workload(ValueSizes::Mixed, false, |server| {
            std::thread::sleep(Duration::from_millis(300));
            server.terminate();
            let status = server.wait_for_exit(Duration::from_secs(30));
            assert!(status.is_some_and(|status| status.success()), "{status:?}");
        });
        testbed.restart(start_server);
        testbed.check(&format!("shutdown {round}"));
    }
}

#[test]
fn shutdown_completes_requests_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (port, store) = (server.port, server.create_store("s"));
    let path = format!("/resources/stores/kv/{store}/keys/k");
    // Send half of the body before SIGTERM.
    let mut client = server.connect();
    let headers = format!("host: h\r\nfastly-key: {TOKEN}\r\ncontent-length: 10\r\n");
    let head = format!("PUT {path} HTTP/1.1\r\n{headers}\r\n");
    client.send(format!("{head}12345")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    let waiter = std::thread::spawn(move || server.wait());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiter.is_finished(), "the server exited with a request in flight");
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err(),
        "the server accepted a new connection"
    );
    client.send("67890").unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 200);
    drop(client);
    assert!(waiter.join().unwrap().success());
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.get(&path).body, b"1234567890");
}

#[test]
fn an_idle_server_restarts_after_kill_9() {
    let mut disk = DiskServer::new(&[]);
    for _ in 0..3 {
        assert_eq!(disk.server.get("/readyz").status, 200);
        disk.kill_and_restart(&[]);
    }
}
