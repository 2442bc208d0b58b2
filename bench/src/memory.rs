//! Measures the memory that the server retains after a burst.

use crate::Options;
use crate::generator::Random;
use crate::interrupt::sleep;
use crate::report::{Row, Table};
use crate::sustained::{load, random_batch, settle};
use crate::target::{Cores, KEY, Target, read_status_and_body, send_checked};
use crate::workloads::Generator;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

const ITEMS: u64 = 100_000;
const IDLE_CONNECTIONS: u64 = 10_000;
/// Size of all batches, in bytes.
const BATCHED: usize = 1_000_000_000;
/// Number of lines in a batch.
const BATCH: u64 = 10_000;
/// Number of concurrent batches.
const BATCHES_AT_ONCE: usize = 4;
const LARGE: usize = 25 << 20;
/// Number of concurrent PUT requests of large values.
const LARGE_AT_ONCE: usize = 64;
const QUIET: Duration = Duration::from_secs(60);

/// Measures resident memory before a burst and one minute after it, and writes the table.
pub fn run(options: &Options) -> Result<(), String> {
    raise_file_limit(IDLE_CONNECTIONS + 1000)?;
    let target = Target::start_on(Cores::Shared, "steadfast", &options.steadfast)?;
    load(&target, ITEMS)?;
    // Reads fill the read cache, which the server keeps.
    Generator::new(&target, options, ITEMS)?.run(64, "get", 0, 1)?;
    settle(&target)?;
    let before = target.rss();
    open_idle_connections(&target)?;
    send_batches(&target)?;
    let failures = put_large_values(&target)?;
    let during = target.rss();
    sleep(QUIET)?;
    let after = target.rss();
    let mut table = Table::default();
    for (label, value) in [
        ("memory before the burst, MB", before),
        ("memory at the end of the burst, MB", during),
        ("memory one minute after the burst, MB", after),
        ("memory one minute after the burst / before", after / before),
        ("failed PUTs of 25 MB", failures as f64),
    ] {
        table.add("result", Row::once(label, value));
    }
    let text = table.markdown("measurement");
    fs::create_dir_all(&options.out).map_err(|e| e.to_string())?;
    fs::write(options.out.join("memory.md"), &text).map_err(|e| e.to_string())?;
    println!("{text}");
    Ok(())
}

/// Raises the limit of open files of this process, which the server inherits.
fn raise_file_limit(files: u64) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < files) {
        limit.current = Some(files);
        setrlimit(Resource::Nofile, limit)
            .map_err(|e| format!("cannot raise the limit of open files to {files}: {e}"))?;
    }
    Ok(())
}

/// Opens connections, sends one request on each, and closes all of them.
fn open_idle_connections(target: &Target) -> Result<(), String> {
    let request = target.get("k00000000");
    let mut open = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let mut stream = target.connect().map_err(|e| e.to_string())?;
        send_checked(&mut stream, &request)?;
        open.push(stream);
    }
    Ok(())
}

/// Overwrites the items in batches until [`BATCHED`] bytes have been sent.
fn send_batches(target: &Target) -> Result<(), String> {
    let size = random_batch(target, 0, BATCH, &mut Random::new(1)).len();
    let share = BATCHED.div_ceil(size * BATCHES_AT_ONCE) as u64;
    let send = |thread: u64| {
        let mut stream = target.connect().map_err(|e| e.to_string())?;
        let mut random = Random::new(thread + 1);
        for number in 0..share {
            let from = (thread * share + number) * BATCH % ITEMS;
            send_checked(&mut stream, &random_batch(target, from, from + BATCH, &mut random))?;
        }
        Ok::<_, String>(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..BATCHES_AT_ONCE as u64).map(|thread| scope.spawn(move || send(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}

/// Sends concurrent PUT requests of large values. Returns the number of failed requests.
fn put_large_values(target: &Target) -> Result<usize, String> {
    let mut value = vec![0; LARGE];
    Random::new(2).fill(&mut value);
    let request = target.put(KEY, &value);
    let key = request.windows(KEY.len()).position(|bytes| bytes == KEY.as_bytes());
    let (before, after) = request.split_at(key.ok_or("the request has no key placeholder")?);
    let after = &after[KEY.len()..];
    let put = |number: usize| -> std::io::Result<u16> {
        let mut stream: TcpStream = target.connect()?;
        stream.write_all(&[before, format!("b{number:08}").as_bytes()].concat())?;
        stream.write_all(after)?;
        read_status_and_body(&mut stream).map(|(status, _)| status)
    };
    let put = &put;
    Ok(std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..LARGE_AT_ONCE).map(|number| scope.spawn(move || put(number))).collect();
        let statuses = threads.into_iter().map(|thread| thread.join());
        statuses.filter(|status| !matches!(status, Ok(Ok(200..300)))).count()
    }))
}
