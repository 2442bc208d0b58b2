//! `steadfast copy`: copies all data between a data directory and a database.

use super::error::{EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE};
use super::output::{counted, styled_bar};
use super::runtime::{self, fail, finish};
use crate::admin::{self, CopyProgress, CopySummary};
use crate::config::{CopyArgs, EngineLocation};
use indicatif::ProgressBar;
use std::io::{self, Write};
use std::process::ExitCode;

pub(super) const HELP: &str = "\
Examples:
  steadfast copy --from ./steadfast-data --to postgres://kv@db1.example,db2.example/kv
  STEADFAST_COPY_FROM=postgres://kv:secret@db1.example/kv steadfast copy --to ./steadfast-data

Stop all servers on both sides first. Run the same command again to resume an interrupted copy. A
server does not start on an incomplete copy. After the copy, all records on both sides are compared.
Items get new, higher generations. The root token is not copied.

Exit status: 0 copied and verified, 1 failure, 2 usage error, 130 interrupted.";

pub(super) fn run(args: &CopyArgs) -> ExitCode {
    let (from, to) = match args.resolve() {
        Ok(locations) => locations,
        Err(e) => return fail(&e, EXIT_USAGE),
    };
    let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR);
    let _ = logs.with_writer(io::stderr).try_init();
    match runtime::build() {
        Ok(runtime) => runtime.block_on(copy(&from, &to)),
        Err(e) => finish(Err(e)),
    }
}

async fn copy(from: &EngineLocation, to: &EngineLocation) -> ExitCode {
    let style = "{msg:9} {wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left";
    let bar = styled_bar(None, style);
    let mut report = |progress: CopyProgress| show_progress(&bar, progress);
    let result = tokio::select! {
        result = admin::copy(from, to, &mut report) => result,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            return fail("interrupted: run the same command again to resume", EXIT_INTERRUPTED);
        }
    };
    bar.finish_and_clear();
    let CopySummary { stores, items, bytes, checksum } = match result {
        Ok(copied) => copied,
        Err(e) => return fail(&e.to_string(), EXIT_FAILURE),
    };
    let printed = writeln!(
        io::stdout(),
        "copied {}, {}, {bytes} bytes; both sides are identical (CRC-32 {checksum:08x})",
        counted(stores, "store"),
        counted(items, "item")
    );
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show_progress(bar: &ProgressBar, progress: CopyProgress) {
    let action = if progress.comparing { "comparing" } else { "copying" };
    if bar.message() != action {
        bar.set_message(action);
        bar.reset_elapsed();
        bar.set_length(progress.total);
        bar.reset_eta();
    }
    bar.set_position(progress.records);
}
