//! Times to live.

use crate::{Case, accepted, gone, unmet};
use std::time::{Duration, Instant};

const ONE_SECOND: &[(&str, &str)] = &[("time_to_live_sec", "1")];
/// A little more than the second.
const OVER: Duration = Duration::from_millis(1100);

/// A store with these items, all of them expired.
fn expired(keys: &[&str]) -> Case {
    let case = Case::new();
    for key in keys {
        accepted(&case.put(key, ONE_SECOND, b"old"));
    }
    std::thread::sleep(OVER);
    case
}

#[test]
fn an_item_is_readable_until_its_time_and_absent_at_once_after() {
    let case = Case::new();
    let start = Instant::now();
    accepted(&case.put("k", &[("time_to_live_sec", "2")], b"v"));
    let got = case.get("k");
    // On a machine that stood still for so long nothing can be said.
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
fn the_longest_time_to_live_is_u32_seconds() {
    let case = Case::new();
    accepted(&case.put("k", &[("time_to_live_sec", "4294967295")], b"v"));
    assert_eq!(case.value("k"), b"v");
}

#[test]
fn an_expired_item_does_not_stand_in_the_way_of_writes() {
    let case = expired(&["add", "append", "prepend", "put", "absent"]);
    accepted(&case.put("add?add=true", &[], b"new"));
    accepted(&case.put("append?append=true", &[], b"new"));
    accepted(&case.put("prepend?prepend=true", &[], b"new"));
    accepted(&case.put("put", &[], b"new"));
    accepted(&case.put("absent", &[("if-generation-match", "0")], b"new"));
    for key in ["add", "append", "prepend", "put", "absent"] {
        assert_eq!(case.value(key), b"new", "{key}");
    }
}

#[test]
fn an_expired_item_meets_no_demanded_generation() {
    let case = Case::new();
    let answer = case.put("k", ONE_SECOND, b"v");
    accepted(&answer);
    let generation = answer.generation().to_string();
    std::thread::sleep(OVER);
    let demand: &[(&str, &str)] = &[("if-generation-match", &generation)];
    unmet(&case.put("k", demand, b"w"));
    unmet(&case.put("k?append=true", demand, b"w"));
    unmet(&case.delete("k", demand));
    unmet(&case.delete("k?force=true", demand));
    assert_eq!(case.get("k").status, 404);
}

#[test]
fn a_plain_delete_of_an_expired_item_is_204_and_the_next_404() {
    let case = expired(&["k", "forced"]);
    gone(&case.delete("k", &[]));
    case.delete("k", &[]).expect_error(404);
    gone(&case.delete("forced?force=true", &[]));
    case.delete("forced", &[]).expect_error(404);
}

#[test]
fn a_store_with_nothing_but_expired_items_can_be_deleted() {
    let case = expired(&["a", "b"]);
    gone(&case.server.request(&format!("DELETE {}", case.at()), &[], b""));
    case.list("").expect_error(404);
}

#[test]
fn an_overwrite_without_a_time_to_live_lives_on() {
    let case = Case::new();
    for key in ["put", "append", "prepend", "longer", "batch"] {
        accepted(&case.put(key, ONE_SECOND, b"old"));
    }
    case.stored("put", &[], b"new");
    accepted(&case.put("append?append=true", &[], b"+new"));
    accepted(&case.put("prepend?prepend=true", &[], b"new+"));
    case.stored("longer", &[("time_to_live_sec", "600")], b"new");
    let line = b"{\"key\":\"batch\",\"value\":\"bmV3\"}";
    let batch = case.server.request(&format!("PUT {}/batch", case.at()), &[], line);
    assert_eq!(batch.status, 200, "{batch:?}");
    std::thread::sleep(OVER);
    for key in ["put", "append", "prepend", "longer", "batch"] {
        assert_eq!(case.get(key).status, 200, "{key}");
    }
    assert_eq!(case.value("put"), b"new");
}

#[test]
fn an_append_brings_its_own_time_to_live() {
    let case = Case::new();
    case.stored("k", &[("time_to_live_sec", "600")], b"a");
    accepted(&case.put("k?append=true", ONE_SECOND, b"b"));
    std::thread::sleep(OVER);
    case.get("k").expect_error(404);
}

#[test]
fn no_page_is_empty_while_more_follows_even_behind_expired_keys() {
    let case = Case::new();
    let at = format!("PUT {}/batch", case.at());
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
    let answer = case.server.request(&at, &[], batch.as_bytes());
    assert_eq!(answer.text(), "{\"type\":\"\",\"title\":\"success\",\"errors\":[]}");
    std::thread::sleep(OVER);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = case.list(&format!("?limit=2&cursor={cursor}")).json();
        let keys: Vec<String> = serde_json::from_value(page["data"].clone()).unwrap();
        assert!(!keys.is_empty(), "{page}");
        seen.extend(keys);
        match page["meta"].get("next_cursor") {
            // Base64 in a query must be escaped.
            Some(next) => cursor = next.as_str().unwrap().replace('=', "%3D"),
            None => break,
        }
    }
    assert_eq!(seen, live);
    let page = "{\"data\":[\"b0\",\"b1\",\"b2\",\"b3\",\"b4\"],\"meta\":{\"limit\":5}}";
    assert_eq!(case.list("?limit=5").text(), page, "only what is expired follows");
}
