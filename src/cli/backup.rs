//! `steadfast backup` and `steadfast restore`.

use super::atomic_file::{IN_THE_WAY, Part, in_the_way};
use super::console::{self, Out, Stop, exit_status, local, note, usage};
use crate::client::Client;
use crate::config::{BackupArgs, EngineLocation, RestoreArgs};
use crate::server::{self, RestoreError};
use crate::transfer::detect::{decompress, is_stdin};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

pub(super) const BACKUP_HELP: &str = concat!(
    "\
Examples:
  steadfast backup --data /var/lib/kv -o kv.backup.zst
  FASTLY_API_TOKEN=... steadfast backup --online --endpoint http://kv.example:7678 -o kv.backup

All stores, items and limited tokens, as they are at one moment, while writes go on. The running
server of a data directory is found by itself. What is written is checksummed: see steadfast check
--backup. The root token is not in it.",
    exit_status!()
);

pub(super) const RESTORE_HELP: &str = "\
Examples:
  steadfast restore kv.backup.zst --data /var/lib/kv
  STEADFAST_ENGINE=postgres://kv:secret@db.example/kv steadfast restore kv.backup

What is filled must be empty. Items keep their generations, times and metadata. A restore that was
cut leaves what no server starts from: remove it, and restore again.

Exit status: 0 done, 1 failed, 2 called wrongly.";

pub(super) fn backup(args: BackupArgs) -> ExitCode {
    if args.output.as_os_str() != "-" && in_the_way(&args.output, args.force) {
        return ExitCode::from(IN_THE_WAY);
    }
    match server_of(&args) {
        Err(e) => console::ended(Err(e)),
        Ok(Some(client)) => console::run(&client, async |client| online(client, &args).await),
        Ok(None) => console::ended(offline(&args)),
    }
}

/// How to reach the server that is to be backed up; `None` when no server uses the directory.
fn server_of(args: &BackupArgs) -> Result<Option<crate::config::ClientArgs>, Stop> {
    if args.online {
        return Ok(Some(args.client.clone()));
    }
    let at = server::running(&args.data).map_err(local)?;
    // Whoever names another server must not get this directory unawares.
    if let Some(named) = args.client.named_endpoint().filter(|named| at.as_deref() != Some(named)) {
        let dir = args.data.display();
        return Err(usage(format!(
            "the endpoint {named} is not that of {dir}: say --online to back up the server there, \
             or leave the endpoint out (and FASTLY_API_ENDPOINT) for the directory"
        )));
    }
    Ok(at.map(|at| args.client.at_home(at, &args.data.join("token"))))
}

async fn online(client: Client, args: &BackupArgs) -> Result<(), Stop> {
    let mut backup = client.backup().await?;
    let (mut to, bar) = (Target::new(&args.output)?, console::bar("backing up", "bytes", None));
    while let Some(piece) = backup.next_chunk().await? {
        to.write(&piece)?;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    to.keep()?;
    told(&format!("the server at {}", client.endpoint()), bar.position(), args)
}

fn offline(args: &BackupArgs) -> Result<(), Stop> {
    let (mut to, bar) = (Target::new(&args.output)?, console::bar("backing up", "bytes", None));
    let mut stop = None;
    let mut take = |piece: &[u8]| {
        bar.inc(piece.len() as u64);
        to.write(piece).map_err(|e| {
            stop = Some(e);
            io::Error::other("it was not written")
        })
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| local(format!("cannot start threads: {e}")))?;
    let done = runtime.block_on(server::backup(&args.data, &mut take));
    bar.finish_and_clear();
    done.map_err(|e| stop.take().unwrap_or_else(|| local(e)))?;
    to.keep()?;
    told(&args.data.display().to_string(), bar.position(), args)
}

fn told(from: &str, bytes: u64, args: &BackupArgs) -> Result<(), Stop> {
    if args.client.json && args.output.as_os_str() != "-" {
        let mut out = Out::new();
        out.json(&serde_json::json!({ "from": from, "file": args.output, "bytes": bytes }))?;
        return out.flush();
    }
    let file = args.output.display();
    let packed = args.output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zst"));
    let packed = if packed { " before compression" } else { "" };
    note(&format!("backed up {from} to {file}: {bytes} bytes{packed}"));
    Ok(())
}

/// Where a backup goes.
enum Target {
    Out(Out),
    File(Part),
}

impl Target {
    fn new(path: &Path) -> Result<Target, Stop> {
        match path.as_os_str() == "-" {
            true => Ok(Target::Out(Out::new())),
            false => Ok(Target::File(Part::new(path)?)),
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Stop> {
        match self {
            Target::Out(out) => out.bytes(piece),
            Target::File(part) => part.write(piece),
        }
    }

    fn keep(self) -> Result<(), Stop> {
        match self {
            Target::Out(mut out) => out.flush(),
            Target::File(part) => part.keep(),
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

pub(super) fn restore(args: RestoreArgs) -> ExitCode {
    console::ended(restored(&args))
}

/// Whether a directory is not there, or has nothing in it but what a new file system has.
fn is_empty(dir: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(dir) else { return !dir.exists() };
    entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))
}

fn restored(args: &RestoreArgs) -> Result<(), Stop> {
    let place = args.place().map_err(usage)?;
    if let EngineLocation::Directory(dir) = &place
        && !is_empty(dir)
    {
        return Err(local(format!("{} is not empty: nothing is restored into it", dir.display())));
    }
    let source = open(&args.file);
    let source = source.map_err(|e| local(format!("{}: {e}", args.file.display())))?;
    let bar = console::bar("restoring", "records", None);
    let mut tell = |records| bar.set_position(records);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| local(format!("cannot start threads: {e}")))?;
    let done = runtime.block_on(server::restore(source, &place, &mut tell));
    bar.finish_and_clear();
    let counted = done.map_err(|e: RestoreError| local(format!("{}: {e}", args.file.display())))?;
    if args.json {
        let mut out = Out::new();
        out.json(&serde_json::json!({ "stores": counted.stores, "items": counted.items }))?;
        return out.flush();
    }
    note(&format!("restored {} stores and {} items into {place}", counted.stores, counted.items));
    Ok(())
}
