//! Soak tests. Memory, disk usage, open files and latency must stay flat while items are
//! overwritten, expire and are deleted. Every route must survive abusive requests and kill -9.
//! `STEADFAST_SOAK_SECONDS` sets the duration of each test (default 15). `STEADFAST_SEED` sets the
//! random seed; runs with the same seed make the same random choices.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests print and read env")]

mod growth;
#[allow(dead_code, reason = "not every suite uses all of it")]
#[path = "../harness/random.rs"]
mod random;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod surface;
mod workload;

use growth::{Sample, Series};
use random::{env_number, run_seed};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::DiskServer;
use workload::{Latencies, Workload};

const SAMPLES: u32 = 20;

#[test]
fn memory_disk_files_and_latency_stay_flat_under_churn() {
    let seconds = env_number("STEADFAST_SOAK_SECONDS").unwrap_or(15);
    let seed = run_seed("soak");
    let disk = DiskServer::new(&[]);
    let store = disk.server.create_store("soak");
    let workload = Workload::start(disk.server.port, &store, seed);
    let mut series = Series::default();
    println!("{}", Sample::HEADING);
    let (start, mut earlier) = (Instant::now(), Latencies::default());
    for number in 1..=SAMPLES {
        let until = Duration::from_secs(seconds) / SAMPLES * number;
        std::thread::sleep(until.saturating_sub(start.elapsed()));
        let sample = sample_server(&disk, start.elapsed(), &workload, &mut earlier);
        println!("{sample}");
        series.push(sample);
    }
    let operations = workload.stop();
    println!("{operations} operations in {:?}", start.elapsed());
    assert!(operations > seconds * 100, "there were only {operations} operations");
    if let Err(grew) = series.check_flat() {
        panic!("{grew}, STEADFAST_SEED={seed}");
    }
    assert_eq!(disk.server.get("/readyz").status, 200);
}

/// Takes a sample of the server process.
fn sample_server(
    disk: &DiskServer,
    elapsed: Duration,
    workload: &Workload,
    earlier: &mut Latencies,
) -> Sample {
    let pid = disk.server.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let open_files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let now = workload.latencies();

    let (disk_bytes, latencies) = (disk_bytes(&disk.data()), now.since(earlier));
    *earlier = now;
    Sample { elapsed, memory_bytes: kib * 1024, disk_bytes, open_files, latencies }
}

/// Returns the disk usage of a directory tree in bytes.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0, // the file was removed while the directory was being read
    };
    entries.filter_map(Result::ok).map(size).sum()
}
