//! Torn images: what a power cut may leave of a traced server's files, and the server on each.

use crate::check::{self, Fault, Kind};
use crate::disk::{Disk, MODES, Mode};
use crate::journal::{Expected, Journal};
use crate::load::{self, Load, Sizes};
use crate::random::{Random, now, number, seed};
use crate::shim::{Action, FOLD, Rule, SYNC, Shim};
use crate::support::Server;
use crate::trace::{Record, Recorder};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// Images of one trace.
const IMAGES: u64 = 50;
const WRITERS: u32 = 4;
const KEYS: u64 = 6;

/// What servers did and what their clients were told.
struct Scene {
    records: Vec<Record>,
    journals: Vec<Journal>,
    store: String,
    /// When the store was there, in microseconds.
    began: u64,
}

/// Three lives of a server under load: one is killed, one stopped in order, one killed again.
/// `None`, said aloud, where it cannot be traced.
fn scene(sizes: Sizes, random: &mut Random) -> Option<Scene> {
    let recorder = Recorder::build()?;
    let mut journals: Vec<_> = (0..WRITERS).map(Journal::new).collect();
    let (mut store, mut began) = (String::new(), 0);
    for life in 0..3 {
        let mut server = recorder.server();
        if life == 0 {
            store = server.create_store("s");
            began = now();
        }
        let load =
            Load { port: server.port, store: store.clone(), sizes, keys: KEYS, faults: false };
        let pause = Duration::from_millis(50 + random.below(400));
        load::run(&load, &mut journals, random, || {
            std::thread::sleep(pause);
            if life == 1 {
                server.terminate();
                assert!(server.wait_for_exit(Duration::from_secs(30)).unwrap().success());
            } else {
                server.kill();
            }
        });
    }
    Some(Scene { records: recorder.records(), journals, store, began })
}

impl Scene {
    /// What must and may be there when the power goes before a record.
    fn expected(&self, cut: usize) -> Expected {
        let at = self.records.get(cut).map_or(u64::MAX, |record| record.time - 1);
        let mut all = Expected::default();
        self.journals.iter().for_each(|journal| all.join(journal.until(at)));
        all
    }

    /// The calls up to a cut, for the person who looks for the cause.
    fn told(&self, cut: usize) -> String {
        let mut text = String::new();
        for (number, record) in self.records.iter().take(cut).enumerate() {
            let Record { kind, thread, time, at, path, bytes } = record;
            let len = bytes.len();
            writeln!(text, "{number} {time} {thread} {kind:?} {path} at {at}, {len} bytes")
                .unwrap();
        }
        text
    }

    /// So many moments, in their order.
    fn cuts(&self, many: u64, random: &mut Random) -> Vec<usize> {
        let first = self.records.partition_point(|record| record.time <= self.began);
        let among = (self.records.len() - first) as u64;
        let mut cuts: Vec<_> =
            (0..many).map(|_| first + 1 + random.below(among) as usize).collect();
        cuts.sort_unstable();
        cuts
    }
}

/// What is wrong with a server on a data directory, that it does not start included.
pub(crate) fn faults(data: &Path, store: &str, expected: &Expected) -> Result<(), String> {
    // A server that does not start panics in the helper.
    let start = || Server::start(data, &["--wal-bytes", "1048576"]);
    let server = catch_unwind(AssertUnwindSafe(start)).map_err(|_| "it does not start".to_owned());
    let server = server?;
    let there = server.request(&format!("GET /resources/stores/kv/{store}"), &[], b"").status;
    if there != 200 {
        return Err(format!("{:?}: the store answers {there}", Kind::Lost));
    }
    let looked = AssertUnwindSafe(|| check::observe(server.port, store, expected));
    let observed = catch_unwind(looked).map_err(|_| "it does not answer".to_owned())?;
    let faults: Vec<Fault> = check::compare(expected, &observed).faults;
    if faults.is_empty() { Ok(()) } else { Err(format!("{faults:#?}")) }
}

/// Checks images of traces; where one is wrong, it is kept and the test fails.
fn torn(what: &str, sizes: &[Sizes], share: u64) {
    let seed = seed(what);
    let mut random = Random(seed);
    let many = (number("STEADFAST_POWER_IMAGES").unwrap_or(100) / share).max(1);
    let (mut done, mut unsettled, mut round) = (0, 0_u64, 0);
    while done < many {
        let sizes = sizes[round % sizes.len()];
        round += 1;
        let Some(scene) = scene(sizes, &mut random) else { return };
        let mut disk = Disk::default();
        for cut in scene.cuts(IMAGES.min(many - done), &mut random) {
            scene.records[disk.followed..cut].iter().for_each(|record| disk.follow(record));
            let mode = MODES[random.below(MODES.len() as u64) as usize];
            unsettled += u64::from(disk.unsettled());
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            let said = disk.image(mode, &mut random, &data);
            let expected = scene.expected(cut);
            let lives = if random.one_in(8) { 2 } else { 1 };
            for life in 0..lives {
                if let Err(wrong) = faults(&data, &scene.store, &expected) {
                    let kept = dir.keep();
                    std::fs::write(kept.join("trace.txt"), scene.told(cut)).unwrap();
                    let record = &scene.records[cut.min(scene.records.len() - 1)];
                    let next = format!("{:?} of {}", record.kind, record.path);
                    panic!(
                        "cut {cut} of {}, before {next}, start {life}, {said}, {} of \
                         STEADFAST_SEED={seed}: {wrong}",
                        scene.records.len(),
                        kept.display()
                    );
                }
            }
            done += 1;
        }
    }
    println!("{what}: {done} images of {round} traces, {unsettled} with something not synced");
    assert!(unsettled > 0, "the cuts were real");
}

#[test]
fn no_acknowledged_write_is_lost_when_pages_that_were_not_synced_are_torn() {
    torn("torn images, small values", &[Sizes::Small, Sizes::Log], 2);
}

#[test]
fn no_acknowledged_write_is_lost_when_blob_files_are_torn_missing_or_left_over() {
    torn("torn images, blob files", &[Sizes::Files, Sizes::Mixed], 2);
}

#[test]
fn the_first_write_to_a_new_data_directory_survives_a_power_cut() {
    let Some(recorder) = Recorder::build() else { return };
    let server = recorder.server();
    let store = server.create_store("s");
    let path = format!("/resources/stores/kv/{store}/keys/k");
    for bytes in [3, 300_000] {
        let value = vec![b'v'; bytes];
        assert_eq!(server.request(&format!("PUT {path}{bytes}"), &[], &value).status, 200);
    }
    let mut disk = Disk::default();
    recorder.records().iter().for_each(|record| disk.follow(record));
    let dir = tempfile::tempdir().unwrap();
    disk.image(Mode::Lost, &mut Random(1), dir.path());
    let again = Server::start(dir.path(), &[]);
    for bytes in [3, 300_000] {
        let answer = again.request(&format!("GET {path}{bytes}"), &[], b"");
        assert_eq!((answer.status, answer.body.len()), (200, bytes));
    }
}

/// Kills a server before such a sync of such a path, and cuts the power to the one after it.
fn relies_on_nothing_unsynced(path: &'static str, nth: u64) {
    let (Some(recorder), Some(shim)) = (Recorder::build(), Shim::build()) else { return };
    let mut random = Random(seed(path));
    let mut journals: Vec<_> = (0..WRITERS).map(Journal::new).collect();
    let (mut store, mut second) = (String::new(), 0);
    for life in 0..2 {
        let mut server = recorder.server_under(&shim);
        let port = server.port;
        let rule = Rule::every(SYNC, path, Action::KillBefore);
        if life == 0 {
            store = server.create_store("s");
            shim.set(0, Rule { first: nth, ..rule });
        } else {
            second = recorder.records().len();
        }
        let load =
            Load { port, store: store.clone(), sizes: Sizes::Log, keys: KEYS, faults: false };
        load::run(&load, &mut journals, &mut random, || {
            if life == 0 {
                assert!(
                    server.wait_for_exit(Duration::from_secs(60)).is_some(),
                    "it was never killed"
                );
                // Those that come later must not make up for it.
                shim.set(0, Rule { action: Action::Delay(1000), ..rule });
            } else {
                std::thread::sleep(Duration::from_millis(300));
                server.kill();
            }
        });
    }
    let scene = Scene { records: recorder.records(), journals, store, began: 0 };
    let (mut disk, after) = (Disk::default(), scene.records.len() - second);
    for cut in (0..20).map(|part| second + part * after / 20) {
        scene.records[disk.followed..cut].iter().for_each(|record| disk.follow(record));
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        disk.image(Mode::Lost, &mut random, &data);
        let judged = faults(&data, &scene.store, &scene.expected(cut));
        assert!(judged.is_ok(), "cut {cut}, the second life begins at {second}: {judged:?}");
    }
}

#[test]
fn the_log_is_not_given_up_for_a_mark_that_a_killed_server_never_synced() {
    // The fold's last step is the one that is synced.
    relies_on_nothing_unsynced(FOLD, 1);
}

#[test]
fn a_file_of_the_log_whose_name_a_killed_server_never_synced_is_not_relied_on() {
    relies_on_nothing_unsynced("/log$", 3);
}

/// Images of a disk whose syncs of some files do nothing, until one is reported.
fn reported(idle_syncs: &'static str, sizes: Sizes) {
    let mut random = Random(seed(idle_syncs));
    let Some(scene) = scene(sizes, &mut random) else { return };
    let mut disk = Disk::without(idle_syncs);
    for cut in scene.cuts(IMAGES, &mut random) {
        scene.records[disk.followed..cut].iter().for_each(|record| disk.follow(record));
        let dir = tempfile::tempdir().unwrap();
        disk.image(Mode::Lost, &mut random, &dir.path().join("data"));
        let expected = scene.expected(cut);
        if let Err(wrong) = faults(&dir.path().join("data"), &scene.store, &expected) {
            let start = wrong.contains("does not start");
            let kinds = [Kind::Lost, Kind::Unreadable, Kind::Appended, Kind::RecordCounts];
            let lost = kinds.iter().any(|kind| wrong.contains(&format!("{kind:?}")));
            assert!(start || lost, "{wrong}");
            return;
        }
    }
    panic!("a server that does not sync {idle_syncs} passes");
}

#[test]
fn a_log_that_is_not_synced_is_reported() {
    reported("log/", Sizes::Small);
}

#[test]
fn a_database_that_is_not_synced_is_reported() {
    reported("steadfast.db", Sizes::Log);
}

#[test]
fn blob_files_that_are_not_synced_are_reported() {
    reported("blobs/", Sizes::Files);
}
