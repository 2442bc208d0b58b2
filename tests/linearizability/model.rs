//! The sequential specification of a key (docs/contract.md section 5).

use crate::history::{Invocation, Mode, Operation, Response};
use std::collections::HashMap;

/// The state of a key. Values are numbers from an [`Interner`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    value: Option<u32>,
    /// The generation of the value, or 0 while it is unknown.
    generation: u64,
    /// The highest known generation. Every later generation is greater.
    last_generation: u64,
}

/// Maps values to numbers, which keeps states small.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    values: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Interner {
    fn number(&mut self, value: String) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    fn of(&self, number: u32) -> &str {
        &self.values[number as usize]
    }
}

impl State {
    /// Returns the state after an operation, or `None` if its response contradicts this state.
    pub(crate) fn after(self, operation: &Operation, values: &mut Interner) -> Option<State> {
        match (&operation.invocation, &operation.response) {
            (Invocation::Get, Response::Value(value, generation)) => {
                let same = self.value.is_some_and(|number| values.of(number) == value);
                let state = self.with_generation(*generation)?;
                same.then_some(state)
            }
            (Invocation::Get, Response::Absent) => self.value.is_none().then_some(self),
            (Invocation::Put(mode, _, expected), Response::Rejected) => {
                let occupied = *mode == Mode::Add && self.value.is_some();
                (occupied || expected.is_some_and(|d| self.may_mismatch(d))).then_some(self)
            }
            (Invocation::Put(mode, bytes, expected), Response::Written(generation)) => {
                let state = self.satisfies(*expected)?;
                if state.last_generation >= *generation || state.generation >= *generation {
                    return None;
                }
                let value = state.new_value(*mode, bytes, values)?;
                let (generation, last_generation) = (*generation, *generation);
                Some(State { value: Some(value), generation, last_generation })
            }
            (Invocation::Put(mode, bytes, expected), Response::Unknown) => {
                let state = self.satisfies(*expected)?;
                let value = state.new_value(*mode, bytes, values)?;
                let last_generation = state.last_generation.max(state.generation);
                Some(State { value: Some(value), generation: 0, last_generation })
            }
            (Invocation::Delete(expected), Response::Deleted | Response::Unknown) => {
                let state = self.satisfies(*expected)?;
                state.value?;
                let last_generation = state.last_generation.max(state.generation);
                Some(State { value: None, generation: 0, last_generation })
            }
            (Invocation::Delete(_), Response::Absent) => self.value.is_none().then_some(self),
            (Invocation::Delete(Some(expected)), Response::Rejected) => {
                self.may_mismatch(*expected).then_some(self)
            }
            _ => None,
        }
    }

    /// Returns the state with this generation, or `None` if the state is known to have another one.
    fn with_generation(self, generation: u64) -> Option<State> {
        let fits = match self.generation {
            0 => generation > self.last_generation,
            known => generation == known,
        };
        let last_generation = self.last_generation.max(generation);
        fits.then_some(State { generation, last_generation, ..self })
    }

    fn satisfies(self, expected: Option<u64>) -> Option<State> {
        match expected {
            None => Some(self),
            Some(expected) => self.value.and_then(|_| self.with_generation(expected)),
        }
    }

    fn may_mismatch(self, expected: u64) -> bool {
        self.value.is_none() || self.generation != expected
    }

    fn new_value(self, mode: Mode, bytes: &str, values: &mut Interner) -> Option<u32> {
        let old = self.value.map(|number| values.of(number).to_owned());
        let value = match (mode, old) {
            (Mode::Add, Some(_)) => return None,
            (Mode::Append, Some(old)) => old + bytes,
            (Mode::Prepend, Some(old)) => bytes.to_owned() + &old,
            _ => bytes.to_owned(),
        };
        Some(values.number(value))
    }
}
