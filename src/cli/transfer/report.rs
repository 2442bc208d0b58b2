//! Reports failed items in a file or on standard error.

use crate::cli::error::{Result, file_error, local_error};
use crate::transfer::{ItemPosition, RejectedItem};
use indicatif::ProgressBar;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// The destination for reports of failed items: NDJSON in a file, or text on standard error.
#[derive(Default)]
pub(super) struct FailureLog(Option<BufWriter<File>>);

/// A line of a report file.
#[derive(Serialize)]
struct ReportLine<'i> {
    key: &'i str,
    /// Number of the item in the input. Absent if the items of the input format have no numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<u64>,
    /// Line number in the input. Absent if the input format has no lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    reason: &'i str,
}

impl FailureLog {
    /// Opens a report file. The report of an earlier import is replaced, or extended if `append` is
    /// set. A file with other content is refused.
    pub(super) fn open(path: &Path, append: bool) -> Result<FailureLog> {
        let regular = fs::metadata(path).map_or(true, |found| found.is_file());
        let mut options = OpenOptions::new();
        let opened = options.read(regular).write(true).create(regular).open(path);
        let mut file = opened.map_err(|e| file_error(path, e))?;
        if regular {
            if !is_report(&file) {
                let reason = "exists and is not a report: remove it or choose another file";
                return Err(file_error(path, reason));
            }
            let emptied = if append { Ok(()) } else { file.set_len(0) };
            emptied.and_then(|()| file.seek(SeekFrom::End(0))).map_err(|e| file_error(path, e))?;
        }
        Ok(FailureLog(Some(BufWriter::new(file))))
    }

    pub(super) fn report(&mut self, failures: &[RejectedItem], bar: &ProgressBar) -> Result<()> {
        if failures.is_empty() {
            return Ok(());
        }
        if let Some(file) = &mut self.0 {
            let written = failures.iter().try_for_each(|RejectedItem { position, key, reason }| {
                let number = |number: u64| Some(number).filter(|number| *number > 0);
                let (item, line) = (number(position.item), number(position.line));
                serde_json::to_writer(&mut *file, &ReportLine { key, item, line, reason })?;
                file.write_all(b"\n")
            });
            let written = written.and_then(|()| file.flush());
            return written.map_err(|e| local_error(format!("--report: {e}")));
        }
        bar.suspend(|| {
            let mut stderr = io::stderr().lock();
            for RejectedItem { position, key, reason } in failures {
                // A terminal would interpret control characters.
                let reason = reason.replace(char::is_control, " ");
                let _ = match (*position, key.as_str()) {
                    (ItemPosition::NONE, "") => writeln!(stderr, "{reason}"),
                    (ItemPosition::NONE, _) => writeln!(stderr, "key {key:?}: {reason}"),
                    (_, "") => writeln!(stderr, "{position}: {reason}"),
                    _ => writeln!(stderr, "{position}, key {key:?}: {reason}"),
                };
            }
        });
        Ok(())
    }
}

/// Returns whether a file is empty or starts with a report line.
fn is_report(file: &File) -> bool {
    /// Parses the fields but discards their contents, which can be large.
    #[derive(Deserialize)]
    struct Fields {
        #[serde(rename = "key")]
        _key: IgnoredAny,
        #[serde(rename = "reason")]
        _reason: IgnoredAny,
        value: Option<IgnoredAny>,
    }
    let lines = serde_json::Deserializer::from_reader(BufReader::new(file));
    match lines.into_iter::<Fields>().next() {
        None => true,
        Some(first) => first.is_ok_and(|fields| fields.value.is_none()),
    }
}
