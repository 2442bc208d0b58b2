//! `steadfast import`.

use super::report::FailureLog;
use super::request::BatchSender;
use super::upload::{Aborted, UploadSummary, upload};
use super::{client, find_or_create};
use crate::cli::error::{CommandError, EXIT_INTERRUPTED, local_error, usage_error};
use crate::cli::output::{Output, counted, print_error, print_status, store_label};
use crate::cli::runtime::finish;
use crate::client::{Client, ErrorKind};
use crate::config::{ImportArgs, ItemFormat};
use crate::transfer::detect::{self, OpenSource};
use crate::transfer::item::CheckedItem;
use crate::transfer::resume::{ImportCounts, ImportParameters, ResumeState};
use crate::transfer::{NextItem, fastly_toml};
use crate::wire::{IfExists, Store};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Exit status if items failed.
const FAILED: u8 = 1;
/// Exit status if items failed only because they exist.
const EXISTED: u8 = 4;

pub(super) async fn run(args: ImportArgs) -> Result<u8, CommandError> {
    let (store, input) = match args.operands.as_slice() {
        [input] => (None, input.clone()),
        [store, input] => {
            let store =
                store.to_str().ok_or_else(|| usage_error("the store name must be UTF-8"))?;
            (Some(store.to_owned()), input.clone())
        }
        _ => return Err(usage_error("a store and an input are required")),
    };
    let format = args.format.or_else(|| detect::format_of_name(&input));
    let fastly_toml = format == Some(ItemFormat::FastlyToml);
    if store.is_none() && !fastly_toml {
        let reason = "a store name is required before the input: only a fastly.toml names its \
                      stores";
        return Err(usage_error(reason));
    }
    if args.resume && (detect::is_stdin(&input) || fastly_toml) {
        return Err(usage_error("--resume requires a file or directory of items as the input"));
    }
    let mut import = Import {
        client: client(args.client.resolve()?)?,
        failures: FailureLog::open(args.report.as_deref(), args.resume)?,
        args,
        input,
        results: Vec::new(),
    };
    let status = match (fastly_toml, store) {
        (true, store) => import.import_fastly_toml(store).await?,
        (false, Some(store)) => import.import_store(&store).await?,
        (false, None) => FAILED,
    };
    import.print_results()?;
    Ok(status)
}

struct Import {
    client: Client,
    args: ImportArgs,
    input: PathBuf,
    failures: FailureLog,
    results: Vec<Value>,
}

impl Import {
    /// Imports the input into one store.
    async fn import_store(&mut self, name: &str) -> Result<u8, CommandError> {
        let input = detect::open(&self.input, self.args.format, self.args.max_value);
        let input = input.map_err(|e| self.input_error(&e))?;
        if self.args.dry_run {
            return self.dry_run(name, input).await;
        }
        let store = find_or_create(&self.client, name, self.args.create).await?;
        let state = self.resume_state(&store, input.format)?;
        self.upload(&store, input, state).await
    }

    /// Imports all stores of a `fastly.toml`, or the given one.
    async fn import_fastly_toml(&mut self, only: Option<String>) -> Result<u8, CommandError> {
        let mut stores = detect::fastly_toml(&self.input).map_err(|e| self.input_error(&e))?;
        if let Some(only) = &only {
            let names: Vec<_> = stores.keys().map(|name| format!("{name:?}")).collect();
            stores.retain(|name, _| name == only);
            if stores.is_empty() {
                let names = names.join(", ");
                let reason = format!("names no store {only:?}; its stores are {names}");
                return Err(self.input_error(&reason));
            }
        }
        if stores.is_empty() {
            return Err(self.input_error(&"names no KV stores"));
        }
        // Read all stores first, so that an error in one leaves all unchanged.
        let mut read = Vec::new();
        for (name, entries) in stores {
            let items = fastly_toml::items(entries, self.args.max_value);
            read.push((name, items.map_err(|e| self.input_error(&e))?));
        }
        let create = only.is_none() || self.args.create;
        let mut worst = 0;
        for (name, items) in read {
            let input = OpenSource {
                source: Box::new(items.into_iter()),
                format: ItemFormat::FastlyToml,
                size: None,
                bytes_read: Arc::new(AtomicU64::new(0)),
            };
            let status = if self.args.dry_run {
                self.dry_run(&name, input).await?
            } else {
                let store = find_or_create(&self.client, &name, create).await?;
                let parameters = self.parameters(&store, ItemFormat::FastlyToml, "");
                self.upload(&store, input, ResumeState::new(None, parameters)).await?
            };
            if status == EXIT_INTERRUPTED {
                return Ok(status);
            }
            worst = if worst == 0 || status == FAILED { status } else { worst };
        }
        Ok(worst)
    }

    fn parameters(&self, store: &Store, format: ItemFormat, input: &str) -> ImportParameters {
        ImportParameters {
            endpoint: self.client.endpoint().to_string(),
            store: store.id.clone(),
            input: input.to_owned(),
            format: format.name().to_owned(),
            if_exists: self.args.if_exists.as_str().to_owned(),
        }
    }

    /// Loads or starts the resume state, which is not saved for standard input.
    fn resume_state(&self, store: &Store, format: ItemFormat) -> Result<ResumeState, CommandError> {
        if detect::is_stdin(&self.input) {
            if self.args.state.is_some() {
                return Err(usage_error("--state requires a file or directory as the input"));
            }
            return Ok(ResumeState::new(None, self.parameters(store, format, "")));
        }
        let file = self.args.state.clone().unwrap_or_else(|| default_state_file(&self.input));
        let input = detect::fingerprint(&self.input).map_err(|e| self.input_error(&e))?;
        let parameters = self.parameters(store, format, &input);
        if self.args.resume {
            let state = ResumeState::resume(file, parameters);
            let state = state.map_err(|e| local_error(e.to_string()))?;
            print_status(&format!("resuming after {}", counted(state.acknowledged(), "item")));
            return Ok(state);
        }
        let mut state = ResumeState::new(Some(file), parameters.clone());
        match state.record_sent(0) {
            Ok(()) => Ok(state),
            Err(e) if self.args.state.is_some() => Err(local_error(e.to_string())),
            Err(e) => {
                print_status(&format!("warning: {e}; this import cannot be resumed"));
                Ok(ResumeState::new(None, parameters))
            }
        }
    }

    async fn upload(
        &mut self,
        store: &Store,
        input: OpenSource,
        state: ResumeState,
    ) -> Result<u8, CommandError> {
        let (if_exists, max_value) = (self.args.if_exists, self.args.max_value);
        let (shown, format) = (self.input_shown(), input.format.name());
        print_status(&format!("importing {shown} ({format}): {}", self.label(store)));
        let sender = BatchSender::new(&self.client, store, if_exists, max_value).await?;
        let jobs = usize::from(self.args.jobs);
        let summary = Box::pin(upload(sender, input, state, &mut self.failures, jobs)).await;
        Ok(self.report(store, summary))
    }

    /// Reports the result of an upload and returns the exit status.
    fn report(&mut self, store: &Store, summary: UploadSummary) -> u8 {
        let UploadSummary { counts, mut state, aborted } = summary;
        let ImportCounts { written, skipped, failed, existed } = counts;
        let label = self.label(store);
        print_status(&format!(
            "imported {}, {skipped} skipped, {failed} failed: {label}",
            counted(written, "item")
        ));
        if self.args.if_exists == IfExists::Fail && skipped > 0 {
            print_status(
                "note: skipped items may have existed before this import; items written by an \
                 earlier run or an unanswered request cannot be distinguished from them",
            );
        }
        self.results.push(json!({
            "store": { "id": store.id, "name": store.name }, "complete": aborted.is_none(),
            "written": written, "skipped": skipped, "failed": failed, "existed": existed,
            "dry_run": false,
        }));
        let Some(aborted) = aborted else {
            state.remove();
            return exit_status(counts);
        };
        let status = match aborted {
            Aborted::Interrupted => {
                print_error("interrupted");
                EXIT_INTERRUPTED
            }
            Aborted::Failed(CommandError::Failed(e)) => {
                print_error(&e.to_string());
                e.kind().exit_code()
            }
            Aborted::Failed(other) => {
                let _ = finish(Err(other));
                FAILED
            }
        };
        match state.file() {
            Some(_) if status == ErrorKind::Auth.exit_code() => {
                print_status("import incomplete; continue with --resume and a token that may write")
            }
            Some(file) => print_status(&format!(
                "import incomplete; continue with the same command and --resume (progress saved \
                 in {})",
                file.display()
            )),
            None => print_status("import incomplete; run the same command again to start over"),
        }
        status
    }

    /// Reads and checks all items without writing any.
    async fn dry_run(&mut self, name: &str, mut input: OpenSource) -> Result<u8, CommandError> {
        let create = self.args.create || self.args.operands.len() == 1;
        let store = match self.client.resolve(name).await {
            Ok(store) => Some(store),
            Err(e) if e.kind() == ErrorKind::NotFound && create => None,
            Err(e) => return Err(e.into()),
        };
        let (mut counts, mut line) = (ImportCounts::default(), Vec::new());
        let hidden = ProgressBar::hidden();
        loop {
            line.clear();
            let next = input.source.next_item(&mut line).map_err(|e| self.input_error(&e))?;
            let checked = match next {
                NextItem::End => break,
                NextItem::Rejected(item) => Err(item),
                NextItem::Line(number) => CheckedItem::parse(&line, number, self.args.max_value),
            };
            match checked {
                Ok(item) if item.expiry.remaining_secs() == Some(0) => counts.skipped += 1,
                Ok(_) => counts.written += 1,
                Err(item) => {
                    counts.failed += 1;
                    self.failures.report(&[item], &hidden)?;
                }
            }
        }
        let label = match &store {
            Some(store) => self.label(store),
            None => format!("store {name:?} (to be created) at {}", self.client.endpoint()),
        };
        let ImportCounts { written, skipped, failed, .. } = counts;
        print_status(&format!(
            "dry run: would import {}, {skipped} expired, {failed} invalid: {label}",
            counted(written, "item")
        ));
        self.results.push(json!({
            "store": { "id": store.map(|store| store.id), "name": name }, "complete": true,
            "written": written, "skipped": skipped, "failed": failed, "existed": 0,
            "dry_run": true,
        }));
        Ok(exit_status(counts))
    }

    fn label(&self, store: &Store) -> String {
        store_label(&self.client, store)
    }

    fn input_error(&self, e: &dyn Display) -> CommandError {
        local_error(format!("{}: {e}", self.input.display()))
    }

    fn input_shown(&self) -> String {
        if detect::is_stdin(&self.input) {
            return "standard input".into();
        }
        self.input.display().to_string()
    }

    fn print_results(&self) -> Result<(), CommandError> {
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

/// The exit status of a completed import.
fn exit_status(counts: ImportCounts) -> u8 {
    match counts {
        ImportCounts { failed: 0, .. } => 0,
        ImportCounts { failed, existed, .. } if failed == existed => EXISTED,
        ImportCounts { .. } => FAILED,
    }
}

/// The resume file of an input: beside it, never inside a directory that is imported.
fn default_state_file(input: &Path) -> PathBuf {
    let mut name = input.canonicalize().unwrap_or_else(|_| input.to_owned()).into_os_string();
    name.push(".resume");
    name.into()
}
