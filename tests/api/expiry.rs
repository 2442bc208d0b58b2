//! Tests of times to live and expired items.

use super::{Case, assert_204, assert_412, assert_put_ok};
use std::time::{Duration, Instant};

const ONE_SECOND: &[(&str, &str)] = &[("time_to_live_sec", "1")];
/// How long to wait for an item with a time to live of [`ONE_SECOND`] to expire.
const UNTIL_EXPIRED: Duration = Duration::from_millis(1100);

/// Creates a store that contains an expired item for each of the given keys.
fn with_expired_items(keys: &[&str]) -> Case {
    let case = Case::new();
    for key in keys {
        assert_put_ok(&case.put(key, ONE_SECOND, b"old"));
    }
    std::thread::sleep(UNTIL_EXPIRED);
    case
}

#[test]
fn an_item_is_readable_until_it_expires_and_absent_immediately_after() {
    let case = Case::new();
    let start = Instant::now();
    assert_put_ok(&case.put("k", &[("time_to_live_sec", "2")], b"v"));
    let got = case.get("k");
    // Skip this check if the machine stalled until after the expiry.
    if start.elapsed() < Duration::from_secs(2) {
        assert_eq!((got.status, &got.body[..]), (200, &b"v"[..]));
        assert!(!got.head.to_ascii_lowercase().contains("time_to_live"), "{}", got.head);
    }
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(case.get("k").expect_error(404), "no item with that key");
    assert_eq!(case.head("k").status, 404);
    assert_eq!(case.list("").text(), "{\"data\":[],\"meta\":{\"limit\":1000}}");
    assert_eq!(case.list("?consistency=eventual").json()["data"], serde_json::json!([]));
}

#[test]
fn the_maximum_time_to_live_is_accepted() {
    let case = Case::new();
    assert_put_ok(&case.put("k", &[("time_to_live_sec", "4294967295")], b"v"));
    assert_eq!(case.get_value("k"), b"v");
}

#[test]
fn writes_treat_an_expired_item_as_absent() {
    let case = with_expired_items(&["add", "append", "prepend", "put", "absent"]);
    assert_put_ok(&case.put("add?add=true", &[], b"new"));
    assert_put_ok(&case.put("append?append=true", &[], b"new"));
    assert_put_ok(&case.put("prepend?prepend=true", &[], b"new"));
    assert_put_ok(&case.put("put", &[], b"new"));
    assert_put_ok(&case.put("absent", &[("if-generation-match", "0")], b"new"));
    for key in ["add", "append", "prepend", "put", "absent"] {
        assert_eq!(case.get_value(key), b"new", "{key}");
    }
}

#[test]
fn a_condition_on_the_generation_of_an_expired_item_returns_412() {
    let case = Case::new();
    let response = case.put("k", ONE_SECOND, b"v");
    assert_put_ok(&response);
    let generation = response.generation().to_string();
    std::thread::sleep(UNTIL_EXPIRED);
    let condition: &[(&str, &str)] = &[("if-generation-match", &generation)];
    assert_412(&case.put("k", condition, b"w"));
    assert_412(&case.put("k?append=true", condition, b"w"));
    assert_412(&case.delete("k", condition));
    assert_412(&case.delete("k?force=true", condition));
    assert_eq!(case.get("k").status, 404);
}

#[test]
fn the_first_delete_of_an_expired_item_returns_204_and_the_next_one_404() {
    let case = with_expired_items(&["k", "forced"]);
    assert_204(&case.delete("k", &[]));
    case.delete("k", &[]).expect_error(404);
    assert_204(&case.delete("forced?force=true", &[]));
    case.delete("forced", &[]).expect_error(404);
}

#[test]
fn a_store_with_only_expired_items_can_be_deleted() {
    let case = with_expired_items(&["a", "b"]);
    assert_204(&case.server.request(&format!("DELETE {}", case.store_path()), &[], b""));
    case.list("").expect_error(404);
}

#[test]
fn a_write_without_a_time_to_live_removes_the_expiry() {
    let case = Case::new();
    for key in ["put", "append", "prepend", "longer", "batch"] {
        assert_put_ok(&case.put(key, ONE_SECOND, b"old"));
    }
    case.put_ok("put", &[], b"new");
    assert_put_ok(&case.put("append?append=true", &[], b"+new"));
    assert_put_ok(&case.put("prepend?prepend=true", &[], b"new+"));
    case.put_ok("longer", &[("time_to_live_sec", "600")], b"new");
    let line = b"{\"key\":\"batch\",\"value\":\"bmV3\"}";
    let batch = case.server.request(&format!("PUT {}/batch", case.store_path()), &[], line);
    assert_eq!(batch.status, 200, "{batch:?}");
    std::thread::sleep(UNTIL_EXPIRED);
    for key in ["put", "append", "prepend", "longer", "batch"] {
        assert_eq!(case.get(key).status, 200, "{key}");
    }
    assert_eq!(case.get_value("put"), b"new");
}

#[test]
fn an_append_sets_its_own_time_to_live() {
    let case = Case::new();
    case.put_ok("k", &[("time_to_live_sec", "600")], b"a");
    assert_put_ok(&case.put("k?append=true", ONE_SECOND, b"b"));
    std::thread::sleep(UNTIL_EXPIRED);
    case.get("k").expect_error(404);
}

#[test]
fn no_page_is_empty_because_of_expired_keys() {
    let case = Case::new();
    let at = format!("PUT {}/batch", case.store_path());
    let line = |key: &str, ttl: &str| format!("{{\"key\":\"{key}\",\"value\":\"\"{ttl}}}\n");
    let mut batch = String::new();
    for i in 0..3000 {
        batch += &line(&format!("a{i:04}"), ",\"time_to_live_sec\":1");
    }
    let live: Vec<String> = (0..5).map(|i| format!("b{i}")).collect();
    for key in &live {
        batch += &line(key, "");
    }
    batch += &line("c", ",\"time_to_live_sec\":1");
    let response = case.server.request(&at, &[], batch.as_bytes());
    assert_eq!(response.text(), "{\"type\":\"\",\"title\":\"success\",\"errors\":[]}");
    std::thread::sleep(UNTIL_EXPIRED);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = case.list(&format!("?limit=2&cursor={cursor}")).json();
        let keys: Vec<String> = serde_json::from_value(page["data"].clone()).unwrap();
        assert!(!keys.is_empty(), "{page}");
        seen.extend(keys);
        match page["meta"].get("next_cursor") {
            // Escape the base64 characters that have a meaning in a query.
            Some(next) => cursor = next.as_str().unwrap().replace('=', "%3D"),
            None => break,
        }
    }
    assert_eq!(seen, live);
    let page = "{\"data\":[\"b0\",\"b1\",\"b2\",\"b3\",\"b4\"],\"meta\":{\"limit\":5}}";
    assert_eq!(
        case.list("?limit=5").text(),
        page,
        "there must be no cursor if only expired keys follow"
    );
}
