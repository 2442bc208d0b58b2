//! Tests of import, export and deletion by prefix in the KV layer on every engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod engines;

use bytes::Bytes;
use engines::{ProcessPicker, Subject};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use steadfast::kv::batch::BatchItem;
use steadfast::kv::clock::{Clock, ManualClock, SECOND};
use steadfast::kv::export::ExportStream;
use steadfast::kv::import::{ImportItem, ImportOutcome, ImportedGeneration};
use steadfast::kv::items::{DeleteRequest, Item, PutRequest};
use steadfast::kv::types::{Key, Metadata, StoreId, StoreName, Ttl};
use steadfast::kv::{Error, Kv, Value};
use steadfast::wire::IfExists;

suite!(
    an_import_preserves_generation_times_and_metadata,
    an_import_skips_or_overwrites_existing_items_as_requested,
    concurrent_imports_write_each_missing_item_once,
    the_maximum_generation_can_be_imported_and_later_writes_exceed_it,
    an_export_is_a_snapshot_in_key_order,
    items_can_be_deleted_by_prefix_during_writes,
    a_deletion_by_prefix_stops_at_its_limit,
);

const START: u64 = 1_750_000_000 * SECOND;
const DAY: u64 = 24 * 60 * 60 * SECOND;

/// A store, its clock and its engine.
struct Case {
    /// One [`Kv`] for each process. Each operation uses a random one.
    kvs: Vec<Arc<Kv>>,
    turns: ProcessPicker,
    clock: Arc<ManualClock>,
    store: StoreId,
    subject: Subject,
}

impl Case {
    async fn new(subject: Subject) -> Case {
        let clock = Arc::new(ManualClock::new(START));
        let kvs = subject.kvs(&clock, 1 << 20);
        let name = StoreName::parse("main").unwrap();
        let store = kvs[0].create_store(name, None).await.unwrap().id;
        Case { turns: ProcessPicker::new(kvs.len()), kvs, clock, store, subject }
    }

    fn kv(&self) -> &Arc<Kv> {
        &self.kvs[self.turns.next()]
    }

    async fn put(&self, key: &str, value: &str) {
        let value = Value::from(Bytes::from(value.to_owned()));
        self.kv().put(&self.store, &self::key(key), &PutRequest::default(), value).await.unwrap();
    }

    async fn item(&self, key: &str) -> Option<Item> {
        match self.kv().get(&self.store, &self::key(key)).await {
            Ok(item) => Some(item),
            Err(Error::NoItem) => None,
            Err(e) => panic!("{e}"),
        }
    }

    async fn value(&self, key: &str) -> Option<String> {
        let bytes = self.item(key).await?.value.read_all().await.unwrap();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn import(&self, items: &[ImportItem], if_exists: IfExists) -> Vec<ImportOutcome> {
        self.kv().import(&self.store, items, if_exists).await.unwrap()
    }
}

fn key(text: &str) -> Key {
    Key::parse(text.as_bytes()).unwrap()
}

fn import_item(text: &str, value: &str) -> ImportItem {
    let item = BatchItem {
        key: key(text),
        ttl: None,
        metadata: Metadata::parse(b"m").unwrap(),
        value: Value::from(Bytes::from(value.to_owned())),
    };
    ImportItem { item, expires_at: None, generation: None, modified_at: None }
}

async fn an_import_preserves_generation_times_and_metadata(subject: Subject) {
    let case = Case::new(subject).await;
    let generation = START + 5 * SECOND;
    let import = ImportItem {
        generation: Some(ImportedGeneration::new(generation, START).unwrap()),
        expires_at: Some(START + 60 * SECOND),
        modified_at: Some(START - 7 * SECOND),
        ..import_item("k", "value")
    };
    let outcomes = case.import(&[import], IfExists::Overwrite).await;
    assert_eq!(outcomes, [ImportOutcome::Written]);
    let item = case.item("k").await.unwrap();
    assert_eq!((item.generation, item.modified_at), (generation, START - 7 * SECOND));
    assert_eq!((item.expires_at, item.metadata.as_bytes()), (Some(START + 60 * SECOND), &b"m"[..]));
    case.clock.advance(60 * SECOND);
    assert!(case.item("k").await.is_none(), "the item must expire at the imported time");
    let unknown = StoreId::random().unwrap();
    let lost = case.kv().import(&unknown, &[import_item("k", "v")], IfExists::Skip).await;
    assert_eq!(lost, Err(Error::NoStore));
}

async fn an_import_skips_or_overwrites_existing_items_as_requested(subject: Subject) {
    use ImportOutcome::{Exists, Expired, Written};
    let case = Case::new(subject).await;
    case.put("old", "1").await;
    let items = |value: &str| {
        let expired = ImportItem { expires_at: Some(START), ..import_item("expired", value) };
        vec![import_item("old", value), import_item("new", value), expired]
    };
    assert_eq!(case.import(&items("2"), IfExists::Skip).await, [Exists, Written, Expired]);
    let found = [case.value("old").await, case.value("new").await, case.value("expired").await];
    assert_eq!(found, [Some("1".into()), Some("2".into()), None]);
    assert_eq!(case.import(&items("3"), IfExists::Overwrite).await, [Written, Written, Expired]);
    assert_eq!(case.value("old").await.as_deref(), Some("3"));
    // An expired item is treated as absent.
    let short = ImportItem {
        item: BatchItem { ttl: Some(Ttl::new(1).unwrap()), ..import_item("brief", "1").item },
        ..import_item("brief", "1")
    };
    assert_eq!(case.import(&[short], IfExists::Skip).await, [Written]);
    case.clock.advance(SECOND);
    assert_eq!(case.import(&[import_item("brief", "2")], IfExists::Skip).await, [Written]);
    // If an import has several lines with the same key, the first one wins with Skip and the last
    // one with Overwrite.
    let twice = [import_item("twice", "first"), import_item("twice", "last")];
    assert_eq!(case.import(&twice, IfExists::Skip).await, [Written, Exists]);
    assert_eq!(case.value("twice").await.as_deref(), Some("first"));
    case.import(&twice, IfExists::Overwrite).await;
    assert_eq!(case.value("twice").await.as_deref(), Some("last"));
}

async fn concurrent_imports_write_each_missing_item_once(subject: Subject) {
    let case = Arc::new(Case::new(subject).await);
    let tasks = (0..8).map(|task| {
        let case = case.clone();
        tokio::spawn(async move {
            let keys = (0..50).map(|n| import_item(&format!("k{n}"), &task.to_string()));
            case.import(&keys.collect::<Vec<_>>(), IfExists::Skip).await
        })
    });
    let mut written = 0;
    for task in tasks.collect::<Vec<_>>() {
        let outcomes = task.await.unwrap();
        written += outcomes.iter().filter(|outcome| **outcome == ImportOutcome::Written).count();
    }
    assert_eq!(written, 50);
}

async fn the_maximum_generation_can_be_imported_and_later_writes_exceed_it(subject: Subject) {
    let case = Case::new(subject).await;
    let max = START + DAY;
    assert!(ImportedGeneration::new(max + 1, START).is_err());
    assert!(ImportedGeneration::new(0, START).is_err());
    let generation = Some(ImportedGeneration::new(max, START).unwrap());
    let import = ImportItem { generation, ..import_item("k", "1") };
    case.import(&[import], IfExists::Overwrite).await;
    assert_eq!(case.item("k").await.unwrap().generation, max);
    let mut before = max;
    for _ in 0..3 {
        case.put("k", "later").await;
        let now = case.item("k").await.unwrap().generation;
        assert!(now > before, "generation {now} follows {before}");
        before = now;
    }
    assert!(before < 1 << 53, "a double must represent every generation exactly");
    case.clock.set(1 << 53);
    assert!(ImportedGeneration::new(1 << 53, case.clock.now()).is_err());
}

async fn export_all(mut export: ExportStream) -> Vec<(String, String)> {
    let mut all = Vec::new();
    loop {
        let items = export.next().await.unwrap();
        if items.is_empty() {
            return all;
        }
        for (key, item) in items {
            let value = item.value.read_all().await.unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            all.push((text(&key), text(&value)));
        }
    }
}

async fn an_export_is_a_snapshot_in_key_order(subject: Subject) {
    let case = Case::new(subject).await;
    for n in 0..1500 {
        case.put(&format!("b/{n:04}"), "before").await;
    }
    case.put("a", "outside").await;
    case.put("c", "outside").await;
    let brief = PutRequest { ttl: Some(Ttl::new(1).unwrap()), ..PutRequest::default() };
    let value = Value::from(Bytes::from_static(b"brief"));
    case.kv().put(&case.store, &key("b/0000.brief"), &brief, value).await.unwrap();
    case.clock.advance(SECOND);
    let part = case.kv().export(&case.store, "b/").await.unwrap();
    let whole = case.kv().export(&case.store, "").await.unwrap();
    // The exports must not contain later changes.
    case.put("b/0700", "after").await;
    case.put("b/9999", "after").await;
    case.kv().delete(&case.store, &key("b/1400"), DeleteRequest::default()).await.unwrap();
    let expected: Vec<_> = (0..1500).map(|n| (format!("b/{n:04}"), "before".into())).collect();
    assert_eq!(export_all(part).await, expected);
    let whole = export_all(whole).await;
    assert_eq!((whole.len(), &whole[0].0[..], &whole[1501].0[..]), (1502, "a", "c"));
    let unknown = StoreId::random().unwrap();
    assert!(matches!(case.kv().export(&unknown, "").await, Err(Error::NoStore)));
}

async fn items_can_be_deleted_by_prefix_during_writes(subject: Subject) {
    let case = Arc::new(Case::new(subject).await);
    for n in 0..1200 {
        case.put(&format!("p/{n}"), "v").await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..3).map(|task| {
        let (case, stop) = (case.clone(), stop.clone());
        tokio::spawn(async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                case.put(&format!("p/{}", written % 1200), "v").await;
                case.put(&format!("q/{task}/{written}"), "v").await;
                written += 1;
            }
            written
        })
    });
    let writers: Vec<_> = writers.collect();
    let deleted = case.kv().delete_prefix(&case.store, "p/", 100_000).await;
    stop.store(true, Ordering::Relaxed);
    let mut kept = 0;
    for writer in writers {
        kept += writer.await.unwrap();
    }
    // Writers in other processes may prevent the deletion from completing. Items that it has
    // deleted stay deleted.
    let gave_up = matches!(deleted, Err(Error::Busy)) && case.subject.shared();
    assert!(deleted.is_ok() || gave_up, "{deleted:?}");
    let rest = case.kv().delete_prefix(&case.store, "p/", 100_000).await.unwrap();
    assert!(!rest.more);
    let count = case.kv().count_prefix(&case.store, "p/", None).await.unwrap().matched;
    assert_eq!(count, 0);
    let count = case.kv().count_prefix(&case.store, "", None).await.unwrap().matched;
    assert_eq!(count, kept, "the deletion must not affect other items");
}

async fn a_deletion_by_prefix_stops_at_its_limit(subject: Subject) {
    let case = Case::new(subject).await;
    for n in 0..30 {
        case.put(&format!("p{n:02}"), "v").await;
    }
    case.put("q", "v").await;
    for (limit, deleted, more) in [(10, 10, true), (0, 0, true), (20, 20, false), (5, 0, false)] {
        let done = case.kv().delete_prefix(&case.store, "p", limit).await.unwrap();
        assert_eq!((done.deleted, done.more), (deleted, more), "{limit}");
    }
    assert_eq!(case.value("q").await.as_deref(), Some("v"));
}
