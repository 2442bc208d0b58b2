//! Tests of key lists: pages, cursors, prefixes, order and consistency.

use super::{
    Case, STORES, UNKNOWN_STORE, assert_204, assert_error, assert_put_ok, escape_cursor,
    status_line,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Creates a store with empty items. The keys are given in the escaped form used in paths.
fn with_keys<K: AsRef<str>>(keys: &[K]) -> Case {
    let case = Case::new();
    let mut client = case.server.connect();
    for key in keys {
        let request = format!("PUT {}", case.item_path(key.as_ref()));
        assert_put_ok(&client.request(&request, &[], b"").unwrap());
    }
    case
}

/// Reads all pages of a list. Returns the keys on each page.
fn pages(case: &Case, query: &str) -> Vec<Vec<String>> {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = case.list(&format!("?{query}&cursor={}", escape_cursor(&cursor))).json();
        pages.push(serde_json::from_value(page["data"].clone()).unwrap());
        match page["meta"].get("next_cursor") {
            None => return pages,
            Some(next) => cursor = next.as_str().unwrap().to_owned(),
        }
        assert!(pages.len() < 10_000, "the list has too many pages");
    }
}

#[test]
fn key_lists_match_the_recorded_responses() {
    let case = with_keys(&["apple", "banana"]);
    for (query, body) in [
        ("", r#"{"data":["apple","banana"],"meta":{"limit":1000}}"#),
        ("?consistency=strong", r#"{"data":["apple","banana"],"meta":{"limit":1000}}"#),
        ("?prefix=ba", r#"{"data":["banana"],"meta":{"limit":1000,"prefix":"ba"}}"#),
        (
            "?consistency=eventual&prefix=",
            r#"{"data":["apple","banana"],"meta":{"limit":1000,"consistency":"eventual"}}"#,
        ),
        ("?limit=1", r#"{"data":["apple"],"meta":{"limit":1,"next_cursor":"CgVhcHBsZQ=="}}"#),
        ("?limit=2", r#"{"data":["apple","banana"],"meta":{"limit":2}}"#),
        ("?cursor=CgVhcHBsZQ%3D%3D", r#"{"data":["banana"],"meta":{"limit":1000}}"#),
        ("?cursor=CgVhcHBsZQ==", r#"{"data":["banana"],"meta":{"limit":1000}}"#),
        ("?cursor=CgZiYW5hbmE%3D", r#"{"data":[],"meta":{"limit":1000}}"#),
        ("?prefix=x", r#"{"data":[],"meta":{"limit":1000,"prefix":"x"}}"#),
    ] {
        let response = case.list(query);
        assert_eq!(status_line(&response), "HTTP/1.1 200 OK", "{query}");
        assert_eq!(response.text(), body, "{query}");
        assert_eq!(response.header("Content-Type"), "application/json");
        assert_eq!(
            (response.header("Cache-Control"), response.header("Pragma")),
            ("no-store", "no-cache")
        );
        let head =
            case.server.request(&format!("HEAD {}/keys{query}", case.store_path()), &[], b"");
        assert_eq!(head.status, 200);
        assert_eq!(head.header("Content-Length"), body.len().to_string());
    }
    assert_put_ok(&case.put("cherry", &[], b""));
    let body = r#"{"data":["apple","banana"],"meta":{"limit":2,"next_cursor":"CgZiYW5hbmE="}}"#;
    assert_eq!(case.list("?limit=2").text(), body);
}

#[test]
fn key_list_cursors_match_the_recorded_cursors() {
    let keys = [">", "\u{7f}", "batch-2", "dragonfruit", "zzz"];
    let case = with_keys(&["%3E", "%7F", "batch-2", "dragonfruit", "zzz"]);
    let cursors = ["CgE+", "CgdiYXRjaC0y", "CgtkcmFnb25mcnVpdA==", "CgN6eno="];
    let order = [0, 2, 3, 4, 1].map(|at| keys[at]);
    assert_eq!(case.list_keys(), order, "DEL must sort after the letters");
    for (at, cursor) in cursors.iter().enumerate() {
        let page = case.list(&format!("?limit={}", at + 1)).json();
        assert_eq!(page["meta"]["next_cursor"], *cursor);
        let rest = case.list(&format!("?cursor={}", escape_cursor(cursor))).json();
        assert_eq!(rest["data"], serde_json::json!(order[at + 1..]), "{cursor}");
    }
    // The cursor of DEL contains a slash, which need not be escaped in a query.
    for cursor in ["CgF/", "CgF%2F", "%43gF%2f"] {
        assert_eq!(case.list(&format!("?cursor={cursor}")).json()["data"], serde_json::json!([]));
    }
}

#[test]
fn the_cursor_of_a_long_key_has_a_two_byte_length() {
    for len in [127, 128, 200, 1024] {
        let keys = ["k".repeat(len), "z".to_owned()];
        let case = with_keys(&keys);
        let page = case.list("?limit=1").json();
        let cursor = page["meta"]["next_cursor"].as_str().unwrap();
        let message = STANDARD.decode(cursor).unwrap();
        let header: &[u8] = match len {
            127 => &[0x0a, 0x7f],
            128 => &[0x0a, 0x80, 0x01],
            200 => &[0x0a, 0xc8, 0x01],
            _ => &[0x0a, 0x80, 0x08],
        };
        assert_eq!(message, [header, keys[0].as_bytes()].concat());
        let rest = case.list(&format!("?cursor={}", escape_cursor(cursor))).json();
        assert_eq!(rest["data"], serde_json::json!(["z"]));
    }
}

#[test]
fn the_page_size_is_the_requested_limit_capped_at_1000() {
    let case = Case::new();
    let line = |i: u32| format!("{{\"key\":\"k{i:04}\",\"value\":\"\"}}\n");
    let batch: String = (0..1000).map(line).collect();
    let at = format!("PUT {}/batch", case.store_path());
    assert_eq!(case.server.request(&at, &[], batch.as_bytes()).status, 200);
    let full = case.list("").json();
    assert_eq!(full["data"].as_array().unwrap().len(), 1000);
    assert_eq!(
        full["meta"],
        serde_json::json!({"limit": 1000}),
        "there must be no cursor after the last key"
    );
    assert_put_ok(&case.put("k1000", &[], b""));
    for query in ["", "?limit=1000", "?limit=1001", "?limit=5000", "?limit=99999999999999999999999"]
    {
        let page = case.list(query).json();
        assert_eq!(page["data"].as_array().unwrap().len(), 1000, "{query}");
        let meta = serde_json::json!({"limit": 1000, "next_cursor": "CgVrMDk5OQ=="});
        assert_eq!(page["meta"], meta, "{query}");
    }
    let last = case.list("?cursor=CgVrMDk5OQ%3D%3D").text();
    assert_eq!(last, r#"{"data":["k1000"],"meta":{"limit":1000}}"#);
    for limit in [1, 7, 91, 143, 1000, 1001] {
        let pages = pages(&case, &format!("limit={limit}"));
        let last = pages.len() - 1;
        assert!(pages[..last].iter().all(|page| page.len() == limit.min(1000)), "{limit}");
        assert!(!pages[last].is_empty(), "the last page is empty with limit {limit}");
        let all: Vec<String> = (0..=1000).map(|i| format!("k{i:04}")).collect();
        assert_eq!(pages.concat(), all, "{limit}");
        assert_eq!(pages.len(), 1001_usize.div_ceil(limit.min(1000)));
    }
}

#[test]
fn an_invalid_list_parameter_is_named_in_the_400_response() {
    let case = with_keys(&["a", "b"]);
    for invalid in ["", "=", "=0", "=-1", "=+1", "=1.5", "=ten", "=1000x", "=0x10", "=1&limit=1"] {
        assert_error(&case.list(&format!("?limit{invalid}")), 400, "limit");
    }
    for invalid in ["", "=", "=Strong", "=EVENTUAL", "=weak", "=1", "=strong&consistency=strong"] {
        assert_error(&case.list(&format!("?consistency{invalid}")), 400, "consistency");
    }
    assert_error(&case.list("?prefix=a&prefix=a"), 400, "prefix");
    let encode = |message: &[u8]| escape_cursor(&STANDARD.encode(message));
    let mut invalid: Vec<String> =
        ["!", "a", "apple", "CgVhcHBsZQ", "Cg+VhcHBsZQ==", "CgE+", "%00"].map(String::from).into();
    for message in [
        &b"\x0a"[..],
        b"\x0a\x00",
        b"\x0a\x02a",
        b"\x0a\x01ab",
        b"\x12\x01a",
        b"apple",
        b"\x0a\x80",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x81\x80\x00a",
    ] {
        invalid.push(encode(message));
    }
    invalid.push(encode(&[&b"\x0a\x81\x08"[..], &[b'k'; 1025]].concat()));
    invalid.push("CgVhcHBsZQ==&cursor=CgVhcHBsZQ==".into());
    for cursor in invalid {
        assert_error(&case.list(&format!("?cursor={cursor}")), 400, "cursor");
    }
    for query in ["?prefix=%ff", "?prefix=%", "?x=%zz"] {
        case.list(query).expect_error(400);
    }
    let missing = format!("GET {STORES}/{UNKNOWN_STORE}/keys");
    assert_eq!(case.server.request(&missing, &[], b"").expect_error(404), "no store with that id");
    assert_error(&case.server.request(&format!("{missing}?limit=0"), &[], b""), 400, "limit");
}

#[test]
fn an_empty_cursor_or_prefix_is_ignored() {
    let case = with_keys(&["a", "b"]);
    let all = case.list("").text();
    for query in ["?cursor=", "?prefix=", "?cursor=&prefix=&_=1", "?cursor&prefix", "?other=x"] {
        assert_eq!(case.list(query).text(), all, "{query}");
    }
}

#[test]
fn a_prefix_is_form_decoded_and_matched_literally() {
    let case =
        with_keys(&["a%20b", "a%20c", "a+b", "a%2Fb", "a%25", "A", "%C3%A9a", "%C3%AAa", "a"]);
    for (query, keys) in [
        ("a+", &["a b", "a c"][..]),
        ("a%20b", &["a b"]),
        ("a%2B", &["a+b"]),
        ("a/", &["a/b"]),
        ("a%2F", &["a/b"]),
        ("a%25", &["a%"]),
        ("A", &["A"]),
        ("%C3%A9", &["éa"]),
        ("a*", &[]),
        ("%23", &[]),
        ("..", &[]),
    ] {
        let page = case.list(&format!("?prefix={query}")).json();
        assert_eq!(page["data"], serde_json::json!(keys), "{query}");
    }
    assert_eq!(case.list("?prefix=a+").json()["meta"]["prefix"], "a ");
    assert_eq!(
        case.list("?prefix=a%22").text(),
        r#"{"data":[],"meta":{"limit":1000,"prefix":"a\""}}"#
    );
}

#[test]
fn a_prefix_combines_with_cursors_before_within_and_after_its_keys() {
    let case = with_keys(&["a1", "b1", "b2", "b3", "c1"]);
    assert_eq!(pages(&case, "prefix=b&limit=2"), [vec!["b1", "b2"], vec!["b3"]]);
    assert_eq!(pages(&case, "prefix=b&limit=3"), [["b1", "b2", "b3"]]);
    let after = |key: &str| {
        let message = [&[0x0a, u8::try_from(key.len()).unwrap()][..], key.as_bytes()].concat();
        let cursor = escape_cursor(&STANDARD.encode(message));
        case.list(&format!("?prefix=b&cursor={cursor}")).json()["data"].clone()
    };
    assert_eq!(after("a1"), serde_json::json!(["b1", "b2", "b3"]));
    assert_eq!(after("b"), serde_json::json!(["b1", "b2", "b3"]));
    assert_eq!(after("b2"), serde_json::json!(["b3"]));
    assert_eq!(after("b2x"), serde_json::json!(["b3"]));
    assert_eq!(after("b3"), serde_json::json!([]));
    assert_eq!(after("c1"), serde_json::json!([]));
    let page = case.list("?prefix=b&limit=2&consistency=eventual").json();
    let meta = serde_json::json!({
        "limit": 2, "next_cursor": "CgJiMg==", "prefix": "b", "consistency": "eventual",
    });
    assert_eq!(page["meta"], meta);
}

#[test]
fn keys_are_listed_in_byte_order() {
    let mut keys: Vec<String> = (0..20).map(|i| format!("c{i}")).collect();
    keys.extend(["B", "a", "Z", "-", "_", "~", "0", "c", "c/", "c%20"].map(String::from));
    let case = with_keys(&keys);
    assert_put_ok(&case.put("%C3%A9", &[], b""));
    assert_put_ok(&case.put("%F0%9F%8E%88", &[], b""));
    assert_put_ok(&case.put("%EF%BF%BD", &[], b""));
    let listed = case.list_keys();
    let expected = [
        "-", "0", "B", "Z", "_", "a", "c", "c ", "c/", "c0", "c1", "c10", "c11", "c12", "c13",
        "c14", "c15", "c16", "c17", "c18", "c19", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9",
        "~", "é", "\u{fffd}", "🎈",
    ];
    assert_eq!(listed, expected);
    assert_eq!(pages(&case, "limit=4").concat(), expected);
}

#[test]
fn listed_keys_are_escaped_as_json() {
    let case =
        with_keys(&["a%22b", "a%5Cb", "a%00b", "a%1F", "a%09", "a%7F", "a%E2%80%A8", "a%2F"]);
    let body = case.list("?prefix=a").text();
    let keys = "\"a\\u0000b\",\"a\\t\",\"a\\u001f\",\"a\\\"b\",\"a/\",\"a\\\\b\",\"a\u{7f}\",\
                \"a\u{2028}\"";
    assert_eq!(body, format!("{{\"data\":[{keys}],\"meta\":{{\"limit\":1000,\"prefix\":\"a\"}}}}"));
}

#[test]
fn deletes_between_pages_cause_no_key_to_be_skipped_or_repeated() {
    let all: Vec<String> = (0..120).map(|i| format!("k{i:03}")).collect();
    let case = with_keys(&all);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = case.list(&format!("?limit=7&cursor={}", escape_cursor(&cursor))).json();
        let keys: Vec<String> = serde_json::from_value(page["data"].clone()).unwrap();
        std::thread::scope(|scope| {
            for key in &keys {
                scope.spawn(|| assert_204(&case.delete(key, &[])));
            }
        });
        // A key that is added before the cursor must not be listed.
        assert_put_ok(&case.put("a-late", &[], b""));
        seen.extend(keys);
        match page["meta"].get("next_cursor") {
            None => break,
            Some(next) => cursor = next.as_str().unwrap().to_owned(),
        }
    }
    assert_eq!(seen, all);
    assert_eq!(case.list_keys(), ["a-late"]);
}

#[test]
fn the_cursor_of_a_deleted_key_stays_valid() {
    let case = with_keys(&["a", "b", "c", "d"]);
    let page = case.list("?limit=2").json();
    assert_eq!(page["meta"]["next_cursor"], "CgFi");
    for key in ["a", "b", "c"] {
        assert_204(&case.delete(key, &[]));
    }
    assert_eq!(case.list("?cursor=CgFi").text(), r#"{"data":["d"],"meta":{"limit":1000}}"#);
    assert_put_ok(&case.put("bb", &[], b""));
    assert_eq!(case.list("?cursor=CgFi").json()["data"], serde_json::json!(["bb", "d"]));
}

#[test]
fn an_acknowledged_write_is_visible_in_the_next_list() {
    let case = Case::new();
    for i in 0..50 {
        let key = format!("k{i:02}");
        assert_put_ok(&case.put(&key, &[], b""));
        for consistency in ["strong", "eventual"] {
            let page = case.list(&format!("?prefix={key}&consistency={consistency}")).json();
            assert_eq!(page["data"], serde_json::json!([key]));
        }
        if i % 2 == 0 {
            assert_204(&case.delete(&key, &[]));
            assert_eq!(case.list(&format!("?prefix={key}")).json()["data"], serde_json::json!([]));
        }
    }
    assert_eq!(case.list_keys().len(), 25);
}

#[test]
fn each_store_has_its_own_keys() {
    let case = with_keys(&["a"]);
    let other = case.server.create_store("other");
    let at = format!("{STORES}/{other}/keys");
    assert_eq!(case.server.get(&at).json()["data"], serde_json::json!([]));
    case.server.get(&format!("{at}/a")).expect_error(404);
    assert_put_ok(&case.server.request(&format!("PUT {at}/b"), &[], b"v"));
    assert_eq!(case.list_keys(), ["a"]);
    assert_204(&case.server.request(&format!("DELETE {at}/b"), &[], b""));
    assert_204(&case.server.request(&format!("DELETE {STORES}/{other}"), &[], b""));
    assert_eq!(case.list_keys(), ["a"]);
}
