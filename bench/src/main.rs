//! Measures Steadfast beside a ceiling and its peers; METHOD.md says how and why.

mod baseline;
mod load;
mod report;
mod run;
mod scale;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: steadfast-bench [--seconds N] [--reps N] [--steadfast BINARY] [--out DIR] [TARGET...]
       steadfast-bench scale [--part disk|beside|growth] [--items N] [--seconds N] [--reps N]
                             [--steadfast BINARY] [--out DIR]

Runs each target through every workload, one after the other, and prints a table. Targets: ceil,
ceil-prealloc, steadfast, nginx, webdis; without names all whose programs are installed.
With 'scale' Steadfast alone is run: with few and with many items (10,000,000; 12 GB of disk),
its disk, its starts, and reads while other work goes on; or one part of that.
The server runs on core 0 and the generator on core 1.";

/// What the command line says.
struct Options {
    seconds: f64,
    reps: usize,
    steadfast: PathBuf,
    out: PathBuf,
    targets: Vec<String>,
    items: u64,
    scale: bool,
    /// The part of `scale` that is run; empty for all.
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
            _ => return Err(format!("{arg} is no option and no target\n\n{USAGE}")),
        }
    }
    Ok(options)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    // The ceiling is this program too, so that there is one to build.
    let done = if args.next_if(|arg| arg == "serve-ceil").is_some() {
        baseline::serve(args)
    } else if args.next_if(|arg| arg == "load").is_some() {
        load::main(args)
    } else {
        parse(args).and_then(|options| match options.scale {
            true => scale::all(&options),
            false => run::all(&options),
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
