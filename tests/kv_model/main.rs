//! Random sequences of operations against a plain map, over every engine, with the clock jumping
//! both ways and the engine being closed and opened in between. Over a database each operation goes
//! through another of three processes: opened here, and as servers that are killed in between.
//!
//! A failure shrinks and prints the sequence; `PROPTEST_CASES` sets how many are tried, and
//! proptest keeps the seeds of failures in `proptest-regressions/`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "../engines/mod.rs"]
mod engines;
mod face;
mod local;
mod model;
mod remote;
#[path = "../support/mod.rs"]
mod support;

use engines::Subject;
use face::Face;
use local::Local;
use model::{Grown, Model};
use proptest::prelude::*;
use remote::{Remote, Servers};
use std::collections::BTreeMap;
use std::future::{Future, ready};
use steadfast::kv::clock::SECOND;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::limits::EXPIRED_RETENTION_SECS;
use steadfast::kv::preconditions::PutMode;
use steadfast::kv::types::{Metadata, Ttl};
use steadfast::kv::{Error, PIECE_BYTES};

pub(crate) const START: u64 = 1_750_000_000 * SECOND;
pub(crate) const MAX: u64 = PIECE_BYTES as u64 + 3000;
pub(crate) const KEYS: [&str; 6] = ["a", "a/b", "a0", "b", "é", "zz"];

/// Which generation an operation demands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Demand {
    Nothing,
    Absent,
    Current,
    Stale,
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: usize, mode: PutMode, demand: Demand, ttl: Option<u64>, meta: u8, size: usize },
    Delete { key: usize, force: bool, demand: Demand },
    Batch(Vec<(usize, Option<u64>, usize)>),
    List { prefix: usize, limit: usize },
    Clock(i64),
    Sweep,
    Reopen,
    DeleteStore,
    Rename(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let demand = || {
        prop_oneof![
            4 => Just(Demand::Nothing), 1 => Just(Demand::Absent),
            2 => Just(Demand::Current), 1 => Just(Demand::Stale),
        ]
    };
    let mode = prop_oneof![
        3 => Just(PutMode::Overwrite), 1 => Just(PutMode::Add),
        1 => Just(PutMode::Append), 1 => Just(PutMode::Prepend),
    ];
    let size = || {
        prop_oneof![
            4 => 0..40_usize, 1 => 200_000..250_000_usize, 1 => PIECE_BYTES - 5..PIECE_BYTES + 3100,
        ]
    };
    let ttl = || prop::option::of(1..5_u64);
    let put = (0..KEYS.len(), mode, demand(), ttl(), any::<u8>(), size()).prop_map(
        |(key, mode, demand, ttl, meta, size)| Op::Put { key, mode, demand, ttl, meta, size },
    );
    let delete = (0..KEYS.len(), any::<bool>(), demand())
        .prop_map(|(key, force, demand)| Op::Delete { key, force, demand });
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

struct World<F> {
    face: F,
    model: Model,
}

fn bytes(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|i| (i ^ seed ^ (i >> 7)) as u8).collect()
}

impl<F: Face> World<F> {
    fn new(face: F) -> World<F> {
        let (items, name, grown) = (BTreeMap::new(), "s0".into(), Grown::new(face.processes()));
        World { face, model: Model { items, now: START, name, grown } }
    }

    async fn step(&mut self, number: usize, op: &Op) {
        match op {
            Op::Put { key, mode, demand, ttl, meta, size } => {
                let if_generation = self.model.demanded(KEYS[*key], *demand);
                let ttl = ttl.map(|secs| Ttl::new(secs).unwrap());
                let metadata = Metadata::parse(&vec![b'm'; usize::from(*meta) % 9]).unwrap();
                let put = PutRequest { mode: *mode, if_generation, ttl, metadata };
                self.put(*key, &put, &bytes(*size, number)).await;
            }
            Op::Delete { key, force, demand } => {
                let if_generation = self.model.demanded(KEYS[*key], *demand);
                let delete = DeleteRequest { force: *force, if_generation };
                let answer = self.face.delete(self.face.next(), KEYS[*key], delete).await;
                assert_eq!(answer, self.model.delete(KEYS[*key], delete), "{op:?}");
            }
            Op::Batch(lines) => self.batch(lines).await,
            Op::List { prefix, limit } => {
                self.list(["", "a", "a/", "q"][*prefix], *limit).await;
            }
            Op::Clock(secs) => {
                let now = self.model.now.saturating_add_signed(secs * SECOND as i64);
                if self.face.set_clock(now) {
                    self.model.now = now;
                }
            }
            Op::Sweep => {
                self.face.sweep().await;
                let until = self.model.now - EXPIRED_RETENTION_SECS * SECOND;
                self.model.items.retain(|_, entry| entry.expires.is_none_or(|at| at > until));
            }
            Op::Reopen => {
                if let Some(killed) = self.face.reopen().await {
                    self.model.grown.killed(killed);
                }
            }
            Op::DeleteStore => {
                let live = KEYS.iter().any(|key| self.model.live(key).is_some());
                if live {
                    assert_eq!(self.face.delete_store().await, Err(Error::StoreNotEmpty));
                }
            }
            Op::Rename(n) => {
                self.model.name = format!("s{n}");
                self.face.rename(&self.model.name).await;
            }
        }
    }

    async fn put(&mut self, key: usize, put: &PutRequest, value: &[u8]) {
        let expected = self.model.put(KEYS[key], put, value);
        let by = self.face.next();
        match (expected, self.face.put(by, KEYS[key], put, value).await) {
            (Ok(left), Ok(generation)) => {
                self.model.grown.given(by, key, generation);
                self.model.grown.ended(by, generation);
                self.model.keep(KEYS[key], put, left, generation);
            }
            // A value that is too large by itself may be refused before the item is looked at.
            (Err(_), Err(Error::TooLarge(MAX))) if value.len() as u64 > MAX => {}
            (expected, answer) => assert_eq!(answer.err(), expected.err(), "{put:?}"),
        }
    }

    async fn batch(&mut self, lines: &[(usize, Option<u64>, usize)]) {
        let mut sent = Vec::new();
        for (n, (key, ttl, size)) in lines.iter().enumerate() {
            let ttl = ttl.map(|secs| Ttl::new(secs).unwrap());
            let value = bytes(*size, n);
            sent.push((KEYS[*key], ttl, value.clone()));
            self.model.keep(KEYS[*key], &PutRequest { ttl, ..PutRequest::default() }, value, 0);
        }
        let by = self.face.next();
        self.face.batch(by, &sent).await;
        let mut keys: Vec<_> = lines.iter().map(|(key, ..)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut made = None;
        for key in keys {
            let (_, generation) = self.face.head(KEYS[key]).await;
            assert_eq!(*made.get_or_insert(generation), generation, "a batch is one commit");
            self.model.grown.given(by, key, generation);
            self.model.items.get_mut(KEYS[key]).unwrap().generation = generation;
        }
        if let Some(generation) = made {
            self.model.grown.ended(by, generation);
        }
    }

    async fn list(&self, prefix: &str, limit: usize) {
        let found = self.face.list(prefix, limit).await;
        let live = |key: &&&str| key.starts_with(prefix) && self.model.live(key).is_some();
        let mut wanted: Vec<_> = KEYS.iter().filter(live).map(|key| key.to_string()).collect();
        wanted.sort();
        assert_eq!(found, wanted, "prefix {prefix:?} by {limit}");
    }

    /// Compares all there is.
    async fn compare(&self) {
        self.list("", 3).await;
        for name in KEYS {
            let found = self.face.get(name).await;
            let Some(entry) = self.model.live(name) else {
                assert!(found.is_none(), "{name}");
                continue;
            };
            let item = found.unwrap_or_else(|| panic!("{name} is not there"));
            assert_eq!(item.generation, entry.generation, "{name}");
            if let Some(expires) = item.expires {
                assert_eq!(expires, entry.expires, "{name}");
            }
            assert_eq!(item.metadata, entry.metadata, "{name}");
            assert!(item.value == entry.value, "{name}");
            let head = self.face.head(name).await;
            assert_eq!(head, (entry.value.len() as u64, entry.generation), "{name}");
        }
        if let Some(count) = self.face.count().await {
            assert_eq!(count, self.model.items.len() as u64, "items that take space");
        }
        assert_eq!(self.face.name().await, self.model.name);
    }
}

async fn follows(face: impl Face, ops: &[Op]) {
    let mut world = World::new(face);
    for (number, op) in ops.iter().enumerate() {
        world.step(number, op).await;
        world.compare().await;
    }
    world.face.close().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn run(subject: impl Future<Output = Option<Subject>>, ops: &[Op]) {
    runtime().block_on(async {
        if let Some(subject) = subject.await {
            follows(Local::new(subject).await, ops).await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_engine_follows_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(ready(Some(Subject::memory())), &ops);
    }

    #[test]
    fn the_embedded_engine_follows_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(ready(Some(Subject::embedded())), &ops);
    }
}

proptest! {
    // Each has a database of its own, which takes a while to make.
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 200, cases: 40, ..ProptestConfig::default()
    })]

    #[test]
    fn three_postgres_processes_follow_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(Subject::postgres(), &ops);
    }
}

#[test]
fn three_postgres_servers_follow_the_model() {
    let Some(url) = support::database("model") else { return };
    let servers = Servers::over(url);
    let config = ProptestConfig {
        max_shrink_iters: 100,
        cases: 30,
        source_file: Some(file!()),
        ..ProptestConfig::default()
    };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..60))| {
        runtime().block_on(follows(Remote::new(&servers), &ops));
    });
}
