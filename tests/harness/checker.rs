//! Reads the contents of a store ([`observe`]) and compares them with the journals ([`compare`]).

use super::journal::{APPENDED, COUNTED, Expected, Item, KeyState, WriteOutcome, cap_expiry};
use super::random::now_micros;
use super::tagged_value::{self, Chunk};
use crate::support::Client;
use std::collections::{BTreeMap, BTreeSet};

/// Page size of the paginated list, in keys.
const PAGE: usize = 7;

/// The ways in which a store can contradict the journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An acknowledged write is missing.
    LostWrite,
    /// A chunk of the value is incomplete or corrupt.
    TornValue,
    /// A deleted item is present.
    Resurrected,
    /// An expired item is present.
    ExpiredServed,
    /// The generation is smaller than one that was returned before.
    GenerationRegressed,
    /// The generation differs from the acknowledged one.
    WrongGeneration,
    WrongMetadata,
    /// A length header differs from the length of the value.
    WrongLength,
    /// The response to HEAD differs from the response to GET.
    HeadMismatch,
    /// A list contradicts the responses to GET.
    ListMismatch,
    /// An append to the shared key is missing, duplicated, or not in the order of its writer.
    WrongAppends,
    /// The shared counter has an invalid value.
    WrongCount,
    /// The item could not be read: the request failed, or its status is neither 200 nor 404.
    Unreadable,
}

/// A violation, and the key that it concerns.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    #[allow(dead_code, reason = "printed by Debug")]
    pub(crate) detail: String,
}

/// The status and headers of a response to GET or HEAD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ItemHeaders {
    pub(crate) status: u16,
    pub(crate) generation: u64,
    pub(crate) metadata: String,
    pub(crate) length: u64,
    pub(crate) stored: u64,
}

/// An item and the interval in which it was read, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct ObservedItem {
    pub(crate) interval: (u64, u64),
    pub(crate) get: ItemHeaders,
    pub(crate) head: ItemHeaders,
    /// The chunks of the value, or a description of the damage.
    pub(crate) value: Result<Vec<Chunk>, String>,
    /// The number of bytes of the value that were received.
    pub(crate) bytes: u64,
}

/// A list and the interval in which it was read, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct ObservedList {
    pub(crate) interval: (u64, u64),
    pub(crate) prefix: String,
    pub(crate) keys: Vec<String>,
}

/// The observed contents of a store.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    pub(crate) keys: BTreeMap<String, ObservedItem>,
    pub(crate) lists: Vec<ObservedList>,
}

/// The violations, and the settled state with which the next round continues.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    pub(crate) settled: Expected,
    pub(crate) checked: u64,
}

/// Reads every expected key and several lists.
pub(crate) fn observe(port: u16, store: &str, expected: &Expected) -> Observation {
    let mut client = Client::connect(port).unwrap();
    let names = expected.keys.keys().map(String::as_str).chain([APPENDED, COUNTED]);
    let keys =
        names.map(|key| (key.to_owned(), read_item(&mut client, port, store, key))).collect();
    let lists = vec![
        list(&mut client, store, "", "", 1000),
        list(&mut client, store, "", "", PAGE),
        list(&mut client, store, "shared-", "", 1),
        list(&mut client, store, "w1-", "&consistency=eventual", 3),
    ];
    Observation { keys, lists }
}

fn read_item(client: &mut Client, port: u16, store: &str, key: &str) -> ObservedItem {
    let from = now_micros();
    let mut send = |method: &str| {
        let request = format!("{method} /resources/stores/kv/{store}/keys/{key}");
        let reply = client.request(&request, &[], b"");
        reply.map_err(|e| {
            // Reconnect, because the state of the connection is undefined after an error.
            *client = Client::connect(port).unwrap();
            format!("{method}: {e}")
        })
    };
    let (get, head) = (send("GET"), send("HEAD"));
    let headers = |reply: &Result<crate::support::Response, String>| match reply {
        Ok(reply) if reply.status == 200 => ItemHeaders {
            status: 200,
            generation: reply.generation(),
            metadata: reply.header("Metadata").to_owned(),
            length: reply.header("Content-Length").parse().unwrap(),
            stored: reply.header("Stored-Content-Length").parse().unwrap(),
        },
        Ok(reply) => ItemHeaders { status: reply.status, ..ItemHeaders::default() },
        Err(_) => ItemHeaders::default(),
    };
    let (get_headers, head) = (headers(&get), headers(&head));
    let body = get.map(|reply| if reply.status == 200 { reply.body } else { Vec::new() });
    let bytes = body.as_ref().map_or(0, Vec::len) as u64;
    let value = body.and_then(|body| tagged_value::decode(key, &body));
    ObservedItem { interval: (from, now_micros()), get: get_headers, head, value, bytes }
}

fn list(client: &mut Client, store: &str, prefix: &str, query: &str, limit: usize) -> ObservedList {
    let (from, mut keys, mut cursor) = (now_micros(), Vec::new(), String::new());
    loop {
        let request = format!(
            "GET /resources/stores/kv/{store}/keys?limit={limit}&prefix={prefix}{query}{cursor}"
        );
        let reply = client.request(&request, &[], b"").unwrap();
        assert_eq!(reply.status, 200, "{request}: {}", reply.text());
        let page = reply.json();
        let data = page["data"].as_array().unwrap();
        keys.extend(data.iter().map(|key| key.as_str().unwrap().to_owned()));
        match page["meta"]["next_cursor"].as_str() {
            None => break,
            Some(next) => {
                assert!(!data.is_empty(), "only the last page may be empty");
                let escaped = next.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
                cursor = format!("&cursor={escaped}");
            }
        }
    }
    ObservedList { interval: (from, now_micros()), prefix: prefix.to_owned(), keys }
}

type CheckResult<T> = Result<T, (Kind, String)>;

/// Compares the observed contents with the expected states.
pub(crate) fn compare(expected: &Expected, observed: &Observation) -> Verdict {
    let (mut violations, mut settled) = (Vec::new(), Expected::default());
    let violation = |key: &str, (kind, detail)| Violation { kind, key: key.to_owned(), detail };
    for (key, state) in &expected.keys {
        let seen = &observed.keys[key];
        match match_item(state, seen)
            .and_then(|item| check_head(seen, item.as_ref()).map(|()| item))
        {
            Err(wrong) => violations.push(violation(key, wrong)),
            Ok(item) => {
                let last_generation = state.last_generation.max(seen.get.generation);
                let mut possible = vec![item];
                if possible == [None] {
                    possible.extend(expired_candidates(state, seen));
                }
                let state = KeyState { possible, pending: Vec::new(), last_generation };
                settled.keys.insert(key.clone(), state);
            }
        }
    }
    match check_appends(&expected.appended, &observed.keys[APPENDED]) {
        Ok(appended) => settled.appended = appended,
        Err(wrong) => violations.push(violation(APPENDED, wrong)),
    }
    match check_counter(expected.counter, &observed.keys[COUNTED]) {
        Ok(count) => settled.counter = (count, count),
        Err(wrong) => violations.push(violation(COUNTED, wrong)),
    }
    for key in [APPENDED, COUNTED] {
        let (seen, last_generation) =
            (&observed.keys[key], expected.last_generations.get(key).copied());
        let (generation, last_generation) = (seen.get.generation, last_generation.unwrap_or(0));
        if seen.get.status == 200 && generation < last_generation {
            violations.push(violation(
                key,
                (
                    Kind::GenerationRegressed,
                    format!("generation {generation} after {last_generation}"),
                ),
            ));
        }
        settled.last_generations.insert(key.to_owned(), generation.max(last_generation));
    }
    for list in &observed.lists {
        let wrong = check_list(list, expected, &settled, observed);
        violations.extend(
            wrong.into_iter().map(|(key, detail)| violation(&key, (Kind::ListMismatch, detail))),
        );
    }
    Verdict { violations, settled, checked: observed.keys.len() as u64 }
}

/// Returns the possible state that matches the observed item.
fn match_item(state: &KeyState, seen: &ObservedItem) -> CheckResult<Option<Item>> {
    let possible = || state.candidates().flatten();
    match seen.get.status {
        404 => {
            let may_be_absent = |present: &Option<Item>| {
                present.as_ref().is_none_or(|item| item.is_live(seen.interval) != Some(true))
            };
            let absent = state.candidates().any(may_be_absent);
            let lost = || (Kind::LostWrite, format!("absent, expected {}", show(state)));
            return if absent { Ok(None) } else { Err(lost()) };
        }
        200 => {}
        0 => {
            let why = seen.value.as_ref().err().cloned().unwrap_or_default();
            return Err((Kind::Unreadable, why));
        }
        status => return Err((Kind::Unreadable, format!("status {status}"))),
    }
    let chunks = seen.value.as_ref().map_err(|how| (Kind::TornValue, how.clone()))?;
    if seen.get.length != seen.bytes || seen.get.stored != seen.bytes {
        return Err((
            Kind::WrongLength,
            format!("received {} bytes, but {:?}", seen.bytes, seen.get),
        ));
    }
    if possible().next().is_none() {
        return Err((Kind::Resurrected, format!("deleted, but has {chunks:?}")));
    }
    let same: Vec<_> = possible().filter(|item| item.chunks == *chunks).collect();
    if same.is_empty() {
        return Err((Kind::LostWrite, format!("has {chunks:?}, expected {}", show(state))));
    }
    let live: Vec<_> =
        same.iter().filter(|item| item.is_live(seen.interval) != Some(false)).collect();
    if live.is_empty() {
        return Err((
            Kind::ExpiredServed,
            format!("read at {:?}, expected {}", seen.interval, show(state)),
        ));
    }
    let matching: Vec<_> = live.iter().filter(|item| item.metadata == seen.get.metadata).collect();
    if matching.is_empty() {
        return Err((
            Kind::WrongMetadata,
            format!("has {:?}, expected {}", seen.get.metadata, show(state)),
        ));
    }
    let generation = seen.get.generation;
    let fits = |item: &Item| match item.generation {
        Some(acknowledged) => acknowledged == generation,
        None => generation > state.last_generation,
    };
    match matching.into_iter().find(|item| fits(item)) {
        None if generation <= state.last_generation && generation < max_generation(state) => Err((
            Kind::GenerationRegressed,
            format!("generation {generation} after {}", max_generation(state)),
        )),
        None => Err((Kind::WrongGeneration, format!("has {generation}, expected {}", show(state)))),
        Some(item) => {
            let mut item = (**item).clone();
            item.generation = Some(generation);
            cap_expiry(&mut item, seen.interval.1);
            Ok(Some(item))
        }
    }
}

/// Returns the possible states with an expiry, for an item that was found absent. A delete of an
/// expired item still succeeds for a while (docs/contract.md section 11.1), so the state of such an
/// item is not definite.
fn expired_candidates<'k>(
    state: &'k KeyState,
    seen: &'k ObservedItem,
) -> impl Iterator<Item = Option<Item>> + 'k {
    state.candidates().flatten().filter(|item| item.expiry.is_some()).map(|item| {
        let mut item = item.clone();
        if let Some(expiry) = &mut item.expiry {
            expiry.between = (expiry.between.0.min(seen.interval.1), seen.interval.1);
        }
        Some(item)
    })
}

fn max_generation(state: &KeyState) -> u64 {
    let newest = state.candidates().flatten().filter_map(|item| item.generation).max();
    newest.unwrap_or(0).max(state.last_generation)
}

fn show(state: &KeyState) -> String {
    format!(
        "one of {:?} or, if the request in flight was applied, {:?}",
        state.possible, state.pending
    )
}

fn check_head(seen: &ObservedItem, item: Option<&Item>) -> CheckResult<()> {
    // The item may have expired between GET and HEAD.
    let vanished = seen.get.status == 200 && seen.head.status == 404;
    if vanished && item.is_some_and(|item| item.is_live(seen.interval) != Some(true)) {
        return Ok(());
    }
    if seen.get == seen.head {
        return Ok(());
    }
    Err((
        Kind::HeadMismatch,
        format!("HEAD returned {:?}, but GET returned {:?}", seen.head, seen.get),
    ))
}

/// Compares a list with the expected state and the GET responses. Returns each key with an error,
/// and a description of the error.
fn check_list(
    list: &ObservedList,
    expected: &Expected,
    settled: &Expected,
    observed: &Observation,
) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let listed: BTreeSet<&str> = list.keys.iter().map(String::as_str).collect();
    if !list.keys.is_sorted_by(|a, b| a < b) {
        wrong.push((String::new(), format!("the keys are out of order: {:?}", list.keys)));
    }
    let in_prefix = |key: &&String| key.starts_with(&list.prefix);
    for (key, state) in settled.keys.iter().filter(|(key, _)| in_prefix(key)) {
        let present = match &state.possible[..] {
            [Some(item)] => item.is_live(list.interval),
            _ => Some(false),
        };
        let has = listed.contains(key.as_str());
        if present.is_some_and(|present| present != has) {
            wrong.push((
                key.clone(),
                format!("wrongly {} {:?}", if has { "in" } else { "missing from" }, list.keys),
            ));
        }
    }
    for (key, seen) in observed.keys.iter().filter(|(key, _)| in_prefix(key)) {
        let shared = key == APPENDED || key == COUNTED;
        if shared && listed.contains(key.as_str()) != (seen.get.status == 200) {
            wrong.push((key.clone(), "the list and GET disagree".to_owned()));
        }
    }
    for key in listed {
        let ours = key == APPENDED || key == COUNTED || expected.keys.contains_key(key);
        if !ours || !key.starts_with(&list.prefix) {
            wrong.push((
                key.to_owned(),
                format!("wrongly listed with the prefix {:?}", list.prefix),
            ));
        }
    }
    wrong
}

/// Checks that each acknowledged append is present, and that no append is present twice or out of
/// order.
fn check_appends(
    tries: &BTreeMap<Chunk, WriteOutcome>,
    seen: &ObservedItem,
) -> CheckResult<BTreeMap<Chunk, WriteOutcome>> {
    let chunks = shared_chunks(seen)?;
    let wrong = |detail: String| Err((Kind::WrongAppends, detail));
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for chunk in &chunks {
        if !matches!(tries.get(chunk), Some(WriteOutcome::Acknowledged | WriteOutcome::Unknown)) {
            return wrong(format!(
                "{chunk:?} is present, but its outcome is {:?}",
                tries.get(chunk)
            ));
        }
        let before = last.insert(chunk.writer, chunk.sequence).unwrap_or(0);
        if before >= chunk.sequence {
            return wrong(format!("{chunk:?} follows the sequence number {before}"));
        }
    }
    let present: BTreeSet<_> = chunks.iter().collect();
    let mut settled = BTreeMap::new();
    for (chunk, outcome) in tries {
        match (outcome, present.contains(chunk)) {
            (WriteOutcome::Acknowledged, false) => return wrong(format!("{chunk:?} is missing")),
            (_, true) => settled.insert(*chunk, WriteOutcome::Acknowledged),
            (_, false) => settled.insert(*chunk, WriteOutcome::Rejected),
        };
    }
    Ok(settled)
}

fn check_counter((least, most): (u64, u64), seen: &ObservedItem) -> CheckResult<u64> {
    let count = match shared_chunks(seen)?[..] {
        [] => 0,
        [chunk] => chunk.sequence,
        ref many => return Err((Kind::WrongCount, format!("{many:?}"))),
    };
    if (least..=most).contains(&count) {
        return Ok(count);
    }
    Err((Kind::WrongCount, format!("{count}, not in {least}..={most}")))
}

fn shared_chunks(seen: &ObservedItem) -> CheckResult<Vec<Chunk>> {
    match seen.get.status {
        404 => Ok(Vec::new()),
        200 => seen.value.clone().map_err(|how| (Kind::TornValue, how)),
        status => Err((Kind::Unreadable, format!("status {status}"))),
    }
}
