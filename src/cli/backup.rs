//! `steadfast backup` and `steadfast restore`.

use super::error::{
    CommandError, EXIT_PRECONDITION, exit_status, local_error, local_exit_status, usage_error,
};
use super::output::{Output, print_status, progress_bar};
use super::output_file::{OutputFile, refuse_overwrite};
use super::runtime::{self, finish};
use crate::admin;
use crate::client::Client;
use crate::config::{BackupArgs, ClientArgs, EngineLocation, RestoreArgs};
use crate::storage::server_address;
use crate::transfer::detect::{decompress, is_stdin, is_zstd_name};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

pub(super) const BACKUP_HELP: &str = concat!(
    "\
Examples:
  steadfast backup --data /var/lib/kv -o kv.backup.zst
  FASTLY_API_TOKEN=... steadfast backup --online --endpoint http://kv.example:7678 -o kv.backup

A backup is a snapshot of all stores, items and limited tokens; writes continue while it is taken.
If a server is running on the data directory, the backup is taken through it. The backup contains
checksums (see steadfast check --backup), but not the root token.",
    exit_status!()
);

pub(super) const RESTORE_HELP: &str = concat!(
    "\
Examples:
  steadfast restore kv.backup.zst --data /var/lib/kv
  STEADFAST_ENGINE=postgres://kv:secret@db.example/kv steadfast restore kv.backup

The destination must be empty. Items retain their generations, times and metadata. No server starts
from an interrupted restore: delete the destination and restore again.",
    local_exit_status!()
);

pub(super) fn backup(args: &BackupArgs) -> ExitCode {
    if args.output.as_os_str() != "-" && refuse_overwrite(&args.output, args.force) {
        return ExitCode::from(EXIT_PRECONDITION);
    }
    match running_server(args) {
        Err(e) => finish(Err(e)),
        Ok(Some(server)) => runtime::run(&server, async |client| online(client, args).await),
        Ok(None) => finish(offline(args)),
    }
}

/// The connection to the server to back up, or `None` if no server uses the data directory.
fn running_server(args: &BackupArgs) -> Result<Option<ClientArgs>, CommandError> {
    if args.online {
        return Ok(Some(args.client.clone()));
    }
    let url = server_address(&args.data).map_err(local_error)?;
    // A user who names another server does not expect a backup of this directory.
    let other = args.client.explicit_endpoint().filter(|named| url.as_deref() != Some(named));
    if let Some(other) = other {
        let dir = args.data.display();
        return Err(usage_error(format!(
            "the server at {other} does not use {dir}: pass --online to back up that server, or \
             unset --endpoint and FASTLY_API_ENDPOINT to back up the directory"
        )));
    }
    Ok(url.map(|url| args.client.for_data_directory(url, &args.data)))
}

async fn online(client: Client, args: &BackupArgs) -> Result<(), CommandError> {
    let mut backup = client.backup().await?;
    let mut destination = Destination::open(&args.output)?;
    let bar = progress_bar("backing up", "bytes", None);
    while let Some(piece) = backup.next_chunk().await? {
        destination.write(&piece)?;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    destination.finish()?;
    report_backup(&format!("the server at {}", client.endpoint()), bar.position(), args)
}

fn offline(args: &BackupArgs) -> Result<(), CommandError> {
    let mut destination = Destination::open(&args.output)?;
    let bar = progress_bar("backing up", "bytes", None);
    let mut write_error = None;
    let mut write = |piece: &[u8]| {
        bar.inc(piece.len() as u64);
        destination.write(piece).map_err(|e| {
            write_error = Some(e);
            io::Error::other("write failed")
        })
    };
    let result = runtime::build()?.block_on(admin::backup(&args.data, &mut write));
    bar.finish_and_clear();
    result.map_err(|e| write_error.take().unwrap_or_else(|| local_error(e)))?;
    destination.finish()?;
    report_backup(&args.data.display().to_string(), bar.position(), args)
}

fn report_backup(source: &str, bytes: u64, args: &BackupArgs) -> Result<(), CommandError> {
    if args.client.json && args.output.as_os_str() != "-" {
        let mut out = Output::new();
        out.json(&serde_json::json!({ "from": source, "file": args.output, "bytes": bytes }))?;
        return out.flush();
    }
    let file = args.output.display();
    let uncompressed = if is_zstd_name(&args.output) { " before compression" } else { "" };
    print_status(&format!("backed up {source} to {file}: {bytes} bytes{uncompressed}"));
    Ok(())
}

/// The destination of a backup.
enum Destination {
    Stdout(Output),
    File(OutputFile),
}

impl Destination {
    fn open(path: &Path) -> Result<Destination, CommandError> {
        match path.as_os_str() == "-" {
            true => Ok(Destination::Stdout(Output::new())),
            false => Ok(Destination::File(OutputFile::create(path)?)),
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), CommandError> {
        match self {
            Destination::Stdout(out) => out.bytes(piece),
            Destination::File(file) => file.write(piece),
        }
    }

    fn finish(self) -> Result<(), CommandError> {
        match self {
            Destination::Stdout(mut out) => out.flush(),
            Destination::File(file) => file.persist(),
        }
    }
}

/// Opens a backup, compressed or not.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, String> {
    let source: Box<dyn Read + Send> = match is_stdin(path) {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(|e| e.to_string())?),
    };
    decompress(Box::new(BufReader::with_capacity(1 << 20, source)), path).map_err(|e| e.to_string())
}

pub(super) fn restore(args: &RestoreArgs) -> ExitCode {
    finish(restore_backup(args))
}

fn restore_backup(args: &RestoreArgs) -> Result<(), CommandError> {
    let destination = args.destination().map_err(usage_error)?;
    if let EngineLocation::Directory(dir) = &destination
        && !is_empty(dir)
    {
        let dir = dir.display();
        return Err(local_error(format!("{dir} is not empty: restore into a new directory")));
    }
    let failed = |e: &dyn std::fmt::Display| local_error(format!("{}: {e}", args.file.display()));
    let source = open(&args.file).map_err(|e| failed(&e))?;
    let bar = progress_bar("restoring", "records", None);
    let mut report = |records| bar.set_position(records);
    let runtime = runtime::build()?;
    let result = runtime.block_on(admin::restore(source, &destination, &mut report));
    bar.finish_and_clear();
    let counts = result.map_err(|e| failed(&e))?;
    if args.json {
        let mut out = Output::new();
        out.json(&serde_json::json!({ "stores": counts.stores, "items": counts.items }))?;
        return out.flush();
    }
    let (stores, items) = (counts.stores, counts.items);
    print_status(&format!("restored {stores} stores and {items} items into {destination}"));
    Ok(())
}

/// Whether a directory is absent or empty. A new file system contains `lost+found`.
fn is_empty(dir: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(dir) else { return !dir.exists() };
    entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))
}
