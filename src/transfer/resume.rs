//! The resume file, from which a later run continues an interrupted import.

use super::SourceError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Version of the file format.
const VERSION: u32 = 1;
/// The maximum size of a resume file in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// The items of an import by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportCounts {
    /// Items written.
    pub written: u64,
    /// Items skipped because they existed or had expired.
    pub skipped: u64,
    /// Items that failed.
    pub failed: u64,
    /// Items that failed because they existed; included in `failed`.
    pub existed: u64,
}

impl ImportCounts {
    /// Adds two sets of counts.
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

/// The parameters of an import, which must be unchanged when it is resumed.
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
    /// Items up to this position may have been imported.
    sent: u64,
    counts: ImportCounts,
}

/// The progress of an import.
pub struct ResumeState {
    file: Option<PathBuf>,
    saved: SavedState,
    /// Ranges imported beyond the acknowledged position: from start to end and counts.
    done: BTreeMap<u64, (u64, ImportCounts)>,
}

impl ResumeState {
    /// Starts at the first item; saves the state to `file`, if any.
    pub fn new(file: Option<PathBuf>, parameters: ImportParameters) -> ResumeState {
        let counts = ImportCounts::default();
        let saved = SavedState { version: VERSION, parameters, acknowledged: 0, sent: 0, counts };
        ResumeState { file, saved, done: BTreeMap::new() }
    }

    /// Loads the state of an earlier run, or starts at the first item if the file does not exist.
    ///
    /// # Errors
    /// [`SourceError`] if the file is invalid, or belongs to an import with other parameters.
    pub fn resume(file: PathBuf, parameters: ImportParameters) -> Result<ResumeState, SourceError> {
        let failed = |reason: &str| SourceError(format!("{}: {reason}", file.display()));
        match fs::metadata(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(ResumeState::new(Some(file), parameters));
            }
            Err(e) => return Err(failed(&e.to_string())),
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(failed("is not a resume file"));
            }
            Ok(_) => {}
        }
        let text = fs::read(&file).map_err(|e| failed(&e.to_string()))?;
        let saved: SavedState =
            serde_json::from_slice(&text).map_err(|_| failed("is not a resume file"))?;
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

    /// Returns the number of leading items that have been imported.
    pub fn acknowledged(&self) -> u64 {
        self.saved.acknowledged
    }

    /// Returns the number of leading items that may have been sent.
    pub fn sent(&self) -> u64 {
        self.saved.sent
    }

    /// Returns the counts of all imported items, including those beyond the acknowledged position.
    pub fn counts(&self) -> ImportCounts {
        self.done.values().fold(self.saved.counts, |all, (_, counts)| all.plus(*counts))
    }

    /// Records that the items before position `to` may have been sent.
    ///
    /// # Errors
    /// [`SourceError`] if the file cannot be written.
    pub fn record_sent(&mut self, to: u64) -> Result<(), SourceError> {
        self.saved.sent = self.saved.sent.max(to);
        self.save()
    }

    /// Records that a range of items has been imported.
    ///
    /// # Errors
    /// [`SourceError`] if the file cannot be written.
    pub fn record_done(
        &mut self,
        from: u64,
        to: u64,
        counts: ImportCounts,
    ) -> Result<(), SourceError> {
        self.done.insert(from, (to, counts));
        let before = self.saved.acknowledged;
        while let Some((to, counts)) = self.done.remove(&self.saved.acknowledged) {
            self.saved.acknowledged = to;
            self.saved.counts = self.saved.counts.plus(counts);
        }
        if self.saved.acknowledged == before { Ok(()) } else { self.save() }
    }

    /// Returns the resume file, if any.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Removes the resume file.
    pub fn remove(&mut self) {
        if let Some(file) = self.file.take() {
            let _ = fs::remove_file(file);
        }
    }

    fn save(&self) -> Result<(), SourceError> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |e: &dyn std::fmt::Display| SourceError(format!("{}: {e}", file.display()));
        let text = serde_json::to_vec(&self.saved).map_err(|e| failed(&e))?;
        // If the process is killed, the file is the old or the new one, never a partial one.
        let mut new = file.clone().into_os_string();
        new.push(".new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, file)).map_err(|e| failed(&e))
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
        state.record_done(10, 20, one).unwrap();
        assert_eq!((state.acknowledged(), state.counts().written), (0, 1));
        let loaded = ResumeState::resume(file.clone(), parameters("s")).unwrap();
        assert_eq!((loaded.acknowledged(), loaded.sent(), loaded.counts().written), (0, 20, 0));
        state.record_done(0, 10, one).unwrap();
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
}
