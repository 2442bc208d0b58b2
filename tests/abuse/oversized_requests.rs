//! Everything larger than it may be. Each is refused in words or cut, at a bounded cost.

use crate::{MIB, Victim};

/// Sends a head and up to `times` pieces, for as long as the server takes them, and answers the
/// status, where one could be read.
fn pour(victim: &Victim, head: &str, piece: &[u8], times: usize) -> Option<u16> {
    let mut client = victim.connect();
    client.send(head).unwrap();
    for _ in 0..times {
        if client.send(piece).is_err() {
            break;
        }
    }
    client.read_response(false).ok().map(|answer| answer.status)
}

fn refused(status: Option<u16>, expected: u16, what: &str) {
    // What is poured on after the answer may reset the connection before it is read.
    assert!(status.is_none_or(|status| status == expected), "{what}: {status:?}");
}

#[test]
fn heads_of_any_size_are_refused_at_a_bounded_cost() {
    let victim = Victim::new(&["--header-timeout", "5"]);
    let piece = vec![b'x'; 1 << 20];
    refused(pour(&victim, "GET /", &piece, 32), 414, "a target of 32 MiB");
    refused(pour(&victim, "GET / HTTP/1.1\r\nX: ", &piece, 32), 431, "a field of 32 MiB");
    let lines = b"x: y\r\n".repeat(100_000);
    refused(pour(&victim, "GET / HTTP/1.1\r\n", &lines, 20), 431, "two million fields");
    refused(pour(&victim, "", &piece, 32), 414, "a method of 32 MiB");
    let metadata = format!("Metadata: {}\r\n", "m".repeat(20_000));
    let item = victim.item("m");
    let head = victim.head(&format!("PUT {item}"), &format!("{metadata}Content-Length: 1\r\n"));
    assert_eq!(pour(&victim, &head, b"v", 1), Some(400));
    let empty = b"\r\n".repeat(500_000);
    let health = victim.head("GET /healthz", "");
    let mut client = victim.connect();
    for _ in 0..10 {
        client.send(&empty).unwrap();
    }
    client.send(health).unwrap();
    assert_eq!(client.read_response(false).unwrap().status, 200, "ten megabytes of empty lines");
    victim.held_below(48 * MIB);
    victim.unharmed();
}

#[test]
fn bodies_of_any_size_are_refused_at_a_bounded_cost() {
    let victim = Victim::new(&[]);
    let (item, store) = (victim.item("big"), &victim.store);
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunk = [b"100000\r\n", vec![b'x'; 1 << 20].as_slice(), b"\r\n"].concat();
    let put = victim.head(&format!("PUT {item}"), chunked);
    refused(pour(&victim, &put, &chunk, 80), 413, "a value of 80 MiB");
    let create = victim.head("POST /resources/stores/kv", chunked);
    refused(pour(&victim, &create, &chunk, 80), 400, "a store's name of 80 MiB");
    let rename = victim.head(&format!("PUT /resources/stores/kv/{store}"), chunked);
    refused(pour(&victim, &rename, &chunk, 80), 400, "another name of 80 MiB");
    let get = victim.head(&format!("GET {item}"), chunked);
    refused(pour(&victim, &get, &chunk, 80), 404, "a GET with 80 MiB");
    let extension = [b"5;".as_slice(), &[b'x'; 60_000]].concat();
    refused(pour(&victim, &put, &extension, 500), 400, "an extension of 30 MB");
    let trailers = b"x: y\r\n".repeat(10_000);
    let trailed = format!("{put}0\r\n");
    refused(pour(&victim, &trailed, &trailers, 500), 400, "thirty MB of trailers");
    let tiny = b"1\r\nx\r\n".repeat(100_000);
    refused(pour(&victim, &put, &tiny, 270), 413, "27 million chunks of a byte");
    assert_eq!(victim.server.request(&format!("GET {item}"), &[], b"").status, 404);
    victim.held_below(64 * MIB);
    victim.unharmed();
}

#[test]
fn a_batch_of_any_shape_costs_a_bounded_amount() {
    let victim = Victim::new(&[]);
    let batch = format!("PUT /resources/stores/kv/{}/batch", victim.store);
    let long = vec![b'{'; 80 << 20];
    let answer = victim.server.request(&batch, &[], &long);
    assert_eq!(answer.status, 413, "one line of 80 MiB: {}", answer.text());
    let deep = [b"[".repeat(1_000_000), b"\n".to_vec()].concat();
    assert_eq!(victim.server.request(&batch, &[], &deep).status, 400);
    let bad = b"no json\n".repeat(500_000);
    let answer = victim.server.request(&batch, &[], &bad);
    assert_eq!(answer.status, 400);
    assert!(answer.body.len() < 4 << 20, "an answer of {} bytes", answer.body.len());
    // A line of 25 MiB, its copy as bytes, and a line of which nothing is kept.
    victim.held_below(160 * MIB);
    victim.unharmed();
}
