//! The files that an import reads. The output files of the import must not replace them.

use crate::atomic_file::directory;
use crate::cli::error::{Result, usage_error};
use crate::transfer::detect::is_dash;
use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode numbers, which identify a file regardless of its path.
type FileId = (u64, u64);

#[derive(Default)]
pub(super) struct InputFiles {
    files: HashSet<FileId>,
    directory: Option<PathBuf>,
}

impl InputFiles {
    /// Identifies the input and the files to which it refers. Files that do not exist are ignored.
    pub(super) fn new<'p>(
        input: &'p Path,
        referenced: impl Iterator<Item = &'p Path>,
    ) -> InputFiles {
        let mut inputs = InputFiles::default();
        if is_dash(input) {
            // Standard input may be redirected from a file.
            inputs.files.extend(rustix::fs::fstat(io::stdin()).ok().map(|f| (f.st_dev, f.st_ino)));
        } else if input.is_dir() {
            inputs.directory = input.canonicalize().ok();
        }
        let files = referenced.chain(Some(input)).filter_map(|file| fs::metadata(file).ok());
        inputs.files.extend(files.map(|file| id(&file)));
        inputs
    }

    /// Returns an error if an output is one of the inputs, or is in the input directory.
    pub(super) fn check(&self, flag: &str, output: &Path) -> Result<()> {
        let parent = directory(output).canonicalize().ok();
        let within = parent.zip(self.directory.as_ref()).is_some_and(|(p, d)| p.starts_with(d));
        let same = fs::metadata(output).is_ok_and(|file| self.files.contains(&id(&file)));
        if within || same {
            let output = output.display();
            let reason = if same { "is an input" } else { "is in the input directory" };
            return Err(usage_error(format!("{flag} {output} {reason}: choose another file")));
        }
        Ok(())
    }

    /// Adds an output, so that no other output can replace it.
    pub(super) fn add(&mut self, output: &Path) {
        self.files.extend(fs::metadata(output).ok().filter(Metadata::is_file).map(|f| id(&f)));
    }
}

fn id(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}
