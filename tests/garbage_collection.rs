//! Tests of the garbage collection of WAL segments: disk space stays bounded, and no value is lost,
//! changed or revived. This includes reads during relocation, snapshots, and crash recovery.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use bytes::Bytes;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use steadfast::engine::embedded::{self, Embedded, FatalErrorHandler, Options};
use steadfast::engine::{
    Body, Commit, Engine, Mutation, NewRecord, Outcome, Precondition, Projection,
};
use support::copy_dir;

/// The smallest WAL size that can trigger a checkpoint, in bytes. With it, segments are
/// sealed early.
const WAL_BYTES: u64 = 8 << 20;
const SEGMENT_BYTES: u64 = 8 << 20;

fn open(dir: &Path) -> Embedded {
    let fatal = FatalErrorHandler::new(|why| panic!("the engine stopped: {why}"));
    let dir = dir.into();
    Embedded::open(Options { dir, cache_bytes: 0, wal_bytes: WAL_BYTES, fatal }).unwrap()
}

/// Returns a value of at least `len` bytes that identifies the key and the number of the write.
fn value(key: &str, number: u64, len: usize) -> Bytes {
    let mut value = format!("{key} {number} ").into_bytes();
    value.resize(len.max(value.len()), b'v');
    Bytes::from(value)
}

fn put(key: &str, value: Bytes) -> Mutation {
    let meta = Bytes::copy_from_slice(key.as_bytes());
    let record = NewRecord { expires_at: 0, meta, body: Body::Bytes(value) };
    Mutation { key: Bytes::copy_from_slice(key.as_bytes()), record: Some(record) }
}

fn delete(key: &str) -> Mutation {
    Mutation { key: Bytes::copy_from_slice(key.as_bytes()), record: None }
}

async fn commit(engine: &Embedded, mutations: Vec<Mutation>) -> u64 {
    let commit = Commit { mutations, ..Commit::default() };
    match engine.commit(commit).await.unwrap() {
        Outcome::Committed(version) => version,
        Outcome::Conflict => panic!("conflict without preconditions"),
    }
}

/// Returns the value and version of a key.
async fn read(engine: &Embedded, key: &str) -> Option<(Bytes, u64)> {
    let record = engine.read(key.as_bytes(), Projection::Full).await.unwrap()?;
    assert_eq!(record.meta, key.as_bytes());
    let len = usize::try_from(record.body.len()).unwrap();
    Some((record.body.read(0, len).await.unwrap(), record.version))
}

fn segment_bytes(data: &Path) -> u64 {
    let files = std::fs::read_dir(data.join("log")).unwrap();
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Waits until the total size of the segment files is at most `bytes`.
async fn wait_for_size(data: &Path, bytes: u64) {
    let end = Instant::now() + Duration::from_secs(300);
    while segment_bytes(data) > bytes {
        let size = segment_bytes(data);
        assert!(Instant::now() < end, "{size} bytes remain, more than {bytes}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn assert_intact(data: &Path, records: u64) {
    let report = embedded::verify(data, |_, _| {}).unwrap();
    assert_eq!((report.problem_count, report.records), (0, records), "{:?}", report.problems);
}

const COLD: u64 = 2000;
const COLD_BYTES: usize = 10_000;
/// Disk space that is allowed in addition to 1.6 times the live bytes, in bytes: the two segments
/// at which collection starts, the segment that relocations fill, the active segment, and the two
/// free segments of an idle server.
const SLACK_BYTES: u64 = 6 * SEGMENT_BYTES;

fn cold_key(number: u64) -> String {
    format!("cold{number:06}")
}

/// Writes each cold value once, and overwrites a hot value in each commit. Every segment then
/// contains much garbage and some live values.
async fn write_cold_and_hot(engine: &Embedded) -> BTreeMap<String, u64> {
    let mut versions = BTreeMap::new();
    for number in 0..COLD {
        let key = cold_key(number);
        let cold = put(&key, value(&key, 0, COLD_BYTES));
        let hot = put("hot", value("hot", number, 90_000));
        versions.insert(key, commit(engine, vec![cold, hot]).await);
    }
    versions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_stays_bounded_and_values_stay_readable_during_relocation() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = Arc::new(open(&data));
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (engine, done) = (engine.clone(), done.clone());
        tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let key = cold_key(reads * 7919 % COLD);
                if let Some((found, _)) = read(&engine, &key).await {
                    assert!(found == value(&key, 0, COLD_BYTES), "{key}");
                }
                reads += 1;
                tokio::task::yield_now().await;
            }
            reads
        })
    };
    let versions = write_cold_and_hot(&engine).await;
    // 200 MB were written, of which 20 MB are live.
    let live = COLD * COLD_BYTES as u64;
    wait_for_size(&data, live * 16 / 10 + SLACK_BYTES).await;
    done.store(true, Ordering::Relaxed);
    let reads = reader.await.unwrap();
    assert!(reads > 100, "{reads} reads");
    for (key, version) in &versions {
        let found = read(&engine, key).await.unwrap();
        assert_eq!(found, (value(key, 0, COLD_BYTES), *version), "{key}");
    }
    engine.close().await.unwrap();
    assert_intact(&data, COLD + 1);
    // Deleting values frees disk space.
    let engine = open(&data);
    for number in (0..COLD).filter(|number| !number.is_multiple_of(10)) {
        commit(&engine, vec![delete(&cold_key(number))]).await;
    }
    wait_for_size(&data, live / 10 * 16 / 10 + SLACK_BYTES).await;
    for (key, version) in versions.iter().step_by(10) {
        let found = read(&engine, key).await.unwrap();
        assert_eq!(found, (value(key, 0, COLD_BYTES), *version), "{key}");
    }
    engine.close().await.unwrap();
    assert_intact(&data, COLD / 10 + 1);
}

#[tokio::test]
async fn tiny_values_are_collected_and_collection_ends() {
    const KEYS: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data);
    // Each commit writes a WAL record of 4 KiB.
    for number in 0..KEYS {
        commit(&engine, vec![put(&cold_key(number), Bytes::from(number.to_string()))]).await;
    }
    wait_for_size(&data, SLACK_BYTES).await;
    // Without new garbage, relocations must end. Each WAL record with relocations uses up a
    // version.
    let mut last = commit(&engine, vec![]).await;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let version = commit(&engine, vec![]).await;
        if version == last + 1 {
            break;
        }
        assert!(Instant::now() < end, "relocations continue without new garbage");
        last = version;
    }
    for number in 0..KEYS {
        let found = read(&engine, &cold_key(number)).await.unwrap();
        assert_eq!(found.0, number.to_string());
    }
    engine.close().await.unwrap();
    assert_intact(&data, KEYS);
}

#[tokio::test]
async fn a_snapshot_keeps_values_whose_segments_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data);
    write_cold_and_hot(&engine).await;
    let mut snapshot = engine.snapshot().await.unwrap();
    let full = segment_bytes(&data);
    for number in 0..COLD {
        commit(&engine, vec![put(&cold_key(number), value("new", number, 100))]).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut start, mut found) = (Bytes::from_static(b"cold"), 0);
    loop {
        let end = Bytes::from_static(b"d");
        let page = snapshot.scan(start.clone(), end, 100, 1 << 20).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        start = [&last[..], &[0]].concat().into();
        for (key, record) in &page {
            let key = std::str::from_utf8(key).unwrap();
            let len = usize::try_from(record.body.len()).unwrap();
            let body = record.body.read(0, len).await.unwrap();
            assert!(body == value(key, 0, COLD_BYTES), "{key}");
            found += 1;
        }
    }
    assert_eq!(found, COLD);
    drop(snapshot);
    wait_for_size(&data, (COLD * 200 + SLACK_BYTES).min(full)).await;
    engine.close().await.unwrap();
    assert_intact(&data, COLD + 1);
}

/// Writers overwrite and delete their own keys while garbage collection relocates the values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relocations_do_not_revive_overwritten_or_deleted_values() {
    const WRITERS: u64 = 4;
    const KEYS: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = Arc::new(open(&data));
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (engine, done) = (engine.clone(), done.clone());
            tokio::spawn(async move {
                let mut expected: BTreeMap<String, Option<(u64, u64)>> = BTreeMap::new();
                let mut random = writer + 1;
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // A few keys change often and the others rarely, so that segments retain live
                    // values.
                    let choice = (random >> 33) % (4 * KEYS);
                    let key =
                        format!("w{writer}-{:03}", if choice < KEYS { choice } else { choice % 4 });
                    let len = if choice < KEYS { 20_000 } else { 60_000 };
                    let before = expected.get(&key).copied().flatten();
                    let mutation = match number % 9 {
                        8 => delete(&key),
                        _ => put(&key, value(&key, number, len)),
                    };
                    let is_put = mutation.record.is_some();
                    let required = before.map_or(0, |(version, _)| version);
                    let key_bytes = Bytes::copy_from_slice(key.as_bytes());
                    let preconditions = vec![Precondition { key: key_bytes, version: required }];
                    let mutations = vec![mutation];
                    let commit = Commit { version_min: 0, preconditions, mutations };
                    let outcome = engine.commit(commit).await.unwrap();
                    let Outcome::Committed(version) = outcome else {
                        panic!("{key}: conflict, but no other writer replaced version {required}");
                    };
                    expected.insert(key, is_put.then_some((version, number)));
                }
                expected
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(8)).await;
    done.store(true, Ordering::Relaxed);
    let mut expected = BTreeMap::new();
    for writer in writers {
        expected.extend(writer.await.unwrap());
    }
    assert_matches(&engine, &expected).await;
    wait_for_size(&data, WRITERS * KEYS * 80_000 * 16 / 10 + SLACK_BYTES).await;
    assert_matches(&engine, &expected).await;
    engine.close().await.unwrap();
    let records = expected.values().flatten().count() as u64;
    assert_intact(&data, records);
    let engine = open(&data);
    assert_matches(&engine, &expected).await;
}

async fn assert_matches(engine: &Embedded, expected: &BTreeMap<String, Option<(u64, u64)>>) {
    for (key, state) in expected {
        let found = read(engine, key).await;
        let found = found.map(|(value, version)| (version, value));
        match (state, found) {
            (None, None) => {}
            (Some((version, number)), Some((found_version, found))) => {
                assert_eq!(*version, found_version, "{key}");
                assert!(found.starts_with(format!("{key} {number} ").as_bytes()), "{key}");
            }
            (state, found) => panic!("{key}: {:?}, not {state:?}", found.map(|found| found.0)),
        }
    }
}

#[tokio::test]
async fn relocations_that_are_only_in_the_wal_are_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data);
    let versions = write_cold_and_hot(&engine).await;
    // A write transaction blocks checkpoints. The last relocations therefore stay in the WAL, and
    // the files no longer change once the relocations end.
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.busy_timeout(Duration::from_secs(60)).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut size = 0;
    while size != engine.stats().wal_bytes {
        size = engine.stats().wal_bytes;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let image = tempfile::tempdir().unwrap();
    let copy = image.path().join("data");
    copy_dir(&data, &copy);
    drop(conn);
    let crashed = open(&copy);
    for (engine, what) in [(&crashed, "crashed"), (&engine, "running")] {
        for (key, version) in &versions {
            let found = read(engine, key).await.unwrap();
            assert_eq!(found, (value(key, 0, COLD_BYTES), *version), "{what}: {key}");
        }
        assert_eq!(engine.count(b'c').await.unwrap(), COLD, "{what}");
        engine.close().await.unwrap();
    }
    assert_intact(&copy, COLD + 1);
    assert_intact(&data, COLD + 1);
}
