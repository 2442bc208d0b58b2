//! `steadfast import`: reads items from a file or a directory and writes them to a store.

use super::batch_sender::BatchSender;
use super::find_or_create;
use super::input_files::InputFiles;
use super::report::FailureLog;
use super::upload::{UploadSummary, upload};
use crate::cli::error::{
    CommandError, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_PRECONDITION, Result, file_error,
    local_error, usage_error,
};
use crate::cli::output::{Output, counted, print_error, print_status, store_label};
use crate::cli::runtime::connect;
use crate::client::{Client, Error, ErrorKind};
use crate::config::{ImportArgs, ImportFormat};
use crate::transfer::NextItem;
use crate::transfer::checked_item::CheckedItem;
use crate::transfer::detect::{self, OpenSource};
use crate::transfer::fastly_toml::{self, DeclaredItems};
use crate::transfer::resume::{ImportCounts, ImportParameters, ResumeState};
use crate::transfer::source_notes::SourceNotes;
use crate::wire::{IfExists, Store};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::fmt::Display;
use std::path::{Path, PathBuf};

pub(super) async fn run(args: ImportArgs) -> Result<u8> {
    let (store, input) = match args.operands.as_slice() {
        [input] => (None, input.clone()),
        [store, input] => match store.to_str() {
            Some(store) => (Some(store.to_owned()), input.clone()),
            None => return Err(usage_error("the store name must be UTF-8")),
        },
        _ => return Err(usage_error("a store and an input are required")),
    };
    let format = args.format.or_else(|| detect::format_of_name(&input));
    let fastly_toml = format == Some(ImportFormat::FastlyToml);
    if store.is_none() && !fastly_toml {
        return Err(usage_error("STORE is required unless the input is a fastly.toml"));
    }
    let resumable = !detect::is_dash(&input) && !fastly_toml;
    if !resumable && (args.resume || args.state.is_some()) {
        return Err(usage_error(
            "--resume and --state require an input file or directory, other than a fastly.toml",
        ));
    }
    let mut importer = Importer {
        client: connect(args.client.resolve()?)?,
        failures: FailureLog::default(),
        args,
        input,
        results: Vec::new(),
    };
    let status = match store {
        Some(store) if !fastly_toml => importer.import_store(&store).await?,
        store => importer.import_fastly_toml(store).await?,
    };
    importer.print_results()?;
    Ok(status)
}

struct Importer {
    client: Client,
    args: ImportArgs,
    input: PathBuf,
    failures: FailureLog,
    results: Vec<Value>,
}

impl Importer {
    async fn import_store(&mut self, name: &str) -> Result<u8> {
        let input = detect::open(&self.input, self.args.format, self.args.max_value);
        let input = input.map_err(|e| self.input_error(e))?;
        if self.args.dry_run {
            return self.dry_run(name, input).await;
        }
        let inputs = InputFiles::new(&self.input, input.files.iter().map(PathBuf::as_path));
        let inputs = self.open_report(inputs)?;
        let store = find_or_create(&self.client, name, self.args.create).await?;
        let state = self.resume_state(&store, input.format, &inputs)?;
        self.upload(&store, input, state).await
    }

    /// Opens the report file, which must not be one of the inputs, and adds it to `inputs`.
    fn open_report(&mut self, mut inputs: InputFiles) -> Result<InputFiles> {
        if let Some(report) = &self.args.report {
            inputs.check("--report", report)?;
            self.failures = FailureLog::open(report, self.args.resume)?;
            inputs.add(report);
        }
        Ok(inputs)
    }

    /// Imports all stores that a `fastly.toml` declares, or only the store named `only`.
    async fn import_fastly_toml(&mut self, only: Option<String>) -> Result<u8> {
        let mut stores = detect::fastly_toml(&self.input).map_err(|e| self.input_error(e))?;
        if let Some(only) = &only {
            let names: Vec<_> = stores.keys().map(|name| format!("{name:?}")).collect();
            stores.retain(|name, _| name == only);
            if stores.is_empty() {
                let names = names.join(", ");
                return Err(self.input_error(format!("declares no store {only:?}, only {names}")));
            }
        }
        if stores.is_empty() {
            return Err(self.input_error("declares no KV stores"));
        }
        // Read all stores first, so that nothing is imported if a store cannot be read.
        let kv_json = stores.values().flatten().filter_map(DeclaredItems::file);
        let mut inputs = InputFiles::new(&self.input, kv_json);
        let mut read = Vec::new();
        for (name, entries) in stores {
            let items = fastly_toml::items(entries, self.args.max_value);
            read.push((name, items.map_err(|e| self.input_error(e))?));
        }
        let values = read.iter().flat_map(|(_, items)| items);
        values.filter_map(|item| item.value.file()).for_each(|file| inputs.add(file));
        if !self.args.dry_run {
            self.open_report(inputs)?;
        }
        let create = only.is_none() || self.args.create;
        let mut worst = 0;
        for (name, items) in read {
            let items = Box::new(items.into_iter());
            let input = OpenSource::new(items, ImportFormat::FastlyToml);
            let status = if self.args.dry_run {
                self.dry_run(&name, input).await?
            } else {
                let store = find_or_create(&self.client, &name, create).await?;
                let parameters = self.parameters(&store, ImportFormat::FastlyToml, "");
                self.upload(&store, input, ResumeState::new(parameters)).await?
            };
            if status == EXIT_INTERRUPTED {
                return Ok(status);
            }
            worst = if worst == 0 || status == EXIT_FAILURE { status } else { worst };
        }
        Ok(worst)
    }

    fn parameters(&self, store: &Store, format: ImportFormat, input: &str) -> ImportParameters {
        ImportParameters {
            endpoint: self.client.endpoint().to_string(),
            store: store.id.clone(),
            input: input.to_owned(),
            format: format.name().to_owned(),
            if_exists: self.args.if_exists.as_str().to_owned(),
        }
    }

    /// Loads or creates the resume state. The state of an import from standard input is not saved.
    fn resume_state(
        &self,
        store: &Store,
        format: ImportFormat,
        inputs: &InputFiles,
    ) -> Result<ResumeState> {
        if detect::is_dash(&self.input) {
            return Ok(ResumeState::new(self.parameters(store, format, "")));
        }
        if let Some(state) = &self.args.state {
            inputs.check("--state", state)?;
        }
        let file = self.args.state.clone().unwrap_or_else(|| default_state_file(&self.input));
        let input = detect::fingerprint(&self.input).map_err(|e| self.input_error(e))?;
        let parameters = self.parameters(store, format, &input);
        if self.args.resume {
            let state = ResumeState::resume(file, parameters);
            let state = state.map_err(|e| local_error(e.to_string()))?;
            print_status(&format!("resuming after {}", counted(state.acknowledged(), "item")));
            return Ok(state);
        }
        match ResumeState::create(file, parameters.clone()) {
            Ok(state) => Ok(state),
            Err(e) if self.args.state.is_some() => Err(local_error(e.to_string())),
            Err(e) => {
                print_status(&format!("warning: this import cannot be resumed: {e}"));
                Ok(ResumeState::new(parameters))
            }
        }
    }

    async fn upload(&mut self, store: &Store, input: OpenSource, state: ResumeState) -> Result<u8> {
        let (if_exists, max_value) = (self.args.if_exists, self.args.max_value);
        let name = match detect::is_dash(&self.input) {
            true => "standard input".into(),
            false => self.input.display().to_string(),
        };
        let format = input.format.name();
        print_status(&format!("importing {name} ({format}): {}", self.label(store)));
        let sender = BatchSender::new(&self.client, store, if_exists, max_value).await?;
        let (jobs, notes) = (usize::from(self.args.jobs), input.notes.clone());
        let summary = Box::pin(upload(sender, input, state, &mut self.failures, jobs)).await;
        if summary.aborted.is_none() {
            print_notes(&notes);
        }
        Ok(self.report(store, summary))
    }

    /// Reports the result of an upload and returns the exit status.
    fn report(&mut self, store: &Store, summary: UploadSummary) -> u8 {
        let UploadSummary { counts, mut state, aborted, source_failed } = summary;
        let ImportCounts { written, skipped, failed, .. } = counts;
        let label = self.label(store);
        print_status(&format!(
            "imported {}, {skipped} skipped, {failed} failed: {label}",
            counted(written, "item")
        ));
        if self.args.if_exists == IfExists::Fail && skipped > 0 {
            print_status(
                "note: skipped items had expired, or already existed when an earlier attempt was \
                 repeated",
            );
        }
        self.push_result(Some(&store.id), &store.name, counts, aborted.is_none());
        let Some(aborted) = aborted else {
            state.remove();
            return exit_status(counts);
        };
        let (status, resumable) = match aborted {
            CommandError::Interrupted => {
                print_error("interrupted");
                (EXIT_INTERRUPTED, true)
            }
            CommandError::Failed(e) => {
                print_error(&e.to_string());
                (e.kind().exit_status(), !source_failed && may_succeed_later(&e))
            }
            CommandError::OutputClosed | CommandError::Declined => (EXIT_FAILURE, true),
        };
        match state.file() {
            Some(_) if status == ErrorKind::Auth.exit_status() => print_status(
                "import incomplete: run again with --resume and a token that permits writes",
            ),
            Some(file) if resumable => print_status(&format!(
                "import incomplete: run the same command again with --resume (progress in {})",
                file.display()
            )),
            None if resumable => {
                print_status("import incomplete: run the same command again to start over")
            }
            _ => print_status(
                "import incomplete: correct the error, and start over without --resume",
            ),
        }
        status
    }

    /// Reads and checks all items, but does not import them.
    async fn dry_run(&mut self, name: &str, mut input: OpenSource) -> Result<u8> {
        let create = self.args.create || self.args.operands.len() == 1;
        let store = match self.client.resolve(name).await {
            Ok(store) => Some(store),
            Err(e) if e.kind() == ErrorKind::NotFound && create => None,
            Err(e) => return Err(e.into()),
        };
        let steadfast = self.client.is_steadfast().await?;
        if self.args.report.is_some() {
            print_status(
                "note: --dry-run writes no files; ignoring --report and printing failed items here",
            );
        }
        let (mut counts, mut line) = (ImportCounts::default(), Vec::new());
        let hidden = ProgressBar::hidden();
        loop {
            line.clear();
            let next = input.source.next_item(&mut line).map_err(|e| self.input_error(e))?;
            let checked = match next {
                NextItem::End => break,
                NextItem::Rejected(item) => Err(item),
                NextItem::Line(position) => {
                    let item = CheckedItem::parse(&line, position, self.args.max_value);
                    item.and_then(|item| match steadfast {
                        true => item.check_generation(position),
                        false => Ok(item),
                    })
                }
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
        print_notes(&input.notes);
        let label = match &store {
            Some(store) => self.label(store),
            None => format!("store {name:?} (to be created) at {}", self.client.endpoint()),
        };
        let ImportCounts { written, skipped, failed, .. } = counts;
        print_status(&format!(
            "dry run: would import {}, {skipped} expired, {failed} invalid: {label}",
            counted(written, "item")
        ));
        self.push_result(store.as_ref().map(|store| store.id.as_str()), name, counts, true);
        Ok(exit_status(counts))
    }

    fn push_result(&mut self, id: Option<&str>, name: &str, counts: ImportCounts, complete: bool) {
        let ImportCounts { written, skipped, failed, existed } = counts;
        self.results.push(json!({
            "store": { "id": id, "name": name }, "complete": complete, "written": written,
            "skipped": skipped, "failed": failed, "existed": existed,
            "dry_run": self.args.dry_run,
        }));
    }

    fn label(&self, store: &Store) -> String {
        store_label(&self.client, store)
    }

    fn input_error(&self, e: impl Display) -> CommandError {
        file_error(&self.input, e)
    }

    fn print_results(&self) -> Result<()> {
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

fn print_notes(notes: &SourceNotes) {
    for message in notes.messages() {
        print_status(&format!("note: {message}"));
    }
}

/// Returns whether a later run may complete an import that failed with this error.
fn may_succeed_later(e: &Error) -> bool {
    // For example, a full disk causes a local error.
    e.is_transient() || e.status().is_some_and(|s| s >= 500) || matches!(e, Error::Local(_))
}

/// Returns the exit status of an import that reached the end of its input.
fn exit_status(counts: ImportCounts) -> u8 {
    match counts.failed {
        0 => 0,
        failed if failed == counts.existed => EXIT_PRECONDITION,
        _ => EXIT_FAILURE,
    }
}

/// Returns the path of the default resume file, which is next to the input file or directory.
fn default_state_file(input: &Path) -> PathBuf {
    let mut name = input.canonicalize().unwrap_or_else(|_| input.to_owned()).into_os_string();
    name.push(".resume");
    name.into()
}
