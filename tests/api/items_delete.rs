//! Tests of DELETE requests for items.

use super::{Case, STORES, UNKNOWN_STORE, assert_204, assert_412, assert_error};

#[test]
fn the_first_delete_returns_204_and_the_next_one_404() {
    let case = Case::new();
    case.put_ok("k", &[], b"v");
    let mut client = case.server.connect();
    let request = format!("DELETE {}", case.item_path("k"));
    assert_204(&client.request(&request, &[], b"").unwrap());
    let again = client.request(&request, &[], b"").unwrap();
    assert_eq!(again.expect_error(404), "no item with that key");
    assert_eq!(case.get("k").status, 404);
    assert!(case.list_keys().is_empty());
}

#[test]
fn a_forced_delete_of_a_missing_item_returns_204() {
    let case = Case::new();
    for force in ["true", "True", "TRUE", "1", "t", "T"] {
        assert_204(&case.delete(&format!("none?force={force}"), &[]));
    }
    for unforced in ["none", "none?force=false", "none?force=False", "none?other=true"] {
        case.delete(unforced, &[]).expect_error(404);
    }
    case.put_ok("k", &[], b"v");
    assert_204(&case.delete("k?force=true", &[]));
    let response = case.server.request(
        &format!("DELETE {STORES}/{UNKNOWN_STORE}/keys/k?force=true"),
        &[],
        b"",
    );
    assert_eq!(response.expect_error(404), "no store with that id");
}

#[test]
fn a_delete_requires_a_matching_generation() {
    let case = Case::new();
    let generation = case.put_ok("k", &[], b"v");
    for other in [0, generation - 1, generation + 1, u64::MAX] {
        let other = other.to_string();
        for key in ["k", "k?force=true"] {
            assert_412(&case.delete(key, &[("if-generation-match", &other)]));
        }
    }
    assert_eq!(case.get("k").generation(), generation);
    let generation = generation.to_string();
    assert_204(&case.delete("k", &[("If-Generation-Match", &generation)]));
    // A missing item takes precedence over a failed condition. With force, it is not an error.
    case.delete("k", &[("if-generation-match", &generation)]).expect_error(404);
    case.delete("k", &[("if-generation-match", "0")]).expect_error(404);
    assert_204(&case.delete("k?force=true", &[("if-generation-match", &generation)]));
}

#[test]
fn an_invalid_delete_parameter_returns_400_and_deletes_nothing() {
    let case = Case::new();
    let generation = case.put_ok("k", &[], b"v");
    for force in ["?force", "?force=", "?force=yes", "?force=2", "?force=true&force=true"] {
        for key in ["k", "none"] {
            assert_error(&case.delete(&format!("{key}{force}"), &[]), 400, "force");
        }
    }
    let name = "if-generation-match";
    for invalid in ["", "x", "-1", "+5", "1.5", "18446744073709551616"] {
        assert_error(&case.delete("k", &[(name, invalid)]), 400, name);
    }
    let text = generation.to_string();
    assert_error(&case.delete("k", &[(name, &text), (name, &text)]), 400, name);
    case.delete("k?x=%", &[]).expect_error(400);
    assert_eq!(case.get("k").generation(), generation);
}

#[test]
fn concurrent_deletes_of_different_keys_all_succeed() {
    let case = Case::new();
    for i in 0..32 {
        case.put_ok(&format!("k{i}"), &[], b"v");
    }
    std::thread::scope(|scope| {
        for i in 0..32 {
            let case = &case;
            scope.spawn(move || assert_204(&case.delete(&format!("k{i}"), &[])));
        }
    });
    assert!(case.list_keys().is_empty());
    assert_204(&case.server.request(&format!("DELETE {}", case.store_path()), &[], b""));
}

#[test]
fn the_body_of_a_delete_is_ignored() {
    let case = Case::new();
    case.put_ok("k", &[], b"v");
    let mut client = case.server.connect();
    let request = format!("DELETE {}", case.item_path("k"));
    assert_204(&client.request(&request, &[("Content-Type", "application/json")], b"{}").unwrap());
    client.request(&request, &[], b"").unwrap().expect_error(404);
}
