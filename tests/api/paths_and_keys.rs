//! Tests of paths and keys: the encodings that clients use, forbidden keys, and paths that must not
//! match a route.

use super::{Case, STORES, UNKNOWN_STORE, assert_204, assert_error, assert_put_ok};

/// Percent-encodes every byte.
fn escaped(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Keys, each with the forms in which clients encode the key in a path.
const ENCODED: [(&str, &[&str]); 14] = [
    ("a/b", &["a%2Fb", "a%2fb", "a/b", "%61%2F%62"]),
    ("a b", &["a%20b"]),
    ("a+b", &["a%2Bb", "a+b"]),
    ("a%2Fb", &["a%252Fb", "a%252%46b"]),
    ("%2F", &["%252F", "%25%32%46"]),
    ("x//y", &["x%2F%2Fy", "x//y", "x/%2Fy"]),
    ("é✓", &["%C3%A9%E2%9C%93", "%c3%a9%e2%9c%93", "é✓"]),
    ("a,b:c@=&$", &["a%2Cb%3Ac%40%3D%26%24", "a%2Cb:c@=&$", "a,b:c@=&$"]),
    ("!*'()", &["%21%2A%27%28%29", "!*%27()", "!*'()"]),
    ("[a]", &["%5Ba%5D", "[a]"]),
    ("//", &["%2F%2F", "//"]),
    ("/", &["%2F", "/"]),
    ("a/", &["a%2F", "a/"]),
    ("e\u{301}", &["e%CC%81", "%65%CC%81"]),
];

#[test]
fn all_encodings_of_a_key_refer_to_the_same_item() {
    let case = Case::new();
    for (key, encodings) in ENCODED {
        for put in encodings {
            assert_put_ok(&case.put(put, &[], put.as_bytes()));
            assert_eq!(case.list_keys(), [key], "{put}");
            for get in encodings.iter().copied().chain([escaped(key).as_str()]) {
                assert_eq!(case.get_value(get), put.as_bytes(), "put as {put}, read as {get}");
            }
            let last = encodings.last().unwrap();
            assert_204(&case.delete(last, &[]));
            case.get(put).expect_error(404);
        }
    }
}

#[test]
fn keys_that_look_alike_are_different_items() {
    let case = Case::new();
    // The keys have composed and decomposed letters, escaped escapes, plus signs, spaces and
    // slashes.
    let keys = [
        "a/b", "a//b", "/a/b", "a/b/", "a%2Fb", "a%252Fb", "a b", "a+b", "a%20b", "é", "e\u{301}",
        "A", "a", "a\u{0}", "%", "%%",
    ];
    for key in keys {
        assert_put_ok(&case.put(&escaped(key), &[], key.as_bytes()));
    }
    for key in keys {
        assert_eq!(case.get_value(&escaped(key)), key.as_bytes(), "{key:?}");
    }
    assert_eq!(case.list_keys().len(), keys.len());
}

#[test]
fn unusual_keys_are_accepted() {
    let case = Case::new();
    let mut keys: Vec<String> = [
        "..x", ".hidden", "*", "[a]", "//", "...", "a.", "a..", "a/.b", "a/..b", "a/...", "..a/b",
        "a.b/c", ".well-known/acme", ".well-known", "x/.well-known/acme-challenge", "a\tb",
        "a\u{0}b", "  ", "\u{7f}", "\u{80}", "\u{fffd}", "a\u{fffe}", "\u{10ffff}", "\u{2028}",
        "\"", "\\", "<>{}`~!@$%&()+=,:'", "keys", "batch", "keys/", "a=b&c", "\u{feff}", "true",
        "0", "-",
    ]
    .map(String::from)
    .into();
    keys.push("k".repeat(1024));
    keys.push("é".repeat(512));
    for key in &keys {
        for method in ["PUT", "GET", "HEAD", "DELETE"] {
            let request = format!("{method} {}", case.item_path(&escaped(key)));
            let value = if method == "PUT" { key.as_bytes() } else { b"" };
            let response = case.server.request(&request, &[], value);
            let expected = if method == "DELETE" { 204 } else { 200 };
            assert_eq!(response.status, expected, "{method} {key:?}: {response:?}");
            if method == "GET" {
                assert_eq!(response.body, key.as_bytes());
                assert_eq!(case.list_keys(), [key.as_str()]);
            }
        }
    }
}

/// Checks that every method rejects a key and that the store is unchanged. `path` is the encoded
/// key.
fn assert_key_rejected(case: &Case, path: &str, reason: &str) {
    for method in ["PUT", "GET", "DELETE", "HEAD"] {
        let response = case.server.request(&format!("{method} {}", case.item_path(path)), &[], b"");
        assert_eq!(response.status, 400, "{method} {path}: {response:?}");
        if method != "HEAD" {
            let detail = response.expect_error(400);
            assert!(detail.starts_with("key ") && detail.contains(reason), "{path}: {detail}");
        }
    }
    assert_eq!(case.list_keys(), ["kept"], "{path}");
}

fn with_kept_item() -> Case {
    let case = Case::new();
    case.put_ok("kept", &[], b"v");
    case
}

#[test]
fn keys_with_forbidden_characters_or_segments_return_400() {
    let case = with_kept_item();
    for character in ["\r", "\n", "#", ";", "?", "^", "|"] {
        for key in [character.to_owned(), format!("a{character}"), format!("{character}b")] {
            assert_key_rejected(&case, &escaped(key), "must not contain");
        }
    }
    for raw in ["a;b", "a^b", "a|b", "a#b"] {
        assert_key_rejected(&case, raw, "must not contain");
    }
    for key in [".", "..", "%2e", "%2E%2e", ".%2e", "%2E."] {
        assert_key_rejected(&case, key, "must not be . or ..");
    }
    for key in ["a./b", "../a", "./a", "a/./b", "a/../b", "a/.", "a/..", ".../a", "../", "./"] {
        for path in [key.to_owned(), key.replace('/', "%2F"), escaped(key)] {
            assert_key_rejected(&case, &path, "./");
        }
    }
    for key in ["", "/x", "s", "%2fx"] {
        let reason = "must not begin with .well-known/acme-challenge";
        assert_key_rejected(&case, &format!(".well-known/acme-challenge{key}"), reason);
        assert_key_rejected(&case, &format!("%2ewell-known%2Facme-challenge{key}"), reason);
    }
    for character in (0..=0x20).filter_map(char::from_u32).chain(['\u{fffe}', '\u{ffff}']) {
        assert_key_rejected(&case, &escaped(character.to_string()), "must not ");
    }
}

#[test]
fn keys_have_1_to_1024_bytes() {
    let case = with_kept_item();
    assert_key_rejected(&case, "", "must not be empty");
    let too_long = "must be at most 1024 bytes of UTF-8, but is 1025";
    assert_key_rejected(&case, &"k".repeat(1025), too_long);
    assert_key_rejected(&case, &escaped("k".repeat(1025)), too_long);
    assert_key_rejected(&case, &escaped(format!("{}k", "é".repeat(512))), too_long);
    let (unescaped, all_escaped) = ("k".repeat(1024), escaped("k".repeat(1024)));
    assert_put_ok(&case.put(&all_escaped, &[], b""));
    assert_eq!(case.get_value(&unescaped), b"");
}

#[test]
fn keys_that_are_not_percent_encoded_utf8_return_400() {
    let case = with_kept_item();
    for path in ["%", "a%", "%2", "a%2", "%zz", "%2g", "%g2", "%%41", "%+1", "%-1", "a%u0041"] {
        assert_key_rejected(&case, path, "must be percent-encoded UTF-8");
    }
    for path in ["%ff", "%C3", "%ED%A0%80", "%C0%AF", "%80", "a%C3%28", "%F4%90%80%80", "%FE%FF"] {
        assert_key_rejected(&case, path, "must be UTF-8");
    }
    let mut client = case.server.connect();
    let head = format!("GET {}", case.item_path("a"));
    let token = super::support::TOKEN;
    let request = [
        head.as_bytes(),
        b"\xff HTTP/1.1\r\nHost: t\r\nFastly-Key: ",
        token.as_bytes(),
        b"\r\n\r\n",
    ]
    .concat();
    client.send(request).unwrap();
    client.read_response(false).unwrap().expect_error(400);
}

#[test]
fn ambiguous_paths_return_4xx_and_change_nothing() {
    let case = Case::new();
    case.put_ok("a", &[], b"1");
    case.put_ok("keys", &[], b"2");
    let id = &case.id;
    let other = case.server.create_store("other");
    let stores = || case.server.get(STORES).text();
    let before = (stores(), case.list_keys());
    let mut paths: Vec<String> = [
        format!("{STORES}/{id}/keys/"),
        format!("{STORES}/{id}/keys/?force=true"),
        format!("{STORES}/{id}/"),
        format!("{STORES}/{id}//"),
        format!("{STORES}/{id}/?force=true"),
        format!("{STORES}/"),
        format!("{STORES}//"),
        format!("{STORES}//{id}"),
        format!("{STORES}//{id}/keys/a"),
        format!("/{STORES}/{id}"),
        format!("{STORES}/{id}/.."),
        format!("{STORES}/{id}/."),
        format!("{STORES}/{id}/keys/.."),
        format!("{STORES}/{id}/keys/."),
        format!("{STORES}/{id}/keys/../keys/a"),
        format!("{STORES}/{id}/keys/../../{other}"),
        format!("{STORES}/{id}/keys/%2e%2e/"),
        format!("{STORES}/{id}/../{other}"),
        format!("{STORES}/../kv/{id}"),
        format!("{STORES}/{id}/keys//../a"),
        format!("{STORES}/{id}//keys"),
        format!("{STORES}/{id}//keys/a"),
        format!("{STORES}/{id}/Keys/a"),
        format!("{STORES}/{id}%2Fkeys%2Fa"),
        format!("{STORES}/{id}/keys%2Fa"),
        format!("{STORES}/{id}/%6beys/a"),
        format!("{STORES}/{id}/batch/"),
        format!("/resources/stores/%6bv/{id}"),
        format!("/resources/./stores/kv/{id}"),
        format!("/resources//stores/kv/{id}"),
        format!("/resources/stores/KV/{id}"),
        format!("{STORES}{id}"),
    ]
    .into();
    paths.extend(["/", "//", "/resources", "/resources/stores", "*"].map(String::from));
    for path in &paths {
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS"] {
            let body: &[u8] =
                if method == "PUT" || method == "POST" { b"{\"name\":\"n\"}" } else { b"" };
            let response = case.server.request(&format!("{method} {path}"), &[], body);
            assert!((400..500).contains(&response.status), "{method} {path}: {response:?}");
            assert!(!response.has_header("Location"), "{method} {path}");
            if method != "HEAD" {
                response.expect_error(response.status);
            }
        }
    }
    for method in ["PUT", "DELETE", "POST"] {
        for query in ["", "?force=true", "?prefix=a"] {
            let request = format!("{method} {STORES}/{id}/keys{query}");
            let response = case.server.request(&request, &[], b"{\"name\":\"n\"}");
            assert_eq!(response.expect_error(405), "this path allows GET, HEAD");
        }
    }
    assert_eq!((stores(), case.list_keys()), before);
    assert_eq!((case.get_value("a"), case.get_value("keys")), (b"1".to_vec(), b"2".to_vec()));
}

#[test]
fn responses_without_a_token_do_not_reveal_what_exists() {
    let case = with_kept_item();
    let mut client = case.server.connect();
    let mut bodies = Vec::new();
    for path in [
        case.item_path("kept"),
        case.item_path("none"),
        format!("{STORES}/{UNKNOWN_STORE}"),
        "/x".into(),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).unwrap();
        let response = client.read_response(false).unwrap();
        response.expect_error(401);
        bodies.push(response.body);
    }
    assert!(bodies.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn the_old_collection_path_is_an_alias() {
    let case = Case::new();
    let old = "/resources/stores/object";
    let created = case.server.request(&format!("POST {old}"), &[], b"{\"name\":\"old\"}");
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.json()["id"].as_str().unwrap().to_owned();
    assert_put_ok(&case.server.request(&format!("PUT {old}/{id}/keys/a%2Fb"), &[], b"v"));
    assert_eq!(case.server.get(&format!("{STORES}/{id}/keys/a%2Fb")).body, b"v");
    for path in ["", &format!("/{id}"), &format!("/{id}/keys")] {
        let [one, two] = [STORES, old].map(|at| case.server.get(&format!("{at}{path}")).text());
        assert_eq!(one, two);
    }
    let line = b"{\"key\":\"n\",\"value\":\"\"}";
    assert_eq!(case.server.request(&format!("PUT {old}/{id}/batch"), &[], line).status, 200);
    for path in ["/", &format!("/{id}/"), &format!("/{id}/keys/")] {
        let response = case.server.request(&format!("DELETE {old}{path}"), &[], b"");
        assert!((400..500).contains(&response.status), "{path}");
    }
    assert_error(&case.server.get(&format!("{old}/{id}/keys/..")), 400, "key");
    for key in ["a%2Fb", "n"] {
        assert_204(&case.server.request(&format!("DELETE {old}/{id}/keys/{key}"), &[], b""));
    }
    assert_204(&case.server.request(&format!("DELETE {old}/{id}"), &[], b""));
}
