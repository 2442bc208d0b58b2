//! Output files of backups and exports, optionally compressed.

use super::error::{Result, file_error, usage_error};
use super::output::{Output, print_error};
use crate::atomic_file::AtomicFile;
use crate::transfer::detect::{is_dash, is_zstd_name};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

/// The zstd level. Higher levels are much slower and reduce the size only slightly.
const COMPRESSION_LEVEL: i32 = 3;
const BUFFER_BYTES: usize = 1 << 20;

/// If `path` is a file or a directory and `force` is not set, prints an error and returns true.
/// Accepts devices, pipes and dangling links, which have no content to replace.
pub(super) fn refuse_overwrite(path: &Path, force: bool) -> bool {
    let replaces = path.metadata().is_ok_and(|found| found.is_file() || found.is_dir());
    let refused = !force && !is_dash(path) && replaces;
    if refused {
        print_error(&format!("{} already exists: use --force to replace it", path.display()));
    }
    refused
}

enum Sink {
    Stdout(Output),
    Plain(BufWriter<AtomicFile>),
    Zstd(zstd::Encoder<'static, BufWriter<AtomicFile>>),
}

/// An [`AtomicFile`] that is compressed if its name ends in `.zst`, or standard output for `-`.
pub(super) struct OutputFile {
    path: PathBuf,
    sink: Sink,
}

impl OutputFile {
    pub(super) fn create(path: &Path) -> Result<OutputFile> {
        let sink = match is_dash(path) {
            true => Sink::Stdout(Output::new()),
            false if path.is_dir() => {
                return Err(usage_error(format!("{} is a directory", path.display())));
            }
            false if path.file_name().is_none() => {
                return Err(usage_error(format!("{} is not a file name", path.display())));
            }
            false => Sink::open(path).map_err(|e| file_error(path, e))?,
        };
        Ok(OutputFile { path: path.to_owned(), sink })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match &mut self.sink {
            Sink::Stdout(out) => return out.bytes(bytes),
            Sink::Plain(file) => file.write_all(bytes),
            Sink::Zstd(encoder) => encoder.write_all(bytes),
        };
        written.map_err(|e| file_error(&self.path, e))
    }

    /// Completes the file and moves it to its path; see [`AtomicFile::persist`].
    pub(super) fn persist(self) -> Result<()> {
        let finished = match self.sink {
            Sink::Stdout(mut out) => return out.flush(),
            Sink::Plain(file) => Ok(file),
            Sink::Zstd(encoder) => encoder.finish(),
        };
        let file = finished.and_then(|file| file.into_inner().map_err(IntoInnerError::into_error));
        file.and_then(AtomicFile::persist).map_err(|e| file_error(&self.path, e))
    }
}

impl Sink {
    fn open(path: &Path) -> io::Result<Sink> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, AtomicFile::create(path)?);
        if !is_zstd_name(path) {
            return Ok(Sink::Plain(file));
        }
        let mut encoder = zstd::Encoder::new(file, COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Sink::Zstd(encoder))
    }
}
