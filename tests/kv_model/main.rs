//! Model-based tests of the KV layer. They apply random sequences of operations to a store and to a
//! plain map, and compare the two after each operation. Operations include clock jumps in both
//! directions and reopening the engine. The tests run on every engine. With PostgreSQL, they run on
//! three engines in the test process that share a database, and on three servers that share a
//! database and are killed and restarted.
//!
//! Proptest shrinks a failing sequence, prints it and saves its seed in `proptest-regressions/`.
//! `PROPTEST_CASES` sets the number of sequences.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

#[path = "../engines/mod.rs"]
mod engines;
mod in_process;
mod model;
mod over_http;
mod store_under_test;
#[path = "../support/mod.rs"]
mod support;

use engines::Subject;
use in_process::InProcess;
use model::{GenerationOrder, Model};
use over_http::{OverHttp, Servers};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::future::{Future, ready};
use steadfast::kv::clock::SECOND;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::limits::EXPIRED_RETENTION_SECS;
use steadfast::kv::preconditions::PutMode;
use steadfast::kv::types::{Metadata, Ttl};
use steadfast::kv::{Error, PIECE_BYTES};
use store_under_test::StoreUnderTest;

pub(crate) const START: u64 = 1_750_000_000 * SECOND;
pub(crate) const MAX: u64 = PIECE_BYTES as u64 + 3000;
pub(crate) const KEYS: [&str; 6] = ["a", "a/b", "a0", "b", "é", "zz"];

/// The generation that an operation requires.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    Unconditional,
    Absent,
    Current,
    Stale,
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: usize, mode: PutMode, condition: Condition, ttl: Option<u64>, meta: u8, len: usize },
    Delete { key: usize, force: bool, condition: Condition },
    Batch(Vec<(usize, Option<u64>, usize)>),
    List { prefix: usize, limit: usize },
    Clock(i64),
    Sweep,
    Reopen,
    DeleteStore,
    Rename(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let condition = || {
        prop_oneof![
            4 => Just(Condition::Unconditional), 1 => Just(Condition::Absent),
            2 => Just(Condition::Current), 1 => Just(Condition::Stale),
        ]
    };
    let mode = prop_oneof![
        3 => Just(PutMode::Overwrite), 1 => Just(PutMode::Add),
        1 => Just(PutMode::Append), 1 => Just(PutMode::Prepend),
    ];
    let len = || {
        prop_oneof![
            4 => 0..40_usize, 1 => 200_000..250_000_usize, 1 => PIECE_BYTES - 5..PIECE_BYTES + 3100,
        ]
    };
    let ttl = || prop::option::of(1..5_u64);
    let put = (0..KEYS.len(), mode, condition(), ttl(), any::<u8>(), len()).prop_map(
        |(key, mode, condition, ttl, meta, len)| Op::Put { key, mode, condition, ttl, meta, len },
    );
    let delete = (0..KEYS.len(), any::<bool>(), condition())
        .prop_map(|(key, force, condition)| Op::Delete { key, force, condition });
    let batch = prop::collection::vec((0..KEYS.len(), ttl(), 0..2000_usize), 0..5);
    prop_oneof![
        10 => put,
        4 => delete,
        2 => batch.prop_map(Op::Batch),
        3 => (0..4_usize, 1..8_usize).prop_map(|(prefix, limit)| Op::List { prefix, limit }),
        3 => (-3..5_i64).prop_map(Op::Clock),
        1 => Just(Op::Clock(EXPIRED_RETENTION_SECS as i64 + 2)),
        2 => Just(Op::Sweep),
        1 => Just(Op::Reopen),
        1 => Just(Op::DeleteStore),
        1 => any::<u8>().prop_map(Op::Rename),
    ]
}

struct Harness<S> {
    store: S,
    model: Model,
}

fn bytes(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|i| (i ^ seed ^ (i >> 7)) as u8).collect()
}

impl<S: StoreUnderTest> Harness<S> {
    fn new(store: S) -> Harness<S> {
        let (items, name, generations) =
            (BTreeMap::new(), "s0".into(), GenerationOrder::new(store.processes()));
        Harness { store, model: Model { items, now: START, name, generations } }
    }

    async fn step(&mut self, number: usize, op: &Op) {
        match op {
            Op::Put { key, mode, condition, ttl, meta, len } => {
                let if_generation = self.model.expected_generation(KEYS[*key], *condition);
                let ttl = ttl.map(|secs| Ttl::new(secs).unwrap());
                let metadata = Metadata::parse(&vec![b'm'; usize::from(*meta) % 9]).unwrap();
                let put = PutRequest { mode: *mode, if_generation, ttl, metadata };
                self.put(*key, &put, &bytes(*len, number)).await;
            }
            Op::Delete { key, force, condition } => {
                let if_generation = self.model.expected_generation(KEYS[*key], *condition);
                let delete = DeleteRequest { force: *force, if_generation };
                let response = self.store.delete(self.store.next(), KEYS[*key], delete).await;
                assert_eq!(response, self.model.delete(KEYS[*key], delete), "{op:?}");
            }
            Op::Batch(lines) => self.batch(lines).await,
            Op::List { prefix, limit } => {
                self.list(["", "a", "a/", "q"][*prefix], *limit).await;
            }
            Op::Clock(secs) => {
                let now = self.model.now.saturating_add_signed(secs * SECOND as i64);
                if self.store.set_clock(now) {
                    self.model.now = now;
                }
            }
            Op::Sweep => {
                self.store.sweep().await;
                let until = self.model.now - EXPIRED_RETENTION_SECS * SECOND;
                self.model.items.retain(|_, entry| entry.expires.is_none_or(|at| at > until));
            }
            Op::Reopen => {
                if let Some(killed) = self.store.reopen().await {
                    self.model.generations.forget_process(killed);
                }
            }
            Op::DeleteStore => {
                let live = KEYS.iter().any(|key| self.model.live(key).is_some());
                if live {
                    assert_eq!(self.store.delete_store().await, Err(Error::StoreNotEmpty));
                }
            }
            Op::Rename(n) => {
                self.model.name = format!("s{n}");
                self.store.rename(&self.model.name).await;
            }
        }
    }

    async fn put(&mut self, key: usize, put: &PutRequest, value: &[u8]) {
        let expected = self.model.put(KEYS[key], put, value);
        let by = self.store.next();
        match (expected, self.store.put(by, KEYS[key], put, value).await) {
            (Ok(stored), Ok(generation)) => {
                self.model.generations.record(by, key, generation);
                self.model.generations.finish_commit(by, generation);
                self.model.insert(KEYS[key], put, stored, generation);
            }
            // A value that exceeds the limit on its own may be rejected before the condition is
            // checked.
            (Err(_), Err(Error::TooLarge(MAX))) if value.len() as u64 > MAX => {}
            (expected, response) => assert_eq!(response.err(), expected.err(), "{put:?}"),
        }
    }

    async fn batch(&mut self, lines: &[(usize, Option<u64>, usize)]) {
        let mut sent = Vec::new();
        for (n, (key, ttl, size)) in lines.iter().enumerate() {
            let ttl = ttl.map(|secs| Ttl::new(secs).unwrap());
            let value = bytes(*size, n);
            sent.push((KEYS[*key], ttl, value.clone()));
            self.model.insert(KEYS[*key], &PutRequest { ttl, ..PutRequest::default() }, value, 0);
        }
        let by = self.store.next();
        self.store.batch(by, &sent).await;
        let mut keys: Vec<_> = lines.iter().map(|(key, ..)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut common = None;
        for key in keys {
            let (_, generation) = self.store.head(KEYS[key]).await;
            assert_eq!(
                *common.get_or_insert(generation),
                generation,
                "all items of a batch must have the same generation"
            );
            self.model.generations.record(by, key, generation);
            self.model.items.get_mut(KEYS[key]).unwrap().generation = generation;
        }
        if let Some(generation) = common {
            self.model.generations.finish_commit(by, generation);
        }
    }

    async fn list(&self, prefix: &str, limit: usize) {
        let found = self.store.list(prefix, limit).await;
        let live = |key: &&&str| key.starts_with(prefix) && self.model.live(key).is_some();
        let mut expected: Vec<_> = KEYS.iter().filter(live).map(|key| key.to_string()).collect();
        expected.sort();
        assert_eq!(found, expected, "prefix {prefix:?}, limit {limit}");
    }

    /// Compares the whole store with the model.
    async fn compare(&self) {
        self.list("", 3).await;
        for name in KEYS {
            let found = self.store.get(name).await;
            let Some(entry) = self.model.live(name) else {
                assert!(found.is_none(), "{name} must be absent");
                continue;
            };
            let item = found.unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(item.generation, entry.generation, "{name}");
            if let Some(expires) = item.expires {
                assert_eq!(expires, entry.expires, "{name}");
            }
            assert_eq!(item.metadata, entry.metadata, "{name}");
            assert!(item.value == entry.value, "{name}");
            let head = self.store.head(name).await;
            assert_eq!(head, (entry.value.len() as u64, entry.generation), "{name}");
        }
        if let Some(count) = self.store.count().await {
            assert_eq!(count, self.model.items.len() as u64, "the number of stored items differs");
        }
        assert_eq!(self.store.name().await, self.model.name);
    }
}

async fn run_against_model(store: impl StoreUnderTest, ops: &[Op]) {
    let mut harness = Harness::new(store);
    for (number, op) in ops.iter().enumerate() {
        harness.step(number, op).await;
        harness.compare().await;
    }
    harness.store.close().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn run(subject: impl Future<Output = Option<Subject>>, ops: &[Op]) {
    runtime().block_on(async {
        if let Some(subject) = subject.await {
            run_against_model(InProcess::new(subject).await, ops).await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_engine_matches_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(ready(Some(Subject::memory())), &ops);
    }

    #[test]
    fn the_embedded_engine_matches_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(ready(Some(Subject::embedded())), &ops);
    }
}

proptest! {
    // Each case creates a database, which is slow.
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 200, cases: 40, ..ProptestConfig::default()
    })]

    #[test]
    fn three_postgres_engines_match_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(Subject::postgres(), &ops);
    }
}

#[test]
fn three_postgres_servers_match_the_model() {
    let Some(url) = support::create_database("model") else { return };
    let servers = Servers::new(url);
    let config = ProptestConfig {
        max_shrink_iters: 100,
        cases: 30,
        source_file: Some(file!()),
        ..ProptestConfig::default()
    };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..60))| {
        runtime().block_on(run_against_model(OverHttp::new(&servers), &ops));
    });
}
