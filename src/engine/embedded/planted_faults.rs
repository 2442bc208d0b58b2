//! Verifies that tests of garbage collection detect faults: the workloads detect each planted
//! fault, and report no difference without a fault.

use super::wal::segment::PlantedFault;
use super::*;
use crate::engine::{Body, Mutation, NewRecord};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const KEYS: u64 = 400;
const COLD_BYTES: usize = 10_000;
const HOT_BYTES: usize = 150_000;

fn open(dir: &Path, fault: Option<PlantedFault>) -> Embedded {
    let fatal = FatalErrorHandler::new(|reason| panic!("{reason}"));
    let options = Options { dir: dir.into(), cache_bytes: 0, wal_bytes: 8 << 20, fatal };
    let engine = Embedded::open(options).unwrap();
    fault.into_iter().for_each(|fault| engine.shared.segments.planted.set(fault).unwrap());
    engine
}

fn value(key: &str, number: u64, len: usize) -> Bytes {
    let mut value = format!("{key} {number} ").into_bytes();
    value.resize(len, b'v');
    Bytes::from(value)
}

async fn put(engine: &Embedded, values: Vec<(&str, Bytes)>) {
    let mutations = values.into_iter().map(|(key, value)| {
        let record = NewRecord { expires_at: 0, meta: Bytes::new(), body: Body::Bytes(value) };
        Mutation { key: Bytes::copy_from_slice(key.as_bytes()), record: Some(record) }
    });
    let commit = Commit { mutations: mutations.collect(), ..Commit::default() };
    assert!(matches!(engine.commit(commit).await, Ok(Outcome::Committed(_))));
}

async fn delete(engine: &Embedded, key: &str) {
    let mutations = vec![Mutation { key: Bytes::copy_from_slice(key.as_bytes()), record: None }];
    let commit = Commit { mutations, ..Commit::default() };
    assert!(matches!(engine.commit(commit).await, Ok(Outcome::Committed(_))));
}

/// Commits each cold value together with a hot value that the next commit overwrites.
async fn fill(engine: &Embedded, round: u64) {
    for number in 0..KEYS {
        let key = format!("cold{number:04}");
        let hot = ("hot", value("hot", number, HOT_BYTES));
        put(engine, vec![(&key, value(&key, round, COLD_BYTES)), hot]).await;
    }
}

/// Returns the keys whose value differs from the expected one, with a description of the
/// difference.
async fn differences(
    engine: &Embedded,
    expected: &BTreeMap<String, Option<u64>>,
) -> Vec<(String, String)> {
    let mut differences = Vec::new();
    for (key, number) in expected {
        let found = match engine.read(key.as_bytes(), Projection::Full).await {
            Ok(Some(record)) => match record.body.read(0, COLD_BYTES).await {
                Ok(body) => Some(body),
                Err(e) => {
                    differences.push((key.clone(), e.to_string()));
                    continue;
                }
            },
            Ok(None) => None,
            Err(e) => {
                differences.push((key.clone(), e.to_string()));
                continue;
            }
        };
        if found != number.map(|number| value(key, number, COLD_BYTES)) {
            let start = found.map(|found| found.slice(..20));
            differences.push((key.clone(), format!("{start:?}, not {number:?}")));
        }
    }
    differences
}

/// Waits until checkpoints and garbage collection have ended: the memtable is empty, and the writer
/// starts no new segment.
async fn settled(engine: &Embedded) {
    let end = Instant::now() + Duration::from_secs(60);
    let mut last = None;
    loop {
        let now = (engine.shared.memtable().len(), engine.shared.wal_position().seq);
        if now.0 == 0 && last == Some(now) {
            return;
        }
        assert!(Instant::now() < end, "{now:?}");
        last = Some(now);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

/// Overwrites and deletes values during garbage collection. Returns the differences found
/// afterwards.
async fn overwrite_while_values_move(fault: Option<PlantedFault>) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(open(dir.path(), fault));
    let done = Arc::new(AtomicBool::new(false));
    fill(&engine, 0).await;
    let garbage = {
        let (engine, done) = (engine.clone(), done.clone());
        tokio::spawn(async move {
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                put(&engine, vec![("hot", value("hot", number, HOT_BYTES))]).await;
            }
        })
    };
    let mut expected = BTreeMap::new();
    for round in 1..=6 {
        for number in (0..KEYS).filter(|number| (number + round).is_multiple_of(3)) {
            let key = format!("cold{number:04}");
            if number.is_multiple_of(5) {
                delete(&engine, &key).await;
                expected.insert(key, None);
            } else {
                put(&engine, vec![(&key, value(&key, round, COLD_BYTES))]).await;
                expected.insert(key, Some(round));
            }
        }
    }
    done.store(true, Ordering::Relaxed);
    garbage.await.unwrap();
    settled(&engine).await;
    let found = differences(&engine, &expected).await;
    engine.close().await.unwrap();
    found
}

/// Reads a snapshot after all its values were replaced and their segments were collected. Returns
/// the number of reads that do not return the value at the time of the snapshot.
async fn snapshot_differences(fault: Option<PlantedFault>) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), fault);
    fill(&engine, 0).await;
    settled(&engine).await;
    let mut snapshot = engine.snapshot().await.unwrap();
    for round in 1..=3 {
        fill(&engine, round).await;
        settled(&engine).await;
    }
    let mut wrong = 0;
    for number in 0..KEYS {
        let key = format!("cold{number:04}");
        let start = Bytes::copy_from_slice(key.as_bytes());
        let end = crate::engine::successor(&start);
        let found = snapshot.scan(start, end, 1, u64::MAX).await;
        let is_right = match found.as_deref() {
            Ok([(_, record)]) => {
                let body = record.body.read(0, COLD_BYTES).await;
                body.is_ok_and(|body| body == value(&key, 0, COLD_BYTES))
            }
            Ok(_) | Err(_) => false,
        };
        wrong += u64::from(!is_right);
    }
    drop(snapshot);
    engine.close().await.unwrap();
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_difference_is_found_without_a_fault() {
    assert_eq!(overwrite_while_values_move(None).await, []);
    assert_eq!(snapshot_differences(None).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relocation_that_revives_a_replaced_or_deleted_value_is_detected() {
    // Whether the fault has an effect depends on a race.
    for _ in 0..10 {
        let fault = Some(PlantedFault::RelocateReplaced);
        if !overwrite_while_values_move(fault).await.is_empty() {
            return;
        }
    }
    panic!("no revived value was detected in ten rounds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_retired_while_records_refer_to_it_is_detected() {
    let fault = Some(PlantedFault::RetireReferenced);
    assert!(!overwrite_while_values_move(fault).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_recycled_while_a_snapshot_needs_it_is_detected() {
    // When a file is used again depends on timing.
    for _ in 0..5 {
        if snapshot_differences(Some(PlantedFault::RecycleInUse)).await > 0 {
            return;
        }
    }
    panic!("no overwritten value was detected in five rounds");
}
