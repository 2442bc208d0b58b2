//! Compares the performance of Steadfast with a baseline and other servers. See METHOD.md.

mod baseline;
mod generator;
mod interrupt;
mod report;
mod scale;
mod target;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: steadfast-bench [--seconds N] [--reps N] [--steadfast BINARY] [--out DIR] [TARGET...]
       steadfast-bench scale [--part disk|contention|growth] [--items N] [--seconds N] [--reps N]
                             [--steadfast BINARY] [--out DIR]

Runs every workload on each target and prints a table. Targets: baseline, baseline-prealloc,
steadfast, nginx, webdis (default: all that are installed).
'scale' measures Steadfast alone, in three parts: disk usage, reads under contention, and growth to
many items (10,000,000; 12 GB of disk).
The server runs on core 0 and the load generator on core 1.";

/// The command line options.
struct Options {
    seconds: f64,
    reps: usize,
    steadfast: PathBuf,
    out: PathBuf,
    targets: Vec<String>,
    items: u64,
    scale: bool,
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
        items: 10_000_000,
        scale: false,
        part: String::new(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--seconds" => options.seconds = number(&value()?)?,
            "--reps" => options.reps = number(&value()?)?,
            "--steadfast" => options.steadfast = value()?.into(),
            "--out" => options.out = value()?.into(),
            "--items" => options.items = number(&value()?)?,
            "scale" => options.scale = true,
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
            match options.scale {
                true => scale::run_all(&options),
                false => workloads::run_all(&options),
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
