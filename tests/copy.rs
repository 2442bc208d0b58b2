//! Copies between engines: whole, resumed where they were cut, and refused where they would harm.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod engines;
#[path = "engines/faulty.rs"]
#[allow(dead_code, reason = "only some of its faults are planned here")]
mod faulty;
mod support;

use bytes::Bytes;
use engines::Subject;
use faulty::{Fault, Faulty};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use steadfast::engine::copy::{self, CopyError, MARK, Progress};
use steadfast::engine::memory::Memory;
use steadfast::engine::{
    Body, Commit, Engine, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome, Projection, Scan,
};
use support::{Home, Server, binary};

suite!(
    all_records_arrive_and_go_back_again,
    a_copy_that_is_cut_anywhere_goes_on_and_ends_whole,
    what_is_not_empty_or_not_finished_is_refused,
    a_difference_is_found,
    two_copies_into_one_destination_stop_each_other,
);

const RECORDS: usize = 2345;

fn record(expires_at: u64, meta: &str, body: Vec<u8>) -> NewRecord {
    NewRecord { expires_at, meta: Bytes::from(meta.to_owned()), body: Body::Bytes(body.into()) }
}

async fn written(engine: &dyn Engine, mutations: Vec<Mutation>) -> u64 {
    match engine.commit(Commit { version_min: 0, preconditions: vec![], mutations }).await.unwrap()
    {
        Outcome::Committed(version) => version,
        Outcome::Conflict => panic!("a commit without expectations met a conflict"),
    }
}

/// Records of every kind, some with versions far above the others.
async fn filled() -> Arc<dyn Engine> {
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
    written(&engine, write).await;
    let commit = Commit { version_min: 1 << 40, preconditions: vec![], mutations: high };
    engine.commit(commit).await.unwrap();
    Arc::new(engine)
}

type All = Vec<(Vec<u8>, u64, Vec<u8>, Vec<u8>)>;

async fn all(engine: &dyn Engine) -> (All, u64) {
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

fn engine(of: &Subject) -> Arc<dyn Engine> {
    of.engine.clone()
}

async fn quiet(from: &Arc<dyn Engine>, to: &Arc<dyn Engine>) -> Result<Progress, CopyError> {
    copy::copy(from, to, &mut |_| {}).await
}

async fn all_records_arrive_and_go_back_again(mut there: Subject) {
    let source = filled().await;
    let (before, highest) = all(&*source).await;
    let mut told = Vec::new();
    let done = copy::copy(&source, &engine(&there), &mut |now| told.push(now)).await.unwrap();
    assert_eq!(done.records, before.len() as u64);
    assert_eq!(done.total, before.len() as u64);
    assert!(told.iter().any(|now| !now.comparing && now.records == 1000));
    assert!(told.iter().any(|now| now.comparing && now.records == done.records));
    there.reopen().await;
    let (copied, version) = all(&*there.engine).await;
    assert!(copied == before);
    assert!(version >= highest, "{version} < {highest}");
    assert!(copy::finished(&*there.engine).await.is_ok());

    let back: Arc<dyn Engine> = Arc::new(Memory::new());
    let again = quiet(&engine(&there), &back).await.unwrap();
    assert_eq!((again.bytes, again.checksum), (done.bytes, done.checksum));
    assert!(all(&*back).await.0 == before);
}

async fn a_copy_that_is_cut_anywhere_goes_on_and_ends_whole(there: Subject) {
    let source = filled().await;
    let destination = Arc::new(Faulty::new(engine(&there)));
    let faulty: Arc<dyn Engine> = destination.clone();
    let mut cuts = 0;
    // Each try gets one fault further; a commit that fails may have been made or not.
    for (after, fault) in (0..).zip([Fault::Before, Fault::After].into_iter().cycle()) {
        destination.plan(&[vec![Fault::None; after], vec![fault]].concat());
        match quiet(&source, &faulty).await {
            Ok(_) => break,
            Err(CopyError::Engine(copy::Side::Destination, _)) => cuts += 1,
            Err(e) => panic!("{e}"),
        }
        let unfinished = copy::finished(&*there.engine).await;
        // Before the first commit nothing is begun.
        assert!(unfinished.is_err() || after == 0, "after {after}");
    }
    assert!(cuts >= 4, "only {cuts} cuts");
    assert!(all(&*source).await.0 == all(&*there.engine).await.0);
}

async fn what_is_not_empty_or_not_finished_is_refused(there: Subject) {
    let (source, empty) = (filled().await, Arc::new(Memory::new()));
    let key = Bytes::from_static(b"x");
    written(
        &*there.engine,
        vec![Mutation { key: key.clone(), record: Some(record(0, "", vec![])) }],
    )
    .await;
    let refused = quiet(&source, &engine(&there)).await;
    assert!(matches!(refused, Err(CopyError::NotEmpty)), "{refused:?}");
    assert_eq!(all(&*there.engine).await.0.len(), 1, "and nothing is changed");

    let mark = Mutation { key: Bytes::from_static(MARK), record: Some(record(0, "", vec![])) };
    written(&*there.engine, vec![mark]).await;
    assert!(copy::finished(&*there.engine).await.is_err());
    let into: Arc<dyn Engine> = empty;
    let refused = quiet(&engine(&there), &into).await;
    assert!(matches!(refused, Err(CopyError::Unfinished)), "{refused:?}");
}

async fn a_difference_is_found(there: Subject) {
    let source = filled().await;
    // A copy that says it is further than it is; one with another value; one with a record more.
    let body = |key: &'static str, len: usize| Mutation {
        key: Bytes::from_static(key.as_bytes()),
        record: Some(record(9_999, "large", vec![1; len])),
    };
    let marked = |meta: &str| Mutation {
        key: Bytes::from_static(MARK),
        record: Some(record(0, meta, vec![])),
    };
    for (write, at) in
        [(vec![marked("zlarge")], "a\u{1}"), (vec![marked("zlarge"), body("zlarge", 3)], "a\u{1}")]
    {
        written(&*there.engine, write).await;
        match quiet(&source, &engine(&there)).await {
            Err(CopyError::Differs(key)) => assert_eq!(key, at),
            other => panic!("{other:?}"),
        }
    }
    let (keys, _) = all(&*source).await;
    let bodies = keys.into_iter().map(|(key, expires_at, meta, body)| Mutation {
        key: key.into(),
        record: Some(NewRecord { expires_at, meta: meta.into(), body: Body::Bytes(body.into()) }),
    });
    written(&*there.engine, bodies.collect()).await;
    written(&*there.engine, vec![marked("zz"), body("zlarge", 3 * INLINE_BYTES_MAX + 17)]).await;
    match quiet(&source, &engine(&there)).await {
        Err(CopyError::Differs(key)) => assert_eq!(key, "zlarge", "its value is another"),
        other => panic!("{other:?}"),
    }
    assert!(copy::finished(&*there.engine).await.is_err(), "and it is not taken for whole");
}

async fn two_copies_into_one_destination_stop_each_other(there: Subject) {
    let source = filled().await;
    let (one, other) = (engine(&there), engine(&there));
    let (first, second) = tokio::join!(quiet(&source, &one), quiet(&source, &other));
    let crossed = |done: &Result<Progress, CopyError>| match done {
        Ok(_) | Err(CopyError::NotEmpty) => true,
        Err(e) => matches!(e, CopyError::Crossed),
    };
    assert!(crossed(&first) && crossed(&second), "{first:?} {second:?}");
    if first.is_err() && second.is_err() {
        quiet(&source, &one).await.unwrap();
    }
    assert!(all(&*source).await.0 == all(&*there.engine).await.0);
}

fn run(from: &str, to: &str) -> (i32, String, String) {
    let command = ["copy", "--from", from, "--to", to];
    let Output { status, stdout, stderr } = Command::new(binary()).args(command).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn the_command_copies_what_a_server_left_and_a_server_serves_it() {
    let mut home = Home::new(&[]);
    let store = home.server.store("first");
    let at = format!("/resources/stores/kv/{store}/keys/");
    for (key, len) in [("small", 10), ("empty", 0), ("large", 900_000)] {
        let put =
            home.server.ask(&format!("PUT {at}{key}"), &[("metadata", "m")], &vec![b'v'; len]);
        assert_eq!(put.status, 200);
    }
    let from = home.data().display().to_string();
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("copy").display().to_string();
    let (status, _, said) = run(&from, &to);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("the source: ") && said.contains("in use"), "{said}");
    home.server.terminate();
    assert!(home.server.ended(Duration::from_secs(20)).unwrap().success());
    let (status, told, said) = run(&from, &to);
    assert_eq!((status, &said[..]), (0, ""), "{said}");
    assert!(
        told.starts_with("copied 1 stores, 3 items, ") && told.contains("are identical"),
        "{told}"
    );
    let (status, _, said) = run(&from, &to);
    assert_eq!(status, 1);
    assert!(said.contains("the destination is not empty"), "{said}");

    std::fs::remove_dir_all(&from).unwrap();
    std::fs::rename(&to, &from).unwrap();
    let server = Server::start(&home.data(), &[]);
    let got = server.ask(&format!("GET {at}large"), &[], b"");
    assert_eq!((got.status, got.body.len()), (200, 900_000));
    assert_eq!(got.field("metadata"), "m");
}

#[test]
fn the_command_says_what_is_wrong_without_the_url() {
    for (from, to, status, word) in [
        ("/nowhere/at/all", "x", 2, "there is no directory /nowhere/at/all"),
        ("mysql://u:secret@h/d", "x", 2, "--from must be a URL that begins with postgres://"),
        (".", "mysql://u:secret@h/d", 2, "--to must be a URL that begins with postgres://"),
        (".", "postgres://u:secret@h:port/d", 1, "cannot be read"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let from = if from == "." { scratch.path().to_str().unwrap() } else { from };
        let (code, told, said) = run(from, to);
        assert_eq!((code, &told[..]), (status, ""), "{said}");
        assert!(said.contains(word) && !said.contains("secret"), "{said}");
    }
}
