//! Measures random overwrites over several minutes, longer than the WAL can absorb them.

use crate::Options;
use crate::generator::{Measurement, Random, Span};
use crate::interrupt::sleep;
use crate::report::{Row, Table};
use crate::scale::count;
use crate::target::{self, Cores, KEY, Target};
use crate::workloads::{Generator, Load};
use base64::Engine as _;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Length of a value, in bytes.
const VALUE: usize = 1024;
/// Size of an item's key and value, in bytes.
const RAW: u64 = VALUE as u64 + KEY.len() as u64;
/// Number of lines in a batch.
const BATCH: u64 = 10_000;
/// Length of a window of the raw figures, in seconds.
const WINDOW: usize = 8;
const BURST: Span = (0, 3);
const MINUTE: usize = 60;
/// Number of items for the measurement with the server on one core.
const ONE_CORE_ITEMS: u64 = 1_000_000;
/// Number of connections that read during writes.
const READERS: usize = 8;
const WRITERS: usize = 64;

/// Makes the measurements for each number of items, and writes the table and the raw figures.
pub fn run_all(options: &Options) -> Result<(), String> {
    let mut sizes = options.items.clone();
    if sizes.is_empty() {
        sizes = vec![100_000, 1_000_000, 10_000_000];
    }
    // Keys have eight digits.
    if sizes.iter().any(|items| !(1..100_000_000).contains(items)) {
        return Err("--items must be at least 1 and less than 100,000,000".into());
    }
    let seconds = (options.minutes * MINUTE as f64).round();
    if !(2.0 * WINDOW as f64..=3600.0).contains(&seconds) {
        return Err("--minutes must be at least 0.27 and at most 60".into());
    }
    let largest = sizes.iter().copied().max().unwrap_or_default();
    let (mut table, mut raw) = (Table::default(), Vec::new());
    for items in sizes {
        let name = count(items);
        eprintln!("== {name}");
        let figures = json!({"items": items, "value_bytes": VALUE});
        let mut run =
            Run { options, items, name, seconds: seconds as usize, table: &mut table, figures };
        let measured = run.measure(items == largest);
        raw.push(run.figures);
        // If a measurement fails, the results before it are kept.
        write_results(options, &table, &raw)?;
        measured?;
    }
    println!("{}", table.markdown("measurement"));
    Ok(())
}

fn write_results(options: &Options, table: &Table, raw: &[Value]) -> Result<(), String> {
    fs::create_dir_all(&options.out).map_err(|e| e.to_string())?;
    let write = |file: &str, text: &str| {
        fs::write(options.out.join(file), text).map_err(|e| format!("{file}: {e}"))
    };
    let json = serde_json::to_string_pretty(raw).map_err(|e| e.to_string())?;
    write("sustained.md", &table.markdown("measurement"))?;
    write("sustained.json", &(json + "\n"))
}

/// The measurements with one number of items.
struct Run<'a> {
    options: &'a Options,
    items: u64,
    /// The column of the table.
    name: String,
    /// Duration of the sustained writes.
    seconds: usize,
    table: &'a mut Table,
    /// The raw figures.
    figures: Value,
}

/// The results of random overwrites.
struct Overwrites {
    whole: Measurement,
    burst: Measurement,
    /// The second minute, or the second half of a shorter run.
    sustained: Measurement,
    /// The lowest rate of a window.
    slowest: f64,
    device_bytes: Option<u64>,
}

impl<'a> Run<'a> {
    fn report(&mut self, row: Row) {
        eprintln!("{row}");
        self.table.add(&self.name, row);
    }

    fn report_value(&mut self, label: &str, value: f64) {
        self.report(Row::once(label, value));
    }

    fn measure(&mut self, largest: bool) -> Result<(), String> {
        let mut target = Target::start_on(Cores::Shared, "steadfast", &self.options.steadfast)?;
        load(&target, self.items)?;
        settle(&target)?;
        let quiet = self.quiet_reads(&target)?;
        self.overwrite(&target)?;
        self.reads_during_writes(&target, &quiet)?;
        let disk = target.disk();
        self.report_value("disk usage at the end, MB", disk);
        let live = (self.items * RAW) as f64 / 1e6;
        self.report_value("disk usage at the end / live data", disk / live);
        if largest {
            target.restart("KILL")?;
            check_item(&target)?;
            let millis = target.ready.as_secs_f64() * 1e3;
            self.report_value("time until ready after kill -9 at the end, ms", millis);
        }
        if self.items == ONE_CORE_ITEMS { self.one_core(&mut target) } else { Ok(()) }
    }

    fn generator(&self, target: &Target) -> Result<Generator<'a>, String> {
        Generator::with_random_values(target, self.options, self.items, VALUE)
    }

    /// Measures GET on the idle server. Returns the result with [`READERS`] connections.
    fn quiet_reads(&mut self, target: &Target) -> Result<Measurement, String> {
        let seconds = self.options.seconds;
        let mut last = Measurement::default();
        for (seed, connections) in [(1, WRITERS), (2, READERS)] {
            let load = Load { connections, seconds, read: "get", writes: 0, seed };
            (last, _) = self.generator(target)?.run_spans(&load, &[])?;
            let label = format!("GET, {connections} connections, idle, 1/s");
            self.report(Row::median(&label, &[last]));
        }
        Ok(last)
    }

    /// Measures random overwrites.
    fn overwrite(&mut self, target: &Target) -> Result<(), String> {
        let Overwrites { whole, burst, sustained, slowest, device_bytes } =
            self.run_overwrites(target, self.seconds, 3, "windows")?;
        let put = format!("PUT, {WRITERS} connections");
        self.report_value(&format!("{put}, burst (first 3 s), 1/s"), burst.rate);
        let part = sustained_part(self.seconds);
        self.report_value(&format!("{put}, sustained ({part}), 1/s"), sustained.rate);
        self.report_value("PUT, sustained / burst", sustained.rate / burst.rate);
        let label = format!("{put}, slowest window of {WINDOW} s, 1/s");
        self.report_value(&label, slowest);
        let label = format!("{put}, whole run of {} s, 1/s", self.seconds);
        self.report(Row::median(&label, &[whole]));
        self.report_value("PUT, longest request of the whole run, ms", whole.longest / 1e3);
        self.report_value("PUT, failed requests", whole.failures as f64);
        match device_bytes {
            Some(bytes) => {
                let puts = (whole.responses - whole.failures).max(1);
                let label = "bytes written to the device per PUT";
                self.report_value(label, bytes as f64 / puts as f64);
            }
            None => eprintln!("the data directory is not on a block device"),
        }
        Ok(())
    }

    /// Overwrites random items, and stores the raw figures under `name`.
    fn run_overwrites(
        &mut self,
        target: &Target,
        seconds: usize,
        seed: u64,
        name: &str,
    ) -> Result<Overwrites, String> {
        let windows = windows(seconds);
        let mut spans = vec![BURST, sustained_span(seconds)];
        spans.extend(&windows);
        let generator = self.generator(target)?;
        let load = put_load(seconds, seed);
        let (result, samples) = sample_device(target, || generator.run_spans(&load, &spans));
        let (whole, parts) = result?;
        let [burst, sustained, by_window @ ..] = &parts[..] else {
            return Err("the load generator printed too few lines".into());
        };
        let device =
            |window: usize| Some(samples.get(window + 1)?.saturating_sub(*samples.get(window)?));
        let figures = windows.iter().zip(by_window).enumerate();
        self.figures[name] = figures
            .map(|(number, (window, measured))| raw_window(*window, measured, device(number)))
            .collect();
        let rates = by_window.iter().map(|window| window.rate);
        let device_bytes =
            samples.first().zip(samples.last()).map(|(first, last)| last.saturating_sub(*first));
        Ok(Overwrites {
            whole,
            burst: *burst,
            sustained: *sustained,
            slowest: rates.fold(f64::INFINITY, f64::min),
            device_bytes,
        })
    }

    /// Measures GET during the same overwrites, for up to a minute.
    fn reads_during_writes(&mut self, target: &Target, quiet: &Measurement) -> Result<(), String> {
        let seconds = self.seconds.min(MINUTE);
        let generator = self.generator(target)?;
        let puts = put_load(seconds, 4);
        let gets = Load { connections: READERS, writes: 0, seed: 5, ..puts };
        let (puts, gets) = std::thread::scope(|scope| {
            let puts = scope.spawn(|| generator.run_spans(&puts, &[]));
            let gets = generator.run_spans(&gets, &[]);
            (puts.join().map_err(|_| "a thread panicked".to_owned()), gets)
        });
        let ((puts, _), (gets, _)) = (puts??, gets?);
        self.figures["put_per_s_during_gets"] = json!(puts.rate);
        let label = format!("GET, {READERS} connections, during PUTs on {WRITERS}, 1/s");
        self.report(Row::median(&label, &[gets]));
        let label = format!("GET, {READERS} connections, p99 during PUTs / p99 idle");
        self.report_value(&label, gets.p99 / quiet.p99);
        Ok(())
    }

    /// Measures overwrites for up to a minute with the server on one core and the load generator
    /// on the other.
    fn one_core(&mut self, target: &mut Target) -> Result<(), String> {
        target.cores = Cores::Separate;
        target.restart("TERM")?;
        settle(target)?;
        let seconds = self.seconds.min(MINUTE);
        let run = self.run_overwrites(target, seconds, 6, "windows_on_one_core")?;
        let label = format!("PUT, server on one core, burst (first {} s), 1/s", BURST.1);
        self.report_value(&label, run.burst.rate);
        let label = format!("PUT, server on one core, mean of {seconds} s, 1/s");
        self.report_value(&label, run.whole.rate);
        self.report_value("PUT, server on one core, mean / burst", run.whole.rate / run.burst.rate);
        Ok(())
    }
}

fn put_load(seconds: usize, seed: u64) -> Load<'static> {
    Load { connections: WRITERS, seconds: seconds as f64, read: "get", writes: 100, seed }
}

fn sustained_span(seconds: usize) -> Span {
    if seconds >= 2 * MINUTE { (MINUTE, 2 * MINUTE) } else { (seconds / 2, seconds) }
}

fn sustained_part(seconds: usize) -> &'static str {
    if seconds >= 2 * MINUTE { "second minute" } else { "second half" }
}

/// Returns the complete windows of a run.
fn windows(seconds: usize) -> Vec<Span> {
    (0..seconds / WINDOW).map(|number| (number * WINDOW, (number + 1) * WINDOW)).collect()
}

fn raw_window((from, to): Span, measured: &Measurement, device_bytes: Option<u64>) -> Value {
    json!({
        "from_s": from,
        "to_s": to,
        "put_per_s": measured.rate,
        "p50_ms": measured.p50 / 1e3,
        "p99_ms": measured.p99 / 1e3,
        "longest_ms": measured.longest / 1e3,
        "failures": measured.failures,
        "device_bytes": device_bytes,
    })
}

/// Reads the device's counter of written bytes before and after `work`, and once per window.
fn sample_device<T>(target: &Target, work: impl FnOnce() -> T) -> (T, Vec<u64>) {
    let mut samples = Vec::from_iter(target.device_bytes_written());
    let (stop, stopped) = sync_channel::<()>(0);
    let result = std::thread::scope(|scope| {
        let samples = &mut samples;
        scope.spawn(move || {
            let window = Duration::from_secs(WINDOW as u64);
            while stopped.recv_timeout(window) == Err(RecvTimeoutError::Timeout) {
                samples.extend(target.device_bytes_written());
            }
            samples.extend(target.device_bytes_written());
        });
        let result = work();
        drop(stop);
        result
    });
    (result, samples)
}

/// Loads items in batches on one connection. Each value is random.
pub fn load(target: &Target, items: u64) -> Result<(), String> {
    let mut stream = target.connect().map_err(|e| e.to_string())?;
    let mut random = Random::new(items);
    for from in (0..items).step_by(BATCH as usize) {
        let batch = random_batch(target, from, (from + BATCH).min(items), &mut random);
        target::send_checked(&mut stream, &batch)?;
    }
    Ok(())
}

/// Formats a batch of the items `from..to` with random values.
pub fn random_batch(target: &Target, from: u64, to: u64, random: &mut Random) -> Vec<u8> {
    let (mut lines, mut value) = (String::new(), vec![0; VALUE]);
    for key in from..to {
        random.fill(&mut value);
        let value = base64::engine::general_purpose::STANDARD.encode(&value);
        let _ = writeln!(lines, "{{\"key\":\"k{key:08}\",\"value\":\"{value}\"}}");
    }
    target.batch_of_lines(lines.as_bytes())
}

/// Waits until the server has written less than 1 MB in five seconds: at least 15 seconds, and at
/// most ten minutes.
pub fn settle(target: &Target) -> Result<(), String> {
    let mut before = target.bytes_written();
    for check in 1..=120 {
        sleep(Duration::from_secs(5))?;
        let now = target.bytes_written();
        if check >= 3 && now.saturating_sub(before) < 1_000_000 {
            return Ok(());
        }
        before = now;
    }
    eprintln!("the server has not settled within ten minutes");
    Ok(())
}

fn check_item(target: &Target) -> Result<(), String> {
    let mut stream = target.connect().map_err(|e| e.to_string())?;
    target::send_checked(&mut stream, &target.get("k00000000"))
}
