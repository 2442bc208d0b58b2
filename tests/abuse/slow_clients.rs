//! Clients that send a byte now and then, to keep what is theirs for as long as they can.

use crate::support::Client;
use crate::{MIB, Victim};
use std::time::{Duration, Instant};

const SOCKETS: usize = 500;

/// Sends each client's next byte, round after round, while others are served.
fn drip(victim: &Victim, clients: &mut [Client], byte: u8, rounds: usize) {
    for _ in 0..rounds {
        let start = Instant::now();
        for client in &mut *clients {
            // Those that the server gave up on cannot be written to.
            let _ = client.send([byte]);
        }
        victim.serves_others();
        std::thread::sleep(Duration::from_millis(200).saturating_sub(start.elapsed()));
    }
}

#[test]
fn heads_that_drip_hold_nobody_up_and_are_given_up() {
    let victim = Victim::new(&["--header-timeout", "2"]);
    let mut clients: Vec<_> = (0..SOCKETS).map(|_| victim.connect()).collect();
    for client in &mut clients {
        client.send("GET /healthz HTTP/1.1\r\nX: ").unwrap();
    }
    // Dripping on does not save them.
    let end = Instant::now() + Duration::from_secs(20);
    while victim.connections() > 1 {
        assert!(Instant::now() < end, "those that drip are kept");
        drip(&victim, &mut clients, b'x', 1);
    }
    victim.held_below(96 * MIB);
    victim.unharmed();
}

#[test]
fn bodies_that_drip_hold_nobody_up_whose_body_is_small() {
    let victim = Victim::new(&["--body-timeout", "2"]);
    let mut clients: Vec<_> = (0..SOCKETS).map(|_| victim.connect()).collect();
    let item = victim.item("dripped");
    for client in &mut clients {
        let head = victim.head(&format!("PUT {item}"), "Content-Length: 26214400\r\n");
        client.send(head).unwrap();
    }
    drip(&victim, &mut clients, b'x', 15);
    drop(clients);
    victim.lets_go();
    assert_eq!(victim.server.request(&format!("GET {item}"), &[], b"").status, 404);
    // What waited for them goes on.
    let put = victim.server.request(&format!("PUT {item}"), &[], &vec![b'v'; 5_000_000]);
    assert_eq!(put.status, 200);
    victim.held_below(192 * MIB);
    victim.unharmed();
}

#[test]
fn chunks_that_drip_are_given_up_when_they_stop() {
    let victim = Victim::new(&["--body-timeout", "1"]);
    let item = victim.item("dripped");
    let mut clients: Vec<_> = (0..60).map(|_| victim.connect()).collect();
    for client in &mut clients {
        client.send(victim.head(&format!("PUT {item}"), "Transfer-Encoding: chunked\r\n")).unwrap();
        client.send("fffff;").unwrap();
    }
    drip(&victim, &mut clients, b'x', 10);
    victim.lets_go();
    assert_eq!(victim.server.request(&format!("GET {item}"), &[], b"").status, 404);
    victim.unharmed();
}
