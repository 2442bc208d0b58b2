//! A disk that is full, fails, writes short or is slow, by the shim.

use crate::ground::{Ground, plain};
use crate::load::Sizes;
use crate::random::seed;
use crate::shim::{Action, BLOBS, DATABASE, EIO, ENOSPC, FOLD, LOG, OPEN, Rule, SYNC, Shim, WRITE};
use crate::support::Response;
use std::path::Path;
use std::time::{Duration, Instant};

/// The exit status after a failed sync.
const FATAL: i32 = 70;
const SOON: Duration = Duration::from_secs(60);
const OLD: &[u8] = b"the old value";

/// A server under the shim with a few items that no load touches.
struct Disk {
    shim: Shim,
    ground: Ground,
}

impl Disk {
    fn new(seed: u64, writers: u32) -> Option<Disk> {
        let shim = Shim::build()?;
        let ground = Ground::with(seed, writers, |data| shim.server(data));
        Some(Disk { shim, ground })
    }

    fn fail(&self, calls: u32, path: &'static str, errno: u32) {
        self.shim.set(0, Rule::every(calls, path, Action::Fail(errno)));
    }

    fn ask(&self, method: &str, key: &str, query: &str, body: &[u8]) -> Response {
        let request = format!("{method} {}{query}", self.ground.path(key));
        self.ground.server.request(&request, &[], body)
    }

    fn put(&self, key: &str, body: &[u8]) -> u64 {
        let answer = self.ask("PUT", key, "", body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.generation()
    }

    /// The item is as it was, by every way to read.
    fn unchanged(&self, key: &str, value: &[u8], generation: u64) {
        let (get, head) = (self.ask("GET", key, "", b""), self.ask("HEAD", key, "", b""));
        assert_eq!((get.status, get.generation()), (200, generation));
        assert!(get.body == value, "{key} has changed");
        assert_eq!((head.status, head.generation()), (200, generation));
    }

    fn list(&self) -> String {
        let request = format!("GET /resources/stores/kv/{}/keys", self.ground.store);
        self.ground.server.request(&request, &[], b"").text()
    }

    fn files(&self) -> usize {
        files(&self.ground.data().join("blobs"))
    }

    /// So many files of values are left, once what removes them is done.
    fn leaves(&self, wanted: usize) {
        let until = Instant::now() + SOON;
        while self.files() != wanted && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.files(), wanted, "files of values");
    }

    /// The server stopped by itself with the status of a failed sync, and said why.
    fn stopped(&mut self, why: &str) {
        let status = self.ground.server.wait_for_exit(SOON);
        let log = self.shim.log();
        assert_eq!(status.and_then(|status| status.code()), Some(FATAL), "{status:?}\n{log}");
        let said = log.lines().any(|line| line.contains(why) && line.contains("stopping"));
        assert!(said, "nothing says {why:?} in {log}");
        self.shim.off(0);
    }

    /// Starts the server without the shim.
    fn heal(&mut self) {
        self.ground.restart(plain);
    }
}

/// Files below a folder.
fn files(at: &Path) -> usize {
    let entries = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[test]
fn a_full_disk_under_the_log_refuses_writes_and_changes_nothing() {
    let Some(mut disk) = Disk::new(1, 0) else { return };
    let old = disk.put("k", OLD);
    let large = vec![b'l'; 700_000];
    let old_large = disk.put("large", &large);
    let (list, files) = (disk.list(), disk.files());
    disk.fail(WRITE, LOG, ENOSPC);
    for _ in 0..3 {
        let refused = |answer: Response| assert!(answer.expect_error(507).contains("full"));
        refused(disk.ask("PUT", "k", "", b"new"));
        refused(disk.ask("PUT", "k", "?append=true", b"new"));
        refused(disk.ask("PUT", "other", "?add=true", b"new"));
        refused(disk.ask("PUT", "large", "", &vec![b'n'; 800_000]));
        refused(disk.ask("DELETE", "k", "", b""));
        let batch = format!("PUT /resources/stores/kv/{}/batch", disk.ground.store);
        let line = b"{\"key\":\"k\",\"value\":\"bmV3\"}\n";
        let answer = disk.ground.server.request(&batch, &[], line);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.json()["errors"][0]["code"], "507");
        let store =
            disk.ground.server.request("POST /resources/stores/kv", &[], b"{\"name\":\"t\"}");
        refused(store);
        disk.unchanged("k", OLD, old);
        disk.unchanged("large", &large, old_large);
        assert_eq!(disk.list(), list);
    }
    assert!(disk.shim.hits(0) >= 21, "it was the log that was full");
    disk.shim.off(0);
    let new = disk.put("k", b"new");
    assert!(new > old);
    disk.leaves(files);
    disk.heal();
    disk.unchanged("k", b"new", new);
    disk.unchanged("large", &large, old_large);
    assert_eq!(disk.list(), list);
}

#[test]
fn a_full_disk_under_large_values_refuses_them_and_leaves_no_file() {
    let Some(mut disk) = Disk::new(1, 0) else { return };
    let large = vec![b'l'; 700_000];
    let old = disk.put("large", &large);
    let new = vec![b'n'; 3_000_000];
    for calls in [WRITE, OPEN] {
        // At once, and at the second piece of the value.
        for first in [1, 2] {
            if calls == OPEN && first == 2 {
                continue;
            }
            disk.shim.set(0, Rule { first, ..Rule::every(calls, BLOBS, Action::Fail(ENOSPC)) });
            // The refusal may come before all of the value is sent, and the rest meets a closed
            // connection; what counts is that nothing changed.
            let put = format!("PUT {}", disk.ground.path("large"));
            if let Ok(answer) = disk.ground.server.connect().request(&put, &[], &new) {
                answer.expect_error(507);
            }
            assert!(disk.shim.hits(0) >= first);
            if calls == WRITE {
                disk.unchanged("large", &large, old);
            }
            disk.put("small", b"needs no file");
            disk.shim.off(0);
            disk.leaves(1);
        }
    }
    disk.shim.set(0, Rule::every(WRITE, BLOBS, Action::Fail(ENOSPC)));
    let joined = disk.ask("PUT", "large", "?append=true", b"a little more");
    joined.expect_error(507);
    disk.unchanged("large", &large, old);
    disk.shim.off(0);
    let newer = disk.put("large", &new);
    assert!(newer > old);
    disk.heal();
    disk.unchanged("large", &new, newer);
}

#[test]
fn a_disk_that_is_full_now_and_then_under_load_loses_nothing() {
    let seed = seed("full now and then");
    let Some(mut disk) = Disk::new(seed, 6) else { return };
    let pause = || std::thread::sleep(Duration::from_millis(100));
    let (mut refused_log, mut refused_file) = (0, 0);
    for round in 0..2 {
        let Disk { shim, ground } = &mut disk;
        ground.load(Sizes::Mixed, true, |_| {
            for _ in 0..8 {
                shim.set(0, Rule::every(WRITE, LOG, Action::Fail(ENOSPC)));
                pause();
                shim.off(0);
                refused_log += shim.hits(0);
                shim.set(1, Rule::every(WRITE, BLOBS, Action::Fail(ENOSPC)));
                pause();
                shim.off(1);
                refused_file += shim.hits(1);
                pause();
            }
        });
        ground.check(&format!("the server that ran on, round {round} of STEADFAST_SEED={seed}"));
        ground.restart(|data| shim.server(data));
        ground.check(&format!("restarted, round {round} of STEADFAST_SEED={seed}"));
    }
    let acknowledged = disk.ground.acknowledged();
    println!(
        "full now and then: {acknowledged} writes acknowledged, {refused_log} failed in the log, \
         {refused_file} in files"
    );
    assert!(refused_log > 0 && refused_file > 0, "the disk was full");
}

#[test]
fn a_failing_write_of_a_large_value_refuses_it_and_changes_nothing() {
    let Some(mut disk) = Disk::new(1, 0) else { return };
    let large = vec![b'l'; 700_000];
    let old = disk.put("large", &large);
    disk.fail(WRITE, BLOBS, EIO);
    let detail = disk.ask("PUT", "large", "", &vec![b'n'; 400_000]).expect_error(500);
    assert!(detail.contains("see the server log"), "{detail}");
    let log = disk.shim.log();
    assert!(log.contains("could not write a blob file"), "the log says why: {log}");
    disk.unchanged("large", &large, old);
    disk.put("small", b"needs no file");
    disk.shim.off(0);
    disk.leaves(1);
    let new = disk.put("large", &large[1..]);
    disk.heal();
    disk.unchanged("large", &large[1..], new);
}

/// Loads a server until this fails, which must stop it; then everything acknowledged is there.
fn fatal(what: &str, rule: Rule, sizes: Sizes, why: &str) {
    let seed = seed(what);
    let Some(mut disk) = Disk::new(seed, 8) else { return };
    for round in 0..2 {
        let first = 1 + disk.ground.random.below(rule.first);
        disk.shim.set(0, Rule { first, ..rule });
        let mut status = None;
        disk.ground.load(sizes, false, |server| status = server.wait_for_exit(SOON));
        assert!(status.is_some(), "{what}: it goes on after {} hits", disk.shim.hits(0));
        disk.stopped(why);
        disk.heal();
        disk.ground.check(&format!("{what}, round {round} of STEADFAST_SEED={seed}"));
        let Disk { shim, ground } = &mut disk;
        ground.restart(|data| shim.server(data));
    }
    println!("{what}: {} writes acknowledged", disk.ground.acknowledged());
}

/// For every hit from one of the first `among` on.
fn failing(calls: u32, path: &'static str, among: u64) -> Rule {
    Rule { first: among, ..Rule::every(calls, path, Action::Fail(EIO)) }
}

#[test]
fn a_failed_sync_of_the_log_stops_the_server_and_acknowledges_nothing() {
    let why = "could not make a commit durable";
    fatal("failing sync of the log", failing(SYNC, LOG, 100), Sizes::Mixed, why);
}

#[test]
fn a_failed_write_to_the_log_stops_the_server_and_acknowledges_nothing() {
    let why = "could not make a commit durable";
    fatal("failing write to the log", failing(WRITE, LOG, 300), Sizes::Mixed, why);
}

#[test]
fn a_failed_sync_of_a_large_value_stops_the_server_and_acknowledges_nothing() {
    fatal("failing sync of a file", failing(SYNC, BLOBS, 30), Sizes::Files, "could not sync");
}

#[test]
fn a_failed_fold_of_the_log_stops_the_server_and_loses_nothing() {
    let why = "could not";
    fatal("failing sync of the fold", failing(SYNC, FOLD, 3), Sizes::Log, why);
    fatal("failing write of the fold", failing(WRITE, FOLD, 300), Sizes::Log, why);
    fatal("failing sync of the database", failing(SYNC, DATABASE, 3), Sizes::Log, why);
    fatal("failing write to the database", failing(WRITE, DATABASE, 300), Sizes::Log, why);
}

#[test]
fn a_put_that_meets_a_failed_sync_is_never_answered_with_success() {
    let Some(mut disk) = Disk::new(1, 0) else { return };
    let old = disk.put("k", OLD);
    disk.fail(SYNC, LOG, EIO);
    let put = format!("PUT {}", disk.ground.path("k"));
    if let Ok(answer) = disk.ground.server.connect().request(&put, &[], b"new") {
        assert!(answer.status >= 500, "{answer:?}");
    }
    disk.stopped("could not make a commit durable");
    disk.heal();
    let there = disk.ask("GET", "k", "", b"");
    assert!(there.body == OLD || there.body == b"new", "whole or absent");
    assert!(there.generation() >= old);
}

#[test]
fn writes_that_end_short_are_ended() {
    let seed = seed("short writes");
    let Some(mut disk) = Disk::new(seed, 6) else { return };
    for (slot, path) in [LOG, BLOBS, FOLD].into_iter().enumerate() {
        disk.shim.set(slot, Rule::every(WRITE, path, Action::Short));
    }
    disk.ground.load(Sizes::Mixed, false, |_| std::thread::sleep(Duration::from_secs(2)));
    disk.ground.load(Sizes::Log, false, |_| std::thread::sleep(Duration::from_secs(1)));
    assert!(disk.shim.hits(0) > 0 && disk.shim.hits(1) > 0 && disk.shim.hits(2) > 0);
    disk.ground.check(&format!("short writes, STEADFAST_SEED={seed}"));
    disk.heal();
    disk.ground.check(&format!("short writes, restarted, STEADFAST_SEED={seed}"));
    println!("short writes: {} writes acknowledged", disk.ground.acknowledged());
}

#[test]
fn a_slow_disk_is_shared_by_all_who_wait_for_it() {
    let seed = seed("a slow disk");
    let Some(mut disk) = Disk::new(seed, 16) else { return };
    disk.shim.set(0, Rule::every(SYNC, LOG, Action::Delay(50)));
    disk.ground.load(Sizes::Small, false, |_| std::thread::sleep(Duration::from_secs(3)));
    let (syncs, acknowledged) = (disk.shim.hits(0), disk.ground.acknowledged());
    println!("a slow disk: {acknowledged} writes acknowledged in {syncs} syncs of 50 ms");
    assert!(syncs > 0 && acknowledged > 3 * syncs, "a sync serves all that wait");
    disk.ground.check(&format!("a slow disk, STEADFAST_SEED={seed}"));
    disk.shim.off(0);
    disk.heal();
    disk.ground.check(&format!("a slow disk, restarted, STEADFAST_SEED={seed}"));
}
