//! Tests of deep pipelines whose responses are read late or never.

use crate::{MIB, Target};
use std::time::Duration;

const REQUESTS: usize = 10_000;

fn requests(target: &Target) -> Vec<u8> {
    let get = target.head(&format!("GET {}", target.item("deep")), "");
    get.into_bytes().repeat(REQUESTS)
}

#[test]
fn ten_thousand_pipelined_requests_are_answered_in_order() {
    let target = Target::new(&[]);
    let value = "v".repeat(2000);
    target.request(&format!("PUT {}", target.item("deep")), &[], value.as_bytes());
    let (requests, mut client) = (requests(&target), target.connect());
    std::thread::scope(|scope| {
        // Send on another thread, because the server stops reading while responses are unread.
        let mut writer = client.try_clone();
        scope.spawn(move || writer.send(requests).unwrap());
        std::thread::sleep(Duration::from_millis(500));
        target.assert_responsive();
        for n in 0..REQUESTS {
            assert_eq!(client.read_response(false).unwrap().text(), value, "response {n}");
        }
    });
    target.assert_peak_memory_below(48 * MIB);
    target.assert_healthy_and_stop();
}

#[test]
fn pipelining_clients_that_never_read_are_disconnected() {
    let target = Target::new(&["--body-timeout", "2"]);
    let value = vec![b'v'; 2000];
    target.request(&format!("PUT {}", target.item("deep")), &[], &value);
    let requests = requests(&target);
    let mut clients: Vec<_> = (0..50).map(|_| target.connect()).collect();
    std::thread::scope(|scope| {
        for client in &mut clients {
            let requests = &requests;
            // The send fails once the server has closed the connection.
            scope.spawn(move || client.send(requests));
        }
        std::thread::sleep(Duration::from_millis(500));
        target.assert_responsive();
    });
    target.wait_until_connections_close();
    target.assert_peak_memory_below(64 * MIB);
    target.assert_healthy_and_stop();
}
