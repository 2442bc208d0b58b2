//! `steadfast export`.

use super::client;
use super::emulator;
use super::read::Items;
use crate::cli::talk::{self, Out, Stop, local, note, target, usage};
use crate::client::Client;
use crate::config::{ExportArgs, ExportTo};
use crate::wire::Store;
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The exit status when a file is in the way.
pub(super) const IN_THE_WAY: u8 = 4;
/// How hard files are compressed: beyond it they take long and get little smaller.
const COMPRESSION: i32 = 3;

pub(super) async fn run(args: ExportArgs) -> Result<u8, Stop> {
    let client = client(args.client.resolve()?)?;
    let stdout = args.output.as_os_str() == "-";
    if args.to == ExportTo::Viceroy {
        let Some(dir) = args.dir.clone() else { return Err(usage("name the folder to write")) };
        return emulator::run(&client, &args, &dir).await;
    }
    if args.dir.is_some() {
        return Err(usage("a folder is written with --to viceroy; a file with -o FILE"));
    }
    if stdout && args.client.json {
        return Err(usage("--json tells of an export to a file: say -o FILE"));
    }
    if !stdout && in_the_way(&args.output, args.force) {
        return Ok(IN_THE_WAY);
    }
    let store = client.resolve(&args.store).await?;
    let steadfast = client.is_steadfast().await?;
    let mut items = Items::open(&client, &store, &args.prefix, steadfast).await?;
    if !steadfast {
        note("this server does not tell when items expire: that is not in the export");
    }
    if stdout {
        let mut out = Out::new();
        copy(&mut items, |piece| out.bytes(piece)).await?;
        out.flush()?;
        return Ok(0);
    }
    let mut part = Part::new(&args.output)?;
    let told = copy(&mut items, |piece| part.write(piece)).await?;
    part.keep()?;
    tell(&client, &store, &args, told)?;
    Ok(0)
}

/// Whether a file or folder is there that must not be replaced, which is then told.
pub(super) fn in_the_way(path: &Path, force: bool) -> bool {
    let there = !force && path.symlink_metadata().is_ok();
    if there {
        note(&format!("{} is there already: --force replaces it", path.display()));
    }
    there
}

/// Hands on all pieces; answers how many lines and bytes they are.
async fn copy<W>(items: &mut Items, mut write: W) -> Result<(u64, u64), Stop>
where
    W: FnMut(&[u8]) -> Result<(), Stop>,
{
    let bar = talk::bar("exporting", "items", None);
    let (mut lines, mut bytes, mut last) = (0, 0, b'\n');
    while let Some(piece) = items.piece().await? {
        write(&piece)?;
        lines += memchr::memchr_iter(b'\n', &piece).count() as u64;
        bytes += piece.len() as u64;
        last = piece.last().copied().unwrap_or(last);
        bar.set_position(lines);
    }
    bar.finish_and_clear();
    if last != b'\n' {
        return Err(local("the export ended within a line: it is not whole"));
    }
    Ok((lines, bytes))
}

fn tell(
    client: &Client,
    store: &Store,
    args: &ExportArgs,
    (items, bytes): (u64, u64),
) -> Result<(), Stop> {
    let file = args.output.display();
    note(&format!("{file} has the {items} items of {}", target(client, store)));
    if args.client.json {
        let mut out = Out::new();
        out.json(&json!({
            "store": { "id": store.id, "name": store.name }, "file": file.to_string(),
            "items": items, "bytes": bytes,
        }))?;
        out.flush()?;
    }
    Ok(())
}

/// Where the bytes go, as they are or compressed.
enum Sink {
    Plain(BufWriter<File>),
    Packed(zstd::Encoder<'static, BufWriter<File>>),
}

/// A file that is written under another name in its folder, and goes away unless it is kept.
struct Part {
    path: PathBuf,
    to: PathBuf,
    sink: Option<Sink>,
}

impl Part {
    fn new(to: &Path) -> Result<Part, Stop> {
        let failed = |e: io::Error| local(format!("{}: {e}", to.display()));
        let Some(name) = to.file_name() else {
            return Err(usage(format!("{} is no name of a file", to.display())));
        };
        if to.is_dir() {
            return Err(usage(format!("{} is a folder", to.display())));
        }
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", std::process::id()));
        let path = to.with_file_name(part);
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        let mut part = Part { path, to: to.to_owned(), sink: None };
        let file = BufWriter::with_capacity(1 << 20, file);
        let packed = to.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zst"));
        part.sink = Some(if packed {
            let mut encoder = zstd::Encoder::new(file, COMPRESSION).map_err(failed)?;
            encoder.include_checksum(true).map_err(failed)?;
            Sink::Packed(encoder)
        } else {
            Sink::Plain(file)
        });
        Ok(part)
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Stop> {
        let written = match &mut self.sink {
            Some(Sink::Plain(file)) => file.write_all(piece),
            Some(Sink::Packed(encoder)) => encoder.write_all(piece),
            None => Ok(()),
        };
        written.map_err(|e| local(format!("{}: {e}", self.to.display())))
    }

    fn keep(mut self) -> Result<(), Stop> {
        let kept = match self.sink.take() {
            Some(Sink::Plain(file)) => Ok(file),
            Some(Sink::Packed(encoder)) => encoder.finish(),
            None => return Ok(()),
        };
        let kept = kept.and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
        let kept = kept.and_then(|file| file.sync_all());
        let kept = kept.and_then(|()| fs::rename(&self.path, &self.to));
        kept.map_err(|e| local(format!("{}: {e}", self.to.display())))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}
