//! Tests of the checker: it reports every kind of planted violation.

use crate::harness::checker::{self, Kind, Observation, Verdict};
use crate::harness::journal::{
    self, APPENDED, COUNTED, Effect, Event, EventKind, Expected, Journal, Op,
};
use crate::harness::random::{now_micros, run_seed};
use crate::harness::tagged_value::{self, Chunk};
use crate::harness::workload::ValueSizes::Small;
use crate::support::{Server, copy_dir};
use crate::testbed::{Testbed, start_server};
use std::time::{Duration, Instant};

/// A journal of three puts, one of them with a time to live, and the server that applied them.
struct Scenario {
    testbed: Testbed,
    journal: Journal,
}

const PERMANENT: &str = "w1-0";
const EXPIRING: &str = "w1-1";
const LARGE: &str = "w1-2";

impl Scenario {
    fn new() -> Scenario {
        let testbed = Testbed::new(1, 0);
        let mut scenario = Scenario { testbed, journal: Journal::new(1) };
        scenario.put(PERMANENT, 100, None);
        scenario.put(EXPIRING, 100, Some(1));
        scenario.put(LARGE, 300_000, None);
        scenario
    }

    fn record_invocation(&mut self, key: &str, bytes: u32, ttl: Option<u32>) -> Chunk {
        let chunk = self.journal.chunk(key, bytes);
        let effect = Effect::Replace(Some(chunk));
        let op = Op { key: key.to_owned(), effect, metadata: String::new(), ttl };
        self.journal.record_invocation(now_micros(), op);
        chunk
    }

    fn acknowledge(&mut self, key: &str, generation: u64) {
        let kind = EventKind::Acknowledged(Some(generation));
        self.journal.push(Event { at: now_micros(), key: key.to_owned(), kind });
    }

    fn put(&mut self, key: &str, bytes: u32, ttl: Option<u32>) {
        let chunk = self.record_invocation(key, bytes, ttl);
        let ttl = ttl.map(|ttl| ttl.to_string());
        let fields: Vec<_> = ttl.iter().map(|ttl| ("time_to_live_sec", ttl.as_str())).collect();
        let request = format!("PUT {}", self.testbed.path(key));
        let reply = self.testbed.server.request(&request, &fields, &chunk.encode(key));
        assert_eq!(reply.status, 200);
        self.acknowledge(key, reply.generation());
    }

    fn expected(&self) -> Expected {
        journal::expected(std::slice::from_ref(&self.journal))
    }

    fn observed(&self) -> Observation {
        checker::observe(self.testbed.server.port, &self.testbed.store, &self.expected())
    }

    fn verdict(&self) -> Verdict {
        checker::compare(&self.expected(), &self.observed())
    }

    /// Asserts that the given violation is the only one in the verdict.
    fn assert_reported(&self, verdict: &Verdict, key: &str, kind: Kind) {
        let reported: Vec<_> = verdict.violations.iter().map(|f| (&f.key[..], f.kind)).collect();
        assert_eq!(reported, [(key, kind)], "{:#?}", verdict.violations);
    }

    /// Corrupts an observation, and asserts that the checker reports only the given violation.
    fn assert_detects(&self, key: &str, kind: Kind, corrupt: impl FnOnce(&mut Observation)) {
        let mut observed = self.observed();
        corrupt(&mut observed);
        self.assert_reported(&checker::compare(&self.expected(), &observed), key, kind);
    }
}

#[test]
fn a_correct_server_passes() {
    let scenario = Scenario::new();
    let verdict = scenario.verdict();
    assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
    assert_eq!(verdict.checked, 5);
}

#[test]
fn a_lost_overwrite_is_reported() {
    let mut scenario = Scenario::new();
    scenario.record_invocation(PERMANENT, 200, None);
    scenario.acknowledge(PERMANENT, now_micros());
    scenario.assert_reported(&scenario.verdict(), PERMANENT, Kind::LostWrite);
}

#[test]
fn a_lost_insert_is_reported() {
    let mut scenario = Scenario::new();
    scenario.record_invocation("w1-3", 200, None);
    scenario.acknowledge("w1-3", now_micros());
    scenario.assert_reported(&scenario.verdict(), "w1-3", Kind::LostWrite);
}

#[test]
fn a_write_without_a_response_may_or_may_not_be_applied() {
    let mut scenario = Scenario::new();
    let before = now_micros();
    std::thread::sleep(Duration::from_millis(2));
    scenario.record_invocation(PERMANENT, 200, None);
    assert!(
        scenario.verdict().violations.is_empty(),
        "the checker reported a write that was not applied"
    );
    let chunk = match &scenario.expected().keys[PERMANENT].pending[..] {
        [Some(item)] => item.chunks[0],
        other => panic!("{other:?}"),
    };
    let request = format!("PUT {}", scenario.testbed.path(PERMANENT));
    let reply = scenario.testbed.server.request(&request, &[], &chunk.encode(PERMANENT));
    assert_eq!(reply.status, 200);
    let verdict = scenario.verdict();
    assert!(
        verdict.violations.is_empty(),
        "the checker reported a write that was applied: {:#?}",
        verdict.violations
    );
    // Without the request in the journal, the value must be reported, because no known request
    // wrote it.
    let verdict = checker::compare(&scenario.journal.expected_at(before), &scenario.observed());
    scenario.assert_reported(&verdict, PERMANENT, Kind::LostWrite);
}

#[test]
fn a_torn_value_is_reported() {
    let scenario = Scenario::new();
    let chunks = scenario.expected().keys[LARGE].possible[0].clone().unwrap().chunks;
    let mut torn = chunks[0].encode(LARGE);
    torn[150_000..].fill(0);
    let request = format!("PUT {}", scenario.testbed.path(LARGE));
    assert_eq!(scenario.testbed.server.request(&request, &[], &torn).status, 200);
    scenario.assert_reported(&scenario.verdict(), LARGE, Kind::TornValue);
    assert_eq!(scenario.testbed.server.request(&request, &[], &torn[..1000]).status, 200);
    scenario.assert_reported(&scenario.verdict(), LARGE, Kind::TornValue);
    // Use an intact value that belongs to another key.
    let other = chunks[0].encode(PERMANENT);
    assert_eq!(scenario.testbed.server.request(&request, &[], &other).status, 200);
    scenario.assert_reported(&scenario.verdict(), LARGE, Kind::TornValue);
}

#[test]
fn a_wrong_generation_is_reported() {
    let scenario = Scenario::new();
    scenario.assert_detects(PERMANENT, Kind::GenerationRegressed, |observed| {
        let seen = observed.keys.get_mut(PERMANENT).unwrap();
        seen.get.generation -= 1;
        seen.head.generation -= 1;
    });
    scenario.assert_detects(PERMANENT, Kind::WrongGeneration, |observed| {
        let seen = observed.keys.get_mut(PERMANENT).unwrap();
        seen.get.generation += 1;
        seen.head.generation += 1;
    });
}

#[test]
fn a_list_with_a_missing_extra_or_misplaced_key_is_reported() {
    let scenario = Scenario::new();
    scenario.assert_detects(PERMANENT, Kind::ListMismatch, |observed| {
        observed.lists[1].keys.retain(|key| key != PERMANENT);
    });
    scenario.assert_detects("w9-9", Kind::ListMismatch, |observed| {
        observed.lists[0].keys.push("w9-9".to_owned());
    });
    scenario.assert_detects("", Kind::ListMismatch, |observed| observed.lists[0].keys.reverse());
}

#[test]
fn an_item_that_expires_late_or_early_is_reported() {
    let scenario = Scenario::new();
    // Pretend that the item was read one hour later.
    scenario.assert_detects(EXPIRING, Kind::ExpiredServed, |observed| {
        let seen = observed.keys.get_mut(EXPIRING).unwrap();
        seen.interval = (now_micros() + 3_600_000_000, now_micros() + 3_600_000_000);
        observed.lists.clear();
    });
    // Pretend that the item was absent before its expiry.
    scenario.assert_detects(EXPIRING, Kind::LostWrite, |observed| {
        let seen = observed.keys.get_mut(EXPIRING).unwrap();
        seen.get = checker::ItemHeaders { status: 404, ..Default::default() };
        seen.head = seen.get.clone();
        let expiry =
            scenario.expected().keys[EXPIRING].possible[0].clone().unwrap().expiry.unwrap();
        seen.interval = (expiry.between.0 - 2, expiry.between.0 - 1);
    });
}

#[test]
fn a_resurrected_item_is_reported() {
    let mut scenario = Scenario::new();
    let (key, metadata) = (PERMANENT.to_owned(), String::new());
    scenario
        .journal
        .record_invocation(now_micros(), Op { key, effect: Effect::Delete, metadata, ttl: None });
    let (at, key, kind) = (now_micros(), PERMANENT.to_owned(), EventKind::Acknowledged(None));
    scenario.journal.push(Event { at, key, kind });
    scenario.assert_reported(&scenario.verdict(), PERMANENT, Kind::Resurrected);
}

#[test]
fn wrong_metadata_lengths_and_statuses_are_reported() {
    let scenario = Scenario::new();
    scenario.assert_detects(PERMANENT, Kind::WrongMetadata, |observed| {
        let seen = observed.keys.get_mut(PERMANENT).unwrap();
        seen.get.metadata = "other".to_owned();
        seen.head.metadata = "other".to_owned();
    });
    scenario.assert_detects(LARGE, Kind::WrongLength, |observed| {
        observed.keys.get_mut(LARGE).unwrap().get.stored += 1;
    });
    scenario.assert_detects(LARGE, Kind::HeadMismatch, |observed| {
        observed.keys.get_mut(LARGE).unwrap().head.length += 1;
    });
    scenario.assert_detects(LARGE, Kind::Unreadable, |observed| {
        observed.keys.get_mut(LARGE).unwrap().get.status = 500;
    });
}

/// Waits until the workload has appended ten chunks to the shared key and has written the counter.
fn wait_for_workload(server: &Server, store: &str) {
    let chunks = |key| {
        let request = format!("GET /resources/stores/kv/{store}/keys/{key}");
        let value = server.request(&request, &[], b"").body;
        tagged_value::decode(key, &value).map_or(0, |chunks| chunks.len())
    };
    let (end, initial) = (Instant::now() + Duration::from_secs(60), chunks(APPENDED));
    while chunks(APPENDED) < initial + 10 || chunks(COUNTED) == 0 {
        assert!(Instant::now() < end, "the workload makes no progress");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn missing_duplicate_and_reordered_appends_and_wrong_counts_are_reported() {
    let mut testbed = Testbed::new(run_seed("shared keys"), 4);
    let store = testbed.store.clone();
    testbed.run_workload(Small, false, |server| wait_for_workload(server, &store));
    testbed.check("before planting violations");
    let expected = journal::expected(&testbed.journals);
    let observed = checker::observe(testbed.server.port, &testbed.store, &expected);
    let kinds = |corrupt: &dyn Fn(&mut Vec<Chunk>), key: &str| {
        let mut observed = observed.clone();
        corrupt(observed.keys.get_mut(key).unwrap().value.as_mut().unwrap());
        let violations = checker::compare(&expected, &observed).violations;
        violations.into_iter().map(|violation| violation.kind).collect::<Vec<_>>()
    };
    let unchanged = |_: &mut Vec<Chunk>| {};
    assert_eq!(kinds(&unchanged, APPENDED), []);
    assert_eq!(kinds(&|chunks| chunks.truncate(chunks.len() - 1), APPENDED), [Kind::WrongAppends]);
    assert_eq!(kinds(&|chunks| chunks.push(chunks[0]), APPENDED), [Kind::WrongAppends]);
    assert_eq!(kinds(&|chunks| chunks.insert(0, chunks[1]), APPENDED), [Kind::WrongAppends]);
    assert_eq!(kinds(&|chunks| chunks[0].sequence += 1, COUNTED), [Kind::WrongCount]);
    assert_eq!(kinds(&|chunks| chunks[0].sequence -= 1, COUNTED), [Kind::WrongCount]);
}

#[test]
fn a_rollback_to_an_older_database_is_reported() {
    let mut testbed = Testbed::new(run_seed("rollback"), 4);
    let run_workload = |testbed: &mut Testbed| {
        let store = testbed.store.clone();
        testbed.run_workload(Small, false, |server| {
            wait_for_workload(server, &store);
            server.terminate();
            assert!(server.wait_for_exit(Duration::from_secs(30)).is_some());
        });
    };
    run_workload(&mut testbed);
    let (database, log) = (testbed.data().join("steadfast.db"), testbed.data().join("log"));
    let older = tempfile::tempdir().unwrap();
    let older_database = std::fs::read(&database).unwrap();
    copy_dir(&log, older.path());
    testbed.restart(start_server);
    testbed.check("before the rollback");
    run_workload(&mut testbed);
    std::fs::write(&database, older_database).unwrap();
    // Restore the older WAL as well, because the older database refers to values in it, and because
    // recovery would replay the later commits from the newer WAL.
    std::fs::remove_dir_all(&log).unwrap();
    copy_dir(older.path(), &log);
    testbed.restart(start_server);
    let violations = testbed.verdict().violations;
    assert!(violations.iter().any(|v| v.kind == Kind::LostWrite), "{violations:#?}");
    assert!(violations.iter().any(|violation| violation.key == APPENDED), "{violations:#?}");
}

#[test]
fn tagged_values_round_trip_and_detect_every_changed_byte() {
    let chunks = [0, 26, 100, 5000].map(|bytes| Chunk::new("key", 7, u64::from(bytes) + 1, bytes));
    let whole: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.encode("key")).collect();
    assert_eq!(tagged_value::decode("key", &whole).unwrap(), chunks);
    assert_eq!(tagged_value::decode("key", b"").unwrap(), []);
    // A changed byte and a truncated chunk must be detected.
    for at in (0..whole.len()).step_by(7) {
        let mut other = whole.clone();
        other[at] ^= 1;
        assert!(
            tagged_value::decode("key", &other).is_err(),
            "a change of byte {at} was not detected"
        );
    }
    assert!(tagged_value::decode("key", &whole[..whole.len() - 1]).is_err());
    assert!(tagged_value::decode("key", &whole[1..]).is_err());
    assert!(tagged_value::decode("yek", &whole).is_err());
}
