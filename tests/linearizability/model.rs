//! What one key means, one operation after the other (contract.md, section 5).

use crate::history::{Asked, Mode, Operation, Told};
use std::collections::HashMap;

/// A key's state. Values are numbers of an [`Interner`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    value: Option<u32>,
    /// 0 while nobody was told it.
    generation: u64,
    /// The highest that anyone was told; every later one is above it.
    floor: u64,
}

/// Gives each value a number, so that states are small.
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
    /// The state after an operation, if its answer fits the state before it.
    pub(crate) fn after(self, operation: &Operation, values: &mut Interner) -> Option<State> {
        match (&operation.asked, &operation.told) {
            (Asked::Get, Told::Value(value, generation)) => {
                let same = self.value.is_some_and(|number| values.of(number) == value);
                let state = self.bound(*generation)?;
                same.then_some(state)
            }
            (Asked::Get, Told::Absent) => self.value.is_none().then_some(self),
            (Asked::Put(mode, _, demanded), Told::Refused) => {
                let occupied = *mode == Mode::Add && self.value.is_some();
                (occupied || demanded.is_some_and(|d| self.may_differ(d))).then_some(self)
            }
            (Asked::Put(mode, bytes, demanded), Told::Written(generation)) => {
                let state = self.meets(*demanded)?;
                if state.floor >= *generation || state.generation >= *generation {
                    return None;
                }
                let value = state.joined(*mode, bytes, values)?;
                let (generation, floor) = (*generation, *generation);
                Some(State { value: Some(value), generation, floor })
            }
            (Asked::Put(mode, bytes, demanded), Told::Nothing) => {
                let state = self.meets(*demanded)?;
                let value = state.joined(*mode, bytes, values)?;
                let floor = state.floor.max(state.generation);
                Some(State { value: Some(value), generation: 0, floor })
            }
            (Asked::Delete(demanded), Told::Deleted | Told::Nothing) => {
                let state = self.meets(*demanded)?;
                state.value?;
                let floor = state.floor.max(state.generation);
                Some(State { value: None, generation: 0, floor })
            }
            (Asked::Delete(_), Told::Absent) => self.value.is_none().then_some(self),
            (Asked::Delete(Some(demanded)), Told::Refused) => {
                self.may_differ(*demanded).then_some(self)
            }
            _ => None,
        }
    }

    /// The state in which the generation is known to be this one.
    fn bound(self, generation: u64) -> Option<State> {
        let fits = match self.generation {
            0 => generation > self.floor,
            known => generation == known,
        };
        let floor = self.floor.max(generation);
        fits.then_some(State { generation, floor, ..self })
    }

    fn meets(self, demanded: Option<u64>) -> Option<State> {
        match demanded {
            None => Some(self),
            Some(demanded) => self.value.and_then(|_| self.bound(demanded)),
        }
    }

    fn may_differ(self, demanded: u64) -> bool {
        self.value.is_none() || self.generation != demanded
    }

    fn joined(self, mode: Mode, bytes: &str, values: &mut Interner) -> Option<u32> {
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
