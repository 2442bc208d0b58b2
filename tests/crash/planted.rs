//! Tests of the test: each violation, planted, is reported.

use crate::check::{self, Kind, Observed, Verdict};
use crate::ground::{Ground, plain};
use crate::journal::{self, APPENDED, COUNTED, Change, Event, Expected, Journal, Op, What};
use crate::load::Sizes;
use crate::random::{now, seed};
use crate::value::{self, Piece};
use std::time::Duration;

/// A writer's journal after three puts, one of them with a time to live, and what a server shows
/// that has them.
struct Scene {
    ground: Ground,
    journal: Journal,
}

const STAYS: &str = "w1-0";
const EXPIRES: &str = "w1-1";
const LARGE: &str = "w1-2";

impl Scene {
    fn new() -> Scene {
        let ground = Ground::new(1, 0);
        let mut scene = Scene { ground, journal: Journal::new(1) };
        scene.put(STAYS, 100, None);
        scene.put(EXPIRES, 100, Some(1));
        scene.put(LARGE, 300_000, None);
        scene
    }

    fn invoke(&mut self, key: &str, bytes: u32, ttl: Option<u32>) -> Piece {
        let piece = self.journal.piece(key, bytes);
        let change = Change::Replace(Some(piece));
        let op = Op { key: key.to_owned(), change, metadata: String::new(), ttl };
        self.journal.invoke(now(), op);
        piece
    }

    fn acknowledge(&mut self, key: &str, generation: u64) {
        let what = What::Acknowledged(Some(generation));
        self.journal.push(Event { at: now(), key: key.to_owned(), what });
    }

    fn put(&mut self, key: &str, bytes: u32, ttl: Option<u32>) {
        let piece = self.invoke(key, bytes, ttl);
        let ttl = ttl.map(|ttl| ttl.to_string());
        let fields: Vec<_> = ttl.iter().map(|ttl| ("time_to_live_sec", ttl.as_str())).collect();
        let request = format!("PUT {}", self.ground.path(key));
        let answer = self.ground.server.request(&request, &fields, &piece.make(key));
        assert_eq!(answer.status, 200);
        self.acknowledge(key, answer.generation());
    }

    fn expected(&self) -> Expected {
        journal::expected(std::slice::from_ref(&self.journal))
    }

    fn observed(&self) -> Observed {
        check::observe(self.ground.server.port, &self.ground.store, &self.expected())
    }

    fn verdict(&self) -> Verdict {
        check::compare(&self.expected(), &self.observed())
    }

    /// Demands that exactly this is reported of this key.
    fn reports(&self, verdict: &Verdict, key: &str, kind: Kind) {
        let told: Vec<_> = verdict.faults.iter().map(|f| (f.key.as_str(), f.kind)).collect();
        assert_eq!(told, [(key, kind)], "{:#?}", verdict.faults);
    }

    /// Reports this when what was observed is spoilt like that.
    fn spoilt(&self, key: &str, kind: Kind, spoil: impl FnOnce(&mut Observed)) {
        let mut observed = self.observed();
        spoil(&mut observed);
        self.reports(&check::compare(&self.expected(), &observed), key, kind);
    }
}

#[test]
fn a_server_that_is_right_is_not_reported() {
    let scene = Scene::new();
    let verdict = scene.verdict();
    assert!(verdict.faults.is_empty(), "{:#?}", verdict.faults);
    assert_eq!(verdict.checked, 5);
}

#[test]
fn an_acknowledged_write_that_never_happened_is_reported() {
    let mut scene = Scene::new();
    scene.invoke(STAYS, 200, None);
    scene.acknowledge(STAYS, now());
    scene.reports(&scene.verdict(), STAYS, Kind::Lost);
}

#[test]
fn an_acknowledged_write_of_a_new_key_that_never_happened_is_reported() {
    let mut scene = Scene::new();
    scene.invoke("w1-3", 200, None);
    scene.acknowledge("w1-3", now());
    scene.reports(&scene.verdict(), "w1-3", Kind::Lost);
}

#[test]
fn a_write_without_an_answer_may_be_there_or_not() {
    let mut scene = Scene::new();
    let before = now();
    std::thread::sleep(Duration::from_millis(2));
    scene.invoke(STAYS, 200, None);
    assert!(scene.verdict().faults.is_empty(), "it did not take place");
    let piece = match &scene.expected().keys[STAYS].pending[..] {
        [Some(item)] => item.pieces[0],
        other => panic!("{other:?}"),
    };
    let request = format!("PUT {}", scene.ground.path(STAYS));
    let answer = scene.ground.server.request(&request, &[], &piece.make(STAYS));
    assert_eq!(answer.status, 200);
    let verdict = scene.verdict();
    assert!(verdict.faults.is_empty(), "it did: {:#?}", verdict.faults);
    // Held against the journal as it was before, it is a write from nowhere.
    let verdict = check::compare(&scene.journal.until(before), &scene.observed());
    scene.reports(&verdict, STAYS, Kind::Lost);
}

#[test]
fn a_value_torn_in_the_middle_is_reported() {
    let scene = Scene::new();
    let pieces = scene.expected().keys[LARGE].possible[0].clone().unwrap().pieces;
    let mut torn = pieces[0].make(LARGE);
    torn[150_000..].fill(0);
    let request = format!("PUT {}", scene.ground.path(LARGE));
    assert_eq!(scene.ground.server.request(&request, &[], &torn).status, 200);
    scene.reports(&scene.verdict(), LARGE, Kind::Torn);
    assert_eq!(scene.ground.server.request(&request, &[], &torn[..1000]).status, 200);
    scene.reports(&scene.verdict(), LARGE, Kind::Torn);
    // Whole, but another key's.
    let other = pieces[0].make(STAYS);
    assert_eq!(scene.ground.server.request(&request, &[], &other).status, 200);
    scene.reports(&scene.verdict(), LARGE, Kind::Torn);
}

#[test]
fn a_generation_that_went_back_is_reported() {
    let scene = Scene::new();
    scene.spoilt(STAYS, Kind::GenerationBack, |observed| {
        let seen = observed.keys.get_mut(STAYS).unwrap();
        seen.get.generation -= 1;
        seen.head.generation -= 1;
    });
    scene.spoilt(STAYS, Kind::Generation, |observed| {
        let seen = observed.keys.get_mut(STAYS).unwrap();
        seen.get.generation += 1;
        seen.head.generation += 1;
    });
}

#[test]
fn a_list_that_misses_a_key_or_has_one_too_many_is_reported() {
    let scene = Scene::new();
    scene.spoilt(STAYS, Kind::List, |observed| {
        observed.lists[1].keys.retain(|key| key != STAYS);
    });
    scene.spoilt("w9-9", Kind::List, |observed| {
        observed.lists[0].keys.push("w9-9".to_owned());
    });
    scene.spoilt("", Kind::List, |observed| observed.lists[0].keys.reverse());
}

#[test]
fn an_expired_item_that_is_still_served_is_reported() {
    let scene = Scene::new();
    // As if an hour had passed.
    scene.spoilt(EXPIRES, Kind::Expired, |observed| {
        let seen = observed.keys.get_mut(EXPIRES).unwrap();
        seen.span = (now() + 3_600_000_000, now() + 3_600_000_000);
        observed.lists.clear();
    });
    // And one that went too early.
    scene.spoilt(EXPIRES, Kind::Lost, |observed| {
        let seen = observed.keys.get_mut(EXPIRES).unwrap();
        seen.get = check::Told { status: 404, ..Default::default() };
        seen.head = seen.get.clone();
        let life = scene.expected().keys[EXPIRES].possible[0].clone().unwrap().life.unwrap();
        seen.span = (life.ends.0 - 2, life.ends.0 - 1);
    });
}

#[test]
fn a_deleted_item_that_came_back_is_reported() {
    let mut scene = Scene::new();
    let (key, metadata) = (STAYS.to_owned(), String::new());
    scene.journal.invoke(now(), Op { key, change: Change::Delete, metadata, ttl: None });
    let (at, key, what) = (now(), STAYS.to_owned(), What::Acknowledged(None));
    scene.journal.push(Event { at, key, what });
    scene.reports(&scene.verdict(), STAYS, Kind::Returned);
}

#[test]
fn wrong_metadata_lengths_and_heads_are_reported() {
    let scene = Scene::new();
    scene.spoilt(STAYS, Kind::Metadata, |observed| {
        let seen = observed.keys.get_mut(STAYS).unwrap();
        seen.get.metadata = "other".to_owned();
        seen.head.metadata = "other".to_owned();
    });
    scene.spoilt(LARGE, Kind::Length, |observed| {
        observed.keys.get_mut(LARGE).unwrap().get.stored += 1;
    });
    scene.spoilt(LARGE, Kind::Head, |observed| {
        observed.keys.get_mut(LARGE).unwrap().head.length += 1;
    });
    scene.spoilt(LARGE, Kind::Unreadable, |observed| {
        observed.keys.get_mut(LARGE).unwrap().get.status = 500;
    });
}

#[test]
fn appends_that_are_missing_or_doubled_and_counts_that_are_off_are_reported() {
    let mut ground = Ground::new(seed("shared keys"), 4);
    ground.load(Sizes::Small, false, |_| std::thread::sleep(Duration::from_millis(700)));
    ground.check("before anything is planted");
    let expected = journal::expected(&ground.journals);
    let observed = check::observe(ground.server.port, &ground.store, &expected);
    let kinds = |spoil: &dyn Fn(&mut Vec<Piece>), key: &str| {
        let mut observed = observed.clone();
        spoil(observed.keys.get_mut(key).unwrap().value.as_mut().unwrap());
        let faults = check::compare(&expected, &observed).faults;
        faults.into_iter().map(|fault| fault.kind).collect::<Vec<_>>()
    };
    let nothing = |_: &mut Vec<Piece>| {};
    assert_eq!(kinds(&nothing, APPENDED), []);
    assert_eq!(kinds(&|pieces| pieces.truncate(pieces.len() - 1), APPENDED), [Kind::Appended]);
    assert_eq!(kinds(&|pieces| pieces.push(pieces[0]), APPENDED), [Kind::Appended]);
    assert_eq!(kinds(&|pieces| pieces.insert(0, pieces[1]), APPENDED), [Kind::Appended]);
    assert_eq!(kinds(&|pieces| pieces[0].sequence += 1, COUNTED), [Kind::RecordCounts]);
    assert_eq!(kinds(&|pieces| pieces[0].sequence -= 1, COUNTED), [Kind::RecordCounts]);
}

#[test]
fn a_server_that_was_set_back_to_an_older_state_is_reported() {
    let mut ground = Ground::new(seed("set back"), 4);
    let load = |ground: &mut Ground| {
        ground.load(Sizes::Small, false, |server| {
            std::thread::sleep(Duration::from_millis(300));
            server.terminate();
            assert!(server.wait_for_exit(Duration::from_secs(30)).is_some());
        });
    };
    load(&mut ground);
    let database = ground.data().join("steadfast.db");
    let older = std::fs::read(&database).unwrap();
    ground.restart(plain);
    ground.check("before it is set back");
    load(&mut ground);
    std::fs::write(&database, older).unwrap();
    // With its log, what happened since would be taken up again.
    std::fs::remove_dir_all(ground.data().join("log")).unwrap();
    ground.restart(plain);
    let faults = ground.verdict().faults;
    assert!(faults.iter().any(|fault| fault.kind == Kind::Lost), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.key == APPENDED), "{faults:#?}");
}

#[test]
fn a_value_is_read_as_the_pieces_it_was_made_of() {
    let pieces = [0, 26, 100, 5000].map(|bytes| Piece::new("key", 7, u64::from(bytes) + 1, bytes));
    let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.make("key")).collect();
    assert_eq!(value::parse("key", &whole).unwrap(), pieces);
    assert_eq!(value::parse("key", b"").unwrap(), []);
    // Whatever byte is changed and wherever it is cut within a piece: it shows.
    for at in (0..whole.len()).step_by(7) {
        let mut other = whole.clone();
        other[at] ^= 1;
        assert!(value::parse("key", &other).is_err(), "a change of byte {at}");
    }
    assert!(value::parse("key", &whole[..whole.len() - 1]).is_err());
    assert!(value::parse("key", &whole[1..]).is_err());
    assert!(value::parse("yek", &whole).is_err());
}
