//! `steadfast backup` and `steadfast restore`: back up a server or a data directory, and restore a
//! backup.

use super::error::{
    EXIT_PRECONDITION, Result, exit_status, file_error, local_error, local_exit_status, usage_error,
};
use super::output::{counted, print_json_if, print_status, progress_bar};
use super::output_file::{OutputFile, refuse_overwrite};
use super::runtime::{self, finish};
use crate::address_file::running_server;
use crate::admin::{self, Restored};
use crate::atomic_file::directory;
use crate::client::Client;
use crate::config::{BackupArgs, ClientArgs, EngineLocation, RestoreArgs};
use crate::transfer::detect::{decompress, is_dash, is_zstd_name};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

pub(super) const BACKUP_HELP: &str = concat!(
    "\
Examples:
  steadfast backup --data /var/lib/kv -o kv.backup.zst
  FASTLY_API_TOKEN=... steadfast backup --online --endpoint http://kv.example:7678 -o kv.backup

A backup is a snapshot of all stores, items and limited tokens. Writes continue while it is taken.
If a server is running on the data directory, that server takes the backup. The backup contains
checksums, which steadfast check --backup verifies. It does not contain the root token.",
    exit_status!()
);

pub(super) const RESTORE_HELP: &str = concat!(
    "\
Examples:
  steadfast restore kv.backup.zst --data /var/lib/kv
  STEADFAST_ENGINE=postgres://kv:secret@db.example/kv steadfast restore kv.backup

The destination must be empty. Items keep their generations, times and metadata. A server does not
start on an incomplete restore. If a restore fails, delete the destination and restore again.",
    local_exit_status!()
);

pub(super) fn backup(args: &BackupArgs) -> ExitCode {
    if !args.online && is_within(&args.output, &args.data) {
        let reason = "is in the data directory: choose a file outside it";
        return finish(Err(usage_error(format!("{} {reason}", args.output.display()))));
    }
    if refuse_overwrite(&args.output, args.force) {
        return ExitCode::from(EXIT_PRECONDITION);
    }
    match server_args(args) {
        Err(e) => finish(Err(e)),
        Ok(Some(server)) => runtime::run(&server, |client| online(client, args)),
        Ok(None) => finish(offline(args)),
    }
}

/// Returns whether a file, which may not exist yet, is in a directory or one of its subdirectories.
fn is_within(file: &Path, dir: &Path) -> bool {
    // An existing file may be a link into the directory.
    [file, directory(file)]
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .any(|path| dir.canonicalize().is_ok_and(|dir| path.starts_with(dir)) && !is_dash(file))
}

/// Returns the arguments for the server that takes the backup; `None` if no server is running on
/// the data directory.
fn server_args(args: &BackupArgs) -> Result<Option<ClientArgs>> {
    if args.online {
        return Ok(Some(args.client.clone()));
    }
    let server = running_server(&args.data).map_err(local_error)?;
    let url = server.as_ref().map(|server| server.url.as_str());
    // The user may expect a backup of the server at --endpoint instead of the directory.
    let other = args.client.explicit_endpoint().filter(|named| url != Some(named));
    if let Some(other) = other {
        let dir = args.data.display();
        return Err(usage_error(format!(
            "the server at {other} is not running on {dir}: pass --online to back up that server, \
             or unset --endpoint and FASTLY_API_ENDPOINT to back up the directory"
        )));
    }
    Ok(server.map(|server| args.client.for_running_server(server)))
}

async fn online(client: Client, args: &BackupArgs) -> Result<()> {
    let mut backup = client.backup().await?;
    let mut output = OutputFile::create(&args.output)?;
    let bar = progress_bar("backing up", "bytes", None);
    while let Some(chunk) = backup.next_chunk().await? {
        output.write(&chunk)?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    output.persist()?;
    report_backup(&format!("the server at {}", client.endpoint()), bar.position(), args)
}

fn offline(args: &BackupArgs) -> Result<()> {
    let mut output = OutputFile::create(&args.output)?;
    let bar = progress_bar("backing up", "bytes", None);
    let mut write_error = None;
    let mut write = |chunk: &[u8]| {
        bar.inc(chunk.len() as u64);
        output.write(chunk).map_err(|e| {
            write_error = Some(e);
            io::Error::other("write failed")
        })
    };
    let result = runtime::build()?.block_on(admin::backup(&args.data, &mut write));
    bar.finish_and_clear();
    result.map_err(|e| write_error.take().unwrap_or_else(|| local_error(e)))?;
    output.persist()?;
    report_backup(&args.data.display().to_string(), bar.position(), args)
}

fn report_backup(source: &str, bytes: u64, args: &BackupArgs) -> Result<()> {
    if args.client.json && !is_dash(&args.output) {
        let result = serde_json::json!({ "from": source, "file": args.output, "bytes": bytes });
        return print_json_if(true, &result);
    }
    let file = args.output.display();
    let uncompressed = if is_zstd_name(&args.output) { " before compression" } else { "" };
    print_status(&format!("backed up {source} to {file}: {bytes} bytes{uncompressed}"));
    Ok(())
}

/// Opens a backup, which may be compressed.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, String> {
    let source: Box<dyn Read + Send> = match is_dash(path) {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(|e| e.to_string())?),
    };
    decompress(Box::new(BufReader::with_capacity(1 << 20, source)), path).map_err(|e| e.to_string())
}

pub(super) fn restore(args: &RestoreArgs) -> ExitCode {
    finish(restore_backup(args))
}

fn restore_backup(args: &RestoreArgs) -> Result<()> {
    let destination = args.destination().map_err(usage_error)?;
    if let EngineLocation::Directory(dir) = &destination
        && !is_empty(dir)
    {
        return Err(file_error(dir, "is not empty: restore into a new directory"));
    }
    let source = open(&args.file).map_err(|e| file_error(&args.file, e))?;
    let bar = progress_bar("restoring", "records", None);
    let mut report = |records| bar.set_position(records);
    let runtime = runtime::build()?;
    let result = runtime.block_on(admin::restore(source, &destination, &mut report));
    bar.finish_and_clear();
    let Restored { counts, new_generations } = result.map_err(|e| file_error(&args.file, e))?;
    if new_generations > 0 {
        let items = counted(new_generations, "item");
        print_status(&format!("{items} got a new generation, as the old one was 2^53 or greater"));
    }
    if args.json {
        let result = serde_json::json!({ "stores": counts.stores, "items": counts.items });
        return print_json_if(true, &result);
    }
    let (stores, items) = (counted(counts.stores, "store"), counted(counts.items, "item"));
    print_status(&format!("restored {stores} and {items} into {destination}"));
    Ok(())
}

/// Returns whether a directory is absent or empty. Ignores `lost+found`, which every new file
/// system contains.
fn is_empty(dir: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(dir) else { return !dir.exists() };
    entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))
}
