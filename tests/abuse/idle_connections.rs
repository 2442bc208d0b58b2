//! Ten thousand connections that say nothing.

use crate::{MIB, Victim};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const WANTED: u64 = 10_000;
/// Files that the test and the server need besides.
const SPARE: u64 = 1024;
/// Bytes that a resting connection may cost: its task, its timer, and a read buffer of 16 KiB.
const EACH: u64 = 20 * 1024;

#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_nobody_up() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(WANTED + SPARE);
    if limit.current.is_some_and(|current| current < most) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum })
            .unwrap();
    }
    let count = WANTED.min(most.saturating_sub(SPARE));
    if count < WANTED {
        println!("only {count} connections: the limit of open files is {most}");
    }
    let victim = Victim::new(&[]);
    victim.serves_others();
    let before = victim.memory("VmRSS");
    let mut clients: Vec<_> = (0..count).map(|_| victim.connect()).collect();
    // Half of them have asked something once.
    for client in clients.iter_mut().step_by(2) {
        client.send(victim.head("GET /healthz", "")).unwrap();
    }
    for client in clients.iter_mut().step_by(2) {
        assert_eq!(client.read_response(false).unwrap().status, 200);
    }
    assert_eq!(victim.connections(), count + 1);
    victim.serves_others();
    let grown = victim.memory("VmRSS").saturating_sub(before);
    println!("{count} connections: {} MiB, {} bytes each", grown / MIB, grown / count.max(1));
    assert!(grown < count * EACH + 16 * MIB, "{} MiB for {count}", grown / MIB);
    for client in clients.iter_mut().rev().take(100) {
        assert_eq!(client.request("GET /readyz", &[], b"").unwrap().status, 200);
    }
    drop(clients);
    victim.lets_go();
    victim.unharmed();
}

#[test]
fn connections_beyond_the_bound_wait_and_are_served_when_one_ends() {
    let victim = Victim::new(&["--max-connections", "20"]);
    // The fixture's own connections may not all have been seen to end.
    let mut held: Vec<_> = (0..19).map(|_| victim.connect()).collect();
    for client in &mut held {
        assert_eq!(client.request("GET /readyz", &[], b"").unwrap().status, 200);
    }
    let mut waiting: Vec<_> = (0..40).map(|_| victim.connect()).collect();
    for client in &mut waiting {
        client.send(victim.head("GET /readyz", "Connection: close\r\n")).unwrap();
    }
    drop(held);
    for mut client in waiting {
        assert_eq!(client.read_response(false).unwrap().status, 200);
    }
    victim.unharmed();
}
