//! Tests of recovery with abandoned, damaged or crafted WAL records, and of a write to a full disk.

use super::record::{EncodedRecord, HEADER_BYTES, NewBody, PAGE_BYTES, RecordBuilder, WalEntry};
use super::recovery::{RecoveryMode, recover};
use super::segment::SegmentPool;
use crate::engine::embedded::data_dir::DataDir;
use crate::engine::embedded::database::{self, BodyRef, CheckpointPosition, SegmentLocation};
use crate::engine::embedded::{Embedded, FatalErrorHandler, Options, verify};
use crate::engine::{Body, Commit, Engine, EngineError, Mutation, NewRecord, Outcome, Projection};
use bytes::Bytes;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SALT: u32 = 7;
/// Large enough that the body extends past the first page of its record.
const LARGE: usize = 3 * PAGE_BYTES;

/// A data directory without a database.
struct Log(tempfile::TempDir);

impl Log {
    fn new() -> Log {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        Log(dir)
    }

    fn file(&self, number: u64) -> File {
        let path = self.0.path().join(format!("log/slot-{number:04}"));
        File::options().create(true).truncate(false).read(true).write(true).open(path).unwrap()
    }

    /// Recovers the WAL. Returns the keys of its entries.
    fn recover(
        &self,
        position: CheckpointPosition,
        mode: RecoveryMode,
        in_db: &[(&str, SegmentLocation)],
    ) -> Result<Vec<String>, EngineError> {
        let data = Arc::new(DataDir::create(self.0.path()).unwrap());
        let (_, files) = SegmentPool::open(data, &[]).unwrap();
        let is_in_db = |entry: &WalEntry, body: BodyRef| {
            let is_same = |(key, location): &(&str, SegmentLocation)| {
                key.as_bytes() == entry.key && BodyRef::Segment(*location) == body
            };
            Ok(in_db.iter().any(is_same))
        };
        let mut keys = Vec::new();
        let visit =
            |entry: WalEntry, _: &_, _| keys.push(String::from_utf8(entry.key.to_vec()).unwrap());
        recover(files, position, mode, is_in_db, visit)?;
        Ok(keys)
    }
}

fn position(wal_end: u64) -> CheckpointPosition {
    CheckpointPosition { last_version: 0, first_segment: 1, salt: SALT, wal_end }
}

fn body(key: &str) -> Bytes {
    let mut body = key.repeat(LARGE);
    body.truncate(LARGE);
    Bytes::from(body)
}

/// Encodes a record with large bodies. Returns it with the locations of the bodies in a file with
/// only this record.
fn record(segment: u64, base: u64, keys: &[&str]) -> (Vec<u8>, Vec<SegmentLocation>) {
    let (mut builder, mut record) = (RecordBuilder::default(), EncodedRecord::default());
    for key in keys {
        let body = body(key);
        builder.push(key.as_bytes(), base + 1, Some((0, b"")), NewBody::Bytes(&body));
    }
    let header = builder.finish(SALT, (segment, base, base + 1), &mut record).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    record.write_to(file.as_file(), 0).unwrap();
    let bytes = fs::read(file.path()).unwrap();
    let mut at = header.bodies_offset();
    let locations = keys.iter().map(|key| {
        let body = body(key);
        let (len, checksum) = (body.len() as u32, database::body_checksum(base + 1, &body));
        let location = SegmentLocation { seq: segment, at, len, checksum };
        at += body.len() as u64;
        location
    });
    let locations = locations.collect();
    (bytes, locations)
}

fn damage(bytes: &mut [u8], location: SegmentLocation) {
    let at = usize::try_from(location.at).unwrap() + LARGE - PAGE_BYTES;
    bytes[at] ^= 1;
}

#[test]
fn an_abandoned_record_is_erased_before_a_torn_one_that_followed_it() {
    let log = Log::new();
    let (first, _) = record(1, 0, &["first"]);
    let (abandoned, _) = record(1, 1, &["abandoned"]);
    log.file(1).write_all_at(&[first, abandoned].concat(), 0).unwrap();
    let (mut torn, locations) = record(2, 1, &["torn"]);
    damage(&mut torn, locations[0]);
    log.file(2).write_all_at(&torn, 0).unwrap();
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::ReadWrite, RecoveryMode::ReadWrite] {
        assert_eq!(log.recover(position(2), mode, &[]).unwrap(), ["first"], "{mode:?}");
    }
}

#[test]
fn a_damaged_record_is_replayed_only_if_the_database_proves_that_it_was_fsynced() {
    for (wal_end, in_db, expected) in [
        (1, None, &[][..]),
        // The segment has commits, so its first record was fsynced.
        (2, None, &["damaged", "intact"][..]),
        // Records in the database refer to bodies in the record.
        (1, Some(0), &["damaged", "intact"][..]),
        (1, Some(1), &["damaged", "intact"][..]),
    ] {
        let log = Log::new();
        let (mut bytes, locations) = record(1, 0, &["damaged", "intact"]);
        damage(&mut bytes, locations[0]);
        log.file(1).write_all_at(&bytes, 0).unwrap();
        let in_db: Vec<_> =
            in_db.into_iter().map(|n| (["damaged", "intact"][n], locations[n])).collect();
        for mode in [RecoveryMode::ReadOnly, RecoveryMode::ReadWrite] {
            let keys = log.recover(position(wal_end), mode, &in_db).unwrap();
            assert_eq!(keys, expected, "end {wal_end}, {in_db:?}, {mode:?}");
        }
    }
}

#[test]
fn a_torn_record_is_discarded_although_the_database_refers_to_its_segment() {
    let log = Log::new();
    let (first, locations) = record(1, 0, &["first"]);
    let (mut torn, torn_locations) = record(1, 1, &["torn", "first"]);
    damage(&mut torn, torn_locations[0]);
    log.file(1).write_all_at(&[first, torn].concat(), 0).unwrap();
    let in_db = [("first", locations[0])];
    let keys = log.recover(position(2), RecoveryMode::ReadWrite, &in_db).unwrap();
    assert_eq!(keys, ["first"]);
}

/// Reading the entries after each of the headers would read 512 GiB.
#[test]
fn recovery_of_crafted_values_is_fast() {
    const FILE_BYTES: usize = 64 << 20;
    let log = Log::new();
    let (first, _) = record(1, 0, &["first"]);
    let mut page = record(1, 1, &["crafted"]).0[..PAGE_BYTES].to_vec();
    let mut crafted = Vec::with_capacity(FILE_BYTES);
    while crafted.len() < FILE_BYTES - first.len() {
        let rest = FILE_BYTES - first.len() - crafted.len();
        let entries_len = (rest - HEADER_BYTES) as u32;
        page[32..36].copy_from_slice(&entries_len.to_le_bytes());
        crafted.extend_from_slice(&page);
    }
    log.file(1).write_all_at(&[first, crafted].concat(), 0).unwrap();
    let start = Instant::now();
    let keys = log.recover(position(2), RecoveryMode::ReadOnly, &[]).unwrap();
    assert_eq!(keys, ["first"]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

fn open(dir: &Path) -> Embedded {
    let fatal = FatalErrorHandler::new(|reason| panic!("{reason}"));
    Embedded::open(Options { dir: dir.into(), cache_bytes: 0, wal_bytes: 1 << 30, fatal }).unwrap()
}

async fn commit(engine: &Embedded, values: &[(&str, Bytes)]) -> Result<Outcome, EngineError> {
    let mutations = values.iter().map(|(key, value)| {
        let body = Body::Bytes(value.clone());
        let record = Some(NewRecord { expires_at: 0, meta: Bytes::new(), body });
        Mutation { key: Bytes::copy_from_slice(key.as_bytes()), record }
    });
    engine.commit(Commit { mutations: mutations.collect(), ..Commit::default() }).await
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("log")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn a_damaged_record_that_a_lost_checkpoint_refers_to_costs_only_the_damaged_value() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let intact = Bytes::from_static(b"intact value");
    commit(&engine, &[("intact", intact.clone()), ("damaged", body("damaged"))]).await.unwrap();
    engine.close().await.unwrap();
    drop(engine);
    // A power failure may lose the transaction that stores the checkpoint position, but none of the
    // steps before it.
    let conn = rusqlite::Connection::open(database::path(dir.path())).unwrap();
    let lost = "UPDATE meta SET last_version = 0, log_start = 1, log_end = 1";
    conn.execute_batch(lost).unwrap();
    drop(conn);
    let damaged = body("damaged");
    let found = segment_files(dir.path()).into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(LARGE).position(|part| part == damaged)?;
        Some((path, at))
    });
    let (path, at) = found.unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"?", (at + LARGE - 1) as u64).unwrap();
    let report = verify(dir.path(), |_, _| {}).unwrap();
    let is_named = |problem: &String| problem.contains("record \"damaged\": ");
    assert!(report.problem_count > 0 && report.problems.iter().all(is_named), "{report:?}");
    for restart in 0..2 {
        let engine = open(dir.path());
        let read = engine.read(b"intact", Projection::Full).await.unwrap().unwrap();
        assert_eq!(read.body.read(0, intact.len()).await.unwrap(), intact, "restart {restart}");
        let read = engine.read(b"damaged", Projection::Full).await;
        assert!(matches!(read, Err(EngineError::Corrupt(_))), "restart {restart}");
        engine.close().await.unwrap();
    }
}

/// A small file system in memory. It is unmounted when this value is dropped.
struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    /// Returns `None` if the test is not permitted to mount anything.
    fn new(bytes: u64) -> Option<SmallFileSystem> {
        let at = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(at.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then_some(SmallFileSystem(at))
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_write_to_a_full_disk_leaves_no_larger_file() {
    const SEGMENT_BYTES: u64 = 8 << 20;
    let Some(mounted) = SmallFileSystem::new(6 * SEGMENT_BYTES) else {
        return println!("skipped: no permission to mount a file system");
    };
    let dir = mounted.0.path().join("data");
    let engine = open(&dir);
    let value = Bytes::from(vec![b'v'; 5 * SEGMENT_BYTES as usize]);
    for _ in 0..2 {
        let refused = commit(&engine, &[("large", value.clone())]).await;
        assert!(matches!(refused, Err(EngineError::Full(_))), "{refused:?}");
        for file in segment_files(&dir) {
            let len = fs::metadata(&file).unwrap().len();
            assert!(len <= SEGMENT_BYTES, "{} has {len} bytes", file.display());
        }
        commit(&engine, &[("small", Bytes::from_static(b"value"))]).await.unwrap();
    }
    engine.close().await.unwrap();
}
