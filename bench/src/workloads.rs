//! Runs the workloads, with the load generator in a separate process.

use crate::Options;
use crate::generator::{Measurement, Span};
use crate::report::{Row, Table};
use crate::target::{self, Cores, KEY, Target};
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// Number of keys. Each value is 1 KB long.
const KEYS: u64 = 100_000;
const VALUE: usize = 1024;
/// Number of lines in a batch.
const BATCH: usize = 10_000;
/// Number of concurrent batches.
const BATCHES_AT_ONCE: usize = 4;
const MB: usize = 1 << 20;

/// Runs all workloads on all targets and writes the table.
pub fn run_all(options: &Options) -> Result<(), String> {
    let installed = |name: &&str| target::installed(name, &options.steadfast);
    let named = |name: &&str| {
        options.targets.is_empty() && installed(name) || options.targets.iter().any(|t| t == name)
    };
    let mut table = Table::default();
    for name in target::NAMES.into_iter().filter(named) {
        if !installed(&name) {
            return Err(format!("{name} is not installed"));
        }
        eprintln!("== {name}");
        for row in run_target(name, options)? {
            eprintln!("{row}");
            table.add(name, row);
        }
    }
    fs::create_dir_all(&options.out).map_err(|e| e.to_string())?;
    let write = |file: &str, text: &str| {
        fs::write(options.out.join(file), text).map_err(|e| format!("{file}: {e}"))
    };
    write("table.md", &table.markdown("workload"))?;
    write("table.svg", &table.svg())?;
    println!("{}", table.markdown("workload"));
    Ok(())
}

/// Returns a value of `len` letters.
pub fn value(len: usize) -> Vec<u8> {
    (0..len).map(|i| b'a' + ((i * 31 + i / 7) % 26) as u8).collect()
}

fn run_target(name: &'static str, options: &Options) -> Result<Vec<Row>, String> {
    let target = Target::start(name, &options.steadfast)?;
    let mut rows = vec![
        Row::once("time until ready, ms", target.ready.as_secs_f64() * 1e3),
        Row::once("memory when idle, MB", target.rss()),
    ];
    let baseline = name.starts_with("baseline");
    if let Some(row) = batch_load(&target)? {
        rows.push(row);
    } else {
        put_all(&target)?;
    }
    rows.push(Row::once("memory after 100k items, MB", target.rss()));
    let generator = Generator::new(&target, options, KEYS)?;
    let median = |label: &str, run: &dyn Fn(u64) -> Result<Measurement, String>| {
        let runs: Result<Vec<_>, _> = (1..=options.reps as u64).map(run).collect();
        Ok::<_, String>(Row::median(label, &runs?))
    };
    for connections in [1, 16, 64] {
        let run = |seed| generator.run(connections, "get", 0, seed);
        rows.push(median(&format!("GET, {connections} connections, 1/s"), &run)?);
    }
    let hot = Generator::new(&target, options, 1)?;
    rows.push(median("GET of one key, 64 connections, 1/s", &|seed| hot.run(64, "get", 0, seed))?);
    if target.list().is_some() {
        let run = |seed| generator.run(16, "list", 0, seed);
        rows.push(median("list of 1000 keys, 16 connections, 1/s", &run)?);
    }
    for connections in [1, 16, 64] {
        let run = |seed| generator.run(connections, "get", 100, seed);
        rows.push(median(&format!("PUT, {connections} connections, 1/s"), &run)?);
    }
    let run = |seed| generator.run(64, "get", 5, seed);
    rows.push(median("95 % GET, 5 % PUT, 64 connections, 1/s", &run)?);
    for (label, size, connections) in [("1 MB", MB, 4), ("25 MB", 25 * MB, 2)] {
        let put = |_| large_values(&target, size, connections, true, options.seconds);
        rows.push(median(&format!("PUT of {label}, {connections} connections, MB/s"), &put)?);
        let get = |_| large_values(&target, size, connections, false, options.seconds);
        rows.push(median(&format!("GET of {label}, {connections} connections, MB/s"), &get)?);
    }
    if !baseline {
        rows.push(Row::once("memory at the end, MB", target.rss()));
        std::thread::sleep(Duration::from_secs(5));
        rows.push(Row::once("disk usage at the end, settled, MB", target.disk()));
    }
    Ok(rows)
}

/// Loads all keys in batches three times; returns the median rate.
fn batch_load(target: &Target) -> Result<Option<Row>, String> {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("k{key:08}")).collect();
    let value = value(VALUE);
    let batches: Option<Vec<_>> =
        keys.chunks(BATCH).map(|c| target.batch(c, &value, None)).collect();
    let Some(batches) = batches else { return Ok(None) };
    let mut rates = Vec::new();
    for _ in 0..3 {
        let begin = Instant::now();
        let share = batches.len().div_ceil(BATCHES_AT_ONCE);
        let sent: Result<(), String> = std::thread::scope(|scope| {
            let send = |part: &[Vec<u8>]| {
                part.iter().try_for_each(|request| target.send(request).map(|_| ()))
            };
            let threads: Vec<_> =
                batches.chunks(share).map(|part| scope.spawn(move || send(part))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| "a thread panicked")?.map_err(|e| e.to_string())
            })
        });
        sent?;
        rates.push(KEYS as f64 / begin.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(Some(Row::once("batch load of 100k items, items/s", rates[1])))
}

fn put_all(target: &Target) -> Result<(), String> {
    let value = value(VALUE);
    let mut stream = TcpStream::connect(("127.0.0.1", target.port())).map_err(|e| e.to_string())?;
    for key in 0..KEYS {
        let request = target.put(&format!("k{key:08}"), &value);
        stream.write_all(&request).map_err(|e| e.to_string())?;
        target::read_response(&mut stream).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Runs this program as the load generator.
pub struct Generator<'o> {
    dir: tempfile::TempDir,
    port: u16,
    cores: Cores,
    options: &'o Options,
    keys: u64,
}

/// The parameters of a run of the load generator.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    pub connections: usize,
    pub seconds: f64,
    /// The template of read requests.
    pub read: &'a str,
    /// The percentage of PUT requests.
    pub writes: u64,
    pub seed: u64,
}

impl Generator<'_> {
    /// Creates a generator that sends requests for `keys` keys.
    pub fn new<'o>(
        target: &Target,
        options: &'o Options,
        keys: u64,
    ) -> Result<Generator<'o>, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let write = |file: &str, request: &[u8]| {
            fs::write(dir.path().join(file), request).map_err(|e| e.to_string())
        };
        write("get", &target.get(KEY))?;
        write("put", &target.put(KEY, &value(VALUE)))?;
        if let Some(list) = target.list() {
            write("list", &list)?;
        }
        Ok(Generator { dir, port: target.port(), cores: target.cores, options, keys })
    }

    /// Creates a generator whose PUT requests have random values of `len` bytes.
    pub fn with_random_values<'o>(
        target: &Target,
        options: &'o Options,
        keys: u64,
        len: usize,
    ) -> Result<Generator<'o>, String> {
        let generator = Generator::new(target, options, keys)?;
        let put = target.put(KEY, &vec![0; len]);
        fs::write(generator.dir.path().join("put"), put).map_err(|e| e.to_string())?;
        Ok(generator)
    }

    /// Sends requests on the given number of connections. `writes` percent of them are PUT
    /// requests, and the rest use the template `read`.
    pub fn run(
        &self,
        connections: usize,
        read: &str,
        writes: u64,
        seed: u64,
    ) -> Result<Measurement, String> {
        let seconds = self.options.seconds;
        let load = Load { connections, seconds, read, writes, seed };
        self.run_spans(&load, &[]).map(|(whole, _)| whole)
    }

    /// Runs a load. Returns the result of the whole run and of each span of seconds.
    pub fn run_spans(
        &self,
        load: &Load<'_>,
        spans: &[Span],
    ) -> Result<(Measurement, Vec<Measurement>), String> {
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        let output = Command::new("taskset")
            .args(["-c", self.cores.of_generator()])
            .arg(this)
            .args(["load", &self.port.to_string(), &load.connections.to_string()])
            .args([&load.seconds.to_string(), &self.keys.to_string(), &load.seed.to_string()])
            .args([self.dir.path().join(load.read), self.dir.path().join("put")])
            .arg(load.writes.to_string())
            .args(spans.iter().map(|(from, to)| format!("{from}-{to}")))
            .output()
            .map_err(|e| e.to_string())?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("the load generator failed: {} {reason}", output.status));
        }
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = stdout.lines().map(str::parse);
        let whole = lines.next().ok_or("the load generator printed nothing")??;
        Ok((whole, lines.collect::<Result<_, _>>()?))
    }
}

/// Transfers large values on blocking connections. The rate is in MB/s.
fn large_values(
    target: &Target,
    size: usize,
    connections: usize,
    put: bool,
    seconds: f64,
) -> Result<Measurement, String> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let begin = Instant::now();
    let value = if put { value(size) } else { Vec::new() };
    let run = |number: usize| -> std::io::Result<u64> {
        // In the baseline, the key selects the size of the response.
        let key =
            if target.list().is_some() { format!("b{size}-{number}") } else { format!("b{size}") };
        let request = if put { target.put(&key, &value) } else { target.get(&key) };
        let mut stream = TcpStream::connect(("127.0.0.1", target.port()))?;
        stream.set_nodelay(true)?;
        let mut done = 0;
        while Instant::now() < end {
            stream.write_all(&request)?;
            target::read_response(&mut stream)?;
            done += 1;
        }
        Ok(done)
    };
    let done: Result<Vec<u64>, String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|n| scope.spawn(move || run(n))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, std::io::Result<u64>>| {
            thread.join().map_err(|_| "a thread panicked")?.map_err(|e| e.to_string())
        };
        threads.into_iter().map(join).collect()
    });
    let bytes = done?.iter().sum::<u64>() as f64 * size as f64;
    let rate = bytes / 1e6 / begin.elapsed().as_secs_f64();
    Ok(Measurement { rate, ..Measurement::default() })
}
