//! The model: the expected contents of the store as a plain map, and the expected order of
//! generations.

use crate::{Condition, KEYS, MAX};
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

/// The expected contents of the store, including expired records that have not been swept yet.
pub(crate) struct Model {
    pub(crate) items: BTreeMap<&'static str, Entry>,
    pub(crate) now: u64,
    pub(crate) name: String,
    pub(crate) generations: GenerationOrder,
}

impl Model {
    pub(crate) fn live(&self, key: &str) -> Option<&Entry> {
        let expired = |entry: &Entry| entry.expires.is_some_and(|at| at <= self.now);
        self.items.get(key).filter(|entry| !expired(entry))
    }

    pub(crate) fn expected_generation(&self, key: &str, condition: Condition) -> Option<u64> {
        let current = self.live(key).map_or(0, |entry| entry.generation);
        match condition {
            Condition::Unconditional => None,
            Condition::Absent => Some(0),
            Condition::Current => Some(current),
            Condition::Stale => Some(current + 1),
        }
    }

    /// Returns the expected result of a put: the stored value or the error.
    pub(crate) fn put(&self, key: &str, put: &PutRequest, value: &[u8]) -> Result<Vec<u8>, Error> {
        let existing = self.live(key);
        let current = existing.map_or(0, |entry| entry.generation);
        if put.if_generation.is_some_and(|expected| expected != current) {
            return Err(Error::Precondition);
        }
        let existing = existing.map(|entry| entry.value.clone());
        let stored = match (put.mode, existing) {
            (PutMode::Add, Some(_)) => return Err(Error::Precondition),
            (PutMode::Append, Some(existing)) => [&existing, value].concat(),
            (PutMode::Prepend, Some(existing)) => [value, &existing].concat(),
            _ => value.to_vec(),
        };
        if stored.len() as u64 > MAX { Err(Error::TooLarge(MAX)) } else { Ok(stored) }
    }

    pub(crate) fn insert(
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
        let stored = self.items.contains_key(key);
        let response = match (current, delete.if_generation) {
            (None, Some(_)) if stored => Err(Error::Precondition),
            (None, _) if !stored && !delete.force => Err(Error::NoItem),
            (Some(current), Some(expected)) if expected != current => Err(Error::Precondition),
            _ => Ok(()),
        };
        if response.is_ok() {
            self.items.remove(key);
        }
        response
    }
}

/// Checks the order of generations. A new generation is greater than all generations that its
/// process has assigned and all that its key has had, including those before a delete. Processes
/// that share a database may assign lower generations to other keys.
pub(crate) struct GenerationOrder {
    last_by_process: Vec<u64>,
    last_by_key: [u64; KEYS.len()],
}

impl GenerationOrder {
    pub(crate) fn new(processes: usize) -> GenerationOrder {
        GenerationOrder { last_by_process: vec![0; processes], last_by_key: [0; KEYS.len()] }
    }

    pub(crate) fn record(&mut self, process: usize, key: usize, generation: u64) {
        let last = self.last_by_process[process].max(self.last_by_key[key]);
        assert!(
            generation > last,
            "process {process}, {}: generation {generation} after {last}",
            KEYS[key]
        );
        self.last_by_key[key] = generation;
    }

    /// Ends a commit. The process must not assign the generation of the commit again.
    pub(crate) fn finish_commit(&mut self, process: usize, generation: u64) {
        self.last_by_process[process] = generation;
    }

    /// Forgets the generations that a killed process has assigned. The process that replaces it
    /// knows only the generations of the stored keys.
    pub(crate) fn forget_process(&mut self, process: usize) {
        self.last_by_process[process] = 0;
    }
}
