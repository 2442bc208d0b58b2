//! Tests that kill the unmodified binary with SIGKILL at chosen system calls.

use crate::harness::fault_shim::Action::{self, Count, KillAfter, KillBefore, KillHalfway};
use crate::harness::fault_shim::{
    BLOBS, DATABASE, FaultShim, OPEN, Rule, SEND, SQLITE_WAL, SYNC, TRUNCATE, UNLINK, WAL, WRITE,
};
use crate::harness::random::run_seed;
use crate::harness::workload::ValueSizes::{self, BlobFiles, FillsWal, Mixed, Small};
use crate::random_kills::rounds;
use crate::testbed::{Testbed, start_server};
use std::time::Duration;

/// Time limit for a workload to reach its failpoint.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a workload until the rule kills the server at a random hit in `1..=hits_max`, restarts the
/// server without the shim, and checks the store. Repeats this with other random hits.
fn kill_at(failpoint: &str, rule: Rule, hits_max: u64, sizes: ValueSizes) {
    let Some(shim) = FaultShim::build() else { return };
    let seed = run_seed(failpoint);
    let mut testbed = Testbed::new(seed, 4);
    for round in 0..rounds().div_ceil(6) {
        testbed.restart(|data| shim.server(data));
        let first = 1 + testbed.random.below(hits_max);
        shim.set(0, Rule { first, ..rule });
        testbed.run_workload(sizes, false, |server| {
            let status = server.wait_for_exit(TIMEOUT);
            let hits = shim.hits(0);
            assert!(status.is_some(), "{failpoint}: only {hits} of {first} hits were reached");
        });
        assert!(shim.hits(0) >= first, "{failpoint}: the server exited too early\n{}", shim.log());
        shim.disable(0);
        testbed.restart(start_server);
        testbed.check(&format!("{failpoint}, hit {first}, round {round}, STEADFAST_SEED={seed}"));
    }
    println!(
        "{failpoint}: {} items checked, slowest start {:?}",
        testbed.items_checked, testbed.slowest_start
    );
}

fn rule(action: Action, calls: u32, path: &'static str) -> Rule {
    Rule::every(calls, path, action)
}

#[test]
fn the_shim_intercepts_all_calls_into_which_it_injects_faults() {
    let Some(shim) = FaultShim::build() else { return };
    let mut testbed = Testbed::new(1, 2);
    testbed.restart(|data| shim.server(data));
    let points = [(WRITE, WAL), (SYNC, WAL), (WRITE, BLOBS), (SYNC, BLOBS), (UNLINK, BLOBS)];
    for (slot, (calls, path)) in points.into_iter().enumerate() {
        shim.set(slot, rule(Count, calls, path));
    }
    shim.set(5, rule(Count, SEND, "socket:"));
    shim.set(6, rule(Count, OPEN, BLOBS));
    let path = testbed.path("k");
    for bytes in [10, 300_000, 10] {
        let reply = testbed.server.request(&format!("PUT {path}"), &[], &vec![b'v'; bytes]);
        assert_eq!(reply.status, 200);
    }
    // The server responds before it removes the blob file.
    for _ in 0..1000 {
        if shim.hits(4) > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for slot in 0..7 {
        let hits = shim.hits(slot);
        assert!(hits > 0, "rule {slot} did not match any call");
    }
    assert!(shim.hits(1) >= 3, "there were only {} WAL fsyncs for 3 puts", shim.hits(1));
}

#[test]
fn writes_survive_a_kill_before_a_wal_write() {
    kill_at("before a WAL write", rule(KillBefore, WRITE, WAL), 200, Mixed);
}

#[test]
fn writes_survive_a_kill_halfway_through_a_wal_write() {
    kill_at("halfway through a WAL write", rule(KillHalfway, WRITE, WAL), 200, Mixed);
}

#[test]
fn writes_survive_a_kill_between_a_wal_write_and_its_fsync() {
    kill_at("before a WAL fsync", rule(KillBefore, SYNC, WAL), 60, Mixed);
}

#[test]
fn writes_survive_a_kill_between_a_wal_fsync_and_the_response() {
    kill_at("after a WAL fsync", rule(KillAfter, SYNC, WAL), 60, Mixed);
    kill_at("before a response", rule(KillBefore, SEND, "socket:"), 200, Mixed);
    kill_at("halfway through a response", rule(KillHalfway, SEND, "socket:"), 200, Small);
}

#[test]
fn writes_survive_a_kill_while_a_checkpoint_writes_to_the_sqlite_wal() {
    let writes = |action| rule(action, WRITE, SQLITE_WAL);
    kill_at("before a SQLite WAL write", writes(KillBefore), 500, FillsWal);
    kill_at("halfway through a SQLite WAL write", writes(KillHalfway), 500, FillsWal);
    kill_at("before a SQLite WAL fsync", rule(KillBefore, SYNC, SQLITE_WAL), 3, FillsWal);
    kill_at("after a SQLite WAL fsync", rule(KillAfter, SYNC, SQLITE_WAL), 3, FillsWal);
}

#[test]
fn writes_survive_a_kill_while_sqlite_checkpoints_into_the_database_file() {
    let writes = |action| rule(action, WRITE, DATABASE);
    kill_at("before a database write", writes(KillBefore), 300, FillsWal);
    kill_at("halfway through a database write", writes(KillHalfway), 300, FillsWal);
    kill_at("before a database fsync", rule(KillBefore, SYNC, DATABASE), 2, FillsWal);
    kill_at("after a database fsync", rule(KillAfter, SYNC, DATABASE), 2, FillsWal);
    let any = rule(KillBefore, TRUNCATE | SYNC, "steadfast.db");
    kill_at("before any database fsync or truncate", any, 8, FillsWal);
}

#[test]
fn writes_survive_a_kill_while_a_blob_file_is_written() {
    kill_at("halfway through a blob write", rule(KillHalfway, WRITE, BLOBS), 20, BlobFiles);
    kill_at("before a blob fsync", rule(KillBefore, SYNC, BLOBS), 20, BlobFiles);
    kill_at("after a blob fsync", rule(KillAfter, SYNC, BLOBS), 20, BlobFiles);
    kill_at("after a blob file is created", rule(KillAfter, OPEN, BLOBS), 20, BlobFiles);
}

#[test]
fn writes_survive_a_kill_around_the_removal_of_a_blob_file() {
    kill_at("before a blob unlink", rule(KillBefore, UNLINK, BLOBS), 8, BlobFiles);
    kill_at("after a blob unlink", rule(KillAfter, UNLINK, BLOBS), 8, BlobFiles);
}

#[test]
fn writes_survive_a_kill_while_expired_items_are_deleted() {
    let Some(shim) = FaultShim::build() else { return };
    let points = [
        rule(KillBefore, WRITE, WAL),
        rule(KillHalfway, WRITE, WAL),
        rule(KillBefore, SYNC, WAL),
        rule(KillAfter, SYNC, WAL),
        rule(KillAfter, UNLINK, BLOBS),
    ];
    let mut testbed = Testbed::new(run_seed("deletion of expired items"), 4);
    for (point, rule) in points.into_iter().enumerate() {
        testbed.restart(|data| shim.server(data));
        testbed.run_workload(Mixed, false, |_| std::thread::sleep(Duration::from_millis(400)));
        let large = vec![b'v'; 300_000];
        for number in 0..20 {
            let value = if number % 5 == 0 { &large[..] } else { b"v" };
            let request = format!("PUT {}", testbed.path(&format!("x-{point}-{number}")));
            let reply = testbed.server.request(&request, &[("time_to_live_sec", "1")], value);
            assert_eq!(reply.status, 200);
        }
        // Wait until the short TTLs have passed in real time. The clock jump then exceeds the
        // retention period of expired items, so the server deletes them.
        std::thread::sleep(Duration::from_millis(2100));
        shim.set(0, rule);
        shim.advance_clock(100);
        let status = testbed.server.wait_for_exit(TIMEOUT);
        assert!(status.is_some(), "point {point}: the server was not killed while deleting items");
        shim.disable(0);
        shim.advance_clock(0);
        testbed.restart(start_server);
        testbed.check(&format!("killed while deleting expired items, point {point}"));
    }
}
