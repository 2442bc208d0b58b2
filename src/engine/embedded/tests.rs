//! Tests of the cost of reads and commits, in records visited, connections or time.

use super::load_monitor::LoadMonitor;
use super::maintenance::{BlobDeletions, MaintenanceTask};
use super::writer::{Scratch, Writer};
use super::*;
use crate::engine::{Body, INLINE_BYTES_MAX, Mutation, NewRecord, Precondition};
use std::sync::mpsc::sync_channel;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

fn open(dir: &Path) -> Embedded {
    let fatal = FatalErrorHandler::new(|reason| panic!("{reason}"));
    Embedded::open(Options { dir: dir.into(), cache_bytes: 0, wal_bytes: 1 << 30, fatal }).unwrap()
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("k{number:07}"))
}

fn put(number: usize, expires_at: u64) -> Mutation {
    let record = NewRecord { expires_at, meta: Bytes::new(), body: Body::EMPTY };
    Mutation { key: key(number), record: Some(record) }
}

async fn commit(engine: &Embedded, mutations: impl Iterator<Item = Mutation>) {
    let mutations: Vec<_> = mutations.collect();
    for mutations in mutations.chunks(10_000) {
        let commit = Commit { mutations: mutations.to_vec(), ..Commit::default() };
        assert!(matches!(engine.commit(commit).await, Ok(Outcome::Committed(_))));
    }
}

fn removed(numbers: impl Iterator<Item = usize>) -> impl Iterator<Item = Mutation> {
    numbers.map(|number| Mutation { key: key(number), record: None })
}

/// Waits until all commits are checkpointed.
async fn checkpointed(engine: &Embedded) {
    while engine.shared.memtable().len() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Locks the database, so that records stay in the memtable until the connection is dropped.
fn block_checkpoints(dir: &Path) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(database::path(dir)).unwrap();
    conn.busy_timeout(Duration::from_secs(60)).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    conn
}

/// Returns the keys of a page, and the number of records visited for it.
async fn list(engine: &Embedded, limit: usize, now: u64) -> (Vec<Bytes>, u64) {
    let before = engine.shared.counters.scanned.load(Ordering::Relaxed);
    let (start, end) = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));
    let scan = Scan { start, end, limit, skip_expired_at: now, eventual: false };
    let page = engine.scan(scan).await.unwrap();
    let keys = page.iter().map(|record| Bytes::copy_from_slice(record.key)).collect();
    (keys, engine.shared.counters.scanned.load(Ordering::Relaxed) - before)
}

const RECORDS: usize = 50_000;

#[tokio::test]
async fn deleted_records_are_scanned_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    commit(&engine, (0..RECORDS).map(|number| put(number, 0))).await;
    checkpointed(&engine).await;
    let lock = block_checkpoints(dir.path());
    commit(&engine, removed(0..RECORDS - 1)).await;
    let last = vec![key(RECORDS - 1)];
    assert_eq!(list(&engine, 10, 0).await.0, last);
    let (keys, visited) = list(&engine, 10, 0).await;
    assert_eq!(keys, last);
    assert!(visited < 10, "{visited} records visited");
    // New records in a known range are found, and scans remain cheap after their deletion.
    commit(&engine, [put(777, 0), put(30_000, 0)].into_iter()).await;
    let (keys, visited) = list(&engine, 10, 0).await;
    assert_eq!(keys, [key(777), key(30_000), key(RECORDS - 1)]);
    assert!(visited < 20, "{visited} records visited");
    assert_eq!(list(&engine, 1, 0).await.0, [key(777)]);
    commit(&engine, removed([777, 30_000].into_iter())).await;
    let (keys, visited) = list(&engine, 10, 0).await;
    assert_eq!(keys, last);
    assert!(visited < 20, "{visited} records visited");
    drop(lock);
    checkpointed(&engine).await;
    assert_eq!(list(&engine, 10, 0).await.0, last);
    engine.close().await.unwrap();
}

#[tokio::test]
async fn scattered_deleted_records_are_scanned_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    commit(&engine, (0..RECORDS).map(|number| put(number, 0))).await;
    checkpointed(&engine).await;
    let lock = block_checkpoints(dir.path());
    // The first half has runs of 49 deleted records. The second has runs of 4, too short to skip.
    commit(&engine, removed((0..RECORDS / 2).filter(|number| !number.is_multiple_of(50)))).await;
    commit(&engine, removed((RECORDS / 2..RECORDS).filter(|number| !number.is_multiple_of(5))))
        .await;
    let step = |number| if number < RECORDS / 2 { 50 } else { 5 };
    let remains = |number: &usize| number.is_multiple_of(step(*number));
    let remaining: Vec<_> = (0..RECORDS).filter(remains).map(key).collect();
    assert_eq!(list(&engine, RECORDS, 0).await.0, remaining);
    let (keys, visited) = list(&engine, 500, 0).await;
    assert_eq!(keys, &remaining[..500]);
    assert!(visited < 3000, "{visited} records visited");
    drop(lock);
    engine.close().await.unwrap();
}

#[tokio::test]
async fn expired_records_are_scanned_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let expires_at = |number| if number + 1 < RECORDS { 100 } else { 0 };
    commit(&engine, (0..RECORDS).map(|number| put(number, expires_at(number)))).await;
    checkpointed(&engine).await;
    assert_eq!(list(&engine, 1, 99).await.0, [key(0)], "before the records expire");
    let last = vec![key(RECORDS - 1)];
    assert_eq!(list(&engine, 10, 100).await.0, last);
    let (keys, visited) = list(&engine, 10, 101).await;
    assert_eq!(keys, last);
    assert!(visited < 10, "{visited} records visited");
    assert_eq!(list(&engine, 1, 99).await.0, [key(0)], "after the clock was set back");
    engine.close().await.unwrap();
}

#[tokio::test]
async fn removed_expired_records_are_not_visited_again() {
    const BATCH: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    commit(&engine, (0..RECORDS).map(|number| put(number, 1 + number as u64 / 20_000))).await;
    checkpointed(&engine).await;
    let lock = block_checkpoints(dir.path());
    let mut all = 0;
    loop {
        let expired = engine.expired(10, BATCH).await.unwrap();
        if expired.is_empty() {
            break;
        }
        all += expired.len();
        let mutations = expired.into_iter().map(|(key, _)| Mutation { key, record: None });
        commit(&engine, mutations).await;
    }
    assert_eq!(all, RECORDS);
    let visited = engine.shared.counters.scanned.load(Ordering::Relaxed);
    assert!(visited < 3 * RECORDS as u64, "{visited} records visited");
    // A record that expires earlier is found, in the memtable and in the database.
    commit(&engine, [put(3, 1)].into_iter()).await;
    assert_eq!(engine.expired(10, BATCH).await.unwrap().len(), 1);
    drop(lock);
    checkpointed(&engine).await;
    let found = engine.expired(10, BATCH).await.unwrap();
    assert_eq!(found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key(3)]);
    engine.close().await.unwrap();
}

#[tokio::test]
async fn tombstones_trigger_a_checkpoint_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    commit(&engine, removed(0..RECORDS)).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut number = RECORDS;
    // The writes keep the server from counting as idle.
    while engine.shared.memtable().tombstones() >= RECORDS {
        assert!(Instant::now() < deadline, "no checkpoint ran");
        commit(&engine, [put(number, 0)].into_iter()).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    engine.close().await.unwrap();
}

#[tokio::test]
async fn counts_include_commits_that_are_only_in_the_wal() {
    const COUNT: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    commit(&engine, (0..COUNT / 2).map(|number| put(number, 0))).await;
    checkpointed(&engine).await;
    let lock = block_checkpoints(dir.path());
    commit(&engine, (0..COUNT).map(|number| put(number, 0))).await;
    assert_eq!(engine.count(b'k').await.unwrap(), COUNT as u64);
    commit(&engine, removed(100..COUNT + 100)).await;
    assert_eq!(engine.count(b'k').await.unwrap(), 100);
    drop(lock);
    checkpointed(&engine).await;
    assert_eq!(engine.count(b'k').await.unwrap(), 100);
    engine.close().await.unwrap();
}

/// A quadratic algorithm needs 180 billion comparisons, which take minutes.
#[tokio::test]
async fn a_commit_with_many_preconditions_is_fast() {
    const COUNT: usize = 600_000;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mutations: Vec<_> = (0..COUNT).map(|number| put(number, 0)).collect();
    let preconditions =
        (0..COUNT).rev().map(|number| Precondition { key: key(number), version: 0 });
    let preconditions = preconditions.collect();
    let start = Instant::now();
    let commit = Commit { preconditions, mutations, ..Commit::default() };
    assert!(matches!(engine.commit(commit).await, Ok(Outcome::Committed(_))));
    assert!(start.elapsed() < Duration::from_secs(90), "{:?}", start.elapsed());
    engine.close().await.unwrap();
}

/// Creates a writer for a data directory, but does not start the maintenance thread.
fn writer_without_maintenance(
    dir: &Path,
    maintenance: SyncSender<MaintenanceTask>,
) -> (Embedded, SyncSender<WriterCommand>, Writer) {
    let fatal = FatalErrorHandler::new(|reason| panic!("{reason}"));
    let dir = Arc::new(DataDir::create(dir).unwrap());
    let conn = database::open_writer(dir.path()).unwrap();
    let position = database::checkpoint_position(&conn).unwrap();
    let (segments, files) = SegmentPool::open(dir.clone(), &[]).unwrap();
    let recovered = recover(&segments, (files, &[]), position, &conn, RecoveryMode::ReadWrite);
    let (memtable, wal_position, _) = recovered.unwrap();
    let blobs = BlobFiles::create(dir.clone(), 0, &fatal).unwrap();
    let shared = Shared::new(dir, memtable, segments, wal_position, (0, 1 << 30));
    let engine = Embedded::new(shared, &conn, blobs).unwrap();
    let (sender, commands) = sync_channel(COMMIT_QUEUE_MAX);
    let WalPosition { version, seq } = engine.shared.wal_position();
    let writer = Writer {
        commands,
        deletions: BlobDeletions::new(maintenance.clone()),
        maintenance,
        shared: engine.shared.clone(),
        pool: engine.read_path.pool.clone(),
        fatal,
        salt: position.salt,
        last_version: version,
        next_seq: seq,
        active: None,
        load: LoadMonitor::default(),
        scratch: Scratch::default(),
    };
    (engine, sender, writer)
}

#[tokio::test]
async fn commits_do_not_wait_for_the_maintenance_queue() {
    const COUNT: usize = 20;
    // Large enough for a blob file.
    let bytes = Bytes::from(vec![0; 5 * INLINE_BYTES_MAX]);
    let dir = tempfile::tempdir().unwrap();
    let (maintenance, tasks) = sync_channel(1);
    maintenance.send(MaintenanceTask::AllocateSegments).unwrap();
    let (engine, commands, writer) = writer_without_maintenance(dir.path(), maintenance);
    let thread = std::thread::spawn(move || writer.run());
    for _ in 0..=COUNT {
        let mut blob = engine.create_blob().await.unwrap();
        blob.write(bytes.clone()).await.unwrap();
        let body = blob.finish().await.unwrap();
        let record = NewRecord { expires_at: 0, meta: Bytes::new(), body };
        let mutations = vec![Mutation { key: key(0), record: Some(record) }];
        let (reply, outcome) = oneshot::channel();
        let commit = Commit { mutations, ..Commit::default() };
        commands.send(WriterCommand::Commit(QueuedCommit { commit, reply })).unwrap();
        let outcome = tokio::time::timeout(Duration::from_secs(60), outcome).await;
        let outcome = outcome.expect("the writer waits for the queue").unwrap();
        assert!(matches!(outcome, Ok(Outcome::Committed(_))), "{outcome:?}");
    }
    // Before the writer ends, it waits until all deletions are in the queue.
    drop(commands);
    let deleted = tasks.iter().filter(|task| matches!(task, MaintenanceTask::DeleteBlob(_)));
    assert_eq!(deleted.count(), COUNT);
    thread.join().unwrap();
}

#[tokio::test]
async fn concurrent_reads_open_a_bounded_number_of_connections() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    commit(&engine, (0..10).map(|number| put(number, 0))).await;
    checkpointed(&engine).await;
    let pool = engine.read_path.pool.clone();
    std::thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| {
                let conn = pool.acquire().unwrap();
                std::thread::sleep(Duration::from_millis(20));
                pool.release(conn).unwrap();
            });
        }
    });
    let max = 32.max(2 * std::thread::available_parallelism().unwrap().get());
    assert!((5..=max).contains(&pool.open_connections()), "{}", pool.open_connections());
    // The connections were used since the last call, so none is closed.
    pool.close_unused();
    assert!(engine.read(&key(1), Projection::Meta).await.unwrap().is_some());
    pool.close_unused();
    assert!(pool.open_connections() <= 5, "{}", pool.open_connections());
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_scan_stops_when_its_future_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    commit(&engine, (0..RECORDS).map(|number| put(number, 0))).await;
    checkpointed(&engine).await;
    let scanned = || engine.shared.counters.scanned.load(Ordering::Relaxed);
    let before = scanned();
    let (start, end) = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));
    let scan = Scan { start, end, limit: RECORDS, skip_expired_at: 0, eventual: false };
    {
        // The scan waits for the lock on a blocking thread.
        let _lock = engine.shared.checkpoint_lock_mut();
        let mut scan = engine.scan(scan.clone());
        let mut context = Context::from_waker(Waker::noop());
        assert!(scan.as_mut().poll(&mut context).is_pending());
    }
    while Arc::strong_count(&engine.read_path) > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(scanned() - before, 0, "the cancelled scan visited records");
    assert_eq!(engine.scan(scan).await.unwrap().len(), RECORDS);
    engine.close().await.unwrap();
}
