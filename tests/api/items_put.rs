//! Tests of PUT requests for items: modes, conditions, parameters, headers, chunked bodies and the
//! order of checks.

use super::{Case, STORES, UNKNOWN_STORE, assert_412, assert_error, assert_put_ok, chunk};

/// Creates a store with the item `k`, which has the given value and the metadata `m`. Returns the
/// store and the generation of the item.
fn with_item(value: &[u8]) -> (Case, u64) {
    let case = Case::new();
    let generation = case.put_ok("k", &[("metadata", "m")], value);
    (case, generation)
}

/// Checks that the item `k` still has the given generation and value.
fn assert_unchanged(case: &Case, generation: u64, value: &[u8]) {
    let got = case.get("k");
    assert_eq!(got.generation(), generation);
    assert_eq!(got.header("Metadata"), "m");
    assert_eq!(got.body, value);
}

#[test]
fn a_put_returns_an_empty_200_with_the_new_generation() {
    let case = Case::new();
    let response = case.put("k", &[], b"v");
    assert_put_ok(&response);
    assert_eq!(response.generation(), case.get("k").generation());
    let mut client = case.server.connect();
    for value in ["a", "", "b"] {
        assert_put_ok(
            &client
                .request(&format!("PUT {}", case.item_path("k")), &[], value.as_bytes())
                .unwrap(),
        );
        assert_eq!(case.get_value("k"), value.as_bytes(), "the connection must stay usable");
    }
}

#[test]
fn content_type_and_encoding_do_not_affect_the_value() {
    let case = Case::new();
    let form = "--b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nx\r\n--b--\r\n";
    for (kind, value) in [
        ("application/json", "\"\""),
        ("application/json", "{\"a\": 1 }"),
        ("application/json", "not json"),
        ("application/x-www-form-urlencoded", "a=1&b=%20+"),
        ("multipart/form-data; boundary=b", form),
        ("application/octet-stream", "\u{0}"),
        ("text/plain; charset=utf-16", "é"),
        ("nonsense", "v"),
        ("", "w"),
    ] {
        assert_put_ok(&case.put("k", &[("Content-Type", kind)], value.as_bytes()));
        let got = case.get("k");
        assert_eq!(got.body, value.as_bytes(), "{kind}");
        assert_eq!(got.header("Content-Type"), "application/octet-stream");
    }
    assert_put_ok(&case.put("k", &[("Content-Encoding", "gzip")], b"plain"));
    assert_eq!(case.get_value("k"), b"plain");
    assert!(!case.get("k").has_header("Content-Encoding"));
}

#[test]
fn an_overwrite_replaces_value_and_metadata() {
    let (case, first) = with_item(b"long value");
    let second = case.put_ok("k", &[], b"v");
    assert!(second > first);
    let got = case.get("k");
    assert_eq!((got.header("Metadata"), &got.body[..]), ("", &b"v"[..]));
    case.put_ok("k", &[("metadata", "n")], b"v");
    assert_eq!(case.get("k").header("Metadata"), "n");
    case.put_ok("k", &[("metadata", "")], b"v");
    assert_eq!(case.get("k").header("Metadata"), "");
}

#[test]
fn an_add_of_an_existing_key_returns_412_and_changes_nothing() {
    let (case, generation) = with_item(b"v");
    assert_412(&case.put("k?add=true", &[], b"other"));
    assert_unchanged(&case, generation, b"v");
    assert_put_ok(&case.put("new?add=true", &[("metadata", "x")], b"n"));
    let got = case.get("new");
    assert_eq!((got.header("Metadata"), &got.body[..]), ("x", &b"n"[..]));
    assert_412(&case.put("new?add=true", &[], b"n"));
}

#[test]
fn append_and_prepend_extend_or_create_the_item_and_drop_old_metadata() {
    let (case, first) = with_item(b"b");
    let second = case.put_ok("k?append=true", &[], b"c");
    assert!(second > first);
    let got = case.get("k");
    assert_eq!((got.header("Metadata"), &got.body[..]), ("", &b"bc"[..]));
    case.put_ok("k?prepend=true", &[("metadata", "p")], b"a");
    let got = case.get("k");
    assert_eq!((got.header("Metadata"), &got.body[..]), ("p", &b"abc"[..]));
    case.put_ok("k?append=true", &[], b"");
    let got = case.get("k");
    assert_eq!((got.header("Metadata"), &got.body[..]), ("", &b"abc"[..]));
    for mode in ["append", "prepend"] {
        assert_put_ok(&case.put(&format!("{mode}?{mode}=true"), &[("metadata", "x")], b"v"));
        let got = case.get(mode);
        assert_eq!((got.header("Metadata"), &got.body[..]), ("x", &b"v"[..]));
    }
}

#[test]
fn an_append_over_the_value_limit_returns_413_and_changes_nothing() {
    let case = Case::with(&["--max-value", "10"]);
    let generation = case.put_ok("k", &[("metadata", "m")], b"01234567");
    for mode in ["append", "prepend"] {
        let response = case.put(&format!("k?{mode}=true"), &[], b"89a");
        assert_eq!(response.expect_error(413), "value must be at most 10 bytes");
        assert_unchanged(&case, generation, b"01234567");
    }
    assert_put_ok(&case.put("k?append=true", &[], b"89"));
    assert_eq!(case.get_value("k"), b"0123456789");
}

#[test]
fn a_put_requires_a_matching_generation() {
    let (case, generation) = with_item(b"v");
    let put_if_generation = |key: &str, generation: u64| {
        case.put(key, &[("if-generation-match", &generation.to_string())], b"w")
    };
    for other in [0, 1, generation - 1, generation + 1, u64::MAX] {
        for key in ["k", "k?append=true", "k?prepend=true", "k?add=true"] {
            assert_412(&put_if_generation(key, other));
        }
    }
    assert_412(&put_if_generation("k?add=true", generation));
    assert_unchanged(&case, generation, b"v");
    assert_put_ok(&put_if_generation("k", generation));
    assert_eq!(case.get_value("k"), b"w");
    assert_412(&put_if_generation("k", generation));
    let generation = case.get("k").generation();
    assert_put_ok(&put_if_generation("k?append=true", generation));
    assert_eq!(case.get_value("k"), b"ww");
}

#[test]
fn only_generation_0_matches_a_missing_key() {
    let case = Case::new();
    for generation in ["1", "18446744073709551615"] {
        for key in ["k", "k?add=true", "k?append=true"] {
            assert_412(&case.put(key, &[("if-generation-match", generation)], b"v"));
        }
    }
    assert!(case.list_keys().is_empty());
    assert_put_ok(&case.put("k", &[("if-generation-match", "0")], b"v"));
    assert_412(&case.put("k", &[("If-Generation-Match", "0")], b"w"));
    assert_put_ok(&case.put("n?add=true", &[("if-generation-match", "0")], b"v"));
    assert_put_ok(&case.put("a?append=true", &[("if-generation-match", "0000")], b"v"));
    assert_eq!(case.list_keys(), ["a", "k", "n"]);
    assert_eq!(case.get_value("k"), b"v");
}

#[test]
fn boolean_parameters_accept_words_letters_and_digits_in_any_letter_case() {
    let case = Case::new();
    for (literal, value) in [("true", "a"), ("True", "aa"), ("TRUE", "aaa"), ("tRuE", "aaaa")] {
        assert_put_ok(&case.put(&format!("k?append={literal}"), &[], b"a"));
        assert_eq!(case.get_value("k"), value.as_bytes());
        assert_412(&case.put(&format!("k?add={literal}"), &[], b"b"));
    }
    assert_put_ok(&case.put("k", &[], b""));
    for (literal, value) in [("1", "a"), ("t", "aa"), ("T", "aaa")] {
        assert_put_ok(&case.put(&format!("k?append={literal}"), &[], b"a"));
        assert_eq!(case.get_value("k"), value.as_bytes());
    }
    for literal in ["false", "False", "FALSE", "0", "f", "F"] {
        let key = format!(
            "k?add={literal}&append={literal}&prepend={literal}&background_fetch={literal}"
        );
        assert_put_ok(&case.put(&key, &[], literal.as_bytes()));
        assert_eq!(case.get_value("k"), literal.as_bytes());
    }
    assert_put_ok(&case.put("k?background_fetch=True", &[], b"v"));
    assert_put_ok(&case.put("k?append=true&prepend=false&add=False", &[], b"w"));
    assert_eq!(case.get_value("k"), b"vw");
}

#[test]
fn unknown_parameters_are_ignored() {
    let case = Case::new();
    for query in ["customer_id=x&_=1750707679010", "a&b=&=c&&", "ADD=yes&ttl=0", "a=1&a=2", "+=%2B"]
    {
        assert_put_ok(&case.put(&format!("k?{query}"), &[], query.as_bytes()));
        assert_eq!(case.get_value("k"), query.as_bytes());
        assert_eq!(case.get(&format!("k?{query}")).status, 200);
    }
}

#[test]
fn an_invalid_put_parameter_is_named_in_the_400_response() {
    let (case, generation) = with_item(b"v");
    for name in ["add", "append", "prepend", "background_fetch"] {
        let values = ["", "=", "=yes", "=2", "=01", "=on", "=maybe", "=+true", "=true%20", "=%00"];
        for value in values {
            assert_error(&case.put(&format!("k?{name}{value}"), &[], b"w"), 400, name);
        }
        for twice in ["true", "false"] {
            let query = format!("k?{name}={twice}&{name}={twice}");
            assert_error(&case.put(&query, &[], b"w"), 400, name);
        }
    }
    for modes in ["add=true&append=true", "append=true&prepend=true", "prepend=true&add=true"] {
        let response = case.put(&format!("k?{modes}"), &[], b"w");
        assert_eq!(response.expect_error(400), "only one of add, append and prepend may be true");
    }
    for query in ["%", "a=%2", "a=%zz", "a=%ff", "add=true%C3"] {
        let response = case.put(&format!("k?{query}"), &[], b"w");
        assert_eq!(
            response.expect_error(400),
            "the query must be percent-encoded UTF-8",
            "{query}"
        );
    }
    assert_unchanged(&case, generation, b"v");
}

#[test]
fn an_invalid_put_header_is_named_in_the_400_response() {
    let (case, generation) = with_item(b"v");
    let invalid_numbers = [
        "", "x", "-1", "+5", "1.5", "1e3", "0x10", "1_000", "1 2", "5,5", "\u{b2}", "\"5\"", "*",
        "99999999999999999999", "18446744073709551616",
    ];
    let invalid_ttls = ["0", "00", "4294967296", "18446744073709551615", "false"];
    for invalid in invalid_numbers {
        for name in ["if-generation-match", "time_to_live_sec"] {
            assert_error(&case.put("k", &[(name, invalid)], b"w"), 400, name);
        }
    }
    for ttl in invalid_ttls {
        assert_error(&case.put("k", &[("time_to_live_sec", ttl)], b"w"), 400, "time_to_live_sec");
    }
    let generation_text = generation.to_string();
    for (name, value) in [
        ("if-generation-match", generation_text.as_str()),
        ("time_to_live_sec", "60"),
        ("metadata", "m"),
    ] {
        assert_error(&case.put("k", &[(name, value), (name, value)], b"w"), 400, name);
    }
    let long = "m".repeat(2001);
    let response = case.put("k", &[("metadata", &long)], b"w");
    assert_eq!(response.expect_error(400), "metadata must be at most 2000 bytes, but is 2001");
    assert_unchanged(&case, generation, b"v");
}

#[test]
fn control_characters_in_metadata_return_400_and_change_nothing() {
    let (case, generation) = with_item(b"v");
    for code in (0..0x20_u8).chain([0x7f]) {
        let text = format!("a{}b", char::from(code));
        // Skip CR and LF, which end a header, and tab, which is allowed.
        if matches!(code, b'\n' | b'\r' | b'\t') {
            continue;
        }
        let response = case.put("k", &[("metadata", &text)], b"w");
        response.expect_error(400);
    }
    for metadata in ["a\rb", "a\r\rb"] {
        case.put("k", &[("metadata", metadata)], b"w").expect_error(400);
    }
    assert_unchanged(&case, generation, b"v");
}

#[test]
fn whitespace_around_header_numbers_is_ignored() {
    let (case, generation) = with_item(b"v");
    let spaced = format!("  {generation}\t ");
    assert_put_ok(&case.put("k", &[("if-generation-match", &spaced)], b"w"));
    assert_put_ok(&case.put("k", &[("time_to_live_sec", " 4294967295 ")], b"x"));
    assert_eq!(case.get_value("k"), b"x");
}

#[test]
fn metadata_is_returned_unchanged() {
    let case = Case::new();
    // The client sends each character as one byte.
    let latin1 = "caf\u{e9}";
    let utf8: String = "é✓🎈".bytes().map(char::from).collect();
    let broken = "\u{ff}\u{fe}\u{80}";
    let long = "\u{e9}".repeat(2000);
    let high: String = (0xa0..=0xff_u8).map(char::from).collect();
    for text in [latin1, &utf8, broken, &long, &high, "a\tb", "a  b", "{\"a\":\"b, c; d\"}", ":"] {
        case.put_ok("k", &[("metadata", text)], b"v");
        for got in [case.get("k"), case.head("k")] {
            assert_eq!(got.header("Metadata"), text);
        }
    }
    case.put_ok("k", &[("Metadata", " \tspaced\t ")], b"v");
    assert_eq!(
        case.get("k").header("Metadata"),
        "spaced",
        "whitespace around a header value must be removed"
    );
}

#[test]
fn chunked_uploads_are_stored_completely() {
    let case = Case::new();
    let request = format!("PUT {}", case.item_path("k"));
    let chunked = "Transfer-Encoding: chunked\r\n";
    let long = vec![b'l'; 700_000];
    let bodies: [(Vec<u8>, Vec<u8>); 6] = [
        ([chunk(b"ab"), chunk(b"c"), chunk(b"")].concat(), b"abc".to_vec()),
        (chunk(b""), Vec::new()),
        (b"3;ext=\"x\"\r\nabc\r\n0\r\n\r\n".to_vec(), b"abc".to_vec()),
        (b"000A\r\n0123456789\r\n000\r\nTrailer: t\r\n\r\n".to_vec(), b"0123456789".to_vec()),
        ([chunk(&long), chunk(b"")].concat(), long),
        (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n".to_vec(), b"0\r\n\r\n".to_vec()),
    ];
    for (body, value) in bodies {
        let mut client = case.send_head(&request, chunked);
        client.send(&body).unwrap();
        assert_put_ok(&client.read_response(false).unwrap());
        assert!(case.get_value("k") == value);
        // The bytes after the last chunk belong to the next request.
        let next = client.get(&case.item_path("k")).unwrap();
        assert!(next.body == value);
    }
}

#[test]
fn a_chunked_body_may_arrive_byte_by_byte() {
    let case = Case::new();
    let mut client =
        case.send_head(&format!("PUT {}", case.item_path("k")), "Transfer-Encoding: chunked\r\n");
    for byte in b"2\r\nab\r\n1;x\r\nc\r\n0\r\nt: v\r\n\r\n" {
        client.send([*byte]).unwrap();
    }
    assert_put_ok(&client.read_response(false).unwrap());
    assert_eq!(case.get_value("k"), b"abc");
}

#[test]
fn a_truncated_upload_returns_400_and_leaves_the_item_unchanged() {
    let (case, generation) = with_item(b"v");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let long = [chunk(&vec![b'x'; 600_000]), b"5\r\nab".to_vec()].concat();
    for (lines, sent) in [
        ("Content-Length: 10\r\n", &b"123456789"[..]),
        ("Content-Length: 10\r\n", b""),
        ("Content-Length: 1000000\r\n", &[b'x'; 900_000]),
        (chunked, b"5\r\nabcd"),
        (chunked, b"5\r\nabcde\r\n"),
        (chunked, b"5\r\nabcde\r\n0\r\n"),
        (chunked, b"5\r\nabcde\r\n0\r\nt: v\r\n"),
        (chunked, b""),
        (chunked, &long),
    ] {
        for key in ["k", "k?append=true", "new"] {
            let mut client = case.send_head(&format!("PUT {}", case.item_path(key)), lines);
            client.send(sent).unwrap();
            client.shutdown_write();
            let response = client.read_response(false).unwrap();
            assert_eq!(
                response.expect_error(400),
                "the connection ended before the body was complete"
            );
            assert_eq!(response.header("Connection"), "close");
        }
    }
    assert_unchanged(&case, generation, b"v");
    assert_eq!(case.list_keys(), ["k"]);
}

#[test]
fn malformed_chunks_return_400_and_close_the_connection() {
    let (case, generation) = with_item(b"v");
    for body in [
        "5\r\nabcdef\r\n0\r\n\r\n", "x\r\nabc\r\n0\r\n\r\n", "-1\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", " 3\r\nabc\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n",
    ] {
        let mut client = case
            .send_head(&format!("PUT {}", case.item_path("k")), "Transfer-Encoding: chunked\r\n");
        client.send(body).unwrap();
        let response = client.read_response(false).unwrap();
        assert!(response.expect_error(400).starts_with("malformed chunked body: "), "{body:?}");
        assert_eq!(response.header("Connection"), "close", "{body:?}");
        assert!(client.closes_without_response(), "{body:?}");
    }
    assert_unchanged(&case, generation, b"v");
}

#[test]
fn checks_are_made_in_the_documented_order() {
    let case = Case::with(&["--max-value", "10"]);
    case.put_ok("k", &[], b"v");
    let missing = format!("{STORES}/{UNKNOWN_STORE}/keys");
    let (large, invalid) = ([b'x'; 11], ("time_to_live_sec", "x"));
    let put = |path: &str, headers: &[(&str, &str)], value: &[u8]| {
        case.server.request(&format!("PUT {path}"), headers, value)
    };
    // If the token is missing, the server reports no other error.
    let mut client = case.server.connect();
    let head =
        format!("PUT {missing}/a%ff?add=x HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\n");
    client.send(head).unwrap();
    client.read_response(false).unwrap().expect_error(401);
    // Malformed input is reported before an unknown store. An unknown store is reported before a
    // size error or a failed condition.
    assert_error(&put(&format!("{missing}/a%23"), &[], &large), 400, "key");
    assert_error(&put(&format!("{missing}/k?add=x"), &[], &large), 400, "add");
    assert_error(&put(&format!("{missing}/k"), &[invalid], &large), 400, "time_to_live_sec");
    let response = put(&format!("{missing}/k?add=true"), &[("if-generation-match", "1")], &large);
    assert_eq!(response.expect_error(404), "no store with that id");
    assert_error(&case.put("k?add=true", &[], &large), 413, "value");
    assert_412(&case.put("k?add=true", &[], b"w"));
    // A failed condition is reported before a body of unknown length is read.
    let lines = "Transfer-Encoding: chunked\r\n";
    let mut client = case.send_head(&format!("PUT {}", case.item_path("k?add=true")), lines);
    assert_412(&client.read_response(false).unwrap());
    assert_eq!(case.get_value("k"), b"v");
}

#[test]
fn expect_100_continue_gets_the_interim_response_or_the_error() {
    let case = Case::new();
    let lines = "Content-Length: 1\r\nExpect: 100-continue\r\n";
    let mut client = case.send_head(&format!("PUT {}", case.item_path("k")), lines);
    let interim = client.read_response(false).unwrap();
    assert_eq!(interim.head, "HTTP/1.1 100 Continue");
    client.send("v").unwrap();
    assert_put_ok(&client.read_response(false).unwrap());
    for (key, status) in [("k?add=true", 412), ("k?add=x", 400), ("k%23", 400)] {
        let mut client = case.send_head(&format!("PUT {}", case.item_path(key)), lines);
        assert_eq!(client.read_response(false).unwrap().status, status, "{key}");
    }
    assert_eq!(case.get_value("k"), b"v");
}
