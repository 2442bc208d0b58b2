//! Tests of PUT requests with a batch of items as NDJSON.

use super::support::Response;
use super::{
    Case, STORES, UNKNOWN_STORE, assert_error, assert_put_ok, chunk, http_date, status_line,
};
use std::time::Duration;

const SUCCESS: &str = "{\"type\":\"\",\"title\":\"success\",\"errors\":[]}";

fn put_batch(case: &Case, body: impl AsRef<[u8]>) -> Response {
    case.server.request(&format!("PUT {}/batch", case.store_path()), &[], body.as_ref())
}

/// Puts a batch and checks that it succeeds.
fn put_batch_ok(case: &Case, body: impl AsRef<[u8]>) {
    let response = put_batch(case, body);
    assert_eq!(status_line(&response), "HTTP/1.1 200 OK", "{}", response.text());
    assert_eq!(response.text(), SUCCESS);
}

/// Checks that a batch failed with this status. Returns the errors as (key, index, code, reason).
fn batch_errors(response: &Response, status: u16) -> Vec<(String, u64, String, String)> {
    assert_eq!(response.status, status, "{}", response.text());
    let json = response.json();
    let fields: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 3, "{json}");
    let kind = if status == 413 { "payload_too_large" } else { "bad_request" };
    assert_eq!((&json["type"], &json["title"]), (&kind.into(), &"batch had errors".into()));
    let errors = json["errors"].as_array().unwrap().iter().map(|error| {
        let text =
            |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{error}")).to_owned();
        (text("key"), error["index"].as_u64().unwrap(), text("code"), text("reason"))
    });
    errors.collect()
}

/// Returns a batch line that puts the value `v`.
fn line(key: &str) -> String {
    format!("{{\"key\":\"{key}\",\"value\":\"dg==\"}}\n")
}

#[test]
fn a_successful_batch_returns_the_recorded_response() {
    let case = Case::new();
    let response =
        put_batch(&case, "{\"key\":\"a\",\"value\":\"dg==\"}\n{\"key\":\"b\",\"value\":\"\"}\n");
    assert_eq!(status_line(&response), "HTTP/1.1 200 OK");
    assert_eq!(response.text(), SUCCESS);
    assert_eq!(response.header("Content-Length"), "41");
    assert_eq!(response.header("Content-Type"), "application/json");
    assert_eq!((case.get_value("a"), case.get_value("b")), (b"v".to_vec(), Vec::new()));
    let got = case.get("a");
    assert_eq!(got.header("Metadata"), "");
    assert_eq!(got.header("Last-Modified"), http_date(got.generation()));
    put_batch_ok(&case, "");
    put_batch_ok(&case, "\n");
    put_batch_ok(&case, " \r\n\t\n\n   ");
    assert_eq!(case.list_keys(), ["a", "b"]);
}

#[test]
fn a_failed_line_is_reported_in_the_documented_format() {
    let case = Case::new();
    let good: String = (0..6).map(|i| line(&format!("k{i}"))).collect();
    let bad = "{\"key\":\"k7\",\"value\":\"%\"}\n";
    let response = put_batch(&case, format!("{good}{bad}"));
    assert_eq!(status_line(&response), "HTTP/1.1 400 Bad Request");
    assert_eq!(response.header("Content-Type"), "application/json");
    let body = "{\"type\":\"bad_request\",\"title\":\"batch had errors\",\"errors\":[\
                {\"key\":\"k7\",\"index\":6,\"code\":\"400\",\
                \"reason\":\"value must be base64\"}]}";
    assert_eq!(response.text(), body);
    assert_eq!(case.list_keys(), ["k0", "k1", "k2", "k3", "k4", "k5"]);
}

#[test]
fn invalid_lines_are_reported_by_key_and_field_and_not_written() {
    let case = Case::new();
    let long_key = "k".repeat(1025);
    let long_metadata = "m".repeat(2001);
    let with = |field: &str| format!("{{\"key\":\"k\",\"value\":\"dg==\",{field}}}");
    let keyed = |key: &str| format!("{{\"key\":\"{key}\",\"value\":\"dg==\"}}");
    let mut lines: Vec<(String, &str, &str)> = vec![
        ("not json".into(), "", "line"),
        ("{".into(), "", "line"),
        ("[]".into(), "", "line"),
        ("[\"k\",\"dg==\"]".into(), "", "line"),
        ("[\"k\",\"dg==\",null,null,null]".into(), "", "line"),
        ("\"k\"".into(), "", "line"),
        ("null".into(), "", "line"),
        ("{\"key\":\"k\",\"value\":\"dg==\"} x".into(), "", "line"),
        ("{\"key\":\"k\",\"value\":\"dg==\"}{}".into(), "", "line"),
        ("{}".into(), "", "key"),
        ("{\"value\":\"dg==\"}".into(), "", "key"),
        ("{\"key\":1,\"value\":\"dg==\"}".into(), "", "key"),
        ("{\"key\":null,\"value\":\"dg==\"}".into(), "", "key"),
        ("{\"Key\":\"k\",\"value\":\"dg==\"}".into(), "", "key"),
        ("{\"key\":\"k\"}".into(), "k", "value"),
        ("{\"key\":\"k\",\"value\":null}".into(), "k", "value"),
        ("{\"key\":\"k\",\"value\":1}".into(), "k", "value"),
        ("{\"key\":\"k\",\"value\":{}}".into(), "k", "value"),
        (keyed(""), "", "key"),
        (keyed("a#b"), "a#b", "key"),
        (keyed(".."), "..", "key"),
        (keyed("a./b"), "a./b", "key"),
        (keyed(" "), " ", "key"),
        (keyed("a\\nb"), "a\nb", "key"),
        (keyed("\\u0000"), "\0", "key"),
        (keyed(&long_key), &long_key[..1024], "key"),
        (with(&format!("\"metadata\":\"{long_metadata}\"")), "k", "metadata"),
    ];
    for value in ["d", "d===", "dg==x", "dg==\\n", "d g==", "dg--", "_-8=", "ZZ==", "dg==dg=="] {
        lines.push((format!("{{\"key\":\"k\",\"value\":\"{value}\"}}"), "k", "value"));
    }
    for ttl in
        ["0", "-1", "1.5", "4294967296", "99999999999999999999", "\"60\"", "true", "[]", "1e2"]
    {
        lines.push((with(&format!("\"time_to_live_sec\":{ttl}")), "k", "time_to_live_sec"));
    }
    for metadata in ["1", "{}", "true", "\"a\\nb\"", "\"a\\r\"", "\"a\\u0000\"", "\"\\u007f\""] {
        lines.push((with(&format!("\"metadata\":{metadata}")), "k", "metadata"));
    }
    for fetch in ["1", "\"true\"", "{}"] {
        lines.push((with(&format!("\"background_fetch\":{fetch}")), "k", "background_fetch"));
    }
    let mut body = String::new();
    for (line, key, field) in &lines {
        let response = put_batch(&case, line);
        assert_eq!(response.status, 400, "{line}");
        let errors = batch_errors(&response, 400);
        assert_eq!(errors.len(), 1, "{line}");
        let (name, index, code, reason) = &errors[0];
        assert_eq!((name.as_str(), *index, code.as_str()), (*key, 0, "400"), "{line}");
        assert_eq!(reason.split(' ').next(), Some(*field), "{line}: {reason}");
        body += &format!("{line}\n");
    }
    let errors = batch_errors(&put_batch(&case, body), 400);
    let indexes: Vec<_> = errors.iter().map(|error| error.1).collect();
    assert_eq!(
        indexes,
        (0..lines.len() as u64).collect::<Vec<_>>(),
        "every error must be reported, in order"
    );
    assert!(case.list_keys().is_empty());
}

#[test]
fn a_line_that_is_not_utf8_does_not_affect_other_lines() {
    let case = Case::new();
    let body = [&b"{\"key\":\"\xff\",\"value\":\"\"}\n"[..], line("good").as_bytes()].concat();
    let errors = batch_errors(&put_batch(&case, body), 400);
    assert_eq!((errors.len(), errors[0].1), (1, 0));
    assert_eq!(case.list_keys(), ["good"]);
}

#[test]
fn lines_may_be_indented_or_blank_and_end_in_lf_or_crlf() {
    let case = Case::new();
    // In the recorded batch, the second line is indented and the last line has no line break.
    put_batch_ok(
        &case,
        "{\"key\":\"batch-1\",\"value\":\"VkFMVUU=\"}\n    \
         {\"key\":\"batch-2\",\"value\":\"VkFMVUU=\"}",
    );
    assert_eq!(
        (case.get_value("batch-1"), case.get_value("batch-2")),
        (b"VALUE".to_vec(), b"VALUE".to_vec())
    );
    put_batch_ok(
        &case,
        "{\"key\":\"crlf\",\"value\":\"\"}\r\n\t{ \"key\" : \"tab\" , \"value\" : \"\" } \r\n",
    );
    let errors = batch_errors(
        &put_batch(&case, "\n  \n{\"key\":\"late\",\"value\":\"\"}\r\n\r\nx\n\n"),
        400,
    );
    assert_eq!((errors.len(), errors[0].1), (1, 4), "blank lines must be counted");
    assert_eq!(case.list_keys(), ["batch-1", "batch-2", "crlf", "late", "tab"]);
}

#[test]
fn the_last_line_with_a_key_wins_in_a_batch() {
    let case = Case::new();
    let body = "{\"key\":\"k\",\"value\":\"YQ==\",\"metadata\":\"one\"}\n\
                {\"key\":\"o\",\"value\":\"\"}\n\
                {\"key\":\"k\",\"value\":\"Yg==\"}\n";
    put_batch_ok(&case, body);
    let got = case.get("k");
    assert_eq!((&got.body[..], got.header("Metadata")), (&b"b"[..], ""));
    let many: String = (0..2500_u32)
        .map(|i| {
            use base64::Engine as _;
            let value = base64::engine::general_purpose::STANDARD.encode(i.to_string());
            format!("{{\"key\":\"k\",\"value\":\"{value}\"}}\n")
        })
        .collect();
    put_batch_ok(&case, many);
    assert_eq!(
        case.get_value("k"),
        b"2499",
        "the last line must win in a batch of several commits"
    );
}

#[test]
fn base64_values_are_decoded_with_and_without_padding() {
    let case = Case::new();
    for (base64, value) in [
        ("dg", &b"v"[..]),
        ("dg==", b"v"),
        ("dmE", b"va"),
        ("dmE=", b"va"),
        ("dmFs", b"val"),
        ("AP/+/w==", b"\x00\xff\xfe\xff"),
        ("AP\\/+\\/w==", b"\x00\xff\xfe\xff"),
        ("\\u0064g==", b"v"),
        ("", b""),
    ] {
        put_batch_ok(&case, format!("{{\"key\":\"k\",\"value\":\"{base64}\"}}"));
        assert_eq!(case.get_value("k"), value, "{base64}");
    }
}

#[test]
fn a_batch_replaces_metadata_and_expiry_and_null_clears_them() {
    let case = Case::new();
    case.put_ok("k", &[("metadata", "old")], b"old");
    let first = case.get("k").generation();
    let body = "{\"key\":\"k\",\"value\":\"dg==\",\"metadata\":null,\"time_to_live_sec\":null,\
                \"background_fetch\":null}";
    put_batch_ok(&case, body);
    let got = case.get("k");
    assert_eq!(got.header("Metadata"), "");
    assert!(got.generation() > first);
    put_batch_ok(&case, "{\"key\":\"k\",\"value\":\"dg==\",\"metadata\":\"caf\u{e9} \\u2713\"}");
    let utf8: String = "café ✓".bytes().map(char::from).collect();
    assert_eq!(case.get("k").header("Metadata"), utf8);
    put_batch_ok(&case, "{\"key\":\"k\",\"value\":\"dg==\",\"metadata\":\" \\ta\\tb \"}");
    assert_eq!(case.get("k").header("Metadata"), "a\tb");
    let long = "m".repeat(2000);
    put_batch_ok(&case, format!("{{\"key\":\"k\",\"value\":\"\",\"metadata\":\"{long}\"}}"));
    assert_eq!(case.get("k").header("Metadata"), long);
    let body =
        "{\"key\":\"k\",\"value\":\"\",\"background_fetch\":true,\"other\":{\"a\":[1]},\"x\":1}";
    put_batch_ok(&case, body);
    assert_eq!(case.get("k").header("Metadata"), "");
}

#[test]
fn batch_items_expire() {
    let case = Case::new();
    let body = "{\"key\":\"short\",\"value\":\"dg==\",\"time_to_live_sec\":1}\n\
                {\"key\":\"long\",\"value\":\"dg==\",\"time_to_live_sec\":4294967295}\n\
                {\"key\":\"ever\",\"value\":\"dg==\"}\n";
    put_batch_ok(&case, body);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(case.list_keys(), ["ever", "long"]);
    case.get("short").expect_error(404);
}

#[test]
fn invalid_lines_do_not_prevent_valid_lines_from_being_written() {
    let case = Case::new();
    let body: String = (0..3000)
        .map(|i| if i % 3 == 0 { "bad\n".to_owned() } else { line(&format!("k{i:04}")) })
        .collect();
    let errors = batch_errors(&put_batch(&case, body), 400);
    let indexes: Vec<_> = errors.iter().map(|error| error.1).collect();
    assert_eq!(indexes, (0..3000).step_by(3).collect::<Vec<_>>());
    let page = case.list("").json();
    assert_eq!(page["data"].as_array().unwrap().len(), 1000);
    let rest = case.list("?cursor=CgVrMTQ5OQ%3D%3D").json();
    assert_eq!(rest["data"].as_array().unwrap().len(), 1000);
    assert!(
        rest["meta"].get("next_cursor").is_none(),
        "the two pages must contain all 2000 valid lines"
    );
}

#[test]
fn a_batch_returns_413_if_all_errors_are_size_errors_and_400_otherwise() {
    let case = Case::with(&["--max-value", "3"]);
    let large = "{\"key\":\"large\",\"value\":\"YWJjZA==\"}\n";
    let errors = batch_errors(&put_batch(&case, format!("{}{large}", line("a"))), 413);
    let reason = "value must be at most 3 bytes".to_owned();
    assert_eq!(errors, [("large".to_owned(), 1, "413".to_owned(), reason)]);
    for body in [format!("{large}x\n"), format!("x\n{large}"), format!("{large}x\n{large}")] {
        let errors = batch_errors(&put_batch(&case, &body), 400);
        let codes: Vec<_> = errors.iter().map(|error| error.2.as_str()).collect();
        let lines = body.lines().map(|line| if line == "x" { "400" } else { "413" });
        assert_eq!(codes, lines.collect::<Vec<_>>());
    }
    put_batch_ok(&case, "{\"key\":\"b\",\"value\":\"YWJj\"}");
    assert_eq!(case.list_keys(), ["a", "b"]);
}

#[test]
fn a_batch_reports_the_first_10000_errors_and_the_total() {
    let case = Case::with(&["--max-value", "1"]);
    let large = "{\"key\":\"k\",\"value\":\"YWI=\"}\n".repeat(10_001);
    for (body, status, kind) in
        [(large.clone(), 413, "payload_too_large"), (format!("x\n{large}"), 400, "bad_request")]
    {
        let response = put_batch(&case, &body);
        assert_eq!(response.status, status);
        let json = response.json();
        let title =
            format!("batch had {} errors; the first 10000 are listed", body.lines().count());
        assert_eq!((&json["type"], &json["title"]), (&kind.into(), &title.into()));
        let errors = json["errors"].as_array().unwrap();
        assert_eq!((errors.len(), &errors[9_999]["index"]), (10_000, &9_999.into()));
    }
}

#[test]
fn batch_errors_truncate_long_names_and_the_error_list_has_a_size_limit() {
    let case = Case::new();
    let long = "k".repeat(1_000_000);
    let errors = batch_errors(&put_batch(&case, line(&long)), 400);
    assert_eq!(errors[0].0, "k".repeat(1024));
    assert_eq!(errors[0].3, "key must be at most 1024 bytes of UTF-8, but is 1000000");
    let body: String = (0..2500).map(|n| line(&format!("{n:04}{}", "k".repeat(2000)))).collect();
    let response = put_batch(&case, body);
    assert_eq!(response.status, 400);
    assert!(response.body.len() < 2 << 20, "the response has {} bytes", response.body.len());
    let json = response.json();
    let errors = json["errors"].as_array().unwrap();
    let title = format!("batch had 2500 errors; the first {} are listed", errors.len());
    assert_eq!(json["title"], title);
    assert!((500..2500).contains(&errors.len()), "{title}");
    let indexes: Vec<_> = errors.iter().map(|error| error["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..errors.len() as u64).collect::<Vec<_>>());
    // The reason must not repeat a value of the wrong type.
    let line_of =
        |ttl: &str| format!("{{\"key\":\"k\",\"value\":\"\",\"time_to_live_sec\":{ttl}}}");
    let typed = format!("{}\n\"{long}\"", line_of(&format!("\"{long}\"")));
    for error in batch_errors(&put_batch(&case, typed), 400) {
        assert!(error.3.len() < 200, "{:.300}", error.3);
    }
}

#[test]
fn a_byte_order_mark_before_the_first_line_is_ignored() {
    let case = Case::new();
    put_batch_ok(&case, format!("\u{feff}{}{}", line("a"), line("b")));
    let import = format!("PUT /_/v1/stores/{}/import", case.id);
    let imported = case.server.request(&import, &[], format!("\u{feff}{}", line("c")).as_bytes());
    assert_eq!(imported.json()["written"], 1, "{}", imported.text());
    assert_eq!(case.list_keys(), ["a", "b", "c"]);
    put_batch_ok(&case, "\u{feff}");
    let second = put_batch(&case, format!("{}\u{feff}{}", line("d"), line("e")));
    let errors = batch_errors(&second, 400);
    assert_eq!(
        (errors.len(), errors[0].1),
        (1, 1),
        "a byte order mark must be accepted only before the first line"
    );
}

#[test]
fn an_overlong_line_is_rejected_with_413_and_the_next_line_is_read() {
    let case = Case::with(&["--max-value", "1000"]);
    let long = format!("{{\"key\":\"long\",\"value\":\"{}\"}}\n", "A".repeat(300_000));
    for chunks in [false, true] {
        let body = format!("{}{long}{}{long}", line("before"), line("after"));
        let response = if chunks {
            let mut client = send_chunked_head(&case);
            for piece in body.as_bytes().chunks(10_007) {
                client.send(chunk(piece)).unwrap();
            }
            client.send(chunk(b"")).unwrap();
            client.read_response(false).unwrap()
        } else {
            put_batch(&case, body)
        };
        let errors = batch_errors(&response, 413);
        let reported: Vec<_> = errors.iter().map(|error| (error.1, error.2.as_str())).collect();
        assert_eq!(reported, [(1, "413"), (3, "413")]);
        assert_eq!(case.list_keys(), ["after", "before"]);
    }
}

fn send_chunked_head(case: &Case) -> super::support::Client {
    let lines = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    case.send_head(&format!("PUT {}/batch", case.store_path()), lines)
}

#[test]
fn chunk_boundaries_may_be_anywhere_in_a_line() {
    let case = Case::new();
    let body = "{\"key\":\"caf\u{e9}\",\"value\":\"dg==\"}\r\n\n  {\"key\":\"b\",\"value\":\"\"}";
    for size in [1, 2, 3, 7, 16, 1000] {
        let mut client = send_chunked_head(&case);
        let mut sent = Vec::new();
        for piece in body.as_bytes().chunks(size) {
            sent.extend(chunk(piece));
        }
        sent.extend(chunk(b""));
        client.send(sent).unwrap();
        let response = client.read_response(false).unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, SUCCESS), "{size}");
        assert_eq!(case.list_keys(), ["b", "caf\u{e9}"]);
        for key in ["b", "caf%C3%A9"] {
            let deleted =
                client.request(&format!("DELETE {}", case.item_path(key)), &[], b"").unwrap();
            super::assert_204(&deleted);
        }
    }
    let mut client = send_chunked_head(&case);
    client.send(chunk(b"")).unwrap();
    assert_eq!(client.read_response(false).unwrap().text(), SUCCESS);
}

#[test]
fn a_batch_of_5000_lines_is_stored_completely() {
    let case = Case::new();
    let body: String = (0..5000).map(|i| line(&format!("k{i:04}"))).collect();
    put_batch_ok(&case, body);
    let (mut seen, mut cursor) = (Vec::<String>::new(), String::new());
    loop {
        let page = case.list(&format!("?cursor={}", cursor.replace('=', "%3D"))).json();
        seen.extend(serde_json::from_value::<Vec<String>>(page["data"].clone()).unwrap());
        match page["meta"].get("next_cursor") {
            None => break,
            Some(next) => cursor = next.as_str().unwrap().to_owned(),
        }
    }
    assert_eq!(seen, (0..5000).map(|i| format!("k{i:04}")).collect::<Vec<_>>());
    assert_eq!(case.get_value("k4999"), b"v");
}

#[test]
fn a_batch_accepts_any_content_type_and_large_values() {
    use base64::Engine as _;
    let case = Case::new();
    for kind in ["application/json", "application/x-www-form-urlencoded", "text/plain", ""] {
        let at = format!("PUT {}/batch", case.store_path());
        let response = case.server.request(&at, &[("Content-Type", kind)], line("k").as_bytes());
        assert_eq!(response.text(), SUCCESS, "{kind}");
    }
    let value: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let base64 = base64::engine::general_purpose::STANDARD.encode(&value);
    put_batch_ok(
        &case,
        format!("{}{{\"key\":\"large\",\"value\":\"{base64}\"}}\n{}", line("a"), line("b")),
    );
    assert!(case.get_value("large") == value);
    assert_eq!(case.list_keys(), ["a", "b", "k", "large"]);
}

#[test]
fn a_batch_for_an_unknown_store_returns_404_before_the_body_is_read() {
    let case = Case::new();
    let mut client = case.send_head(
        &format!("PUT {STORES}/{UNKNOWN_STORE}/batch"),
        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
    );
    assert_eq!(client.read_response(false).unwrap().expect_error(404), "no store with that id");
    for id in ["x", "..", ""] {
        let at = format!("PUT {STORES}/{id}/batch");
        case.server.request(&at, &[], line("k").as_bytes()).expect_error(404);
    }
    assert_put_ok(&case.put("batch", &[], b"v"));
    assert_eq!(case.get_value("batch"), b"v", "`batch` must be a valid key");
}

#[test]
fn a_truncated_batch_stores_a_prefix_of_the_complete_lines() {
    let case = Case::new();
    let complete: String = (0..2500).map(|i| line(&format!("k{i:04}"))).collect();
    let body = format!("{complete}{{\"key\":\"torn\",\"value\":\"dg==\"}}");
    for chunked in [false, true] {
        let mut client = if chunked {
            let mut client = send_chunked_head(&case);
            client.send(chunk(body.as_bytes())).unwrap();
            client
        } else {
            let lines = format!("Content-Length: {}\r\n", body.len() + 1);
            let mut client = case.send_head(&format!("PUT {}/batch", case.store_path()), &lines);
            client.send(&body).unwrap();
            client
        };
        client.shutdown_write();
        assert_error(&client.read_response(false).unwrap(), 400, "the");
        // The number of complete lines stored is unspecified, but the stored lines must be a prefix
        // of the batch.
        let (mut count, mut cursor) = (0, String::new());
        loop {
            let page = case.list(&format!("?cursor={}", cursor.replace('=', "%3D"))).json();
            for key in page["data"].as_array().unwrap() {
                assert_eq!(*key, format!("k{count:04}"));
                count += 1;
            }
            match page["meta"].get("next_cursor") {
                None => break,
                Some(next) => cursor = next.as_str().unwrap().to_owned(),
            }
        }
        case.get("torn").expect_error(404);
        if count > 0 {
            assert_eq!(case.get_value(&format!("k{:04}", count - 1)), b"v");
        }
    }
}
