//! Tests that the server rejects heads, bodies and batches that exceed a limit, and that its memory
//! use stays bounded.

use crate::{MIB, Target};

/// Sends a head and up to `times` pieces, and stops early if the server stops accepting them.
/// Returns the status of the response, if one could be read.
fn flood(target: &Target, head: &str, piece: &[u8], times: usize) -> Option<u16> {
    let mut client = target.connect();
    client.send(head).unwrap();
    for _ in 0..times {
        if client.send(piece).is_err() {
            break;
        }
    }
    client.read_response(false).ok().map(|response| response.status)
}

fn assert_rejected(target: &Target, head: &str, piece: &[u8], times: usize, code: u16, what: &str) {
    let status = flood(target, head, piece, times);
    // Bytes that arrive after the server has closed the connection may reset it before the client
    // has read the response.
    assert!(status.is_none_or(|status| status == code), "{what}: {status:?}");
}

#[test]
fn oversized_heads_are_rejected_with_bounded_memory() {
    let target = Target::new(&["--header-timeout", "5"]);
    let piece = vec![b'x'; 1 << 20];
    assert_rejected(&target, "GET /", &piece, 32, 414, "a target of 32 MiB");
    assert_rejected(&target, "GET / HTTP/1.1\r\nX: ", &piece, 32, 431, "a header of 32 MiB");
    let lines = b"x: y\r\n".repeat(100_000);
    assert_rejected(&target, "GET / HTTP/1.1\r\n", &lines, 20, 431, "two million headers");
    assert_rejected(&target, "", &piece, 32, 414, "a method of 32 MiB");
    let metadata = format!("Metadata: {}\r\n", "m".repeat(20_000));
    let item = target.item("m");
    let head = target.head(&format!("PUT {item}"), &format!("{metadata}Content-Length: 1\r\n"));
    assert_eq!(flood(&target, &head, b"v", 1), Some(400));
    let empty = b"\r\n".repeat(500_000);
    let health = target.head("GET /healthz", "");
    let mut client = target.connect();
    for _ in 0..10 {
        client.send(&empty).unwrap();
    }
    client.send(health).unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 200, "10 MB of empty lines");
    target.assert_peak_memory_below(48 * MIB);
    target.assert_healthy_and_stop();
}

#[test]
fn oversized_bodies_are_rejected_with_bounded_memory() {
    let target = Target::new(&[]);
    let (item, store) = (target.item("big"), &target.store);
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunk = [b"100000\r\n", vec![b'x'; 1 << 20].as_slice(), b"\r\n"].concat();
    let put = target.head(&format!("PUT {item}"), chunked);
    assert_rejected(&target, &put, &chunk, 80, 413, "a value of 80 MiB");
    let create = target.head("POST /resources/stores/kv", chunked);
    assert_rejected(&target, &create, &chunk, 80, 400, "a store name of 80 MiB");
    let rename = target.head(&format!("PUT /resources/stores/kv/{store}"), chunked);
    assert_rejected(&target, &rename, &chunk, 80, 400, "a new store name of 80 MiB");
    let get = target.head(&format!("GET {item}"), chunked);
    assert_rejected(&target, &get, &chunk, 80, 404, "a GET with a body of 80 MiB");
    let extension = [b"5;".as_slice(), &[b'x'; 60_000]].concat();
    assert_rejected(&target, &put, &extension, 500, 400, "a chunk extension of 30 MB");
    let trailers = b"x: y\r\n".repeat(10_000);
    let trailed = format!("{put}0\r\n");
    assert_rejected(&target, &trailed, &trailers, 500, 400, "30 MB of trailers");
    let tiny = b"1\r\nx\r\n".repeat(100_000);
    assert_rejected(&target, &put, &tiny, 270, 413, "27 million one-byte chunks");
    assert_eq!(target.get(&item).status, 404);
    target.assert_peak_memory_below(64 * MIB);
    target.assert_healthy_and_stop();
}

#[test]
fn malformed_batches_are_rejected_with_bounded_memory() {
    let target = Target::new(&[]);
    let batch = format!("PUT /resources/stores/kv/{}/batch", target.store);
    let long = vec![b'{'; 80 << 20];
    let response = target.request(&batch, &[], &long);
    assert_eq!(response.status, 413, "a line of 80 MiB: {}", response.text());
    let deep = [b"[".repeat(1_000_000), b"\n".to_vec()].concat();
    assert_eq!(target.request(&batch, &[], &deep).status, 400);
    let bad = b"no json\n".repeat(500_000);
    let response = target.request(&batch, &[], &bad);
    assert_eq!(response.status, 400);
    assert!(response.body.len() < 4 << 20, "the response has {} bytes", response.body.len());
    // The server may buffer a line of 25 MiB and its decoded value. It discards a longer line as it
    // reads it.
    target.assert_peak_memory_below(160 * MIB);
    target.assert_healthy_and_stop();
}
