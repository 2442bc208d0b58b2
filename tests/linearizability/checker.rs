//! Checks whether the history of one key is linearizable: the search of Wing and Gong with Lowe's
//! memoization, which visits each pair of linearized operations and state at most once.

use crate::history::{Invocation, Operation, Response};
use crate::model::{Interner, State};
use std::collections::HashSet;

/// The null entry.
const NONE: usize = usize::MAX;

/// Invocations and returns in time order: a linked list from which operations are removed and to
/// which they are restored.
struct Events {
    /// The operation of each entry, and whether the entry is its invocation.
    of: Vec<(usize, bool)>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// The entries of each operation's invocation and return.
    entries: Vec<(usize, usize)>,
}

impl Events {
    fn new(operations: &[Operation]) -> Events {
        let mut times: Vec<(u64, bool, usize)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            // At equal times invocations come first, so the operations overlap.
            times.push((operation.invoked_at, false, number));
            times.push((operation.returned_at, true, number));
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

    fn remove(&mut self, operation: usize) {
        let (begin, end) = self.entries[operation];
        self.unlink(begin);
        self.unlink(end);
    }

    fn restore(&mut self, operation: usize) {
        let (begin, end) = self.entries[operation];
        self.link(end);
        self.link(begin);
    }
}

/// The set of linearized operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct LinearizedSet(Vec<u64>);

impl LinearizedSet {
    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}

/// Checks a history.
///
/// # Errors
/// The operations near the point where every order fails.
pub(crate) fn check(operations: &[Operation]) -> Result<(), String> {
    let mut checked = operations.to_vec();
    // A read without a response constrains nothing.
    checked.retain(|operation| {
        operation.invocation != Invocation::Get || operation.response != Response::Unknown
    });
    search(&checked).map_err(|at| {
        let mut nearby: Vec<&Operation> = checked.iter().collect();
        nearby.sort_by_key(|operation| operation.invoked_at);
        let at =
            nearby.iter().position(|operation| operation.returned_at >= checked[at].returned_at);
        let at = at.unwrap_or(0);
        let near = &nearby[at.saturating_sub(16)..(at + 8).min(nearby.len())];
        let lines: Vec<String> = near.iter().map(|operation| operation.to_string()).collect();
        format!("{} operations are not linearizable, near:\n{}", checked.len(), lines.join("\n"))
    })
}

/// Searches for a linearization.
///
/// # Errors
/// The operation with the latest return that no order can satisfy.
fn search(operations: &[Operation]) -> Result<(), usize> {
    let mut events = Events::new(operations);
    let mut values = Interner::default();
    let mut set = LinearizedSet(vec![0; operations.len().div_ceil(64)]);
    let mut seen = HashSet::new();
    let mut linearized: Vec<(usize, State)> = Vec::new();
    let (mut state, mut entry, mut furthest) = (State::default(), events.next[0], (0, 0));
    while events.next[0] != NONE {
        let (number, is_invocation) = events.of[entry];
        let operation = &operations[number];
        // At its return an operation must be linearized, unless it has no response.
        let after = match (is_invocation, &operation.response) {
            (true, _) => state.after(operation, &mut values),
            (false, Response::Unknown) => Some(state),
            (false, _) => None,
        };
        if let Some(after) = after {
            set.flip(number);
            if seen.insert((set.clone(), after)) {
                linearized.push((number, state));
                state = after;
                events.remove(number);
                entry = events.next[0];
                continue;
            }
            set.flip(number);
        }
        if is_invocation {
            entry = events.next[entry];
            continue;
        }
        furthest = furthest.max((operation.returned_at, number));
        // No operation can be linearized before this return: backtrack.
        let Some((last, earlier)) = linearized.pop() else { return Err(furthest.1) };
        state = earlier;
        set.flip(last);
        events.restore(last);
        entry = events.next[events.entries[last].0];
    }
    Ok(())
}
