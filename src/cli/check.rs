//! `steadfast check`.

use crate::admin;
use crate::config::CheckArgs;
use std::io::{self, Write};
use std::process::ExitCode;

pub(super) const HELP: &str = "\
Examples:
  steadfast check --data /var/lib/kv
  steadfast check --backup kv.backup.zst

Stop the server first: a data directory that is in use is not looked at. Nothing is changed.
Exit status: 0 all is well, 1 something is damaged (a line for each problem), 2 it cannot be told.";

/// The exit status when it cannot be told whether the data is sound.
const UNKNOWN: u8 = 2;

/// Looks at a backup.
fn backup(path: &std::path::Path) -> ExitCode {
    let read = super::backup::open(path);
    let read = read.and_then(|source| admin::check_backup(source).map_err(|e| e.to_string()));
    let (counted, problems) = match read {
        Ok(found) => found,
        Err(e) => {
            let _ = writeln!(io::stderr(), "steadfast: {}: {e}", path.display());
            return ExitCode::from(UNKNOWN);
        }
    };
    let mut out = io::stdout().lock();
    let mut told = || -> io::Result<()> {
        problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))?;
        let so = match problems.len() {
            0 => "all is well".to_owned(),
            1 => "1 problem".to_owned(),
            problems => format!("{problems} problems"),
        };
        writeln!(out, "{} stores, {} items: {so}", counted.stores, counted.items)
    };
    if told().is_err() || !problems.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    if let Some(path) = &args.backup {
        return backup(path);
    }
    let (report, counted) = match admin::check(args.data()) {
        Ok(found) => found,
        Err(e) => {
            let _ = writeln!(io::stderr(), "steadfast: {e}");
            return ExitCode::from(UNKNOWN);
        }
    };
    let mut out = io::stdout().lock();
    let mut told = || -> io::Result<()> {
        for problem in &report.problems {
            writeln!(out, "{problem}")?;
        }
        let more = report.problem_count - report.problems.len() as u64;
        if more > 0 {
            writeln!(out, "and {more} more problems")?;
        }
        writeln!(
            out,
            "{} stores, {} items, {} records with {} bytes, {} blob files, {} rows in the log: {}",
            counted.stores,
            counted.items,
            report.records,
            report.body_bytes,
            report.blobs,
            report.wal_entries,
            match report.problem_count {
                0 => "all is well".to_owned(),
                1 => "1 problem".to_owned(),
                count => format!("{count} problems"),
            }
        )
    };
    match told() {
        Ok(()) if report.problem_count == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(_) => ExitCode::from(UNKNOWN),
    }
}
