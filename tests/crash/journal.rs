//! What a writer asked for and what it was told, and what may be there after that.
//!
//! Each key belongs to one writer, which asks one thing at a time; so what a key holds is known
//! exactly, but for the operations that were never answered: those took place or did not. Keys
//! that begin with `shared-` are written by all: one is appended to, one counts.
//!
//! Nothing here knows how a server was stopped. A journal can be cut at any time
//! ([`Journal::until`]): what was acknowledged by then must be there, and what was not, may be.

use crate::value::Piece;
use std::collections::BTreeMap;

/// The key that every writer appends to.
pub(crate) const APPENDED: &str = "shared-appended";
/// The key that every writer counts up by compare-generation: the sequence of its piece.
pub(crate) const COUNTED: &str = "shared-counted";

const SECOND: u64 = 1_000_000;

/// An item as its writer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) metadata: String,
    /// `None` when the answer did not tell it (batch), or none came: any above the floor.
    pub(crate) generation: Option<u64>,
    pub(crate) life: Option<Life>,
}

/// A time to live, and when at the earliest and at the latest it ends, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) secs: u32,
    pub(crate) ends: (u64, u64),
}

impl Item {
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.bytes)).sum()
    }

    /// Whether it is alive all through a span of time, or through none of it, or who knows.
    pub(crate) fn alive(&self, span: (u64, u64)) -> Option<bool> {
        match self.life {
            None => Some(true),
            Some(life) if span.1 < life.ends.0 => Some(true),
            Some(life) if span.0 > life.ends.1 => Some(false),
            Some(_) => None,
        }
    }
}

/// What an operation does to the value.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// To this piece, or to nothing at all.
    Replace(Option<Piece>),
    Append(Piece),
    Prepend(Piece),
    Delete,
    /// It must be refused.
    Nothing,
}

/// One operation on one key. `add` and compare-generation are what they come to.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) key: String,
    pub(crate) change: Change,
    pub(crate) metadata: String,
    pub(crate) ttl: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Invoked(Op),
    /// With the generation, where the answer tells it.
    Acknowledged(Option<u64>),
    /// It did not take place.
    Refused,
    /// No answer came, or none that says.
    Unknown,
}

/// Something that happened to a key, at a time in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) at: u64,
    pub(crate) key: String,
    pub(crate) what: What,
}

/// What may be under a key of one writer.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// One of these; `None` is no item.
    pub(crate) possible: Vec<Option<Item>>,
    /// What the operation that was not answered may have left.
    pub(crate) pending: Vec<Option<Item>>,
    /// The greatest generation that was seen; it also holds for the key's next life.
    pub(crate) floor: u64,
}

impl Default for Known {
    fn default() -> Known {
        Known { possible: vec![None], pending: Vec::new(), floor: 0 }
    }
}

impl Known {
    /// All that may be there.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Option<Item>> {
        self.possible.iter().chain(&self.pending)
    }

    /// What is there, where that is certain; an item that may expire soon is not.
    pub(crate) fn certain(&self, now: u64) -> Option<Option<&Item>> {
        match &self.possible[..] {
            [None] => Some(None),
            [Some(item)] => match item.alive((now, now + 600 * SECOND)) {
                Some(true) => Some(Some(item)),
                _ => None,
            },
            _ => None,
        }
    }

    fn take(&mut self, event: &Event) {
        match &event.what {
            What::Invoked(op) => {
                let after = |there: &Option<Item>| result(op, there.as_ref(), event.at);
                self.pending = self.possible.iter().map(after).collect();
            }
            What::Acknowledged(generation) => {
                self.possible = std::mem::take(&mut self.pending);
                for item in self.possible.iter_mut().flatten() {
                    item.generation = *generation;
                    end_by(item, event.at);
                }
                self.possible.dedup();
                self.floor = self.floor.max(generation.unwrap_or(0));
            }
            What::Refused => self.pending.clear(),
            What::Unknown => {
                for mut there in self.pending.drain(..) {
                    there.iter_mut().for_each(|item| end_by(item, event.at));
                    if !self.possible.contains(&there) {
                        self.possible.push(there);
                    }
                }
            }
        }
    }
}

/// An item that was written by a certain time has an end by which it must be gone.
pub(crate) fn end_by(item: &mut Item, written: u64) {
    if let Some(life) = &mut item.life {
        life.ends.1 = life.ends.1.min(written + u64::from(life.secs) * SECOND);
    }
}

/// What an operation leaves of what was there.
fn result(op: &Op, there: Option<&Item>, at: u64) -> Option<Item> {
    let before = || there.map(|item| item.pieces.clone()).unwrap_or_default();
    let pieces = match &op.change {
        Change::Nothing => return there.cloned(),
        Change::Delete => return None,
        Change::Replace(piece) => piece.iter().copied().collect(),
        Change::Append(piece) => [before(), vec![*piece]].concat(),
        Change::Prepend(piece) => [vec![*piece], before()].concat(),
    };
    let starts = |secs: u32| (at + u64::from(secs) * SECOND, u64::MAX);
    let life = op.ttl.map(|secs| Life { secs, ends: starts(secs) });
    Some(Item { pieces, metadata: op.metadata.clone(), generation: None, life })
}

/// What became of a write to a shared key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Acknowledged,
    Refused,
    Unknown,
}

/// What must and what may be there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) keys: BTreeMap<String, Known>,
    /// Appends to [`APPENDED`].
    pub(crate) appended: BTreeMap<Piece, Fate>,
    /// The least and the greatest that [`COUNTED`] may say.
    pub(crate) counted: (u64, u64),
    /// The greatest generations of the shared keys that were seen.
    pub(crate) floors: BTreeMap<String, u64>,
    /// What is under way on the shared keys.
    open: Option<Op>,
}

impl Expected {
    fn take(&mut self, event: &Event) {
        if event.key != APPENDED && event.key != COUNTED {
            return self.keys.entry(event.key.clone()).or_default().take(event);
        }
        match &event.what {
            What::Invoked(op) => {
                if let Change::Append(piece) = op.change {
                    self.appended.insert(piece, Fate::Unknown);
                } else {
                    self.counted.1 += 1;
                }
                self.open = Some(op.clone());
            }
            What::Unknown => self.open = None,
            What::Acknowledged(generation) => {
                match self.open.take().map(|op| op.change) {
                    Some(Change::Append(piece)) => {
                        self.appended.insert(piece, Fate::Acknowledged);
                    }
                    _ => self.counted.0 += 1,
                }
                let floor = self.floors.entry(event.key.clone()).or_default();
                *floor = (*floor).max(generation.unwrap_or(0));
            }
            What::Refused => match self.open.take().map(|op| op.change) {
                Some(Change::Append(piece)) => {
                    self.appended.insert(piece, Fate::Refused);
                }
                _ => self.counted.1 -= 1,
            },
        }
    }

    /// Takes another writer's part in.
    pub(crate) fn join(&mut self, other: Expected) {
        self.keys.extend(other.keys);
        self.appended.extend(other.appended);
        self.counted.0 += other.counted.0;
        self.counted.1 += other.counted.1;
        for (key, floor) in other.floors {
            let own = self.floors.entry(key).or_default();
            *own = (*own).max(floor);
        }
    }
}

/// What one writer asked for and was told.
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

    /// The name of one of this writer's keys.
    pub(crate) fn key(&self, number: u64) -> String {
        format!("w{}-{number}", self.writer)
    }

    /// A piece of its own for a key.
    pub(crate) fn piece(&mut self, key: &str, bytes: u32) -> Piece {
        self.sequence += 1;
        Piece::new(key, self.writer, self.sequence, bytes)
    }

    /// What is known of a key by now.
    pub(crate) fn known(&self, key: &str) -> Known {
        self.now.keys.get(key).cloned().unwrap_or_default()
    }

    /// Writes an operation down, before it is sent.
    pub(crate) fn invoke(&mut self, at: u64, op: Op) {
        let key = op.key.clone();
        self.push(Event { at, key, what: What::Invoked(op) });
    }

    /// Writes down how it went.
    pub(crate) fn push(&mut self, event: Event) {
        self.acknowledged += u64::from(matches!(event.what, What::Acknowledged(_)));
        self.now.take(&event);
        self.events.push(event);
    }

    /// What must and may be there now.
    pub(crate) fn expected(&self) -> Expected {
        self.now.clone()
    }

    /// What must and may be there of what was known by a time in microseconds.
    pub(crate) fn until(&self, at: u64) -> Expected {
        let mut then = self.start.clone();
        self.events.iter().filter(|event| event.at <= at).for_each(|event| then.take(event));
        then
    }

    /// Starts anew from what a check found.
    pub(crate) fn settle(&mut self, found: &Expected) {
        let prefix = self.key(0).replace("-0", "-");
        let own = found.keys.iter().filter(|(key, _)| key.starts_with(&prefix));
        self.start.keys = own.map(|(key, known)| (key.clone(), known.clone())).collect();
        let own = found.appended.iter().filter(|(piece, _)| piece.writer == self.writer);
        self.start.appended = own.map(|(piece, fate)| (*piece, *fate)).collect();
        // One writer carries what was counted by all.
        self.start.counted = if self.writer == 0 { found.counted } else { (0, 0) };
        self.start.floors = found.floors.clone();
        self.events.clear();
        self.now = self.start.clone();
    }
}

/// What all writers expect.
pub(crate) fn expected(journals: &[Journal]) -> Expected {
    let mut all = Expected::default();
    journals.iter().for_each(|journal| all.join(journal.expected()));
    all
}
