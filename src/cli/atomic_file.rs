//! Files that have their name only once they are whole and on disk.

use super::console::{Stop, local, note, usage};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The exit status when a file is in the way.
pub(super) const IN_THE_WAY: u8 = 4;
/// How hard files are compressed: beyond it they take long and get little smaller.
const COMPRESSION: i32 = 3;

/// Whether a file or folder is there that must not be replaced, which is then told.
pub(super) fn in_the_way(path: &Path, force: bool) -> bool {
    let there = !force && path.symlink_metadata().is_ok();
    if there {
        note(&format!("{} is there already: --force replaces it", path.display()));
    }
    there
}

/// Where the bytes go, as they are or compressed.
enum Sink {
    Plain(BufWriter<File>),
    Packed(zstd::Encoder<'static, BufWriter<File>>),
}

/// A file that is written under another name in its folder, and goes away unless it is kept.
pub(super) struct Part {
    path: PathBuf,
    to: PathBuf,
    sink: Option<Sink>,
}

impl Part {
    /// Begins the file, compressed if its name ends in .zst.
    pub(super) fn new(to: &Path) -> Result<Part, Stop> {
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
        let packed = crate::transfer::detect::is_zstd_name(to);
        part.sink = Some(if packed {
            let mut encoder = zstd::Encoder::new(file, COMPRESSION).map_err(failed)?;
            encoder.include_checksum(true).map_err(failed)?;
            Sink::Packed(encoder)
        } else {
            Sink::Plain(file)
        });
        Ok(part)
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), Stop> {
        let written = match &mut self.sink {
            Some(Sink::Plain(file)) => file.write_all(piece),
            Some(Sink::Packed(encoder)) => encoder.write_all(piece),
            None => Ok(()),
        };
        written.map_err(|e| local(format!("{}: {e}", self.to.display())))
    }

    /// Makes the file durable, and then gives it its name.
    pub(super) fn keep(mut self) -> Result<(), Stop> {
        let kept = match self.sink.take() {
            Some(Sink::Plain(file)) => Ok(file),
            Some(Sink::Packed(encoder)) => encoder.finish(),
            None => return Ok(()),
        };
        let kept = kept.and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
        let kept = kept.and_then(|file| file.sync_all());
        let kept = kept.and_then(|()| fs::rename(&self.path, &self.to));
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let kept = kept.and_then(|()| File::open(folder)?.sync_all());
        kept.map_err(|e| local(format!("{}: {e}", self.to.display())))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}
