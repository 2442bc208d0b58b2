//! The commands that move items: import, export, sync.

mod export;
mod export_viceroy;
mod import;
mod merge_join;
mod reader;
mod report;
mod request;
mod sync;
mod upload;

use super::error::{CommandError, exit_status};
use super::output::{print_status, store_label};
use super::runtime::{self, finish};
use crate::client::IfExists;
use crate::client::{Client, Error, Retry};
use crate::config::{ConnectionConfig, ExportArgs, FormatArg, IfExistsArg, ImportArgs, SyncArgs};
use crate::transfer::Format;
use crate::wire::Store;
use std::process::ExitCode;

pub(super) const IMPORT_HELP: &str = concat!(
    "\
Examples:
  steadfast import site items.ndjson.zst
  steadfast import site ./public --create --if-exists skip
  steadfast import site items.csv --dry-run
  steadfast import fastly.toml
  steadfast export old | steadfast import new -

An input is told by its name (.ndjson, .jsonl, .json for a kv.json, .csv, .toml, each also with
.zst) or by its beginning. Values are taken as they are. What fails is told line by line, and the
rest goes on. An import that was cut goes on with --resume: how far it has come stands in
INPUT.resume until it is through. Items that --if-exists fail finds there end it with status 4.",
    exit_status!()
);

pub(super) const EXPORT_HELP: &str = concat!(
    "\
Examples:
  steadfast export site -o site.ndjson.zst
  steadfast export site --prefix blog/ | wc -l
  steadfast export site --to viceroy ./seed

A line holds key, value in base64, metadata, expires, generation and modified; import and the batch
endpoint read it. From Steadfast all items are as they were at one moment. The hosted service does
not tell when items expire. A file is there only once it is whole.",
    exit_status!()
);

pub(super) const SYNC_HELP: &str = concat!(
    "\
Examples:
  steadfast sync site site@https://kv.example.com --to-token-file token --dry-run
  steadfast sync site@https://kv.example.com site --from-token-file token --create
  steadfast sync blue green --delete --yes

Items are compared by size, metadata and value; what differs is copied, with its time to live where
that is known. Each end that is at another server than --endpoint needs its own token file. Lines of
the plan begin with + for new, ~ for changed and - for deleted items.",
    exit_status!()
);

pub(super) fn import(args: ImportArgs) -> ExitCode {
    start(import::run(args))
}

pub(super) fn export(args: ExportArgs) -> ExitCode {
    start(until_interrupted(export::run(args)))
}

pub(super) fn sync(args: SyncArgs) -> ExitCode {
    start(until_interrupted(sync::run(args)))
}

/// Runs a command that answers its exit status.
fn start<R>(command: R) -> ExitCode
where
    R: Future<Output = Result<u8, CommandError>>,
{
    let runtime = match runtime::build() {
        Ok(runtime) => runtime,
        Err(e) => return finish(Err(e)),
    };
    let done = runtime.block_on(Box::pin(command));
    // A thread that still waits for a disk or a pipe holds nobody up.
    runtime.shutdown_background();
    match done {
        Ok(status) => ExitCode::from(status),
        Err(stop) => finish(Err(stop)),
    }
}

async fn until_interrupted<R>(command: R) -> Result<u8, CommandError>
where
    R: Future<Output = Result<u8, CommandError>>,
{
    tokio::select! {
        result = Box::pin(command) => result,
        _ = tokio::signal::ctrl_c() => Err(CommandError::Interrupted),
    }
}

/// A client for a person who waits.
fn client(connection: ConnectionConfig) -> Result<Client, Error> {
    Ok(Client::new(connection.endpoint, &connection.token)?.with_retry(Retry::impatient()))
}

/// The store of this name or id; made, where that is wanted, if there is none.
async fn found(client: &Client, name: &str, create: bool) -> Result<Store, Error> {
    match client.resolve(name).await {
        Err(Error::NotFound(_)) if create => {
            let store = client.create_store(name).await?;
            print_status(&format!("created {}", store_label(client, &store)));
            Ok(store)
        }
        other => other,
    }
}

/// The client's equivalent of `--if-exists`.
fn if_exists(arg: IfExistsArg) -> IfExists {
    match arg {
        IfExistsArg::Skip => IfExists::Skip,
        IfExistsArg::Overwrite => IfExists::Overwrite,
        IfExistsArg::Fail => IfExists::Fail,
    }
}

/// The input format of `--format`.
fn format(arg: FormatArg) -> Format {
    match arg {
        FormatArg::Ndjson => Format::Ndjson,
        FormatArg::Dir => Format::Tree,
        FormatArg::Viceroy => Format::Viceroy,
        FormatArg::Fastly => Format::Manifest,
        FormatArg::Csv => Format::Csv,
    }
}
