//! Tests with random bytes, and with valid requests that are damaged at random.

use crate::Target;
use crate::random::{Random, run_seed};
use std::time::Duration;

const CONNECTIONS: usize = 3000;

/// Returns a random index below `len`, or 0 if `len` is 0.
fn index(random: &mut Random, len: usize) -> usize {
    random.below(len.max(1) as u64) as usize
}

/// Damages a request: changes, removes, repeats, truncates or inserts bytes.
fn damage(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    const PIECES: [&[u8]; 12] = [
        b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\r\n\r\n", b"%",
        b"Transfer-Encoding: chunked\r\n", b"Content-Length: 18446744073709551615\r\n",
        b"Expect: 100-continue\r\n", b"\xff\xfe",
    ];
    for _ in 0..=index(random, 4) {
        let (at, other) = (index(random, bytes.len()), index(random, bytes.len()));
        let (from, to) = (at.min(other), at.max(other));
        match index(random, 5) {
            0 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            3 => bytes.truncate(to),
            _ => {
                let piece = PIECES[index(random, PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn random_and_damaged_requests_do_not_harm_the_server() {
    let mut random = Random(run_seed("random input"));
    let target = Target::new(&["--header-timeout", "5", "--body-timeout", "5"]);
    let store = format!("/resources/stores/kv/{}", target.store);
    let item = target.item("wild");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let line = "{\"key\":\"wild\",\"value\":\"dmFsdWU=\",\"metadata\":\"m\"}\n";
    let length = format!("Content-Length: {}\r\n", line.len());
    let valid = [
        target.head(&format!("PUT {item}"), "Content-Length: 5\r\nmetadata: m\r\n") + "value",
        target.head(&format!("PUT {item}"), chunked) + "5;x=y\r\nvalue\r\n0\r\nt: u\r\n\r\n",
        target.head(&format!("PUT {store}/batch"), &length) + line,
        target.head(&format!("GET {store}/keys?prefix=a&limit=5&cursor=b"), ""),
        target.head(&format!("GET {item}"), "Range: bytes=1-3\r\n"),
        target.head(&format!("DELETE {item}?force=true"), ""),
        target.head("POST /resources/stores/kv", "Content-Length: 14\r\n") + "{\"name\":\"wild\"}",
    ];
    for n in 0..CONNECTIONS {
        let bytes = if n % 5 == 0 {
            (0..index(&mut random, 2000)).map(|_| random.next() as u8).collect()
        } else {
            let pair = [index(&mut random, valid.len()), index(&mut random, valid.len())];
            damage(&mut random, pair.map(|at| valid[at].as_bytes()).concat())
        };
        let mut client = target.connect();
        let split_at = index(&mut random, bytes.len());
        let _ = client.send(&bytes[..split_at]);
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = client.send(&bytes[split_at..]);
        client.shutdown_write();
        // Every response must be well-formed, and the connection must close after the last one.
        while let Ok(response) = client.read_response(false) {
            assert!(response.head.starts_with("HTTP/1.1 "), "{n}: {}", response.head);
            assert!(response.status < 500 || [501, 505].contains(&response.status), "{response:?}");
        }
    }
    target.wait_until_connections_close();
    target.assert_healthy_and_stop();
}
