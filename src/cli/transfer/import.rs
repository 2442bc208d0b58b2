//! `steadfast import`.

use super::report::Report;
use super::request::Sender;
use super::upload::{Cut, Filled, fill};
use super::{client, found};
use crate::cli::error::{CommandError, EXIT_INTERRUPTED, local_error, usage_error};
use crate::cli::output::{Output, print_error, print_status, store_label};
use crate::cli::runtime::finish;
use crate::client::{Client, IfExists, Kind};
use crate::config::ImportArgs;
use crate::transfer::detect::{self, Opened};
use crate::transfer::record::Line;
use crate::transfer::resume::{Counts, State, Subject};
use crate::transfer::{Format, Next, Wrong, fastly_toml};
use crate::wire::Store;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const FAILED: u8 = 1;
const EXISTED: u8 = 4;

pub(super) async fn run(args: ImportArgs) -> Result<u8, CommandError> {
    let (named, input) = match args.what.as_slice() {
        [input] => (None, input.clone()),
        [store, input] => {
            let store =
                store.to_str().ok_or_else(|| usage_error("the store's name must be UTF-8"))?;
            (Some(store.to_owned()), input.clone())
        }
        _ => return Err(usage_error("name a store and an input")),
    };
    let said = args.format.map(super::format);
    let manifest = said.or_else(|| detect::by_name(&input)) == Some(Format::Manifest);
    let is_stdin = detect::is_stdin(&input);
    if named.is_none() && !manifest {
        return Err(usage_error(
            "name the store before the input: only a fastly.toml names its stores",
        ));
    }
    if args.resume && (is_stdin || manifest) {
        return Err(usage_error(
            "--resume needs a file or a folder of items that can be read again",
        ));
    }
    let mut import = Import {
        client: client(args.client.resolve()?)?,
        report: Report::new(args.report.as_deref(), args.resume)?,
        args,
        input,
        said,
        results: Vec::new(),
    };
    let status = match (manifest, named) {
        (true, named) => import.manifest(named).await?,
        (false, Some(name)) => import.one(&name).await?,
        (false, None) => FAILED,
    };
    import.summary()?;
    Ok(status)
}

struct Import {
    client: Client,
    args: ImportArgs,
    input: PathBuf,
    said: Option<Format>,
    report: Report,
    results: Vec<Value>,
}

impl Import {
    /// One input into one store.
    async fn one(&mut self, name: &str) -> Result<u8, CommandError> {
        let opened = detect::open(&self.input, self.said, self.args.max_value);
        let opened = opened.map_err(|e| local_error(format!("{}: {e}", self.input.display())))?;
        if self.args.dry_run {
            return self.try_out(name, opened).await;
        }
        let store = found(&self.client, name, self.args.create).await?;
        let state = self.state(&store, opened.format)?;
        self.fill(&store, opened, state).await
    }

    /// The stores that a `fastly.toml` names, or the one of them that is wanted.
    async fn manifest(&mut self, wanted: Option<String>) -> Result<u8, CommandError> {
        let at = |e: &dyn std::fmt::Display| local_error(format!("{}: {e}", self.input.display()));
        let mut stores = detect::manifest(&self.input).map_err(|e| at(&e))?;
        if let Some(wanted) = &wanted {
            let names: Vec<_> = stores.keys().map(|name| format!("{name:?}")).collect();
            stores.retain(|name, _| name == wanted);
            if stores.is_empty() {
                let names = names.join(", ");
                return Err(at(&format_args!("names no store {wanted:?}, but {names}")));
            }
        }
        if stores.is_empty() {
            return Err(at(&"names no KV stores"));
        }
        // All is read before anything is written.
        let mut read = Vec::new();
        for (name, said) in stores {
            let items = fastly_toml::items(said, self.args.max_value).map_err(|e| at(&e))?;
            read.push((name, items));
        }
        let create = wanted.is_none() || self.args.create;
        let mut worst = 0;
        for (name, items) in read {
            let opened = Opened {
                source: Box::new(items.into_iter()),
                format: Format::Manifest,
                size: None,
                read: Arc::new(AtomicU64::new(0)),
            };
            let status = if self.args.dry_run {
                self.try_out(&name, opened).await?
            } else {
                let store = found(&self.client, &name, create).await?;
                let state = State::new(None, self.subject(&store, Format::Manifest, ""));
                self.fill(&store, opened, state).await?
            };
            if status == EXIT_INTERRUPTED {
                return Ok(status);
            }
            worst = if worst == 0 || status == FAILED { status } else { worst };
        }
        Ok(worst)
    }

    fn subject(&self, store: &Store, format: Format, input: &str) -> Subject {
        Subject {
            endpoint: self.client.endpoint().to_string(),
            store: store.id.clone(),
            input: input.to_owned(),
            format: format.name().to_owned(),
            if_exists: super::if_exists(self.args.if_exists).as_str().to_owned(),
        }
    }

    /// How far an import has come, where that can be kept.
    fn state(&self, store: &Store, format: Format) -> Result<State, CommandError> {
        let told = |e: crate::transfer::Broken| local_error(e.to_string());
        if detect::is_stdin(&self.input) && self.args.state.is_none() {
            return Ok(State::new(None, self.subject(store, format, "")));
        }
        if detect::is_stdin(&self.input) {
            return Err(usage_error("--state needs a file or a folder that can be read again"));
        }
        let file = self.args.state.clone().unwrap_or_else(|| beside(&self.input));
        let input = detect::identity(&self.input)
            .map_err(|e| local_error(format!("{}: {e}", self.input.display())))?;
        let subject = self.subject(store, format, &input);
        if self.args.resume {
            let state = State::resume(file, subject).map_err(told)?;
            print_status(&format!("the first {} items are done already", state.acknowledged()));
            return Ok(state);
        }
        let mut state = State::new(Some(file), subject.clone());
        match state.sending(0) {
            Ok(()) => Ok(state),
            Err(e) if self.args.state.is_some() => Err(told(e)),
            Err(e) => {
                print_status(&format!("{e}: if this import is cut, it cannot go on where it was"));
                Ok(State::new(None, subject))
            }
        }
    }

    async fn fill(
        &mut self,
        store: &Store,
        opened: Opened,
        state: State,
    ) -> Result<u8, CommandError> {
        let if_exists = super::if_exists(self.args.if_exists);
        let whose = store_label(&self.client, store);
        print_status(&format!(
            "importing {} ({}) into {whose}",
            self.shown(),
            opened.format.name()
        ));
        let sender = Sender::new(&self.client, store, if_exists, self.args.max_value).await?;
        let jobs = usize::from(self.args.jobs);
        let filled = Box::pin(fill(sender, opened, state, &mut self.report, jobs)).await;
        self.told(store, filled)
    }

    /// Says how a store's import ended.
    fn told(&mut self, store: &Store, filled: Filled) -> Result<u8, CommandError> {
        let Filled { counts, mut state, cut } = filled;
        let Counts { written, skipped, failed, existed } = counts;
        let whose = store_label(&self.client, store);
        print_status(&format!("{written} written, {skipped} skipped, {failed} failed: {whose}"));
        if super::if_exists(self.args.if_exists) == IfExists::Fail && skipped > 0 {
            print_status(
                "of those skipped some may have been there before: what an earlier run or a try \
                 without an answer wrote cannot be told from them",
            );
        }
        self.results.push(json!({
            "store": { "id": store.id, "name": store.name }, "complete": cut.is_none(),
            "written": written, "skipped": skipped, "failed": failed, "existed": existed,
            "dry_run": false,
        }));
        let Some(cut) = cut else {
            state.remove();
            return Ok(status(counts));
        };
        let status = match cut {
            Cut::Interrupted => {
                print_status("interrupted");
                EXIT_INTERRUPTED
            }
            Cut::Failed(CommandError::Failed(e)) => {
                print_error(&e.to_string());
                e.kind().exit_code()
            }
            Cut::Failed(other) => {
                let _ = finish(Err(other));
                FAILED
            }
        };
        match state.file() {
            Some(_) if status == Kind::Auth.exit_code() => {
                print_status("not all is done; with a token that may write, --resume goes on");
            }
            Some(file) => print_status(&format!(
                "not all is done; the same command with --resume goes on ({} knows where)",
                file.display()
            )),
            None => print_status("not all is done; the same command again begins anew"),
        }
        Ok(status)
    }

    /// Reads and checks all, and writes nothing.
    async fn try_out(&mut self, name: &str, mut opened: Opened) -> Result<u8, CommandError> {
        let store = match self.client.resolve(name).await {
            Ok(store) => Some(store),
            Err(e) if e.kind() == Kind::NotFound && self.may_create() => None,
            Err(e) => return Err(e.into()),
        };
        let (mut counts, mut line) = (Counts::default(), Vec::new());
        let hidden = ProgressBar::hidden();
        loop {
            line.clear();
            let next = opened.source.next(&mut line);
            let next = next.map_err(|e| local_error(format!("{}: {e}", self.input.display())))?;
            let wrong = match next {
                Next::End => break,
                Next::Wrong(wrong) => wrong,
                Next::Line(number) => match self.check(&line) {
                    Ok(left) => {
                        let over = left == Some(0);
                        counts.written += u64::from(!over);
                        counts.skipped += u64::from(over);
                        continue;
                    }
                    Err((key, reason)) => Wrong { number, key, reason },
                },
            };
            counts.failed += 1;
            self.report.tell(&[wrong], &hidden)?;
        }
        let whose = match &store {
            Some(store) => store_label(&self.client, store),
            None => format!("store {name:?}, to be made at {}", self.client.endpoint()),
        };
        let Counts { written, skipped, failed, .. } = counts;
        print_status(&format!(
            "dry run: {written} items of {} could be written, {skipped} are over, {failed} are \
             wrong: {whose}",
            self.shown()
        ));
        self.results.push(json!({
            "store": { "id": store.map(|store| store.id), "name": name }, "complete": true,
            "written": written, "skipped": skipped, "failed": failed, "existed": 0,
            "dry_run": true,
        }));
        Ok(status(counts))
    }

    fn may_create(&self) -> bool {
        self.args.create || self.args.what.len() == 1
    }

    /// Seconds that the item of a line has left, or its key and what is wrong.
    fn check(&self, line: &[u8]) -> Result<Option<u64>, (String, String)> {
        let parsed = Line::parse(line).map_err(|reason| (String::new(), reason))?;
        let checked = parsed.check(self.args.max_value);
        checked.map(|item| item.left).map_err(|reason| (parsed.key.into_owned(), reason))
    }

    fn shown(&self) -> String {
        if detect::is_stdin(&self.input) {
            return "the standard input".into();
        }
        self.input.display().to_string()
    }

    fn summary(&self) -> Result<(), CommandError> {
        if !self.args.client.json {
            return Ok(());
        }
        let mut out = Output::new();
        for result in &self.results {
            out.json(result)?;
        }
        out.flush()
    }
}

/// The exit status of an import that came to its end.
fn status(counts: Counts) -> u8 {
    match counts {
        Counts { failed: 0, .. } => 0,
        Counts { failed, existed, .. } if failed == existed => EXISTED,
        Counts { .. } => FAILED,
    }
}

/// Where an input's state is kept by default: beside it, and never within a folder that is read.
fn beside(input: &Path) -> PathBuf {
    let mut name = input.canonicalize().unwrap_or_else(|_| input.to_owned()).into_os_string();
    name.push(".resume");
    name.into()
}
