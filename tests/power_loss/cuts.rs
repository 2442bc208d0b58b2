//! Power cuts through a real file system: its device is copied while the server works on it, and
//! the copy is mounted anew.
//!
//! The server stands still (SIGSTOP) while the copy is made: so the journal knows to the operation
//! what was acknowledged by then, and the copy is of one moment. A sync that is under way in the
//! kernel is ended first, and what was not synced is mostly not on the device.

use crate::images::faults;
use crate::journal::{Expected, Journal};
use crate::load::{self, Load, Sizes};
use crate::random::{Random, now, number, seed};
use crate::shim::{Action, LOG, Rule, SYNC, Shim};
use crate::support::Server;
use crate::volume::Volume;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Cuts under one load.
const CUTS: u64 = 5;

/// Copies of a device, each with the time by which its answers had left, and the journals.
struct Scene {
    copies: Vec<(PathBuf, u64)>,
    journals: Vec<Journal>,
    store: String,
}

/// Loads a server on a volume and copies its device at random moments. The error says what is not
/// allowed here.
fn scene(
    dir: &Path,
    cuts: u64,
    random: &mut Random,
    start: impl FnOnce(&Path) -> Server,
) -> Result<Scene, String> {
    let volume = Volume::make(dir)?;
    let mut server = start(&volume.data());
    let store = server.create_store("s");
    let mut journals: Vec<_> = (0..4).map(Journal::new).collect();
    let sizes = if random.one_in(3) { Sizes::Files } else { Sizes::Small };
    let load = Load { port: server.port, store: store.clone(), sizes, keys: 6, faults: false };
    let pauses: Vec<_> = (0..cuts).map(|_| 20 + random.below(300)).collect();
    let mut copies = Vec::new();
    load::run(&load, &mut journals, random, || {
        for (number, pause) in pauses.into_iter().enumerate() {
            std::thread::sleep(Duration::from_millis(pause));
            stop(&server);
            let (to, at) = (dir.join(format!("cut-{number}")), now());
            volume.copy(&to);
            copies.push((to, at));
            signal(&server, "-CONT");
        }
        server.kill();
    });
    Ok(Scene { copies, journals, store })
}

/// Stops a server, and waits until the last of its threads stands still: on a busy machine they go
/// on for some milliseconds after the signal.
fn stop(server: &Server) {
    signal(server, "-STOP");
    let stopped = |thread: &Path| {
        let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    };
    let threads = PathBuf::from(format!("/proc/{}/task", server.pid()));
    let end = Instant::now() + Duration::from_secs(60);
    while !fs::read_dir(&threads).unwrap().all(|thread| stopped(&thread.unwrap().path())) {
        assert!(Instant::now() < end, "the server does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(server: &Server, name: &str) {
    let pid = server.pid().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

impl Scene {
    /// What is wrong with a server on each copy.
    fn judge(&self, dir: &Path) -> Vec<Result<(), String>> {
        let judge = |(copy, at): &(PathBuf, u64)| {
            let mut expected = Expected::default();
            self.journals.iter().for_each(|journal| expected.join(journal.until(*at)));
            let volume = Volume::mount(copy.clone(), dir.join("again")).unwrap();
            faults(&volume.data(), &self.store, &expected)
        };
        self.copies.iter().map(judge).collect()
    }
}

#[test]
fn no_acknowledged_write_is_lost_when_the_power_goes_under_load() {
    let seed = seed("power cuts");
    let mut random = Random(seed);
    let many = number("STEADFAST_POWER_CUTS").unwrap_or(10);
    let (mut done, mut acknowledged) = (0, 0);
    while done < many {
        let dir = tempfile::tempdir().unwrap();
        let cuts = CUTS.min(many - done);
        let made = scene(dir.path(), cuts, &mut random, |data| {
            Server::start(data, &["--wal-bytes", "1048576"])
        });
        let scene = match made {
            Ok(scene) => scene,
            Err(why) => return println!("skipped: no volume can be made here ({why})"),
        };
        acknowledged += scene.journals.iter().map(|journal| journal.acknowledged).sum::<u64>();
        for (number, judged) in scene.judge(dir.path()).into_iter().enumerate() {
            if let Err(wrong) = judged {
                let kept = dir.keep();
                panic!("{}/cut-{number} of STEADFAST_SEED={seed}: {wrong}", kept.display());
            }
            done += 1;
        }
    }
    println!("{done} cuts, {acknowledged} writes acknowledged");
    assert!(acknowledged > done, "the load was real");
}

#[test]
fn a_server_that_leaves_its_syncs_out_is_reported() {
    let Some(shim) = Shim::build() else { return };
    shim.set(0, Rule::every(SYNC, LOG, Action::Skip));
    let mut random = Random(seed("syncs left out"));
    let dir = tempfile::tempdir().unwrap();
    match scene(dir.path(), CUTS, &mut random, |data| shim.server(data)) {
        Err(why) => println!("skipped: no volume can be made here ({why})"),
        Ok(scene) => {
            let wrong: Vec<_> =
                scene.judge(dir.path()).into_iter().filter_map(Result::err).collect();
            assert!(shim.hits(0) > 0, "the shim met the syncs");
            assert!(!wrong.is_empty(), "a server that does not sync its log passes");
        }
    }
}
