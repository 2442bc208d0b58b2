//! `steadfast backup` and `steadfast restore`.

use super::talk::{self, Out, Stop, exit_status, local, note, usage};
use crate::client::Client;
use crate::config::{BackupArgs, RestoreArgs};
use crate::server::{self, RestoreError};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) const BACKUP_HELP: &str = concat!(
    "\
Examples:
  steadfast backup --data /var/lib/kv -o kv.backup.zst
  FASTLY_API_TOKEN=... steadfast backup --online --endpoint http://kv.example:7677 -o kv.backup

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

/// The first bytes of what is compressed.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// How hard to compress.
const LEVEL: i32 = 3;

pub(super) fn backup(args: BackupArgs) -> ExitCode {
    match server_of(&args) {
        Err(e) => talk::ended(Err(e)),
        Ok(Some(client)) => talk::run(&client, async |client| online(client, &args).await),
        Ok(None) => talk::ended(offline(&args)),
    }
}

/// How to reach the server that is to be backed up; `None` when no server uses the directory.
fn server_of(args: &BackupArgs) -> Result<Option<crate::config::ClientArgs>, Stop> {
    if args.online {
        return Ok(Some(args.client.clone()));
    }
    let at = server::running(&args.data).map_err(local)?;
    Ok(at.map(|at| args.client.at_home(at, &args.data.join("token"))))
}

async fn online(client: Client, args: &BackupArgs) -> Result<(), Stop> {
    let mut to = Target::create(&args.output, args.force)?;
    let bar = talk::bar("backing up", "bytes", None);
    let mut backup = client.backup().await?;
    while let Some(piece) = backup.piece().await? {
        to.write(&piece).map_err(|e| local(format!("cannot write: {e}")))?;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    told(to, args)
}

fn offline(args: &BackupArgs) -> Result<(), Stop> {
    let mut to = Target::create(&args.output, args.force)?;
    let bar = talk::bar("backing up", "bytes", None);
    let mut take = |piece: &[u8]| {
        bar.inc(piece.len() as u64);
        to.write(piece)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| local(format!("cannot start threads: {e}")))?;
    let done = runtime.block_on(server::backup(&args.data, &mut take));
    bar.finish_and_clear();
    done.map_err(local)?;
    told(to, args)
}

fn told(to: Target, args: &BackupArgs) -> Result<(), Stop> {
    let bytes = to.finish().map_err(|e| local(format!("cannot write: {e}")))?;
    if args.client.json && args.output.as_os_str() != "-" {
        let mut out = Out::new();
        out.json(&serde_json::json!({ "file": args.output, "bytes": bytes }))?;
        return out.flush();
    }
    note(&format!("backed up {bytes} bytes to {}", args.output.display()));
    Ok(())
}

/// What a backup is written to: it has its name only once it is whole and on disk.
struct Target {
    out: Box<dyn Sink>,
    bytes: u64,
    /// The file as it is written, and as it is called then.
    files: Option<(PathBuf, PathBuf)>,
}

/// Takes bytes, and ends.
trait Sink: Write + Send {
    fn end(self: Box<Self>) -> io::Result<()>;
}

impl Sink for io::Stdout {
    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.flush()
    }
}

impl Sink for File {
    fn end(self: Box<Self>) -> io::Result<()> {
        self.sync_all()
    }
}

impl Sink for zstd::Encoder<'static, File> {
    fn end(self: Box<Self>) -> io::Result<()> {
        self.finish()?.sync_all()
    }
}

impl Target {
    fn create(path: &Path, force: bool) -> Result<Target, Stop> {
        if path.as_os_str() == "-" {
            return Ok(Target { out: Box::new(io::stdout()), bytes: 0, files: None });
        }
        if path.exists() && !force {
            return Err(usage(format!("{} is there already: say --force", path.display())));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let failed = |e: io::Error| local(format!("{}: {e}", part.display()));
        let file = File::create(&part).map_err(failed)?;
        let out: Box<dyn Sink> = match path.extension().is_some_and(|ending| ending == "zst") {
            true => Box::new(zstd::Encoder::new(file, LEVEL).map_err(failed)?),
            false => Box::new(file),
        };
        Ok(Target { out, bytes: 0, files: Some((part, path.to_owned())) })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes += piece.len() as u64;
        self.out.write_all(piece)
    }

    /// Makes it durable under its name; answers its bytes before they were compressed.
    fn finish(mut self) -> io::Result<u64> {
        let out = std::mem::replace(&mut self.out, Box::new(io::stdout()));
        out.end()?;
        if let Some((part, path)) = self.files.take() {
            std::fs::rename(&part, &path)?;
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(dir.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(self.bytes)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What is not whole is of no use.
        if let Some((part, _)) = &self.files {
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Opens a backup, compressed or not.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let source: Box<dyn Read + Send> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path)?),
    };
    let mut source = BufReader::with_capacity(1 << 20, source);
    let mut first = Vec::new();
    source.by_ref().take(ZSTD.len() as u64).read_to_end(&mut first)?;
    let compressed = first == ZSTD;
    let source = io::Cursor::new(first).chain(source);
    Ok(match compressed {
        true => Box::new(BufReader::with_capacity(1 << 20, zstd::Decoder::new(source)?)),
        false => Box::new(source),
    })
}

pub(super) fn restore(args: RestoreArgs) -> ExitCode {
    talk::ended(restored(&args))
}

fn restored(args: &RestoreArgs) -> Result<(), Stop> {
    let place = args.place().map_err(usage)?;
    let source = open(&args.file);
    let source = source.map_err(|e| local(format!("{}: {e}", args.file.display())))?;
    let bar = talk::bar("restoring", "records", None);
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
