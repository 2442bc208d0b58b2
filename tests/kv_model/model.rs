//! What a store should hold, as a plain map.

use crate::{Demand, KEYS, MAX};
use std::collections::BTreeMap;
use steadfast::kv::Error;
use steadfast::kv::clock::SECOND;
use steadfast::kv::items::{DeleteRequest, PutRequest};
use steadfast::kv::preconditions::PutMode;

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) expires: Option<u64>,
    pub(crate) generation: u64,
}

/// What the store should hold: also what expired and was not yet swept.
pub(crate) struct Model {
    pub(crate) items: BTreeMap<&'static str, Entry>,
    pub(crate) now: u64,
    pub(crate) name: String,
    pub(crate) grown: Grown,
}

impl Model {
    pub(crate) fn live(&self, key: &str) -> Option<&Entry> {
        let expired = |entry: &Entry| entry.expires.is_some_and(|at| at <= self.now);
        self.items.get(key).filter(|entry| !expired(entry))
    }

    pub(crate) fn demanded(&self, key: &str, demand: Demand) -> Option<u64> {
        let current = self.live(key).map_or(0, |entry| entry.generation);
        match demand {
            Demand::Nothing => None,
            Demand::Absent => Some(0),
            Demand::Current => Some(current),
            Demand::Stale => Some(current + 1),
        }
    }

    /// What a put should answer: the value it leaves.
    pub(crate) fn put(&self, key: &str, put: &PutRequest, value: &[u8]) -> Result<Vec<u8>, Error> {
        let there = self.live(key);
        let current = there.map_or(0, |entry| entry.generation);
        if put.if_generation.is_some_and(|wanted| wanted != current) {
            return Err(Error::Precondition);
        }
        let there = there.map(|entry| entry.value.clone());
        let left = match (put.mode, there) {
            (PutMode::Add, Some(_)) => return Err(Error::Precondition),
            (PutMode::Append, Some(there)) => [&there, value].concat(),
            (PutMode::Prepend, Some(there)) => [value, &there].concat(),
            _ => value.to_vec(),
        };
        if left.len() as u64 > MAX { Err(Error::TooLarge(MAX)) } else { Ok(left) }
    }

    pub(crate) fn keep(
        &mut self,
        key: &'static str,
        put: &PutRequest,
        value: Vec<u8>,
        generation: u64,
    ) {
        let expires = put.ttl.map(|ttl| self.now + ttl.secs() * SECOND);
        let metadata = put.metadata.as_bytes().to_vec();
        self.items.insert(key, Entry { value, metadata, expires, generation });
    }

    pub(crate) fn delete(&mut self, key: &str, delete: DeleteRequest) -> Result<(), Error> {
        let current = self.live(key).map(|entry| entry.generation);
        let physical = self.items.contains_key(key);
        let answer = match (current, delete.if_generation) {
            (None, Some(_)) if physical => Err(Error::Precondition),
            (None, _) if !physical && !delete.force => Err(Error::NoItem),
            (Some(current), Some(wanted)) if wanted != current => Err(Error::Precondition),
            _ => Ok(()),
        };
        if answer.is_ok() {
            self.items.remove(key);
        }
        answer
    }
}

/// The generations that were seen. One is above all that its process gave, and all that its key
/// had, those of items that were deleted too. With one process that is above all; of several over
/// one database each may give lower ones to other keys.
pub(crate) struct Grown {
    gave: Vec<u64>,
    had: [u64; KEYS.len()],
}

impl Grown {
    pub(crate) fn new(processes: usize) -> Grown {
        Grown { gave: vec![0; processes], had: [0; KEYS.len()] }
    }

    pub(crate) fn given(&mut self, process: usize, key: usize, generation: u64) {
        let last = self.gave[process].max(self.had[key]);
        assert!(generation > last, "process {process}, {}: {generation} after {last}", KEYS[key]);
        self.had[key] = generation;
    }

    /// Nothing more has the generation that was given last.
    pub(crate) fn ended(&mut self, process: usize, generation: u64) {
        self.gave[process] = generation;
    }

    /// A process was killed, and another takes its place, which knows only what the keys have.
    pub(crate) fn killed(&mut self, process: usize) {
        self.gave[process] = 0;
    }
}
