//! Paths and keys, as the clients encode them and as nobody should.

use crate::{Case, NO_STORE, STORES, accepted, gone, refused_for};

/// Bytes with every one of them escaped.
fn escaped(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Keys with the ways in which clients write them into a path.
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
fn what_one_client_puts_another_reads() {
    let case = Case::new();
    for (key, ways) in ENCODED {
        for put in ways {
            accepted(&case.put(put, &[], put.as_bytes()));
            assert_eq!(case.keys(), [key], "{put}");
            for get in ways.iter().copied().chain([escaped(key).as_str()]) {
                assert_eq!(case.value(get), put.as_bytes(), "put as {put}, read as {get}");
            }
            let last = ways.last().unwrap();
            gone(&case.delete(last, &[]));
            case.get(put).refused(404);
        }
    }
}

#[test]
fn keys_that_differ_by_an_encoding_are_different_items() {
    let case = Case::new();
    // Composed and decomposed letters, escapes of escapes, plus and space, slashes.
    let keys = [
        "a/b", "a//b", "/a/b", "a/b/", "a%2Fb", "a%252Fb", "a b", "a+b", "a%20b", "é", "e\u{301}",
        "A", "a", "a\u{0}", "%", "%%",
    ];
    for key in keys {
        accepted(&case.put(&escaped(key), &[], key.as_bytes()));
    }
    for key in keys {
        assert_eq!(case.value(&escaped(key)), key.as_bytes(), "{key:?}");
    }
    assert_eq!(case.keys().len(), keys.len());
}

#[test]
fn unusual_keys_work() {
    let case = Case::new();
    let mut keys: Vec<String> = [
        "..x",
        ".hidden",
        "*",
        "[a]",
        "//",
        "...",
        "a.",
        "a..",
        "a/.b",
        "a/..b",
        "a/...",
        "..a/b",
        "a.b/c",
        ".well-known/acme",
        ".well-known",
        "x/.well-known/acme-challenge",
        "a\tb",
        "a\u{0}b",
        "  ",
        "\u{7f}",
        "\u{80}",
        "\u{fffd}",
        "a\u{fffe}",
        "\u{10ffff}",
        "\u{2028}",
        "\"",
        "\\",
        "<>{}`~!@$%&()+=,:'",
        "keys",
        "batch",
        "keys/",
        "a=b&c",
        "\u{feff}",
        "true",
        "0",
        "-",
    ]
    .map(String::from)
    .into();
    keys.push("k".repeat(1024));
    keys.push("é".repeat(512));
    for key in &keys {
        for method in ["PUT", "GET", "HEAD", "DELETE"] {
            let request = format!("{method} {}", case.path(&escaped(key)));
            let value = if method == "PUT" { key.as_bytes() } else { b"" };
            let answer = case.server.ask(&request, &[], value);
            let expected = if method == "DELETE" { 204 } else { 200 };
            assert_eq!(answer.status, expected, "{method} {key:?}: {answer:?}");
            if method == "GET" {
                assert_eq!(answer.body, key.as_bytes());
                assert_eq!(case.keys(), [key.as_str()]);
            }
        }
    }
}

/// Checks that every method refuses a key, given as its raw path, and that nothing else is touched.
fn forbidden(case: &Case, path: &str, reason: &str) {
    for method in ["PUT", "GET", "DELETE", "HEAD"] {
        let answer = case.server.ask(&format!("{method} {}", case.path(path)), &[], b"");
        assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
        if method != "HEAD" {
            let detail = answer.refused(400);
            assert!(detail.starts_with("key ") && detail.contains(reason), "{path}: {detail}");
        }
    }
    assert_eq!(case.keys(), ["kept"], "{path}");
}

fn with_kept() -> Case {
    let case = Case::new();
    case.stored("kept", &[], b"v");
    case
}

#[test]
fn keys_of_forbidden_characters_and_forms_are_400() {
    let case = with_kept();
    for character in ["\r", "\n", "#", ";", "?", "^", "|"] {
        for key in [character.to_owned(), format!("a{character}"), format!("{character}b")] {
            forbidden(&case, &escaped(key), "must not contain");
        }
    }
    for raw in ["a;b", "a^b", "a|b", "a#b"] {
        forbidden(&case, raw, "must not contain");
    }
    for key in [".", "..", "%2e", "%2E%2e", ".%2e", "%2E."] {
        forbidden(&case, key, "must not be . or ..");
    }
    for key in ["a./b", "../a", "./a", "a/./b", "a/../b", "a/.", "a/..", ".../a", "../", "./"] {
        for path in [key.to_owned(), key.replace('/', "%2F"), escaped(key)] {
            forbidden(&case, &path, "./");
        }
    }
    for key in ["", "/x", "s", "%2fx"] {
        let reason = "must not begin with .well-known/acme-challenge";
        forbidden(&case, &format!(".well-known/acme-challenge{key}"), reason);
        forbidden(&case, &format!("%2ewell-known%2Facme-challenge{key}"), reason);
    }
    for character in (0..=0x20).filter_map(char::from_u32).chain(['\u{fffe}', '\u{ffff}']) {
        forbidden(&case, &escaped(character.to_string()), "must not ");
    }
}

#[test]
fn a_key_has_1_to_1024_bytes() {
    let case = with_kept();
    forbidden(&case, "", "must not be empty");
    let too_long = "must have at most 1024 bytes of UTF-8, and has 1025";
    forbidden(&case, &"k".repeat(1025), too_long);
    forbidden(&case, &escaped("k".repeat(1025)), too_long);
    forbidden(&case, &escaped(format!("{}k", "é".repeat(512))), too_long);
    let (bare, all_escaped) = ("k".repeat(1024), escaped("k".repeat(1024)));
    accepted(&case.put(&all_escaped, &[], b""));
    assert_eq!(case.value(&bare), b"");
}

#[test]
fn what_is_not_percent_encoded_utf8_is_400() {
    let case = with_kept();
    for path in ["%", "a%", "%2", "a%2", "%zz", "%2g", "%g2", "%%41", "%+1", "%-1", "a%u0041"] {
        forbidden(&case, path, "must be percent-encoded UTF-8");
    }
    for path in ["%ff", "%C3", "%ED%A0%80", "%C0%AF", "%80", "a%C3%28", "%F4%90%80%80", "%FE%FF"] {
        forbidden(&case, path, "must be UTF-8");
    }
    let mut client = case.server.connect();
    let head = format!("GET {}", case.path("a"));
    let token = crate::support::TOKEN;
    let request = [
        head.as_bytes(),
        b"\xff HTTP/1.1\r\nHost: t\r\nFastly-Key: ",
        token.as_bytes(),
        b"\r\n\r\n",
    ]
    .concat();
    client.send(request).unwrap();
    client.answer(false).unwrap().refused(400);
}

#[test]
fn dangerous_paths_are_4xx_and_touch_nothing() {
    let case = Case::new();
    case.stored("a", &[], b"1");
    case.stored("keys", &[], b"2");
    let id = &case.id;
    let other = case.server.store("other");
    let stores = || case.server.ask(&format!("GET {STORES}"), &[], b"").text();
    let before = (stores(), case.keys());
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
            let answer = case.server.ask(&format!("{method} {path}"), &[], body);
            assert!((400..500).contains(&answer.status), "{method} {path}: {answer:?}");
            assert!(!answer.has("Location"), "{method} {path}");
            if method != "HEAD" {
                answer.refused(answer.status);
            }
        }
    }
    for method in ["PUT", "DELETE", "POST"] {
        for query in ["", "?force=true", "?prefix=a"] {
            let request = format!("{method} {STORES}/{id}/keys{query}");
            let answer = case.server.ask(&request, &[], b"{\"name\":\"n\"}");
            assert_eq!(answer.refused(405), "this path allows GET, HEAD");
        }
    }
    assert_eq!((stores(), case.keys()), before);
    assert_eq!((case.value("a"), case.value("keys")), (b"1".to_vec(), b"2".to_vec()));
}

#[test]
fn a_path_without_a_token_tells_nothing_of_what_there_is() {
    let case = with_kept();
    let mut client = case.server.connect();
    let mut bodies = Vec::new();
    for path in [case.path("kept"), case.path("none"), format!("{STORES}/{NO_STORE}"), "/x".into()]
    {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).unwrap();
        let answer = client.answer(false).unwrap();
        answer.refused(401);
        bodies.push(answer.body);
    }
    assert!(bodies.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn the_old_name_of_the_collection_is_an_alias() {
    let case = Case::new();
    let old = "/resources/stores/object";
    let made = case.server.ask(&format!("POST {old}"), &[], b"{\"name\":\"old\"}");
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    accepted(&case.server.ask(&format!("PUT {old}/{id}/keys/a%2Fb"), &[], b"v"));
    assert_eq!(case.server.ask(&format!("GET {STORES}/{id}/keys/a%2Fb"), &[], b"").body, b"v");
    for path in ["", &format!("/{id}"), &format!("/{id}/keys")] {
        let [one, two] =
            [STORES, old].map(|at| case.server.ask(&format!("GET {at}{path}"), &[], b"").text());
        assert_eq!(one, two);
    }
    let line = b"{\"key\":\"n\",\"value\":\"\"}";
    assert_eq!(case.server.ask(&format!("PUT {old}/{id}/batch"), &[], line).status, 200);
    for path in ["/", &format!("/{id}/"), &format!("/{id}/keys/")] {
        let answer = case.server.ask(&format!("DELETE {old}{path}"), &[], b"");
        assert!((400..500).contains(&answer.status), "{path}");
    }
    refused_for(&case.server.ask(&format!("GET {old}/{id}/keys/.."), &[], b""), 400, "key");
    for key in ["a%2Fb", "n"] {
        gone(&case.server.ask(&format!("DELETE {old}/{id}/keys/{key}"), &[], b""));
    }
    gone(&case.server.ask(&format!("DELETE {old}/{id}"), &[], b""));
}
