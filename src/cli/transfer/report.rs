//! Tells what failed, item by item.

use crate::cli::error::{CommandError, local_error};
use crate::transfer::Wrong;
use indicatif::ProgressBar;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Where failures are told.
pub(super) struct Report(Option<BufWriter<File>>);

impl Report {
    /// Into a file, which is begun anew or gone on with; else on the standard error.
    pub(super) fn new(file: Option<&Path>, more: bool) -> Result<Report, CommandError> {
        let Some(path) = file else { return Ok(Report(None)) };
        let mut options = OpenOptions::new();
        let opened = options.create(true).write(true).append(more).truncate(!more).open(path);
        let file = opened.map_err(|e| local_error(format!("{}: {e}", path.display())))?;
        Ok(Report(Some(BufWriter::new(file))))
    }

    /// Tells of each.
    pub(super) fn tell(
        &mut self,
        failures: &[Wrong],
        bar: &ProgressBar,
    ) -> Result<(), CommandError> {
        if failures.is_empty() {
            return Ok(());
        }
        if let Some(file) = &mut self.0 {
            for Wrong { number, key, reason } in failures {
                writeln!(file, "{}", json!({ "line": number, "key": key, "reason": reason }))?;
            }
            return Ok(file.flush()?);
        }
        bar.suspend(|| {
            let mut to = io::stderr().lock();
            for Wrong { number, key, reason } in failures {
                let reason: String = reason.chars().map(plain).collect();
                let _ = if key.is_empty() {
                    writeln!(to, "line {number}: {reason}")
                } else {
                    writeln!(to, "line {number}, key {key:?}: {reason}")
                };
            }
        });
        Ok(())
    }
}

/// Without what would drive a terminal.
fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}
