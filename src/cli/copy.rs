//! `steadfast copy`.

use crate::admin::{self, CopyProgress, CopySummary};
use crate::config::{CopyArgs, EngineLocation};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::process::ExitCode;

pub(super) const HELP: &str = "\
Examples:
  steadfast copy --from ./steadfast-data --to postgres://kv@db1.example,db2.example/kv
  STEADFAST_COPY_FROM=postgres://kv:secret@db1.example/kv steadfast copy --to ./steadfast-data

Stop the servers of both sides first. A copy that was cut goes on when the same command is run
again; until it is whole, no server starts from the destination. At the end both sides are read and
compared, record by record. Generations are new, and greater than before. The root token is not
copied.

Exit status: 0 all is copied and the same, 1 it is not, 2 the command was called wrongly,
130 it was interrupted.";

const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130;

pub(super) fn run(args: CopyArgs) -> ExitCode {
    let (from, to) = match args.resolve() {
        Ok(places) => places,
        Err(e) => return fail(&e, USAGE),
    };
    let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR);
    let _ = logs.with_writer(io::stderr).try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(copy(&from, &to)),
        Err(e) => fail(&format!("cannot start threads: {e}"), 1),
    }
}

fn fail(what: &str, status: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "steadfast: {what}");
    ExitCode::from(status)
}

async fn copy(from: &EngineLocation, to: &EngineLocation) -> ExitCode {
    // It is drawn on a terminal only.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let mut tell = |progress: CopyProgress| show(&bar, progress);
    let done = tokio::select! {
        done = admin::copy(from, to, &mut tell) => done,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            return fail("interrupted; the same command goes on from here", INTERRUPTED);
        }
    };
    bar.finish_and_clear();
    let CopySummary { stores, items, bytes, checksum } = match done {
        Ok(copied) => copied,
        Err(e) => return fail(&e.to_string(), 1),
    };
    let told = writeln!(
        io::stdout(),
        "{stores} stores, {items} items, {bytes} bytes: both sides are the same (CRC-32 \
         {checksum:08x})"
    );
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(bar: &ProgressBar, progress: CopyProgress) {
    let what = if progress.comparing { "comparing" } else { "copying" };
    if bar.message() != what {
        let style = "{msg:9} {wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.reset_elapsed();
        bar.set_length(progress.total);
        bar.reset_eta();
    }
    bar.set_position(progress.records);
}
