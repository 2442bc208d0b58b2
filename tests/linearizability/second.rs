//! A second opinion: small random histories, sound and spoilt, are judged by our checker and by
//! stateright's tester. That one tries every order without remembering what it has tried, which
//! is simple to trust, but takes too long for the histories of a real load.

use crate::checker::check;
use crate::history::{Asked, Mode, Operation, Told};
use crate::model::{Interner, State};
use crate::random::{Random, number, seed};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use std::cell::RefCell;
use std::rc::Rc;

/// Clients that ask at the same time, and operations of a history.
const CLIENTS: usize = 3;
const OPERATIONS: usize = 9;

/// One key, as stateright wants to be told of it.
#[derive(Clone, Default)]
struct Key {
    state: State,
    values: Rc<RefCell<Interner>>,
}

impl Key {
    fn step(&mut self, asked: &Asked, told: &Told) -> bool {
        let (client, began, ended) = (0, 0, 0);
        let (asked, told) = (asked.clone(), told.clone());
        let operation = Operation { client, asked, told, began, ended };
        let after = self.state.after(&operation, &mut self.values.borrow_mut());
        after.map(|after| self.state = after).is_some()
    }
}

impl SequentialSpec for Key {
    type Op = Asked;
    type Ret = Told;

    /// What nobody was told of; where it cannot happen, it changes nothing.
    fn invoke(&mut self, asked: &Asked) -> Told {
        self.step(asked, &Told::Nothing);
        Told::Nothing
    }

    fn is_valid_step(&mut self, asked: &Asked, told: &Told) -> bool {
        self.step(asked, told)
    }
}

/// A store of one key that does everything right.
#[derive(Default)]
struct Sound {
    value: Option<(String, u64)>,
    generation: u64,
}

impl Sound {
    fn answer(&mut self, asked: &Asked) -> Told {
        let differs = |demanded: &Option<u64>| {
            let current = self.value.as_ref().map_or(0, |(_, generation)| *generation);
            demanded.is_some_and(|demanded| demanded != current)
        };
        let old = self.value.as_ref().map(|(value, _)| value.clone());
        match asked {
            Asked::Get => match &self.value {
                Some((value, generation)) => Told::Value(value.clone(), *generation),
                None => Told::Absent,
            },
            Asked::Put(mode, _, demanded)
                if differs(demanded) || *mode == Mode::Add && old.is_some() =>
            {
                Told::Refused
            }
            Asked::Put(mode, bytes, _) => {
                let old = old.unwrap_or_default();
                let value = match mode {
                    Mode::Overwrite | Mode::Add => bytes.clone(),
                    Mode::Append => old + bytes,
                    Mode::Prepend => bytes.clone() + &old,
                };
                self.generation += 1;
                self.value = Some((value, self.generation));
                Told::Written(self.generation)
            }
            Asked::Delete(_) if old.is_none() => Told::Absent,
            Asked::Delete(demanded) if differs(demanded) => Told::Refused,
            Asked::Delete(_) => {
                self.value = None;
                Told::Deleted
            }
        }
    }
}

fn ask(random: &mut Random) -> Asked {
    const MODES: [Mode; 4] = [Mode::Overwrite, Mode::Add, Mode::Append, Mode::Prepend];
    let demanded = random.one_in(3).then(|| 1 + random.below(4));
    match random.below(8) {
        0..3 => Asked::Get,
        3..7 => {
            let bytes = ["a", "b", "c"][random.below(3) as usize];
            Asked::Put(MODES[random.below(4) as usize], bytes.into(), demanded)
        }
        _ => Asked::Delete(demanded),
    }
}

/// A history of a sound store. Each operation begins, happens and is answered at a moment of its
/// own; some are never answered, and of those some never happen.
fn history(random: &mut Random) -> Vec<Operation> {
    let mut store = Sound::default();
    let mut operations: Vec<Operation> = Vec::new();
    // What each client waits for: its operation, and the answer once it happened.
    let mut waiting: [Option<(usize, Option<Told>)>; CLIENTS] = Default::default();
    let mut time = 0;
    while operations.len() < OPERATIONS || waiting.iter().any(Option::is_some) {
        time += 1;
        let client = random.below(CLIENTS as u64) as usize;
        waiting[client] = match waiting[client].take() {
            None if operations.len() < OPERATIONS => {
                let (asked, told) = (ask(random), Told::Nothing);
                let (began, ended) = (time, u64::MAX);
                operations.push(Operation { client: client as u64, asked, told, began, ended });
                Some((operations.len() - 1, None))
            }
            None => None,
            Some(_) if random.one_in(12) => None,
            Some((at, None)) => Some((at, Some(store.answer(&operations[at].asked)))),
            Some((at, Some(told))) => {
                (operations[at].told, operations[at].ended) = (told, time);
                None
            }
        };
    }
    operations
}

/// Another answer than the one that was given, of a kind that could be given.
fn spoil(operations: &mut [Operation], random: &mut Random) {
    let answers: Vec<Told> = operations.iter().map(|operation| operation.told.clone()).collect();
    let at = random.below(operations.len() as u64) as usize;
    let operation = &mut operations[at];
    operation.told = match (&operation.told, random.below(2)) {
        (Told::Nothing, _) => Told::Nothing,
        (Told::Written(generation), 0) => Told::Written(generation + random.below(2) + 1),
        (Told::Value(value, generation), 0) => Told::Value(value.clone(), generation + 1),
        (Told::Value(_, generation), _) => Told::Value("ab".into(), *generation),
        _ => answers[random.below(answers.len() as u64) as usize].clone(),
    };
    if operation.told == Told::Nothing {
        operation.ended = u64::MAX;
    }
}

/// What stateright says. An operation without an answer is the last of its thread.
fn second(operations: &[Operation]) -> bool {
    let mut tester = LinearizabilityTester::new(Key::default());
    let mut events = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        events.push((operation.began, true, at));
        if operation.told != Told::Nothing {
            events.push((operation.ended, false, at));
        }
    }
    events.sort_unstable();
    // A client's thread, until it has asked in vain.
    let mut threads: Vec<usize> = (0..CLIENTS).collect();
    let mut last = CLIENTS;
    for (_, begins, at) in events {
        let operation = &operations[at];
        let thread = &mut threads[operation.client as usize];
        if begins {
            tester.on_invoke(*thread, operation.asked.clone()).unwrap();
            if operation.told == Told::Nothing {
                (*thread, last) = (last, last + 1);
            }
        } else {
            tester.on_return(*thread, operation.told.clone()).unwrap();
        }
    }
    tester.is_consistent()
}

#[test]
fn the_checker_and_another_judge_small_histories_alike() {
    let seed = seed("second opinion");
    let mut random = Random(seed);
    let many = number("STEADFAST_LINEAR_HISTORIES").unwrap_or(1500);
    let (mut sound, mut wrong) = (0_u64, 0_u64);
    for round in 0..many {
        let mut operations = history(&mut random);
        let spoilt = random.one_in(2);
        if spoilt {
            spoil(&mut operations, &mut random);
        }
        let (ours, theirs) = (check(&operations).is_ok(), second(&operations));
        let told: Vec<String> = operations.iter().map(Operation::to_string).collect();
        let told = told.join("\n");
        assert_eq!(ours, theirs, "round {round} of STEADFAST_SEED={seed}:\n{told}");
        assert!(ours || spoilt, "round {round} of STEADFAST_SEED={seed} is sound:\n{told}");
        if ours { sound += 1 } else { wrong += 1 }
    }
    println!("{many} histories judged alike, {sound} sound, {wrong} wrong");
    assert!(sound > many / 4 && wrong > many / 10, "both kinds came");
}
