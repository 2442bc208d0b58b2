//! Requests upon requests, and nobody who reads the answers.

use crate::{MIB, Victim};
use std::time::Duration;

const REQUESTS: usize = 10_000;

fn requests(victim: &Victim) -> Vec<u8> {
    let get = victim.head(&format!("GET {}", victim.item("deep")), "");
    get.into_bytes().repeat(REQUESTS)
}

#[test]
fn ten_thousand_requests_at_once_are_answered_in_turn_when_they_are_read() {
    let victim = Victim::new(&[]);
    let value = "v".repeat(2000);
    victim.server.request(&format!("PUT {}", victim.item("deep")), &[], value.as_bytes());
    let (requests, mut client) = (requests(&victim), victim.connect());
    std::thread::scope(|scope| {
        // Another thread, because the server stops reading while its answers are not taken.
        let mut writer = client.try_clone();
        scope.spawn(move || writer.send(requests).unwrap());
        std::thread::sleep(Duration::from_millis(500));
        victim.serves_others();
        for n in 0..REQUESTS {
            assert_eq!(client.read_response(false).unwrap().text(), value, "answer {n}");
        }
    });
    victim.held_below(48 * MIB);
    victim.unharmed();
}

#[test]
fn clients_that_ask_and_never_read_are_given_up() {
    let victim = Victim::new(&["--body-timeout", "2"]);
    let value = vec![b'v'; 2000];
    victim.server.request(&format!("PUT {}", victim.item("deep")), &[], &value);
    let requests = requests(&victim);
    let mut clients: Vec<_> = (0..50).map(|_| victim.connect()).collect();
    std::thread::scope(|scope| {
        for client in &mut clients {
            let requests = &requests;
            // Fails when the server has had enough.
            scope.spawn(move || client.send(requests));
        }
        std::thread::sleep(Duration::from_millis(500));
        victim.serves_others();
    });
    victim.lets_go();
    victim.held_below(64 * MIB);
    victim.unharmed();
}
