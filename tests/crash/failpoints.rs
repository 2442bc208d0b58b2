//! Tests that kill the unmodified binary with SIGKILL at chosen system calls.

use crate::harness::fault_shim::Action::{self, Count, Fail, KillAfter, KillBefore, KillHalfway};
use crate::harness::fault_shim::{
    BLOBS, DATABASE, ENOSPC, FaultShim, OPEN, Rule, SEND, SQLITE_WAL, SYNC, TRUNCATE, UNLINK, WAL,
    WRITE,
};
use crate::harness::random::run_seed;
use crate::harness::workload::ValueSizes::{self, BlobFiles, FillsWal, Garbage, Mixed, Small};
use crate::random_kills::rounds;
use crate::support::Server;
use crate::testbed::{Testbed, start_server, wait_for_preallocation};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Time limit for a workload to reach its failpoint.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a workload until the rule kills the server at a random hit in `1..=hits_max`, restarts the
/// server without the shim, and checks the store. Repeats this with other random hits.
fn kill_at(failpoint: &str, rule: Rule, hits_max: u64, sizes: ValueSizes) {
    kill(failpoint, rule, hits_max, |testbed| {
        let mut was_killed = false;
        testbed.run_workload(sizes, false, |server| {
            was_killed = server.wait_for_exit(TIMEOUT).is_some();
        });
        was_killed
    });
}

/// Like [`kill_at`], but for a rule that kills the server while it is idle after a workload. Under
/// load, SQLite checkpoints its WAL only above a size that a workload of few items does not reach.
fn kill_when_idle(failpoint: &str, rule: Rule, hits_max: u64) {
    kill(failpoint, rule, hits_max, |testbed| {
        testbed.run_workload(FillsWal, false, |server| {
            server.wait_for_exit(Duration::from_millis(300));
        });
        testbed.server.wait_for_exit(TIMEOUT).is_some()
    });
}

fn kill(failpoint: &str, rule: Rule, hits_max: u64, run: impl Fn(&mut Testbed) -> bool) {
    let Some(shim) = FaultShim::build() else { return };
    let seed = run_seed(failpoint);
    let mut testbed = Testbed::new(seed, 4);
    for round in 0..rounds().div_ceil(6) {
        testbed.restart(|data| shim.server(data));
        let first = 1 + testbed.random.below(hits_max);
        shim.set(0, Rule { first, ..rule });
        let was_killed = run(&mut testbed);
        let hits = shim.hits(0);
        assert!(was_killed, "{failpoint}: only {hits} of {first} hits were reached");
        assert!(hits >= first, "{failpoint}: the server exited too early\n{}", shim.log());
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
    for bytes in [10, 1_300_000, 10] {
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
    kill_at("before a SQLite WAL write", writes(KillBefore), 60, FillsWal);
    kill_at("halfway through a SQLite WAL write", writes(KillHalfway), 60, FillsWal);
    kill_at("before a SQLite WAL fsync", rule(KillBefore, SYNC, SQLITE_WAL), 3, FillsWal);
    kill_at("after a SQLite WAL fsync", rule(KillAfter, SYNC, SQLITE_WAL), 3, FillsWal);
}

#[test]
fn writes_survive_a_kill_while_sqlite_checkpoints_into_the_database_file() {
    let writes = |action| rule(action, WRITE, DATABASE);
    kill_when_idle("before a database write", writes(KillBefore), 4);
    kill_when_idle("halfway through a database write", writes(KillHalfway), 4);
    kill_when_idle("before a database fsync", rule(KillBefore, SYNC, DATABASE), 1);
    kill_when_idle("after a database fsync", rule(KillAfter, SYNC, DATABASE), 1);
    let any = rule(KillBefore, TRUNCATE | SYNC, "steadfast.db");
    kill_when_idle("before any database fsync or truncate", any, 4);
}

#[test]
fn writes_survive_a_kill_while_values_are_relocated() {
    let wal = |action, calls| rule(action, calls, WAL);
    kill_at("halfway through a WAL write (GC)", wal(KillHalfway, WRITE), 400, Garbage);
    kill_at("after a WAL fsync (GC)", wal(KillAfter, SYNC), 400, Garbage);
    let position = rule(KillAfter, SYNC, SQLITE_WAL);
    kill_at("after storing the position (GC)", position, 12, Garbage);
}

#[test]
fn writes_survive_a_kill_around_the_removal_of_a_segment_file() {
    kill_when_idle("before a segment unlink", rule(KillBefore, UNLINK, WAL), 1);
    kill_when_idle("after a segment unlink", rule(KillAfter, UNLINK, WAL), 1);
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
        let large = vec![b'v'; 1_300_000];
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

/// Size in bytes of the WAL that recovery reads in the following tests: several segments.
const WAL_BYTES: u64 = 24 << 20;
/// The directory of the segment files.
const WAL_DIR: &str = "/log$";

/// Returns the size of the WAL segments that are not checkpointed, in bytes.
fn wal_bytes(server: &Server) -> u64 {
    let metrics = server.get("/metrics").text();
    let bytes = metrics.lines().find_map(|line| line.strip_prefix("steadfast_wal_bytes "));
    bytes.unwrap().parse().unwrap()
}

/// Fills several WAL segments, and kills the server halfway through a WAL write. The torn record is
/// either the only one in its segment, or follows others. The end of the WAL is not saved in the
/// database.
fn crash_with_torn_record(shim: &FaultShim, testbed: &mut Testbed, is_only_record: bool) {
    // With the default WAL size, no checkpoint runs under load.
    let start = |data: &Path| Server::spawn(shim.command(data));
    testbed.restart(start);
    shim.set(1, rule(Fail(ENOSPC), WRITE, SQLITE_WAL));
    testbed.run_workload(FillsWal, false, |server| {
        let end = Instant::now() + TIMEOUT;
        while wal_bytes(server) < WAL_BYTES {
            assert!(Instant::now() < end, "the WAL has only {} bytes", wal_bytes(server));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    if is_only_record {
        // The first record after a start begins a new segment.
        testbed.restart(start);
    }
    wait_for_preallocation(shim);
    assert!(wal_bytes(&testbed.server) >= WAL_BYTES, "a checkpoint has emptied the WAL");
    // The next writes to a segment file must be those of the record: first the header and the
    // entries, then the body, because it is large.
    shim.set(2, rule(Fail(ENOSPC), OPEN, WAL));
    shim.set(0, Rule { first: 2, ..rule(KillHalfway, WRITE, WAL) });
    let put = format!("PUT {}", testbed.path("torn"));
    let reply = testbed.server.connect().request(&put, &[], &vec![b'v'; 200_000]);
    assert!(reply.is_err(), "the server was not killed: {reply:?}");
    (0..3).for_each(|slot| shim.disable(slot));
}

/// Starts a server, and asserts that a rule kills it before it accepts connections.
fn assert_killed_while_starting(failpoint: &str, shim: &FaultShim, data: &Path) {
    let mut server = shim.command(data).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut output).unwrap();
    server.kill().unwrap();
    let status = server.wait().unwrap();
    assert!(output.is_empty(), "{failpoint}: the server started: {output}");
    assert_eq!(status.signal(), Some(9), "{failpoint}: {status}\n{}", shim.log());
}

/// Crashes a server, starts another one that the rule kills during recovery, and checks the store
/// on a third one. `is_at_failpoint` gets the number of WAL writes and WAL fsyncs up to the kill.
fn kill_during_recovery(
    failpoint: &str,
    rules: &[Rule],
    is_at_failpoint: impl Fn(u64, u64) -> bool,
) {
    let Some(shim) = FaultShim::build() else { return };
    let seed = run_seed(failpoint);
    let mut testbed = Testbed::new(seed, 4);
    for (round, rule_of_round) in rules.iter().enumerate() {
        crash_with_torn_record(&shim, &mut testbed, round % 2 == 0);
        shim.set(0, rule(Count, WRITE, WAL));
        shim.set(1, rule(Count, SYNC, WAL));
        let sqlite_wal = fs::metadata(testbed.data().join("steadfast.db-wal")).unwrap();
        let skips_first = rule_of_round.path == SQLITE_WAL && sqlite_wal.len() > 0;
        shim.set(2, Rule { first: 1 + u64::from(skips_first), ..*rule_of_round });
        assert_killed_while_starting(failpoint, &shim, &testbed.data());
        (0..3).for_each(|slot| shim.disable(slot));
        let (writes, syncs) = (shim.hits(0), shim.hits(1));
        let when = format!("{failpoint}, {rule_of_round:?}, STEADFAST_SEED={seed}");
        assert!(
            is_at_failpoint(writes, syncs),
            "{when}: killed after {writes} WAL writes and {syncs} WAL fsyncs"
        );
        testbed.restart(start_server);
        testbed.check(&when);
    }
    println!("{failpoint}: {} items checked", testbed.items_checked);
}

#[test]
fn writes_survive_a_kill_while_recovery_erases_a_torn_record() {
    let write = |action| rule(action, WRITE, WAL);
    let rules = [KillBefore, KillAfter, KillHalfway, KillBefore, KillAfter, KillHalfway].map(write);
    // Recovery fsyncs the segment after the erasure.
    let is_erasure = |writes, syncs| writes == 1 && syncs == 0;
    kill_during_recovery("erasure of a torn record", &rules, is_erasure);
}

#[test]
fn writes_survive_a_kill_while_recovery_fsyncs_the_newest_segment() {
    let rules = [KillBefore, KillAfter].map(|action| rule(action, SYNC, WAL));
    // Before the fsync, recovery erases at most one page. The many writes that preallocate segment
    // files come later.
    let is_fsync = |writes, syncs| writes <= 2 && syncs == 1;
    kill_during_recovery("fsync of the newest segment", &rules, is_fsync);
}

#[test]
fn writes_survive_a_kill_while_recovery_saves_the_end_of_the_wal() {
    // The kill follows the fsync of the newest segment. If SQLite's WAL contains transactions, its
    // first fsync makes them durable before that.
    let rules = [KillBefore, KillAfter].map(|action| rule(action, SYNC, SQLITE_WAL));
    kill_during_recovery("saving the end of the WAL", &rules, |_, syncs| syncs >= 1);
}

#[test]
fn a_new_data_directory_survives_a_kill_while_its_first_segment_file_is_created() {
    let Some(shim) = FaultShim::build() else { return };
    let hit = |first, rule| Rule { first, ..rule };
    let rules = [
        rule(KillBefore, OPEN, WAL),
        rule(KillAfter, OPEN, WAL),
        rule(KillHalfway, WRITE, WAL),
        hit(8, rule(KillHalfway, WRITE, WAL)),
        rule(KillBefore, SYNC, WAL),
        rule(KillAfter, SYNC, WAL),
        // The first fsync of the directory precedes the creation of the file.
        hit(2, rule(KillBefore, SYNC, WAL_DIR)),
        hit(2, rule(KillAfter, SYNC, WAL_DIR)),
        // The first fsync of SQLite's WAL follows the creation of the tables, and the second one
        // follows the update of the end of the WAL.
        hit(2, rule(KillBefore, SYNC, SQLITE_WAL)),
        hit(2, rule(KillAfter, SYNC, SQLITE_WAL)),
    ];
    for rule in rules {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        shim.set(0, rule);
        assert_killed_while_starting(&format!("{rule:?}"), &shim, &data);
        shim.disable(0);
        let mut server = start_server(&data);
        let path = format!("/resources/stores/kv/{}/keys/k", server.create_store("s"));
        assert_eq!(server.request(&format!("PUT {path}"), &[], b"value").status, 200);
        server.kill();
        let found = start_server(&data).get(&path);
        assert_eq!((found.status, &found.body[..]), (200, &b"value"[..]), "{rule:?}");
    }
}
