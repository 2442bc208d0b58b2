//! Checks whether the history of a key is linearizable. Uses the algorithm of Wing and Gong with
//! Lowe's memoization, which visits each pair of a set of linearized operations and a state at most
//! once.

use crate::history::{Invocation, Operation, Response};
use crate::model::{Interner, State};
use std::collections::HashSet;

/// An index that means "no entry" or "no operation".
const NONE: usize = usize::MAX;

/// The invocations and returns in time order, as a doubly linked list. Operations can be removed
/// from the list and restored.
struct Events {
    /// For each entry, the operation and whether the entry is the invocation.
    of: Vec<(usize, bool)>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// The entries of the invocation and the return of each operation.
    entries: Vec<(usize, usize)>,
}

impl Events {
    fn new(operations: &[Operation]) -> Events {
        let mut times: Vec<(u64, bool, usize)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            // At equal times, invocations come before returns, so that the operations overlap.
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

/// Checks whether a history is linearizable.
///
/// # Errors
/// Returns the operations near the point at which every order fails.
pub(crate) fn check(operations: &[Operation]) -> Result<(), String> {
    let mut checked = operations.to_vec();
    // A read without a response does not restrict the order.
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
/// Returns the operation with the latest return that the search could not pass.
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
        // At the invocation entry, the operation may be linearized. At the return entry, it must
        // already be linearized, unless it has no response: then it may never take effect.
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
        // Backtrack, because no operation can be linearized before this return.
        let Some((last, earlier)) = linearized.pop() else { return Err(furthest.1) };
        state = earlier;
        set.flip(last);
        events.restore(last);
        entry = events.next[events.entries[last].0];
    }
    Ok(())
}
