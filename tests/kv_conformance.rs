//! Tests of the semantics of the KV layer on every engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod engines;

use bytes::Bytes;
use engines::{ProcessPicker, Subject};
use std::collections::BTreeSet;
use std::sync::Arc;
use steadfast::kv::batch::BatchItem;
use steadfast::kv::clock::{ManualClock, SECOND};
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::limits::EXPIRED_RETENTION_SECS;
use steadfast::kv::listing::ListKeys;
use steadfast::kv::preconditions::PutMode;
use steadfast::kv::stores::ListStores;
use steadfast::kv::types::{Key, Metadata, StoreId, StoreName, Ttl};
use steadfast::kv::{Error, Kv, PIECE_BYTES, Value};

suite!(
    a_store_name_is_unique_and_stores_are_found_by_id_and_name,
    stores_are_listed_in_order_and_cursors_survive_store_deletion,
    a_rename_changes_only_the_name,
    a_store_with_a_live_item_cannot_be_deleted,
    a_concurrent_put_and_store_delete_do_not_both_succeed,
    a_put_replaces_value_metadata_and_expiry,
    append_and_prepend_extend_the_value_and_drop_metadata_and_expiry,
    append_and_prepend_concatenate_large_values,
    conditional_writes_require_a_matching_generation_and_never_reuse_one,
    generations_increase_when_the_clock_goes_back,
    exactly_one_of_concurrent_adds_succeeds,
    concurrent_appends_lose_no_updates,
    concurrent_increments_lose_no_updates,
    appends_are_not_starved_by_overwrites,
    an_item_is_absent_as_soon_as_it_expires,
    the_sweep_removes_only_items_whose_retention_period_is_over,
    keys_are_listed_by_prefix_in_full_pages,
    pages_skip_expired_items_and_stay_full,
    deletes_during_a_list_cause_no_skipped_or_repeated_keys,
    a_batch_applies_its_items_in_order,
    values_over_the_limit_are_rejected,
    items_survive_reopening_the_engine,
);

const START: u64 = 1_750_000_000 * SECOND;
const MAX: u64 = 3 * PIECE_BYTES as u64;

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
        let kvs = subject.kvs(&clock, MAX);
        let store = kvs[0].create_store(name("main"), None).await.unwrap().id;
        Case { turns: ProcessPicker::new(kvs.len()), kvs, clock, store, subject }
    }

    fn kv(&self) -> &Arc<Kv> {
        &self.kvs[self.turns.next()]
    }

    async fn reopen(&mut self) {
        self.subject.reopen().await;
        self.kvs = self.subject.kvs(&self.clock, MAX);
    }

    async fn put(&self, key: &str, put: PutRequest, value: &str) -> Result<u64, Error> {
        let value = Value::from(Bytes::from(value.to_owned()));
        self.kv().put(&self.store, &self::key(key), &put, value).await
    }

    async fn get(&self, key: &str) -> Option<String> {
        match self.kv().get(&self.store, &self::key(key)).await {
            Ok(item) => {
                let bytes = item.value.read_all().await.unwrap();
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            Err(Error::NoItem) => None,
            Err(e) => panic!("{e}"),
        }
    }

    async fn generation(&self, key: &str) -> u64 {
        self.kv().head(&self.store, &self::key(key)).await.unwrap().generation
    }

    async fn delete(&self, key: &str, delete: DeleteRequest) -> Result<(), Error> {
        self.kv().delete(&self.store, &self::key(key), delete).await
    }

    async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> (Vec<String>, bool) {
        let after = after.map(|key| key.as_bytes().to_vec());
        let list = ListKeys { prefix: prefix.into(), after, limit, eventual: false };
        let page = self.kv().list_keys(&self.store, &list).await.unwrap();
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        (page.keys().map(text).collect(), page.more)
    }

    async fn names(&self, after: Option<&str>, limit: usize) -> (Vec<String>, u64, bool) {
        let list = ListStores { name: None, after: after.map(Into::into), limit };
        let page = self.kv().list_stores(&list).await.unwrap();
        let names = page.stores.iter().map(|info| info.name.as_str().into()).collect();
        (names, page.total, page.more)
    }
}

fn name(text: &str) -> StoreName {
    StoreName::parse(text).unwrap()
}

fn key(text: &str) -> Key {
    Key::parse(text.as_bytes()).unwrap()
}

fn mode(mode: PutMode) -> PutRequest {
    PutRequest { mode, ..PutRequest::default() }
}

fn if_generation(generation: u64) -> PutRequest {
    PutRequest { if_generation: Some(generation), ..PutRequest::default() }
}

fn ttl(secs: u64) -> PutRequest {
    PutRequest { ttl: Some(Ttl::new(secs).unwrap()), ..PutRequest::default() }
}

async fn a_store_name_is_unique_and_stores_are_found_by_id_and_name(subject: Subject) {
    let case = Case::new(subject).await;
    let info = case.kv().create_store(name("second"), None).await.unwrap();
    assert_eq!(case.kv().describe_store(&info.id).await.unwrap(), info);
    let again = case.kv().create_store(name("second"), None).await;
    assert_eq!(again, Err(Error::StoreExists("second".into())));
    let by_name = |name: &str| ListStores { name: Some(name.into()), after: None, limit: 10 };
    let page = case.kv().list_stores(&by_name("second")).await.unwrap();
    assert_eq!((page.stores, page.total), (vec![info], 1));
    let page = case.kv().list_stores(&by_name("SECOND")).await.unwrap();
    assert_eq!((page.stores.len(), page.total), (0, 0));
    let unknown = StoreId::random().unwrap();
    assert_eq!(case.kv().describe_store(&unknown).await, Err(Error::NoStore));
    assert_eq!(case.kv().stores_count().await.unwrap(), 2);
}

async fn stores_are_listed_in_order_and_cursors_survive_store_deletion(subject: Subject) {
    let case = Case::new(subject).await;
    for text in ["test_store", "TestStoreA", "b", "test-store", "B", "a"] {
        case.kv().create_store(name(text), None).await.unwrap();
    }
    let all = ["a", "B", "b", "main", "test-store", "TestStoreA", "test_store"];
    assert_eq!(case.names(None, 10).await, (all.map(String::from).to_vec(), 7, false));
    let (page, total, more) = case.names(Some("B"), 2).await;
    assert_eq!((page, total, more), (vec!["b".into(), "main".into()], 7, true));
    let list = ListStores { name: Some("b".into()), after: None, limit: 1 };
    let id = case.kv().list_stores(&list).await.unwrap().stores[0].id;
    case.kv().delete_store(&id).await.unwrap();
    let (page, total, _) = case.names(Some("b"), 1).await;
    assert_eq!(
        (page, total),
        (vec!["main".into()], 6),
        "a cursor must stay valid when its store is deleted"
    );
    let (page, _, more) = case.names(Some("main"), 3).await;
    assert_eq!((page.len(), more), (3, false));
}

async fn a_rename_changes_only_the_name(subject: Subject) {
    let case = Case::new(subject).await;
    case.put("k", PutRequest::default(), "v").await.unwrap();
    case.kv().create_store(name("taken"), None).await.unwrap();
    let before = case.kv().describe_store(&case.store).await.unwrap();
    case.clock.advance(5 * SECOND);
    case.kv().rename_store(&case.store, name("main")).await.unwrap();
    assert_eq!(
        case.kv().describe_store(&case.store).await.unwrap(),
        before,
        "renaming to the same name must change nothing"
    );
    let taken = case.kv().rename_store(&case.store, name("taken")).await;
    assert_eq!(taken, Err(Error::StoreExists("taken".into())));
    case.kv().rename_store(&case.store, name("MAIN")).await.unwrap();
    let after = case.kv().describe_store(&case.store).await.unwrap();
    assert_eq!((after.name.as_str(), after.created_at), ("MAIN", before.created_at));
    assert_eq!(after.updated_at, before.updated_at + 5 * SECOND);
    assert_eq!(case.get("k").await.as_deref(), Some("v"));
    assert_eq!(case.names(None, 10).await.0, ["MAIN", "taken"]);
    case.kv().create_store(name("main"), None).await.unwrap();
}

async fn a_store_with_a_live_item_cannot_be_deleted(subject: Subject) {
    let case = Case::new(subject).await;
    case.put("k", PutRequest::default(), "v").await.unwrap();
    case.put("short", ttl(5), "v").await.unwrap();
    assert_eq!(case.kv().delete_store(&case.store).await, Err(Error::StoreNotEmpty));
    case.delete("k", DeleteRequest::default()).await.unwrap();
    assert_eq!(case.kv().delete_store(&case.store).await, Err(Error::StoreNotEmpty));
    case.clock.advance(5 * SECOND);
    case.kv().delete_store(&case.store).await.unwrap();
    assert_eq!(case.kv().delete_store(&case.store).await, Err(Error::NoStore));
    assert_eq!(case.put("k", PutRequest::default(), "v").await, Err(Error::NoStore));
    assert!(matches!(case.kv().get(&case.store, &key("k")).await, Err(Error::NoStore)));
    assert_eq!(case.kv().stores_count().await.unwrap(), 0);
    case.clock.advance((EXPIRED_RETENTION_SECS + 1) * SECOND);
    assert_eq!(
        case.kv().purge_expired().await.unwrap(),
        1,
        "expired items of a deleted store must be swept"
    );
    assert_eq!(case.kv().items_count().await.unwrap(), 0);
}

async fn a_concurrent_put_and_store_delete_do_not_both_succeed(subject: Subject) {
    let case = Case::new(subject).await;
    for round in 0..60 {
        let store = case.kv().create_store(name(&format!("race{round}")), None).await.unwrap().id;
        let putter = {
            let kv = case.kv().clone();
            tokio::spawn(async move {
                let value = Value::from(Bytes::from_static(b"v"));
                kv.put(&store, &key("k"), &PutRequest::default(), value).await
            })
        };
        let deleter = {
            let kv = case.kv().clone();
            tokio::spawn(async move { kv.delete_store(&store).await })
        };
        let (put, deleted) = (putter.await.unwrap(), deleter.await.unwrap());
        let exists = case.kv().get(&store, &key("k")).await.is_ok();
        match (&put, &deleted) {
            (Ok(_), Err(Error::StoreNotEmpty)) => assert!(exists, "round {round}"),
            (Err(Error::NoStore), Ok(())) => assert!(!exists, "round {round}"),
            _ => panic!("round {round}: put {put:?}, delete {deleted:?}"),
        }
    }
}

async fn a_put_replaces_value_metadata_and_expiry(subject: Subject) {
    let case = Case::new(subject).await;
    let metadata = Metadata::parse(b"caf\xe9\t").unwrap();
    let first = PutRequest { metadata: metadata.clone(), ..ttl(100) };
    case.put("k", first, "one").await.unwrap();
    let item = case.kv().get(&case.store, &key("k")).await.unwrap();
    assert_eq!((item.metadata, item.size, item.modified_at), (metadata, 3, START));
    assert_eq!(item.expires_at, Some(START + 100 * SECOND));
    // If processes share a database, the clock of the database is a lower bound for generations.
    assert!(item.generation == START + 1 || case.subject.shared() && item.generation > START);
    case.put("k", PutRequest::default(), "").await.unwrap();
    let item = case.kv().get(&case.store, &key("k")).await.unwrap();
    assert_eq!((item.metadata, item.size, item.expires_at), (Metadata::NONE, 0, None));
    case.clock.advance(1000 * SECOND);
    assert_eq!(case.get("k").await.as_deref(), Some(""));
}

async fn append_and_prepend_extend_the_value_and_drop_metadata_and_expiry(subject: Subject) {
    let case = Case::new(subject).await;
    let metadata = Metadata::parse(b"meta").unwrap();
    case.put("k", mode(PutMode::Append), "b").await.unwrap();
    case.put("k", PutRequest { metadata, ..ttl(10) }, "b").await.unwrap();
    case.put("k", mode(PutMode::Append), "c").await.unwrap();
    case.put("k", mode(PutMode::Prepend), "a").await.unwrap();
    let item = case.kv().get(&case.store, &key("k")).await.unwrap();
    assert_eq!((item.metadata, item.expires_at), (Metadata::NONE, None));
    assert_eq!(case.get("k").await.as_deref(), Some("abc"));
    let current = case.generation("k").await;
    let mismatched = PutRequest { if_generation: Some(current + 1), ..mode(PutMode::Append) };
    assert_eq!(case.put("k", mismatched, "d").await, Err(Error::Precondition));
    let matching = PutRequest { if_generation: Some(current), ..mode(PutMode::Append) };
    case.put("k", matching, "d").await.unwrap();
    assert_eq!(case.get("k").await.as_deref(), Some("abcd"));
}

async fn append_and_prepend_concatenate_large_values(subject: Subject) {
    let case = Case::new(subject).await;
    let part = |letter: &str| letter.repeat(PIECE_BYTES - 10);
    let mut expected = part("a");
    case.put("k", PutRequest::default(), &expected).await.unwrap();
    for (step, letter) in [(PutMode::Append, "b"), (PutMode::Prepend, "c")] {
        case.put("k", mode(step), &part(letter)).await.unwrap();
        expected = match step {
            PutMode::Append => expected + &part(letter),
            PutMode::Overwrite | PutMode::Add | PutMode::Prepend => part(letter) + &expected,
        };
        assert!(case.get("k").await.unwrap() == expected, "{letter}");
    }
    let before = case.generation("k").await;
    let too_large = case.put("k", mode(PutMode::Append), &part("d")).await;
    assert_eq!(too_large, Err(Error::TooLarge(MAX)));
    assert_eq!(case.generation("k").await, before);
}

async fn conditional_writes_require_a_matching_generation_and_never_reuse_one(subject: Subject) {
    let mut case = Case::new(subject).await;
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        assert_eq!(case.put("k", if_generation(1), "v").await, Err(Error::Precondition));
        let generation = case.put("k", if_generation(0), "v").await.unwrap();
        assert_eq!(case.generation("k").await, generation);
        assert_eq!(case.put("k", if_generation(0), "v").await, Err(Error::Precondition));
        let next = case.put("k", if_generation(generation), "w").await.unwrap();
        assert_eq!(case.put("k", if_generation(generation), "x").await, Err(Error::Precondition));
        assert!(seen.insert(generation) && seen.insert(next), "round {round}");
        let stale = DeleteRequest { force: true, if_generation: Some(generation) };
        assert_eq!(case.delete("k", stale).await, Err(Error::Precondition));
        case.delete("k", DeleteRequest { force: false, if_generation: Some(next) }).await.unwrap();
        assert_eq!(case.delete("k", DeleteRequest::default()).await, Err(Error::NoItem));
        case.delete("k", DeleteRequest { force: true, if_generation: Some(next) }).await.unwrap();
        case.reopen().await;
    }
}

async fn generations_increase_when_the_clock_goes_back(subject: Subject) {
    let mut case = Case::new(subject).await;
    let mut last = 0;
    for now in [START + SECOND, START, 0, START - SECOND, START + 2 * SECOND] {
        case.clock.set(now);
        for _ in 0..3 {
            let generation = case.put("k", PutRequest::default(), "v").await.unwrap();
            assert!(generation > last && generation >= now, "{generation} after {last} at {now}");
            last = generation;
        }
        case.delete("k", DeleteRequest::default()).await.unwrap();
        case.reopen().await;
    }
}

/// Runs the same work in several concurrent tasks and returns their results.
async fn run_concurrently<F, Fut>(tasks: usize, work: F) -> Vec<Fut::Output>
where
    F: Fn(usize) -> Fut,
    Fut: Future + Send + 'static,
    Fut::Output: Send + 'static,
{
    let running: Vec<_> = (0..tasks).map(|task| tokio::spawn(work(task))).collect();
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.unwrap());
    }
    results
}

async fn exactly_one_of_concurrent_adds_succeeds(subject: Subject) {
    let case = Arc::new(Case::new(subject).await);
    for round in 0..20 {
        let results = run_concurrently(16, |task| {
            let case = case.clone();
            let (key, value) = (format!("k{round}"), task.to_string());
            async move { (value.clone(), case.put(&key, mode(PutMode::Add), &value).await) }
        });
        let results = results.await;
        let winners: Vec<_> = results.iter().filter(|(_, result)| result.is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        assert_eq!(case.get(&format!("k{round}")).await.as_ref(), Some(&winners[0].0));
    }
}

async fn concurrent_appends_lose_no_updates(subject: Subject) {
    let case = Arc::new(Case::new(subject).await);
    run_concurrently(16, |task| {
        let case = case.clone();
        async move {
            for turn in 0..20 {
                let step = if turn % 2 == 0 { PutMode::Append } else { PutMode::Prepend };
                case.put("k", mode(step), &format!("[{task}:{turn}]")).await.unwrap();
            }
        }
    })
    .await;
    let all = case.get("k").await.unwrap();
    for task in 0..16 {
        for turn in 0..20 {
            assert_eq!(all.matches(&format!("[{task}:{turn}]")).count(), 1, "{task} {turn}");
        }
    }
}

async fn concurrent_increments_lose_no_updates(subject: Subject) {
    let case = Arc::new(Case::new(subject).await);
    case.put("n", PutRequest::default(), "0").await.unwrap();
    run_concurrently(8, |_| {
        let case = case.clone();
        async move {
            for _ in 0..25 {
                loop {
                    let item = case.kv().get(&case.store, &key("n")).await.unwrap();
                    let bytes = item.value.read_all().await.unwrap();
                    let n: u64 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
                    let put = if_generation(item.generation);
                    match case.put("n", put, &(n + 1).to_string()).await {
                        Ok(_) => break,
                        Err(Error::Precondition) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            }
        }
    })
    .await;
    assert_eq!(case.get("n").await.as_deref(), Some("200"));
}

async fn appends_are_not_starved_by_overwrites(subject: Subject) {
    let case = Arc::new(Case::new(subject).await);
    run_concurrently(5, |task| {
        let case = case.clone();
        async move {
            for _ in 0..50 {
                let step = if task == 0 { PutMode::Append } else { PutMode::Overwrite };
                case.put("k", mode(step), "x").await.unwrap();
            }
        }
    })
    .await;
}

async fn an_item_is_absent_as_soon_as_it_expires(subject: Subject) {
    let case = Case::new(subject).await;
    for key in ["get", "add", "cas", "append", "delete", "forced"] {
        case.put(key, ttl(2), "old").await.unwrap();
    }
    case.clock.advance(2 * SECOND - 1);
    assert_eq!(case.get("get").await.as_deref(), Some("old"));
    let before = case.generation("cas").await;
    case.clock.advance(1);
    assert_eq!(case.get("get").await, None);
    assert_eq!(case.page("", None, 10).await, (vec![], false));
    assert_eq!(case.put("cas", if_generation(before), "new").await, Err(Error::Precondition));
    case.put("cas", if_generation(0), "new").await.unwrap();
    case.put("add", mode(PutMode::Add), "new").await.unwrap();
    case.put("append", mode(PutMode::Append), "new").await.unwrap();
    for key in ["cas", "add", "append"] {
        assert_eq!(case.get(key).await.as_deref(), Some("new"), "{key}");
    }
    let stale = DeleteRequest { force: true, if_generation: Some(before) };
    assert_eq!(case.delete("forced", stale).await, Err(Error::Precondition));
    case.delete("delete", DeleteRequest::default()).await.unwrap();
    assert_eq!(case.delete("delete", DeleteRequest::default()).await, Err(Error::NoItem));
    case.clock.set(START);
    assert_eq!(
        case.get("get").await.as_deref(),
        Some("old"),
        "expiry must depend on the clock only"
    );
}

async fn the_sweep_removes_only_items_whose_retention_period_is_over(subject: Subject) {
    let case = Case::new(subject).await;
    for n in 0..600 {
        case.put(&format!("short{n}"), ttl(1), "v").await.unwrap();
    }
    case.put("long", ttl(1000), "v").await.unwrap();
    case.put("kept", PutRequest::default(), "v").await.unwrap();
    case.put("again", ttl(1), "v").await.unwrap();
    case.put("again", ttl(500), "v").await.unwrap();
    case.clock.advance((1 + EXPIRED_RETENTION_SECS) * SECOND - 1);
    assert_eq!(case.kv().purge_expired().await.unwrap(), 0, "expired items must be retained");
    case.clock.advance(SECOND);
    let mut swept = 0;
    loop {
        match case.kv().purge_expired().await.unwrap() {
            0 => break,
            count => swept += count,
        }
    }
    assert_eq!((swept, case.kv().items_count().await.unwrap()), (600, 3));
    assert_eq!(case.page("", None, 10).await.0, ["again", "kept", "long"]);
}

async fn keys_are_listed_by_prefix_in_full_pages(subject: Subject) {
    let case = Case::new(subject).await;
    let other = case.kv().create_store(name("other"), None).await.unwrap().id;
    let value = || Value::from(Bytes::new());
    case.kv().put(&other, &key("b5"), &PutRequest::default(), value()).await.unwrap();
    let mut all: Vec<String> = (0..25).map(|n| format!("b{n}")).collect();
    all.extend(["a".into(), "c".into(), "b/é".into(), "\u{10ffff}x".into()]);
    for text in &all {
        case.put(text, PutRequest::default(), "v").await.unwrap();
    }
    all.sort();
    for limit in [1, 2, 5, 24, 25, 28, 29, 1000] {
        for prefix in ["", "b", "b1", "b/", "x", "\u{10ffff}"] {
            let expected: Vec<_> = all.iter().filter(|text| text.starts_with(prefix)).collect();
            let (mut found, mut after) = (Vec::new(), None::<String>);
            loop {
                let (page, more) = case.page(prefix, after.as_deref(), limit).await;
                assert!(page.len() == limit || !more, "a page before the last one must be full");
                after = page.last().cloned();
                found.extend(page);
                if !more {
                    break;
                }
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{prefix:?}, limit {limit}");
        }
    }
    assert_eq!(case.page("b", Some("a"), 1).await.0, ["b/é"], "a cursor before the prefix");
    assert_eq!(case.page("b", Some("c"), 9).await, (vec![], false), "a cursor after the prefix");
}

async fn pages_skip_expired_items_and_stay_full(subject: Subject) {
    let case = Case::new(subject).await;
    for n in 0..30 {
        let put = if n % 3 == 0 { PutRequest::default() } else { ttl(1) };
        case.put(&format!("k{n:02}"), put, "v").await.unwrap();
    }
    case.clock.advance(SECOND);
    let (page, more) = case.page("", None, 5).await;
    assert_eq!(
        (page, more),
        (["k00", "k03", "k06", "k09", "k12"].map(String::from).to_vec(), true)
    );
    let (page, more) = case.page("", Some("k12"), 5).await;
    assert_eq!((page.len(), more), (5, false));
}

async fn deletes_during_a_list_cause_no_skipped_or_repeated_keys(subject: Subject) {
    let case = Case::new(subject).await;
    for n in 0..100 {
        case.put(&format!("k{n:02}"), PutRequest::default(), "v").await.unwrap();
    }
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let (page, more) = case.page("", after.as_deref(), 7).await;
        after = page.last().cloned();
        for text in &page {
            case.delete(text, DeleteRequest::default()).await.unwrap();
        }
        found.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(found, (0..100).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
}

async fn a_batch_applies_its_items_in_order(subject: Subject) {
    let case = Case::new(subject).await;
    let line = |text: &str, value: &str, ttl: Option<u64>| BatchItem {
        key: key(text),
        ttl: ttl.map(|secs| Ttl::new(secs).unwrap()),
        metadata: Metadata::parse(b"m").unwrap(),
        value: Value::from(Bytes::from(value.to_owned())),
    };
    let lines = vec![line("a", "1", None), line("b", "1", Some(1)), line("a", "2", None)];
    case.kv().put_batch(&case.store, lines).await.unwrap();
    assert_eq!(case.get("a").await.as_deref(), Some("2"));
    case.clock.advance(SECOND);
    assert_eq!(case.get("b").await, None);
    let item = case.kv().get(&case.store, &key("a")).await.unwrap();
    assert_eq!(item.metadata.as_bytes(), b"m");
    let unknown = StoreId::random().unwrap();
    let lost = case.kv().put_batch(&unknown, vec![line("a", "3", None)]).await;
    assert_eq!(lost, Err(Error::NoStore));
}

async fn values_over_the_limit_are_rejected(subject: Subject) {
    let case = Case::new(subject).await;
    let max = usize::try_from(MAX).unwrap();
    for (len, fits) in [(max, true), (max + 1, false)] {
        let mut upload = case.kv().upload();
        let mut pushed = Ok(());
        for chunk in vec![b'v'; len].chunks(100_000) {
            pushed = pushed.and(upload.push(Bytes::copy_from_slice(chunk)).await);
        }
        assert_eq!(pushed.is_ok(), fits, "{len}");
        if fits {
            let value = upload.finish().await.unwrap();
            case.kv().put(&case.store, &key("k"), &PutRequest::default(), value).await.unwrap();
        }
    }
    assert_eq!(case.kv().head(&case.store, &key("k")).await.unwrap().size, MAX);
    let declared =
        case.kv().check_put(&case.store, &key("k"), &PutRequest::default(), Some(MAX + 1)).await;
    assert_eq!(declared.map(drop), Err(Error::TooLarge(MAX)));
}

async fn items_survive_reopening_the_engine(subject: Subject) {
    let mut case = Case::new(subject).await;
    let metadata = Metadata::parse("mé".as_bytes()).unwrap();
    case.put("k", PutRequest { metadata: metadata.clone(), ..ttl(50) }, "v").await.unwrap();
    case.put("big", PutRequest::default(), &"x".repeat(2 * PIECE_BYTES)).await.unwrap();
    let generation = case.generation("k").await;
    for _ in 0..2 {
        case.reopen().await;
        let item = case.kv().get(&case.store, &key("k")).await.unwrap();
        assert_eq!((item.metadata, item.generation), (metadata.clone(), generation));
        assert_eq!(item.expires_at, Some(START + 50 * SECOND));
        assert_eq!(case.get("big").await.map(|value| value.len()), Some(2 * PIECE_BYTES));
        assert_eq!(case.page("", None, 10).await.0, ["big", "k"]);
    }
}
