//! kill -9 at named points of the unchanged binary, by the shim.

use crate::ground::{Ground, plain};
use crate::kills::rounds;
use crate::load::Sizes;
use crate::random::seed;
use crate::shim::{
    Action, BLOBS, DATABASE, FOLD, LOG, OPEN, Rule, SEND, SYNC, Shim, TRUNCATE, UNLINK, WRITE,
};
use std::time::Duration;

/// How long a load may take to meet its failpoint.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loads a server until it is killed at the rule's point, starts it again without the shim, and
/// checks; several times, each at another hit of `1..=among`.
fn killed(what: &str, rule: Rule, among: u64, sizes: Sizes) {
    let Some(shim) = Shim::build() else { return };
    let seed = seed(what);
    let mut ground = Ground::new(seed, 4);
    for round in 0..rounds().div_ceil(6) {
        ground.restart(|data| shim.server(data));
        let first = 1 + ground.random.below(among);
        shim.set(0, Rule { first, ..rule });
        ground.load(sizes, false, |server| {
            let status = server.wait_for_exit(PATIENCE);
            let hits = shim.hits(0);
            assert!(status.is_some(), "{what}: hit {first} never came, after {hits}");
        });
        assert!(shim.hits(0) >= first, "{what}: it died of something else\n{}", shim.log());
        shim.off(0);
        ground.restart(plain);
        ground.check(&format!("{what}, hit {first}, round {round} of STEADFAST_SEED={seed}"));
    }
    println!("{what}: {} items checked, slowest start {:?}", ground.checked, ground.slowest);
}

fn rule(action: Action, calls: u32, path: &'static str) -> Rule {
    Rule::every(calls, path, action)
}

#[test]
fn the_shim_meets_the_calls_of_this_binary() {
    let Some(shim) = Shim::build() else { return };
    let mut ground = Ground::new(1, 2);
    ground.restart(|data| shim.server(data));
    let points = [(WRITE, LOG), (SYNC, LOG), (WRITE, BLOBS), (SYNC, BLOBS), (UNLINK, BLOBS)];
    for (slot, (calls, path)) in points.into_iter().enumerate() {
        shim.set(slot, rule(Action::Count, calls, path));
    }
    shim.set(5, rule(Action::Count, SEND, "socket:"));
    shim.set(6, rule(Action::Count, OPEN, BLOBS));
    let path = ground.path("k");
    for bytes in [10, 300_000, 10] {
        let answer = ground.server.request(&format!("PUT {path}"), &[], &vec![b'v'; bytes]);
        assert_eq!(answer.status, 200);
    }
    // Removing the file is no part of the answer.
    for _ in 0..1000 {
        if shim.hits(4) > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for slot in 0..7 {
        let hits = shim.hits(slot);
        assert!(hits > 0, "rule {slot} was never met");
    }
    assert!(shim.hits(1) >= 3, "a sync of the log for each put, not {}", shim.hits(1));
}

#[test]
fn killed_before_a_write_to_the_log() {
    killed("before a write to the log", rule(Action::KillBefore, WRITE, LOG), 200, Sizes::Mixed);
}

#[test]
fn killed_in_the_middle_of_a_write_to_the_log() {
    killed("in a write to the log", rule(Action::KillHalfway, WRITE, LOG), 200, Sizes::Mixed);
}

#[test]
fn killed_between_the_write_to_the_log_and_its_sync() {
    killed("before the sync of the log", rule(Action::KillBefore, SYNC, LOG), 60, Sizes::Mixed);
}

#[test]
fn killed_after_the_sync_of_the_log_and_before_the_answer() {
    killed("after the sync of the log", rule(Action::KillAfter, SYNC, LOG), 60, Sizes::Mixed);
    killed("before an answer", rule(Action::KillBefore, SEND, "socket:"), 200, Sizes::Mixed);
    killed("in an answer", rule(Action::KillHalfway, SEND, "socket:"), 200, Sizes::Small);
}

#[test]
fn killed_while_the_log_is_folded_into_the_database() {
    let writes = |action| rule(action, WRITE, FOLD);
    killed("before a write of the fold", writes(Action::KillBefore), 500, Sizes::Log);
    killed("in a write of the fold", writes(Action::KillHalfway), 500, Sizes::Log);
    killed("before the sync of a fold", rule(Action::KillBefore, SYNC, FOLD), 3, Sizes::Log);
    killed("after the sync of a fold", rule(Action::KillAfter, SYNC, FOLD), 3, Sizes::Log);
}

#[test]
fn killed_while_the_database_takes_what_was_folded() {
    let writes = |action| rule(action, WRITE, DATABASE);
    killed("before a write of the database", writes(Action::KillBefore), 300, Sizes::Log);
    killed("in a write of the database", writes(Action::KillHalfway), 300, Sizes::Log);
    killed("before its sync", rule(Action::KillBefore, SYNC, DATABASE), 2, Sizes::Log);
    killed("after its sync", rule(Action::KillAfter, SYNC, DATABASE), 2, Sizes::Log);
    let stop = rule(Action::KillBefore, TRUNCATE | SYNC, "steadfast.db");
    killed("at any sync or cut of the database", stop, 8, Sizes::Log);
}

#[test]
fn killed_while_a_large_value_is_staged_and_not_yet_committed() {
    killed("in a write of a file", rule(Action::KillHalfway, WRITE, BLOBS), 20, Sizes::Files);
    killed("before a file's sync", rule(Action::KillBefore, SYNC, BLOBS), 20, Sizes::Files);
    killed("after a file's sync", rule(Action::KillAfter, SYNC, BLOBS), 20, Sizes::Files);
    killed("when a file is made", rule(Action::KillAfter, OPEN, BLOBS), 20, Sizes::Files);
}

#[test]
fn killed_before_and_after_an_old_file_is_removed() {
    killed("before a file is removed", rule(Action::KillBefore, UNLINK, BLOBS), 8, Sizes::Files);
    killed("after a file is removed", rule(Action::KillAfter, UNLINK, BLOBS), 8, Sizes::Files);
}

#[test]
fn killed_while_expired_items_are_swept() {
    let Some(shim) = Shim::build() else { return };
    let points = [
        rule(Action::KillBefore, WRITE, LOG),
        rule(Action::KillHalfway, WRITE, LOG),
        rule(Action::KillBefore, SYNC, LOG),
        rule(Action::KillAfter, SYNC, LOG),
        rule(Action::KillAfter, UNLINK, BLOBS),
    ];
    let mut ground = Ground::new(seed("sweeping"), 4);
    for (point, rule) in points.into_iter().enumerate() {
        ground.restart(|data| shim.server(data));
        ground.load(Sizes::Mixed, false, |_| std::thread::sleep(Duration::from_millis(400)));
        let large = vec![b'v'; 300_000];
        for number in 0..20 {
            let value = if number % 5 == 0 { &large[..] } else { b"v" };
            let request = format!("PUT {}", ground.path(&format!("x-{point}-{number}")));
            let answer = ground.server.request(&request, &[("time_to_live_sec", "1")], value);
            assert_eq!(answer.status, 200);
        }
        // Past the end of every short life in truth too; then past the grace of the expired.
        std::thread::sleep(Duration::from_millis(2100));
        shim.set(0, rule);
        shim.clock(100);
        let status = ground.server.wait_for_exit(PATIENCE);
        assert!(status.is_some(), "point {point}: the sweep never came");
        shim.off(0);
        shim.clock(0);
        ground.restart(plain);
        ground.check(&format!("killed while sweeping, point {point}"));
    }
}
