//! Random bytes, and requests that were damaged at random.

use crate::Victim;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CONNECTIONS: usize = 3000;

/// A generator that needs no crate: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }
}

/// Damages a request: bytes changed, cut out, doubled, or put in.
fn damage(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    const PIECES: [&[u8]; 12] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b":",
        b"\r\n\r\n",
        b"%",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 18446744073709551615\r\n",
        b"Expect: 100-continue\r\n",
        b"\xff\xfe",
    ];
    for _ in 0..=random.below(4) {
        let (at, other) = (random.below(bytes.len()), random.below(bytes.len()));
        let (from, to) = (at.min(other), at.max(other));
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            3 => bytes.truncate(to),
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its environment and the clock")]
fn random_bytes_do_no_harm() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let given = std::env::var("STEADFAST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed: u64 = given.unwrap_or(now);
    println!("STEADFAST_SEED={seed}");
    let mut random = Random(seed | 1);
    let victim = Victim::new(&["--header-timeout", "5", "--body-timeout", "5"]);
    let wild = format!("/resources/stores/kv/{}", victim.store);
    let item = victim.item("wild");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let line = "{\"key\":\"wild\",\"value\":\"dmFsdWU=\",\"metadata\":\"m\"}\n";
    let length = format!("Content-Length: {}\r\n", line.len());
    let sound = [
        victim.head(&format!("PUT {item}"), "Content-Length: 5\r\nmetadata: m\r\n") + "value",
        victim.head(&format!("PUT {item}"), chunked) + "5;x=y\r\nvalue\r\n0\r\nt: u\r\n\r\n",
        victim.head(&format!("PUT {wild}/batch"), &length) + line,
        victim.head(&format!("GET {wild}/keys?prefix=a&limit=5&cursor=b"), ""),
        victim.head(&format!("GET {item}"), "Range: bytes=1-3\r\n"),
        victim.head(&format!("DELETE {item}?force=true"), ""),
        victim.head("POST /resources/stores/kv", "Content-Length: 14\r\n") + "{\"name\":\"wild\"}",
    ];
    for n in 0..CONNECTIONS {
        let bytes = if n % 5 == 0 {
            (0..random.below(2000)).map(|_| random.next() as u8).collect()
        } else {
            let pair = [random.below(sound.len()), random.below(sound.len())];
            damage(&mut random, pair.map(|at| sound[at].as_bytes()).concat())
        };
        let mut client = victim.connect();
        let cut = random.below(bytes.len());
        let _ = client.send(&bytes[..cut]);
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = client.send(&bytes[cut..]);
        client.shutdown_write();
        // Every answer is one, and then the connection ends.
        while let Ok(answer) = client.read_response(false) {
            assert!(answer.head.starts_with("HTTP/1.1 "), "{n}: {}", answer.head);
            assert!(answer.status < 500 || [501, 505].contains(&answer.status), "{n}: {answer:?}");
        }
    }
    victim.lets_go();
    victim.unharmed();
}
