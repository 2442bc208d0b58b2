//! The commands that transfer items: `import`, `export` and `sync`.

mod batch_sender;
mod export;
mod export_viceroy;
mod import;
mod input_files;
mod item_reader;
mod memory_budget;
mod merge_join;
mod report;
mod sync;
mod upload;

use super::error::{Result, exit_status};
use super::output::{print_status, store_label};
use super::runtime::{self, finish, until_interrupted};
use crate::client::{Client, Error};
use crate::config::{ExportArgs, ImportArgs, SyncArgs};
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

The format is detected from the file name (.ndjson, .jsonl, .json for kv.json, .csv or .toml, each
optionally followed by .zst) or from the content. Values are imported unchanged. The import
continues after a failed item, which is reported with its key and, in line-based formats, its line
number. The progress is saved in INPUT.resume until the import is complete; --resume continues an
interrupted import. With --if-exists fail, the exit status is 4 if items failed only because they
already exist.",
    exit_status!()
);

pub(super) const EXPORT_HELP: &str = concat!(
    "\
Examples:
  steadfast export site -o site.ndjson.zst
  steadfast export site --prefix blog/ | wc -l
  steadfast export site --to viceroy ./local

Each line contains key and value (base64) and, if present, metadata (metadata_base64 if it is not
UTF-8), expires, generation and modified. import reads all of these fields; the batch endpoint reads
only key, value and metadata. An export from Steadfast is a consistent snapshot. The hosted
service does not return expiry times, so an export from it contains no expires. The output file
appears once the export is complete.",
    exit_status!()
);

pub(super) const SYNC_HELP: &str = concat!(
    "\
Examples:
  steadfast sync site site@https://kv.example.com --to-token-file token --dry-run
  steadfast sync site@https://kv.example.com site --from-token-file token --create
  steadfast sync blue green --delete --yes

Items are compared by size, metadata, value and, between Steadfast servers, expiry. Items that
differ are copied, with their expiry if the source server returns it. The token for --endpoint is
not sent to other servers: for a store on another server, pass --from-token-file or --to-token-file.
Changes are printed one per line: + for new, ~ for changed and - for deleted items. --delete asks
for confirmation after the new and changed items have been copied.",
    exit_status!()
);

pub(super) fn import(args: ImportArgs) -> ExitCode {
    finish_with_status(runtime::block_on(import::run(args)))
}

pub(super) fn export(args: ExportArgs) -> ExitCode {
    finish_with_status(runtime::block_on(until_interrupted(export::run(args))))
}

pub(super) fn sync(args: SyncArgs) -> ExitCode {
    finish_with_status(runtime::block_on(until_interrupted(sync::run(args))))
}

fn finish_with_status(result: Result<u8>) -> ExitCode {
    result.map_or_else(|e| finish(Err(e)), ExitCode::from)
}

/// Finds a store by name or id. If it does not exist and `create` is set, creates it.
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
