//! The commit log's states at the start: what a crash can leave is taken up, what it cannot leave
//! is reported as damage. Images are copies of a data directory while the engine is open, which is
//! what kill -9 leaves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::Bytes;
use rusqlite::Connection;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use steadfast::engine::embedded::{Embedded, FatalErrorHandler, Options};
use steadfast::engine::{
    Body, Commit, Engine, EngineError, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome,
    Precondition, Projection, Scan,
};

const PAGE: usize = 4096;
const HEADER: usize = 48;

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
        Outcome::Conflict => panic!("nothing was expected"),
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

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            match fs::copy(entry.path(), target) {
                // The engine may give back a file of the log while it is copied.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                copied => assert!(copied.is_ok(), "{copied:?}"),
            }
        }
    }
}

fn image(data: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("data");
    copy(data, &to);
    (dir, to)
}

/// A frame of the log: its file, where it begins, its length in whole pages, and its last version.
#[derive(Clone, Debug)]
struct Frame {
    path: PathBuf,
    at: usize,
    len: usize,
    last: u64,
}

/// All frames there are, in the order of their versions.
fn frames(data: &Path) -> Vec<Frame> {
    let mut frames = Vec::new();
    for slot in fs::read_dir(data.join("log")).unwrap() {
        let path = slot.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let mut at = 0;
        while bytes.get(at..at + 4) == Some(b"SDLG") {
            let number = |from: usize, len: usize| {
                let mut eight = [0; 8];
                eight[..len].copy_from_slice(&bytes[at + from..at + from + len]);
                u64::from_le_bytes(eight)
            };
            let len = HEADER as u64 + number(32, 4) + number(40, 8);
            let len = usize::try_from(len).unwrap().next_multiple_of(PAGE);
            frames.push(Frame { path: path.clone(), at, len, last: number(24, 8) });
            at += len;
        }
    }
    frames.sort_by_key(|frame| frame.last);
    frames
}

fn overwrite(frame: &Frame, page: usize, with: impl Fn(&mut [u8])) {
    let file = OpenOptions::new().read(true).write(true).open(&frame.path).unwrap();
    let at = (frame.at + page * PAGE) as u64;
    let mut bytes = vec![0; PAGE];
    file.read_exact_at(&mut bytes, at).unwrap_or(());
    with(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

fn value(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 7 + n * 131) % 251) as u8).collect()
}

/// A name, and what it does to a page.
type Tear = (&'static str, fn(&mut [u8]));

/// What a page may look like after a power cut, besides whole.
fn tears() -> Vec<Tear> {
    vec![
        ("zeros", |page| page.fill(0)),
        ("garbage", |page| page.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 97 + 13) as u8)),
        ("half", |page| page[PAGE / 2..].fill(0)),
        ("other half", |page| page[..PAGE / 2].fill(0)),
        ("one bit", |page| page[40] ^= 1),
    ]
}

#[tokio::test]
async fn what_only_the_log_has_is_there_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..50 {
        put(&engine, &format!("k{n:02}"), value(n, n * 300)).await;
    }
    let last = put(&engine, "k07", value(700, 10)).await;
    let mutations = vec![Mutation { key: Bytes::from("k08"), record: None }];
    engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap();
    let (_keep, mut crashed) = image(&data);
    let mut kept = Vec::new();
    // Crash upon crash, with a commit in each life.
    for life in 0..4_usize {
        let engine = open(&crashed).unwrap();
        assert_eq!(keys(&engine).await.len(), 49 + life);
        assert_eq!(body(&engine, "k07").await.unwrap().unwrap(), value(700, 10));
        assert_eq!(body(&engine, "k08").await.unwrap(), None);
        assert_eq!(body(&engine, "k49").await.unwrap().unwrap(), value(49, 49 * 300));
        assert_eq!(engine.count(b'k').await.unwrap(), 49 + life as u64);
        assert!(put(&engine, &format!("k9{life}x"), vec![]).await > last);
        let (keep, next) = image(&crashed);
        kept.push(keep);
        crashed = next;
        if life % 2 == 0 {
            engine.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_torn_last_frame_is_dropped_and_all_before_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..10 {
        put(&engine, &format!("a{n}"), value(n, 900)).await;
    }
    let before = engine.read(b"a9", Projection::Meta).await.unwrap().unwrap().version;
    put(&engine, "torn", value(1, 5 * PAGE)).await;
    // At once, before the engine folds what it has.
    let (_base, data) = image(&data);
    let all = frames(&data);
    let torn = all.last().unwrap();
    assert!(torn.len >= 6 * PAGE && torn.last > before, "{torn:?}");
    for page in 0..torn.len / PAGE {
        for (how, tear) in tears() {
            let (keep, mut crashed) = image(&data);
            let mut kept = vec![keep];
            let path = crashed.join("log").join(torn.path.file_name().unwrap());
            let torn = Frame { path, ..torn.clone() };
            let written = fs::read(&torn.path).unwrap();
            overwrite(&torn, page, tear);
            let changed = fs::read(&torn.path).unwrap() != written;
            for life in 0..2 {
                let engine = open(&crashed).unwrap_or_else(|e| panic!("{how} page {page}: {e}"));
                for n in 0..10 {
                    let found = body(&engine, &format!("a{n}")).await.unwrap().unwrap();
                    assert_eq!(found, value(n, 900), "{how} page {page}");
                }
                // The torn write is whole or absent.
                let found = body(&engine, "torn").await.unwrap();
                if let Some(found) = &found {
                    assert_eq!(*found, value(1, 5 * PAGE), "{how} page {page}, life {life}");
                } else {
                    assert!(changed, "{how} page {page} changed nothing, and the write is gone");
                }
                let version = put(&engine, &format!("after{life}"), vec![b'x'; 10]).await;
                assert!(version > before);
                assert_eq!(keys(&engine).await.len(), 11 + life + usize::from(found.is_some()));
                // No close: the next life begins with what a crash leaves.
                let (keep, next) = image(&crashed);
                kept.push(keep);
                crashed = next;
            }
        }
    }
}

#[tokio::test]
async fn damage_before_the_last_frame_is_reported_and_never_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..10 {
        put(&engine, &format!("a{n}"), value(n, 900)).await;
    }
    let (_base, data) = image(&data);
    let all = frames(&data);
    for number in [0, 1, 5, all.len() - 2] {
        for (how, tear) in tears() {
            let (_keep, crashed) = image(&data);
            let path = crashed.join("log").join(all[number].path.file_name().unwrap());
            overwrite(&Frame { path, ..all[number].clone() }, 0, tear);
            match open(&crashed) {
                Err(EngineError::Corrupt(what)) => {
                    assert!(what.contains("the WAL is damaged"), "{what}");
                    assert!(what.contains("restore a backup"), "{what}");
                }
                Err(e) => panic!("{how} of frame {number}: {e}"),
                // Half of a page may be the part of it that nothing was written to.
                Ok(engine) => {
                    for n in 0..10 {
                        let found = body(&engine, &format!("a{n}")).await;
                        let damaged = matches!(found, Err(EngineError::Corrupt(_)));
                        assert!(damaged || found.unwrap().unwrap() == value(n, 900), "{how} {n}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_body_in_the_log_is_reported_and_the_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    put(&engine, "first", value(1, 3 * PAGE)).await;
    put(&engine, "second", value(2, 3 * PAGE)).await;
    let (_keep, crashed) = image(&data);
    let all = frames(&crashed);
    overwrite(&all[0], 2, |page| page[100] ^= 1);
    let engine = open(&crashed).unwrap();
    for _ in 0..2 {
        let found = body(&engine, "first").await;
        assert!(matches!(found, Err(EngineError::Corrupt(_))), "{found:?}");
        assert_eq!(body(&engine, "second").await.unwrap().unwrap(), value(2, 3 * PAGE));
    }
    engine.close().await.unwrap();
    // Folding it does not make it look sound.
    let engine = open(&crashed).unwrap();
    assert!(frames(&crashed).iter().all(|frame| frame.last <= 2));
    let found = body(&engine, "first").await;
    assert!(matches!(found, Err(EngineError::Corrupt(_))), "{found:?}");
    assert_eq!(body(&engine, "second").await.unwrap().unwrap(), value(2, 3 * PAGE));
    put(&engine, "first", value(3, 10)).await;
    assert_eq!(body(&engine, "first").await.unwrap().unwrap(), value(3, 10));
}

#[tokio::test]
async fn a_value_that_looks_like_a_frame_is_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    put(&engine, "a", value(1, 10)).await;
    let frame = frames(&data)[0].clone();
    // A copy of a sound frame, at the start of a page, inside a frame that is then torn.
    let copied = fs::read(&frame.path).unwrap()[frame.at..frame.at + frame.len].to_vec();
    let mut forged = vec![0; PAGE - 200];
    for _ in 0..40 {
        forged.extend_from_slice(&copied);
        forged.push(0);
    }
    put(&engine, "b", forged).await;
    let (_keep, crashed) = image(&data);
    let all = frames(&crashed);
    overwrite(&all[1], 0, |page| page.fill(0));
    let engine = open(&crashed);
    // A copy has a version that was there before, so it can only ever be taken for damage.
    match engine {
        Ok(engine) => assert_eq!(keys(&engine).await, ["a"]),
        Err(e) => assert!(matches!(e, EngineError::Corrupt(_)), "{e}"),
    }
}

/// Waits until the database has all that the log had.
async fn folded(engine: &Embedded, data: &Path, records: i64) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let conn = Connection::open(data.join("steadfast.db")).unwrap();
        let count = "SELECT count(*) FROM heads";
        let there: i64 = conn.query_row(count, [], |row| row.get(0)).unwrap();
        let start: i64 =
            conn.query_row("SELECT last_version FROM meta", [], |row| row.get(0)).unwrap();
        if there == records && start > 0 {
            return;
        }
        assert!(Instant::now() < end, "{there} of {records} records; {:?}", engine.stats());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_fold_that_was_lost_or_kept_in_part_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    for n in 0..20 {
        put(&engine, &format!("k{n:02}"), value(n, 500)).await;
    }
    let mutations = vec![Mutation { key: Bytes::from("k00"), record: None }];
    engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap();
    let (_before, unfolded) = image(&data);
    folded(&engine, &data, 19).await;
    let (_after, done) = image(&data);
    // The fold's transactions before its last are not synced, and the log stays until that one is:
    // after a power cut the database may have any number of them, here all or half.
    let mark = "UPDATE meta SET last_version = 0, log_start = 1";
    let half = "DELETE FROM heads WHERE key > CAST('k10' AS BLOB); \
                UPDATE counts SET n = (SELECT count(*) FROM heads) WHERE first = 107";
    for sql in [mark.to_owned(), format!("{mark}; {half}")] {
        let (_keep, crashed) = image(&unfolded);
        for name in ["steadfast.db", "steadfast.db-wal", "steadfast.db-shm"] {
            let _ = fs::remove_file(crashed.join(name));
            if done.join(name).exists() {
                fs::copy(done.join(name), crashed.join(name)).unwrap();
            }
        }
        Connection::open(crashed.join("steadfast.db")).unwrap().execute_batch(&sql).unwrap();
        let engine = open(&crashed).unwrap();
        for life in 0..2 {
            assert_eq!(body(&engine, "k00").await.unwrap(), None, "life {life}");
            for n in 1..20 {
                let found = body(&engine, &format!("k{n:02}")).await.unwrap();
                assert_eq!(found.unwrap(), value(n, 500));
            }
            assert_eq!((keys(&engine).await.len(), engine.count(b'k').await.unwrap()), (19, 19));
            folded(&engine, &crashed, 19).await;
        }
    }
}

#[tokio::test]
async fn used_slots_are_used_again_and_their_old_frames_count_no_more() {
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
        folded(&engine, &data, 4).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_keep, crashed) = image(&data);
    let slots = fs::read_dir(crashed.join("log")).unwrap().count();
    assert!(slots <= 6, "{slots} files for what fits into one");
    let engine = open(&crashed).unwrap();
    assert_eq!(keys(&engine).await, ["k0", "k1", "k2", "k3"]);
    assert_eq!(body(&engine, "k0").await.unwrap().unwrap(), value(5, 2000));
    assert!(put(&engine, "k0", vec![]).await > last);
}

#[tokio::test]
async fn large_and_small_commits_cross_segments_and_survive() {
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
    // 15 MB in one commit, which no segment holds; small ones before, between and after.
    for seed in [0, 1] {
        put(&engine, "small", value(seed, 100)).await;
        engine.commit(large(seed)).await.unwrap();
    }
    let version = put(&engine, "small", value(7, 100)).await;
    let preconditions = vec![Precondition { key: Bytes::from("small"), version }];
    engine.commit(Commit { version_min: 0, preconditions, mutations: vec![] }).await.unwrap();
    let (_keep, crashed) = image(&data);
    let engine = open(&crashed).unwrap();
    for n in 0..60 {
        let found = body(&engine, &format!("l{n:02}")).await.unwrap().unwrap();
        assert!(found == value(1 + n, INLINE_BYTES_MAX), "body {n}");
    }
    assert_eq!(body(&engine, "small").await.unwrap().unwrap(), value(7, 100));
    assert!(put(&engine, "x", vec![]).await > version + 1, "the empty commit's version is used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_s_own_log_starts_anew_although_reads_never_pause() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // Folded all the time.
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
    // 250 MB, which all pass through the database's log.
    for n in 0..2500 {
        put(&*engine, &key(n), value(n, 100_000)).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let log = fs::metadata(data.join("steadfast.db-wal")).unwrap().len();
    assert!(log < 100 << 20, "{log} bytes");
}

#[test]
fn a_directory_that_is_let_go_a_moment_later_is_opened_and_one_that_is_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(dir.path().join("LOCK")).unwrap();
    lock.lock().unwrap();
    let open = || {
        let fatal = FatalErrorHandler::new(|why| panic!("{why}"));
        let dir = dir.path().into();
        Embedded::open(Options { dir, cache_bytes: 0, wal_bytes: 1 << 20, fatal })
    };
    let refused = open().map(drop).unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
    let holder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        drop(lock);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(open().unwrap().close()).unwrap();
    holder.join().unwrap();
}
