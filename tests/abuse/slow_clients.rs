//! Tests with slow clients that send a byte at a time to tie up connections and memory (slowloris).

use crate::support::Client;
use crate::{MIB, Target};
use std::time::{Duration, Instant};

const SOCKETS: usize = 500;

/// Sends one byte from each client per round. In each round, checks that the server still serves
/// other clients.
fn send_slowly(target: &Target, clients: &mut [Client], byte: u8, rounds: usize) {
    for _ in 0..rounds {
        let start = Instant::now();
        for client in &mut *clients {
            // The send fails if the server has closed the connection.
            let _ = client.send([byte]);
        }
        target.assert_responsive();
        std::thread::sleep(Duration::from_millis(200).saturating_sub(start.elapsed()));
    }
}

#[test]
fn slow_heads_block_no_other_client_and_time_out() {
    let target = Target::new(&["--header-timeout", "2"]);
    let mut clients: Vec<_> = (0..SOCKETS).map(|_| target.connect()).collect();
    for client in &mut clients {
        client.send("GET /healthz HTTP/1.1\r\nX: ").unwrap();
    }
    // Receiving more bytes must not extend the deadline.
    let end = Instant::now() + Duration::from_secs(20);
    while target.open_connections() > 1 {
        assert!(Instant::now() < end, "slow connections are still open");
        send_slowly(&target, &mut clients, b'x', 1);
    }
    target.assert_peak_memory_below(96 * MIB);
    target.assert_healthy_and_stop();
}

#[test]
fn slow_bodies_do_not_block_clients_with_small_requests() {
    let target = Target::new(&["--body-timeout", "2"]);
    let mut clients: Vec<_> = (0..SOCKETS).map(|_| target.connect()).collect();
    let item = target.item("slow");
    for client in &mut clients {
        let head = target.head(&format!("PUT {item}"), "Content-Length: 26214400\r\n");
        client.send(head).unwrap();
    }
    send_slowly(&target, &mut clients, b'x', 15);
    drop(clients);
    target.wait_until_connections_close();
    assert_eq!(target.get(&item).status, 404);
    // The memory reserved for the slow bodies must have been released.
    let put = target.request(&format!("PUT {item}"), &[], &vec![b'v'; 5_000_000]);
    assert_eq!(put.status, 200);
    target.assert_peak_memory_below(192 * MIB);
    target.assert_healthy_and_stop();
}

#[test]
fn connections_with_slow_chunks_are_closed_once_the_chunks_stop() {
    let target = Target::new(&["--body-timeout", "1"]);
    let item = target.item("slow");
    let mut clients: Vec<_> = (0..60).map(|_| target.connect()).collect();
    for client in &mut clients {
        client.send(target.head(&format!("PUT {item}"), "Transfer-Encoding: chunked\r\n")).unwrap();
        client.send("fffff;").unwrap();
    }
    send_slowly(&target, &mut clients, b'x', 10);
    target.wait_until_connections_close();
    assert_eq!(target.get(&item).status, 404);
    target.assert_healthy_and_stop();
}

#[test]
fn slow_uploads_are_aborted_while_other_requests_wait_for_memory() {
    // With this limit, uploads may buffer 6 MiB in total, which is enough for four large uploads.
    let target = Target::new(&["--max-in-flight", "16777216"]);
    let item = target.item("slow");
    let mut clients: Vec<_> = (0..8).map(|_| target.connect()).collect();
    for client in &mut clients {
        let headers = "Expect: 100-continue\r\nContent-Length: 26214400\r\n";
        client.send(target.head(&format!("PUT {item}"), headers)).unwrap();
    }
    std::thread::scope(|scope| {
        let fast = scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            let put = format!("PUT {}", target.item("fast"));
            target.request(&put, &[], &vec![b'v'; 5_000_000]).status
        });
        while !fast.is_finished() {
            for client in &mut clients {
                let _ = client.send("x");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(fast.join().unwrap(), 200, "the slow uploads did not release memory");
    });
    assert_eq!(target.get(&item).status, 404);
    target.assert_healthy_and_stop();
}
