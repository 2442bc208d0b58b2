//! Reports failed items to a file or to standard error.

use crate::cli::error::{Result, file_error, local_error};
use crate::transfer::RejectedItem;
use indicatif::ProgressBar;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The destination of failure reports: NDJSON in a file, or text on standard error.
pub(super) struct FailureLog(Option<BufWriter<File>>);

impl FailureLog {
    /// Opens the file, if any. An existing file is truncated unless `append` is set.
    pub(super) fn open(file: Option<&Path>, append: bool) -> Result<FailureLog> {
        let Some(path) = file else { return Ok(FailureLog(None)) };
        let mut options = OpenOptions::new();
        let opened = options.create(true).write(true).append(append).truncate(!append).open(path);
        let file = opened.map_err(|e| file_error(path, e))?;
        Ok(FailureLog(Some(BufWriter::new(file))))
    }

    pub(super) fn report(&mut self, failures: &[RejectedItem], bar: &ProgressBar) -> Result<()> {
        if failures.is_empty() {
            return Ok(());
        }
        if let Some(file) = &mut self.0 {
            let mut lines = failures.iter().map(|RejectedItem { number, key, reason }| {
                json!({ "line": number, "key": key, "reason": reason })
            });
            let written = lines.try_for_each(|line| writeln!(file, "{line}"));
            let written = written.and_then(|()| file.flush());
            return written.map_err(|e| local_error(format!("--report: {e}")));
        }
        bar.suspend(|| {
            let mut stderr = io::stderr().lock();
            for RejectedItem { number, key, reason } in failures {
                // A terminal could interpret control characters.
                let reason = reason.replace(char::is_control, " ");
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
