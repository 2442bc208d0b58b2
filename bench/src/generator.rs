//! The load generator: one thread with many connections and one request in flight on each. It does
//! little work per request, so the server is the bottleneck.

use rustix::event::{Timespec, epoll};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A request with a placeholder for the key.
pub struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
    /// Number of bytes at the end of `after` that are replaced with random bytes.
    random_bytes: usize,
}

impl Template {
    /// Creates a template from a request that contains the placeholder `KKKKKKKKK`. Zeros at the
    /// end of the request are a placeholder for random bytes.
    pub fn parse(request: &[u8]) -> Option<Template> {
        let at = request.windows(9).position(|nine| nine == b"KKKKKKKKK")?;
        let (before, after) = (request[..at].to_vec(), request[at + 9..].to_vec());
        let random_bytes = after.iter().rev().take_while(|byte| **byte == 0).count();
        Some(Template { before, after, random_bytes })
    }

    fn fill(&self, key: u64, random: &mut Random, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.before);
        let _ = write!(out, "k{key:08}");
        out.extend_from_slice(&self.after);
        let value = out.len() - self.random_bytes;
        random.fill(&mut out[value..]);
    }
}

/// A part of a run: the number of its first second, and the number of the second after its end.
pub type Span = (usize, usize);

/// The result of a run or of a part of it.
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
    /// Longest latency in microseconds. For a whole run, this includes the time that unanswered
    /// requests had taken when the run ended.
    pub longest: f64,
    /// All responses.
    pub responses: u64,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measurement { rate, p50, p99, failures, longest, responses } = self;
        write!(f, "{rate} {p50} {p99} {failures} {longest} {responses}")
    }
}

impl FromStr for Measurement {
    type Err = String;

    fn from_str(line: &str) -> Result<Measurement, String> {
        let numbers: Vec<&str> = line.split_whitespace().collect();
        let [rate, p50, p99, failures, longest, responses] = numbers[..] else {
            return Err(format!("unexpected output of the load generator: {line}"));
        };
        Ok(Measurement {
            rate: crate::number(rate)?,
            p50: crate::number(p50)?,
            p99: crate::number(p99)?,
            failures: crate::number(failures)?,
            longest: crate::number(longest)?,
            responses: crate::number(responses)?,
        })
    }
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

/// A xorshift generator of random numbers.
pub struct Random(u64);

impl Random {
    /// Creates a generator.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// Overwrites `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Runs the subcommand `load PORT CONNECTIONS SECONDS KEYS SEED READ WRITE WRITES [FROM-TO...]`.
/// READ and WRITE are template files, and WRITES is the percentage of writes. Prints a line with
/// rate, p50, p99, failures, longest latency and responses for the whole run, and one for each
/// span of seconds.
pub fn main(args: impl Iterator<Item = String>) -> Result<(), String> {
    let args: Vec<String> = args.collect();
    let [port, connections, seconds, keys, seed, read, write, writes, spans @ ..] = &args[..]
    else {
        return Err("load PORT CONNECTIONS SECONDS KEYS SEED READ WRITE WRITES [FROM-TO...]".into());
    };
    let file = |path: &String| {
        let bytes = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
        Template::parse(&bytes).ok_or(format!("{path} has no key placeholder"))
    };
    let spans: Result<Vec<Span>, String> = spans.iter().map(|text| span(text)).collect();
    let spans = spans?;
    let load = Load {
        port: crate::number(port)?,
        connections: crate::number(connections)?,
        duration: Duration::from_secs_f64(crate::number(seconds)?),
        keys: crate::number(keys)?,
        read: file(read)?,
        write: file(write)?,
        writes: crate::number(writes)?,
    };
    let recording = load.run(crate::number(seed)?).map_err(|e| e.to_string())?;
    println!("{}", recording.whole());
    for span in spans {
        println!("{}", recording.part(span));
    }
    Ok(())
}

fn span(text: &str) -> Result<Span, String> {
    let (from, to) = text.split_once('-').ok_or(format!("{text} is not a span of seconds"))?;
    let (from, to) = (crate::number(from)?, crate::number(to)?);
    if from < to { Ok((from, to)) } else { Err(format!("{text} is not a span of seconds")) }
}

/// All responses of a run.
#[derive(Default)]
struct Recording {
    /// Latencies in microseconds, in the order of the responses.
    latencies: Vec<u32>,
    /// Indices of unsuccessful responses in `latencies`.
    failures: Vec<usize>,
    /// Number of responses before each second of the run.
    before_second: Vec<usize>,
    /// Duration of the run in seconds.
    seconds: f64,
    /// Age of the oldest unanswered request at the end of the run, in microseconds.
    unanswered: f64,
}

impl Recording {
    fn add(&mut self, latency: Duration, status: u16) {
        if !(200..300).contains(&status) {
            self.failures.push(self.latencies.len());
        }
        self.latencies.push(latency.as_micros() as u32);
    }

    /// Records the number of responses before each second that has begun.
    fn mark_seconds(&mut self, elapsed: Duration) {
        while self.before_second.len() as u64 <= elapsed.as_secs() {
            self.before_second.push(self.latencies.len());
        }
    }

    fn whole(&self) -> Measurement {
        let all = self.measure(0, self.latencies.len(), self.seconds);
        Measurement { longest: all.longest.max(self.unanswered), ..all }
    }

    fn part(&self, (from, to): Span) -> Measurement {
        let index =
            |second: usize| self.before_second.get(second).copied().unwrap_or(self.latencies.len());
        self.measure(index(from), index(to), (to - from) as f64)
    }

    fn measure(&self, from: usize, to: usize, seconds: f64) -> Measurement {
        let mut sorted = self.latencies[from..to].to_vec();
        sorted.sort_unstable();
        let at = |part: f64| {
            sorted.get((sorted.len() as f64 * part) as usize).map_or(0.0, |t| *t as f64)
        };
        let failures_before = |end| self.failures.partition_point(|index| *index < end);
        Measurement {
            rate: sorted.len() as f64 / seconds,
            p50: at(0.5),
            p99: at(0.99),
            failures: (failures_before(to) - failures_before(from)) as u64,
            longest: sorted.last().map_or(0.0, |t| *t as f64),
            responses: sorted.len() as u64,
        }
    }
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
    fn run(&self, seed: u64) -> io::Result<Recording> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut random = Random::new(seed);
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
        let mut recording = Recording::default();
        let begin = Instant::now();
        for connection in &mut open {
            self.next(connection, &mut random)?;
        }
        let mut events = Vec::with_capacity(256);
        let mut buffer = vec![0; 1 << 18];
        let wait = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        loop {
            let elapsed = begin.elapsed();
            recording.mark_seconds(elapsed);
            if elapsed >= self.duration {
                break;
            }
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&poll, spare, Some(&wait))?;
            for event in &events {
                let connection = &mut open[event.data.u64() as usize];
                match connection.advance(&mut buffer) {
                    Ok(None) => {}
                    Ok(Some(status)) => {
                        recording.add(connection.began.elapsed(), status);
                        self.next(connection, &mut random)?;
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        recording.seconds = begin.elapsed().as_secs_f64();
        let ages = open.iter().map(|connection| connection.began.elapsed().as_micros() as f64);
        recording.unanswered = ages.fold(0.0, f64::max);
        Ok(recording)
    }

    fn next(&self, connection: &mut Connection, random: &mut Random) -> io::Result<()> {
        let write = random.below(100) < self.writes;
        let template = if write { &self.write } else { &self.read };
        let key = random.below(self.keys);
        template.fill(key, random, &mut connection.request);
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
        Ok(Some(status(&self.head)))
    }
}

/// Returns the status in a response's head, or 0 if there is none.
pub fn status(head: &[u8]) -> u16 {
    let code = head.get(9..12).and_then(|code| std::str::from_utf8(code).ok());
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
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
