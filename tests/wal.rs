//! Tests of WAL recovery: every state that a crash can leave is recovered, and any other state is
//! reported as corruption. A crash image is a copy of the data directory of an open engine, in the
//! state that kill -9 leaves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use bytes::Bytes;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use steadfast::engine::embedded::{self, Embedded, FatalErrorHandler, Options};
use steadfast::engine::{
    Body, Commit, Engine, EngineError, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome,
    Precondition, Projection, Scan,
};
use support::copy_dir;

const PAGE: usize = 4096;
const HEADER_BYTES: usize = 48;

fn open(dir: &Path) -> Result<Embedded, EngineError> {
    open_with(dir, 128 << 20)
}

fn open_with(dir: &Path, wal_bytes: u64) -> Result<Embedded, EngineError> {
    let fatal = FatalErrorHandler::new(|why| panic!("the engine stopped: {why}"));
    Embedded::open(Options { dir: dir.into(), cache_bytes: 0, wal_bytes, fatal })
}

async fn put(engine: &dyn Engine, key: &str, body: Vec<u8>) -> u64 {
    let body = Body::Bytes(Bytes::from(body));
    let record = Some(NewRecord { expires_at: 0, meta: Bytes::from(key.to_owned()), body });
    let mutations = vec![Mutation { key: Bytes::from(key.to_owned()), record }];
    match engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap()
    {
        Outcome::Committed(version) => version,
        Outcome::Conflict => panic!("a commit without preconditions reported a conflict"),
    }
}

async fn body(engine: &dyn Engine, key: &str) -> Result<Option<Vec<u8>>, EngineError> {
    let Some(record) = engine.read(key.as_bytes(), Projection::Full).await? else {
        return Ok(None);
    };
    let len = usize::try_from(record.body.len()).unwrap();
    Ok(Some(record.body.read(0, len).await?.to_vec()))
}

async fn keys(engine: &dyn Engine) -> Vec<String> {
    let (start, end) = (Bytes::new(), Bytes::from_static(&[0xff]));
    let page = engine
        .scan(Scan { start, end, limit: 10_000, skip_expired_at: 0, eventual: false })
        .await
        .unwrap();
    page.iter().map(|found| String::from_utf8_lossy(found.key).into_owned()).collect()
}

fn crash_image(data: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("data");
    copy_dir(data, &to);
    (dir, to)
}

/// A WAL record: its segment file, its offset and padded length in bytes, and its last version.
#[derive(Clone, Debug)]
struct WalRecord {
    path: PathBuf,
    at: usize,
    len: usize,
    last: u64,
}

/// Reads all WAL records in version order.
fn records(data: &Path) -> Vec<WalRecord> {
    let mut records = Vec::new();
    for segment in fs::read_dir(data.join("log")).unwrap() {
        let path = segment.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let mut at = 0;
        while bytes.get(at..at + 4) == Some(b"SDLG") {
            let number = |from: usize, len: usize| {
                let mut eight = [0; 8];
                eight[..len].copy_from_slice(&bytes[at + from..at + from + len]);
                u64::from_le_bytes(eight)
            };
            let len = HEADER_BYTES as u64 + number(32, 4) + number(40, 8);
            let len = usize::try_from(len).unwrap().next_multiple_of(PAGE);
            records.push(WalRecord { path: path.clone(), at, len, last: number(24, 8) });
            at += len;
        }
    }
    records.sort_by_key(|record| record.last);
    records
}

fn overwrite(record: &WalRecord, page: usize, with: impl Fn(&mut [u8])) {
    let file = OpenOptions::new().read(true).write(true).open(&record.path).unwrap();
    let at = (record.at + page * PAGE) as u64;
    let mut bytes = vec![0; PAGE];
    file.read_exact_at(&mut bytes, at).unwrap_or(());
    with(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

fn value(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 7 + n * 131) % 251) as u8).collect()
}

/// The name of a kind of damage, and a function that damages a page.
type PageDamage = (&'static str, fn(&mut [u8]));

/// Returns the kinds of damage that a power cut may cause in a page.
fn page_damages() -> Vec<PageDamage> {
    vec![
        ("zeros", |page| page.fill(0)),
        ("garbage", |page| page.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 97 + 13) as u8)),
        ("zeros in the second half", |page| page[PAGE / 2..].fill(0)),
        ("zeros in the first half", |page| page[..PAGE / 2].fill(0)),
        ("a flipped bit", |page| page[40] ^= 1),
    ]
}

#[tokio::test]
async fn recovery_replays_commits_that_are_only_in_the_wal() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..50 {
        put(&engine, &format!("k{n:02}"), value(n, n * 300)).await;
    }
    let last = put(&engine, "k07", value(700, 10)).await;
    let mutations = vec![Mutation { key: Bytes::from("k08"), record: None }];
    engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap();
    let (_dir, mut crashed) = crash_image(&data);
    let mut image_dirs = Vec::new();
    // Crash repeatedly, with a commit after each recovery.
    for restart in 0..4_usize {
        let engine = open(&crashed).unwrap();
        assert_eq!(keys(&engine).await.len(), 49 + restart);
        assert_eq!(body(&engine, "k07").await.unwrap().unwrap(), value(700, 10));
        assert_eq!(body(&engine, "k08").await.unwrap(), None);
        assert_eq!(body(&engine, "k49").await.unwrap().unwrap(), value(49, 49 * 300));
        assert_eq!(engine.count(b'k').await.unwrap(), 49 + restart as u64);
        assert!(put(&engine, &format!("k9{restart}x"), vec![]).await > last);
        let (image_dir, next) = crash_image(&crashed);
        image_dirs.push(image_dir);
        crashed = next;
        if restart % 2 == 0 {
            engine.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn recovery_drops_a_torn_last_record_and_keeps_all_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..10 {
        put(&engine, &format!("a{n}"), value(n, 900)).await;
    }
    let before = engine.read(b"a9", Projection::Meta).await.unwrap().unwrap().version;
    put(&engine, "torn", value(1, 5 * PAGE)).await;
    // Take the crash image immediately, before a checkpoint starts.
    let (_base, data) = crash_image(&data);
    let all = records(&data);
    let torn = all.last().unwrap();
    assert!(torn.len >= 6 * PAGE && torn.last > before, "{torn:?}");
    for page in 0..torn.len / PAGE {
        for (how, damage) in page_damages() {
            let (image_dir, mut crashed) = crash_image(&data);
            let mut image_dirs = vec![image_dir];
            let path = crashed.join("log").join(torn.path.file_name().unwrap());
            let torn = WalRecord { path, ..torn.clone() };
            let written = fs::read(&torn.path).unwrap();
            overwrite(&torn, page, damage);
            let changed = fs::read(&torn.path).unwrap() != written;
            for restart in 0..2 {
                let engine = open(&crashed).unwrap_or_else(|e| panic!("{how} in page {page}: {e}"));
                for n in 0..10 {
                    let found = body(&engine, &format!("a{n}")).await.unwrap().unwrap();
                    assert_eq!(found, value(n, 900), "{how} in page {page}");
                }
                // The torn commit must be either complete or absent.
                let found = body(&engine, "torn").await.unwrap();
                if let Some(found) = &found {
                    assert_eq!(
                        *found,
                        value(1, 5 * PAGE),
                        "{how} in page {page}, restart {restart}"
                    );
                } else {
                    assert!(
                        changed,
                        "{how} in page {page}: the commit is lost, but its record is intact"
                    );
                }
                let version = put(&engine, &format!("after{restart}"), vec![b'x'; 10]).await;
                assert!(version > before);
                assert_eq!(keys(&engine).await.len(), 11 + restart + usize::from(found.is_some()));
                // Do not close the engine: the next iteration starts from a crash image.
                let (image_dir, next) = crash_image(&crashed);
                image_dirs.push(image_dir);
                crashed = next;
            }
        }
    }
}

#[tokio::test]
async fn recovery_drops_the_torn_only_record_of_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    put(&engine, "before", value(1, 900)).await;
    engine.close().await.unwrap();
    let engine = open(&data).unwrap();
    put(&engine, "torn", value(2, 5 * PAGE)).await;
    let mut crashed = crash_image(&data);
    let torn = records(&crashed.1).pop().unwrap();
    assert_eq!(torn.at, 0);
    overwrite(&torn, 4, |page| page.fill(0));
    // The database records a segment as the newest only after its first record was fsynced.
    let conn = Connection::open(crashed.1.join("steadfast.db")).unwrap();
    conn.execute("UPDATE meta SET log_end = log_start", []).unwrap();
    drop(conn);
    for restart in 0..3 {
        let engine = open(&crashed.1).unwrap_or_else(|e| panic!("restart {restart}: {e}"));
        assert_eq!(body(&engine, "before").await.unwrap().unwrap(), value(1, 900));
        assert_eq!(keys(&engine).await, ["before"]);
        crashed = crash_image(&crashed.1);
    }
}

#[tokio::test]
async fn recovery_reports_damage_before_the_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..10 {
        put(&engine, &format!("a{n}"), value(n, 900)).await;
    }
    let (_base, data) = crash_image(&data);
    let all = records(&data);
    for number in [0, 1, 5, all.len() - 2] {
        for (how, damage) in page_damages() {
            let (_dir, crashed) = crash_image(&data);
            let path = crashed.join("log").join(all[number].path.file_name().unwrap());
            overwrite(&WalRecord { path, ..all[number].clone() }, 0, damage);
            match open(&crashed) {
                Err(EngineError::Corrupt(what)) => {
                    assert!(what.contains("the WAL is damaged"), "{what}");
                    assert!(what.contains("restore a backup"), "{what}");
                }
                Err(e) => panic!("{how} in record {number}: {e}"),
                // The damage may have affected only the unused half of the page.
                Ok(engine) => {
                    for n in 0..10 {
                        let found = body(&engine, &format!("a{n}")).await;
                        let damaged = matches!(found, Err(EngineError::Corrupt(_)));
                        assert!(
                            damaged || found.unwrap().unwrap() == value(n, 900),
                            "{how}, item a{n}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn reads_report_a_damaged_body_in_the_wal_and_serve_other_bodies() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    put(&engine, "first", value(1, 3 * PAGE)).await;
    put(&engine, "second", value(2, 3 * PAGE)).await;
    let (_dir, crashed) = crash_image(&data);
    let all = records(&crashed);
    overwrite(&all[0], 2, |page| page[100] ^= 1);
    let engine = open(&crashed).unwrap();
    for _ in 0..2 {
        let found = body(&engine, "first").await;
        assert!(matches!(found, Err(EngineError::Corrupt(_))), "{found:?}");
        assert_eq!(body(&engine, "second").await.unwrap().unwrap(), value(2, 3 * PAGE));
    }
    engine.close().await.unwrap();
    // The damage must still be reported after a checkpoint.
    let engine = open(&crashed).unwrap();
    assert!(records(&crashed).iter().all(|record| record.last <= 2));
    let found = body(&engine, "first").await;
    assert!(matches!(found, Err(EngineError::Corrupt(_))), "{found:?}");
    assert_eq!(body(&engine, "second").await.unwrap().unwrap(), value(2, 3 * PAGE));
    put(&engine, "first", value(3, 10)).await;
    assert_eq!(body(&engine, "first").await.unwrap().unwrap(), value(3, 10));
}

#[tokio::test]
async fn recovery_does_not_mistake_a_value_for_a_wal_record() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    put(&engine, "a", value(1, 10)).await;
    let record = records(&data)[0].clone();
    // The value contains copies of a valid record, some at page boundaries. Its own record is torn.
    let copied = fs::read(&record.path).unwrap()[record.at..record.at + record.len].to_vec();
    let mut forged = vec![0; PAGE - 200];
    for _ in 0..40 {
        forged.extend_from_slice(&copied);
        forged.push(0);
    }
    put(&engine, "b", forged).await;
    let (_dir, crashed) = crash_image(&data);
    let all = records(&crashed);
    overwrite(&all[1], 0, |page| page.fill(0));
    let engine = open(&crashed);
    // A copy has the version of an earlier record, so at worst it is reported as damage.
    match engine {
        Ok(engine) => assert_eq!(keys(&engine).await, ["a"]),
        Err(e) => assert!(matches!(e, EngineError::Corrupt(_)), "{e}"),
    }
}

/// Waits until a checkpoint has moved all records to the database.
async fn wait_for_checkpoint(engine: &Embedded, data: &Path, records: i64) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let conn = Connection::open(data.join("steadfast.db")).unwrap();
        let count = "SELECT count(*) FROM heads";
        let found: i64 = conn.query_row(count, [], |row| row.get(0)).unwrap();
        let start: i64 =
            conn.query_row("SELECT last_version FROM meta", [], |row| row.get(0)).unwrap();
        if found == records && start > 0 {
            return;
        }
        assert!(
            Instant::now() < end,
            "only {found} of {records} records are in the database: {:?}",
            engine.stats()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn recovery_repeats_a_lost_or_partial_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..20 {
        put(&engine, &format!("k{n:02}"), value(n, 500)).await;
    }
    let mutations = vec![Mutation { key: Bytes::from("k00"), record: None }];
    engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap();
    let (_before, before_checkpoint) = crash_image(&data);
    wait_for_checkpoint(&engine, &data, 19).await;
    let (_after, done) = crash_image(&data);
    // Only the last transaction of a checkpoint is fsynced, and the WAL is kept until then. After a
    // power cut, the database may contain any number of the other transactions. The test covers a
    // database with all of the records and one with half of them.
    let reset_position = "UPDATE meta SET last_version = 0, log_start = 1";
    let half = "DELETE FROM heads WHERE key > CAST('k10' AS BLOB); \
                UPDATE counts SET n = (SELECT count(*) FROM heads) WHERE first = 107";
    for sql in [reset_position.to_owned(), format!("{reset_position}; {half}")] {
        let (_dir, crashed) = crash_image(&before_checkpoint);
        for name in ["steadfast.db", "steadfast.db-wal", "steadfast.db-shm"] {
            let _ = fs::remove_file(crashed.join(name));
            if done.join(name).exists() {
                fs::copy(done.join(name), crashed.join(name)).unwrap();
            }
        }
        Connection::open(crashed.join("steadfast.db")).unwrap().execute_batch(&sql).unwrap();
        let engine = open(&crashed).unwrap();
        for restart in 0..2 {
            assert_eq!(body(&engine, "k00").await.unwrap(), None, "restart {restart}");
            for n in 1..20 {
                let found = body(&engine, &format!("k{n:02}")).await.unwrap();
                assert_eq!(found.unwrap(), value(n, 500));
            }
            assert_eq!((keys(&engine).await.len(), engine.count(b'k').await.unwrap()), (19, 19));
            wait_for_checkpoint(&engine, &crashed, 19).await;
        }
    }
}

#[tokio::test]
async fn segments_are_recycled_and_old_records_in_them_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    let mut last = 0;
    for round in 0..6 {
        for n in 0..4 {
            last = put(&engine, &format!("k{n}"), value(round, 2000)).await;
        }
        let mutations = vec![Mutation { key: Bytes::from("gone"), record: None }];
        put(&engine, "gone", value(9, 10)).await;
        engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap();
        wait_for_checkpoint(&engine, &data, 4).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_dir, crashed) = crash_image(&data);
    let segments = fs::read_dir(crashed.join("log")).unwrap().count();
    assert!(segments <= 6, "the WAL has {segments} segments, but its contents fit into one");
    let engine = open(&crashed).unwrap();
    assert_eq!(keys(&engine).await, ["k0", "k1", "k2", "k3"]);
    assert_eq!(body(&engine, "k0").await.unwrap().unwrap(), value(5, 2000));
    assert!(put(&engine, "k0", vec![]).await > last);
}

#[tokio::test]
async fn commits_larger_than_a_segment_are_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    let large = |seed: usize| {
        let bodies = (0..60).map(move |n| (format!("l{n:02}"), value(seed + n, INLINE_BYTES_MAX)));
        let mutations = bodies.map(|(key, bytes)| {
            let body = Body::Bytes(Bytes::from(bytes));
            let record = Some(NewRecord { expires_at: 0, meta: Bytes::new(), body });
            Mutation { key: Bytes::from(key), record }
        });
        Commit { version_min: 0, preconditions: vec![], mutations: mutations.collect() }
    };
    // A commit of 15 MB exceeds a segment. Small commits precede and follow it.
    for seed in [0, 1] {
        put(&engine, "small", value(seed, 100)).await;
        engine.commit(large(seed)).await.unwrap();
    }
    let version = put(&engine, "small", value(7, 100)).await;
    let preconditions = vec![Precondition { key: Bytes::from("small"), version }];
    engine.commit(Commit { version_min: 0, preconditions, mutations: vec![] }).await.unwrap();
    let (_dir, crashed) = crash_image(&data);
    let engine = open(&crashed).unwrap();
    for n in 0..60 {
        let found = body(&engine, &format!("l{n:02}")).await.unwrap().unwrap();
        assert!(found == value(1 + n, INLINE_BYTES_MAX), "body {n} differs");
    }
    assert_eq!(body(&engine, "small").await.unwrap().unwrap(), value(7, 100));
    assert!(
        put(&engine, "x", vec![]).await > version + 1,
        "the version of an empty commit was reused"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_wal_stays_bounded_under_continuous_reads() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // With a small WAL, checkpoints run continuously.
    let engine = Arc::new(open_with(&data, 1 << 20).unwrap());
    let key = |n: usize| format!("k{:03}", n % 200);
    for n in 0..200 {
        put(&*engine, &key(n), value(n, 100_000)).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|reader: usize| {
            let (engine, done) = (engine.clone(), done.clone());
            tokio::spawn(async move {
                let mut n = reader;
                while !done.load(Ordering::Relaxed) {
                    assert!(body(&*engine, &key(n)).await.unwrap().is_some());
                    n += 7;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    // Write 250 MB through the SQLite WAL.
    for n in 0..2500 {
        put(&*engine, &key(n), value(n, 100_000)).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let wal_bytes = fs::metadata(data.join("steadfast.db-wal")).unwrap().len();
    assert!(wal_bytes < 100 << 20, "the SQLite WAL grew to {wal_bytes} bytes");
}

fn assert_wal_missing<T>(opened: Result<T, EngineError>, case: &str) {
    match opened {
        Err(EngineError::Corrupt(what)) => {
            assert!(what.contains("missing") && what.contains("--reset-wal"), "{case}: {what}");
        }
        Err(e) => panic!("{case}: {e}"),
        Ok(_) => panic!("{case}: the engine opened"),
    }
}

#[tokio::test]
async fn a_missing_wal_is_reported_and_can_be_reset() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    put(&engine, "k", value(1, 10)).await;
    let images = [crash_image(&data), crash_image(&data)];
    engine.close().await.unwrap();
    let remove_files = |data: &Path| {
        fs::read_dir(data.join("log")).unwrap().for_each(|file| {
            fs::remove_file(file.unwrap().path()).unwrap();
        });
    };
    remove_files(&images[0].1);
    fs::remove_dir_all(images[1].1.join("log")).unwrap();
    // A clean shutdown moves all commits to the database, but a missing WAL must still be reported.
    remove_files(&data);
    for (case, data) in [("files", &images[0].1), ("log", &images[1].1), ("clean", &data)] {
        assert_wal_missing(open(data), case);
        assert_wal_missing(open(data), "again");
        let report = embedded::verify(data, |_, _| {}).unwrap();
        assert!(report.problems[0].contains("missing"), "{case}: {:?}", report.problems);
        assert!(embedded::reset_wal(data).unwrap(), "{case}");
        assert!(!embedded::reset_wal(data).unwrap(), "{case}");
        let engine = open(data).unwrap();
        put(&engine, "after", value(2, 10)).await;
        engine.close().await.unwrap();
        assert!(open(data).is_ok(), "{case}");
    }
}

#[tokio::test]
async fn a_missing_newest_segment_is_reported_and_can_be_reset() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut commits = 0;
    let (_image, crashed, records, older) = loop {
        // Write until the database records a later segment as the newest one.
        let until = commits + 100;
        while commits < until || wal_end(&data) < 3 {
            assert!(
                Instant::now() < deadline,
                "no crash image has records in both older and newer segments"
            );
            put(&engine, &format!("k{commits:04}"), value(commits, 200_000)).await;
            commits += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (image, crashed) = crash_image(&data);
        let records = records(&crashed);
        let older = records.iter().filter(|record| is_in_older_segment(record, &crashed)).count();
        // On a busy machine, a checkpoint may already have moved all records of the older segments.
        if 0 < older && older < records.len() {
            break (image, crashed, records, older);
        }
    };
    engine.close().await.unwrap();
    let removed: BTreeSet<_> = records[older..].iter().map(|record| &record.path).collect();
    removed.into_iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_wal_missing(open(&crashed), "newest segment");
    assert!(embedded::reset_wal(&crashed).unwrap());
    let engine = open(&crashed).unwrap();
    assert_eq!(keys(&engine).await.len(), commits - (records.len() - older));
    let after = put(&engine, "after", value(1, 10)).await;
    assert!(after > records[older - 1].last);
    engine.close().await.unwrap();
}

/// Returns whether a record is in a segment older than the newest one recorded in the database.
fn is_in_older_segment(record: &WalRecord, data: &Path) -> bool {
    let mut seq = [0; 8];
    let file = fs::File::open(&record.path).unwrap();
    file.read_exact_at(&mut seq, record.at as u64 + 8).unwrap();
    u64::from_le_bytes(seq) < wal_end(data).cast_unsigned() - 1
}

/// Returns the sequence number that follows the newest segment, as recorded in the database.
fn wal_end(data: &Path) -> i64 {
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.query_row("SELECT log_end FROM meta", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn the_newest_segment_is_recorded_in_a_database_created_by_an_earlier_build() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    open(&data).unwrap().close().await.unwrap();
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.execute_batch("ALTER TABLE meta DROP COLUMN log_end").unwrap();
    drop(conn);
    let engine = open(&data).unwrap();
    put(&engine, "k", value(1, 10)).await;
    engine.close().await.unwrap();
    assert!(wal_end(&data) > 0);
    fs::remove_dir_all(data.join("log")).unwrap();
    assert_wal_missing(open(&data), "earlier build");
}
