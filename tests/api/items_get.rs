//! Tests of GET and HEAD requests for items: headers, ranges and value limits.

use super::support::Response;
use super::{
    Case, STORES, UNKNOWN_STORE, assert_error, assert_put_ok, chunk, http_date, status_line,
};

const MAX: usize = 25 << 20;

fn expected_head(response: &Response, size: usize, metadata: &str) -> String {
    let generation = response.generation();
    format!(
        "HTTP/1.1 200 OK\r\n\
         Content-Type: application/octet-stream\r\n\
         Stored-Content-Length: {size}\r\n\
         Generation: {generation}\r\n\
         Metadata: {metadata}\r\n\
         Last-Modified: {}\r\n\
         Cache-Control: no-store\r\n\
         Pragma: no-cache\r\n\
         Accept-Ranges: bytes\r\n\
         Content-Length: {size}\r\n\
         Date: {}",
        http_date(generation),
        response.header("Date")
    )
}

#[test]
fn an_item_is_returned_with_the_recorded_headers() {
    let case = Case::new();
    for (key, metadata) in [("plain", ""), ("described", "meta")] {
        let headers: &[(&str, &str)] = &[("metadata", metadata)];
        case.put_ok(key, if metadata.is_empty() { &[] } else { headers }, b"hello, world");
        let got = case.get(key);
        assert_eq!(got.head, expected_head(&got, 12, metadata));
        assert_eq!(got.body, b"hello, world");
        let generation = got.header("Generation");
        assert_eq!(generation.len(), 16, "the generation must be in microseconds: {generation}");
        assert!(httpdate::parse_http_date(got.header("Date")).is_ok());
        let head = case.head(key);
        assert_eq!(head.head, expected_head(&head, 12, metadata));
        assert_eq!(head.generation(), got.generation());
    }
}

#[test]
fn head_has_no_body_and_keeps_the_connection_open() {
    let case = Case::new();
    case.put_ok("k", &[], b"value");
    let mut client = case.server.connect();
    let head = client.request(&format!("HEAD {}", case.item_path("k")), &[], b"").unwrap();
    assert_eq!((head.status, head.header("Content-Length")), (200, "5"));
    let missing = client.request(&format!("HEAD {}", case.item_path("none")), &[], b"").unwrap();
    let got = client.get(&case.item_path("none")).unwrap();
    assert_eq!(got.expect_error(404), "no item with that key");
    assert_eq!(status_line(&missing), status_line(&got));
    for name in ["Content-Length", "Content-Type", "Cache-Control", "Pragma"] {
        assert_eq!(missing.header(name), got.header(name));
    }
    assert_eq!(client.get(&case.item_path("k")).unwrap().body, b"value");
}

#[test]
fn a_missing_item_or_store_returns_404_with_the_recorded_body() {
    let case = Case::new();
    let missing = case.get("none");
    assert_eq!(status_line(&missing), "HTTP/1.1 404 Not Found");
    let text = "{\"msg\":\"Record not found\",\"title\":\"Record not found\",\
                \"detail\":\"no item with that key\",\"status\":404}";
    assert_eq!(missing.text(), text);
    assert_eq!(missing.header("Content-Type"), "application/json");
    for id in [UNKNOWN_STORE, "x", "ABCDEFGHIJKLMNOPQRSTUV", "%00"] {
        let response = case.server.get(&format!("{STORES}/{id}/keys/k"));
        assert_eq!(response.expect_error(404), "no store with that id", "{id}");
    }
}

#[test]
fn accept_headers_are_ignored_and_values_are_not_compressed() {
    let case = Case::new();
    let value = vec![b'a'; 100_000];
    case.put_ok("k", &[], &value);
    for headers in [
        [("Accept", "application/octet-stream"), ("Accept-Encoding", "identity")],
        [("Accept", "application/json"), ("Accept-Encoding", "gzip")],
        [("Accept", "text/html;q=0"), ("Accept-Encoding", "gzip, deflate, br, zstd")],
        [("Accept", "*/*"), ("Accept-Encoding", "*;q=0")],
        [("If-None-Match", "*"), ("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT")],
    ] {
        let got = case.server.request(&format!("GET {}", case.item_path("k")), &headers, b"");
        assert_eq!(got.head, expected_head(&got, value.len(), ""), "{headers:?}");
        assert!(got.body == value, "{headers:?}");
    }
}

#[test]
fn a_range_of_a_value_is_returned_with_206() {
    let case = Case::new();
    case.put_ok("k", &[("metadata", "m")], b"0123456789");
    for (range, span, bytes) in [
        ("bytes=0-0", "bytes 0-0/10", &b"0"[..]),
        ("bytes=2-5", "bytes 2-5/10", b"2345"),
        ("bytes=7-", "bytes 7-9/10", b"789"),
        ("bytes=0-", "bytes 0-9/10", b"0123456789"),
        ("bytes=8-99999999999999999999", "", b"0123456789"),
        ("bytes=8-18446744073709551615", "bytes 8-9/10", b"89"),
        ("bytes=-3", "bytes 7-9/10", b"789"),
        ("bytes=-10", "bytes 0-9/10", b"0123456789"),
        ("bytes=-11", "bytes 0-9/10", b"0123456789"),
    ] {
        let response =
            case.server.request(&format!("GET {}", case.item_path("k")), &[("Range", range)], b"");
        assert_eq!(response.body, bytes, "{range}");
        if span.is_empty() {
            // The end position does not fit into 64 bits, so the server ignores the range.
            assert_eq!(
                (response.status, response.has_header("Content-Range")),
                (200, false),
                "{range}"
            );
            continue;
        }
        assert_eq!(status_line(&response), "HTTP/1.1 206 Partial Content", "{range}");
        assert_eq!(response.header("Content-Range"), span, "{range}");
        assert_eq!(response.header("Stored-Content-Length"), "10", "{range}");
        assert_eq!(response.header("Content-Type"), "application/octet-stream", "{range}");
        assert_eq!(response.header("Metadata"), "m", "{range}");
    }
}

#[test]
fn a_range_outside_the_value_returns_416_with_the_value_size() {
    let case = Case::new();
    case.put_ok("k", &[], b"0123456789");
    case.put_ok("empty", &[], b"");
    for (key, range, size) in [
        ("k", "bytes=10-", "bytes */10"),
        ("k", "bytes=10-20", "bytes */10"),
        ("k", "bytes=18446744073709551615-", "bytes */10"),
        ("k", "bytes=-0", "bytes */10"),
        ("empty", "bytes=0-", "bytes */0"),
        ("empty", "bytes=-1", "bytes */0"),
    ] {
        let response =
            case.server.request(&format!("GET {}", case.item_path(key)), &[("Range", range)], b"");
        response.expect_error(416);
        assert_eq!(status_line(&response), "HTTP/1.1 416 Range Not Satisfiable", "{range}");
        assert_eq!(response.header("Content-Range"), size, "{range}");
    }
}

#[test]
fn invalid_and_multiple_ranges_are_ignored() {
    let case = Case::new();
    case.put_ok("k", &[], b"0123456789");
    for range in [
        "bytes=0-1,3-4", "bytes=5-2", "bytes=a-b", "bytes=", "bytes=-", "bytes=1", "items=0-1",
        "0-1", "bytes=+1-2", "bytes=1-2-3", "bytes 0-1", "bytes=0x1-2",
    ] {
        let response =
            case.server.request(&format!("GET {}", case.item_path("k")), &[("Range", range)], b"");
        assert_eq!(response.head, expected_head(&response, 10, ""), "{range}");
        assert_eq!(response.body, b"0123456789", "{range}");
    }
    let twice = [("Range", "bytes=0-1"), ("Range", "bytes=2-3")];
    let conditional = [("Range", "bytes=0-1"), ("If-Range", "\"tag\"")];
    for headers in [twice, conditional] {
        let response = case.server.request(&format!("GET {}", case.item_path("k")), &headers, b"");
        assert_eq!((response.status, &response.body[..]), (200, &b"0123456789"[..]), "{headers:?}");
    }
    let head = case.server.request(
        &format!("HEAD {}", case.item_path("k")),
        &[("Range", "bytes=0-1")],
        b"",
    );
    assert_eq!(head.head, expected_head(&head, 10, ""), "Range must apply to GET only");
}

#[test]
fn ranges_may_cross_block_boundaries_of_a_large_value() {
    let case = Case::new();
    let value: Vec<u8> =
        (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    case.put_ok("k", &[], &value);
    assert!(case.get_value("k") == value);
    for border in [1 << 16, 1 << 18, 1 << 19, 1 << 20, 1 << 21, value.len() - 1] {
        for (start, end) in [(border - 1, border), (border - 1, border + 1), (border, value.len())]
        {
            let range = format!("bytes={start}-{}", end - 1);
            let response = case.server.request(
                &format!("GET {}", case.item_path("k")),
                &[("Range", range.as_str())],
                b"",
            );
            assert_eq!(response.status, 206, "{range}");
            assert!(response.body == value[start..end.min(value.len())], "{range}");
        }
    }
}

#[test]
fn an_item_may_have_an_empty_value() {
    let case = Case::new();
    case.put_ok("k", &[("metadata", "m")], b"");
    let got = case.get("k");
    assert_eq!(got.head, expected_head(&got, 0, "m"));
    assert_eq!(got.body, b"");
    assert_eq!(case.list("").text(), "{\"data\":[\"k\"],\"meta\":{\"limit\":1000}}");
}

#[test]
fn values_are_returned_unchanged() {
    let case = Case::new();
    let all: Vec<u8> = (0..=255).collect();
    for value in [&all[..], b"\r\n\r\n", b"\0", &[0xff; 3], b"\xef\xbb\xbfmark", b" \t "] {
        case.put_ok("k", &[], value);
        assert_eq!(case.get_value("k"), value);
    }
}

#[test]
fn a_value_of_maximum_size_is_stored_and_a_larger_one_returns_413() {
    let case = Case::new();
    let mut value = vec![b'v'; MAX];
    value[MAX - 1] = b'!';
    let generation = case.put_ok("k", &[("metadata", "m")], &value);
    let got = case.get("k");
    assert_eq!(got.head, expected_head(&got, MAX, "m"));
    assert!(got.body == value);

    // If the declared length is too large, the server rejects the request before it receives any of
    // the value.
    let request = format!("PUT {}", case.item_path("k"));
    let mut client = case.send_head(&request, &format!("Content-Length: {}\r\n", MAX + 1));
    let response = client.read_response(false).unwrap();
    assert_eq!(response.expect_error(413), format!("value must be at most {MAX} bytes"));
    assert_eq!(status_line(&response), "HTTP/1.1 413 Content Too Large");

    // A value of unknown length is rejected as soon as the received part exceeds the limit.
    let mut client = case.send_head(&request, "Transfer-Encoding: chunked\r\n");
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..25 {
        client.send(chunk(&piece)).unwrap();
    }
    client.send(b"1\r\nx\r\n0\r\n\r\n").unwrap();
    assert_eq!(
        client.read_response(false).unwrap().expect_error(413),
        format!("value must be at most {MAX} bytes")
    );
    assert_eq!(case.get("k").generation(), generation);
    assert!(case.get_value("k") == value);
}

#[test]
fn max_value_sets_the_value_limit() {
    let case = Case::with(&["--max-value", "10"]);
    assert_put_ok(&case.put("k", &[], b"0123456789"));
    assert_error(&case.put("k", &[], b"0123456789a"), 413, "value");
    assert_eq!(case.get_value("k"), b"0123456789");
}
