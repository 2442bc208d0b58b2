//! Churn for as long as wished: items are overwritten, expire and are deleted while others read,
//! and memory, disk, open files and latency are looked at twenty times. They must end where they
//! were when the load had settled. `STEADFAST_SOAK_SECONDS` says for how long (15);
//! `STEADFAST_SEED` repeats a run's choices.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic, print, and ask the clock and the environment"
)]

mod churn;
mod flat;
#[allow(dead_code, reason = "shared with the torture tests")]
#[path = "../crash/random.rs"]
mod random;
#[path = "../support/mod.rs"]
mod support;

use churn::{Churn, Times};
use flat::{Row, Series};
use random::{number, seed};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::DiskServer;

const LOOKS: u32 = 20;

#[test]
fn memory_disk_files_and_latency_stay_flat_under_churn() {
    let seconds = number("STEADFAST_SOAK_SECONDS").unwrap_or(15);
    let seed = seed("soak");
    let home = DiskServer::new(&[]);
    let store = home.server.create_store("soak");
    let churn = Churn::start(home.server.port, &store, seed);
    let mut series = Series::default();
    println!("{}", Row::HEADING);
    let (start, mut past) = (Instant::now(), Times::default());
    for look in 1..=LOOKS {
        let until = Duration::from_secs(seconds) / LOOKS * look;
        std::thread::sleep(until.saturating_sub(start.elapsed()));
        let row = look_at(&home, start.elapsed(), &churn, &mut past);
        println!("{row}");
        series.push(row);
    }
    let operations = churn.stop();
    println!("{operations} operations in {:?}", start.elapsed());
    assert!(operations > seconds * 100, "the load was real");
    if let Err(grew) = series.flat() {
        panic!("{grew}, STEADFAST_SEED={seed}");
    }
    assert_eq!(home.server.request("GET /readyz", &[], b"").status, 200);
}

/// One look at the server from outside.
fn look_at(home: &DiskServer, at: Duration, churn: &Churn, past: &mut Times) -> Row {
    let pid = home.server.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let now = churn.times();
    let span = now.since(past);
    *past = now;
    Row { at, memory: kib * 1024, disk: disk(&home.data()), files, span }
}

/// Bytes on disk below a folder.
fn disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0, // a file that is gone by now
    };
    entries.filter_map(Result::ok).map(size).sum()
}
