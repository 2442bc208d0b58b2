//! Lists of keys against what was there: whatever was put before a list began and not deleted is in
//! it, whatever was deleted before and not put is not, and none comes twice or out of order.

use crate::random::{Random, seed};
use crate::support::{Client, DiskServer, Server};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: u64 = 3;
const KEYS: u64 = 120;

/// A change of a key: it was there after `ended` or gone, unless another followed.
#[derive(Clone, Copy, Debug)]
struct Change {
    there: bool,
    began: u64,
    ended: u64,
}

/// The changes of each key, in order: a key has one writer.
type Changes = BTreeMap<String, Vec<Change>>;

/// A list, from its first page to its last.
#[derive(Clone, Debug)]
struct Listed {
    prefix: String,
    began: u64,
    ended: u64,
    keys: Vec<String>,
}

/// What is wrong with a list.
fn judge(list: &Listed, changes: &Changes) -> Result<(), String> {
    if let Some(two) = list.keys.windows(2).find(|two| two[0] >= two[1]) {
        return Err(format!("{two:?} follow each other"));
    }
    if let Some(key) = list.keys.iter().find(|key| !key.starts_with(&list.prefix)) {
        return Err(format!("{key} does not begin with {:?}", list.prefix));
    }
    for (key, changes) in changes.iter().filter(|(key, _)| key.starts_with(&list.prefix)) {
        let before = changes.iter().rfind(|change| change.ended < list.began);
        let there = before.is_some_and(|change| change.there);
        let mut beside = changes.iter().filter(|c| c.ended >= list.began && c.began <= list.ended);
        let listed = list.keys.binary_search(key).is_ok();
        if there && !listed && !beside.clone().any(|change| !change.there) {
            return Err(format!("{key} is missing: {before:?}, {list:?}"));
        }
        if !there && listed && !beside.any(|change| change.there) {
            return Err(format!("{key} was not there: {before:?}, {list:?}"));
        }
    }
    match list.keys.iter().find(|key| !changes.contains_key(*key)) {
        Some(key) => Err(format!("{key} was never written")),
        None => Ok(()),
    }
}

struct Ground<'g> {
    port: u16,
    base: String,
    clock: Instant,
    stop: &'g AtomicBool,
    changes: &'g Mutex<Changes>,
    lists: &'g Mutex<Vec<Listed>>,
}

impl Ground<'_> {
    fn now(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }

    /// Puts and deletes keys of its own; some expire.
    fn write(&self, writer: u64, mut random: Random) {
        let mut client = Client::connect(self.port).unwrap();
        let mut mine = Changes::new();
        while !self.stop.load(Ordering::SeqCst) {
            let key = format!("{}/{:03}-{writer}", random.below(3), random.below(KEYS / WRITERS));
            let path = format!("{}/keys/{}", self.base, key.replace('/', "%2F"));
            let changes = mine.entry(key).or_default();
            // What may be expiring just now is left alone.
            if changes.last().is_some_and(|last| self.now() < last.ended) {
                continue;
            }
            let (there, life) = (random.below(5) > 1, random.one_in(20));
            let began = self.now();
            let (request, expected) = match there {
                true => (format!("PUT {path}"), [200, 200]),
                false => (format!("DELETE {path}"), [204, 404]),
            };
            let fields: &[(&str, &str)] =
                if there && life { &[("time_to_live_sec", "1")] } else { &[] };
            let answer = client.request(&request, fields, b"").unwrap();
            assert!(expected.contains(&answer.status), "{request}: {}", answer.status);
            let ended = self.now();
            changes.push(Change { there, began, ended });
            if there && life {
                // It goes a second after a moment within the request; clocks differ by little.
                let second = 1_000_000;
                let (began, ended) = (began + second - 20_000, ended + second + 20_000);
                changes.push(Change { there: false, began, ended });
            }
        }
        self.changes.lock().unwrap().append(&mut mine);
    }

    fn list(&self, mut random: Random) {
        let mut client = Client::connect(self.port).unwrap();
        while !self.stop.load(Ordering::SeqCst) {
            let prefix = match random.below(4) {
                0 => String::new(),
                folder => format!("{}/", folder - 1),
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
            let list = Listed { prefix, began, ended: self.now(), keys };
            self.lists.lock().unwrap().push(list);
        }
    }
}

/// Writes and lists beside each other for a while, then judges all lists.
fn race(server: &Server, seed: u64) {
    let base = format!("/resources/stores/kv/{}", server.create_store("lists"));
    let (stop, changes, lists) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
    let (port, clock) = (server.port, Instant::now());
    let ground = Ground { port, base, clock, stop: &stop, changes: &changes, lists: &lists };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let ground = &ground;
            scope.spawn(move || ground.write(writer, Random(seed.wrapping_add(writer))));
        }
        for lister in 0..2 {
            let ground = &ground;
            scope.spawn(move || ground.list(Random(seed.wrapping_sub(lister + 1))));
        }
        std::thread::sleep(Duration::from_secs(crate::seconds()));
        stop.store(true, Ordering::SeqCst);
    });
    let (changes, lists) = (changes.into_inner().unwrap(), lists.into_inner().unwrap());
    for list in &lists {
        judge(list, &changes).unwrap_or_else(|why| panic!("STEADFAST_SEED={seed}: {why}"));
    }
    let written: usize = changes.values().map(Vec::len).sum();
    println!("{} lists held against {written} changes", lists.len());
    assert!(lists.len() > 20 && written > 500, "the load was real");
}

#[test]
fn lists_agree_with_what_was_there_while_others_write_over_the_embedded_engine() {
    race(&DiskServer::new(&["--wal-bytes", "1048576"]).server, seed("lists, embedded"));
}

#[test]
fn lists_agree_with_what_was_there_while_others_write_in_memory() {
    race(&Server::memory(&[]), seed("lists in memory"));
}

/// A store of ten keys from which one is deleted while it is listed in pages of three.
fn planted(page: impl Fn(&[String], Option<&(usize, String)>) -> Vec<String>) -> Listed {
    let mut there: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    let (mut keys, mut last): (Vec<String>, Option<(usize, String)>) = (Vec::new(), None);
    loop {
        let next = page(&there, last.as_ref());
        let Some(end) = next.last() else { break };
        last = Some((keys.len() + next.len(), end.clone()));
        keys.extend(next);
        there.retain(|key| key != "k1");
    }
    Listed { prefix: "k".into(), began: 100, ended: 200, keys }
}

fn changes() -> Changes {
    let put = |n: u64| Change { there: true, began: n, ended: n + 1 };
    let mut changes: Changes = (0..10).map(|n| (format!("k{n}"), vec![put(n)])).collect();
    let delete = Change { there: false, began: 120, ended: 130 };
    changes.get_mut("k1").unwrap().push(delete);
    changes
}

#[test]
fn a_cursor_that_counts_instead_of_naming_a_key_is_found() {
    let by_key = planted(|there, last| {
        let rest = there.iter().filter(|key| last.is_none_or(|(_, last)| *key > last));
        rest.take(3).cloned().collect()
    });
    judge(&by_key, &changes()).unwrap();
    let by_number = planted(|there, last| {
        there.iter().skip(last.map_or(0, |(number, _)| *number)).take(3).cloned().collect()
    });
    let why = judge(&by_number, &changes()).unwrap_err();
    assert!(why.starts_with("k3 is missing"), "{why}");
}

#[test]
fn a_list_that_repeats_invents_or_keeps_what_is_gone_is_found() {
    let list = |keys: &[&str], began| Listed {
        prefix: "k".into(),
        began,
        ended: began + 100,
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    let changes = changes();
    let later = ["k0", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9"];
    judge(&list(&later, 200), &changes).unwrap();
    let told = |keys: &[&str]| judge(&list(keys, 200), &changes).unwrap_err();
    assert!(told(&[&later[..], &["k9"]].concat()).ends_with("follow each other"));
    assert!(told(&[&later[..], &["k99"]].concat()).ends_with("was never written"));
    // Deleted before, or its time to live was ignored: an expiry is a deletion to the judge.
    assert!(told(&[&["k0", "k1"], &later[1..]].concat()).starts_with("k1 was not there"));
    assert!(told(&later[1..]).starts_with("k0 is missing"));
}
