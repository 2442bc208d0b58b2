//! What stands between a client and the server in a test: it hides what the hosted service has not,
//! slows requests down, refuses some, and loses answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What it does to requests.
#[derive(Clone, Default)]
pub(crate) struct Ways {
    /// Knows nothing under `/_/`.
    pub(crate) hosted: bool,
    /// Takes so long for each write.
    pub(crate) slow: Duration,
    /// Refuses every so manieth write with 503; 0 for none.
    pub(crate) busy: u64,
    /// Does every so manieth write, and cuts the connection instead of answering; 0 for none.
    pub(crate) lost: u64,
    /// Cuts an export after so many bytes; 0 for never.
    pub(crate) cut: usize,
    /// The writes that came.
    pub(crate) count: Arc<AtomicU64>,
}

impl Ways {
    /// How many writes came.
    pub(crate) fn writes(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

/// Stands before the server of a port; answers its own port.
pub(crate) fn between(server: u16, ways: &Ways) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ways = ways.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, ways) = (stream.unwrap(), ways.clone());
            // A connection that ends is nothing to tell of.
            std::thread::spawn(move || serve(&stream, server, &ways).is_ok());
        }
    });
    port
}

fn head(from: &mut BufReader<TcpStream>) -> std::io::Result<(String, usize)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
    });
    Ok((text, length.unwrap_or(0)))
}

fn send(to: &mut TcpStream, head: &str, body: &[u8]) -> std::io::Result<()> {
    to.write_all(&head.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>())?;
    to.write_all(body)
}

fn serve(client: &TcpStream, server: u16, ways: &Ways) -> std::io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut back = client.try_clone()?;
    let mut up = BufReader::new(TcpStream::connect(("127.0.0.1", server))?);
    loop {
        let (request, length) = head(&mut from)?;
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        if ways.hosted && request.contains(" /_/") {
            send(&mut back, nothing, b"")?;
            continue;
        }
        let write = request.starts_with("PUT") || request.starts_with("POST");
        let nth = if write { ways.count.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        let is = |every: u64| every > 0 && nth > 0 && nth.is_multiple_of(every);
        if write {
            std::thread::sleep(ways.slow);
        }
        if is(ways.busy) {
            let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            send(&mut back, busy, b"")?;
            continue;
        }
        send(up.get_mut(), &request, &body)?;
        let (answer, length) = head(&mut up)?;
        let chunked = answer.to_ascii_lowercase().contains("transfer-encoding: chunked");
        if chunked {
            return stream(&answer, up, back, ways.cut);
        }
        let mut body = vec![0; if request.starts_with("HEAD") { 0 } else { length }];
        up.read_exact(&mut body)?;
        if is(ways.lost) {
            return client.shutdown(std::net::Shutdown::Both);
        }
        send(&mut back, &answer, &body)?;
    }
}

/// Hands on what comes until the end of the connection, or for so many bytes.
fn stream(
    answer: &str,
    mut up: BufReader<TcpStream>,
    mut back: TcpStream,
    cut: usize,
) -> std::io::Result<()> {
    send(&mut back, answer, b"")?;
    let (mut left, mut piece) = (if cut == 0 { usize::MAX } else { cut }, vec![0; 4096]);
    while left > 0 {
        let read = up.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        let passed = read.min(left);
        left -= passed;
        back.write_all(&piece[..passed])?;
        // The end of a body in chunks; the connection is then as good as any other end.
        if piece[..read].ends_with(b"\r\n0\r\n\r\n") {
            break;
        }
    }
    back.shutdown(std::net::Shutdown::Both)
}
