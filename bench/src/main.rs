//! Compares the performance of Steadfast with a baseline and other servers. See METHOD.md.

mod baseline;
mod generator;
mod interrupt;
mod memory;
mod report;
mod scale;
mod sustained;
mod target;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: steadfast-bench [--seconds N] [--reps N] [--steadfast BINARY] [--out DIR] [TARGET...]
       steadfast-bench scale [--part disk|contention|growth] [--items N] [--seconds N] [--reps N]
                             [--steadfast BINARY] [--out DIR]
       steadfast-bench sustained [--items N[,N...]] [--minutes M] [--seconds N]
                                 [--steadfast BINARY] [--out DIR]
       steadfast-bench memory [--seconds N] [--steadfast BINARY] [--out DIR]

Runs every workload on each target and prints a table. Targets: baseline, baseline-prealloc,
steadfast, nginx, webdis (default: all that are installed).
'scale' measures Steadfast alone, in three parts: disk usage, reads under contention, and growth to
many items (10,000,000; 12 GB of disk).
'sustained' overwrites random items for M minutes (default 5), with each number of items (default
100000,1000000,10000000).
'memory' measures the memory that Steadfast retains after a burst.
The server runs on core 0 and the load generator on core 1. In 'sustained' and 'memory', they share
both cores.";

/// The benchmark to run.
#[derive(Clone, Copy)]
enum Mode {
    Compare,
    Scale,
    Sustained,
    Memory,
}

/// The command line options.
struct Options {
    seconds: f64,
    reps: usize,
    steadfast: PathBuf,
    out: PathBuf,
    targets: Vec<String>,
    /// The numbers of items; empty for the default of the mode.
    items: Vec<u64>,
    /// The duration of sustained writes, in minutes.
    minutes: f64,
    mode: Mode,
    /// The part of `scale` to run; empty for all.
    part: String,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut options = Options {
        seconds: 4.0,
        reps: 3,
        steadfast: here.join("../target/release/steadfast"),
        out: here.join("results"),
        targets: Vec::new(),
        items: Vec::new(),
        minutes: 5.0,
        mode: Mode::Compare,
        part: String::new(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--seconds" => options.seconds = number(&value()?)?,
            "--reps" => options.reps = number(&value()?)?,
            "--steadfast" => options.steadfast = value()?.into(),
            "--out" => options.out = value()?.into(),
            "--items" => {
                options.items = value()?.split(',').map(number).collect::<Result<_, _>>()?;
            }
            "--minutes" => options.minutes = number(&value()?)?,
            "scale" => options.mode = Mode::Scale,
            "sustained" => options.mode = Mode::Sustained,
            "memory" => options.mode = Mode::Memory,
            "--part" => options.part = value()?,
            "-h" | "--help" => return Err(USAGE.into()),
            name if target::NAMES.contains(&name) => options.targets.push(arg),
            _ => return Err(format!("{arg} is neither an option nor a target\n\n{USAGE}")),
        }
    }
    Ok(options)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    // The baseline server and the load generator are subcommands of this program.
    let done = if args.next_if(|arg| arg == "serve-baseline").is_some() {
        baseline::serve(args)
    } else if args.next_if(|arg| arg == "load").is_some() {
        generator::main(args)
    } else {
        parse(args).and_then(|options| {
            interrupt::catch()?;
            match options.mode {
                Mode::Compare => workloads::run_all(&options),
                Mode::Scale => scale::run_all(&options),
                Mode::Sustained => sustained::run_all(&options),
                Mode::Memory => memory::run(&options),
            }
        })
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(2)
        }
    }
}
