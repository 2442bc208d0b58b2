//! Tests of kill -9 at random times under load and during startup.

use crate::harness::random::{env_number, run_seed};
use crate::harness::workload::ValueSizes;
use crate::support::{self, TOKEN};
use crate::testbed::{Testbed, start_server, start_with_small_wal};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Returns the number of kills: `STEADFAST_CRASH_ROUNDS`, or 30.
pub(crate) fn rounds() -> u64 {
    env_number("STEADFAST_CRASH_ROUNDS").unwrap_or(30)
}

#[test]
fn acknowledged_writes_survive_kill_9_under_load() {
    let (rounds, seed) = (rounds(), run_seed("kill -9 under load"));
    let mut testbed = Testbed::new(seed, 8);
    for round in 0..rounds {
        let small = testbed.random.one_in(4);
        let sizes = if small { ValueSizes::Small } else { ValueSizes::Mixed };
        let pause = Duration::from_millis(50 + testbed.random.below(1500));
        testbed.run_workload(sizes, false, |server| {
            std::thread::sleep(pause);
            server.kill();
        });
        testbed.restart(start_server);
        testbed.check(&format!("round {round}, STEADFAST_SEED={seed}"));
    }
    let (acknowledged, checked) = (testbed.acknowledged(), testbed.items_checked);
    let slowest = testbed.slowest_start;
    println!(
        "{rounds} kills, {acknowledged} writes acknowledged, {checked} items checked, \
         slowest start {slowest:?}"
    );
    assert!(acknowledged > rounds * 8, "only {acknowledged} writes were acknowledged");
    assert!(slowest < Duration::from_secs(30), "the slowest start took {slowest:?}");
}

#[test]
fn acknowledged_writes_survive_kill_9_while_garbage_is_collected() {
    let (rounds, seed) = (rounds().div_ceil(3), run_seed("kill -9, garbage collection"));
    let mut testbed = Testbed::with(seed, 4, start_with_small_wal);
    for round in 0..rounds {
        let pause = Duration::from_millis(500 + testbed.random.below(1500));
        testbed.run_workload(ValueSizes::Garbage, false, |server| {
            std::thread::sleep(pause);
            server.kill();
        });
        testbed.restart(start_with_small_wal);
        testbed.check(&format!("round {round}, STEADFAST_SEED={seed}"));
    }
    let (acknowledged, checked) = (testbed.acknowledged(), testbed.items_checked);
    println!("{rounds} kills, {acknowledged} writes acknowledged, {checked} items checked");
}

#[test]
fn acknowledged_writes_survive_kill_9_during_startup() {
    let (rounds, seed) = (rounds(), run_seed("kill -9 during startup"));
    let mut testbed = Testbed::new(seed, 4);
    for round in 0..rounds.div_ceil(10) {
        testbed.run_workload(ValueSizes::Mixed, false, |server| {
            std::thread::sleep(Duration::from_millis(300));
            server.kill();
        });
        for _ in 0..10 {
            let mut command = Command::new(support::binary());
            command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(testbed.data());
            command.env("STEADFAST_TOKEN", TOKEN).stdout(Stdio::null()).stderr(Stdio::null());
            let mut starting = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(testbed.random.below(30)));
            starting.kill().unwrap();
            starting.wait().unwrap();
        }
        testbed.restart(start_server);
        testbed.check(&format!("round {round}, STEADFAST_SEED={seed}"));
    }
    println!("{} items checked, slowest start {:?}", testbed.items_checked, testbed.slowest_start);
}
