//! PUT of items.

use crate::{Case, NO_STORE, STORES, accepted, chunk, refused_for, unmet};

/// An item with this value, metadata `m` and its generation.
fn with_item(value: &[u8]) -> (Case, u64) {
    let case = Case::new();
    let generation = case.stored("k", &[("metadata", "m")], value);
    (case, generation)
}

/// Checks that the item is as it was.
fn untouched(case: &Case, generation: u64, value: &[u8]) {
    let got = case.get("k");
    assert_eq!(got.generation(), generation);
    assert_eq!(got.field("Metadata"), "m");
    assert_eq!(got.body, value);
}

#[test]
fn a_put_answers_an_empty_200_with_the_generation_it_made() {
    let case = Case::new();
    let answer = case.put("k", &[], b"v");
    accepted(&answer);
    assert_eq!(answer.generation(), case.get("k").generation());
    let mut client = case.server.connect();
    for value in ["a", "", "b"] {
        accepted(&client.ask(&format!("PUT {}", case.path("k")), &[], value.as_bytes()).unwrap());
        assert_eq!(case.value("k"), value.as_bytes(), "the connection goes on");
    }
}

#[test]
fn no_content_type_selects_a_parser() {
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
        accepted(&case.put("k", &[("Content-Type", kind)], value.as_bytes()));
        let got = case.get("k");
        assert_eq!(got.body, value.as_bytes(), "{kind}");
        assert_eq!(got.field("Content-Type"), "application/octet-stream");
    }
    accepted(&case.put("k", &[("Content-Encoding", "gzip")], b"plain"));
    assert_eq!(case.value("k"), b"plain");
    assert!(!case.get("k").has("Content-Encoding"));
}

#[test]
fn an_overwrite_replaces_value_and_metadata_as_a_whole() {
    let (case, first) = with_item(b"long value");
    let second = case.stored("k", &[], b"v");
    assert!(second > first);
    let got = case.get("k");
    assert_eq!((got.field("Metadata"), &got.body[..]), ("", &b"v"[..]));
    case.stored("k", &[("metadata", "n")], b"v");
    assert_eq!(case.get("k").field("Metadata"), "n");
    case.stored("k", &[("metadata", "")], b"v");
    assert_eq!(case.get("k").field("Metadata"), "");
}

#[test]
fn an_add_of_what_exists_is_412_and_changes_nothing() {
    let (case, generation) = with_item(b"v");
    unmet(&case.put("k?add=true", &[], b"other"));
    untouched(&case, generation, b"v");
    accepted(&case.put("new?add=true", &[("metadata", "x")], b"n"));
    let got = case.get("new");
    assert_eq!((got.field("Metadata"), &got.body[..]), ("x", &b"n"[..]));
    unmet(&case.put("new?add=true", &[], b"n"));
}

#[test]
fn append_and_prepend_join_create_and_inherit_no_metadata() {
    let (case, first) = with_item(b"b");
    let second = case.stored("k?append=true", &[], b"c");
    assert!(second > first);
    let got = case.get("k");
    assert_eq!((got.field("Metadata"), &got.body[..]), ("", &b"bc"[..]));
    case.stored("k?prepend=true", &[("metadata", "p")], b"a");
    let got = case.get("k");
    assert_eq!((got.field("Metadata"), &got.body[..]), ("p", &b"abc"[..]));
    case.stored("k?append=true", &[], b"");
    let got = case.get("k");
    assert_eq!((got.field("Metadata"), &got.body[..]), ("", &b"abc"[..]));
    for mode in ["append", "prepend"] {
        accepted(&case.put(&format!("{mode}?{mode}=true"), &[("metadata", "x")], b"v"));
        let got = case.get(mode);
        assert_eq!((got.field("Metadata"), &got.body[..]), ("x", &b"v"[..]));
    }
}

#[test]
fn an_append_beyond_the_limit_is_413_and_changes_nothing() {
    let case = Case::with(&["--max-value", "10"]);
    let generation = case.stored("k", &[("metadata", "m")], b"01234567");
    for mode in ["append", "prepend"] {
        let answer = case.put(&format!("k?{mode}=true"), &[], b"89a");
        assert_eq!(answer.refused(413), "value must have at most 10 bytes");
        untouched(&case, generation, b"01234567");
    }
    accepted(&case.put("k?append=true", &[], b"89"));
    assert_eq!(case.value("k"), b"0123456789");
}

#[test]
fn a_put_heeds_the_generation_it_demands() {
    let (case, generation) = with_item(b"v");
    let demand = |key: &str, generation: u64| {
        case.put(key, &[("if-generation-match", &generation.to_string())], b"w")
    };
    for other in [0, 1, generation - 1, generation + 1, u64::MAX] {
        for key in ["k", "k?append=true", "k?prepend=true", "k?add=true"] {
            unmet(&demand(key, other));
        }
    }
    unmet(&demand("k?add=true", generation));
    untouched(&case, generation, b"v");
    accepted(&demand("k", generation));
    assert_eq!(case.value("k"), b"w");
    unmet(&demand("k", generation));
    let generation = case.get("k").generation();
    accepted(&demand("k?append=true", generation));
    assert_eq!(case.value("k"), b"ww");
}

#[test]
fn on_a_missing_key_a_demanded_generation_is_412_but_for_0() {
    let case = Case::new();
    for generation in ["1", "18446744073709551615"] {
        for key in ["k", "k?add=true", "k?append=true"] {
            unmet(&case.put(key, &[("if-generation-match", generation)], b"v"));
        }
    }
    assert!(case.keys().is_empty());
    accepted(&case.put("k", &[("if-generation-match", "0")], b"v"));
    unmet(&case.put("k", &[("If-Generation-Match", "0")], b"w"));
    accepted(&case.put("n?add=true", &[("if-generation-match", "0")], b"v"));
    accepted(&case.put("a?append=true", &[("if-generation-match", "0000")], b"v"));
    assert_eq!(case.keys(), ["a", "k", "n"]);
    assert_eq!(case.value("k"), b"v");
}

#[test]
fn truths_are_read_in_any_letter_case() {
    let case = Case::new();
    for (truth, value) in [("true", "a"), ("True", "aa"), ("TRUE", "aaa"), ("tRuE", "aaaa")] {
        accepted(&case.put(&format!("k?append={truth}"), &[], b"a"));
        assert_eq!(case.value("k"), value.as_bytes());
        unmet(&case.put(&format!("k?add={truth}"), &[], b"b"));
    }
    for lie in ["false", "False", "FALSE"] {
        let key = format!("k?add={lie}&append={lie}&prepend={lie}&background_fetch={lie}");
        accepted(&case.put(&key, &[], lie.as_bytes()));
        assert_eq!(case.value("k"), lie.as_bytes());
    }
    accepted(&case.put("k?background_fetch=True", &[], b"v"));
    accepted(&case.put("k?append=true&prepend=false&add=False", &[], b"w"));
    assert_eq!(case.value("k"), b"vw");
}

#[test]
fn unknown_parameters_are_ignored() {
    let case = Case::new();
    for query in ["customer_id=x&_=1750707679010", "a&b=&=c&&", "ADD=yes&ttl=0", "a=1&a=2", "+=%2B"]
    {
        accepted(&case.put(&format!("k?{query}"), &[], query.as_bytes()));
        assert_eq!(case.value("k"), query.as_bytes());
        assert_eq!(case.get(&format!("k?{query}")).status, 200);
    }
}

#[test]
fn every_wrong_parameter_is_400_by_its_name_and_changes_nothing() {
    let (case, generation) = with_item(b"v");
    for name in ["add", "append", "prepend", "background_fetch"] {
        let values = ["", "=", "=yes", "=1", "=0", "=on", "=maybe", "=+true", "=true%20", "=%00"];
        for value in values {
            refused_for(&case.put(&format!("k?{name}{value}"), &[], b"w"), 400, name);
        }
        for twice in ["true", "false"] {
            let query = format!("k?{name}={twice}&{name}={twice}");
            refused_for(&case.put(&query, &[], b"w"), 400, name);
        }
    }
    for modes in ["add=true&append=true", "append=true&prepend=true", "prepend=true&add=true"] {
        let answer = case.put(&format!("k?{modes}"), &[], b"w");
        assert_eq!(answer.refused(400), "only one of add, append and prepend may be true");
    }
    for query in ["%", "a=%2", "a=%zz", "a=%ff", "add=true%C3"] {
        let answer = case.put(&format!("k?{query}"), &[], b"w");
        assert_eq!(answer.refused(400), "the query must be percent-encoded UTF-8", "{query}");
    }
    untouched(&case, generation, b"v");
}

#[test]
fn every_wrong_header_field_is_400_by_its_name_and_changes_nothing() {
    let (case, generation) = with_item(b"v");
    let wrong_numbers = [
        "",
        "x",
        "-1",
        "+5",
        "1.5",
        "1e3",
        "0x10",
        "1_000",
        "1 2",
        "5,5",
        "\u{b2}",
        "\"5\"",
        "*",
        "99999999999999999999",
        "18446744073709551616",
    ];
    let wrong_ttls = ["0", "00", "4294967296", "18446744073709551615", "false"];
    for wrong in wrong_numbers {
        for name in ["if-generation-match", "time_to_live_sec"] {
            refused_for(&case.put("k", &[(name, wrong)], b"w"), 400, name);
        }
    }
    for wrong in wrong_ttls {
        refused_for(&case.put("k", &[("time_to_live_sec", wrong)], b"w"), 400, "time_to_live_sec");
    }
    let generation_text = generation.to_string();
    for (name, value) in [
        ("if-generation-match", generation_text.as_str()),
        ("time_to_live_sec", "60"),
        ("metadata", "m"),
    ] {
        refused_for(&case.put("k", &[(name, value), (name, value)], b"w"), 400, name);
    }
    let long = "m".repeat(2001);
    let answer = case.put("k", &[("metadata", &long)], b"w");
    assert_eq!(answer.refused(400), "metadata must have at most 2000 bytes, but has 2001");
    untouched(&case, generation, b"v");
}

#[test]
fn control_characters_in_metadata_are_400_and_change_nothing() {
    let (case, generation) = with_item(b"v");
    for code in (0..0x20_u8).chain([0x7f]) {
        let text = format!("a{}b", char::from(code));
        // These end a field, or are allowed.
        if matches!(code, b'\n' | b'\r' | b'\t') {
            continue;
        }
        let answer = case.put("k", &[("metadata", &text)], b"w");
        answer.refused(400);
    }
    for bare in ["a\rb", "a\r\rb"] {
        case.put("k", &[("metadata", bare)], b"w").refused(400);
    }
    untouched(&case, generation, b"v");
}

#[test]
fn space_around_a_number_is_no_part_of_it() {
    let (case, generation) = with_item(b"v");
    let spaced = format!("  {generation}\t ");
    accepted(&case.put("k", &[("if-generation-match", &spaced)], b"w"));
    accepted(&case.put("k", &[("time_to_live_sec", " 4294967295 ")], b"x"));
    assert_eq!(case.value("k"), b"x");
}

#[test]
fn metadata_comes_back_byte_for_byte() {
    let case = Case::new();
    // Each character goes out as one byte: Latin-1 as it is, UTF-8 as its bytes.
    let latin1 = "caf\u{e9}";
    let utf8: String = "é✓🎈".bytes().map(char::from).collect();
    let broken = "\u{ff}\u{fe}\u{80}";
    let long = "\u{e9}".repeat(2000);
    let high: String = (0xa0..=0xff_u8).map(char::from).collect();
    for text in [latin1, &utf8, broken, &long, &high, "a\tb", "a  b", "{\"a\":\"b, c; d\"}", ":"] {
        case.stored("k", &[("metadata", text)], b"v");
        for got in [case.get("k"), case.head("k")] {
            assert_eq!(got.field("Metadata"), text);
        }
    }
    case.stored("k", &[("Metadata", " \tspaced\t ")], b"v");
    assert_eq!(case.get("k").field("Metadata"), "spaced", "HTTP drops the space around a value");
}

#[test]
fn chunked_uploads_are_stored_whole() {
    let case = Case::new();
    let request = format!("PUT {}", case.path("k"));
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
        let mut client = case.begin(&request, chunked);
        client.send(&body).unwrap();
        accepted(&client.answer(false).unwrap());
        assert!(case.value("k") == value);
        // What follows the last chunk is the next request.
        let next = client.ask(&format!("GET {}", case.path("k")), &[], b"").unwrap();
        assert!(next.body == value);
    }
}

#[test]
fn a_chunked_body_may_come_byte_by_byte() {
    let case = Case::new();
    let mut client =
        case.begin(&format!("PUT {}", case.path("k")), "Transfer-Encoding: chunked\r\n");
    for byte in b"2\r\nab\r\n1;x\r\nc\r\n0\r\nt: v\r\n\r\n" {
        client.send([*byte]).unwrap();
    }
    accepted(&client.answer(false).unwrap());
    assert_eq!(case.value("k"), b"abc");
}

#[test]
fn a_cut_upload_leaves_the_item_unchanged() {
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
            let mut client = case.begin(&format!("PUT {}", case.path(key)), lines);
            client.send(sent).unwrap();
            client.finish();
            let answer = client.answer(false).unwrap();
            assert_eq!(answer.refused(400), "the body ended before its length");
            assert_eq!(answer.field("Connection"), "close");
        }
    }
    untouched(&case, generation, b"v");
    assert_eq!(case.keys(), ["k"]);
}

#[test]
fn broken_chunks_are_400_end_the_connection_and_change_nothing() {
    let (case, generation) = with_item(b"v");
    for body in [
        "5\r\nabcdef\r\n0\r\n\r\n",
        "x\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n",
    ] {
        let mut client =
            case.begin(&format!("PUT {}", case.path("k")), "Transfer-Encoding: chunked\r\n");
        client.send(body).unwrap();
        let answer = client.answer(false).unwrap();
        assert!(answer.refused(400).starts_with("the body's chunks are malformed: "), "{body:?}");
        assert_eq!(answer.field("Connection"), "close", "{body:?}");
        assert!(client.ends(), "{body:?}");
    }
    untouched(&case, generation, b"v");
}

#[test]
fn checks_come_in_their_order() {
    let case = Case::with(&["--max-value", "10"]);
    case.stored("k", &[], b"v");
    let missing = format!("{STORES}/{NO_STORE}/keys");
    let (large, wrong) = ([b'x'; 11], ("time_to_live_sec", "x"));
    let ask = |path: &str, fields: &[(&str, &str)], value: &[u8]| {
        case.server.ask(&format!("PUT {path}"), fields, value)
    };
    // Without a token nothing else is said.
    let mut client = case.server.connect();
    let head =
        format!("PUT {missing}/a%ff?add=x HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\n");
    client.send(head).unwrap();
    client.answer(false).unwrap().refused(401);
    // What is malformed comes before the store, which comes before size and condition.
    refused_for(&ask(&format!("{missing}/a%23"), &[], &large), 400, "key");
    refused_for(&ask(&format!("{missing}/k?add=x"), &[], &large), 400, "add");
    refused_for(&ask(&format!("{missing}/k"), &[wrong], &large), 400, "time_to_live_sec");
    let answer = ask(&format!("{missing}/k?add=true"), &[("if-generation-match", "1")], &large);
    assert_eq!(answer.refused(404), "no store with that id");
    refused_for(&case.put("k?add=true", &[], &large), 413, "value");
    unmet(&case.put("k?add=true", &[], b"w"));
    // A condition that fails is said before a body of unknown length is read.
    let lines = "Transfer-Encoding: chunked\r\n";
    let mut client = case.begin(&format!("PUT {}", case.path("k?add=true")), lines);
    unmet(&client.answer(false).unwrap());
    assert_eq!(case.value("k"), b"v");
}

#[test]
fn a_client_that_waits_for_leave_gets_it_or_the_refusal() {
    let case = Case::new();
    let lines = "Content-Length: 1\r\nExpect: 100-continue\r\n";
    let mut client = case.begin(&format!("PUT {}", case.path("k")), lines);
    let leave = client.answer(false).unwrap();
    assert_eq!(leave.head, "HTTP/1.1 100 Continue");
    client.send("v").unwrap();
    accepted(&client.answer(false).unwrap());
    for (key, status) in [("k?add=true", 412), ("k?add=x", 400), ("k%23", 400)] {
        let mut client = case.begin(&format!("PUT {}", case.path(key)), lines);
        assert_eq!(client.answer(false).unwrap().status, status, "{key}");
    }
    assert_eq!(case.value("k"), b"v");
}
