//! An engine that fails: what failed is never pretended, and what is told of as done is done once.
//! Every operation's answer narrows down what may be there; `PROPTEST_CASES` sets how many
//! sequences are tried, and a failure shrinks and prints its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "this suite opens its engines itself")]
mod engines;
#[path = "engines/faulty.rs"]
mod faulty;

use bytes::Bytes;
use faulty::{Fault, Faulty};
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
        1 => Just(Fault::Before),
        2 => Just(Fault::After),
        1 => Just(Fault::Read),
    ];
    prop::collection::vec((op, prop::collection::vec(fault, 0..4)), 1..40)
}

/// What may be there: nothing, or a value.
type Possible = BTreeSet<Option<Vec<u8>>>;

fn applied(op: &Op, there: Option<&Vec<u8>>) -> Option<Option<Vec<u8>>> {
    let letter = |letter: u8| vec![b'a' + letter % 26];
    match (op, there) {
        (Op::Put(PutMode::Add, _), Some(_)) => None,
        (Op::Put(PutMode::Append, l), Some(there)) => {
            Some(Some([&there[..], &letter(*l)].concat()))
        }
        (Op::Put(PutMode::Prepend, l), Some(there)) => {
            Some(Some([&letter(*l), &there[..]].concat()))
        }
        (Op::Put(_, l), _) => Some(Some(letter(*l))),
        (Op::Compare(l), _) => Some(Some(letter(*l))),
        (Op::Delete { .. }, Some(_)) => Some(None),
        (Op::Delete { force: true }, None) => Some(None),
        (Op::Delete { force: false }, None) => None,
    }
}

struct Bench {
    kv: Kv,
    engine: Arc<Faulty>,
    store: StoreId,
    key: Key,
}

impl Bench {
    async fn now(&self) -> Option<(Vec<u8>, u64)> {
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

async fn follows(subject: engines::Subject, ops: Vec<(Op, Vec<Fault>)>) -> u64 {
    let engine = Arc::new(Faulty::new(subject.engine.clone()));
    let clock = Arc::new(ManualClock::new(1_750_000_000 * SECOND));
    let kv = Kv::new(engine.clone(), clock, 1 << 20);
    let store = kv.create_store(StoreName::parse("store").unwrap(), None).await.unwrap().id;
    let bench = Bench { kv, engine, store, key: Key::parse(b"key").unwrap() };
    let mut last = 0;
    for (number, (op, faults)) in ops.iter().enumerate() {
        let before = bench.now().await;
        let generation = before.as_ref().map_or(0, |(_, generation)| *generation);
        let there = before.map(|(value, _)| value);
        let answer = bench.run(op, generation, faults).await;
        let done = applied(op, there.as_ref());
        let mut possible = Possible::new();
        match &answer {
            Ok(()) => {
                possible.insert(done.unwrap_or_else(|| panic!("{number}: {op:?} was refused")));
            }
            // Nobody knows: it is there whole, or it never was.
            Err(Error::Internal(_)) => {
                possible.insert(there.clone());
                possible.extend(done);
            }
            Err(Error::Full(_) | Error::Busy) => {
                possible.insert(there.clone());
            }
            Err(Error::Precondition | Error::NoItem) => {
                assert!(done.is_none(), "{number}: {op:?} on {there:?} is no {answer:?}");
                possible.insert(there.clone());
            }
            Err(e) => panic!("{number}: {op:?}: {e}"),
        }
        let found = bench.now().await;
        let value = found.as_ref().map(|(value, _)| value.clone());
        assert!(possible.contains(&value), "{number}: {op:?} with {faults:?} answered {answer:?}");
        if let Some((_, now)) = found {
            assert!(now >= last && (now > last || value == there), "{number}: {now} after {last}");
            last = now;
        }
    }
    bench.engine.met()
}

fn run(subject: fn() -> engines::Subject, cases: u32) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    let met = std::cell::Cell::new(0);
    proptest!(config, |(ops in ops())| {
        met.set(met.get() + runtime.block_on(follows(subject(), ops)));
    });
    assert!(met.get() > u64::from(cases), "{} faults were met", met.get());
}

#[test]
fn what_failed_is_never_pretended_over_the_memory_engine() {
    run(engines::Subject::memory, 300);
}

#[test]
fn what_failed_is_never_pretended_over_the_embedded_engine() {
    run(engines::Subject::embedded, 40);
}
