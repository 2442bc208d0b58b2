//! GET and HEAD of items.

use crate::support::Response;
use crate::{Case, NO_STORE, STORES, accepted, chunk, http_date, refused_for, status_line};

const MAX: usize = 25 << 20;

fn head_of(answer: &Response, size: usize, metadata: &str) -> String {
    let generation = answer.generation();
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
        answer.header("Date")
    )
}

#[test]
fn an_item_is_answered_with_the_recorded_header_fields_to_the_byte() {
    let case = Case::new();
    for (key, metadata) in [("plain", ""), ("described", "meta")] {
        let fields: &[(&str, &str)] = &[("metadata", metadata)];
        case.stored(key, if metadata.is_empty() { &[] } else { fields }, b"hello, world");
        let got = case.get(key);
        assert_eq!(got.head, head_of(&got, 12, metadata));
        assert_eq!(got.body, b"hello, world");
        let generation = got.header("Generation");
        assert_eq!(generation.len(), 16, "microseconds: {generation}");
        assert!(httpdate::parse_http_date(got.header("Date")).is_ok());
        let head = case.head(key);
        assert_eq!(head.head, head_of(&head, 12, metadata));
        assert_eq!(head.generation(), got.generation());
    }
}

#[test]
fn a_head_answers_no_body_and_the_connection_goes_on() {
    let case = Case::new();
    case.stored("k", &[], b"value");
    let mut client = case.server.connect();
    let head = client.request(&format!("HEAD {}", case.path("k")), &[], b"").unwrap();
    assert_eq!((head.status, head.header("Content-Length")), (200, "5"));
    let missing = client.request(&format!("HEAD {}", case.path("none")), &[], b"").unwrap();
    let got = client.request(&format!("GET {}", case.path("none")), &[], b"").unwrap();
    assert_eq!(got.expect_error(404), "no item with that key");
    assert_eq!(status_line(&missing), status_line(&got));
    for name in ["Content-Length", "Content-Type", "Cache-Control", "Pragma"] {
        assert_eq!(missing.header(name), got.header(name));
    }
    assert_eq!(
        client.request(&format!("GET {}", case.path("k")), &[], b"").unwrap().body,
        b"value"
    );
}

#[test]
fn a_missing_item_or_store_is_404_with_a_body_that_every_client_decodes() {
    let case = Case::new();
    let missing = case.get("none");
    assert_eq!(status_line(&missing), "HTTP/1.1 404 Not Found");
    let text = "{\"msg\":\"Record not found\",\"title\":\"Record not found\",\
                \"detail\":\"no item with that key\",\"status\":404}";
    assert_eq!(missing.text(), text);
    assert_eq!(missing.header("Content-Type"), "application/json");
    for id in [NO_STORE, "x", "ABCDEFGHIJKLMNOPQRSTUV", "%00"] {
        let answer = case.server.request(&format!("GET {STORES}/{id}/keys/k"), &[], b"");
        assert_eq!(answer.expect_error(404), "no store with that id", "{id}");
    }
}

#[test]
fn what_a_client_accepts_changes_nothing_and_nothing_is_compressed() {
    let case = Case::new();
    let value = vec![b'a'; 100_000];
    case.stored("k", &[], &value);
    for fields in [
        [("Accept", "application/octet-stream"), ("Accept-Encoding", "identity")],
        [("Accept", "application/json"), ("Accept-Encoding", "gzip")],
        [("Accept", "text/html;q=0"), ("Accept-Encoding", "gzip, deflate, br, zstd")],
        [("Accept", "*/*"), ("Accept-Encoding", "*;q=0")],
        [("If-None-Match", "*"), ("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT")],
    ] {
        let got = case.server.request(&format!("GET {}", case.path("k")), &fields, b"");
        assert_eq!(got.head, head_of(&got, value.len(), ""), "{fields:?}");
        assert!(got.body == value, "{fields:?}");
    }
}

#[test]
fn a_range_of_a_value_is_answered_with_206() {
    let case = Case::new();
    case.stored("k", &[("metadata", "m")], b"0123456789");
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
        let answer =
            case.server.request(&format!("GET {}", case.path("k")), &[("Range", range)], b"");
        assert_eq!(answer.body, bytes, "{range}");
        if span.is_empty() {
            // No position can be so large; a server may ignore any range.
            assert_eq!(
                (answer.status, answer.has_header("Content-Range")),
                (200, false),
                "{range}"
            );
            continue;
        }
        assert_eq!(status_line(&answer), "HTTP/1.1 206 Partial Content", "{range}");
        assert_eq!(answer.header("Content-Range"), span, "{range}");
        assert_eq!(answer.header("Stored-Content-Length"), "10", "{range}");
        assert_eq!(answer.header("Content-Type"), "application/octet-stream", "{range}");
        assert_eq!(answer.header("Metadata"), "m", "{range}");
    }
}

#[test]
fn a_range_outside_of_the_value_is_416_with_its_size() {
    let case = Case::new();
    case.stored("k", &[], b"0123456789");
    case.stored("empty", &[], b"");
    for (key, range, size) in [
        ("k", "bytes=10-", "bytes */10"),
        ("k", "bytes=10-20", "bytes */10"),
        ("k", "bytes=18446744073709551615-", "bytes */10"),
        ("k", "bytes=-0", "bytes */10"),
        ("empty", "bytes=0-", "bytes */0"),
        ("empty", "bytes=-1", "bytes */0"),
    ] {
        let answer =
            case.server.request(&format!("GET {}", case.path(key)), &[("Range", range)], b"");
        answer.expect_error(416);
        assert_eq!(status_line(&answer), "HTTP/1.1 416 Range Not Satisfiable", "{range}");
        assert_eq!(answer.header("Content-Range"), size, "{range}");
    }
}

#[test]
fn what_is_no_single_range_is_ignored() {
    let case = Case::new();
    case.stored("k", &[], b"0123456789");
    for range in [
        "bytes=0-1,3-4",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=",
        "bytes=-",
        "bytes=1",
        "items=0-1",
        "0-1",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes 0-1",
        "bytes=0x1-2",
    ] {
        let answer =
            case.server.request(&format!("GET {}", case.path("k")), &[("Range", range)], b"");
        assert_eq!(answer.head, head_of(&answer, 10, ""), "{range}");
        assert_eq!(answer.body, b"0123456789", "{range}");
    }
    let twice = [("Range", "bytes=0-1"), ("Range", "bytes=2-3")];
    let conditional = [("Range", "bytes=0-1"), ("If-Range", "\"tag\"")];
    for fields in [twice, conditional] {
        let answer = case.server.request(&format!("GET {}", case.path("k")), &fields, b"");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"0123456789"[..]), "{fields:?}");
    }
    let head =
        case.server.request(&format!("HEAD {}", case.path("k")), &[("Range", "bytes=0-1")], b"");
    assert_eq!(head.head, head_of(&head, 10, ""), "a range is of GET only");
}

#[test]
fn ranges_of_a_large_value_cross_every_border_of_its_blocks() {
    let case = Case::new();
    let value: Vec<u8> =
        (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    case.stored("k", &[], &value);
    assert!(case.value("k") == value);
    for border in [1 << 16, 1 << 18, 1 << 19, 1 << 20, 1 << 21, value.len() - 1] {
        for (start, end) in [(border - 1, border), (border - 1, border + 1), (border, value.len())]
        {
            let range = format!("bytes={start}-{}", end - 1);
            let answer = case.server.request(
                &format!("GET {}", case.path("k")),
                &[("Range", range.as_str())],
                b"",
            );
            assert_eq!(answer.status, 206, "{range}");
            assert!(answer.body == value[start..end.min(value.len())], "{range}");
        }
    }
}

#[test]
fn an_empty_value_is_an_item() {
    let case = Case::new();
    case.stored("k", &[("metadata", "m")], b"");
    let got = case.get("k");
    assert_eq!(got.head, head_of(&got, 0, "m"));
    assert_eq!(got.body, b"");
    assert_eq!(case.list("").text(), "{\"data\":[\"k\"],\"meta\":{\"limit\":1000}}");
}

#[test]
fn every_byte_comes_back_as_it_was() {
    let case = Case::new();
    let all: Vec<u8> = (0..=255).collect();
    for value in [&all[..], b"\r\n\r\n", b"\0", &[0xff; 3], b"\xef\xbb\xbfmark", b" \t "] {
        case.stored("k", &[], value);
        assert_eq!(case.value("k"), value);
    }
}

#[test]
fn a_value_of_the_limit_is_kept_and_one_byte_more_is_413_and_changes_nothing() {
    let case = Case::new();
    let mut value = vec![b'v'; MAX];
    value[MAX - 1] = b'!';
    let generation = case.stored("k", &[("metadata", "m")], &value);
    let got = case.get("k");
    assert_eq!(got.head, head_of(&got, MAX, "m"));
    assert!(got.body == value);

    // By its length, before a byte of it is sent.
    let request = format!("PUT {}", case.path("k"));
    let mut client = case.begin(&request, &format!("Content-Length: {}\r\n", MAX + 1));
    let answer = client.read_response(false).unwrap();
    assert_eq!(answer.expect_error(413), format!("value must have at most {MAX} bytes"));
    assert_eq!(status_line(&answer), "HTTP/1.1 413 Content Too Large");

    // While it comes, when its length is not said.
    let mut client = case.begin(&request, "Transfer-Encoding: chunked\r\n");
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..25 {
        client.send(chunk(&piece)).unwrap();
    }
    client.send(b"1\r\nx\r\n0\r\n\r\n").unwrap();
    assert_eq!(
        client.read_response(false).unwrap().expect_error(413),
        format!("value must have at most {MAX} bytes")
    );
    assert_eq!(case.get("k").generation(), generation);
    assert!(case.value("k") == value);
}

#[test]
fn the_largest_value_is_set_by_a_flag() {
    let case = Case::with(&["--max-value", "10"]);
    accepted(&case.put("k", &[], b"0123456789"));
    refused_for(&case.put("k", &[], b"0123456789a"), 413, "value");
    assert_eq!(case.value("k"), b"0123456789");
}
