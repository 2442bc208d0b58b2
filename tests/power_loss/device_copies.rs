//! Tests of power cuts on a real file system. Each test copies the block device under load and
//! mounts the copies.
//!
//! The server is suspended with SIGSTOP during a copy. The copy therefore shows one point in time,
//! and the journal contains exactly the writes that were acknowledged by then. An fsync in progress
//! completes before the server is suspended. Most other unsynced data is not yet on the device.

use crate::disk_images::check_store;
use crate::harness::fault_shim::{Action, FaultShim, Rule, SYNC, WAL};
use crate::harness::journal::{self, Journal};
use crate::harness::random::{Random, env_number, now_micros, run_seed};
use crate::harness::workload::{self, ValueSizes, Workload};
use crate::loop_device::LoopDevice;
use crate::support::Server;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Number of power cuts per run.
const CUTS: u64 = 5;

/// Copies of the device, each with its time in microseconds, and the journals of the clients.
struct DeviceCopies {
    copies: Vec<(PathBuf, u64)>,
    journals: Vec<Journal>,
    store: String,
}

/// Runs a workload on a loop device and copies the device at random moments.
///
/// # Errors
/// Returns the reason if no loop device can be created.
fn copy_device_under_load(
    dir: &Path,
    cuts: u64,
    random: &mut Random,
    start: impl FnOnce(&Path) -> Server,
) -> Result<DeviceCopies, String> {
    let device = LoopDevice::format(dir)?;
    let mut server = start(&device.data());
    let store = server.create_store("s");
    let mut journals: Vec<_> = (0..4).map(Journal::new).collect();
    let sizes = if random.one_in(3) { ValueSizes::BlobFiles } else { ValueSizes::Small };
    let port = server.port;
    let workload =
        Workload { port, store: store.clone(), sizes, keys: sizes.keys(), errors_allowed: false };
    let pauses: Vec<_> = (0..cuts).map(|_| 20 + random.below(300)).collect();
    let mut copies = Vec::new();
    workload::run(&workload, &mut journals, random, || {
        for (number, pause) in pauses.into_iter().enumerate() {
            std::thread::sleep(Duration::from_millis(pause));
            freeze(&server);
            let (to, at) = (dir.join(format!("cut-{number}")), now_micros());
            device.copy(&to);
            copies.push((to, at));
            signal(&server, "-CONT");
        }
        server.kill();
    });
    Ok(DeviceCopies { copies, journals, store })
}

/// Sends SIGSTOP to a server and waits until all its threads have stopped, which can take
/// milliseconds.
fn freeze(server: &Server) {
    signal(server, "-STOP");
    let stopped = |thread: &Path| {
        let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    };
    let threads = PathBuf::from(format!("/proc/{}/task", server.pid()));
    let end = Instant::now() + Duration::from_secs(60);
    while !fs::read_dir(&threads).unwrap().all(|thread| stopped(&thread.unwrap().path())) {
        assert!(Instant::now() < end, "the server was not suspended in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(server: &Server, name: &str) {
    let pid = server.pid().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

impl DeviceCopies {
    /// Mounts each copy, starts a server on it and checks the store.
    fn check(&self, dir: &Path) -> Vec<Result<(), String>> {
        let check = |(copy, at): &(PathBuf, u64)| {
            let expected = journal::expected_at(&self.journals, *at);
            let device = LoopDevice::mount(copy.clone(), dir.join("copy")).unwrap();
            check_store(&device.data(), &self.store, &expected)
        };
        self.copies.iter().map(check).collect()
    }
}

#[test]
fn acknowledged_writes_survive_power_loss_under_load() {
    let seed = run_seed("power loss");
    let mut random = Random(seed);
    let wanted = env_number("STEADFAST_POWER_LOSS_CUTS").unwrap_or(10);
    let (mut done, mut acknowledged) = (0, 0);
    while done < wanted {
        let dir = tempfile::tempdir().unwrap();
        let cuts = CUTS.min(wanted - done);
        let copies = copy_device_under_load(dir.path(), cuts, &mut random, |data| {
            Server::start(data, &["--wal-bytes", "1048576"])
        });
        let copies = match copies {
            Ok(copies) => copies,
            Err(why) => return println!("skipped: cannot create a loop device ({why})"),
        };
        acknowledged += copies.journals.iter().map(|journal| journal.acknowledged).sum::<u64>();
        for (number, result) in copies.check(dir.path()).into_iter().enumerate() {
            if let Err(violation) = result {
                let kept = dir.keep();
                panic!("{}/cut-{number}, STEADFAST_SEED={seed}: {violation}", kept.display());
            }
            done += 1;
        }
    }
    println!("{done} cuts, {acknowledged} writes acknowledged");
    assert!(acknowledged > done, "only {acknowledged} writes were acknowledged");
}

#[test]
fn a_server_that_skips_wal_fsyncs_is_reported() {
    let Some(shim) = FaultShim::build() else { return };
    shim.set(0, Rule::every(SYNC, WAL, Action::Skip));
    let mut random = Random(run_seed("skipped fsyncs"));
    let dir = tempfile::tempdir().unwrap();
    match copy_device_under_load(dir.path(), CUTS, &mut random, |data| shim.server(data)) {
        Err(why) => println!("skipped: cannot create a loop device ({why})"),
        Ok(copies) => {
            assert!(shim.hits(0) > 0, "the shim did not skip any fsync");
            let failed = copies.check(dir.path()).into_iter().filter(Result::is_err).count();
            assert!(failed > 0, "a server that does not fsync its WAL passed the check");
        }
    }
}
