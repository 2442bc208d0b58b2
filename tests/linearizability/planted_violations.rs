//! Tests of the checker: it rejects histories that violate linearizability and accepts similar
//! valid ones.

use crate::checker::check;
use crate::history::{Invocation, Mode, Operation, Response};

fn put(bytes: &str) -> Invocation {
    Invocation::Put(Mode::Overwrite, bytes.into(), None)
}

fn value(bytes: &str, generation: u64) -> Response {
    Response::Value(bytes.into(), generation)
}

fn history(operations: &[(u64, u64, Invocation, Response)]) -> Vec<Operation> {
    let of = |(client, (invoked_at, returned_at, invocation, response)): (
        usize,
        &(u64, u64, Invocation, Response),
    )| Operation {
        client: client as u64,
        invocation: invocation.clone(),
        response: response.clone(),
        invoked_at: *invoked_at,
        returned_at: *returned_at,
    };
    operations.iter().enumerate().map(of).collect()
}

fn assert_linearizable(operations: &[(u64, u64, Invocation, Response)]) {
    check(&history(operations)).unwrap();
}

fn assert_rejected(operations: &[(u64, u64, Invocation, Response)]) {
    let why = check(&history(operations)).expect_err("it is accepted");
    assert!(why.contains(" operations are not linearizable"), "{why}");
}

#[test]
fn stale_reads_are_rejected() {
    let puts = [(0, 9, put("a"), Response::Written(1)), (10, 19, put("b"), Response::Written(2))];
    assert_linearizable(&[&puts[..], &[(20, 29, Invocation::Get, value("b", 2))]].concat());
    assert_rejected(&[&puts[..], &[(20, 29, Invocation::Get, value("a", 1))]].concat());
    assert_linearizable(&[&puts[..], &[(15, 29, Invocation::Get, value("a", 1))]].concat());
    // A later read must not return an older value.
    let reads =
        [(11, 12, Invocation::Get, value("b", 2)), (13, 14, Invocation::Get, value("a", 1))];
    assert_rejected(&[&puts[..], &reads[..]].concat());
}

#[test]
fn lost_and_reordered_appends_are_rejected() {
    let append = |bytes: &str| Invocation::Put(Mode::Append, bytes.into(), None);
    let both =
        [(0, 9, append("a"), Response::Written(1)), (0, 9, append("b"), Response::Written(2))];
    assert_linearizable(&[&both[..], &[(10, 11, Invocation::Get, value("ab", 2))]].concat());
    assert_rejected(&[&both[..], &[(10, 11, Invocation::Get, value("b", 2))]].concat());
    assert_rejected(&[&both[..], &[(10, 11, Invocation::Get, value("ba", 2))]].concat());
}

#[test]
fn two_successful_adds_are_rejected() {
    let add = |bytes: &str| Invocation::Put(Mode::Add, bytes.into(), None);
    assert_linearizable(&[
        (0, 9, add("a"), Response::Written(1)),
        (0, 9, add("b"), Response::Rejected),
    ]);
    assert_rejected(&[
        (0, 9, add("a"), Response::Written(1)),
        (0, 9, add("b"), Response::Written(2)),
    ]);
}

#[test]
fn a_precondition_that_is_not_atomic_with_its_write_is_rejected() {
    let compare = |bytes: &str| Invocation::Put(Mode::Overwrite, bytes.into(), Some(1));
    let first = (0, 1, put("a"), Response::Written(1));
    let won = (2, 9, compare("b"), Response::Written(2));
    assert_linearizable(&[first.clone(), won.clone(), (2, 9, compare("c"), Response::Rejected)]);
    assert_rejected(&[first.clone(), won.clone(), (2, 9, compare("c"), Response::Written(3))]);
    assert_rejected(&[first, won, (2, 9, Invocation::Delete(Some(1)), Response::Deleted)]);
}

#[test]
fn repeated_generations_are_rejected() {
    let gone = [
        (0, 1, put("a"), Response::Written(5)),
        (2, 3, Invocation::Delete(None), Response::Deleted),
    ];
    assert_linearizable(&[&gone[..], &[(4, 5, put("b"), Response::Written(6))]].concat());
    assert_rejected(&[&gone[..], &[(4, 5, put("b"), Response::Written(5))]].concat());
    assert_rejected(&[&gone[..], &[(4, 5, put("b"), Response::Written(4))]].concat());
}

#[test]
fn lost_writes_are_rejected() {
    assert_rejected(&[
        (0, 1, put("a"), Response::Written(1)),
        (2, 3, Invocation::Get, Response::Absent),
    ]);
}

#[test]
fn resurrected_items_are_rejected() {
    let gone = [
        (0, 1, put("a"), Response::Written(5)),
        (2, 3, Invocation::Delete(None), Response::Deleted),
    ];
    assert_linearizable(&[&gone[..], &[(4, 5, Invocation::Get, Response::Absent)]].concat());
    assert_rejected(&[&gone[..], &[(4, 5, Invocation::Get, value("a", 5))]].concat());
}

#[test]
fn an_unanswered_write_takes_effect_at_most_once() {
    let lost = (10, 20, put("b"), Response::Unknown);
    let first = (0, 1, put("a"), Response::Written(1));
    let get = |at, response| (at, at + 1, Invocation::Get, response);
    assert_linearizable(&[first.clone(), lost.clone(), get(30, value("a", 1))]);
    assert_linearizable(&[first.clone(), lost.clone(), get(30, value("b", 7))]);
    assert_rejected(&[first.clone(), lost.clone(), get(30, value("b", 7)), get(40, value("a", 1))]);
    assert_rejected(&[first.clone(), lost.clone(), get(30, value("a", 1)), get(40, value("b", 7))]);
    assert_rejected(&[first, lost, get(30, value("b", 1))]);
}
