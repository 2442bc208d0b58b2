//! Measures how Steadfast scales: disk usage, read latency under contention, and latency, memory
//! and startup time as the store grows.

use crate::generator::Measurement;
use crate::report::Row;
use crate::target::Target;
use crate::workloads::{Generator, value};
use crate::{Options, target};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SMALL: u64 = 10_000;
const MIDDLE: u64 = 100_000;
const EXPIRING: u64 = 1_000_000;
const VALUE: usize = 1024;
/// Size of an item's key and value, in bytes.
const RAW: f64 = (VALUE + 9) as f64;
/// Idle time after which all background work is complete.
const SETTLED: Duration = Duration::from_secs(15);

/// Runs all parts and writes the table.
pub fn run_all(options: &Options) -> Result<(), String> {
    let mut rows = Vec::new();
    let mut report = |row: Row| {
        eprintln!("{row}");
        rows.push(row);
    };
    let wanted = |part: &str| options.part.is_empty() || options.part == part;
    if wanted("disk") {
        disk(options, &mut report)?;
    }
    if wanted("contention") {
        contention(options, &mut report)?;
    }
    if wanted("growth") {
        growth(options, &mut report)?;
    }
    if rows.is_empty() {
        return Err(format!("{} is not a part: disk, contention or growth", options.part));
    }
    let mut text = String::from("| measurement | result |\n|---|---|\n");
    for row in &rows {
        let _ = writeln!(text, "| {} | {} |", row.label(), row.cell());
    }
    fs::create_dir_all(&options.out).map_err(|e| e.to_string())?;
    fs::write(options.out.join("scale.md"), &text).map_err(|e| e.to_string())?;
    println!("{text}");
    Ok(())
}

/// Loads the items `from..to` in batches on one connection.
fn load(target: &Target, from: u64, to: u64, ttl_secs: Option<u64>) -> Result<(), String> {
    let mut stream = connect(target)?;
    let mut next = from;
    while next < to {
        let end = (next + 10_000).min(to);
        send(&mut stream, &batch(target, next, end, ttl_secs)?)?;
        next = end;
    }
    Ok(())
}

/// Creates a batch of the items `from..to`.
fn batch(target: &Target, from: u64, to: u64, ttl_secs: Option<u64>) -> Result<Vec<u8>, String> {
    let keys: Vec<String> = (from..to).map(|key| format!("k{key:08}")).collect();
    target.batch(&keys, &value(VALUE), ttl_secs).ok_or("the target does not support batches".into())
}

fn connect(target: &Target) -> Result<TcpStream, String> {
    TcpStream::connect(("127.0.0.1", target.port())).map_err(|e| e.to_string())
}

fn send(stream: &mut TcpStream, request: &[u8]) -> Result<(), String> {
    let answered = stream.write_all(request).and_then(|()| target::read_response(stream));
    answered.map(|_| ()).map_err(|e| e.to_string())
}

/// Measures disk usage relative to the bytes of keys and values.
fn disk(options: &Options, report: &mut impl FnMut(Row)) -> Result<(), String> {
    let target = Target::start("steadfast", &options.steadfast)?;
    let raw = MIDDLE as f64 * RAW / 1e6;
    let mut settled = |label: &str| {
        std::thread::sleep(SETTLED);
        report(Row::once(&format!("disk usage / raw data, {label}, settled"), target.disk() / raw));
    };
    load(&target, 0, MIDDLE, None)?;
    settled("after loading 100k items of 1 KB");
    for _ in 0..2 {
        load(&target, 0, MIDDLE, None)?;
    }
    settled("after overwriting all items twice");
    let mut stream = TcpStream::connect(("127.0.0.1", target.port())).map_err(|e| e.to_string())?;
    for key in (0..MIDDLE).filter(|key| key % 10 != 0) {
        let delete = target.delete(&format!("k{key:08}"));
        stream.write_all(&delete).map_err(|e| e.to_string())?;
        target::read_response(&mut stream).map_err(|e| e.to_string())?;
    }
    settled("after deleting 90 % of the items");
    Ok(())
}

/// Measures GET with 64 connections on an idle server, during batches, during checkpoints, and
/// during the removal of expired items.
fn contention(options: &Options, report: &mut impl FnMut(Row)) -> Result<(), String> {
    let target = Target::start("steadfast", &options.steadfast)?;
    load(&target, 0, MIDDLE, None)?;
    std::thread::sleep(SETTLED);
    let generator = Generator::new(&target, options, MIDDLE)?;
    let gets = |label: &str| -> Result<Row, String> {
        let runs: Result<Vec<Measurement>, _> =
            (1..=options.reps as u64).map(|seed| generator.run(64, "get", 0, seed)).collect();
        Ok(Row::median(label, &runs?))
    };
    report(gets("GET, 64 connections, idle, 1/s")?);
    // Repeats `work` until the reads have been measured.
    let during = |work: &(dyn Fn() -> Result<(), String> + Sync), label: &str| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                // Yield to the load generator, which runs on the same core.
                rustix::process::nice(19).map_err(|e| e.to_string())?;
                while !stop.load(Ordering::Relaxed) {
                    work()?;
                }
                Ok::<_, String>(())
            });
            let row = gets(label);
            stop.store(true, Ordering::Relaxed);
            worker.join().map_err(|_| "a thread panicked")??;
            row
        })
    };
    let batches: Result<Vec<_>, _> = (10..20)
        .map(|part| batch(&target, part * MIDDLE / 10, (part + 1) * MIDDLE / 10, None))
        .collect();
    let batches = batches?;
    let batch = || {
        let mut stream = connect(&target)?;
        batches.iter().try_for_each(|batch| send(&mut stream, batch))
    };
    report(during(&batch, "GET, 64 connections, during batches of 100k items, 1/s")?);
    let puts = || writes(&generator);
    report(during(
        &puts,
        "GET, 64 connections, during PUTs on 16 connections, which trigger checkpoints, 1/s",
    )?);
    let ttl_secs = 30;
    load(&target, 2 * MIDDLE, 2 * MIDDLE + EXPIRING, Some(ttl_secs))?;
    std::thread::sleep(Duration::from_secs(ttl_secs));
    report(gets("GET, 64 connections, during the removal of 1M expired items, 1/s")?);
    Ok(())
}

fn writes(generator: &Generator<'_>) -> Result<(), String> {
    generator.run(16, "get", 100, 7).map(|_| ())
}

/// Measures latency with few and with many items, and memory, disk usage and startup time with
/// many items.
fn growth(options: &Options, report: &mut impl FnMut(Row)) -> Result<(), String> {
    let mut target = Target::start("steadfast", &options.steadfast)?;
    load(&target, 0, SMALL, None)?;
    std::thread::sleep(SETTLED);
    latencies(&target, options, SMALL, "10k items", report)?;
    let items = options.items.first().copied().unwrap_or(10_000_000);
    let many = count(items);
    let (begin, mut most) = (Instant::now(), 0_f64);
    let mut next = SMALL;
    while next < items {
        let end = (next + 100_000).min(items);
        load(&target, next, end, None)?;
        most = most.max(target.rss());
        next = end;
    }
    let rate = (items - SMALL) as f64 / begin.elapsed().as_secs_f64();
    report(Row::once(&format!("loading {many}, items/s"), rate));
    report(Row::once(&format!("memory while loading {many}, MB"), most));
    std::thread::sleep(SETTLED);
    let raw = items as f64 * RAW / 1e6;
    report(Row::once(&format!("disk usage / raw data, {many}"), target.disk() / raw));
    latencies(&target, options, items, &many, report)?;
    report(Row::once(&format!("memory with {many} under load, MB"), target.rss()));
    target.restart("KILL")?;
    report(Row::once(
        &format!("time until ready after kill -9 with {many}, ms"),
        millis(target.ready),
    ));
    std::thread::sleep(SETTLED);
    target.restart("TERM")?;
    let label = format!("time until ready after a clean shutdown with {many}, ms");
    report(Row::once(&label, millis(target.ready)));
    Ok(())
}

/// Formats a number of items.
pub fn count(items: u64) -> String {
    match items {
        items if items % 1_000_000 == 0 => format!("{}M items", items / 1_000_000),
        items if items % 1000 == 0 => format!("{}k items", items / 1000),
        items => format!("{items} items"),
    }
}

fn latencies(
    target: &Target,
    options: &Options,
    keys: u64,
    items: &str,
    report: &mut impl FnMut(Row),
) -> Result<(), String> {
    let generator = Generator::new(target, options, keys)?;
    for (label, connections, writes) in
        [("GET", 1, 0), ("GET", 64, 0), ("PUT", 1, 100), ("PUT", 64, 100)]
    {
        let runs: Result<Vec<Measurement>, _> = (1..=options.reps as u64)
            .map(|seed| generator.run(connections, "get", writes, seed))
            .collect();
        let label = format!("{label}, {connections} connections, {items}, 1/s");
        report(Row::median(&label, &runs?));
    }
    let prefix = format!("k{:05}", keys / 2 / 1000);
    let page = target.page(&prefix);
    let mut stream = TcpStream::connect(("127.0.0.1", target.port())).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        stream.write_all(&page).map_err(|e| e.to_string())?;
        target::read_response(&mut stream).map_err(|e| e.to_string())?;
        times.push(millis(begin.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    report(Row::once(&format!("list of 1000 keys in the middle of {items}, ms"), times[100]));
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
