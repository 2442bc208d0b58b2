//! Random sequences of operations against a plain map, over every engine, with the clock jumping
//! both ways and the engine being closed and opened in between.
//!
//! A failure shrinks and prints the sequence; `PROPTEST_CASES` sets how many are tried, and
//! proptest keeps the seeds of failures in `proptest-regressions/`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod engines;

use bytes::Bytes;
use engines::Subject;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::sync::Arc;
use steadfast::kv::batch::Line;
use steadfast::kv::clock::{ManualClock, SECOND};
use steadfast::kv::decide::Mode;
use steadfast::kv::items::{Delete, Put};
use steadfast::kv::limits::EXPIRED_KEPT_SECS;
use steadfast::kv::listing::ListKeys;
use steadfast::kv::types::{Key, Metadata, StoreId, StoreName, Ttl};
use steadfast::kv::{Error, Kv, PIECE_BYTES, Value};

const START: u64 = 1_750_000_000 * SECOND;
const MAX: u64 = PIECE_BYTES as u64 + 3000;
const KEYS: [&str; 6] = ["a", "a/b", "a0", "b", "é", "zz"];

/// Which generation an operation demands.
#[derive(Clone, Copy, Debug)]
enum Demand {
    Nothing,
    Absent,
    Current,
    Stale,
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: usize, mode: Mode, demand: Demand, ttl: Option<u64>, meta: u8, size: usize },
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
        3 => Just(Mode::Overwrite), 1 => Just(Mode::Add),
        1 => Just(Mode::Append), 1 => Just(Mode::Prepend),
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
        1 => Just(Op::Clock(EXPIRED_KEPT_SECS as i64 + 2)),
        2 => Just(Op::Sweep),
        1 => Just(Op::Reopen),
        1 => Just(Op::DeleteStore),
        1 => any::<u8>().prop_map(Op::Rename),
    ]
}

#[derive(Clone, Debug)]
struct Entry {
    value: Vec<u8>,
    metadata: Vec<u8>,
    expires: Option<u64>,
    generation: u64,
}

/// What the store should hold: also what expired and was not yet swept.
struct Model {
    items: BTreeMap<&'static str, Entry>,
    now: u64,
    last_generation: u64,
    name: String,
}

impl Model {
    fn live(&self, key: &str) -> Option<&Entry> {
        let expired = |entry: &Entry| entry.expires.is_some_and(|at| at <= self.now);
        self.items.get(key).filter(|entry| !expired(entry))
    }

    fn demanded(&self, key: &str, demand: Demand) -> Option<u64> {
        let current = self.live(key).map_or(0, |entry| entry.generation);
        match demand {
            Demand::Nothing => None,
            Demand::Absent => Some(0),
            Demand::Current => Some(current),
            Demand::Stale => Some(current + 1),
        }
    }

    /// What a put should answer: the value it leaves.
    fn put(&self, key: &str, put: &Put, value: &[u8]) -> Result<Vec<u8>, Error> {
        let there = self.live(key);
        let current = there.map_or(0, |entry| entry.generation);
        if put.if_generation.is_some_and(|wanted| wanted != current) {
            return Err(Error::Precondition);
        }
        let there = there.map(|entry| entry.value.clone());
        let left = match (put.mode, there) {
            (Mode::Add, Some(_)) => return Err(Error::Precondition),
            (Mode::Append, Some(there)) => [&there, value].concat(),
            (Mode::Prepend, Some(there)) => [value, &there].concat(),
            _ => value.to_vec(),
        };
        if left.len() as u64 > MAX { Err(Error::TooLarge(MAX)) } else { Ok(left) }
    }

    fn keep(&mut self, key: &'static str, put: &Put, value: Vec<u8>, generation: u64) {
        let expires = put.ttl.map(|ttl| self.now + ttl.secs() * SECOND);
        let metadata = put.metadata.as_bytes().to_vec();
        self.items.insert(key, Entry { value, metadata, expires, generation });
    }

    fn delete(&mut self, key: &str, delete: Delete) -> Result<(), Error> {
        let current = self.live(key).map(|entry| entry.generation);
        let physical = self.items.contains_key(key);
        let answer = match (current, delete.if_generation) {
            (None, Some(_)) if physical => Err(Error::Precondition),
            (None, _) if !physical && !delete.force => Err(Error::NoItem),
            (Some(current), Some(wanted)) if wanted != current => Err(Error::Precondition),
            _ => Ok(()),
        };
        if answer.is_ok() {
            self.items.remove(key);
        }
        answer
    }
}

struct World {
    subject: Subject,
    kv: Kv,
    clock: Arc<ManualClock>,
    store: StoreId,
    model: Model,
}

fn key(index: usize) -> Key {
    Key::parse(KEYS[index].as_bytes()).unwrap()
}

fn bytes(size: usize, seed: u64) -> Vec<u8> {
    (0..size as u64).map(|i| (i ^ seed ^ (i >> 7)) as u8).collect()
}

impl World {
    async fn new(subject: Subject) -> World {
        let clock = Arc::new(ManualClock::new(START));
        let kv = Kv::new(subject.engine.clone(), clock.clone(), MAX);
        let name = StoreName::parse("s0").unwrap();
        let store = kv.create_store(name, None).await.unwrap().id;
        let (items, name) = (BTreeMap::new(), "s0".into());
        let model = Model { items, now: START, last_generation: 0, name };
        World { subject, kv, clock, store, model }
    }

    async fn upload(&self, value: &[u8]) -> Result<Value, Error> {
        let mut upload = self.kv.upload();
        for chunk in value.chunks(60_000) {
            upload.push(Bytes::copy_from_slice(chunk)).await?;
        }
        upload.finish().await
    }

    async fn step(&mut self, op: &Op) {
        match op {
            Op::Put { key: index, mode, demand, ttl, meta, size } => {
                let if_generation = self.model.demanded(KEYS[*index], *demand);
                let ttl = ttl.map(|secs| Ttl::new(secs).unwrap());
                let metadata = Metadata::parse(&vec![b'm'; usize::from(*meta) % 9]).unwrap();
                let put = Put { mode: *mode, if_generation, ttl, metadata };
                self.put(*index, &put, *size).await;
            }
            Op::Delete { key: index, force, demand } => {
                let if_generation = self.model.demanded(KEYS[*index], *demand);
                let delete = Delete { force: *force, if_generation };
                let answer = self.kv.delete(&self.store, &key(*index), delete).await;
                assert_eq!(answer, self.model.delete(KEYS[*index], delete), "{op:?}");
            }
            Op::Batch(lines) => self.batch(lines).await,
            Op::List { prefix, limit } => {
                self.list(["", "a", "a/", "q"][*prefix], *limit).await;
            }
            Op::Clock(secs) => {
                self.model.now = self.model.now.saturating_add_signed(secs * SECOND as i64);
                self.clock.set(self.model.now);
            }
            Op::Sweep => {
                while self.kv.sweep().await.unwrap() > 0 {}
                let until = self.model.now - EXPIRED_KEPT_SECS * SECOND;
                self.model.items.retain(|_, entry| entry.expires.is_none_or(|at| at > until));
            }
            Op::Reopen => {
                self.subject.reopen().await;
                self.kv = Kv::new(self.subject.engine.clone(), self.clock.clone(), MAX);
            }
            Op::DeleteStore => {
                let live = KEYS.iter().any(|key| self.model.live(key).is_some());
                if live {
                    let answer = self.kv.delete_store(&self.store).await;
                    assert_eq!(answer, Err(Error::StoreNotEmpty));
                }
            }
            Op::Rename(n) => {
                self.model.name = format!("s{n}");
                let name = StoreName::parse(&self.model.name).unwrap();
                self.kv.rename_store(&self.store, name).await.unwrap();
            }
        }
    }

    async fn put(&mut self, index: usize, put: &Put, size: usize) {
        let value = bytes(size, self.model.last_generation);
        let expected = self.model.put(KEYS[index], put, &value);
        let answer = match self.upload(&value).await {
            Ok(value) => self.kv.put(&self.store, &key(index), put, value).await,
            // A value that is too large by itself is refused before the item is looked at.
            Err(e) => {
                assert!(value.len() as u64 > MAX, "{e}");
                return;
            }
        };
        match (expected, answer) {
            (Ok(left), Ok(generation)) => {
                assert!(generation > self.model.last_generation, "generations grow");
                self.model.last_generation = generation;
                self.model.keep(KEYS[index], put, left, generation);
            }
            (expected, answer) => assert_eq!(answer.err(), expected.err(), "{put:?}"),
        }
    }

    async fn batch(&mut self, lines: &[(usize, Option<u64>, usize)]) {
        let mut sent = Vec::new();
        for (n, (index, ttl, size)) in lines.iter().enumerate() {
            let ttl = ttl.map(|secs| Ttl::new(secs).unwrap());
            let value = bytes(*size, n as u64);
            let put = Put { ttl, ..Put::default() };
            let line_value = Value::from(Bytes::from(value.clone()));
            let metadata = Metadata::NONE;
            sent.push(Line { key: key(*index), ttl, metadata, value: line_value });
            self.model.keep(KEYS[*index], &put, value, 0);
        }
        self.kv.put_batch(&self.store, sent).await.unwrap();
        for (index, _, _) in lines {
            let head = self.kv.head(&self.store, &key(*index)).await.unwrap();
            assert!(head.generation > self.model.last_generation);
            let entry = self.model.items.get_mut(KEYS[*index]).unwrap();
            entry.generation = head.generation;
        }
        let made = lines.iter().filter_map(|(index, ..)| self.model.items.get(KEYS[*index]));
        let made = made.map(|entry| entry.generation).max();
        self.model.last_generation = made.unwrap_or(self.model.last_generation);
    }

    async fn list(&self, prefix: &str, limit: usize) {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let list = ListKeys { prefix: prefix.into(), after, limit, eventual: false };
            let page = self.kv.list_keys(&self.store, &list).await.unwrap();
            found.extend(page.keys().map(|key| String::from_utf8(key.to_vec()).unwrap()));
            after = page.keys().last().map(<[u8]>::to_vec);
            if !page.more {
                break;
            }
        }
        let live = |key: &&&str| key.starts_with(prefix) && self.model.live(key).is_some();
        let mut wanted: Vec<_> = KEYS.iter().filter(live).map(|key| key.to_string()).collect();
        wanted.sort();
        assert_eq!(found, wanted, "prefix {prefix:?} by {limit}");
    }

    /// Compares all there is.
    async fn compare(&self) {
        self.list("", 3).await;
        for (index, name) in KEYS.iter().enumerate() {
            let found = self.kv.get(&self.store, &key(index)).await;
            match self.model.live(name) {
                None => assert!(matches!(found, Err(Error::NoItem)), "{name}"),
                Some(entry) => {
                    let item = found.unwrap();
                    assert_eq!(item.generation, entry.generation, "{name}");
                    assert_eq!(item.expires, entry.expires, "{name}");
                    assert_eq!(item.metadata.as_bytes(), entry.metadata, "{name}");
                    assert!(item.value.read_all().await.unwrap() == entry.value, "{name}");
                    let head = self.kv.head(&self.store, &key(index)).await.unwrap();
                    assert_eq!(head.size, entry.value.len() as u64, "{name}");
                }
            }
        }
        let count = self.kv.items_count().await.unwrap();
        assert_eq!(count, self.model.items.len() as u64, "items that take space");
        let info = self.kv.describe_store(&self.store).await.unwrap();
        assert_eq!(info.name.as_str(), self.model.name);
    }
}

fn run(subject: impl Future<Output = Option<Subject>>, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Some(subject) = subject.await else { return };
        let mut world = World::new(subject).await;
        for op in ops {
            world.step(op).await;
            world.compare().await;
        }
        world.subject.engine.close().await.unwrap();
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
    fn the_postgres_engine_follows_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(Subject::postgres(), &ops);
    }
}
