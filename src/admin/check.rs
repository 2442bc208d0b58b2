//! Verifies data directories and backups.

use crate::engine::EngineError;
use crate::engine::embedded::{self, VerifiedRecord, VerifyReport};
use crate::kv::backup::{self, RestoreError};
use crate::kv::clock::SystemClock;
use crate::kv::integrity::{IntegrityChecker, RecordCounts};
use std::io;
use std::path::Path;

/// Verifies a data directory without changing it. The report lists any damage.
///
/// # Errors
/// If the directory is in use, has an unsupported format, or cannot be read.
pub fn check(dir: &Path) -> Result<(VerifyReport, RecordCounts), EngineError> {
    let mut checker = IntegrityChecker::new(&SystemClock);
    let mut report = embedded::verify(dir, |record, report| {
        let VerifiedRecord { key, version, expires_at, meta, body_len } = record;
        checker.record(key, version, expires_at, meta, body_len);
        checker.problems().into_iter().for_each(|problem| report.add_problem(problem));
    })?;
    let (counts, problems) = checker.finish();
    problems.into_iter().for_each(|problem| report.add_problem(problem));
    Ok((report, counts))
}

/// Resets the WAL of a data directory if WAL segments are missing. The directory can then be
/// opened, but the commits in those segments are lost. Returns whether any segment was missing.
///
/// # Errors
/// If the directory is in use, has an unsupported format, or has other damage.
pub fn reset_wal(dir: &Path) -> Result<bool, EngineError> {
    embedded::reset_wal(dir)
}

/// Verifies a backup and returns its record counts and any problems found.
///
/// # Errors
/// If the backup cannot be read.
pub fn check_backup(source: impl io::Read) -> Result<(RecordCounts, Vec<String>), RestoreError> {
    backup::verify(source, &SystemClock)
}
