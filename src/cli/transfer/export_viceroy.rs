//! `steadfast export --to viceroy`: a folder that the local emulator reads.

use super::reader::Items;
use crate::cli::error::EXIT_PRECONDITION;
use crate::cli::error::{CommandError, local_error};
use crate::cli::output;
use crate::cli::output::{Output, print_status, store_label};
use crate::cli::output_file::refuse_overwrite;
use crate::client::Client;
use crate::config::ExportArgs;
use crate::transfer::kv_json::Writer;
use crate::transfer::record::Line;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

pub(super) async fn run(
    client: &Client,
    args: &ExportArgs,
    dir: &Path,
) -> Result<u8, CommandError> {
    let store = client.resolve(&args.store).await?;
    let mut folder = Folder::new(Writer::new(dir, &store.name))?;
    if refuse_overwrite(folder.writer.folder(), args.force) {
        return Ok(EXIT_PRECONDITION);
    }
    folder.may_replace()?;
    let steadfast = client.is_steadfast().await?;
    let mut items = Items::open(client, &store, &args.prefix, steadfast).await?;
    let bar = output::progress_bar("exporting", "items", None);
    let mut rest = Vec::new();
    while let Some(piece) = items.piece().await? {
        rest.extend_from_slice(&piece);
        let mut from = 0;
        while let Some(end) = rest.get(from..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            folder.item(rest.get(from..from + end).unwrap_or_default())?;
            from += end + 1;
            bar.inc(1);
        }
        rest.drain(..from);
    }
    bar.finish_and_clear();
    if !rest.is_empty() {
        return Err(local_error("the export ended within a line: it is not whole"));
    }
    folder.keep()?;
    let Folder { items, left_out, mortal, .. } = folder;
    let shown = folder.writer.folder().display();
    print_status(&format!("{shown} has {items} items of {}", store_label(client, &store)));
    if mortal > 0 {
        print_status(&format!("{mortal} of them expire here; the emulator keeps them"));
    }
    if left_out > 0 {
        print_status(&format!("{left_out} items were left out: their metadata is not UTF-8"));
    }
    let manifest = folder.writer.manifest(&store.name);
    let mut out = Output::new();
    if args.client.json {
        out.json(&json!({
            "store": { "id": store.id, "name": store.name }, "folder": shown.to_string(),
            "items": items, "left_out": left_out, "fastly_toml": manifest,
        }))?;
    } else {
        out.bytes(manifest.as_bytes())?;
    }
    out.flush()?;
    Ok(u8::from(left_out > 0))
}

/// A folder that is written under another name, and goes away unless it is kept.
struct Folder {
    writer: Writer,
    part: PathBuf,
    json: BufWriter<File>,
    items: u64,
    left_out: u64,
    mortal: u64,
}

impl Folder {
    fn new(writer: Writer) -> Result<Folder, CommandError> {
        let to = writer.folder().to_owned();
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let part = to.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let made = fs::create_dir_all(part.join("values"));
        let file = made.and_then(|()| File::create(part.join("kv.json")));
        let json = BufWriter::new(file.map_err(|e| failed(&part, &e))?);
        Ok(Folder { writer, part, json, items: 0, left_out: 0, mortal: 0 })
    }

    /// Whether what is there was written by an export before, so that it may go.
    fn may_replace(&self) -> Result<(), CommandError> {
        let there = self.writer.folder();
        if there.symlink_metadata().is_ok() && !there.join("kv.json").is_file() {
            let what = "is there, and no export: it is not replaced";
            return Err(local_error(format!("{} {what}", there.display())));
        }
        Ok(())
    }

    fn item(&mut self, line: &[u8]) -> Result<(), CommandError> {
        let line = Line::parse(line).map_err(local_error)?;
        let (value, metadata) =
            (line.value().map_err(local_error)?, line.metadata().map_err(local_error)?);
        if std::str::from_utf8(&metadata).is_err() {
            print_status(&format!(
                "item {:?}: its metadata is not UTF-8 and has no place there",
                line.key
            ));
            self.left_out += 1;
            return Ok(());
        }
        let member = self.writer.item(&line.key, &metadata).map_err(local_error)?;
        let at = self.part.join(Writer::value_file(&line.key));
        fs::write(&at, value).map_err(|e| failed(&at, &e))?;
        self.json.write_all(&member).map_err(|e| failed(&self.part, &e))?;
        self.items += 1;
        self.mortal += u64::from(line.expires.is_some());
        Ok(())
    }

    fn keep(&mut self) -> Result<(), CommandError> {
        let end = self.writer.end();
        let to = self.writer.folder();
        let done = self.json.write_all(&end).and_then(|()| self.json.flush());
        done.map_err(|e| failed(&self.part, &e))?;
        if to.join("kv.json").is_file() {
            fs::remove_dir_all(to).map_err(|e| failed(to, &e))?;
        }
        fs::rename(&self.part, to).map_err(|e| failed(to, &e))
    }
}

fn failed(at: &Path, e: &io::Error) -> CommandError {
    local_error(format!("{}: {e}", at.display()))
}

impl Drop for Folder {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_dir_all(&self.part);
    }
}
