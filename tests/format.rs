//! Tests of the on-disk format: damaged data and unknown formats are reported and never served.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::Bytes;
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use steadfast::engine::embedded::{self, Embedded, FatalErrorHandler, Options};
use steadfast::engine::{
    Body, Commit, Engine, EngineError, INLINE_BYTES_MAX, Mutation, NewRecord, Projection, Scan,
};

/// The key of an item record, as described in docs/format.md.
const ITEM_KEY: &str = "i0c5m1x2v7q9r4t8k3h6j1akey";

fn open(dir: &Path) -> Result<Embedded, EngineError> {
    let fatal = FatalErrorHandler::new(|why| panic!("the engine stopped: {why}"));
    Embedded::open(Options { dir: dir.into(), cache_bytes: 0, wal_bytes: 128 << 20, fatal })
}

/// Returns a mutation that writes a record with `body`, or deletes the record.
fn mutation(key: &str, body: Option<Body>) -> Mutation {
    let meta = Bytes::from_static(b"head");
    let record = body.map(|body| NewRecord { expires_at: 0, meta, body });
    Mutation { key: Bytes::from(key.to_owned()), record }
}

async fn commit(engine: &dyn Engine, mutations: impl IntoIterator<Item = Mutation>) {
    let mutations = mutations.into_iter().collect();
    engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap();
}

async fn put(engine: &dyn Engine, key: &str, body: Body) {
    commit(engine, [mutation(key, Some(body))]).await;
}

async fn delete(engine: &dyn Engine, key: &str) {
    commit(engine, [mutation(key, None)]).await;
}

async fn write_blob(engine: &dyn Engine, len: usize) -> Body {
    let mut blob = engine.create_blob().await.unwrap();
    blob.write(Bytes::from(vec![b's'; len])).await.unwrap();
    blob.finish().await.unwrap()
}

/// Size of a body that is stored in a blob file, in bytes.
const LARGE: usize = 5 * INLINE_BYTES_MAX;

/// Creates a data directory with the small records `a` and `b` and the large record `c`, which are
/// written in one commit and therefore to one segment.
async fn populated() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let engine = open(&data).unwrap();
    let bodies = [
        ("a", Body::Bytes(Bytes::from_static(b"small"))),
        ("b", Body::Bytes(Bytes::from_static(b"other"))),
        ("c", write_blob(&engine, LARGE).await),
    ];
    commit(&engine, bodies.map(|(key, body)| mutation(key, Some(body)))).await;
    engine.close().await.unwrap();
    (dir, data)
}

/// Executes a statement that changes the database of a closed engine.
fn tamper(data: &Path, sql: &str) {
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    let changed = conn.execute(sql, []).unwrap();
    assert!(changed > 0, "{sql} changed no row");
}

async fn read(engine: &dyn Engine, key: &str) -> Result<Vec<u8>, EngineError> {
    let record = engine.read(key.as_bytes(), Projection::Full).await?.unwrap();
    let len = usize::try_from(record.body.len()).unwrap();
    Ok(record.body.read(0, len).await?.to_vec())
}

fn assert_corrupt<T: std::fmt::Debug>(reply: Result<T, EngineError>, expected: &str) {
    match reply {
        Err(EngineError::Corrupt(what)) => assert!(what.contains(expected), "{what}"),
        other => panic!("the result is not a corruption error: {other:?}"),
    }
}

#[tokio::test]
async fn open_rejects_other_format_versions_and_suggests_a_remedy() {
    let (_dir, data) = populated().await;
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.pragma_update(None, "user_version", 3).unwrap();
    drop(conn);
    let expected = "data format 3, but this build reads formats 1 to 2; run";
    assert_corrupt(open(&data).map(|_| ()), expected);
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.pragma_update(None, "user_version", 2).unwrap();
    drop(conn);
    let engine = open(&data).unwrap();
    assert_eq!(read(&engine, "a").await.unwrap(), b"small", "the data has changed");
}

#[tokio::test]
async fn open_rejects_a_foreign_database_without_changing_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("steadfast.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    assert_corrupt(open(dir.path()).map(|_| ()), "of another program; choose another");
    assert!(before == fs::read(&path).unwrap());
}

#[tokio::test]
async fn open_does_not_recreate_a_missing_database() {
    for what in ["log", "blobs"] {
        let (_dir, data) = populated().await;
        for entry in fs::read_dir(&data).unwrap() {
            let path = entry.unwrap().path();
            match path.file_name().unwrap().to_str().unwrap() {
                name if name.starts_with("steadfast.db") => fs::remove_file(path).unwrap(),
                name if path.is_dir() && name != what => fs::remove_dir_all(path).unwrap(),
                _ => {}
            }
        }
        for _ in 0..2 {
            assert_corrupt(open(&data).map(|_| ()), "is missing or empty, but");
        }
    }
}

#[tokio::test]
async fn data_directories_may_have_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = format!("/{}", dir.path().display());
    for name in ["a b", "what?mode=memory", "50%25", "a#b", "a&b=c", "\u{e9}\u{1f600}", "file:x"] {
        let data = Path::new(&root).join(name);
        for round in 0..2 {
            let engine = open(&data).unwrap();
            if round == 0 {
                put(&engine, "a", Body::Bytes(Bytes::from_static(b"small"))).await;
            }
            assert_eq!(read(&engine, "a").await.unwrap(), b"small", "{name}");
            engine.close().await.unwrap();
        }
        assert!(data.join("steadfast.db").is_file(), "{name}");
    }
}

#[tokio::test]
async fn open_rejects_a_file_that_is_not_a_database() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("steadfast.db"), vec![b'x'; 8192]).unwrap();
    assert_corrupt(open(dir.path()).map(|_| ()), "restore a backup");
}

/// Returns the path and content of the segment file that contains a value, and the offset of the
/// value in bytes.
fn find_in_segments(data: &Path, value: &[u8]) -> (PathBuf, Vec<u8>, usize) {
    for file in fs::read_dir(data.join("log")).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(value.len()).position(|window| window == value) {
            return (path, bytes, at);
        }
    }
    panic!("no segment contains {}", value.escape_ascii());
}

#[tokio::test]
async fn changed_and_swapped_bodies_are_not_served() {
    type Damage = fn(&mut Vec<u8>, usize);
    let damages: [(Damage, &str, bool); 3] = [
        (|bytes, at| bytes[at] = b'S', "does not match its checksum", true),
        (|bytes, at| bytes.truncate(at + 2), "is truncated", false),
        (|bytes, at| bytes[at..at + 5].copy_from_slice(b"other"), "does not match", true),
    ];
    for (damage, expected, serves_others) in damages {
        let (_dir, data) = populated().await;
        let (path, mut bytes, at) = find_in_segments(&data, b"small");
        damage(&mut bytes, at);
        fs::write(path, bytes).unwrap();
        let engine = open(&data).unwrap();
        assert_corrupt(read(&engine, "a").await, expected);
        if serves_others {
            assert_eq!(read(&engine, "b").await.unwrap(), b"other");
        }
        assert_eq!(read(&engine, "c").await.unwrap().len(), LARGE);
    }
}

#[tokio::test]
async fn a_directory_without_free_segment_files_opens() {
    let (_dir, data) = populated().await;
    let (sealed, _, _) = find_in_segments(&data, b"small");
    for file in fs::read_dir(data.join("log")).unwrap().map(|file| file.unwrap().path()) {
        if file != sealed {
            fs::remove_file(file).unwrap();
        }
    }
    let report = embedded::verify(&data, |_, _| {}).unwrap();
    assert_eq!(report.problem_count, 0, "{:?}", report.problems);
    let engine = open(&data).unwrap();
    assert_eq!(read(&engine, "a").await.unwrap(), b"small");
    put(&engine, "d", Body::Bytes(Bytes::from_static(b"new"))).await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_missing_segment_affects_only_the_values_in_it() {
    let (_dir, data) = populated().await;
    let engine = open(&data).unwrap();
    put(&engine, "d", Body::Bytes(Bytes::from_static(b"in another segment"))).await;
    engine.close().await.unwrap();
    let (lost, _, _) = find_in_segments(&data, b"small");
    let (kept, _, _) = find_in_segments(&data, b"in another segment");
    assert_ne!(lost, kept);
    fs::remove_file(lost).unwrap();
    for round in 0..3 {
        let engine = open(&data).unwrap();
        assert_corrupt(read(&engine, "a").await, "is missing");
        assert_eq!(read(&engine, "d").await.unwrap(), b"in another segment");
        // New segment files must not reuse the number of the missing file.
        put(&engine, "e", Body::Bytes(Bytes::from(vec![round; 1000]))).await;
        engine.close().await.unwrap();
    }
    let engine = open(&data).unwrap();
    assert_eq!(read(&engine, "e").await.unwrap(), [2; 1000]);
    put(&engine, "a", Body::Bytes(Bytes::from_static(b"again"))).await;
    assert_eq!(read(&engine, "a").await.unwrap(), b"again");
}

#[tokio::test]
async fn changed_and_moved_record_metadata_is_not_served() {
    for sql in [
        "UPDATE heads SET data = CAST(data || x'00' AS BLOB) WHERE key = CAST('a' AS BLOB)",
        "UPDATE heads SET data = substr(data, 1, 10) WHERE key = CAST('a' AS BLOB)",
        "UPDATE heads SET data = (SELECT data FROM heads WHERE key = CAST('b' AS BLOB)) \
         WHERE key = CAST('a' AS BLOB)",
        "UPDATE heads SET key = CAST('aa' AS BLOB) WHERE key = CAST('a' AS BLOB)",
    ] {
        let (_dir, data) = populated().await;
        tamper(&data, sql);
        let engine = open(&data).unwrap();
        let key = if sql.contains("aa") { "aa" } else { "a" };
        assert_corrupt(read(&engine, key).await, "does not match its checksum");
        let (start, end) = (Bytes::from("a"), Bytes::from("b"));
        let scan = Scan { start, end, limit: 9, skip_expired_at: 0, eventual: false };
        assert_corrupt(engine.scan(scan).await, "does not match its checksum");
    }
}

fn blob_path(data: &Path) -> PathBuf {
    let folders = fs::read_dir(data.join("blobs")).unwrap();
    let mut files = folders.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    files.next().unwrap().unwrap().path()
}

#[tokio::test]
async fn missing_truncated_and_changed_blob_files_are_not_served() {
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 1;
    let size = LARGE + 5 * 4 + 24;
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: Vec<Damage> = vec![
        Box::new(flip(0)),
        Box::new(flip(LARGE - 1)),
        Box::new(flip(LARGE)),
        Box::new(flip(size - 1)),
        Box::new(flip(size - 24)),
        Box::new(|bytes| bytes.truncate(100)),
        Box::new(|bytes| bytes.truncate(LARGE)),
        Box::new(Vec::clear),
        Box::new(|bytes| bytes.push(0)),
        Box::new(|bytes| bytes.fill(0)),
    ];
    for (number, damage) in damages.iter().enumerate() {
        let (_dir, data) = populated().await;
        let path = blob_path(&data);
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), size);
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let engine = open(&data).unwrap();
        let reply = read(&engine, "c").await.map(|bytes| bytes.len());
        assert!(matches!(reply, Err(EngineError::Corrupt(_))), "damage {number}: {reply:?}");
    }
    let (_dir, data) = populated().await;
    fs::remove_file(blob_path(&data)).unwrap();
    let engine = open(&data).unwrap();
    assert_corrupt(read(&engine, "c").await.map(|_| ()), "is missing");
}

#[tokio::test]
async fn a_damaged_block_of_a_blob_file_does_not_affect_other_blocks() {
    let (_dir, data) = populated().await;
    let path = blob_path(&data);
    let mut bytes = fs::read(&path).unwrap();
    bytes[INLINE_BYTES_MAX + 5] ^= 1;
    fs::write(&path, bytes).unwrap();
    let engine = open(&data).unwrap();
    let record = engine.read(b"c", Projection::Full).await.unwrap().unwrap();
    let block = INLINE_BYTES_MAX as u64;
    assert!(record.body.read(0, INLINE_BYTES_MAX).await.is_ok());
    assert!(record.body.read(block, INLINE_BYTES_MAX).await.is_err());
    assert!(record.body.read(2 * block, INLINE_BYTES_MAX).await.is_ok());
}

#[tokio::test]
async fn orphaned_blob_files_are_removed_after_startup_and_other_files_are_kept() {
    let (_dir, data) = populated().await;
    let orphan = data.join("blobs").join("2a").join("000000000000002a");
    fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    fs::write(&orphan, b"left by a crash").unwrap();
    let foreign = orphan.with_file_name("notes.txt");
    fs::write(&foreign, b"the operator's").unwrap();
    let engine = open(&data).unwrap();
    // Closing the engine waits for maintenance, which begins with the removal of orphans.
    engine.close().await.unwrap();
    assert!(!orphan.exists() && foreign.exists());
    let engine = open(&data).unwrap();
    assert_eq!(read(&engine, "c").await.unwrap().len(), LARGE);
}

#[tokio::test]
async fn only_one_engine_can_lock_a_data_directory() {
    let (_dir, data) = populated().await;
    let first = open(&data).unwrap();
    match open(&data).map(|_| ()) {
        Err(EngineError::Failed(what)) => {
            assert!(what.contains("is locked by another steadfast"), "{what}");
        }
        other => panic!("the directory could be opened twice: {other:?}"),
    }
    first.close().await.unwrap();
    open(&data).unwrap();
}

#[test]
fn open_waits_briefly_for_the_directory_lock() {
    let dir = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(dir.path().join("LOCK")).unwrap();
    lock.lock().unwrap();
    let open = || {
        let fatal = FatalErrorHandler::new(|why| panic!("{why}"));
        let dir = dir.path().into();
        Embedded::open(Options { dir, cache_bytes: 0, wal_bytes: 1 << 20, fatal })
    };
    let refused = open().map(drop).unwrap_err().to_string();
    assert!(refused.contains("is locked"), "{refused}");
    let holder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        drop(lock);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(open().unwrap().close()).unwrap();
    holder.join().unwrap();
}

#[tokio::test]
async fn deletes_free_disk_space() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(open(dir.path()).unwrap());
    let body = Body::Bytes(Bytes::from(vec![b'v'; 200_000]));
    for n in 0..800 {
        put(&*engine, &format!("k{n:03}"), body.clone()).await;
    }
    let full = engine.stats().disk_bytes;
    assert!(full >= 160_000_000, "160 MB of values use only {full} bytes");
    commit(&*engine, (0..800).map(|n| mutation(&format!("k{n:03}"), None))).await;
    // Checkpoints and the vacuum run while the engine is idle.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while engine.stats().disk_bytes > full / 5 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = engine.stats().disk_bytes;
        assert!(std::time::Instant::now() < end, "{now} of {full} bytes are still used");
    }
    engine.close().await.unwrap();
}

#[test]
fn token_records_have_the_documented_layout() {
    use steadfast::kv::codec::TokenMeta;
    use steadfast::kv::tokens::{Grant, Scope, TokenId};
    use steadfast::kv::types::StoreId;
    let store = StoreId::parse(b"0c5m1x2v7q9r4t8k3h6j1a").unwrap();
    let id = TokenId::parse(b"zzzzzzzzzzzzzzzzzzzzzz").unwrap();
    let grant = Grant::new("name", Scope::Read, vec![store], "prefix/").unwrap();
    let meta = TokenMeta { id, grant, created_at: 0x0102_0304_0506_0708 };
    let bytes = b"\x01\x01\x08\x07\x06\x05\x04\x03\x02\x01zzzzzzzzzzzzzzzzzzzzzz\
        \x010c5m1x2v7q9r4t8k3h6j1a\x04\0nameprefix/";
    assert_eq!(meta.encode(), &bytes[..]);
    assert_eq!(TokenMeta::decode(bytes).unwrap(), meta);
}

#[test]
fn keys_have_the_documented_layout() {
    use steadfast::kv::keyspace;
    use steadfast::kv::types::{Key, StoreId};
    let store = StoreId::parse(b"0c5m1x2v7q9r4t8k3h6j1a").unwrap();
    let key = Key::parse(b"key").unwrap();
    assert_eq!(keyspace::item(&store, &key), ITEM_KEY);
    assert_eq!(keyspace::store(&store), "s0c5m1x2v7q9r4t8k3h6j1a");
    assert_eq!(keyspace::token(&[b'h'; 32]), "thhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh");
    assert_eq!(keyspace::store_order("My Störe"), "oMY STöRE\0My Störe");
}

/// Converts a closed, empty data directory to format 1 and adds `count` records with bodies of
/// 20,000 bytes. Returns the versions of the records.
fn convert_to_format_1(data: &Path, count: usize) -> Vec<u64> {
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.execute_batch("BEGIN; DROP TABLE segments; PRAGMA user_version = 1").unwrap();
    let sql = "SELECT last_version FROM meta";
    let last: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    let versions: Vec<u64> = (1..=count as u64).map(|number| last as u64 + number).collect();
    for (number, version) in versions.iter().enumerate() {
        let (id, key) = (1 + number as i64, format!("old{number:05}"));
        let body = vec![number as u8; 20_000];
        let mut sum = crc32fast::Hasher::new();
        sum.update(&version.to_le_bytes());
        sum.update(&body);
        let sql = "INSERT INTO bodies (id, sum, body) VALUES (?1, ?2, ?3)";
        conn.execute(sql, rusqlite::params![id, sum.finalize(), body]).unwrap();
        let mut data: Vec<u8> =
            [*version, 0, id.cast_unsigned()].iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut sum = crc32fast::Hasher::new_with_initial(key.len() as u32);
        [key.as_bytes(), &data, b"meta"].iter().for_each(|part| sum.update(part));
        data.extend_from_slice(&sum.finalize().to_le_bytes());
        data.extend_from_slice(b"meta");
        let sql = "INSERT INTO heads (key, due, data) VALUES (CAST(?1 AS BLOB), 0, ?2)";
        conn.execute(sql, rusqlite::params![key, data]).unwrap();
    }
    let last = versions.last().unwrap();
    let sql = format!("UPDATE meta SET last_version = {last}; COMMIT");
    conn.execute_batch(&sql).unwrap();
    let sql = "INSERT INTO counts (first, n) VALUES (111, ?1)";
    conn.execute(sql, [count as i64]).unwrap();
    versions
}

#[tokio::test]
async fn bodies_of_format_1_move_to_segments_and_free_their_space() {
    const COUNT: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    open(&data).unwrap().close().await.unwrap();
    let versions = convert_to_format_1(&data, COUNT);
    let report = embedded::verify(&data, |_, _| {}).unwrap();
    assert_eq!((report.problem_count, report.records), (0, COUNT as u64), "{:?}", report.problems);
    let database_bytes = || fs::metadata(data.join("steadfast.db")).unwrap().len();
    let full = database_bytes();
    assert!(full > 40_000_000, "{full} bytes");
    let conn = Connection::open(data.join("steadfast.db")).unwrap();
    conn.busy_timeout(Duration::from_secs(60)).unwrap();
    let left =
        || -> i64 { conn.query_row("SELECT count(*) FROM bodies", [], |row| row.get(0)).unwrap() };
    // Restarts the engine until the migration is complete and the database has shrunk. Values are
    // read, overwritten and deleted in the meantime.
    let end = Instant::now() + Duration::from_secs(300);
    let mut round = 0;
    while left() > 0 || database_bytes() > full / 5 {
        assert!(Instant::now() < end, "{} bodies left, {} bytes", left(), database_bytes());
        let engine = open(&data).unwrap();
        for number in (round..COUNT).step_by(100) {
            let key = format!("old{number:05}");
            match number % 4 {
                0 => put(&engine, &key, Body::Bytes(Bytes::from_static(b"new"))).await,
                1 => delete(&engine, &key).await,
                _ => {}
            }
            let record = engine.read(key.as_bytes(), Projection::Full).await.unwrap();
            match (number % 4, record) {
                (0, Some(record)) => assert_eq!(record.body.len(), 3, "{key}"),
                (1, None) => {}
                (2.., Some(record)) => assert_eq!(record.version, versions[number], "{key}"),
                (_, record) => panic!("{key}: {record:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(400 + 100 * round as u64)).await;
        engine.close().await.unwrap();
        round = (round + 1) % 100;
    }
    let engine = open(&data).unwrap();
    for (number, version) in versions.into_iter().enumerate() {
        let key = format!("old{number:05}");
        let Some(record) = engine.read(key.as_bytes(), Projection::Full).await.unwrap() else {
            assert_eq!(number % 4, 1, "{key} is missing");
            continue;
        };
        if record.version == version {
            let body = record.body.read(0, 20_000).await.unwrap();
            assert!(body == vec![number as u8; 20_000], "{key}");
        } else {
            assert_eq!(number % 4, 0, "{key} has version {}", record.version);
        }
    }
    engine.close().await.unwrap();
    let report = embedded::verify(&data, |_, _| {}).unwrap();
    assert_eq!(report.problem_count, 0, "{:?}", report.problems);
}
