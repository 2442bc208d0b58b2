//! DELETE of items.

use crate::{Case, NO_STORE, STORES, gone, refused_for, unmet};

#[test]
fn a_delete_answers_204_then_404() {
    let case = Case::new();
    case.stored("k", &[], b"v");
    let mut client = case.server.connect();
    let request = format!("DELETE {}", case.path("k"));
    gone(&client.request(&request, &[], b"").unwrap());
    let again = client.request(&request, &[], b"").unwrap();
    assert_eq!(again.expect_error(404), "no item with that key");
    assert_eq!(case.get("k").status, 404);
    assert!(case.keys().is_empty());
}

#[test]
fn a_forced_delete_of_what_is_missing_is_204() {
    let case = Case::new();
    for force in ["true", "True", "TRUE"] {
        gone(&case.delete(&format!("none?force={force}"), &[]));
    }
    for unforced in ["none", "none?force=false", "none?force=False", "none?other=true"] {
        case.delete(unforced, &[]).expect_error(404);
    }
    case.stored("k", &[], b"v");
    gone(&case.delete("k?force=true", &[]));
    let answer =
        case.server.request(&format!("DELETE {STORES}/{NO_STORE}/keys/k?force=true"), &[], b"");
    assert_eq!(answer.expect_error(404), "no store with that id");
}

#[test]
fn a_delete_heeds_the_generation_it_demands() {
    let case = Case::new();
    let generation = case.stored("k", &[], b"v");
    for other in [0, generation - 1, generation + 1, u64::MAX] {
        let other = other.to_string();
        for key in ["k", "k?force=true"] {
            unmet(&case.delete(key, &[("if-generation-match", &other)]));
        }
    }
    assert_eq!(case.get("k").generation(), generation);
    let generation = generation.to_string();
    gone(&case.delete("k", &[("If-Generation-Match", &generation)]));
    // What is missing is said first, and with force is no error.
    case.delete("k", &[("if-generation-match", &generation)]).expect_error(404);
    case.delete("k", &[("if-generation-match", "0")]).expect_error(404);
    gone(&case.delete("k?force=true", &[("if-generation-match", &generation)]));
}

#[test]
fn a_wrong_parameter_of_a_delete_is_400_and_deletes_nothing() {
    let case = Case::new();
    let generation = case.stored("k", &[], b"v");
    for force in ["?force", "?force=", "?force=yes", "?force=1", "?force=true&force=true"] {
        for key in ["k", "none"] {
            refused_for(&case.delete(&format!("{key}{force}"), &[]), 400, "force");
        }
    }
    let name = "if-generation-match";
    for wrong in ["", "x", "-1", "+5", "1.5", "18446744073709551616"] {
        refused_for(&case.delete("k", &[(name, wrong)]), 400, name);
    }
    let text = generation.to_string();
    refused_for(&case.delete("k", &[(name, &text), (name, &text)]), 400, name);
    case.delete("k?x=%", &[]).expect_error(400);
    assert_eq!(case.get("k").generation(), generation);
}

#[test]
fn parallel_deletes_of_different_keys_all_succeed() {
    let case = Case::new();
    for i in 0..32 {
        case.stored(&format!("k{i}"), &[], b"v");
    }
    std::thread::scope(|scope| {
        for i in 0..32 {
            let case = &case;
            scope.spawn(move || gone(&case.delete(&format!("k{i}"), &[])));
        }
    });
    assert!(case.keys().is_empty());
    gone(&case.server.request(&format!("DELETE {}", case.at()), &[], b""));
}

#[test]
fn a_body_with_a_delete_is_taken_and_ignored() {
    let case = Case::new();
    case.stored("k", &[], b"v");
    let mut client = case.server.connect();
    let request = format!("DELETE {}", case.path("k"));
    gone(&client.request(&request, &[("Content-Type", "application/json")], b"{}").unwrap());
    client.request(&request, &[], b"").unwrap().expect_error(404);
}
