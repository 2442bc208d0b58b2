//! Tests with clients that request large values and do not read the responses.

use crate::{MIB, Target};
use std::time::Duration;

#[test]
fn unread_responses_use_bounded_memory_and_time_out() {
    let target = Target::new(&["--body-timeout", "5"]);
    let item = target.item("large");
    let value = vec![b'v'; 25 << 20];
    assert_eq!(target.request(&format!("PUT {item}"), &[], &value).status, 200);
    let mut clients: Vec<_> = (0..64).map(|_| target.connect()).collect();
    for client in &mut clients {
        client.send(target.head(&format!("GET {item}"), "")).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    target.assert_responsive();
    assert!(target.get(&item).body == value);
    // Each response has one piece of 256 KiB in flight, and the next piece may also be in memory.
    target.assert_peak_memory_below(128 * MIB);
    // The server must close the connections although the clients have not disconnected.
    target.wait_until_connections_close();
    drop(clients);
    target.assert_healthy_and_stop();
}
