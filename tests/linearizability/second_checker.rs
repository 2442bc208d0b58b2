//! Compares the checker with stateright's linearizability tester on small random histories, some of
//! which are corrupted. Stateright's tester tries every order without memoization. It is simple
//! enough to trust, but too slow for the histories of a real workload.

use crate::checker::check;
use crate::history::{Invocation, Mode, Operation, Response};
use crate::model::{Interner, State};
use crate::random::{Random, env_number, run_seed};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use std::cell::RefCell;
use std::rc::Rc;

/// The number of concurrent clients and of operations in a history.
const CLIENTS: usize = 3;
const OPERATIONS: usize = 9;

/// The sequential specification of one key for stateright.
#[derive(Clone, Default)]
struct Key {
    state: State,
    values: Rc<RefCell<Interner>>,
}

impl Key {
    fn step(&mut self, invocation: &Invocation, response: &Response) -> bool {
        let (client, invoked_at, returned_at) = (0, 0, 0);
        let (invocation, response) = (invocation.clone(), response.clone());
        let operation = Operation { client, invocation, response, invoked_at, returned_at };
        let after = self.state.after(&operation, &mut self.values.borrow_mut());
        after.map(|after| self.state = after).is_some()
    }
}

impl SequentialSpec for Key {
    type Op = Invocation;
    type Ret = Response;

    /// Applies an operation without a response. It has no effect if its precondition fails.
    fn invoke(&mut self, invocation: &Invocation) -> Response {
        self.step(invocation, &Response::Unknown);
        Response::Unknown
    }

    fn is_valid_step(&mut self, invocation: &Invocation, response: &Response) -> bool {
        self.step(invocation, response)
    }
}

/// A correct store with a single key.
#[derive(Default)]
struct CorrectStore {
    value: Option<(String, u64)>,
    generation: u64,
}

impl CorrectStore {
    fn reply(&mut self, invocation: &Invocation) -> Response {
        let differs = |expected: &Option<u64>| {
            let current = self.value.as_ref().map_or(0, |(_, generation)| *generation);
            expected.is_some_and(|expected| expected != current)
        };
        let old = self.value.as_ref().map(|(value, _)| value.clone());
        match invocation {
            Invocation::Get => match &self.value {
                Some((value, generation)) => Response::Value(value.clone(), *generation),
                None => Response::Absent,
            },
            Invocation::Put(mode, _, expected)
                if differs(expected) || *mode == Mode::Add && old.is_some() =>
            {
                Response::Rejected
            }
            Invocation::Put(mode, bytes, _) => {
                let old = old.unwrap_or_default();
                let value = match mode {
                    Mode::Overwrite | Mode::Add => bytes.clone(),
                    Mode::Append => old + bytes,
                    Mode::Prepend => bytes.clone() + &old,
                };
                self.generation += 1;
                self.value = Some((value, self.generation));
                Response::Written(self.generation)
            }
            Invocation::Delete(_) if old.is_none() => Response::Absent,
            Invocation::Delete(expected) if differs(expected) => Response::Rejected,
            Invocation::Delete(_) => {
                self.value = None;
                Response::Deleted
            }
        }
    }
}

fn random_invocation(random: &mut Random) -> Invocation {
    const MODES: [Mode; 4] = [Mode::Overwrite, Mode::Add, Mode::Append, Mode::Prepend];
    let expected = random.one_in(3).then(|| 1 + random.below(4));
    match random.below(8) {
        0..3 => Invocation::Get,
        3..7 => {
            let bytes = ["a", "b", "c"][random.below(3) as usize];
            Invocation::Put(MODES[random.below(4) as usize], bytes.into(), expected)
        }
        _ => Invocation::Delete(expected),
    }
}

/// Generates a history of a correct store. Each operation is invoked, takes effect and returns at
/// different times. Some operations never return, and some of these never take effect.
fn history(random: &mut Random) -> Vec<Operation> {
    let mut store = CorrectStore::default();
    let mut operations: Vec<Operation> = Vec::new();
    // The operation in flight for each client, and its response once it has taken effect.
    let mut in_flight: [Option<(usize, Option<Response>)>; CLIENTS] = Default::default();
    let mut time = 0;
    while operations.len() < OPERATIONS || in_flight.iter().any(Option::is_some) {
        time += 1;
        let client = random.below(CLIENTS as u64) as usize;
        in_flight[client] = match in_flight[client].take() {
            None if operations.len() < OPERATIONS => {
                let (invocation, response) = (random_invocation(random), Response::Unknown);
                let (invoked_at, returned_at) = (time, u64::MAX);
                operations.push(Operation {
                    client: client as u64,
                    invocation,
                    response,
                    invoked_at,
                    returned_at,
                });
                Some((operations.len() - 1, None))
            }
            None => None,
            Some(_) if random.one_in(12) => None,
            Some((at, None)) => Some((at, Some(store.reply(&operations[at].invocation)))),
            Some((at, Some(response))) => {
                (operations[at].response, operations[at].returned_at) = (response, time);
                None
            }
        };
    }
    operations
}

/// Replaces a random response with another plausible one.
fn corrupt(operations: &mut [Operation], random: &mut Random) {
    let replies: Vec<Response> =
        operations.iter().map(|operation| operation.response.clone()).collect();
    let at = random.below(operations.len() as u64) as usize;
    let operation = &mut operations[at];
    operation.response = match (&operation.response, random.below(2)) {
        (Response::Unknown, _) => Response::Unknown,
        (Response::Written(generation), 0) => Response::Written(generation + random.below(2) + 1),
        (Response::Value(value, generation), 0) => Response::Value(value.clone(), generation + 1),
        (Response::Value(_, generation), _) => Response::Value("ab".into(), *generation),
        _ => replies[random.below(replies.len() as u64) as usize].clone(),
    };
    if operation.response == Response::Unknown {
        operation.returned_at = u64::MAX;
    }
}

/// Returns whether stateright accepts the history. In stateright, an operation without a response
/// is the last one of its thread, so the client then continues as a new thread.
fn stateright_accepts(operations: &[Operation]) -> bool {
    let mut tester = LinearizabilityTester::new(Key::default());
    let mut events = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        events.push((operation.invoked_at, true, at));
        if operation.response != Response::Unknown {
            events.push((operation.returned_at, false, at));
        }
    }
    events.sort_unstable();
    // The current thread of each client.
    let mut threads: Vec<usize> = (0..CLIENTS).collect();
    let mut last = CLIENTS;
    for (_, is_invocation, at) in events {
        let operation = &operations[at];
        let thread = &mut threads[operation.client as usize];
        if is_invocation {
            tester.on_invoke(*thread, operation.invocation.clone()).unwrap();
            if operation.response == Response::Unknown {
                (*thread, last) = (last, last + 1);
            }
        } else {
            tester.on_return(*thread, operation.response.clone()).unwrap();
        }
    }
    tester.is_consistent()
}

#[test]
fn the_checker_agrees_with_stateright_on_small_histories() {
    let seed = run_seed("second checker");
    let mut random = Random(seed);
    let count = env_number("STEADFAST_LINEARIZABILITY_HISTORIES").unwrap_or(1500);
    let (mut linearizable, mut rejected) = (0_u64, 0_u64);
    for round in 0..count {
        let mut operations = history(&mut random);
        let corrupted = random.one_in(2);
        if corrupted {
            corrupt(&mut operations, &mut random);
        }
        let (ours, theirs) = (check(&operations).is_ok(), stateright_accepts(&operations));
        let response: Vec<String> = operations.iter().map(Operation::to_string).collect();
        let response = response.join("\n");
        assert_eq!(
            ours, theirs,
            "the checkers disagree in round {round}, STEADFAST_SEED={seed}:\n{response}"
        );
        assert!(
            ours || corrupted,
            "a correct history was rejected in round {round}, STEADFAST_SEED={seed}:\n{response}"
        );
        if ours { linearizable += 1 } else { rejected += 1 }
    }
    println!("{count} histories: {linearizable} accepted as linearizable, {rejected} rejected");
    assert!(
        linearizable > count / 4 && rejected > count / 10,
        "too few accepted or rejected histories"
    );
}
