//! Clients that ask for large values and do not take them.

use crate::{MIB, Victim};
use std::time::Duration;

#[test]
fn answers_that_nobody_takes_hold_neither_memory_nor_others() {
    let victim = Victim::new(&["--body-timeout", "5"]);
    let item = victim.item("large");
    let value = vec![b'v'; 25 << 20];
    assert_eq!(victim.server.request(&format!("PUT {item}"), &[], &value).status, 200);
    let mut clients: Vec<_> = (0..64).map(|_| victim.connect()).collect();
    for client in &mut clients {
        client.send(victim.head(&format!("GET {item}"), "")).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    victim.serves_others();
    assert!(victim.server.request(&format!("GET {item}"), &[], b"").body == value);
    // Of each, a piece of 256 KiB is on its way and the next may be read.
    victim.held_below(128 * MIB);
    // The server gives up on them while they still wait.
    victim.lets_go();
    drop(clients);
    victim.unharmed();
}
