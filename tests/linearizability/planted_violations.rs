//! Tests of the checker: it rejects histories that violate linearizability and accepts similar
//! valid ones.

use crate::checker::check;
use crate::history::Invocation::{self, Delete, Get, Put};
use crate::history::Response::{self, Absent, Deleted, Rejected, Unknown, Value, Written};
use crate::history::{Mode, Operation};

fn put(bytes: &str) -> Invocation {
    Put(Mode::Overwrite, bytes.into(), None)
}

fn value(bytes: &str, generation: u64) -> Response {
    Value(bytes.into(), generation)
}

type Call = (u64, u64, Invocation, Response);

fn history(operations: &[Call]) -> Vec<Operation> {
    let of =
        |(client, (invoked_at, returned_at, invocation, response)): (usize, &Call)| Operation {
            client: client as u64,
            invocation: invocation.clone(),
            response: response.clone(),
            invoked_at: *invoked_at,
            returned_at: *returned_at,
        };
    operations.iter().enumerate().map(of).collect()
}

fn assert_linearizable(operations: &[Call]) {
    check(&history(operations)).unwrap();
}

fn assert_rejected(operations: &[Call]) {
    let why = check(&history(operations)).expect_err("the history was accepted");
    assert!(why.contains(" operations are not linearizable"), "{why}");
}

#[test]
fn stale_reads_are_rejected() {
    let puts = [(0, 9, put("a"), Written(1)), (10, 19, put("b"), Written(2))];
    assert_linearizable(&[&puts[..], &[(20, 29, Get, value("b", 2))]].concat());
    assert_rejected(&[&puts[..], &[(20, 29, Get, value("a", 1))]].concat());
    assert_linearizable(&[&puts[..], &[(15, 29, Get, value("a", 1))]].concat());
    // A later read must not return an older value.
    let reads = [(11, 12, Get, value("b", 2)), (13, 14, Get, value("a", 1))];
    assert_rejected(&[&puts[..], &reads[..]].concat());
}

#[test]
fn lost_and_reordered_appends_are_rejected() {
    let append = |bytes: &str| Put(Mode::Append, bytes.into(), None);
    let both = [(0, 9, append("a"), Written(1)), (0, 9, append("b"), Written(2))];
    assert_linearizable(&[&both[..], &[(10, 11, Get, value("ab", 2))]].concat());
    assert_rejected(&[&both[..], &[(10, 11, Get, value("b", 2))]].concat());
    assert_rejected(&[&both[..], &[(10, 11, Get, value("ba", 2))]].concat());
}

#[test]
fn two_successful_adds_are_rejected() {
    let add = |bytes: &str| Put(Mode::Add, bytes.into(), None);
    assert_linearizable(&[(0, 9, add("a"), Written(1)), (0, 9, add("b"), Rejected)]);
    assert_rejected(&[(0, 9, add("a"), Written(1)), (0, 9, add("b"), Written(2))]);
}

#[test]
fn a_precondition_that_is_not_atomic_with_its_write_is_rejected() {
    let compare = |bytes: &str| Put(Mode::Overwrite, bytes.into(), Some(1));
    let first = (0, 1, put("a"), Written(1));
    let won = (2, 9, compare("b"), Written(2));
    assert_linearizable(&[first.clone(), won.clone(), (2, 9, compare("c"), Rejected)]);
    assert_rejected(&[first.clone(), won.clone(), (2, 9, compare("c"), Written(3))]);
    assert_rejected(&[first, won, (2, 9, Delete(Some(1)), Deleted)]);
}

#[test]
fn repeated_generations_are_rejected() {
    let gone = [(0, 1, put("a"), Written(5)), (2, 3, Delete(None), Deleted)];
    assert_linearizable(&[&gone[..], &[(4, 5, put("b"), Written(6))]].concat());
    assert_rejected(&[&gone[..], &[(4, 5, put("b"), Written(5))]].concat());
    assert_rejected(&[&gone[..], &[(4, 5, put("b"), Written(4))]].concat());
}

#[test]
fn lost_writes_are_rejected() {
    assert_rejected(&[(0, 1, put("a"), Written(1)), (2, 3, Get, Absent)]);
}

#[test]
fn resurrected_items_are_rejected() {
    let gone = [(0, 1, put("a"), Written(5)), (2, 3, Delete(None), Deleted)];
    assert_linearizable(&[&gone[..], &[(4, 5, Get, Absent)]].concat());
    assert_rejected(&[&gone[..], &[(4, 5, Get, value("a", 5))]].concat());
}

#[test]
fn a_write_without_a_response_takes_effect_at_most_once() {
    let lost = (10, 20, put("b"), Unknown);
    let first = (0, 1, put("a"), Written(1));
    let get = |at, response| (at, at + 1, Get, response);
    assert_linearizable(&[first.clone(), lost.clone(), get(30, value("a", 1))]);
    assert_linearizable(&[first.clone(), lost.clone(), get(30, value("b", 7))]);
    assert_rejected(&[first.clone(), lost.clone(), get(30, value("b", 7)), get(40, value("a", 1))]);
    assert_rejected(&[first.clone(), lost.clone(), get(30, value("a", 1)), get(40, value("b", 7))]);
    assert_rejected(&[first, lost, get(30, value("b", 1))]);
}
