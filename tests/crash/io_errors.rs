//! Tests of I/O errors: full disks, failed writes and fsyncs, short writes, slow fsyncs.

use crate::harness::fault_shim::{
    Action, BLOBS, DATABASE, EIO, ENOSPC, FaultShim, OPEN, Rule, SQLITE_WAL, SYNC, WAL, WRITE,
};
use crate::harness::random::run_seed;
use crate::harness::workload::ValueSizes::{self, BlobFiles, FillsWal, Mixed, Small};
use crate::support::{self, Response};
use crate::testbed::{Testbed, start_server, wait_for_preallocation};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The exit status after a failed fsync.
const EXIT_FATAL: i32 = 70;
const TIMEOUT: Duration = Duration::from_secs(60);
const OLD_VALUE: &[u8] = b"the old value";

/// A server with the fault shim, and helpers for items that are not part of the workload.
struct DiskTest {
    shim: FaultShim,
    testbed: Testbed,
}

impl DiskTest {
    fn new(seed: u64, writers: u32) -> Option<DiskTest> {
        let shim = FaultShim::build()?;
        let testbed = Testbed::with(seed, writers, |data| shim.server(data));
        Some(DiskTest { shim, testbed })
    }

    fn inject_error(&self, calls: u32, path: &'static str, errno: u32) {
        self.shim.set(0, Rule::every(calls, path, Action::Fail(errno)));
    }

    fn send(&self, method: &str, key: &str, query: &str, body: &[u8]) -> Response {
        let request = format!("{method} {}{query}", self.testbed.path(key));
        self.testbed.server.request(&request, &[], body)
    }

    fn put(&self, key: &str, body: &[u8]) -> u64 {
        let reply = self.send("PUT", key, "", body);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.generation()
    }

    /// Asserts that GET and HEAD return the given value and generation.
    fn assert_unchanged(&self, key: &str, value: &[u8], generation: u64) {
        let (get, head) = (self.send("GET", key, "", b""), self.send("HEAD", key, "", b""));
        assert_eq!((get.status, get.generation()), (200, generation));
        assert!(get.body == value, "the value of {key} has changed");
        assert_eq!((head.status, head.generation()), (200, generation));
    }

    fn list(&self) -> String {
        let request = format!("GET /resources/stores/kv/{}/keys", self.testbed.store);
        self.testbed.server.request(&request, &[], b"").text()
    }

    fn blob_files(&self) -> usize {
        blob_files(&self.testbed.data().join("blobs"))
    }

    /// Waits until there are exactly this many blob files.
    fn wait_for_blob_files(&self, wanted: usize) {
        let until = Instant::now() + TIMEOUT;
        while self.blob_files() != wanted && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.blob_files(), wanted, "wrong number of blob files");
    }

    /// Waits for a message in the log, which the server writes in the background.
    fn wait_for_log(&self, message: &str) {
        let until = Instant::now() + TIMEOUT;
        while !self.shim.log().contains(message) {
            assert!(
                Instant::now() < until,
                "the log does not contain {message:?}: {}",
                self.shim.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asserts that the server exited with the fatal status and logged a message.
    fn assert_stopped(&mut self, message: &str) {
        let status = self.testbed.server.wait_for_exit(TIMEOUT);
        let log = self.shim.log();
        assert_eq!(status.and_then(|status| status.code()), Some(EXIT_FATAL), "{status:?}\n{log}");
        let logged = log.lines().any(|line| line.contains(message) && line.contains("stopping"));
        assert!(logged, "the log does not contain {message:?}: {log}");
        self.shim.disable(0);
    }

    /// Restarts the server without the shim.
    fn restart_without_shim(&mut self) {
        self.testbed.restart(start_server);
    }
}

/// Returns the number of files in a directory tree.
fn blob_files(at: &Path) -> usize {
    let entries = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { blob_files(&path) } else { 1 }).sum()
}

#[test]
fn writes_fail_with_507_and_change_nothing_while_the_wal_disk_is_full() {
    let Some(mut disk) = DiskTest::new(1, 0) else { return };
    let old = disk.put("k", OLD_VALUE);
    let large = vec![b'l'; 1_700_000];
    let old_large = disk.put("large", &large);
    let (list, blob_files) = (disk.list(), disk.blob_files());
    // Writes to a segment that is not preallocated would be refused without being attempted.
    wait_for_preallocation(&disk.shim);
    disk.inject_error(WRITE, WAL, ENOSPC);
    for _ in 0..3 {
        let refused = |reply: Response| assert!(reply.expect_error(507).contains("full"));
        refused(disk.send("PUT", "k", "", b"new"));
        refused(disk.send("PUT", "k", "?append=true", b"new"));
        refused(disk.send("PUT", "other", "?add=true", b"new"));
        refused(disk.send("PUT", "large", "", &vec![b'n'; 1_800_000]));
        refused(disk.send("DELETE", "k", "", b""));
        let batch = format!("PUT /resources/stores/kv/{}/batch", disk.testbed.store);
        let line = b"{\"key\":\"k\",\"value\":\"bmV3\"}\n";
        let reply = disk.testbed.server.request(&batch, &[], line);
        assert_eq!(reply.status, 503, "{reply:?}");
        assert_eq!(reply.json()["errors"][0]["code"], "507");
        let store =
            disk.testbed.server.request("POST /resources/stores/kv", &[], b"{\"name\":\"t\"}");
        refused(store);
        disk.assert_unchanged("k", OLD_VALUE, old);
        disk.assert_unchanged("large", &large, old_large);
        assert_eq!(disk.list(), list);
    }
    assert!(disk.shim.hits(0) >= 21, "some writes failed although the rule was not hit");
    disk.shim.disable(0);
    let new = disk.put("k", b"new");
    assert!(new > old);
    disk.wait_for_blob_files(blob_files);
    disk.restart_without_shim();
    disk.assert_unchanged("k", b"new", new);
    disk.assert_unchanged("large", &large, old_large);
    assert_eq!(disk.list(), list);
}

#[test]
fn a_segment_file_that_cannot_be_created_does_not_make_the_disk_full() {
    let Some(mut disk) = DiskTest::new(1, 0) else { return };
    wait_for_preallocation(&disk.shim);
    // The next file is created while others are free, so no commit needs it.
    disk.shim.set(0, Rule { count: 1, ..Rule::every(OPEN, WAL, Action::Fail(EIO)) });
    // This fills several segment files.
    let large = vec![b'l'; 900_000];
    let generations: Vec<_> =
        (0..60).map(|number| disk.put(&format!("large{number}"), &large)).collect();
    assert!(disk.shim.hits(0) > 1, "no segment file was created");
    disk.restart_without_shim();
    for (number, generation) in generations.into_iter().enumerate() {
        disk.assert_unchanged(&format!("large{number}"), &large, generation);
    }
}

#[test]
fn a_write_that_fails_halfway_on_a_full_disk_does_not_prevent_recovery() {
    let Some(mut disk) = DiskTest::new(1, 0) else { return };
    let large = vec![b'l'; 260_000];
    let old = disk.put("k", OLD_VALUE);
    // Leave too little room in the first segment for another large value.
    let generations: Vec<_> =
        (0..31).map(|number| disk.put(&format!("large{number}"), &large)).collect();
    wait_for_preallocation(&disk.shim);
    // The first write is that of the header and the entries, and the second one that of the body.
    disk.shim.set(0, Rule { first: 2, count: 1, ..Rule::every(WRITE, WAL, Action::Short) });
    disk.shim.set(1, Rule { first: 3, ..Rule::every(WRITE, WAL, Action::Fail(ENOSPC)) });
    disk.send("PUT", "k", "", &vec![b'n'; 200_000]).expect_error(507);
    disk.shim.disable(0);
    disk.shim.disable(1);
    // The next WAL record is in another segment, so it does not overwrite the partial one.
    let newest = disk.put("newest", &large);
    disk.restart_without_shim();
    disk.assert_unchanged("k", OLD_VALUE, old);
    disk.assert_unchanged("newest", &large, newest);
    for (number, generation) in generations.into_iter().enumerate() {
        disk.assert_unchanged(&format!("large{number}"), &large, generation);
    }
}

#[test]
fn large_puts_fail_with_507_and_leave_no_file_while_the_blob_disk_is_full() {
    let Some(mut disk) = DiskTest::new(1, 0) else { return };
    let large = vec![b'l'; 1_700_000];
    let old = disk.put("large", &large);
    let new = vec![b'n'; 3_000_000];
    for calls in [WRITE, OPEN] {
        // Fail the first and then the second write of the value.
        for first in [1, 2] {
            if calls == OPEN && first == 2 {
                continue;
            }
            disk.shim.set(0, Rule { first, ..Rule::every(calls, BLOBS, Action::Fail(ENOSPC)) });
            // The server may respond and close the connection before it has read the value. The
            // client may then get a connection error instead of the response.
            let put = format!("PUT {}", disk.testbed.path("large"));
            if let Ok(reply) = disk.testbed.server.connect().request(&put, &[], &new) {
                reply.expect_error(507);
            }
            assert!(disk.shim.hits(0) >= first);
            if calls == WRITE {
                disk.assert_unchanged("large", &large, old);
            }
            disk.put("small", b"inline value");
            disk.shim.disable(0);
            disk.wait_for_blob_files(1);
        }
    }
    disk.shim.set(0, Rule::every(WRITE, BLOBS, Action::Fail(ENOSPC)));
    let joined = disk.send("PUT", "large", "?append=true", b"a little more");
    joined.expect_error(507);
    disk.assert_unchanged("large", &large, old);
    disk.shim.disable(0);
    let newer = disk.put("large", &new);
    assert!(newer > old);
    disk.restart_without_shim();
    disk.assert_unchanged("large", &new, newer);
}

/// The expected value and generation of each key; `None` for a deleted key.
type ExpectedItems = BTreeMap<String, Option<(Vec<u8>, u64)>>;

impl DiskTest {
    fn assert_items(&self, expected: &ExpectedItems) {
        for (key, item) in expected {
            match item {
                Some((value, generation)) => self.assert_unchanged(key, value, *generation),
                None => assert_eq!(self.send("GET", key, "", b"").status, 404, "{key}"),
            }
        }
    }

    /// Puts a value and records it. Returns the response if the server refused the put.
    fn try_put(&self, key: &str, value: &[u8], expected: &mut ExpectedItems) -> Option<Response> {
        let reply = self.send("PUT", key, "", value);
        if reply.status != 200 {
            return Some(reply);
        }
        expected.insert(key.to_owned(), Some((value.to_vec(), reply.generation())));
        None
    }

    /// Waits until all commits are checkpointed.
    fn wait_for_checkpoint(&self) {
        let until = Instant::now() + TIMEOUT;
        let is_checkpointed = |line: &str| line == "steadfast_wal_bytes 0";
        while !self.testbed.server.get("/metrics").text().lines().any(is_checkpointed) {
            assert!(Instant::now() < until, "the WAL is not checkpointed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Returns a value that is unique to the key.
fn value(key: &str, bytes: usize) -> Vec<u8> {
    let mut value = key.as_bytes().repeat(bytes.div_ceil(key.len()));
    value.truncate(bytes);
    value
}

#[test]
fn garbage_collection_makes_room_for_writes_on_a_full_disk() {
    const KEYS: u64 = 600;
    let Some(mut disk) = DiskTest::new(1, 0) else { return };
    let mut expected = ExpectedItems::new();
    let keys: Vec<_> = (0..KEYS).map(|number| format!("k{number:03}")).collect();
    for key in &keys {
        assert!(disk.try_put(key, &value(key, 100_000), &mut expected).is_none());
    }
    disk.wait_for_checkpoint();
    // The disk is full: no segment file can be created, and the database cannot grow.
    disk.shim.set(0, Rule::every(OPEN, WAL, Action::Fail(ENOSPC)));
    disk.shim.set(1, Rule::every(WRITE, SQLITE_WAL, Action::Fail(ENOSPC)));
    // Every segment keeps some values, so only garbage collection can free one.
    for (_, key) in keys.iter().enumerate().filter(|(number, _)| number % 10 < 8) {
        assert_eq!(disk.send("DELETE", key, "", b"").status, 204);
        expected.insert(key.clone(), None);
    }
    let mut overwritten = keys.iter().skip(8).step_by(10);
    let refused = overwritten.find_map(|key| {
        let refused = disk.try_put(key, &value(key, 500_000), &mut expected);
        refused.map(|reply| (key, reply))
    });
    let (refused_key, reply) = refused.expect("writes must fail once all segment files are full");
    assert!(reply.expect_error(507).contains("full"));
    disk.assert_items(&expected);
    // Now the database can grow, and the values are relocated to the reserved segment file.
    disk.shim.disable(1);
    let until = Instant::now() + TIMEOUT;
    for key in overwritten.chain([refused_key]) {
        while let Some(reply) = disk.try_put(key, &value(key, 400_000), &mut expected) {
            assert!(reply.expect_error(507).contains("full"));
            let log = || disk.shim.log();
            assert!(Instant::now() < until, "no segment was freed\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert!(disk.shim.hits(0) > 0, "the server did not try to create a segment file");
    disk.assert_items(&expected);
    disk.shim.disable(0);
    disk.testbed.server.kill();
    disk.restart_without_shim();
    disk.assert_items(&expected);
    disk.testbed.server.kill();
    let mut check = Command::new(support::binary());
    let checked = support::run(check.args(["check", "--data"]).arg(disk.testbed.data()));
    checked.expect_exit(0);
}

#[test]
fn acknowledged_writes_survive_an_intermittently_full_disk() {
    let seed = run_seed("intermittently full disk");
    let Some(mut disk) = DiskTest::new(seed, 6) else { return };
    let pause = || std::thread::sleep(Duration::from_millis(100));
    let (mut failed_wal_writes, mut failed_blob_writes) = (0, 0);
    for round in 0..2 {
        let DiskTest { shim, testbed } = &mut disk;
        testbed.run_workload(Mixed, true, |_| {
            for _ in 0..8 {
                shim.set(0, Rule::every(WRITE, WAL, Action::Fail(ENOSPC)));
                pause();
                shim.disable(0);
                failed_wal_writes += shim.hits(0);
                shim.set(1, Rule::every(WRITE, BLOBS, Action::Fail(ENOSPC)));
                pause();
                shim.disable(1);
                failed_blob_writes += shim.hits(1);
                pause();
            }
        });
        testbed.check(&format!("before restart, round {round}, STEADFAST_SEED={seed}"));
        testbed.restart(|data| shim.server(data));
        testbed.check(&format!("after restart, round {round}, STEADFAST_SEED={seed}"));
    }
    let acknowledged = disk.testbed.acknowledged();
    println!(
        "intermittently full disk: {acknowledged} writes acknowledged, \
         {failed_wal_writes} WAL writes and {failed_blob_writes} blob writes failed"
    );
    assert!(
        failed_wal_writes > 0 && failed_blob_writes > 0,
        "at least one WAL write and one blob write must fail"
    );
}

#[test]
fn a_large_put_fails_with_500_and_changes_nothing_when_a_blob_write_fails() {
    let Some(mut disk) = DiskTest::new(1, 0) else { return };
    let large = vec![b'l'; 1_700_000];
    let old = disk.put("large", &large);
    disk.inject_error(WRITE, BLOBS, EIO);
    let detail = disk.send("PUT", "large", "", &vec![b'n'; 1_400_000]).expect_error(500);
    assert!(detail.contains("see the server log"), "{detail}");
    disk.wait_for_log("could not write a blob file");
    disk.assert_unchanged("large", &large, old);
    disk.put("small", b"inline value");
    disk.shim.disable(0);
    disk.wait_for_blob_files(1);
    let new = disk.put("large", &large[1..]);
    disk.restart_without_shim();
    disk.assert_unchanged("large", &large[1..], new);
}

/// Asserts that a fault under load stops the server, that the log contains `message`, and that
/// acknowledged writes survive.
fn stops_on_fault(fault: &str, rule: Rule, sizes: ValueSizes, message: &str) {
    let load = if rule.path == DATABASE { Duration::from_millis(300) } else { TIMEOUT };
    let seed = run_seed(fault);
    let Some(mut disk) = DiskTest::new(seed, 8) else { return };
    for round in 0..2 {
        let first = 1 + disk.testbed.random.below(rule.first);
        disk.shim.set(0, Rule { first, ..rule });
        let mut status = None;
        disk.testbed.run_workload(sizes, false, |server| status = server.wait_for_exit(load));
        // With few items, SQLite checkpoints its WAL only while the server is idle.
        let status = status.or_else(|| disk.testbed.server.wait_for_exit(TIMEOUT));
        assert!(
            status.is_some(),
            "{fault}: the server is still running after {} hits",
            disk.shim.hits(0)
        );
        disk.assert_stopped(message);
        disk.restart_without_shim();
        disk.testbed.check(&format!("{fault}, round {round}, STEADFAST_SEED={seed}"));
        let DiskTest { shim, testbed } = &mut disk;
        testbed.restart(|data| shim.server(data));
    }
    println!("{fault}: {} writes acknowledged", disk.testbed.acknowledged());
}

/// Returns a rule for [`stops_on_fault`], which replaces the first hit with a random one in
/// `1..=hits_max`. All calls from that hit on fail.
fn fail_from_hit(calls: u32, path: &'static str, hits_max: u64) -> Rule {
    Rule { first: hits_max, ..Rule::every(calls, path, Action::Fail(EIO)) }
}

#[test]
fn a_failed_wal_fsync_stops_the_server_without_an_acknowledgement() {
    let message = "could not make a commit durable";
    stops_on_fault("WAL fsync", fail_from_hit(SYNC, WAL, 100), Mixed, message);
}

#[test]
fn a_failed_wal_write_stops_the_server_without_an_acknowledgement() {
    let message = "could not make a commit durable";
    stops_on_fault("WAL write", fail_from_hit(WRITE, WAL, 300), Mixed, message);
}

#[test]
fn a_failed_blob_fsync_stops_the_server_without_an_acknowledgement() {
    stops_on_fault("blob fsync", fail_from_hit(SYNC, BLOBS, 30), BlobFiles, "could not sync");
}

#[test]
fn a_failed_checkpoint_stops_the_server_without_data_loss() {
    let message = "could not";
    stops_on_fault("SQLite WAL fsync", fail_from_hit(SYNC, SQLITE_WAL, 3), FillsWal, message);
    stops_on_fault("SQLite WAL write", fail_from_hit(WRITE, SQLITE_WAL, 60), FillsWal, message);
    stops_on_fault("database fsync", fail_from_hit(SYNC, DATABASE, 1), FillsWal, message);
    stops_on_fault("database write", fail_from_hit(WRITE, DATABASE, 4), FillsWal, message);
}

#[test]
fn a_put_is_not_acknowledged_when_its_fsync_fails() {
    let Some(mut disk) = DiskTest::new(1, 0) else { return };
    let old = disk.put("k", OLD_VALUE);
    disk.inject_error(SYNC, WAL, EIO);
    let put = format!("PUT {}", disk.testbed.path("k"));
    if let Ok(reply) = disk.testbed.server.connect().request(&put, &[], b"new") {
        assert!(reply.status >= 500, "{reply:?}");
    }
    disk.assert_stopped("could not make a commit durable");
    disk.restart_without_shim();
    let found = disk.send("GET", "k", "", b"");
    assert!(
        found.body == OLD_VALUE || found.body == b"new",
        "the value is neither the old nor the new one"
    );
    assert!(found.generation() >= old);
}

#[test]
fn short_writes_are_completed() {
    let seed = run_seed("short writes");
    let Some(mut disk) = DiskTest::new(seed, 6) else { return };
    for (slot, path) in [WAL, BLOBS, SQLITE_WAL].into_iter().enumerate() {
        disk.shim.set(slot, Rule::every(WRITE, path, Action::Short));
    }
    disk.testbed.run_workload(Mixed, false, |_| std::thread::sleep(Duration::from_secs(2)));
    disk.testbed.run_workload(FillsWal, false, |_| std::thread::sleep(Duration::from_secs(1)));
    assert!(disk.shim.hits(0) > 0 && disk.shim.hits(1) > 0 && disk.shim.hits(2) > 0);
    disk.testbed.check(&format!("short writes, STEADFAST_SEED={seed}"));
    disk.restart_without_shim();
    disk.testbed.check(&format!("short writes, after restart, STEADFAST_SEED={seed}"));
    println!("short writes: {} writes acknowledged", disk.testbed.acknowledged());
}

#[test]
fn group_commit_amortizes_slow_fsyncs() {
    let seed = run_seed("slow fsync");
    let Some(mut disk) = DiskTest::new(seed, 16) else { return };
    disk.shim.set(0, Rule::every(SYNC, WAL, Action::Delay(50)));
    disk.testbed.run_workload(Small, false, |_| std::thread::sleep(Duration::from_secs(3)));
    let (syncs, acknowledged) = (disk.shim.hits(0), disk.testbed.acknowledged());
    println!("slow fsync: {acknowledged} writes acknowledged in {syncs} fsyncs of 50 ms");
    assert!(syncs > 0 && acknowledged > 3 * syncs, "only {acknowledged} writes in {syncs} fsyncs");
    disk.testbed.check(&format!("slow fsync, STEADFAST_SEED={seed}"));
    disk.shim.disable(0);
    disk.restart_without_shim();
    disk.testbed.check(&format!("slow fsync, after restart, STEADFAST_SEED={seed}"));
}
