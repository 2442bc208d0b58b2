//! Linearizability tests over HTTP.
//!
//! Concurrent clients record histories while servers are killed and requests are abandoned.
//! `checker` searches the history of each key for an order that explains every response.
//! `list_consistency` checks paginated lists under concurrent writes.
//! `STEADFAST_LINEARIZABILITY_SECONDS` sets the duration of each workload (default 6).
//! `STEADFAST_SEED` sets the random seed; runs with the same seed make the same random choices.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests print and read env")]

mod checker;
mod clients;
mod history;
mod list_consistency;
mod model;
mod planted_violations;
#[allow(dead_code, reason = "not every suite uses all of it")]
#[path = "../harness/random.rs"]
mod random;
mod second_checker;
#[path = "../support/mod.rs"]
mod support;

use clients::{Abandonment, ClientPool};
use random::{Random, env_number, run_seed};
use std::time::{Duration, Instant};
use support::{DiskServer, Server, create_database};

/// Returns the duration of a workload in seconds.
pub(crate) fn seconds() -> u64 {
    env_number("STEADFAST_LINEARIZABILITY_SECONDS").unwrap_or(6)
}

/// Duration of a phase. Each phase uses new keys, which keeps the histories short.
const PHASE: Duration = Duration::from_millis(700);

/// Runs phases until the duration of a workload has passed. `phase` takes the number of the phase,
/// the random number generator and the seed. It returns the number of operations checked.
fn run_phases(test: &str, mut phase: impl FnMut(u64, &mut Random, u64) -> u64) {
    let seed = run_seed(test);
    let mut random = Random(seed);
    let (end, mut checked, mut phases) = (Instant::now() + Duration::from_secs(seconds()), 0, 0);
    while Instant::now() < end {
        checked += phase(phases, &mut random, seed);
        phases += 1;
    }
    println!("{test}: checked {checked} operations on {} keys", phases * clients::KEYS);
    assert!(checked > 500, "only {checked} operations were checked");
}

#[test]
fn the_embedded_engine_is_linearizable_across_crashes_and_lost_responses() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("linear");
    let mut crashes = 0;
    run_phases("linearizability of the embedded engine", |phase, random, seed| {
        let (port, abandonment) = (disk.server.port, Abandonment::Sometimes);
        let clients = ClientPool::start(port, &[], &store, phase, random.next(), abandonment);
        let mut crash = || {
            disk.server.kill();
            let killed = clients.now();
            disk.kill_and_restart(&[]);
            clients.restarted(killed, disk.server.port);
            crashes += 1;
        };
        for _ in 0..2 {
            std::thread::sleep(PHASE / 3 + Duration::from_millis(random.below(50)));
            crash();
        }
        std::thread::sleep(PHASE / 3);
        // The last crash ends all abandoned requests before every key is read once more.
        crash();
        clients.finish(seed)
    });
    println!("{crashes} crashes");
}

#[test]
fn the_memory_engine_is_linearizable() {
    let server = Server::memory(&[]);
    let store = server.create_store("linear");
    run_phases("linearizability of the memory engine", |phase, random, seed| {
        let (port, abandonment) = (server.port, Abandonment::Never);
        let clients = ClientPool::start(port, &[], &store, phase, random.next(), abandonment);
        std::thread::sleep(PHASE);
        clients.finish(seed)
    });
}

#[test]
fn three_servers_that_share_a_postgresql_database_are_linearizable() {
    let Some(url) = create_database("linear") else { return };
    let servers: Vec<Server> = (0..3).map(|_| Server::postgres(&url)).collect();
    let others: Vec<u16> = servers[1..].iter().map(|server| server.port).collect();
    let store = servers[0].create_store("linear");
    run_phases(
        "linearizability of servers that share a PostgreSQL database",
        |phase, random, seed| {
            let (port, abandonment) = (servers[0].port, Abandonment::Never);
            let clients =
                ClientPool::start(port, &others, &store, phase, random.next(), abandonment);
            std::thread::sleep(PHASE);
            clients.finish(seed)
        },
    );
}
