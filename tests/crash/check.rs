//! The checker: looks at everything a server has ([`observe`]) and holds it against what the
//! journals say ([`compare`]). It does not care how the server was stopped before.

use crate::journal::{APPENDED, COUNTED, Expected, Fate, Item, Known, end_by};
use crate::random::now;
use crate::support::Client;
use crate::value::{self, Piece};
use std::collections::{BTreeMap, BTreeSet};

/// Keys on a page of the list that is read page by page.
const PAGE: usize = 7;

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An acknowledged write is not there.
    Lost,
    /// A value of which not every piece is whole.
    Torn,
    /// It was deleted and is there.
    Returned,
    /// It expired and is there.
    Expired,
    /// Its generation is smaller than one that was seen.
    GenerationBack,
    /// Its generation is another than the one that was told.
    Generation,
    Metadata,
    /// The lengths that were told are not those of the value.
    Length,
    /// HEAD says something else than GET.
    Head,
    /// A list says something else than GET.
    List,
    /// Appends of many writers: one is missing, doubled, or out of its writer's order.
    Appended,
    /// More or fewer were counted than can be.
    RecordCounts,
    /// Neither there nor absent.
    Unreadable,
}

/// A key and what is wrong with it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    #[allow(dead_code, reason = "for the person who reads it")]
    pub(crate) says: String,
}

/// What GET or HEAD say besides the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) generation: u64,
    pub(crate) metadata: String,
    pub(crate) length: u64,
    pub(crate) stored: u64,
}

/// An item as it was seen, between two times in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) span: (u64, u64),
    pub(crate) get: Told,
    pub(crate) head: Told,
    /// Its pieces, or how it is torn.
    pub(crate) value: Result<Vec<Piece>, String>,
    /// Bytes of its value that came.
    pub(crate) bytes: u64,
}

/// A list as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) span: (u64, u64),
    pub(crate) prefix: String,
    pub(crate) keys: Vec<String>,
}

/// All that a server has in a store.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) keys: BTreeMap<String, Seen>,
    pub(crate) lists: Vec<Listing>,
}

/// The outcome: what is wrong, and what there is, to go on from.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) faults: Vec<Fault>,
    pub(crate) found: Expected,
    pub(crate) checked: u64,
}

/// Reads every key that is expected, and the lists.
pub(crate) fn observe(port: u16, store: &str, expected: &Expected) -> Observed {
    let mut client = Client::connect(port).unwrap();
    let names = expected.keys.keys().map(String::as_str).chain([APPENDED, COUNTED]);
    let keys = names.map(|key| (key.to_owned(), see(&mut client, port, store, key))).collect();
    let lists = vec![
        list(&mut client, store, "", "", 1000),
        list(&mut client, store, "", "", PAGE),
        list(&mut client, store, "shared-", "", 1),
        list(&mut client, store, "w1-", "&consistency=eventual", 3),
    ];
    Observed { keys, lists }
}

fn see(client: &mut Client, port: u16, store: &str, key: &str) -> Seen {
    let from = now();
    let mut ask = |method: &str| {
        let request = format!("{method} /resources/stores/kv/{store}/keys/{key}");
        let answer = client.request(&request, &[], b"");
        answer.map_err(|e| {
            // The rest of what was cut is of no use to what follows.
            *client = Client::connect(port).unwrap();
            format!("{method}: {e}")
        })
    };
    let (get, head) = (ask("GET"), ask("HEAD"));
    let told = |answer: &Result<crate::support::Response, String>| match answer {
        Ok(answer) if answer.status == 200 => Told {
            status: 200,
            generation: answer.generation(),
            metadata: answer.header("Metadata").to_owned(),
            length: answer.header("Content-Length").parse().unwrap(),
            stored: answer.header("Stored-Content-Length").parse().unwrap(),
        },
        Ok(answer) => Told { status: answer.status, ..Told::default() },
        Err(_) => Told::default(),
    };
    let (told_get, told_head) = (told(&get), told(&head));
    let body = get.map(|answer| if answer.status == 200 { answer.body } else { Vec::new() });
    let bytes = body.as_ref().map_or(0, Vec::len) as u64;
    let value = body.and_then(|body| value::parse(key, &body));
    Seen { span: (from, now()), get: told_get, head: told_head, value, bytes }
}

fn list(client: &mut Client, store: &str, prefix: &str, query: &str, limit: usize) -> Listing {
    let (from, mut keys, mut cursor) = (now(), Vec::new(), String::new());
    loop {
        let request = format!(
            "GET /resources/stores/kv/{store}/keys?limit={limit}&prefix={prefix}{query}{cursor}"
        );
        let answer = client.request(&request, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{request}: {}", answer.text());
        let page = answer.json();
        let data = page["data"].as_array().unwrap();
        keys.extend(data.iter().map(|key| key.as_str().unwrap().to_owned()));
        match page["meta"]["next_cursor"].as_str() {
            None => break,
            Some(next) => {
                assert!(!data.is_empty(), "a page before the last has keys");
                let escaped = next.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
                cursor = format!("&cursor={escaped}");
            }
        }
    }
    Listing { span: (from, now()), prefix: prefix.to_owned(), keys }
}

type Judged<T> = Result<T, (Kind, String)>;

/// Holds what was seen against what must and may be.
pub(crate) fn compare(expected: &Expected, observed: &Observed) -> Verdict {
    let (mut faults, mut found) = (Vec::new(), Expected::default());
    let fault = |key: &str, (kind, says)| Fault { kind, key: key.to_owned(), says };
    for (key, known) in &expected.keys {
        let seen = &observed.keys[key];
        match judge(known, seen).and_then(|item| head_agrees(seen, item.as_ref()).map(|()| item)) {
            Err(wrong) => faults.push(fault(key, wrong)),
            Ok(item) => {
                let floor = known.floor.max(seen.get.generation);
                let mut possible = vec![item];
                if possible == [None] {
                    possible.extend(expired(known, seen));
                }
                let known = Known { possible, pending: Vec::new(), floor };
                found.keys.insert(key.clone(), known);
            }
        }
    }
    match appended(&expected.appended, &observed.keys[APPENDED]) {
        Ok(settled) => found.appended = settled,
        Err(wrong) => faults.push(fault(APPENDED, wrong)),
    }
    match counted(expected.counted, &observed.keys[COUNTED]) {
        Ok(count) => found.counted = (count, count),
        Err(wrong) => faults.push(fault(COUNTED, wrong)),
    }
    for key in [APPENDED, COUNTED] {
        let (seen, floor) = (&observed.keys[key], expected.floors.get(key).copied());
        let (told, floor) = (seen.get.generation, floor.unwrap_or(0));
        if seen.get.status == 200 && told < floor {
            faults.push(fault(key, (Kind::GenerationBack, format!("{told} after {floor}"))));
        }
        found.floors.insert(key.to_owned(), told.max(floor));
    }
    for listing in &observed.lists {
        let wrong = list_agrees(listing, expected, &found, observed);
        faults.extend(wrong.into_iter().map(|(key, says)| fault(&key, (Kind::List, says))));
    }
    Verdict { faults, found, checked: observed.keys.len() as u64 }
}

/// Which of the possible items was seen.
fn judge(known: &Known, seen: &Seen) -> Judged<Option<Item>> {
    let possible = || known.all().flatten();
    match seen.get.status {
        404 => {
            let may_be_absent = |there: &Option<Item>| {
                there.as_ref().is_none_or(|item| item.alive(seen.span) != Some(true))
            };
            let absent = known.all().any(may_be_absent);
            let lost = || (Kind::Lost, format!("absent, not {}", told(known)));
            return if absent { Ok(None) } else { Err(lost()) };
        }
        200 => {}
        0 => {
            let why = seen.value.as_ref().err().cloned().unwrap_or_default();
            return Err((Kind::Unreadable, why));
        }
        status => return Err((Kind::Unreadable, format!("answers {status}"))),
    }
    let pieces = seen.value.as_ref().map_err(|how| (Kind::Torn, how.clone()))?;
    if seen.get.length != seen.bytes || seen.get.stored != seen.bytes {
        return Err((Kind::Length, format!("{} bytes, but {:?}", seen.bytes, seen.get)));
    }
    if possible().next().is_none() {
        return Err((Kind::Returned, format!("deleted, but {pieces:?}")));
    }
    let same: Vec<_> = possible().filter(|item| item.pieces == *pieces).collect();
    if same.is_empty() {
        return Err((Kind::Lost, format!("{pieces:?}, not {}", told(known))));
    }
    let alive: Vec<_> = same.iter().filter(|item| item.alive(seen.span) != Some(false)).collect();
    if alive.is_empty() {
        return Err((Kind::Expired, format!("read at {:?}, of {}", seen.span, told(known))));
    }
    let described: Vec<_> =
        alive.iter().filter(|item| item.metadata == seen.get.metadata).collect();
    if described.is_empty() {
        return Err((Kind::Metadata, format!("{:?}, not {}", seen.get.metadata, told(known))));
    }
    let generation = seen.get.generation;
    let fits = |item: &Item| match item.generation {
        Some(told) => told == generation,
        None => generation > known.floor,
    };
    match described.into_iter().find(|item| fits(item)) {
        None if generation <= known.floor && generation < newest(known) => {
            Err((Kind::GenerationBack, format!("{generation} after {}", newest(known))))
        }
        None => Err((Kind::Generation, format!("{generation}, not {}", told(known)))),
        Some(item) => {
            let mut item = (**item).clone();
            item.generation = Some(generation);
            end_by(&mut item, seen.span.1);
            Ok(Some(item))
        }
    }
}

/// The items that may have been there and expired: deleting one is still no error for a while
/// (contract.md, section 11.1), so that what is absent is not certain.
fn expired<'k>(known: &'k Known, seen: &'k Seen) -> impl Iterator<Item = Option<Item>> + 'k {
    known.all().flatten().filter(|item| item.life.is_some()).map(|item| {
        let mut item = item.clone();
        if let Some(life) = &mut item.life {
            life.ends = (life.ends.0.min(seen.span.1), seen.span.1);
        }
        Some(item)
    })
}

fn newest(known: &Known) -> u64 {
    let told = known.all().flatten().filter_map(|item| item.generation).max();
    told.unwrap_or(0).max(known.floor)
}

fn told(known: &Known) -> String {
    format!("{:?} or, under way, {:?}", known.possible, known.pending)
}

fn head_agrees(seen: &Seen, item: Option<&Item>) -> Judged<()> {
    // It may have expired in between.
    let vanished = seen.get.status == 200 && seen.head.status == 404;
    if vanished && item.is_some_and(|item| item.alive(seen.span) != Some(true)) {
        return Ok(());
    }
    if seen.get == seen.head {
        return Ok(());
    }
    Err((Kind::Head, format!("{:?}, but GET says {:?}", seen.head, seen.get)))
}

/// What is missing in a list, and what is in it and must not be.
fn list_agrees(
    listing: &Listing,
    expected: &Expected,
    found: &Expected,
    observed: &Observed,
) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let listed: BTreeSet<&str> = listing.keys.iter().map(String::as_str).collect();
    if !listing.keys.is_sorted_by(|a, b| a < b) {
        wrong.push((String::new(), format!("out of order: {:?}", listing.keys)));
    }
    let below = |key: &&String| key.starts_with(&listing.prefix);
    for (key, known) in found.keys.iter().filter(|(key, _)| below(key)) {
        let there = match &known.possible[..] {
            [Some(item)] => item.alive(listing.span),
            _ => Some(false),
        };
        let has = listed.contains(key.as_str());
        if there.is_some_and(|there| there != has) {
            wrong.push((key.clone(), format!("listed: {has}, in {:?}", listing.keys)));
        }
    }
    for (key, seen) in observed.keys.iter().filter(|(key, _)| below(key)) {
        let shared = key == APPENDED || key == COUNTED;
        if shared && listed.contains(key.as_str()) != (seen.get.status == 200) {
            wrong.push((key.clone(), "listed and not there, or the other way round".to_owned()));
        }
    }
    for key in listed {
        let ours = key == APPENDED || key == COUNTED || expected.keys.contains_key(key);
        if !ours || !key.starts_with(&listing.prefix) {
            wrong.push((key.to_owned(), format!("listed under {:?}", listing.prefix)));
        }
    }
    wrong
}

/// Each append that was acknowledged is there once, and no other twice or out of order.
fn appended(tries: &BTreeMap<Piece, Fate>, seen: &Seen) -> Judged<BTreeMap<Piece, Fate>> {
    let pieces = shared(seen)?;
    let wrong = |says: String| Err((Kind::Appended, says));
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for piece in &pieces {
        if !matches!(tries.get(piece), Some(Fate::Acknowledged | Fate::Unknown)) {
            return wrong(format!("{piece:?} is there, but {:?}", tries.get(piece)));
        }
        let before = last.insert(piece.writer, piece.sequence).unwrap_or(0);
        if before >= piece.sequence {
            return wrong(format!("{piece:?} after {before}"));
        }
    }
    let there: BTreeSet<_> = pieces.iter().collect();
    let mut settled = BTreeMap::new();
    for (piece, fate) in tries {
        match (fate, there.contains(piece)) {
            (Fate::Acknowledged, false) => return wrong(format!("{piece:?} is missing")),
            (_, true) => settled.insert(*piece, Fate::Acknowledged),
            (_, false) => settled.insert(*piece, Fate::Refused),
        };
    }
    Ok(settled)
}

fn counted((least, most): (u64, u64), seen: &Seen) -> Judged<u64> {
    let count = match shared(seen)?[..] {
        [] => 0,
        [piece] => piece.sequence,
        ref many => return Err((Kind::RecordCounts, format!("{many:?}"))),
    };
    if (least..=most).contains(&count) {
        return Ok(count);
    }
    Err((Kind::RecordCounts, format!("{count}, not from {least} to {most}")))
}

fn shared(seen: &Seen) -> Judged<Vec<Piece>> {
    match seen.get.status {
        404 => Ok(Vec::new()),
        200 => seen.value.clone().map_err(|how| (Kind::Torn, how)),
        status => Err((Kind::Unreadable, format!("answers {status}"))),
    }
}
