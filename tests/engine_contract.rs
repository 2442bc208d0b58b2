//! Tests of the contract of `steadfast::engine` on every engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod engines;

use bytes::Bytes;
use engines::Subject;
use std::collections::BTreeMap;
use steadfast::engine::{
    Body, BoxFuture, Commit, Engine, EngineError, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome,
    Precondition, Projection, Record, Scan, Snapshot, StoredBody,
};

suite!(
    reads_return_exactly_the_written_records,
    versions_increase_across_commits_and_reopens,
    commits_are_atomic,
    preconditions_see_earlier_commits_in_the_same_group,
    exactly_one_of_several_concurrent_commits_with_the_same_precondition_succeeds,
    scans_return_keys_in_byte_order_within_the_bounds,
    scans_skip_expired_records,
    expired_records_are_returned_in_expiry_order,
    records_are_counted_by_the_first_byte_of_the_key,
    bodies_of_every_size_round_trip,
    uncommitted_blobs_leave_no_files,
    a_closed_engine_rejects_all_operations,
    reads_are_monotonic_under_concurrent_commits,
    a_body_that_is_replaced_during_a_read_is_read_completely,
    a_rejected_commit_does_not_affect_the_rest_of_its_group,
    commits_in_a_group_check_preconditions_in_order,
    snapshots_do_not_change,
    snapshots_contain_each_commit_entirely_or_not_at_all,
);

fn put(key: &str, expires_at: u64, meta: &str, body: impl Into<Bytes>) -> Mutation {
    let body = Body::Bytes(body.into());
    let record = NewRecord { expires_at, meta: Bytes::from(meta.to_owned()), body };
    Mutation { key: Bytes::from(key.to_owned()), record: Some(record) }
}

fn remove(key: &str) -> Mutation {
    Mutation { key: Bytes::from(key.to_owned()), record: None }
}

fn precondition(key: &str, version: u64) -> Precondition {
    Precondition { key: Bytes::from(key.to_owned()), version }
}

async fn commit(
    engine: &dyn Engine,
    preconditions: Vec<Precondition>,
    mutations: Vec<Mutation>,
) -> Outcome {
    engine.commit(Commit { version_min: 0, preconditions, mutations }).await.unwrap()
}

async fn apply(engine: &dyn Engine, mutations: Vec<Mutation>) -> u64 {
    match commit(engine, vec![], mutations).await {
        Outcome::Committed(version) => version,
        Outcome::Conflict => panic!("a commit without preconditions reported a conflict"),
    }
}

async fn body(engine: &dyn Engine, key: &str) -> Option<Vec<u8>> {
    let record = engine.read(key.as_bytes(), Projection::Full).await.unwrap()?;
    let len = usize::try_from(record.body.len()).unwrap();
    Some(record.body.read(0, len).await.unwrap().to_vec())
}

fn scan(start: &str, end: &str, limit: usize, skip_expired_at: u64) -> Scan {
    let (start, end) = (Bytes::from(start.to_owned()), Bytes::from(end.to_owned()));
    Scan { start, end, limit, skip_expired_at, eventual: false }
}

async fn keys(engine: &dyn Engine, scan: Scan) -> Vec<String> {
    let page = engine.scan(scan).await.unwrap();
    page.iter().map(|found| String::from_utf8_lossy(found.key).into_owned()).collect()
}

async fn reads_return_exactly_the_written_records(mut subject: Subject) {
    let engine = &*subject.engine;
    let version = apply(engine, vec![put("a", 7, "head", "body"), put("ab", 0, "", "")]).await;
    for _ in 0..2 {
        let engine = &*subject.engine;
        let record = engine.read(b"a", Projection::Full).await.unwrap().unwrap();
        assert_eq!(
            (record.version, record.expires_at, &record.meta[..]),
            (version, 7, &b"head"[..])
        );
        assert_eq!(body(engine, "a").await.unwrap(), b"body");
        let meta = engine.read(b"a", Projection::Meta).await.unwrap().unwrap();
        assert_eq!((meta.version, meta.body.len()), (version, 0));
        assert_eq!(body(engine, "ab").await.unwrap(), b"");
        for absent in [&b""[..], b"b", b"aa", b"a\0"] {
            assert!(engine.read(absent, Projection::Full).await.unwrap().is_none(), "{absent:?}");
        }
        subject.reopen().await;
    }
}

/// Checks that a version exceeds all versions that its process has assigned and all that its keys
/// have had. Processes that share a database may assign lower versions to other keys.
async fn versions_increase_across_commits_and_reopens(mut subject: Subject) {
    let mut assigned = vec![0; subject.processes.len()];
    let mut current = BTreeMap::from([("a", 0), ("b", 0)]);
    let mut assert_increases = |process: usize, keys: &[&'static str], version: u64| {
        let last = keys.iter().map(|key| current[key]).max().unwrap().max(assigned[process]);
        assert!(version > last, "process {process}, {keys:?}: version {version} after {last}");
        current.extend(keys.iter().map(|key| (*key, version)));
        assigned[process] = version;
        version
    };
    for _ in 0..4 {
        let mut highest = 0;
        for (turn, key) in ["a", "b", "a", "a", "b", "b", "a"].into_iter().enumerate() {
            for (process, engine) in subject.processes.iter().enumerate() {
                let version = match turn % 3 {
                    2 => apply(&**engine, vec![remove(key)]).await,
                    _ => apply(&**engine, vec![put(key, 0, "", "x")]).await,
                };
                highest = highest.max(assert_increases(process, &[key], version));
            }
        }
        for (process, engine) in subject.processes.iter().enumerate() {
            let mutations = vec![put("a", 0, "", ""), put("b", 0, "", "")];
            assert_increases(process, &["a", "b"], apply(&**engine, mutations).await);
            let (preconditions, mutations) = (vec![], vec![remove("a")]);
            highest += 1000;
            let ahead = Commit { version_min: highest, preconditions, mutations };
            let Outcome::Committed(version) = engine.commit(ahead).await.unwrap() else {
                panic!("a commit without preconditions reported a conflict")
            };
            assert_eq!(assert_increases(process, &["a"], version), highest);
        }
        subject.reopen().await;
    }
}

async fn commits_are_atomic(subject: Subject) {
    let engine = &*subject.engine;
    let version = apply(engine, vec![put("a", 0, "1", ""), put("b", 0, "1", "")]).await;
    let writes = || vec![put("a", 0, "2", ""), remove("b"), put("c", 0, "2", "")];
    for wrong in [
        vec![precondition("a", version), precondition("b", version + 1)],
        vec![precondition("a", 0)],
        vec![precondition("c", version)],
        vec![precondition("a", version), precondition("b", version), precondition("c", 1)],
    ] {
        assert_eq!(commit(engine, wrong, writes()).await, Outcome::Conflict);
        assert_eq!(keys(engine, scan("a", "z", 10, 0)).await, ["a", "b"]);
        let record = engine.read(b"a", Projection::Meta).await.unwrap().unwrap();
        assert_eq!((record.version, &record.meta[..]), (version, &b"1"[..]));
    }
    let right = vec![precondition("a", version), precondition("b", version), precondition("c", 0)];
    assert_ne!(commit(engine, right, writes()).await, Outcome::Conflict);
    assert_eq!(keys(engine, scan("a", "z", 10, 0)).await, ["a", "c"]);
}

async fn preconditions_see_earlier_commits_in_the_same_group(subject: Subject) {
    let engine = &*subject.engine;
    // Commit concurrently, so that group commit puts both commits into one group.
    let first = engine.commit(Commit {
        version_min: 0,
        preconditions: vec![precondition("k", 0)],
        mutations: vec![put("k", 0, "1", "")],
    });
    let second = engine.commit(Commit {
        version_min: 0,
        preconditions: vec![precondition("k", 0)],
        mutations: vec![put("k", 0, "2", "")],
    });
    let (first, second) = tokio::join!(first, second);
    let outcomes = [first.unwrap(), second.unwrap()];
    assert_eq!(outcomes.iter().filter(|o| **o == Outcome::Conflict).count(), 1);
}

async fn exactly_one_of_several_concurrent_commits_with_the_same_precondition_succeeds(
    subject: Subject,
) {
    let mut version = apply(&*subject.engine, vec![put("k", 0, "", "")]).await;
    for round in 0..20 {
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let engine = subject.engine.clone();
                tokio::spawn(async move {
                    let mutations = vec![put("k", 0, &format!("{round}-{task}"), "")];
                    commit(&*engine, vec![precondition("k", version)], mutations).await
                })
            })
            .collect();
        let mut won = Vec::new();
        for task in tasks {
            if let Outcome::Committed(version) = task.await.unwrap() {
                won.push(version);
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        version = won[0];
    }
}

async fn scans_return_keys_in_byte_order_within_the_bounds(subject: Subject) {
    let engine = &*subject.engine;
    let all = ["A", "a", "a\0", "a!", "aa", "b", "c1", "c10", "c17", "c2", "é"];
    let mut shuffled = all.to_vec();
    shuffled.reverse();
    apply(engine, shuffled.iter().map(|key| put(key, 0, key, "body")).collect()).await;
    assert_eq!(keys(engine, scan("", "\u{10ffff}", 100, 0)).await, all);
    assert_eq!(keys(engine, scan("a", "b", 100, 0)).await, ["a", "a\0", "a!", "aa"]);
    assert_eq!(keys(engine, scan("a\0", "c10", 100, 0)).await, ["a\0", "a!", "aa", "b", "c1"]);
    assert_eq!(keys(engine, scan("a", "z", 2, 0)).await, ["a", "a\0"]);
    assert!(keys(engine, scan("b", "b", 10, 0)).await.is_empty());
    assert!(keys(engine, scan("z", "a", 10, 0)).await.is_empty());
    let page = engine.scan(scan("c1", "c2", 10, 0)).await.unwrap();
    assert!(page.iter().all(|found| found.meta == found.key && found.version > 0));
}

async fn scans_skip_expired_records(subject: Subject) {
    let engine = &*subject.engine;
    let writes = [("a", 0), ("b", 10), ("c", 20), ("d", 30), ("e", 0)];
    apply(engine, writes.iter().map(|(key, expires_at)| put(key, *expires_at, "", "")).collect())
        .await;
    assert_eq!(keys(engine, scan("a", "z", 10, 0)).await, ["a", "b", "c", "d", "e"]);
    assert_eq!(keys(engine, scan("a", "z", 10, 20)).await, ["a", "d", "e"]);
    assert_eq!(keys(engine, scan("a", "z", 2, 20)).await, ["a", "d"]);
    assert_eq!(keys(engine, scan("a", "z", 10, u64::MAX)).await, ["a", "e"]);
}

async fn expired_records_are_returned_in_expiry_order(mut subject: Subject) {
    let writes = vec![put("a", 30, "", ""), put("b", 10, "", ""), put("c", 20, "", "")];
    apply(&*subject.engine, writes).await;
    apply(&*subject.engine, vec![put("never", 0, "", ""), put("later", 50, "", "")]).await;
    let version = apply(&*subject.engine, vec![put("b", 25, "", "")]).await;
    for _ in 0..2 {
        let expires_at = subject.engine.expired(30, 10).await.unwrap();
        let names: Vec<_> = expires_at.iter().map(|(key, _)| &key[..]).collect();
        assert_eq!(names, [b"c", b"b", b"a"]);
        assert_eq!(expires_at[1].1, version);
        assert_eq!(subject.engine.expired(30, 2).await.unwrap().len(), 2);
        assert!(subject.engine.expired(19, 10).await.unwrap().is_empty());
        subject.reopen().await;
    }
    apply(&*subject.engine, vec![remove("c"), put("b", 0, "", "")]).await;
    assert_eq!(
        subject.engine.expired(u64::MAX, 10).await.unwrap().len(),
        2,
        "only the records a and later can expire"
    );
}

async fn records_are_counted_by_the_first_byte_of_the_key(mut subject: Subject) {
    let writes = vec![put("x1", 0, "", ""), put("x2", 0, "", "b"), put("y", 0, "", "")];
    apply(&*subject.engine, writes).await;
    apply(&*subject.engine, vec![put("x1", 0, "new", ""), remove("absent")]).await;
    for _ in 0..2 {
        for (first, count) in [(b'x', 2), (b'y', 1), (b'a', 0)] {
            assert_eq!(subject.engine.count(first).await.unwrap(), count);
        }
        subject.reopen().await;
    }
    apply(&*subject.engine, vec![remove("x1"), remove("x1x")]).await;
    assert_eq!(subject.engine.count(b'x').await.unwrap(), 1);
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed) ^ (i >> 8)) as u8).collect()
}

/// Size of a body that the embedded engine stores in a blob file, in bytes.
const BLOB_BYTES: usize = 5 * INLINE_BYTES_MAX;

async fn write_blob(engine: &dyn Engine, bytes: &[u8], chunk: usize) -> Body {
    let mut blob = engine.create_blob().await.unwrap();
    for chunk in bytes.chunks(chunk) {
        blob.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    blob.finish().await.unwrap()
}

async fn bodies_of_every_size_round_trip(mut subject: Subject) {
    let block = INLINE_BYTES_MAX;
    let sizes =
        [0, 1, 1000, 4096, block - 1, block, block + 1, 4 * block, 4 * block + 1, 5 * block + 17];
    // Replace each size with every other size, to cover every change of body location.
    for (round, before) in sizes.iter().enumerate() {
        for (i, len) in sizes.iter().enumerate() {
            let key = format!("k{i}");
            for len in [before, len] {
                let bytes = pattern(*len, round);
                let body = if *len > block {
                    write_blob(&*subject.engine, &bytes, 70_000).await
                } else {
                    Body::Bytes(Bytes::from(bytes))
                };
                let record = Some(NewRecord { expires_at: 0, meta: Bytes::new(), body });
                let key = Bytes::from(key.clone());
                apply(&*subject.engine, vec![Mutation { key, record }]).await;
            }
        }
        subject.reopen().await;
        for (i, len) in sizes.iter().enumerate() {
            let found = body(&*subject.engine, &format!("k{i}")).await.unwrap();
            assert!(found == pattern(*len, round), "{len} bytes in place of {before} bytes");
        }
    }
    for (large, key) in [(7, b"k7"), (9, b"k9")] {
        let record = subject.engine.read(key, Projection::Full).await.unwrap().unwrap();
        let whole = pattern(sizes[large], sizes.len() - 1);
        for (offset, len) in [(0, 0), (0, 1), (block - 1, 2), (block, block), (17, 3 * block)] {
            let piece = record.body.read(offset as u64, len).await.unwrap();
            assert!(piece == whole[offset..offset + len], "{len} bytes at offset {offset}");
        }
        assert!(record.body.read(whole.len() as u64, 1).await.is_err());
    }
}

fn blob_file_count(subject: &Subject) -> usize {
    let Some(data) = subject.data() else { return 0 };
    let folders = std::fs::read_dir(data.join("blobs")).unwrap();
    folders.map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap().count()).sum()
}

async fn uncommitted_blobs_leave_no_files(mut subject: Subject) {
    let bytes = pattern(BLOB_BYTES, 1);
    let mut cut = subject.engine.create_blob().await.unwrap();
    cut.write(Bytes::from(bytes.clone())).await.unwrap();
    drop(cut);
    drop(write_blob(&*subject.engine, &bytes, 10_000).await);
    // After a conflict, the caller still owns the body.
    let body = write_blob(&*subject.engine, &bytes, 10_000).await;
    let record = || Some(NewRecord { expires_at: 0, meta: Bytes::new(), body: body.clone() });
    let mutations =
        |key: &str| vec![Mutation { key: Bytes::from(key.to_owned()), record: record() }];
    let lost = commit(&*subject.engine, vec![precondition("k", 9)], mutations("k")).await;
    assert_eq!(lost, Outcome::Conflict);
    apply(&*subject.engine, mutations("k")).await;
    subject.reopen().await;
    assert!(self::body(&*subject.engine, "k").await.unwrap() == bytes);
    apply(&*subject.engine, vec![remove("k")]).await;
    subject.reopen().await;
    assert_eq!(blob_file_count(&subject), 0, "there are orphaned blob files");
}

async fn a_closed_engine_rejects_all_operations(subject: Subject) {
    let engine = &*subject.engine;
    apply(engine, vec![put("a", 0, "", "")]).await;
    engine.close().await.unwrap();
    let closed = |e: EngineError| assert!(matches!(e, EngineError::Closed), "{e}");
    closed(engine.commit(Commit::default()).await.unwrap_err());
    closed(engine.scan(scan("a", "b", 1, 0)).await.unwrap_err());
    closed(engine.read(b"other", Projection::Full).await.unwrap_err());
}

async fn reads_are_monotonic_under_concurrent_commits(subject: Subject) {
    let writer = {
        let engine = subject.engine.clone();
        tokio::spawn(async move {
            for n in 0..400_u32 {
                apply(&*engine, vec![put("k", 0, &n.to_string(), n.to_string())]).await;
            }
        })
    };
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let engine = subject.engine.clone();
            tokio::spawn(async move {
                let mut last = 0;
                for turn in 0..3000 {
                    let version = if (reader + turn) % 2 == 0 {
                        let record = engine.read(b"k", Projection::Full).await.unwrap();
                        record.map_or(0, |record| record.version)
                    } else {
                        let page = engine.scan(scan("k", "l", 1, 0)).await.unwrap();
                        page.iter().next().map_or(0, |found| found.version)
                    };
                    assert!(version >= last, "version {version} after {last}");
                    last = version;
                }
            })
        })
        .collect();
    writer.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
}

async fn a_body_that_is_replaced_during_a_read_is_read_completely(subject: Subject) {
    let len = BLOB_BYTES + 5;
    let writer = {
        let engine = subject.engine.clone();
        tokio::spawn(async move {
            for seed in 0..40 {
                let body = write_blob(&*engine, &pattern(len, seed), 100_000).await;
                let meta = Bytes::from(seed.to_string());
                let record = Some(NewRecord { expires_at: 0, meta, body });
                apply(&*engine, vec![Mutation { key: Bytes::from("k"), record }]).await;
            }
        })
    };
    while !writer.is_finished() {
        if let Some(record) = subject.engine.read(b"k", Projection::Full).await.unwrap() {
            let seed = std::str::from_utf8(&record.meta).unwrap().parse().unwrap();
            let found = record.body.read(0, len).await.unwrap();
            assert!(found == pattern(len, seed), "the body belongs to another version");
        }
    }
    writer.await.unwrap();
}

/// A stored body of another engine, which the engine under test must reject.
struct Foreign;

impl StoredBody for Foreign {
    fn len(&self) -> u64 {
        10
    }

    fn read(&self, _: u64, len: usize) -> BoxFuture<'_, steadfast::engine::Result<Bytes>> {
        Box::pin(async move { Ok(Bytes::from(vec![b'f'; len])) })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

async fn a_rejected_commit_does_not_affect_the_rest_of_its_group(subject: Subject) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let engine = subject.engine.clone();
        tasks.spawn(async move {
            let foreign = n % 10 == 3;
            let mut mutations = put(&format!("k{n:03}"), 0, "h", "v");
            if let (true, Some(record)) = (foreign, &mut mutations.record) {
                record.body = Body::Stored(std::sync::Arc::new(Foreign));
            }
            let commit =
                Commit { version_min: 0, preconditions: vec![], mutations: vec![mutations] };
            (n, foreign, engine.commit(commit).await)
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (n, foreign, outcome) = done.unwrap();
        let there = body(&*subject.engine, &format!("k{n:03}")).await;
        match outcome {
            Ok(Outcome::Committed(_)) => assert!(there.is_some(), "{n}"),
            Ok(Outcome::Conflict) => panic!("commit {n} reported a conflict"),
            Err(e) => assert!(foreign && there.is_none(), "{n}: {e}"),
        }
    }
}

async fn commits_in_a_group_check_preconditions_in_order(subject: Subject) {
    // However commits are grouped, at most one commit per expected version succeeds.
    let mut version = 0;
    for round in 0..30 {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..40 {
            let engine = subject.engine.clone();
            tasks.spawn(async move {
                let preconditions = if n < 20 { vec![precondition("k", version)] } else { vec![] };
                let mutations = match n {
                    20..25 => vec![remove("k")],
                    25..40 => vec![put("other", 0, "", format!("{n}"))],
                    _ => vec![put("k", 0, "", format!("{round}-{n}"))],
                };
                (n, commit(&*engine, preconditions, mutations).await)
            });
        }
        let (mut won, mut last) = (0, (0, true));
        while let Some(done) = tasks.join_next().await {
            if let (n @ 0..25, Outcome::Committed(version)) = done.unwrap() {
                won += u32::from(n < 20);
                last = last.max((version, n < 20));
            }
        }
        // Versions never repeat, but each removal makes the precondition "absent" true again.
        let most = if version == 0 { 6 } else { 1 };
        assert!(won <= most, "{won} commits with the precondition version {version} succeeded");
        let found = subject.engine.read(b"k", Projection::Meta).await.unwrap();
        assert_eq!(found.as_ref().map(|record| record.version), last.1.then_some(last.0));
        version = found.map_or(0, |record| record.version);
    }
}

/// Reads all records of a snapshot in pages of at most `limit` records and about `bytes` bytes.
async fn read_all(snapshot: &mut dyn Snapshot, limit: usize, bytes: u64) -> Vec<(Bytes, Record)> {
    let (mut all, mut start) = (Vec::new(), Bytes::from_static(b"a"));
    loop {
        let page = snapshot.scan(start, Bytes::from_static(b"z"), limit, bytes).await.unwrap();
        assert!(page.len() <= limit);
        let Some((last, _)) = page.last() else { return all };
        start = Bytes::from([last, &b"\0"[..]].concat());
        all.extend(page);
    }
}

async fn snapshots_do_not_change(subject: Subject) {
    let engine = &*subject.engine;
    let len = |seed| if seed < 30 { 2 * INLINE_BYTES_MAX } else { BLOB_BYTES };
    let large = |seed| Bytes::from(pattern(len(seed), seed));
    let mut bodies = std::collections::BTreeMap::new();
    for n in 0..60 {
        let key = format!("k{n:02}");
        let bytes = if n % 10 == 3 { large(n) } else { Bytes::from(pattern(n * 1000, n)) };
        let body = write_blob(engine, &bytes, 50_000).await;
        let body = if n % 10 == 3 { body } else { Body::Bytes(bytes.clone()) };
        let meta = Bytes::from(format!("head {n}"));
        let record = Some(NewRecord { expires_at: n as u64, meta, body });
        let version = apply(engine, vec![Mutation { key: key.clone().into(), record }]).await;
        bodies.insert(key, (version, n as u64, bytes));
        // A checkpoint moves the first half of the records to the database. The rest stays in the
        // WAL.
        if n == 30 {
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        }
    }
    let mut snapshot = engine.snapshot().await.unwrap();
    for n in 0..60 {
        let mutations = match n % 3 {
            0 => remove(&format!("k{n:02}")),
            1 => put(&format!("k{n:02}"), 0, "new", "new"),
            _ => put(&format!("k{n:02}x"), 0, "more", "more"),
        };
        apply(engine, vec![mutations]).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    for (limit, bytes) in [(1, u64::MAX), (7, u64::MAX), (1000, 300_000), (1000, 1)] {
        let found = read_all(&mut *snapshot, limit, bytes).await;
        assert_eq!(found.len(), bodies.len(), "pages of {limit} and {bytes} bytes");
        for ((key, record), (name, (version, expires_at, bytes))) in found.iter().zip(&bodies) {
            assert_eq!(
                (&key[..], record.version, record.expires_at),
                (name.as_bytes(), *version, *expires_at)
            );
            let len = usize::try_from(record.body.len()).unwrap();
            assert!(record.body.read(0, len).await.unwrap() == bytes, "{name}");
            assert_eq!(record.meta, format!("head {expires_at}"));
        }
    }
    let none = snapshot.scan("k5".into(), "k5".into(), 10, 10).await.unwrap();
    assert!(
        none.is_empty() && read_all(&mut *engine.snapshot().await.unwrap(), 9, 9).await.len() == 60
    );
    drop(snapshot);
    for n in 0..60 {
        apply(engine, vec![remove(&format!("k{n:02}"))]).await;
    }
    engine.close().await.unwrap();
    assert_eq!(blob_file_count(&subject), 0, "blob files remain after the snapshot was dropped");
}

async fn snapshots_contain_each_commit_entirely_or_not_at_all(subject: Subject) {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for pair in 0..4 {
        let (engine, stop) = (subject.engine.clone(), stop.clone());
        writers.spawn(async move {
            let mut n = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                let text = n.to_string();
                // These keys are far apart in key order, so that no page contains all of them.
                let writes = vec![
                    put(&format!("b{pair}"), 0, &text, vec![1; 3000]),
                    put(&format!("m{pair}-{}", n % 500), 0, &text, vec![2; 500]),
                    put(&format!("y{pair}"), 0, &text, vec![3; 3000]),
                ];
                apply(&*engine, writes).await;
                // Yield explicitly, because the memory engine never does.
                tokio::task::yield_now().await;
            }
            n
        });
    }
    for _ in 0..25 {
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
        let mut snapshot = subject.engine.snapshot().await.unwrap();
        let found = read_all(&mut *snapshot, 50, u64::MAX).await;
        for pair in 0..4 {
            let meta = |key: String| {
                let found = found.iter().find(|(other, _)| *other == key.as_bytes());
                found.map(|(_, record)| String::from_utf8_lossy(&record.meta).into_owned())
            };
            let (first, last) = (meta(format!("b{pair}")), meta(format!("y{pair}")));
            assert_eq!(first, last, "the snapshot contains a partial commit");
            let newest =
                found.iter().filter(|(key, _)| key.starts_with(format!("m{pair}-").as_bytes()));
            let newest = newest.map(|(_, record)| String::from_utf8_lossy(&record.meta).parse());
            let newest: Option<u64> = newest.map(Result::unwrap).max();
            assert_eq!(newest.map(|n| n.to_string()), last);
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(writes) = writers.join_next().await {
        assert!(writes.unwrap() > 10, "the snapshots blocked a writer");
    }
}
