//! Tests the consistency of paginated lists under concurrent writes. A list must contain every key
//! that exists while the list is read, and no key that is absent for the whole time. It must be
//! sorted and have no duplicates.

use crate::random::{Random, run_seed};
use crate::support::{Client, DiskServer, Server};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: u64 = 3;
const KEYS: u64 = 120;

/// A put, delete or expiry of a key that took effect between `began` and `ended`, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Change {
    present: bool,
    began: u64,
    ended: u64,
}

/// The changes of each key in order. Each key has only one writer.
type Changes = BTreeMap<String, Vec<Change>>;

/// The keys in a list, and the time from the first page to the last one.
#[derive(Clone, Debug)]
struct ObservedList {
    prefix: String,
    began: u64,
    ended: u64,
    keys: Vec<String>,
}

/// Checks that a list is consistent with the changes.
fn check_list(list: &ObservedList, changes: &Changes) -> Result<(), String> {
    if let Some(two) = list.keys.windows(2).find(|two| two[0] >= two[1]) {
        return Err(format!("{two:?} are out of order"));
    }
    if let Some(key) = list.keys.iter().find(|key| !key.starts_with(&list.prefix)) {
        return Err(format!("{key} does not have the prefix {:?}", list.prefix));
    }
    for (key, changes) in changes.iter().filter(|(key, _)| key.starts_with(&list.prefix)) {
        let before = changes.iter().rfind(|change| change.ended < list.began);
        let present = before.is_some_and(|change| change.present);
        let mut concurrent =
            changes.iter().filter(|c| c.ended >= list.began && c.began <= list.ended);
        let listed = list.keys.binary_search(key).is_ok();
        if present && !listed && !concurrent.clone().any(|change| !change.present) {
            return Err(format!("{key} is missing: {before:?}, {list:?}"));
        }
        if !present && listed && !concurrent.any(|change| change.present) {
            return Err(format!("{key} does not exist: {before:?}, {list:?}"));
        }
    }
    match list.keys.iter().find(|key| !changes.contains_key(*key)) {
        Some(key) => Err(format!("{key} was never written")),
        None => Ok(()),
    }
}

struct Race<'g> {
    port: u16,
    base: String,
    clock: Instant,
    stop: &'g AtomicBool,
    changes: &'g Mutex<Changes>,
    lists: &'g Mutex<Vec<ObservedList>>,
}

impl Race<'_> {
    fn now(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }

    /// Puts and deletes keys that no other writer uses. Some items expire.
    fn write(&self, writer: u64, mut random: Random) {
        let mut client = Client::connect(self.port).unwrap();
        let mut own_changes = Changes::new();
        while !self.stop.load(Ordering::SeqCst) {
            let key = format!("{}/{:03}-{writer}", random.below(3), random.below(KEYS / WRITERS));
            let path = format!("{}/keys/{}", self.base, key.replace('/', "%2F"));
            let changes = own_changes.entry(key).or_default();
            // Skip a key that may be expiring now.
            if changes.last().is_some_and(|last| self.now() < last.ended) {
                continue;
            }
            let (present, expires) = (random.below(5) > 1, random.one_in(20));
            let began = self.now();
            let (request, expected) = match present {
                true => (format!("PUT {path}"), [200, 200]),
                false => (format!("DELETE {path}"), [204, 404]),
            };
            let fields: &[(&str, &str)] =
                if present && expires { &[("time_to_live_sec", "1")] } else { &[] };
            let reply = client.request(&request, fields, b"").unwrap();
            assert!(expected.contains(&reply.status), "{request}: {}", reply.status);
            let ended = self.now();
            changes.push(Change { present, began, ended });
            if present && expires {
                // The item expires one second after a point in time within the request. Allow for
                // clock skew.
                let second = 1_000_000;
                let (began, ended) = (began + second - 20_000, ended + second + 20_000);
                changes.push(Change { present: false, began, ended });
            }
        }
        self.changes.lock().unwrap().append(&mut own_changes);
    }

    fn list(&self, mut random: Random) {
        let mut client = Client::connect(self.port).unwrap();
        while !self.stop.load(Ordering::SeqCst) {
            let prefix = match random.below(4) {
                0 => String::new(),
                dir => format!("{}/", dir - 1),
            };
            let limit = [1, 7, 20, 1000][random.below(4) as usize];
            let began = self.now();
            let (mut keys, mut cursor) = (Vec::new(), String::new());
            loop {
                let at = match cursor.as_str() {
                    "" => String::new(),
                    cursor => format!("&cursor={}", cursor.replace('+', "%2B").replace('=', "%3D")),
                };
                let request = format!("GET {}/keys?limit={limit}&prefix={prefix}{at}", self.base);
                let page = client.request(&request, &[], b"").unwrap().json();
                let data = page["data"].as_array().unwrap();
                keys.extend(data.iter().map(|key| key.as_str().unwrap().to_owned()));
                match page["meta"]["next_cursor"].as_str() {
                    Some(next) => next.clone_into(&mut cursor),
                    None => break,
                }
            }
            let list = ObservedList { prefix, began, ended: self.now(), keys };
            self.lists.lock().unwrap().push(list);
        }
    }
}

/// Runs writers and readers concurrently, and then checks all lists.
fn race(server: &Server, seed: u64) {
    let base = format!("/resources/stores/kv/{}", server.create_store("lists"));
    let (stop, changes, lists) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
    let (port, clock) = (server.port, Instant::now());
    let race_state = Race { port, base, clock, stop: &stop, changes: &changes, lists: &lists };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let race_state = &race_state;
            scope.spawn(move || race_state.write(writer, Random(seed.wrapping_add(writer))));
        }
        for lister in 0..2 {
            let race_state = &race_state;
            scope.spawn(move || race_state.list(Random(seed.wrapping_sub(lister + 1))));
        }
        std::thread::sleep(Duration::from_secs(crate::seconds()));
        stop.store(true, Ordering::SeqCst);
    });
    let (changes, lists) = (changes.into_inner().unwrap(), lists.into_inner().unwrap());
    for list in &lists {
        check_list(list, &changes).unwrap_or_else(|why| panic!("STEADFAST_SEED={seed}: {why}"));
    }
    let written: usize = changes.values().map(Vec::len).sum();
    println!("checked {} lists against {written} changes", lists.len());
    assert!(lists.len() > 20 && written > 500, "there were too few lists or changes");
}

#[test]
fn lists_are_consistent_under_concurrent_writes_on_the_embedded_engine() {
    race(&DiskServer::new(&["--wal-bytes", "1048576"]).server, run_seed("lists, embedded"));
}

#[test]
fn lists_are_consistent_under_concurrent_writes_on_the_memory_engine() {
    race(&Server::memory(&[]), run_seed("lists in memory"));
}

/// Lists ten keys with the given pagination. A key is deleted after the first page.
fn listed_with(page: impl Fn(&[String], Option<&(usize, String)>) -> Vec<String>) -> ObservedList {
    let mut present: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    let (mut keys, mut last): (Vec<String>, Option<(usize, String)>) = (Vec::new(), None);
    loop {
        let next = page(&present, last.as_ref());
        let Some(end) = next.last() else { break };
        last = Some((keys.len() + next.len(), end.clone()));
        keys.extend(next);
        present.retain(|key| key != "k1");
    }
    ObservedList { prefix: "k".into(), began: 100, ended: 200, keys }
}

fn changes() -> Changes {
    let put = |n: u64| Change { present: true, began: n, ended: n + 1 };
    let mut changes: Changes = (0..10).map(|n| (format!("k{n}"), vec![put(n)])).collect();
    let delete = Change { present: false, began: 120, ended: 130 };
    changes.get_mut("k1").unwrap().push(delete);
    changes
}

#[test]
fn an_offset_cursor_is_reported() {
    let by_key = listed_with(|present, last| {
        let rest = present.iter().filter(|key| last.is_none_or(|(_, last)| *key > last));
        rest.take(3).cloned().collect()
    });
    check_list(&by_key, &changes()).unwrap();
    let by_offset = listed_with(|present, last| {
        present.iter().skip(last.map_or(0, |(number, _)| *number)).take(3).cloned().collect()
    });
    let why = check_list(&by_offset, &changes()).unwrap_err();
    assert!(why.starts_with("k3 is missing"), "{why}");
}

#[test]
fn a_list_with_duplicate_unknown_deleted_or_missing_keys_is_reported() {
    let list = |keys: &[&str], began| ObservedList {
        prefix: "k".into(),
        began,
        ended: began + 100,
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    let changes = changes();
    let later = ["k0", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9"];
    check_list(&list(&later, 200), &changes).unwrap();
    let violation = |keys: &[&str]| check_list(&list(keys, 200), &changes).unwrap_err();
    assert!(violation(&[&later[..], &["k9"]].concat()).ends_with("are out of order"));
    assert!(violation(&[&later[..], &["k99"]].concat()).ends_with("was never written"));
    // k1 was deleted before the list. The check treats an expired item like a deleted one.
    assert!(violation(&[&["k0", "k1"], &later[1..]].concat()).starts_with("k1 does not exist"));
    assert!(violation(&later[1..]).starts_with("k0 is missing"));
}
