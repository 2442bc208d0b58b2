//! `steadfast export --to viceroy`: exports a store to a directory for the local emulator.

use super::export::INCOMPLETE;
use super::item_reader::ItemReader;
use crate::cli::error::{EXIT_PRECONDITION, Result, file_error, local_error};
use crate::cli::output::{Output, counted, print_status, progress_bar, store_label};
use crate::cli::output_file::refuse_overwrite;
use crate::client::Client;
use crate::config::ExportArgs;
use crate::transfer::kv_json::KvJsonWriter;
use crate::wire::item_line::{LineFields, ParsedLine};
use serde_json::json;
use std::fs::Permissions;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

pub(super) async fn run(client: &Client, args: &ExportArgs, dir: &Path) -> Result<u8> {
    let store = client.resolve(&args.store).await?;
    let mut output = OutputDirectory::create(KvJsonWriter::new(dir, &store.name))?;
    if refuse_overwrite(output.writer.directory(), args.force) {
        return Ok(EXIT_PRECONDITION);
    }
    output.check_replaceable()?;
    let steadfast = client.is_steadfast().await?;
    let mut items = ItemReader::open(client, &store, &args.prefix, steadfast).await?;
    let bar = progress_bar("exporting", "items", None);
    let mut buffer = Vec::new();
    while let Some(chunk) = items.next_chunk().await? {
        buffer.extend_from_slice(&chunk);
        let mut start = 0;
        while let Some(len) = buffer.get(start..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            output.write_item(buffer.get(start..start + len).unwrap_or_default())?;
            start += len + 1;
            bar.inc(1);
        }
        buffer.drain(..start);
    }
    bar.finish_and_clear();
    if !buffer.is_empty() {
        return Err(local_error(INCOMPLETE));
    }
    output.persist()?;
    let OutputDirectory { items, left_out, expiring, .. } = output;
    let directory = output.writer.directory().display();
    let label = store_label(client, &store);
    print_status(&format!("exported {} to {directory}: {label}", counted(items, "item")));
    if expiring > 0 {
        print_status(&format!(
            "warning: {expiring} of them expire; the emulator ignores expiry times"
        ));
    }
    if left_out > 0 {
        let count = counted(left_out, "item");
        print_status(&format!("warning: omitted {count} with metadata that is not UTF-8"));
    }
    let fastly_toml = output.writer.fastly_toml(&store.name);
    let mut out = Output::new();
    if args.client.json {
        out.json(&json!({
            "store": { "id": store.id, "name": store.name }, "folder": directory.to_string(),
            "items": items, "left_out": left_out, "fastly_toml": fastly_toml,
        }))?;
    } else {
        out.bytes(fastly_toml.as_bytes())?;
    }
    out.flush()?;
    Ok(u8::from(left_out > 0))
}

/// A directory with a temporary name, removed unless it is persisted.
struct OutputDirectory {
    writer: KvJsonWriter,
    temporary: TempDir,
    kv_json: BufWriter<File>,
    items: u64,
    left_out: u64,
    expiring: u64,
}

impl OutputDirectory {
    fn create(writer: KvJsonWriter) -> Result<OutputDirectory> {
        let to = writer.directory();
        let parent = to.parent().unwrap_or(Path::new("."));
        let prefix = format!(".{}.", to.file_name().unwrap_or_default().to_string_lossy());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".part").permissions(Permissions::from_mode(0o777));
        let created = fs::create_dir_all(parent).and_then(|()| builder.tempdir_in(parent));
        let temporary = created.map_err(|e| file_error(to, e))?;
        let values = fs::create_dir(temporary.path().join("values"));
        let file = values.and_then(|()| File::create(temporary.path().join("kv.json")));
        let kv_json = BufWriter::new(file.map_err(|e| file_error(temporary.path(), e))?);
        Ok(OutputDirectory { writer, temporary, kv_json, items: 0, left_out: 0, expiring: 0 })
    }

    /// Checks that an existing destination is an earlier export, which can be replaced.
    fn check_replaceable(&self) -> Result<()> {
        let existing = self.writer.directory();
        if existing.symlink_metadata().is_ok() && !existing.join("kv.json").is_file() {
            return Err(file_error(existing, "exists and is not an export: remove it first"));
        }
        Ok(())
    }

    fn write_item(&mut self, line: &[u8]) -> Result<()> {
        let line = ParsedLine::parse(line, LineFields::Import)
            .map_err(|e| local_error(format!("invalid line in the export: {}", e.error)))?;
        let invalid = |e| local_error(format!("item {:?}: {e}", line.key));
        let (value, metadata) = (line.value().map_err(invalid)?, line.metadata().map_err(invalid)?);
        if std::str::from_utf8(&metadata).is_err() {
            print_status(&format!("item {:?}: omitted: its metadata is not UTF-8", line.key));
            self.left_out += 1;
            return Ok(());
        }
        let member = self.writer.item(&line.key, &metadata).map_err(local_error)?;
        let temporary = self.temporary.path();
        let path = temporary.join(KvJsonWriter::value_file(&line.key));
        fs::write(&path, value).map_err(|e| file_error(&path, e))?;
        self.kv_json.write_all(&member).map_err(|e| file_error(temporary, e))?;
        self.items += 1;
        self.expiring += u64::from(line.expires_at().map_err(invalid)?.is_some());
        Ok(())
    }

    fn persist(&mut self) -> Result<()> {
        let end = self.writer.finish();
        let (to, temporary) = (self.writer.directory(), self.temporary.path());
        let written = self.kv_json.write_all(&end).and_then(|()| self.kv_json.flush());
        written.map_err(|e| file_error(temporary, e))?;
        if to.join("kv.json").is_file() {
            fs::remove_dir_all(to).map_err(|e| file_error(to, e))?;
        }
        fs::rename(temporary, to).map_err(|e| file_error(to, e))
    }
}
