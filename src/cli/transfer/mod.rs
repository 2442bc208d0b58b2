//! The commands that move items: `import`, `export` and `sync`.

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
use crate::client::{Client, Error, Retry};
use crate::config::{ConnectionConfig, ExportArgs, ImportArgs, SyncArgs};
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

The format is detected from the file name (.ndjson, .jsonl, .json for kv.json, .csv, .toml, each
optionally followed by .zst) or from the content. Values are imported unchanged. Items that fail are
reported with their line number, and the import continues. The progress is saved in INPUT.resume
until the import is complete; --resume continues an interrupted import. With --if-exists fail, the
exit status is 4 if items failed only because they exist.",
    exit_status!()
);

pub(super) const EXPORT_HELP: &str = concat!(
    "\
Examples:
  steadfast export site -o site.ndjson.zst
  steadfast export site --prefix blog/ | wc -l
  steadfast export site --to viceroy ./local

Each line contains key, value (base64), metadata, expires, generation and modified; import and the
batch endpoint accept it. An export from Steadfast is a consistent snapshot. The hosted service does
not report when items expire, so its exports have no expires. An output file appears only when the
export is complete.",
    exit_status!()
);

pub(super) const SYNC_HELP: &str = concat!(
    "\
Examples:
  steadfast sync site site@https://kv.example.com --to-token-file token --dry-run
  steadfast sync site@https://kv.example.com site --from-token-file token --create
  steadfast sync blue green --delete --yes

Items are compared by size, metadata and value; those that differ are copied, with their expiry
where the server reports it. A store at another server than --endpoint needs its own token file.
Changes are printed one per line: + for new, ~ for changed and - for deleted items.",
    exit_status!()
);

pub(super) fn import(args: ImportArgs) -> ExitCode {
    run(import::run(args))
}

pub(super) fn export(args: ExportArgs) -> ExitCode {
    run(until_interrupted(export::run(args)))
}

pub(super) fn sync(args: SyncArgs) -> ExitCode {
    run(until_interrupted(sync::run(args)))
}

/// Runs a command that returns its exit status.
fn run<R>(command: R) -> ExitCode
where
    R: Future<Output = Result<u8, CommandError>>,
{
    let runtime = match runtime::build() {
        Ok(runtime) => runtime,
        Err(e) => return finish(Err(e)),
    };
    let result = runtime.block_on(Box::pin(command));
    // Do not wait for threads that are blocked on a disk or a pipe.
    runtime.shutdown_background();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(e) => finish(Err(e)),
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

fn client(connection: ConnectionConfig) -> Result<Client, Error> {
    Ok(Client::new(connection.endpoint, &connection.token)?.with_retry(Retry::interactive()))
}

/// Finds a store by name or id, and optionally creates it if it does not exist.
async fn find_or_create(client: &Client, name: &str, create: bool) -> Result<Store, Error> {
    match client.resolve(name).await {
        Err(Error::NotFound(_)) if create => {
            let store = client.create_store(name).await?;
            print_status(&format!("created {}", store_label(client, &store)));
            Ok(store)
        }
        other => other,
    }
}
