//! The resume file, with which a later run continues an interrupted import.

use super::SourceError;
use crate::atomic_file::AtomicFile;
use crate::small_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The version of the file format.
const VERSION: u32 = 1;
/// The maximum size of a resume file in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// The number of items of an import, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportCounts {
    /// Items written.
    pub written: u64,
    /// Items skipped because they existed or had expired.
    pub skipped: u64,
    /// Items that failed.
    pub failed: u64,
    /// Items that failed because they existed. These items are also counted in `failed`.
    pub existed: u64,
}

impl ImportCounts {
    /// Returns the sums of two sets of counts.
    #[must_use]
    pub fn plus(self, more: ImportCounts) -> ImportCounts {
        ImportCounts {
            written: self.written + more.written,
            skipped: self.skipped + more.skipped,
            failed: self.failed + more.failed,
            existed: self.existed + more.existed,
        }
    }
}

/// The parameters of an import. A run that resumes the import must have the same parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportParameters {
    /// Server address.
    pub endpoint: String,
    /// Store id.
    pub store: String,
    /// Fingerprint of the input.
    pub input: String,
    /// Format of the input.
    pub format: String,
    /// How existing items are treated.
    pub if_exists: String,
}

/// The content of a resume file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedState {
    version: u32,
    #[serde(flatten)]
    parameters: ImportParameters,
    /// All items before this position have been imported.
    acknowledged: u64,
    /// All items before this position may have been sent.
    sent: u64,
    counts: ImportCounts,
}

/// The progress of an import.
pub struct ResumeState {
    file: Option<PathBuf>,
    saved: SavedState,
    /// Ranges imported beyond the acknowledged position. Maps the start of each range to its end
    /// and its counts.
    done: BTreeMap<u64, (u64, ImportCounts)>,
}

impl ResumeState {
    /// Creates the state of an import that starts at the first item and saves no progress.
    pub fn new(parameters: ImportParameters) -> ResumeState {
        let counts = ImportCounts::default();
        let saved = SavedState { version: VERSION, parameters, acknowledged: 0, sent: 0, counts };
        ResumeState { file: None, saved, done: BTreeMap::new() }
    }

    /// Creates the state of an import that starts at the first item, and saves it to a file. An
    /// existing file is replaced only if it is empty or a resume file.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if the file has other content or cannot be written.
    pub fn create(file: PathBuf, parameters: ImportParameters) -> Result<ResumeState, SourceError> {
        load(&file)?;
        let state = ResumeState { file: Some(file), ..ResumeState::new(parameters) };
        state.save()?;
        Ok(state)
    }

    /// Loads the state of an earlier run, or starts at the first item if the file does not exist or
    /// is empty.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if the file is invalid or belongs to an import with other
    /// parameters.
    pub fn resume(file: PathBuf, parameters: ImportParameters) -> Result<ResumeState, SourceError> {
        let failed = |reason: &str| SourceError(format!("{}: {reason}", file.display()));
        let Some(saved) = load(&file)? else { return ResumeState::create(file, parameters) };
        if saved.version != VERSION || saved.sent < saved.acknowledged {
            return Err(failed("has an unsupported version"));
        }
        let earlier = &saved.parameters;
        for (name, earlier, now) in [
            ("server", &earlier.endpoint, &parameters.endpoint),
            ("store", &earlier.store, &parameters.store),
            ("format", &earlier.format, &parameters.format),
            ("--if-exists", &earlier.if_exists, &parameters.if_exists),
        ] {
            if earlier != now {
                return Err(failed(&format!(
                    "belongs to an import with another {name}: {earlier}, not {now}"
                )));
            }
        }
        if earlier.input != parameters.input {
            return Err(failed(
                "belongs to another input, or the input has changed: omit --resume to start over",
            ));
        }
        Ok(ResumeState { file: Some(file), saved, done: BTreeMap::new() })
    }

    /// Returns the position before which all items have been imported.
    pub fn acknowledged(&self) -> u64 {
        self.saved.acknowledged
    }

    /// Returns the position before which all items may have been sent.
    pub fn sent(&self) -> u64 {
        self.saved.sent
    }

    /// Returns the counts of all imported items, including items beyond the acknowledged position.
    pub fn counts(&self) -> ImportCounts {
        self.done.values().fold(self.saved.counts, |all, (_, counts)| all.plus(*counts))
    }

    /// Records that the items before position `to` may have been sent.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if the file cannot be written.
    pub fn record_sent(&mut self, to: u64) -> Result<(), SourceError> {
        self.saved.sent = self.saved.sent.max(to);
        self.save()
    }

    /// Records that a range of items has been imported. To avoid an fsync per request, the record
    /// is saved by the next call to [`ResumeState::record_sent`] or [`ResumeState::save`]. If
    /// the import is interrupted before that call, the resumed import sends the items again, which
    /// is harmless.
    pub fn record_done(&mut self, from: u64, to: u64, counts: ImportCounts) {
        self.done.insert(from, (to, counts));
        while let Some((to, counts)) = self.done.remove(&self.saved.acknowledged) {
            self.saved.acknowledged = to;
            self.saved.counts = self.saved.counts.plus(counts);
        }
    }

    /// Returns the path of the resume file, if the state has one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Removes the resume file, unless another import has replaced it.
    pub fn remove(&mut self) {
        let Some(file) = self.file.take() else { return };
        let found = load(&file).ok().flatten();
        if found.is_some_and(|found| found.parameters == self.saved.parameters) {
            let _ = fs::remove_file(file);
        }
    }

    /// Writes and fsyncs the resume file, if the state has one.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if the file cannot be written.
    pub fn save(&self) -> Result<(), SourceError> {
        let Some(file) = &self.file else { return Ok(()) };
        let write = || {
            let text = serde_json::to_vec(&self.saved).map_err(io::Error::other)?;
            let mut new = AtomicFile::create(file)?;
            new.write_all(&text)?;
            new.persist()
        };
        write().map_err(|e| SourceError(format!("{}: {e}", file.display())))
    }
}

/// Reads a resume file. Returns `None` if the file does not exist or is empty.
fn load(file: &Path) -> Result<Option<SavedState>, SourceError> {
    let failed = |reason: String| SourceError(format!("{}: {reason}", file.display()));
    let not_resume_file = || failed("is not a resume file: use --state to choose another".into());
    let read = || {
        if !fs::metadata(file)?.is_file() {
            return Ok(None);
        }
        small_file::read(file, BYTES_MAX).map(Some)
    };
    match read() {
        Ok(None) => Err(not_resume_file()),
        Ok(Some(text)) if text.is_empty() => Ok(None),
        Ok(Some(text)) => serde_json::from_slice(&text).map(Some).map_err(|_| not_resume_file()),
        Err(e) if io::Error::kind(&e) == ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == ErrorKind::FileTooLarge => Err(not_resume_file()),
        Err(e) => Err(failed(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(store: &str) -> ImportParameters {
        let text = |text: &str| text.to_owned();
        ImportParameters {
            endpoint: text("http://127.0.0.1:1"),
            store: text(store),
            input: text("file:1:2"),
            format: text("ndjson"),
            if_exists: text("fail"),
        }
    }

    #[test]
    fn progress_is_acknowledged_without_gaps_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.resume");
        let mut state = ResumeState::resume(file.clone(), parameters("s")).unwrap();
        let one = ImportCounts { written: 1, ..ImportCounts::default() };
        state.record_sent(10).unwrap();
        state.record_sent(20).unwrap();
        state.record_done(10, 20, one);
        state.save().unwrap();
        assert_eq!((state.acknowledged(), state.counts().written), (0, 1));
        let loaded = ResumeState::resume(file.clone(), parameters("s")).unwrap();
        assert_eq!((loaded.acknowledged(), loaded.sent(), loaded.counts().written), (0, 20, 0));
        state.record_done(0, 10, one);
        state.save().unwrap();
        let loaded = ResumeState::resume(file.clone(), parameters("s")).unwrap();
        assert_eq!((loaded.acknowledged(), loaded.sent(), loaded.counts().written), (20, 20, 2));
        state.remove();
        assert!(!file.exists() && ResumeState::resume(file, parameters("s")).unwrap().sent() == 0);
    }

    #[test]
    fn resuming_with_other_parameters_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.resume");
        ResumeState::resume(file.clone(), parameters("s")).unwrap().record_sent(1).unwrap();
        let error =
            |parameters| ResumeState::resume(file.clone(), parameters).map(|_| ()).unwrap_err().0;
        assert!(error(parameters("other")).contains("another store"));
        let changed = ImportParameters { input: "file:3:4".into(), ..parameters("s") };
        assert!(error(changed).contains("changed"));
        fs::write(&file, "{}").unwrap();
        assert!(error(parameters("s")).contains("not a resume file"));
    }

    #[test]
    fn only_resume_files_are_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.resume");
        let create = |store| ResumeState::create(file.clone(), parameters(store));
        for other in ["precious", "{}", &"x".repeat(100_000)] {
            fs::write(&file, other).unwrap();
            assert!(create("s").map(|_| ()).unwrap_err().0.contains("not a resume file"));
            assert_eq!(fs::read_to_string(&file).unwrap(), *other);
        }
        fs::write(&file, "").unwrap();
        create("s").unwrap().record_sent(7).unwrap();
        let mut state = create("s").unwrap();
        assert_eq!(ResumeState::resume(file.clone(), parameters("s")).unwrap().sent(), 0);
        create("another import").unwrap();
        state.remove();
        assert!(file.exists(), "the file of another import was removed");
        let mut state = create("s").unwrap();
        fs::write(&file, "precious").unwrap();
        state.remove();
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert!(ResumeState::create(dir.path().to_owned(), parameters("s")).is_err());
    }
}
