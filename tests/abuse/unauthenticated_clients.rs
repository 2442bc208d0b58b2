//! Tests with clients that have no valid token.

use crate::support::Client;
use crate::{MIB, Target, raise_file_limit};
use std::time::Duration;

const CLIENTS: u64 = 3000;
const BODY_BYTES: usize = 200_000;
/// Maximum growth of the server's memory while all clients are connected, in bytes.
const BYTES_MAX: u64 = 100 * MIB;

/// Opens connections. On each one, sends a request with a wrong token and half of the body.
fn connect(target: &Target, count: u64) -> Vec<Client> {
    let half = vec![b'x'; BODY_BYTES / 2];
    let item = target.item("k");
    let clients = (0..count).map(|_| {
        let mut client = target.connect();
        let head = format!(
            "PUT {item} HTTP/1.1\r\nHost: h\r\nFastly-Key: wrong\r\n\
             Content-Length: {BODY_BYTES}\r\n\r\n"
        );
        client.send(head).unwrap();
        // The send fails if the server has already closed the connection.
        let _ = client.send(&half);
        client
    });
    clients.collect()
}

#[test]
fn unauthenticated_uploads_use_little_memory_and_release_it() {
    let count = raise_file_limit(CLIENTS);
    let target = Target::new(&[]);
    target.assert_responsive();
    let before = target.memory_bytes("VmRSS");
    let clients = connect(&target, count);
    target.assert_responsive();
    let during = target.memory_bytes("VmRSS");
    drop(clients);
    target.wait_until_connections_close();
    let after = target.memory_bytes("VmRSS");
    let growth = |bytes: u64| bytes.saturating_sub(before);
    let (during, after) = (growth(during), growth(after));
    let peak = growth(target.memory_bytes("VmHWM"));
    println!(
        "{count} clients: memory grew by {during} bytes (peak {peak}, after disconnect {after})"
    );
    assert!(peak < BYTES_MAX, "the peak memory grew by {} MiB", peak / MIB);
    assert!(
        after < BYTES_MAX / 4,
        "after the clients disconnected, the memory was still {} MiB above its initial size",
        after / MIB
    );
    target.assert_healthy_and_stop();
}

#[test]
fn an_unauthenticated_client_that_sends_its_body_first_receives_the_401() {
    let target = Target::new(&[]);
    for size in [0, 100, BODY_BYTES, 5_000_000] {
        let mut client = target.connect();
        let item = target.item("k");
        let head = format!("PUT {item} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n");
        client.send(head).unwrap();
        client.send(vec![b'x'; size]).unwrap();
        client.read_response(false).unwrap().expect_error(401);
        if size < 1_000_000 {
            assert_eq!(client.get("/healthz").unwrap().status, 200, "{size}");
        }
    }
    target.assert_healthy_and_stop();
}

#[test]
fn draining_a_rejected_body_has_a_deadline() {
    let target = Target::new(&["--body-timeout", "2"]);
    let mut clients: Vec<_> = (0..4).map(|_| target.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        // Half of the clients send two tokens, which is invalid.
        let token = if n % 2 == 0 { "Fastly-Key: wrong\r\n" } else { "" };
        let head = "PUT /resources/stores/kv/none/keys/k";
        let length = format!("{token}Content-Length: 900000\r\n");
        client.send(target.head(head, &length)).unwrap();
    }
    // Receiving more bytes must not extend the deadline.
    for _ in 0..200 {
        for client in &mut clients {
            let _ = client.send("x");
        }
        std::thread::sleep(Duration::from_millis(50));
        if target.open_connections() == 1 {
            break;
        }
    }
    assert_eq!(target.open_connections(), 1, "rejected bodies are still being drained");
    target.assert_healthy_and_stop();
}

#[test]
fn idle_connections_release_the_memory_of_large_responses() {
    const COUNT: u64 = 1000;
    let count = raise_file_limit(COUNT);
    let target = Target::new(&[]);
    let item = target.item("large");
    let value = vec![b'v'; 60_000];
    assert_eq!(target.request(&format!("PUT {item}"), &[], &value).status, 200);
    assert_eq!(target.get(&item).body.len(), value.len());
    let before = target.memory_bytes("VmRSS");
    let mut clients: Vec<_> = (0..count).map(|_| target.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get(&item).unwrap().body.len(), value.len());
    }
    let growth = target.memory_bytes("VmRSS").saturating_sub(before);
    println!("{count} connections use {} bytes each", growth / count);
    assert!(growth < count * 24 * 1024, "{} bytes per connection", growth / count);
    for client in &mut clients {
        assert_eq!(client.get(&item).unwrap().body.len(), value.len());
    }
    target.assert_healthy_and_stop();
}
