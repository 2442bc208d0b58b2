//! The load generator: one thread with many connections and one request in flight on each. It does
//! little work per request, so the server is the bottleneck.

use rustix::event::{Timespec, epoll};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A request with a placeholder for the key.
pub struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Template {
    /// Creates a template from a request that contains the placeholder `KKKKKKKKK`.
    pub fn parse(request: &[u8]) -> Option<Template> {
        let at = request.windows(9).position(|nine| nine == b"KKKKKKKKK")?;
        Some(Template { before: request[..at].to_vec(), after: request[at + 9..].to_vec() })
    }

    fn fill(&self, key: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.before);
        let _ = write!(out, "k{key:08}");
        out.extend_from_slice(&self.after);
    }
}

/// The result of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measurement {
    /// Responses per second.
    pub rate: f64,
    /// Median latency in microseconds.
    pub p50: f64,
    /// 99th percentile latency in microseconds.
    pub p99: f64,
    /// Unsuccessful responses.
    pub failures: u64,
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    sent: usize,
    began: Instant,
    head: Vec<u8>,
    /// Number of bytes of the body that have not been read yet; set once the head is complete.
    remaining: Option<usize>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

/// Runs the subcommand `load PORT CONNECTIONS SECONDS KEYS SEED READ WRITE WRITES`. READ and WRITE
/// are template files, and WRITES is the percentage of writes. Prints rate, p50, p99 and failures.
pub fn main(args: impl Iterator<Item = String>) -> Result<(), String> {
    let args: Vec<String> = args.collect();
    let [port, connections, seconds, keys, seed, read, write, writes] = &args[..] else {
        return Err("load PORT CONNECTIONS SECONDS KEYS SEED READ WRITE WRITES".into());
    };
    let file = |path: &String| {
        let bytes = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
        Template::parse(&bytes).ok_or(format!("{path} has no key placeholder"))
    };
    let load = Load {
        port: crate::number(port)?,
        connections: crate::number(connections)?,
        duration: Duration::from_secs_f64(crate::number(seconds)?),
        keys: crate::number(keys)?,
        read: file(read)?,
        write: file(write)?,
        writes: crate::number(writes)?,
    };
    let m = load.run(crate::number(seed)?).map_err(|e| e.to_string())?;
    println!("{} {} {} {}", m.rate, m.p50, m.p99, m.failures);
    Ok(())
}

struct Load {
    port: u16,
    connections: usize,
    duration: Duration,
    keys: u64,
    read: Template,
    write: Template,
    writes: u64,
}

impl Load {
    fn run(&self, seed: u64) -> io::Result<Measurement> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut open = Vec::new();
        for number in 0..self.connections {
            let stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
            let (request, head, began) = (Vec::new(), Vec::new(), Instant::now());
            open.push(Connection { stream, request, sent: 0, began, head, remaining: None });
        }
        let (mut times, mut failures) = (Vec::new(), 0);
        let begin = Instant::now();
        for connection in &mut open {
            self.next(connection, &mut random)?;
        }
        let mut events = Vec::with_capacity(256);
        let mut buffer = vec![0; 1 << 18];
        let wait = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        while begin.elapsed() < self.duration {
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&poll, spare, Some(&wait))?;
            for event in &events {
                let connection = &mut open[event.data.u64() as usize];
                match connection.advance(&mut buffer) {
                    Ok(None) => {}
                    Ok(Some(status)) => {
                        times.push(connection.began.elapsed().as_micros() as u32);
                        failures += u64::from(!(200..300).contains(&status));
                        self.next(connection, &mut random)?;
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        let took = begin.elapsed().as_secs_f64();
        times.sort_unstable();
        let at =
            |part: f64| times.get((times.len() as f64 * part) as usize).map_or(0.0, |t| *t as f64);
        Ok(Measurement { rate: times.len() as f64 / took, p50: at(0.5), p99: at(0.99), failures })
    }

    fn next(&self, connection: &mut Connection, random: &mut Random) -> io::Result<()> {
        let write = random.below(100) < self.writes;
        let template = if write { &self.write } else { &self.read };
        template.fill(random.below(self.keys), &mut connection.request);
        (connection.sent, connection.remaining) = (0, None);
        connection.head.clear();
        connection.began = Instant::now();
        connection.flush()
    }
}

impl Connection {
    fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(sent) => self.sent += sent,
                // This is rare, because requests are small relative to the socket buffer.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads available bytes; returns the status once the response is complete.
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<Option<u16>> {
        let read = match self.stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut fresh = &buffer[..read];
        if self.remaining.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(fresh);
            let end = self.head.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return Ok(None) };
            fresh = &fresh[end + 4 - before..];
            self.head.truncate(end);
            self.remaining = Some(length(&self.head));
        }
        let remaining = self.remaining.unwrap_or(0).saturating_sub(fresh.len());
        self.remaining = Some(remaining);
        if remaining > 0 {
            return Ok(None);
        }
        let status = self.head.get(9..12).and_then(|code| std::str::from_utf8(code).ok());
        Ok(Some(status.and_then(|code| code.parse().ok()).unwrap_or(0)))
    }
}

/// Returns the Content-Length in a response's head.
pub fn length(head: &[u8]) -> usize {
    let lines = head.split(|byte| *byte == b'\n');
    let mut value = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then_some(value)
    });
    let value = value.next_back().and_then(|value| std::str::from_utf8(value).ok());
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
