//! How far an import has come, kept in a file, so that another run can go on.

use super::Broken;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The form of the file; another one is not read.
const VERSION: u32 = 1;
/// Such a file is short.
const BYTES_MAX: u64 = 64 * 1024;

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Items that were written.
    pub written: u64,
    /// Items that were there, or were over.
    pub skipped: u64,
    /// Items that could not be written.
    pub failed: u64,
    /// Those of them that failed because they were there.
    pub existed: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(self, more: Counts) -> Counts {
        Counts {
            written: self.written + more.written,
            skipped: self.skipped + more.skipped,
            failed: self.failed + more.failed,
            existed: self.existed + more.existed,
        }
    }
}

/// What must be the same for a run to go on where another stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The server.
    pub endpoint: String,
    /// The store's id.
    pub store: String,
    /// What tells the input from others.
    pub input: String,
    /// What it is read as.
    pub format: String,
    /// What becomes of items that are there.
    pub if_exists: String,
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    version: u32,
    #[serde(flatten)]
    subject: Subject,
    /// The first so many items are done.
    acknowledged: u64,
    /// Those behind them, up to here, may be done.
    sent: u64,
    counts: Counts,
}

/// How far an import has come.
pub struct State {
    file: Option<PathBuf>,
    saved: Saved,
    /// What is done behind items that are not: from, to and counts.
    done: BTreeMap<u64, (u64, Counts)>,
}

impl State {
    /// At the beginning; kept in a file, if one is named.
    pub fn new(file: Option<PathBuf>, subject: Subject) -> State {
        let saved = Saved {
            version: VERSION,
            subject,
            acknowledged: 0,
            sent: 0,
            counts: Counts::default(),
        };
        State { file, saved, done: BTreeMap::new() }
    }

    /// Where another run stopped; at the beginning if there is no file.
    ///
    /// # Errors
    /// When the file is none, or tells of something else.
    pub fn resume(file: PathBuf, subject: Subject) -> Result<State, Broken> {
        let broken = |what: &str| Broken(format!("{}: {what}", file.display()));
        match fs::metadata(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State::new(Some(file), subject));
            }
            Err(e) => return Err(broken(&e.to_string())),
            Ok(about) if about.len() > BYTES_MAX => return Err(broken("is no state of an import")),
            Ok(_) => {}
        }
        let text = fs::read(&file).map_err(|e| broken(&e.to_string()))?;
        let saved: Saved =
            serde_json::from_slice(&text).map_err(|_| broken("is no state of an import"))?;
        if saved.version != VERSION || saved.sent < saved.acknowledged {
            return Err(broken("is no state of an import that this version knows"));
        }
        let was = &saved.subject;
        for (what, then, now) in [
            ("server", &was.endpoint, &subject.endpoint),
            ("store", &was.store, &subject.store),
            ("format", &was.format, &subject.format),
            ("--if-exists", &was.if_exists, &subject.if_exists),
        ] {
            if then != now {
                return Err(broken(&format!("is of another {what}: {then}, not {now}")));
            }
        }
        if was.input != subject.input {
            return Err(broken(
                "is of another input, or the input has changed since: to begin \
                               anew, leave --resume away",
            ));
        }
        Ok(State { file: Some(file), saved, done: BTreeMap::new() })
    }

    /// So many items are done, from the first on.
    pub fn acknowledged(&self) -> u64 {
        self.saved.acknowledged
    }

    /// So many items may have been sent, from the first on.
    pub fn sent(&self) -> u64 {
        self.saved.sent
    }

    /// What was done so far, also behind items that are not.
    pub fn counts(&self) -> Counts {
        self.done.values().fold(self.saved.counts, |all, (_, counts)| all.plus(*counts))
    }

    /// Notes that items up to this one are about to be sent.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sending(&mut self, to: u64) -> Result<(), Broken> {
        self.saved.sent = self.saved.sent.max(to);
        self.save()
    }

    /// Notes that these items are done.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn done(&mut self, from: u64, to: u64, counts: Counts) -> Result<(), Broken> {
        self.done.insert(from, (to, counts));
        let before = self.saved.acknowledged;
        while let Some((to, counts)) = self.done.remove(&self.saved.acknowledged) {
            self.saved.acknowledged = to;
            self.saved.counts = self.saved.counts.plus(counts);
        }
        if self.saved.acknowledged == before { Ok(()) } else { self.save() }
    }

    /// Where it is kept.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Keeps it no longer.
    pub fn remove(&mut self) {
        if let Some(file) = self.file.take() {
            let _ = fs::remove_file(file);
        }
    }

    fn save(&self) -> Result<(), Broken> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |e: &dyn std::fmt::Display| Broken(format!("{}: {e}", file.display()));
        let text = serde_json::to_vec(&self.saved).map_err(|e| failed(&e))?;
        // Whoever is killed in between leaves the old one or the new one, never half of one.
        let mut new = file.clone().into_os_string();
        new.push(".new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, file)).map_err(|e| failed(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(store: &str) -> Subject {
        let text = |text: &str| text.to_owned();
        Subject {
            endpoint: text("http://127.0.0.1:1"),
            store: text(store),
            input: text("file:1:2"),
            format: text("ndjson"),
            if_exists: text("fail"),
        }
    }

    #[test]
    fn only_what_is_done_without_gaps_is_acknowledged_and_it_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.resume");
        let mut state = State::resume(file.clone(), subject("s")).unwrap();
        let one = Counts { written: 1, ..Counts::default() };
        state.sending(10).unwrap();
        state.sending(20).unwrap();
        state.done(10, 20, one).unwrap();
        assert_eq!((state.acknowledged(), state.counts().written), (0, 1));
        let seen = State::resume(file.clone(), subject("s")).unwrap();
        assert_eq!((seen.acknowledged(), seen.sent(), seen.counts().written), (0, 20, 0));
        state.done(0, 10, one).unwrap();
        let seen = State::resume(file.clone(), subject("s")).unwrap();
        assert_eq!((seen.acknowledged(), seen.sent(), seen.counts().written), (20, 20, 2));
        state.remove();
        assert!(!file.exists() && State::resume(file, subject("s")).unwrap().sent() == 0);
    }

    #[test]
    fn the_state_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.resume");
        State::resume(file.clone(), subject("s")).unwrap().sending(1).unwrap();
        let told = |subject| State::resume(file.clone(), subject).map(|_| ()).unwrap_err().0;
        assert!(told(subject("other")).contains("another store"));
        let changed = Subject { input: "file:3:4".into(), ..subject("s") };
        assert!(told(changed).contains("changed"));
        fs::write(&file, "{}").unwrap();
        assert!(told(subject("s")).contains("no state"));
    }
}
