//! A proxy in front of a server. It injects faults: it delays writes, rejects some of them and
//! drops responses. It can also hide the extensions, which the hosted service does not have.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The faults that a proxy injects. A write is a PUT or POST request. A period of 0 means never.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Returns 404 for every path below `/_/`.
    pub(crate) hosted_api_only: bool,
    /// Delays each write.
    pub(crate) write_delay: Duration,
    /// Rejects every n-th write with 503.
    pub(crate) reject_every: u64,
    /// Forwards every n-th write, and closes the connection instead of sending the response.
    pub(crate) drop_response_every: u64,
    /// Reverses every page of keys.
    pub(crate) reverse_keys: bool,
    /// Closes the connection after this many bytes of a chunked response; 0 means never.
    pub(crate) truncate_after: usize,
    /// The number of writes received.
    pub(crate) writes: Arc<AtomicU64>,
}

impl Faults {
    /// Returns the number of writes received.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }
}

/// Starts a proxy in front of the server at a port, and returns the port of the proxy. The proxy
/// runs until the process ends.
pub(crate) fn start(server: u16, faults: &Faults) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let faults = faults.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, faults) = (stream.unwrap(), faults.clone());
            // Either side may close the connection at any time.
            std::thread::spawn(move || serve(&stream, server, &faults).is_ok());
        }
    });
    port
}

/// Reads a head. Returns the head, decoded as Latin-1, and its `Content-Length`.
fn read_head(from: &mut BufReader<TcpStream>) -> std::io::Result<(String, usize)> {
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

fn serve(client: &TcpStream, server: u16, faults: &Faults) -> std::io::Result<()> {
    let mut downstream = BufReader::new(client.try_clone()?);
    let mut reply = client.try_clone()?;
    let mut upstream = BufReader::new(TcpStream::connect(("127.0.0.1", server))?);
    loop {
        let (request, length) = read_head(&mut downstream)?;
        let mut body = vec![0; length];
        downstream.read_exact(&mut body)?;
        if faults.hosted_api_only && request.contains(" /_/") {
            let body = "{\"msg\":\"Record not found\"}";
            let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
            send(&mut reply, &head, body.as_bytes())?;
            continue;
        }
        let write = request.starts_with("PUT") || request.starts_with("POST");
        let nth = if write { faults.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        let is_nth = |period: u64| period > 0 && nth > 0 && nth.is_multiple_of(period);
        if write {
            std::thread::sleep(faults.write_delay);
        }
        if is_nth(faults.reject_every) {
            let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            send(&mut reply, head, b"")?;
            continue;
        }
        send(upstream.get_mut(), &request, &body)?;
        let (response, length) = read_head(&mut upstream)?;
        if response.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            return forward_chunked(&response, upstream, reply, faults.truncate_after);
        }
        let mut body = vec![0; if request.starts_with("HEAD") { 0 } else { length }];
        upstream.read_exact(&mut body)?;
        if is_nth(faults.drop_response_every) {
            return client.shutdown(std::net::Shutdown::Both);
        }
        if faults.reverse_keys && request.starts_with("GET") && request.contains("/keys?") {
            let mut page: serde_json::Value = serde_json::from_slice(&body).unwrap();
            page["data"].as_array_mut().unwrap().reverse();
            body = page.to_string().into_bytes();
            assert_eq!(body.len(), length, "the length of the page has changed");
        }
        send(&mut reply, &response, &body)?;
    }
}

/// Forwards a chunked response to its end or to `limit` bytes, then closes the connection.
fn forward_chunked(
    head: &str,
    mut upstream: BufReader<TcpStream>,
    mut reply: TcpStream,
    limit: usize,
) -> std::io::Result<()> {
    send(&mut reply, head, b"")?;
    let (mut remaining, mut piece) = (if limit == 0 { usize::MAX } else { limit }, vec![0; 4096]);
    while remaining > 0 {
        let read = upstream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        let forwarded = read.min(remaining);
        remaining -= forwarded;
        reply.write_all(&piece[..forwarded])?;
        if piece[..read].ends_with(b"\r\n0\r\n\r\n") {
            break;
        }
    }
    reply.shutdown(std::net::Shutdown::Both)
}
