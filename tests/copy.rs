//! Tests of copies between engines: they are complete, resumable and verified, and a non-empty
//! destination is refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod engines;
#[path = "engines/fault_injection.rs"]
#[allow(dead_code, reason = "this suite uses some of its faults")]
mod fault_injection;
mod support;

use bytes::Bytes;
use engines::Subject;
use fault_injection::{Fault, FaultInjectingEngine};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use steadfast::engine::copy::{self, CopyError, MARKER_KEY, Progress};
use steadfast::engine::memory::Memory;
use steadfast::engine::{
    Body, Commit, Engine, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome, Projection, Scan,
};
use support::{DiskServer, Server, binary};

suite!(
    a_copy_and_a_copy_back_contain_all_records,
    a_copy_interrupted_at_any_commit_resumes_and_completes,
    nonempty_destinations_and_incomplete_sources_are_refused, verification_finds_differences,
    concurrent_copies_into_one_destination_do_not_corrupt_it,
);

const RECORDS: usize = 2345;

fn record(expires_at: u64, meta: &str, body: Vec<u8>) -> NewRecord {
    NewRecord { expires_at, meta: Bytes::from(meta.to_owned()), body: Body::Bytes(body.into()) }
}

async fn commit(engine: &dyn Engine, mutations: Vec<Mutation>) -> u64 {
    match engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap()
    {
        Outcome::Committed(version) => version,
        Outcome::Conflict => panic!("a commit without preconditions reported a conflict"),
    }
}

/// Returns an engine with records of every kind. Some versions are much higher than the rest.
async fn source_records() -> Arc<dyn Engine> {
    let engine = Memory::new();
    let mut write = Vec::new();
    for n in 0..RECORDS {
        let key = format!("i{n:05}").into_bytes();
        let body = vec![u8::try_from(n % 251).unwrap(); n % 3000];
        write.push(Mutation {
            key: key.into(),
            record: Some(record(n as u64 % 7, &"h".repeat(n % 90), body)),
        });
    }
    for (key, len) in [("a\u{1}", 0), ("i", 1), ("zlarge", 3 * INLINE_BYTES_MAX + 17), ("zz", 5)] {
        let body = (0..len).map(|at| u8::try_from(at % 256).unwrap()).collect();
        let key = Bytes::from(key.to_owned());
        write.push(Mutation { key, record: Some(record(9_999, "large", body)) });
    }
    let high = write.split_off(100);
    commit(&engine, write).await;
    let commit = Commit { version_min: 1 << 40, preconditions: vec![], mutations: high };
    engine.commit(commit).await.unwrap();
    Arc::new(engine)
}

type AllRecords = Vec<(Vec<u8>, u64, Vec<u8>, Vec<u8>)>;

async fn all(engine: &dyn Engine) -> (AllRecords, u64) {
    let (start, end) = (Bytes::new(), Bytes::from_static(&[0xff]));
    let page = engine
        .scan(Scan { start, end, limit: 100_000, skip_expired_at: 0, eventual: false })
        .await
        .unwrap();
    let (mut all, mut version) = (Vec::new(), 0);
    for found in page.iter() {
        let record = engine.read(found.key, Projection::Full).await.unwrap().unwrap();
        let len = usize::try_from(record.body.len()).unwrap();
        let body = record.body.read(0, len).await.unwrap().to_vec();
        version = version.max(record.version);
        all.push((found.key.to_vec(), found.expires_at, found.meta.to_vec(), body));
    }
    (all, version)
}

async fn copy_all(from: &Arc<dyn Engine>, to: &Arc<dyn Engine>) -> Result<Progress, CopyError> {
    copy::copy(from, to, &mut |_| {}).await
}

async fn a_copy_and_a_copy_back_contain_all_records(mut destination: Subject) {
    let source = source_records().await;
    let (before, highest) = all(&*source).await;
    let mut steps = Vec::new();
    let done = copy::copy(&source, &destination.engine, &mut |now| steps.push(now)).await.unwrap();
    assert_eq!(done.records, before.len() as u64);
    assert_eq!(done.total, before.len() as u64);
    assert!(steps.iter().any(|now| !now.comparing && now.records == 1000));
    assert!(steps.iter().any(|now| now.comparing && now.records == done.records));
    destination.reopen().await;
    let (copied, version) = all(&*destination.engine).await;
    assert!(copied == before);
    assert!(version >= highest, "{version} < {highest}");
    assert!(copy::check_complete(&*destination.engine).await.is_ok());

    let back: Arc<dyn Engine> = Arc::new(Memory::new());
    let again = copy_all(&destination.engine, &back).await.unwrap();
    assert_eq!((again.bytes, again.checksum), (done.bytes, done.checksum));
    assert!(all(&*back).await.0 == before);
}

async fn a_copy_interrupted_at_any_commit_resumes_and_completes(subject: Subject) {
    let source = source_records().await;
    let destination = Arc::new(FaultInjectingEngine::new(subject.engine.clone()));
    let faulty: Arc<dyn Engine> = destination.clone();
    let mut interruptions = 0;
    // Each attempt fails one commit later than the previous one. In every second attempt, the
    // failed commit is applied nevertheless.
    for (after, fault) in (0..).zip([Fault::BeforeCommit, Fault::AfterCommit].into_iter().cycle()) {
        destination.plan(&[vec![Fault::None; after], vec![fault]].concat());
        match copy_all(&source, &faulty).await {
            Ok(_) => break,
            Err(CopyError::Engine(copy::Side::Destination, _)) => interruptions += 1,
            Err(e) => panic!("{e}"),
        }
        let unfinished = copy::check_complete(&*subject.engine).await;
        // If the first commit failed, the destination is empty and has no marker of an unfinished
        // copy.
        assert!(unfinished.is_err() || after == 0, "interrupted after {after} commits");
    }
    assert!(interruptions >= 4, "there were only {interruptions} interruptions");
    assert!(all(&*source).await.0 == all(&*subject.engine).await.0);
}

async fn nonempty_destinations_and_incomplete_sources_are_refused(destination: Subject) {
    let (source, empty) = (source_records().await, Arc::new(Memory::new()));
    let key = Bytes::from_static(b"x");
    commit(
        &*destination.engine,
        vec![Mutation { key: key.clone(), record: Some(record(0, "", vec![])) }],
    )
    .await;
    let refused = copy_all(&source, &destination.engine).await;
    assert!(matches!(refused, Err(CopyError::NotEmpty)), "{refused:?}");
    assert_eq!(all(&*destination.engine).await.0.len(), 1, "a refused copy must change nothing");

    let copy_marker =
        Mutation { key: Bytes::from_static(MARKER_KEY), record: Some(record(0, "", vec![])) };
    commit(&*destination.engine, vec![copy_marker]).await;
    assert!(copy::check_complete(&*destination.engine).await.is_err());
    let into: Arc<dyn Engine> = empty;
    let refused = copy_all(&destination.engine, &into).await;
    assert!(matches!(refused, Err(CopyError::SourceIncomplete)), "{refused:?}");
}

async fn verification_finds_differences(destination: Subject) {
    let source = source_records().await;
    // The markers of both copies claim more progress than was made. The second copy also has a
    // wrong value.
    let body = |key: &'static str, len: usize| Mutation {
        key: Bytes::from_static(key.as_bytes()),
        record: Some(record(9_999, "large", vec![1; len])),
    };
    let marker = |meta: &str| Mutation {
        key: Bytes::from_static(MARKER_KEY),
        record: Some(record(0, meta, vec![])),
    };
    for (write, at) in
        [(vec![marker("zlarge")], "a\u{1}"), (vec![marker("zlarge"), body("zlarge", 3)], "a\u{1}")]
    {
        commit(&*destination.engine, write).await;
        match copy_all(&source, &destination.engine).await {
            Err(CopyError::Mismatch(key)) => assert_eq!(key, at),
            other => panic!("{other:?}"),
        }
    }
    let (keys, _) = all(&*source).await;
    let bodies = keys.into_iter().map(|(key, expires_at, meta, body)| Mutation {
        key: key.into(),
        record: Some(NewRecord { expires_at, meta: meta.into(), body: Body::Bytes(body.into()) }),
    });
    commit(&*destination.engine, bodies.collect()).await;
    commit(&*destination.engine, vec![marker("zz"), body("zlarge", 3 * INLINE_BYTES_MAX + 17)])
        .await;
    match copy_all(&source, &destination.engine).await {
        Err(CopyError::Mismatch(key)) => assert_eq!(key, "zlarge", "the value of zlarge differs"),
        other => panic!("{other:?}"),
    }
    assert!(
        copy::check_complete(&*destination.engine).await.is_err(),
        "the copy must not be marked as complete"
    );
}

async fn concurrent_copies_into_one_destination_do_not_corrupt_it(destination: Subject) {
    let source = source_records().await;
    let (one, other) = (&destination.engine, &destination.engine);
    let (first, second) = tokio::join!(copy_all(&source, one), copy_all(&source, other));
    let is_expected = |done: &Result<Progress, CopyError>| match done {
        Ok(_) | Err(CopyError::NotEmpty) => true,
        Err(e) => matches!(e, CopyError::Conflict),
    };
    assert!(is_expected(&first) && is_expected(&second), "{first:?} {second:?}");
    if first.is_err() && second.is_err() {
        copy_all(&source, one).await.unwrap();
    }
    assert!(all(&*source).await.0 == all(&*destination.engine).await.0);
}

fn run(from: &str, to: &str) -> (i32, String, String) {
    let command = ["copy", "--from", from, "--to", to];
    let Output { status, stdout, stderr } = Command::new(binary()).args(command).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn a_server_starts_on_a_copy_of_the_data_of_a_stopped_server() {
    let mut disk = DiskServer::new(&[]);
    let store = disk.server.create_store("first");
    let at = format!("/resources/stores/kv/{store}/keys/");
    for (key, len) in [("small", 10), ("empty", 0), ("large", 900_000)] {
        let put =
            disk.server.request(&format!("PUT {at}{key}"), &[("metadata", "m")], &vec![b'v'; len]);
        assert_eq!(put.status, 200);
    }
    let from = disk.data().display().to_string();
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("copy").display().to_string();
    let (status, _, error) = run(&from, &to);
    assert_eq!(status, 1, "{error}");
    assert!(error.contains("the source: ") && error.contains("is locked"), "{error}");
    disk.server.terminate();
    assert!(disk.server.wait_for_exit(Duration::from_secs(20)).unwrap().success());
    let (status, output, error) = run(&from, &to);
    assert_eq!((status, &error[..]), (0, ""), "{error}");
    assert!(
        output.starts_with("copied 1 store, 3 items, ") && output.contains("are identical"),
        "{output}"
    );
    let (status, _, error) = run(&from, &to);
    assert_eq!(status, 1);
    assert!(error.contains("the destination is not empty"), "{error}");

    std::fs::remove_dir_all(&from).unwrap();
    std::fs::rename(&to, &from).unwrap();
    let server = Server::start(&disk.data(), &[]);
    let got = server.get(&format!("{at}large"));
    assert_eq!((got.status, got.body.len()), (200, 900_000));
    assert_eq!(got.header("metadata"), "m");
}

#[test]
fn the_copy_command_counts_all_items() {
    let mut disk = DiskServer::new(&[]);
    let batch = format!("PUT /resources/stores/kv/{}/batch", disk.server.create_store("s"));
    let line = |number| format!("{{\"key\":\"k{number}\",\"value\":\"\"}}\n");
    let lines: String = (0..5000).map(line).collect();
    assert_eq!(disk.server.request(&batch, &[], lines.as_bytes()).status, 200);
    disk.server.kill();
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("copy").display().to_string();
    let (status, output, error) = run(&disk.data().display().to_string(), &to);
    assert_eq!(status, 0, "{error}");
    assert!(output.starts_with("copied 1 store, 5000 items, "), "{output}");
}

#[test]
fn copy_errors_do_not_contain_the_url() {
    for (from, to, status, word) in [
        ("/nowhere/at/all", "x", 2, "--from: /nowhere/at/all is not a directory"),
        ("mysql://u:secret@h/d", "x", 2, "--from must be a postgres:// URL"),
        (".", "mysql://u:secret@h/d", 2, "--to must be a postgres:// URL"),
        (".", "postgres://u:secret@h:port/d", 1, "is invalid"),
        ("empty", "x", 1, "the source: storage failed: there is no steadfast.db in"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let (data, empty) = (scratch.path().join("data"), scratch.path().join("empty"));
        Server::start(&data, &[]).stop();
        std::fs::create_dir(&empty).unwrap();
        let from = match from {
            "." => data.to_str().unwrap(),
            "empty" => empty.to_str().unwrap(),
            from => from,
        };
        let (code, output, error) = run(from, to);
        assert_eq!((code, &output[..]), (status, ""), "{error}");
        assert!(error.contains(word) && !error.contains("secret"), "{error}");
    }
}
