//! Reports items that failed, to a file or to standard error.

use crate::cli::error::{CommandError, local_error};
use crate::transfer::RejectedItem;
use indicatif::ProgressBar;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The destination of failure reports: a file as NDJSON, or standard error as text.
pub(super) struct FailureLog(Option<BufWriter<File>>);

impl FailureLog {
    /// Opens the file, if any; an existing one is appended to or truncated.
    pub(super) fn open(file: Option<&Path>, append: bool) -> Result<FailureLog, CommandError> {
        let Some(path) = file else { return Ok(FailureLog(None)) };
        let mut options = OpenOptions::new();
        let opened = options.create(true).write(true).append(append).truncate(!append).open(path);
        let file = opened.map_err(|e| local_error(format!("{}: {e}", path.display())))?;
        Ok(FailureLog(Some(BufWriter::new(file))))
    }

    /// Reports each item.
    pub(super) fn report(
        &mut self,
        failures: &[RejectedItem],
        bar: &ProgressBar,
    ) -> Result<(), CommandError> {
        if failures.is_empty() {
            return Ok(());
        }
        if let Some(file) = &mut self.0 {
            for RejectedItem { number, key, reason } in failures {
                writeln!(file, "{}", json!({ "line": number, "key": key, "reason": reason }))?;
            }
            return Ok(file.flush()?);
        }
        bar.suspend(|| {
            let mut stderr = io::stderr().lock();
            for RejectedItem { number, key, reason } in failures {
                let reason: String = reason.chars().map(printable).collect();
                let _ = if key.is_empty() {
                    writeln!(stderr, "line {number}: {reason}")
                } else {
                    writeln!(stderr, "line {number}, key {key:?}: {reason}")
                };
            }
        });
        Ok(())
    }
}

/// Replaces a control character, which could drive a terminal.
fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}
