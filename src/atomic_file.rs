//! Files that get their final name once they are complete and durable.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A temporary file in the directory of its destination, removed unless it is persisted.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    destination: PathBuf,
}

impl AtomicFile {
    /// Creates a file with the default permissions.
    ///
    /// # Errors
    /// If `destination` has no file name, or the file cannot be created.
    pub fn create(destination: &Path) -> io::Result<AtomicFile> {
        AtomicFile::with_mode(destination, 0o666)
    }

    /// Creates a file that only its owner can read.
    ///
    /// # Errors
    /// As [`AtomicFile::create`].
    pub fn create_secret(destination: &Path) -> io::Result<AtomicFile> {
        AtomicFile::with_mode(destination, 0o600)
    }

    /// `mode` is subject to the umask.
    fn with_mode(destination: &Path, mode: u32) -> io::Result<AtomicFile> {
        let Some(name) = destination.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"));
        };
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".part")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory(destination))?;
        Ok(AtomicFile { file, destination: destination.to_owned() })
    }

    /// Fsyncs the file, renames it to its destination, and fsyncs the directory.
    ///
    /// # Errors
    /// If one of these steps fails. Unless it is the last one, a file that already exists at the
    /// destination is unchanged.
    pub fn persist(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.destination).map_err(|e| e.error)?;
        File::open(directory(&self.destination))?.sync_all()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_appears_when_it_is_persisted_and_is_removed_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let write = |bytes: &[u8]| {
            let mut file = AtomicFile::create_secret(&path).unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        write(b"one").persist().unwrap();
        drop(write(b"two"));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
