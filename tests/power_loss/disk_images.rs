//! Tests with disk images that are derived from a system call trace. Each test starts a server on
//! each image and checks the store.

use crate::disk_model::{DiskModel, ImageMode};
use crate::harness::checker::{self, Kind, Violation};
use crate::harness::fault_shim::{Action, FaultShim, Rule, SQLITE_WAL, SYNC};
use crate::harness::journal::{self, Expected, Journal};
use crate::harness::random::{Random, env_number, now_micros, run_seed};
use crate::harness::workload::{self, ValueSizes, Workload};
use crate::support::Server;
use crate::syscall_trace::{SyscallTracer, TraceRecord};
use rusqlite::Connection;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// Number of images per trace.
const IMAGES: u64 = 50;
const WRITERS: u32 = 4;

/// The trace of several server runs, and the journals of the clients.
struct TracedRun {
    records: Vec<TraceRecord>,
    journals: Vec<Journal>,
    store: String,
    /// The time at which the store was created, in microseconds.
    store_created: u64,
}

/// Traces three runs of a server under load on the same data. The first and the last run end with a
/// kill, the second one with a graceful shutdown. Returns `None` if tracing is not possible.
fn trace_run(sizes: ValueSizes, random: &mut Random) -> Option<TracedRun> {
    let tracer = SyscallTracer::build()?;
    let mut journals: Vec<_> = (0..WRITERS).map(Journal::new).collect();
    let (mut store, mut store_created) = (String::new(), 0);
    for start in 0..3 {
        let mut server = tracer.server();
        if start == 0 {
            store = server.create_store("s");
            store_created = now_micros();
        }
        let workload = workload(server.port, &store, sizes);
        // Garbage collection starts only after several segments are full.
        let collects = if sizes == ValueSizes::Garbage { 600 } else { 0 };
        let pause = Duration::from_millis(50 + collects + random.below(400));
        workload::run(&workload, &mut journals, random, || {
            std::thread::sleep(pause);
            if start == 1 {
                server.terminate();
                assert!(server.wait_for_exit(Duration::from_secs(30)).unwrap().success());
            } else {
                server.kill();
            }
        });
    }
    Some(TracedRun { records: tracer.records(), journals, store, store_created })
}

fn workload(port: u16, store: &str, sizes: ValueSizes) -> Workload {
    let (store, keys) = (store.to_owned(), sizes.keys());
    Workload { port, store, sizes, keys, errors_allowed: false }
}

impl TracedRun {
    /// Returns the valid states after a power cut just before the record `cut` of the trace.
    fn expected(&self, cut: usize) -> Expected {
        let at = self.records.get(cut).map_or(u64::MAX, |record| record.time - 1);
        journal::expected_at(&self.journals, at)
    }

    /// Returns a listing of the calls before a power cut, for diagnosis.
    fn describe_calls(&self, cut: usize) -> String {
        let mut text = String::new();
        for (number, record) in self.records.iter().take(cut).enumerate() {
            let TraceRecord { kind, thread, time, at, path, bytes } = record;
            let len = bytes.len();
            writeln!(text, "{number} {time} {thread} {kind:?} {path} at {at}, {len} bytes")
                .unwrap();
        }
        text
    }

    /// Chooses `count` random points for power cuts, in ascending order.
    fn cut_points(&self, count: u64, random: &mut Random) -> Vec<usize> {
        let first = self.records.partition_point(|record| record.time <= self.store_created);
        let records = (self.records.len() - first) as u64;
        let mut cuts: Vec<_> =
            (0..count).map(|_| first + 1 + random.below(records) as usize).collect();
        cuts.sort_unstable();
        cuts
    }
}

/// Starts a server on a data directory and checks the store.
///
/// # Errors
/// Returns a description if the server does not start or the store contradicts `expected`.
pub(crate) fn check_store(data: &Path, store: &str, expected: &Expected) -> Result<(), String> {
    let violations = find_violations(data, store, expected)?;
    if violations.is_empty() { Ok(()) } else { Err(format!("{violations:#?}")) }
}

/// Starts a server on a data directory and returns the ways in which the store contradicts
/// `expected`.
///
/// # Errors
/// Returns a description if the server does not start or has lost the store.
fn find_violations(
    data: &Path,
    store: &str,
    expected: &Expected,
) -> Result<Vec<Violation>, String> {
    // `Server::start` panics if the server does not start.
    let start = || Server::start(data, &["--wal-bytes", "1048576"]);
    let server = catch_unwind(AssertUnwindSafe(start))
        .map_err(|_| "the server does not start".to_owned())?;
    let status = server.get(&format!("/resources/stores/kv/{store}")).status;
    if status != 200 {
        return Err(format!("{:?}: a request for the store returned {status}", Kind::LostWrite));
    }
    let observe = AssertUnwindSafe(|| checker::observe(server.port, store, expected));
    let observed = catch_unwind(observe).map_err(|_| "the server does not respond".to_owned())?;
    Ok(checker::compare(expected, &observed).violations)
}

/// Checks `1 / share` of the requested number of images. Keeps the first image that fails.
fn check_images(test: &str, sizes: &[ValueSizes], share: u64) {
    let seed = run_seed(test);
    let mut random = Random(seed);
    let wanted = (env_number("STEADFAST_POWER_LOSS_IMAGES").unwrap_or(100) / share).max(1);
    let (mut done, mut with_unsynced_data, mut traces) = (0, 0_u64, 0);
    while done < wanted {
        let sizes = sizes[traces % sizes.len()];
        traces += 1;
        let Some(run) = trace_run(sizes, &mut random) else { return };
        let mut disk = DiskModel::default();
        for cut in run.cut_points(IMAGES.min(wanted - done), &mut random) {
            run.records[disk.applied..cut].iter().for_each(|record| disk.apply(record));
            let mode = ImageMode::ALL[random.below(ImageMode::ALL.len() as u64) as usize];
            with_unsynced_data += u64::from(disk.has_unsynced_data());
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            let description = disk.image(mode, &mut random, &data);
            let expected = run.expected(cut);
            let starts = if random.one_in(8) { 2 } else { 1 };
            for start in 0..starts {
                if let Err(violation) = check_store(&data, &run.store, &expected) {
                    let kept = dir.keep();
                    std::fs::write(kept.join("trace.txt"), run.describe_calls(cut)).unwrap();
                    let record = &run.records[cut.min(run.records.len() - 1)];
                    panic!(
                        "cut {cut} of {}, before {:?} of {}, start {start}, {description}, kept in \
                         {}, STEADFAST_SEED={seed}: {violation}",
                        run.records.len(),
                        record.kind,
                        record.path,
                        kept.display()
                    );
                }
            }
            done += 1;
        }
    }
    println!("{test}: {done} images of {traces} traces, {with_unsynced_data} with unsynced data");
    assert!(with_unsynced_data > 0, "there was no image with unsynced data");
}

#[test]
fn acknowledged_writes_survive_torn_pages() {
    check_images("torn pages, inline values", &[ValueSizes::Small, ValueSizes::FillsWal], 2);
}

#[test]
fn acknowledged_writes_survive_torn_pages_while_garbage_is_collected() {
    check_images("torn pages, garbage collection", &[ValueSizes::Garbage], 4);
}

#[test]
fn acknowledged_writes_survive_torn_missing_and_orphaned_blob_files() {
    check_images("torn blob files", &[ValueSizes::BlobFiles, ValueSizes::Mixed], 2);
}

#[test]
fn the_first_write_to_a_new_data_directory_survives_a_power_cut() {
    let Some(tracer) = SyscallTracer::build() else { return };
    let server = tracer.server();
    let store = server.create_store("s");
    let path = format!("/resources/stores/kv/{store}/keys/k");
    for bytes in [3, 300_000, 1_300_000] {
        let value = vec![b'v'; bytes];
        assert_eq!(server.request(&format!("PUT {path}{bytes}"), &[], &value).status, 200);
    }
    let mut disk = DiskModel::default();
    tracer.records().iter().for_each(|record| disk.apply(record));
    let dir = tempfile::tempdir().unwrap();
    disk.image(ImageMode::DropUnsynced, &mut Random(1), dir.path());
    let restarted = Server::start(dir.path(), &[]);
    for bytes in [3, 300_000, 1_300_000] {
        let reply = restarted.get(&format!("{path}{bytes}"));
        assert_eq!((reply.status, reply.body.len()), (200, bytes));
    }
}

/// Kills a server before the `nth` fsync of a path, starts another server on the unsynced files,
/// and checks images of power cuts during the second run.
fn recovery_fsyncs(path: &'static str, nth: u64) {
    let (Some(tracer), Some(shim)) = (SyscallTracer::build(), FaultShim::build()) else { return };
    let mut random = Random(run_seed(path));
    let mut journals: Vec<_> = (0..WRITERS).map(Journal::new).collect();
    let (mut store, mut second_run) = (String::new(), 0);
    for start in 0..2 {
        let mut server = tracer.server_with_faults(&shim);
        let rule = Rule::every(SYNC, path, Action::KillBefore);
        if start == 0 {
            store = server.create_store("s");
            shim.set(0, Rule { first: nth, ..rule });
        } else {
            second_run = tracer.records().len();
        }
        let workload = workload(server.port, &store, ValueSizes::FillsWal);
        workload::run(&workload, &mut journals, &mut random, || {
            if start == 0 {
                assert!(
                    server.wait_for_exit(Duration::from_secs(60)).is_some(),
                    "the server was not killed"
                );
                // Delay later fsyncs, so that they cannot hide a missing fsync during recovery.
                shim.set(0, Rule { action: Action::Delay(1000), ..rule });
            } else {
                std::thread::sleep(Duration::from_millis(300));
                server.kill();
            }
        });
    }
    let run = TracedRun { records: tracer.records(), journals, store, store_created: 0 };
    let (mut disk, after) = (DiskModel::default(), run.records.len() - second_run);
    for cut in (0..20).map(|part| second_run + part * after / 20) {
        run.records[disk.applied..cut].iter().for_each(|record| disk.apply(record));
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        disk.image(ImageMode::DropUnsynced, &mut random, &data);
        let result = check_store(&data, &run.store, &run.expected(cut));
        assert!(result.is_ok(), "cut at {cut}, second run from {second_run}: {result:?}");
    }
}

#[test]
fn recovery_fsyncs_an_unsynced_checkpoint_position_before_it_recycles_the_wal() {
    // Only the last transaction of a checkpoint is fsynced.
    recovery_fsyncs(SQLITE_WAL, 1);
}

#[test]
fn recovery_fsyncs_the_wal_directory_before_it_depends_on_a_segment() {
    recovery_fsyncs("/log$", 3);
}

/// Asserts that the checker reports images of a disk that ignores the given fsyncs.
fn assert_detects_missing_fsyncs(ignored_syncs: &'static str, sizes: ValueSizes) {
    let mut random = Random(run_seed(ignored_syncs));
    let Some(run) = trace_run(sizes, &mut random) else { return };
    let mut disk = DiskModel::ignoring_syncs(ignored_syncs);
    for cut in run.cut_points(IMAGES, &mut random) {
        run.records[disk.applied..cut].iter().for_each(|record| disk.apply(record));
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        disk.image(ImageMode::DropUnsynced, &mut random, &data);
        if let Err(violation) = check_store(&data, &run.store, &run.expected(cut)) {
            let kinds = [Kind::LostWrite, Kind::Unreadable, Kind::WrongAppends, Kind::WrongCount];
            let lost = kinds.iter().any(|kind| violation.contains(&format!("{kind:?}")));
            assert!(violation.contains("does not start") || lost, "{violation}");
            return;
        }
    }
    panic!("a server that does not fsync {ignored_syncs} passed the check");
}

#[test]
fn a_missing_wal_fsync_is_reported() {
    assert_detects_missing_fsyncs("log/", ValueSizes::Small);
}

/// Returns the segment files with bodies of records in the database whose commits recovery does not
/// replay.
fn sealed_files(data: &Path) -> Vec<String> {
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    let sql = "SELECT file FROM segments, meta WHERE seq < log_start AND live > 0 ORDER BY live";
    let mut select = conn.prepare(sql).unwrap();
    let files = select.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    files.map(|file| format!("log/slot-{:04}", file.unwrap())).collect()
}

/// Returns the keys among the rows of the database.
fn keys_in_database(data: &Path) -> Vec<Vec<u8>> {
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    let mut select = conn.prepare("SELECT key FROM heads").unwrap();
    let keys = select.query_map([], |row| row.get(0)).unwrap();
    keys.map(Result::unwrap).collect()
}

#[test]
fn a_location_stored_before_its_value_is_durable_is_reported() {
    let mut random = Random(run_seed("stored locations"));
    let Some(run) = trace_run(ValueSizes::FillsWal, &mut random) else { return };
    // The latest cuts come first, because only they follow a checkpoint.
    for cut in run.cut_points(IMAGES / 2, &mut random).into_iter().rev() {
        let image = |mut disk: DiskModel, random: &mut Random| {
            run.records[..cut].iter().for_each(|record| disk.apply(record));
            let dir = tempfile::tempdir().unwrap();
            disk.image(ImageMode::DropUnsynced, random, &dir.path().join("data"));
            dir
        };
        let intact = image(DiskModel::default(), &mut random);
        let Some(file) = sealed_files(&intact.path().join("data")).pop() else { continue };
        // This file is never fsynced, but the database is: it refers to bodies that do not exist.
        let dir = image(DiskModel::ignoring_syncs(&file), &mut random);
        let data = dir.path().join("data");
        let keys = keys_in_database(&data);
        let found = find_violations(&data, &run.store, &run.expected(cut)).unwrap();
        for Violation { key, kind, .. } in &found {
            // The lists contain a shared key that is unreadable.
            assert!(matches!(kind, Kind::Unreadable | Kind::ListMismatch), "{found:#?}");
            assert!(keys.iter().any(|in_db| in_db.ends_with(key.as_bytes())), "{found:#?}");
        }
        if found.iter().any(|violation| violation.kind == Kind::Unreadable) {
            return;
        }
    }
    panic!("no location without a durable value was reported");
}

#[test]
fn a_missing_database_fsync_is_reported() {
    assert_detects_missing_fsyncs("steadfast.db", ValueSizes::FillsWal);
}

#[test]
fn a_missing_blob_file_fsync_is_reported() {
    assert_detects_missing_fsyncs("blobs/", ValueSizes::BlobFiles);
}
