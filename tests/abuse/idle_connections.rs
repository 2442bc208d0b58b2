//! Tests of ten thousand idle connections, and of the limit on the number of connections.

use crate::{MIB, Target, raise_file_limit};

const CONNECTIONS: u64 = 10_000;
/// Maximum memory per idle connection for its task, timer and buffers, in bytes.
const BYTES_PER_CONNECTION: u64 = 16 * 1024;

#[test]
fn ten_thousand_idle_connections_use_little_memory_and_block_no_other_client() {
    let count = raise_file_limit(CONNECTIONS);
    let target = Target::new(&[]);
    target.assert_responsive();
    let before = target.memory_bytes("VmRSS");
    let mut clients: Vec<_> = (0..count).map(|_| target.connect()).collect();
    // Send a request on half of the connections before they become idle.
    for client in clients.iter_mut().step_by(2) {
        client.send(target.head("GET /healthz", "")).unwrap();
    }
    for client in clients.iter_mut().step_by(2) {
        assert_eq!(client.read_response(false).unwrap().status, 200);
    }
    assert_eq!(target.open_connections(), count + 1);
    target.assert_responsive();
    let growth = target.memory_bytes("VmRSS").saturating_sub(before);
    println!("{count} connections use {} MiB, {} bytes each", growth / MIB, growth / count.max(1));
    assert!(
        growth < count * BYTES_PER_CONNECTION + 16 * MIB,
        "{} MiB for {count} connections",
        growth / MIB
    );
    for client in clients.iter_mut().rev().take(100) {
        assert_eq!(client.get("/readyz").unwrap().status, 200);
    }
    drop(clients);
    target.wait_until_connections_close();
    target.assert_healthy_and_stop();
}

#[test]
fn connections_over_the_limit_wait_until_one_closes() {
    let target = Target::new(&["--max-connections", "20"]);
    // Open one connection fewer than the limit, because the server may not have noticed yet that an
    // earlier connection was closed.
    let mut open: Vec<_> = (0..19).map(|_| target.connect()).collect();
    for client in &mut open {
        assert_eq!(client.get("/readyz").unwrap().status, 200);
    }
    let mut waiting: Vec<_> = (0..40).map(|_| target.connect()).collect();
    for client in &mut waiting {
        client.send(target.head("GET /readyz", "Connection: close\r\n")).unwrap();
    }
    drop(open);
    for mut client in waiting {
        assert_eq!(client.read_response(false).unwrap().status, 200);
    }
    target.assert_healthy_and_stop();
}
