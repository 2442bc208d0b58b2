//! Tests of the KV layer on an engine that injects faults. A failed write is never reported as
//! successful, and a successful write is applied exactly once. The result of each operation limits
//! the possible states of the item. `PROPTEST_CASES` sets the number of sequences. Proptest shrinks
//! a failing sequence and prints it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

#[allow(dead_code, reason = "not every helper is used here")]
mod engines;
#[path = "engines/fault_injection.rs"]
mod fault_injection;

use bytes::Bytes;
use fault_injection::{Fault, FaultInjectingEngine};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use steadfast::kv::clock::{ManualClock, SECOND};
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::preconditions::PutMode;
use steadfast::kv::types::{Key, StoreId, StoreName};
use steadfast::kv::{Error, Kv};

#[derive(Clone, Debug)]
enum Op {
    Put(PutMode, u8),
    Compare(u8),
    Delete { force: bool },
}

fn ops() -> impl Strategy<Value = Vec<(Op, Vec<Fault>)>> {
    let mode = prop_oneof![
        1 => Just(PutMode::Overwrite),
        1 => Just(PutMode::Add),
        2 => Just(PutMode::Append),
        1 => Just(PutMode::Prepend),
    ];
    let op = prop_oneof![
        4 => (mode, any::<u8>()).prop_map(|(mode, letter)| Op::Put(mode, letter)),
        2 => any::<u8>().prop_map(Op::Compare),
        1 => any::<bool>().prop_map(|force| Op::Delete { force }),
    ];
    let fault = prop_oneof![
        4 => Just(Fault::None),
        2 => Just(Fault::Conflict),
        1 => Just(Fault::Full),
        1 => Just(Fault::BeforeCommit),
        2 => Just(Fault::AfterCommit),
        1 => Just(Fault::Read),
    ];
    prop::collection::vec((op, prop::collection::vec(fault, 0..4)), 1..40)
}

/// The possible states of the item: a value, or `None` if the item is absent.
type PossibleStates = BTreeSet<Option<Vec<u8>>>;

/// Returns the state after a successful operation, or `None` if the operation must fail.
fn apply(op: &Op, existing: Option<&Vec<u8>>) -> Option<Option<Vec<u8>>> {
    let letter = |letter: u8| vec![b'a' + letter % 26];
    match (op, existing) {
        (Op::Put(PutMode::Add, _), Some(_)) => None,
        (Op::Put(PutMode::Append, l), Some(existing)) => {
            Some(Some([&existing[..], &letter(*l)].concat()))
        }
        (Op::Put(PutMode::Prepend, l), Some(existing)) => {
            Some(Some([&letter(*l), &existing[..]].concat()))
        }
        (Op::Put(_, l), _) => Some(Some(letter(*l))),
        (Op::Compare(l), _) => Some(Some(letter(*l))),
        (Op::Delete { .. }, Some(_)) => Some(None),
        (Op::Delete { force: true }, None) => Some(None),
        (Op::Delete { force: false }, None) => None,
    }
}

struct Harness {
    kv: Kv,
    engine: Arc<FaultInjectingEngine>,
    store: StoreId,
    key: Key,
}

impl Harness {
    async fn current(&self) -> Option<(Vec<u8>, u64)> {
        self.engine.plan(&[]);
        match self.kv.get(&self.store, &self.key).await {
            Ok(item) => Some((item.value.read_all().await.unwrap().to_vec(), item.generation)),
            Err(Error::NoItem) => None,
            Err(e) => panic!("a read without a fault failed: {e}"),
        }
    }

    async fn run(&self, op: &Op, generation: u64, faults: &[Fault]) -> Result<(), Error> {
        let value = |letter: u8| async move {
            let mut upload = self.kv.upload();
            upload.push(Bytes::from(vec![b'a' + letter % 26])).await.unwrap();
            upload.finish().await.unwrap()
        };
        let (put, letter) = match op {
            Op::Put(mode, letter) => (PutRequest { mode: *mode, ..PutRequest::default() }, *letter),
            Op::Compare(letter) => {
                (PutRequest { if_generation: Some(generation), ..PutRequest::default() }, *letter)
            }
            Op::Delete { force } => {
                self.engine.plan(faults);
                let delete = DeleteRequest { force: *force, if_generation: None };
                return self.kv.delete(&self.store, &self.key, delete).await;
            }
        };
        let value = value(letter).await;
        self.engine.plan(faults);
        self.kv.put(&self.store, &self.key, &put, value).await.map(|_| ())
    }
}

async fn run_sequence(subject: engines::Subject, ops: Vec<(Op, Vec<Fault>)>) -> u64 {
    let engine = Arc::new(FaultInjectingEngine::new(subject.engine.clone()));
    let clock = Arc::new(ManualClock::new(1_750_000_000 * SECOND));
    let kv = Kv::new(engine.clone(), clock, 1 << 20);
    let store = kv.create_store(StoreName::parse("store").unwrap(), None).await.unwrap().id;
    let harness = Harness { kv, engine, store, key: Key::parse(b"key").unwrap() };
    let mut last = 0;
    for (number, (op, faults)) in ops.iter().enumerate() {
        let before = harness.current().await;
        let generation = before.as_ref().map_or(0, |(_, generation)| *generation);
        let existing = before.map(|(value, _)| value);
        let result = harness.run(op, generation, faults).await;
        let applied = apply(op, existing.as_ref());
        let mut possible = PossibleStates::new();
        match &result {
            Ok(()) => {
                possible.insert(
                    applied.unwrap_or_else(|| panic!("{number}: {op:?} succeeded but must fail")),
                );
            }
            // The outcome is unknown: the write was applied either completely or not at all.
            Err(Error::Internal(_)) => {
                possible.insert(existing.clone());
                possible.extend(applied);
            }
            Err(Error::Full(_) | Error::Busy) => {
                possible.insert(existing.clone());
            }
            Err(Error::Precondition | Error::NoItem) => {
                assert!(applied.is_none(), "{number}: {op:?} on {existing:?} returned {result:?}");
                possible.insert(existing.clone());
            }
            Err(e) => panic!("{number}: {op:?}: {e}"),
        }
        let found = harness.current().await;
        let value = found.as_ref().map(|(value, _)| value.clone());
        assert!(possible.contains(&value), "{number}: {op:?} with {faults:?} returned {result:?}");
        if let Some((_, current)) = found {
            assert!(
                current >= last && (current > last || value == existing),
                "{number}: generation {current} after {last}"
            );
            last = current;
        }
    }
    harness.engine.injected_count()
}

fn run(subject: fn() -> engines::Subject, cases: u32) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    let injected = std::cell::Cell::new(0);
    proptest!(config, |(ops in ops())| {
        injected.set(injected.get() + runtime.block_on(run_sequence(subject(), ops)));
    });
    assert!(injected.get() > u64::from(cases), "only {} faults were injected", injected.get());
}

#[test]
fn engine_faults_are_reported_on_the_memory_engine() {
    run(engines::Subject::memory, 300);
}

#[test]
fn engine_faults_are_reported_on_the_embedded_engine() {
    run(engines::Subject::embedded, 40);
}

/// Deletes items by prefix while another writer causes a conflict for each commit of several items.
async fn delete_contended(subject: engines::Subject) {
    const ITEMS: u64 = 300;
    let engine = Arc::new(FaultInjectingEngine::new(subject.engine.clone()));
    let clock = Arc::new(ManualClock::new(1_750_000_000 * SECOND));
    let kv = Kv::new(engine.clone(), clock, 1 << 20);
    let store = kv.create_store(StoreName::parse("store").unwrap(), None).await.unwrap().id;
    for nth in 0..ITEMS {
        let key = Key::parse(format!("p{nth}").as_bytes()).unwrap();
        kv.put(&store, &key, &PutRequest::default(), Bytes::from_static(b"v").into())
            .await
            .unwrap();
    }
    engine.contend();
    let deletion = kv.delete_prefix(&store, "p", 2 * ITEMS).await.unwrap();
    assert_eq!((deletion.deleted, deletion.more), (ITEMS, false));
    assert_eq!(kv.count_prefix(&store, "", None).await.unwrap().matched, 0);
    assert!(engine.injected_count() > 0);
}

#[test]
fn deletion_by_prefix_completes_even_if_every_commit_of_several_items_conflicts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(delete_contended(engines::Subject::memory()));
    runtime.block_on(delete_contended(engines::Subject::embedded()));
}
