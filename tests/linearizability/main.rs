//! Concurrent clients over HTTP, their histories, and a checker that finds an order of all
//! operations that explains every answer, or says that there is none. Servers are killed within
//! the histories; requests are given up within them. Lists are held against what was there.
//!
//! `STEADFAST_LINEAR_SECONDS` says how long each of the loads runs (6); `STEADFAST_SEED` repeats
//! a run's choices.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic, print, and ask the clock and the environment"
)]

mod checker;
mod clients;
mod history;
mod lists;
mod model;
mod planted;
#[allow(dead_code, reason = "shared with the torture tests")]
#[path = "../crash/random.rs"]
mod random;
mod second;
#[path = "../support/mod.rs"]
mod support;

use clients::{Fleet, Patience};
use random::{Random, number, seed};
use std::time::{Duration, Instant};
use support::{DiskServer, Server, create_database};

/// How long a load runs.
pub(crate) fn seconds() -> u64 {
    number("STEADFAST_LINEAR_SECONDS").unwrap_or(6)
}

/// A part of a load with keys of its own, short enough to be checked at once.
const PHASE: Duration = Duration::from_millis(700);

#[test]
fn every_key_of_the_embedded_engine_is_linearizable_through_crashes_and_lost_answers() {
    let seed = seed("linearizable through crashes");
    let mut random = Random(seed);
    let mut home = DiskServer::new(&[]);
    let store = home.server.create_store("linear");
    let (end, mut checked, mut crashes) = (Instant::now() + Duration::from_secs(seconds()), 0, 0);
    let mut phase = 0;
    while Instant::now() < end {
        let fleet =
            Fleet::start(home.server.port, &[], &store, phase, random.next(), Patience::Short);
        for _ in 0..2 {
            std::thread::sleep(PHASE / 3 + Duration::from_millis(random.below(50)));
            home.server.kill();
            let killed = fleet.now();
            home.kill_and_restart(&[]);
            fleet.restarted(killed, home.server.port);
            crashes += 1;
        }
        std::thread::sleep(PHASE / 3);
        // The last crash settles what was given up, so that the last reads see the end of it.
        home.server.kill();
        let killed = fleet.now();
        home.kill_and_restart(&[]);
        fleet.restarted(killed, home.server.port);
        checked += fleet.finish(seed);
        phase += 1;
    }
    println!("{checked} operations on {} keys checked, {crashes} crashes", phase * clients::KEYS);
    assert!(checked > 500, "the load was real");
}

#[test]
fn every_key_of_the_memory_engine_is_linearizable() {
    let seed = seed("linearizable in memory");
    let mut random = Random(seed);
    let server = Server::memory(&[]);
    let store = server.create_store("linear");
    let (end, mut checked, mut phase) = (Instant::now() + Duration::from_secs(seconds()), 0, 0);
    while Instant::now() < end {
        let fleet = Fleet::start(server.port, &[], &store, phase, random.next(), Patience::Long);
        std::thread::sleep(PHASE);
        checked += fleet.finish(seed);
        phase += 1;
    }
    println!("{checked} operations on {} keys checked", phase * clients::KEYS);
    assert!(checked > 500, "the load was real");
}

#[test]
fn every_key_is_linearizable_over_three_servers_and_one_database() {
    let Some(url) = create_database("linear") else { return };
    let seed = seed("linearizable over a database");
    let mut random = Random(seed);
    let servers: Vec<Server> = (0..3).map(|_| Server::postgres(&url)).collect();
    let others: Vec<u16> = servers[1..].iter().map(|server| server.port).collect();
    let store = servers[0].create_store("linear");
    let (end, mut checked, mut phase) = (Instant::now() + Duration::from_secs(seconds()), 0, 0);
    while Instant::now() < end {
        let (port, start) = (servers[0].port, random.next());
        let fleet = Fleet::start(port, &others, &store, phase, start, Patience::Long);
        std::thread::sleep(PHASE);
        checked += fleet.finish(seed);
        phase += 1;
    }
    println!("{checked} operations on {} keys checked, three servers", phase * clients::KEYS);
    assert!(checked > 500, "the load was real");
}
