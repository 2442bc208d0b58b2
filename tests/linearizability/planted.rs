//! Histories that no store may have, each of which the checker must refuse, and their sound twins.

use crate::checker::check;
use crate::history::{Asked, Mode, Operation, Told};

fn put(bytes: &str) -> Asked {
    Asked::Put(Mode::Overwrite, bytes.into(), None)
}

fn value(bytes: &str, generation: u64) -> Told {
    Told::Value(bytes.into(), generation)
}

fn history(operations: &[(u64, u64, Asked, Told)]) -> Vec<Operation> {
    let of = |(client, (began, ended, asked, told)): (usize, &(u64, u64, Asked, Told))| Operation {
        client: client as u64,
        asked: asked.clone(),
        told: told.clone(),
        began: *began,
        ended: *ended,
    };
    operations.iter().enumerate().map(of).collect()
}

fn sound(operations: &[(u64, u64, Asked, Told)]) {
    check(&history(operations)).unwrap();
}

fn wrong(operations: &[(u64, u64, Asked, Told)]) {
    let why = check(&history(operations)).expect_err("it must be refused");
    assert!(why.starts_with("no order explains these "), "{why}");
}

#[test]
fn a_stale_read_is_found() {
    let puts = [(0, 9, put("a"), Told::Written(1)), (10, 19, put("b"), Told::Written(2))];
    sound(&[&puts[..], &[(20, 29, Asked::Get, value("b", 2))]].concat());
    wrong(&[&puts[..], &[(20, 29, Asked::Get, value("a", 1))]].concat());
    sound(&[&puts[..], &[(15, 29, Asked::Get, value("a", 1))]].concat());
    // Two reads, one after the other, must not go back.
    let reads = [(11, 12, Asked::Get, value("b", 2)), (13, 14, Asked::Get, value("a", 1))];
    wrong(&[&puts[..], &reads[..]].concat());
}

#[test]
fn a_lost_append_is_found() {
    let append = |bytes: &str| Asked::Put(Mode::Append, bytes.into(), None);
    let both = [(0, 9, append("a"), Told::Written(1)), (0, 9, append("b"), Told::Written(2))];
    sound(&[&both[..], &[(10, 11, Asked::Get, value("ab", 2))]].concat());
    wrong(&[&both[..], &[(10, 11, Asked::Get, value("b", 2))]].concat());
    wrong(&[&both[..], &[(10, 11, Asked::Get, value("ba", 2))]].concat());
}

#[test]
fn two_adds_that_both_succeed_are_found() {
    let add = |bytes: &str| Asked::Put(Mode::Add, bytes.into(), None);
    sound(&[(0, 9, add("a"), Told::Written(1)), (0, 9, add("b"), Told::Refused)]);
    wrong(&[(0, 9, add("a"), Told::Written(1)), (0, 9, add("b"), Told::Written(2))]);
}

#[test]
fn a_check_and_a_write_under_two_locks_are_found() {
    let compare = |bytes: &str| Asked::Put(Mode::Overwrite, bytes.into(), Some(1));
    let first = (0, 1, put("a"), Told::Written(1));
    let won = (2, 9, compare("b"), Told::Written(2));
    sound(&[first.clone(), won.clone(), (2, 9, compare("c"), Told::Refused)]);
    wrong(&[first.clone(), won.clone(), (2, 9, compare("c"), Told::Written(3))]);
    wrong(&[first, won, (2, 9, Asked::Delete(Some(1)), Told::Deleted)]);
}

#[test]
fn a_generation_that_comes_again_is_found() {
    let gone = [(0, 1, put("a"), Told::Written(5)), (2, 3, Asked::Delete(None), Told::Deleted)];
    sound(&[&gone[..], &[(4, 5, put("b"), Told::Written(6))]].concat());
    wrong(&[&gone[..], &[(4, 5, put("b"), Told::Written(5))]].concat());
    wrong(&[&gone[..], &[(4, 5, put("b"), Told::Written(4))]].concat());
}

#[test]
fn a_write_that_is_lost_in_a_crash_is_found() {
    wrong(&[(0, 1, put("a"), Told::Written(1)), (2, 3, Asked::Get, Told::Absent)]);
}

#[test]
fn a_deleted_item_that_comes_back_is_found() {
    let gone = [(0, 1, put("a"), Told::Written(5)), (2, 3, Asked::Delete(None), Told::Deleted)];
    sound(&[&gone[..], &[(4, 5, Asked::Get, Told::Absent)]].concat());
    wrong(&[&gone[..], &[(4, 5, Asked::Get, value("a", 5))]].concat());
}

#[test]
fn a_write_without_an_answer_happens_once_or_never_and_not_after_its_server_died() {
    let lost = (10, 20, put("b"), Told::Nothing);
    let first = (0, 1, put("a"), Told::Written(1));
    let get = |at, told| (at, at + 1, Asked::Get, told);
    sound(&[first.clone(), lost.clone(), get(30, value("a", 1))]);
    sound(&[first.clone(), lost.clone(), get(30, value("b", 7))]);
    wrong(&[first.clone(), lost.clone(), get(30, value("b", 7)), get(40, value("a", 1))]);
    wrong(&[first.clone(), lost.clone(), get(30, value("a", 1)), get(40, value("b", 7))]);
    wrong(&[first, lost, get(30, value("b", 1))]);
}
