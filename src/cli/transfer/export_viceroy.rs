//! `steadfast export --to viceroy`: exports a store to a directory for the local emulator.

use super::export::INCOMPLETE;
use super::item_reader::ItemReader;
use crate::atomic_file::directory;
use crate::cli::error::{EXIT_PRECONDITION, Result, file_error, local_error};
use crate::cli::output::{Output, counted, print_status, progress_bar, store_label};
use crate::cli::output_file::refuse_overwrite;
use crate::client::Client;
use crate::config::ExportArgs;
use crate::transfer::kv_json::KvJsonWriter;
use crate::wire::item_line::{LineFields, ParsedLine};
use serde_json::json;
use std::fs::{self, DirEntry, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(super) async fn run(client: &Client, args: &ExportArgs, dir: &Path) -> Result<u8> {
    let store = client.resolve(&args.store).await?;
    let writer = KvJsonWriter::new(dir, &store.name);
    if refuse_overwrite(writer.directory(), args.force) {
        return Ok(EXIT_PRECONDITION);
    }
    let mut output = OutputDirectory::create(writer)?;
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
    print_status(&format!("exported {} from {label} to {directory}", counted(items, "item")));
    if expiring > 0 {
        let count = counted(expiring, "item");
        print_status(&format!("warning: the emulator ignores the expiry times of {count}"));
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

/// An export directory with a temporary name. It is removed unless it is persisted.
struct OutputDirectory {
    writer: KvJsonWriter,
    /// The final path of the directory, with symbolic links resolved.
    destination: PathBuf,
    /// Contains the new export until it is moved to the destination, and then the replaced export
    /// until that is removed.
    temporary: TempDir,
    new: PathBuf,
    kv_json: BufWriter<File>,
    items: u64,
    left_out: u64,
    expiring: u64,
}

impl OutputDirectory {
    fn create(writer: KvJsonWriter) -> Result<OutputDirectory> {
        let to = writer.directory();
        let destination = to.canonicalize().unwrap_or_else(|_| to.to_owned());
        if to.symlink_metadata().is_ok() && !is_export(&destination) {
            let reason = "exists and is not an export, or contains other files: remove it first";
            return Err(file_error(to, reason));
        }
        let created = (|| {
            let parent = directory(&destination);
            fs::create_dir_all(parent)?;
            let name = destination.file_name().unwrap_or_default().to_string_lossy();
            let mut builder = tempfile::Builder::new();
            let temporary =
                builder.prefix(&format!(".{name}.")).suffix(".part").tempdir_in(parent)?;
            let new = temporary.path().join("new");
            fs::create_dir(&new)?;
            if let Ok(existing) = fs::metadata(&destination) {
                fs::set_permissions(&new, existing.permissions())?;
            }
            fs::create_dir(new.join("values"))?;
            let kv_json = BufWriter::new(File::create(new.join("kv.json"))?);
            Ok((temporary, new, kv_json))
        })();
        let (temporary, new, kv_json) = created.map_err(|e: io::Error| file_error(to, e))?;
        let (items, left_out, expiring) = (0, 0, 0);
        Ok(OutputDirectory {
            writer,
            destination,
            temporary,
            new,
            kv_json,
            items,
            left_out,
            expiring,
        })
    }

    fn write_item(&mut self, line: &[u8]) -> Result<()> {
        let line = ParsedLine::parse(line, LineFields::Import)
            .map_err(|e| local_error(format!("invalid line in the export: {}", e.error)))?;
        let invalid = |e| local_error(format!("item {:?}: {e}", line.key));
        let (value, metadata) = (line.value().map_err(invalid)?, line.metadata().map_err(invalid)?);
        if std::str::from_utf8(&metadata).is_err() {
            print_status(&format!("omitted item {:?}: its metadata is not UTF-8", line.key));
            self.left_out += 1;
            return Ok(());
        }
        let member = self.writer.item(&line.key, &metadata).map_err(local_error)?;
        let path = self.new.join(KvJsonWriter::value_file(&line.key));
        fs::write(&path, value).map_err(|e| file_error(&path, e))?;
        self.kv_json.write_all(&member).map_err(|e| file_error(&self.new, e))?;
        self.items += 1;
        self.expiring += u64::from(line.expires_at().map_err(invalid)?.is_some());
        Ok(())
    }

    /// Fsyncs the new directory and moves it to the destination.
    fn persist(&mut self) -> Result<()> {
        let end = self.writer.finish();
        let written = self.kv_json.write_all(&end).and_then(|()| self.kv_json.flush());
        let written = written.and_then(|()| sync_all(&self.new)).and_then(|()| self.replace());
        let synced = written.and_then(|()| File::open(directory(&self.destination))?.sync_all());
        synced.map_err(|e| file_error(self.writer.directory(), e))
    }

    /// Moves the new directory to the destination. If an export exists there, exchanges the two
    /// atomically. If the file system does not support that, moves the existing export aside first.
    fn replace(&mut self) -> io::Result<()> {
        let to = &self.destination;
        if !to.exists() {
            return fs::rename(&self.new, to);
        }
        if exchange(&self.new, to) {
            return Ok(());
        }
        let aside = self.temporary.path().join("old");
        replace_by_renames(&self.new, to, &aside).map_err(|e| {
            if !aside.exists() {
                return e;
            }
            self.temporary.disable_cleanup(true);
            io::Error::other(format!("{e}; the old export was moved to {}", aside.display()))
        })
    }
}

/// Renames `to` to `aside`, and `new` to `to`. If the second rename fails, undoes the first.
fn replace_by_renames(new: &Path, to: &Path, aside: &Path) -> io::Result<()> {
    fs::rename(to, aside)?;
    fs::rename(new, to).inspect_err(|_| drop(fs::rename(aside, to)))
}

/// Exchanges two directories atomically. Returns false if that fails or is not supported.
fn exchange(one: &Path, other: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (one, other);
        false
    }
}

/// Returns whether a directory contains an export and nothing else.
fn is_export(directory: &Path) -> bool {
    let all = |directory: &Path, is: &dyn Fn(&DirEntry) -> bool| {
        fs::read_dir(directory)
            .is_ok_and(|entries| entries.into_iter().all(|entry| entry.is_ok_and(|e| is(&e))))
    };
    let is_file = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    directory.join("kv.json").is_file()
        && all(directory, &|entry| entry.file_name() == "values" || entry.file_name() == "kv.json")
        && all(&directory.join("values"), &is_file)
}

/// Fsyncs all files of an export. Uses a single syncfs where available, because an export can have
/// many files.
fn sync_all(directory: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(File::open(directory)?)?;
    #[cfg(not(target_os = "linux"))]
    for path in [directory, &directory.join("kv.json"), &directory.join("values")] {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_export_is_moved_back_if_the_new_one_cannot_be_moved() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["to", "new"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        assert!(replace_by_renames(&at("none"), &at("to"), &at("aside")).is_err());
        assert_eq!(fs::read(at("to/file")).unwrap(), b"to");
        assert!(!at("aside").exists());
        replace_by_renames(&at("new"), &at("to"), &at("aside")).unwrap();
        assert_eq!(fs::read(at("to/file")).unwrap(), b"new");
        assert_eq!(fs::read(at("aside/file")).unwrap(), b"to");
    }
}
