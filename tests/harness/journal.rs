//! Records the requests of each writer and their outcomes, and derives the store states that are
//! consistent with them.
//!
//! Each key belongs to one writer, which has at most one request in flight. The value of the key is
//! therefore known exactly, except that a request without a response may or may not have taken
//! effect. All writers share two keys with the prefix `shared-`: a log of appended chunks and a
//! counter.
//!
//! [`Journal::expected_at`] replays a journal up to a point in time. Writes that were acknowledged
//! by then must be present. Writes in flight at that time may be present.

use super::tagged_value::Chunk;
use std::collections::BTreeMap;

/// The key to which every writer appends.
pub(crate) const APPENDED: &str = "shared-appended";
/// The key that every writer increments with if-generation-match. The value is a single chunk. Its
/// sequence number is the count.
pub(crate) const COUNTED: &str = "shared-counted";

const SECOND: u64 = 1_000_000;

/// The last known state of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) metadata: String,
    /// `None` if there was no response, or a response without the generation, as for a batch. Any
    /// newer generation is then valid.
    pub(crate) generation: Option<u64>,
    pub(crate) expiry: Option<Expiry>,
}

/// A time to live, and the earliest and the latest time at which it ends, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) secs: u32,
    pub(crate) between: (u64, u64),
}

impl Item {
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }

    /// Returns whether the item is live throughout an interval, or `None` if it may expire during
    /// the interval.
    pub(crate) fn is_live(&self, interval: (u64, u64)) -> Option<bool> {
        match self.expiry {
            None => Some(true),
            Some(expiry) if interval.1 < expiry.between.0 => Some(true),
            Some(expiry) if interval.0 > expiry.between.1 => Some(false),
            Some(_) => None,
        }
    }
}

/// The effect of an operation on the value.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Replaces the value with this chunk, or with an empty value.
    Replace(Option<Chunk>),
    Append(Chunk),
    Prepend(Chunk),
    Delete,
    /// The precondition fails, so the server must reject the request.
    MustFail,
}

/// An operation on a key. A conditional write is recorded with its effect, which is known in
/// advance.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) key: String,
    pub(crate) effect: Effect,
    pub(crate) metadata: String,
    pub(crate) ttl: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) enum EventKind {
    Invoked(Op),
    /// The operation succeeded. Contains the generation if the response has one.
    Acknowledged(Option<u64>),
    /// The operation had no effect.
    Rejected,
    /// There was no response, or its status does not determine the effect.
    Unknown,
}

/// A journal entry for a key, with its time in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) at: u64,
    pub(crate) key: String,
    pub(crate) kind: EventKind,
}

/// The possible states of a key that one writer owns.
#[derive(Clone, Debug)]
pub(crate) struct KeyState {
    /// The states without the effect of the request in flight. `None` is an absent item.
    pub(crate) possible: Vec<Option<Item>>,
    /// The states that the request in flight may have produced.
    pub(crate) pending: Vec<Option<Item>>,
    /// The greatest generation seen so far. Even after a delete, a new generation must exceed it.
    pub(crate) last_generation: u64,
}

impl Default for KeyState {
    fn default() -> KeyState {
        KeyState { possible: vec![None], pending: Vec::new(), last_generation: 0 }
    }
}

impl KeyState {
    /// Iterates over all possible states.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &Option<Item>> {
        self.possible.iter().chain(&self.pending)
    }

    /// Returns the state if it is the only possible one. Returns `None` if the item may expire
    /// soon.
    pub(crate) fn definite(&self, now: u64) -> Option<Option<&Item>> {
        match &self.possible[..] {
            [None] => Some(None),
            [Some(item)] => match item.is_live((now, now + 600 * SECOND)) {
                Some(true) => Some(Some(item)),
                _ => None,
            },
            _ => None,
        }
    }

    fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Invoked(op) => {
                let after = |current: &Option<Item>| apply_op(op, current.as_ref(), event.at);
                self.pending = self.possible.iter().map(after).collect();
            }
            EventKind::Acknowledged(generation) => {
                self.possible = std::mem::take(&mut self.pending);
                for item in self.possible.iter_mut().flatten() {
                    item.generation = *generation;
                    cap_expiry(item, event.at);
                }
                self.possible.dedup();
                self.last_generation = self.last_generation.max(generation.unwrap_or(0));
            }
            EventKind::Rejected => self.pending.clear(),
            EventKind::Unknown => {
                for mut current in self.pending.drain(..) {
                    current.iter_mut().for_each(|item| cap_expiry(item, event.at));
                    if !self.possible.contains(&current) {
                        self.possible.push(current);
                    }
                }
            }
        }
    }
}

/// Limits the latest expiry of an item that was written no later than `written`.
pub(crate) fn cap_expiry(item: &mut Item, written: u64) {
    if let Some(expiry) = &mut item.expiry {
        expiry.between.1 = expiry.between.1.min(written + u64::from(expiry.secs) * SECOND);
    }
}

/// Returns the state of the item after an operation, or `None` if the item is then absent.
fn apply_op(op: &Op, current: Option<&Item>, at: u64) -> Option<Item> {
    let before = || current.map(|item| item.chunks.clone()).unwrap_or_default();
    let chunks = match &op.effect {
        Effect::MustFail => return current.cloned(),
        Effect::Delete => return None,
        Effect::Replace(chunk) => chunk.iter().copied().collect(),
        Effect::Append(chunk) => [before(), vec![*chunk]].concat(),
        Effect::Prepend(chunk) => [vec![*chunk], before()].concat(),
    };
    let starts = |secs: u32| (at + u64::from(secs) * SECOND, u64::MAX);
    let expiry = op.ttl.map(|secs| Expiry { secs, between: starts(secs) });
    Some(Item { chunks, metadata: op.metadata.clone(), generation: None, expiry })
}

/// The outcome of a write to a shared key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Acknowledged,
    Rejected,
    Unknown,
}

/// The store states consistent with the journals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) keys: BTreeMap<String, KeyState>,
    /// The appends to [`APPENDED`].
    pub(crate) appended: BTreeMap<Chunk, WriteOutcome>,
    /// The smallest and the greatest valid value of [`COUNTED`].
    pub(crate) counter: (u64, u64),
    /// The greatest generation seen for each shared key.
    pub(crate) last_generations: BTreeMap<String, u64>,
    /// The operation in flight on a shared key.
    in_flight: Option<Op>,
}

impl Expected {
    fn apply(&mut self, event: &Event) {
        if event.key != APPENDED && event.key != COUNTED {
            return self.keys.entry(event.key.clone()).or_default().apply(event);
        }
        match &event.kind {
            EventKind::Invoked(op) => {
                if let Effect::Append(chunk) = op.effect {
                    self.appended.insert(chunk, WriteOutcome::Unknown);
                } else {
                    self.counter.1 += 1;
                }
                self.in_flight = Some(op.clone());
            }
            EventKind::Unknown => self.in_flight = None,
            EventKind::Acknowledged(generation) => {
                match self.in_flight.take().map(|op| op.effect) {
                    Some(Effect::Append(chunk)) => {
                        self.appended.insert(chunk, WriteOutcome::Acknowledged);
                    }
                    _ => self.counter.0 += 1,
                }
                let last_generation = self.last_generations.entry(event.key.clone()).or_default();
                *last_generation = (*last_generation).max(generation.unwrap_or(0));
            }
            EventKind::Rejected => match self.in_flight.take().map(|op| op.effect) {
                Some(Effect::Append(chunk)) => {
                    self.appended.insert(chunk, WriteOutcome::Rejected);
                }
                _ => self.counter.1 -= 1,
            },
        }
    }

    /// Merges the expectations of another writer.
    pub(crate) fn merge(&mut self, other: Expected) {
        self.keys.extend(other.keys);
        self.appended.extend(other.appended);
        self.counter.0 += other.counter.0;
        self.counter.1 += other.counter.1;
        for (key, last_generation) in other.last_generations {
            let own = self.last_generations.entry(key).or_default();
            *own = (*own).max(last_generation);
        }
    }
}

/// The requests of one writer and their outcomes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    pub(crate) writer: u32,
    pub(crate) acknowledged: u64,
    sequence: u64,
    start: Expected,
    events: Vec<Event>,
    now: Expected,
}

impl Journal {
    pub(crate) fn new(writer: u32) -> Journal {
        Journal { writer, ..Journal::default() }
    }

    /// Returns the name of the key with this number that belongs to this writer.
    pub(crate) fn key(&self, number: u64) -> String {
        format!("w{}-{number}", self.writer)
    }

    /// Creates a unique chunk for a key.
    pub(crate) fn chunk(&mut self, key: &str, bytes: u32) -> Chunk {
        self.sequence += 1;
        Chunk::new(key, self.writer, self.sequence, bytes)
    }

    /// Returns the possible states of a key.
    pub(crate) fn key_state(&self, key: &str) -> KeyState {
        self.now.keys.get(key).cloned().unwrap_or_default()
    }

    /// Records an operation before it is sent.
    pub(crate) fn record_invocation(&mut self, at: u64, op: Op) {
        let key = op.key.clone();
        self.push(Event { at, key, kind: EventKind::Invoked(op) });
    }

    /// Records the outcome of an operation.
    pub(crate) fn push(&mut self, event: Event) {
        self.acknowledged += u64::from(matches!(event.kind, EventKind::Acknowledged(_)));
        self.now.apply(&event);
        self.events.push(event);
    }

    /// Returns the states consistent with the whole journal.
    pub(crate) fn expected(&self) -> Expected {
        self.now.clone()
    }

    /// Returns the states consistent with the journal up to a time in microseconds.
    pub(crate) fn expected_at(&self, at: u64) -> Expected {
        let mut then = self.start.clone();
        self.events.iter().filter(|event| event.at <= at).for_each(|event| then.apply(event));
        then
    }

    /// Restarts the journal from the state that a check found.
    pub(crate) fn reset_to(&mut self, found: &Expected) {
        let prefix = self.key(0).replace("-0", "-");
        let own = found.keys.iter().filter(|(key, _)| key.starts_with(&prefix));
        self.start.keys = own.map(|(key, known)| (key.clone(), known.clone())).collect();
        let own = found.appended.iter().filter(|(chunk, _)| chunk.writer == self.writer);
        self.start.appended = own.map(|(chunk, outcome)| (*chunk, *outcome)).collect();
        // Only one writer takes over the counter.
        self.start.counter = if self.writer == 0 { found.counter } else { (0, 0) };
        self.start.last_generations = found.last_generations.clone();
        self.events.clear();
        self.now = self.start.clone();
    }
}

/// Merges the expectations of all writers.
pub(crate) fn expected(journals: &[Journal]) -> Expected {
    merge(journals.iter().map(Journal::expected))
}

/// Merges the expectations of all writers at a time in microseconds.
pub(crate) fn expected_at(journals: &[Journal], at: u64) -> Expected {
    merge(journals.iter().map(|journal| journal.expected_at(at)))
}

fn merge(each: impl Iterator<Item = Expected>) -> Expected {
    let mut all = Expected::default();
    each.for_each(|expected| all.merge(expected));
    all
}
