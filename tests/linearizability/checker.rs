//! Whether a history of one key is linearizable: the search of Wing and Gong, which remembers as
//! Lowe does what it has seen, so that it visits no set of operations twice with the same state.

use crate::history::{Asked, Operation, Told};
use crate::model::{Interner, State};
use std::collections::HashSet;

/// No entry.
const NONE: usize = usize::MAX;

/// Beginnings and ends in the order of time, as a list from which pairs are taken and put back.
struct Events {
    /// Operation, and whether it is its beginning.
    of: Vec<(usize, bool)>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// The entry of each operation's beginning and of its end.
    entries: Vec<(usize, usize)>,
}

impl Events {
    fn new(operations: &[Operation]) -> Events {
        let mut times: Vec<(u64, bool, usize)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            // At one time beginnings come first: such operations overlap.
            times.push((operation.began, false, number));
            times.push((operation.ended, true, number));
        }
        times.sort_unstable();
        let mut entries = vec![(NONE, NONE); operations.len()];
        // Entry 0 is the head of the list.
        let mut of = vec![(NONE, false)];
        for (_, ends, number) in times {
            let entry = of.len();
            if ends {
                entries[number].1 = entry
            } else {
                entries[number].0 = entry
            }
            of.push((number, !ends));
        }
        let next = (1..of.len()).chain([NONE]).collect();
        let before = [NONE].into_iter().chain(0..of.len() - 1).collect();
        Events { of, next, before, entries }
    }

    fn unlink(&mut self, entry: usize) {
        let (before, next) = (self.before[entry], self.next[entry]);
        self.next[before] = next;
        if next != NONE {
            self.before[next] = before;
        }
    }

    fn link(&mut self, entry: usize) {
        let (before, next) = (self.before[entry], self.next[entry]);
        self.next[before] = entry;
        if next != NONE {
            self.before[next] = entry;
        }
    }

    fn lift(&mut self, operation: usize) {
        let (begin, end) = self.entries[operation];
        self.unlink(begin);
        self.unlink(end);
    }

    fn unlift(&mut self, operation: usize) {
        let (begin, end) = self.entries[operation];
        self.link(end);
        self.link(begin);
    }
}

/// Which operations are placed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}

/// `Err` with the operations around the place where every order fails.
pub(crate) fn check(operations: &[Operation]) -> Result<(), String> {
    let mut sound = operations.to_vec();
    // A read that nobody saw the answer of says nothing.
    sound.retain(|operation| operation.asked != Asked::Get || operation.told != Told::Nothing);
    search(&sound).map_err(|at| {
        let mut around: Vec<&Operation> = sound.iter().collect();
        around.sort_by_key(|operation| operation.began);
        let at = around.iter().position(|operation| operation.ended >= sound[at].ended);
        let at = at.unwrap_or(0);
        let near = &around[at.saturating_sub(16)..(at + 8).min(around.len())];
        let lines: Vec<String> = near.iter().map(|operation| operation.to_string()).collect();
        format!("no order explains these {} operations, near:\n{}", sound.len(), lines.join("\n"))
    })
}

/// `Err` with the operation whose end was the furthest that could not be passed.
fn search(operations: &[Operation]) -> Result<(), usize> {
    let mut events = Events::new(operations);
    let mut values = Interner::default();
    let mut placed = Placed(vec![0; operations.len().div_ceil(64)]);
    let mut seen = HashSet::new();
    let mut trail: Vec<(usize, State)> = Vec::new();
    let (mut state, mut entry, mut furthest) = (State::default(), events.next[0], (0, 0));
    while events.next[0] != NONE {
        let (number, begins) = events.of[entry];
        let operation = &operations[number];
        // At its end, what was never told of may be left out; all else must have been placed.
        let after = match (begins, &operation.told) {
            (true, _) => state.after(operation, &mut values),
            (false, Told::Nothing) => Some(state),
            (false, _) => None,
        };
        if let Some(after) = after {
            placed.flip(number);
            if seen.insert((placed.clone(), after)) {
                trail.push((number, state));
                state = after;
                events.lift(number);
                entry = events.next[0];
                continue;
            }
            placed.flip(number);
        }
        if begins {
            entry = events.next[entry];
            continue;
        }
        furthest = furthest.max((operation.ended, number));
        // Nothing fits before this end: the last choice was wrong.
        let Some((last, earlier)) = trail.pop() else { return Err(furthest.1) };
        state = earlier;
        placed.flip(last);
        events.unlift(last);
        entry = events.next[events.entries[last].0];
    }
    Ok(())
}
