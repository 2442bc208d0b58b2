//! kill -9 at random moments, under load and while it starts.

use crate::ground::{Ground, plain};
use crate::load::Sizes;
use crate::random::{number, seed};
use crate::support::{self, TOKEN};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Kills in a run: `STEADFAST_TORTURE_ROUNDS`, or 30.
pub(crate) fn rounds() -> u64 {
    number("STEADFAST_TORTURE_ROUNDS").unwrap_or(30)
}

#[test]
fn no_acknowledged_write_is_lost_by_kill_nine_under_load() {
    let (rounds, seed) = (rounds(), seed("kill -9 under load"));
    let mut ground = Ground::new(seed, 8);
    for round in 0..rounds {
        let sizes = if ground.random.one_in(4) { Sizes::Small } else { Sizes::Mixed };
        let pause = Duration::from_millis(50 + ground.random.below(1500));
        ground.load(sizes, false, |server| {
            std::thread::sleep(pause);
            server.kill();
        });
        ground.restart(plain);
        ground.check(&format!("round {round} of STEADFAST_SEED={seed}"));
    }
    let (acknowledged, checked) = (ground.acknowledged(), ground.checked);
    let slowest = ground.slowest;
    println!(
        "{rounds} kills, {acknowledged} writes acknowledged, {checked} items checked, \
         slowest start {slowest:?}"
    );
    assert!(acknowledged > rounds * 8, "the load was real");
    assert!(slowest < Duration::from_secs(30), "a start takes {slowest:?}");
}

#[test]
fn a_server_that_is_killed_while_it_starts_loses_nothing() {
    let (rounds, seed) = (rounds(), seed("kill -9 while starting"));
    let mut ground = Ground::new(seed, 4);
    for round in 0..rounds.div_ceil(10) {
        ground.load(Sizes::Mixed, false, |server| {
            std::thread::sleep(Duration::from_millis(300));
            server.kill();
        });
        for _ in 0..10 {
            let mut command = Command::new(support::binary());
            command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(ground.data());
            command.env("STEADFAST_TOKEN", TOKEN).stdout(Stdio::null()).stderr(Stdio::null());
            let mut starting = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(ground.random.below(30)));
            starting.kill().unwrap();
            starting.wait().unwrap();
        }
        ground.restart(plain);
        ground.check(&format!("round {round} of STEADFAST_SEED={seed}"));
    }
    println!("{} items checked, slowest start {:?}", ground.checked, ground.slowest);
}

#[test]
fn a_stop_in_order_under_load_keeps_every_acknowledged_write() {
    let mut ground = Ground::new(seed("stops under load"), 6);
    for round in 0..3 {
        ground.load(Sizes::Mixed, false, |server| {
            std::thread::sleep(Duration::from_millis(300));
            server.terminate();
            let status = server.wait_for_exit(Duration::from_secs(30));
            assert!(status.is_some_and(|status| status.success()), "{status:?}");
        });
        ground.restart(plain);
        ground.check(&format!("stop {round}"));
    }
}
