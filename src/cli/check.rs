//! `steadfast check`: verifies a data directory or a backup.

use super::output::{counted, print_status};
use super::runtime::fail;
use crate::admin;
use crate::config::CheckArgs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

pub(super) const HELP: &str = "\
Examples:
  steadfast check --data /var/lib/kv
  steadfast check --backup kv.backup.zst

Stop the server first: a data directory in use cannot be checked. The check is read-only unless you
pass --reset-wal, which accepts the loss of the commits in missing WAL segments. Copy the data
directory before you use that flag.

Exit status: 0 no problems found, 1 problems found (printed one per line), 2 check not possible.";

/// Exit status if the check is not possible.
const EXIT_NOT_CHECKED: u8 = 2;

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    match &args.backup {
        Some(path) => check_backup(path),
        None if args.reset_wal => match reset_wal(&args.data) {
            Ok(()) => check_directory(&args.data),
            Err(e) => fail(&e, EXIT_NOT_CHECKED),
        },
        None => check_directory(&args.data),
    }
}

fn reset_wal(dir: &Path) -> Result<(), String> {
    print_status(match admin::reset_wal(dir).map_err(|e| e.to_string())? {
        true => "reset the WAL; the commits in the missing segments are lost",
        false => "the WAL is complete and was not reset",
    });
    Ok(())
}

fn check_backup(path: &Path) -> ExitCode {
    let opened = super::backup::open(path);
    let checked = opened.and_then(|source| admin::check_backup(source).map_err(|e| e.to_string()));
    let (counts, problems) = match checked {
        Ok(checked) => checked,
        Err(e) => return fail(&format!("{}: {e}", path.display()), EXIT_NOT_CHECKED),
    };
    let summary = format!("{}, {}", counted(counts.stores, "store"), counted(counts.items, "item"));
    exit_status(report(&problems, problems.len() as u64, &summary), problems.is_empty())
}

fn check_directory(dir: &Path) -> ExitCode {
    let (checked, counts) = match admin::check(dir) {
        Ok(checked) => checked,
        Err(e) => return fail(&e.to_string(), EXIT_NOT_CHECKED),
    };
    let summary = format!(
        "{}, {}, {} with {}, {}, {} in the WAL",
        counted(counts.stores, "store"),
        counted(counts.items, "item"),
        counted(checked.records, "record"),
        counted(checked.body_bytes, "byte"),
        counted(checked.blobs, "blob file"),
        counted(checked.wal_entries, "record"),
    );
    let reported = report(&checked.problems, checked.problem_count, &summary);
    exit_status(reported, checked.problem_count == 0)
}

/// Prints one line per problem, and a summary. `count` includes problems that are not in
/// `problems`.
fn report(problems: &[String], count: u64, summary: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for problem in problems {
        writeln!(out, "{problem}")?;
    }
    let more = count.saturating_sub(problems.len() as u64);
    if more > 0 {
        writeln!(out, "and {more} more")?;
    }
    let found = if count == 0 { "no problems found".into() } else { counted(count, "problem") };
    writeln!(out, "{summary}: {found}")
}

fn exit_status(reported: io::Result<()>, sound: bool) -> ExitCode {
    match reported {
        Ok(()) if sound => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(_) => ExitCode::from(EXIT_NOT_CHECKED),
    }
}
