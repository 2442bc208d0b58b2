//! Output files that are created or replaced atomically. The destination changes only once the new
//! file is complete and durable.
//!
//! A replaced file keeps its mode and its owner, and symbolic links are followed. A file that
//! cannot be replaced by a rename is written in place. Examples are devices, pipes, mount points,
//! files in a directory that is not writable, files whose owner cannot be preserved, and files with
//! an access control list.

use rustix::fs::getxattr_query;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The maximum number of symbolic links followed, as in Linux.
const LINKS_MAX: usize = 40;
/// The mode of new files, before the umask.
const MODE: u32 = 0o666;
const SECRET_MODE: u32 = 0o600;

/// An output file. It is a temporary file next to the destination, removed unless it is persisted,
/// or the destination itself if the destination is written in place.
#[derive(Debug)]
pub struct AtomicFile {
    destination: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Temporary(NamedTempFile),
    /// The destination. A regular file is truncated before the first write.
    InPlace {
        file: File,
        regular: bool,
        truncated: bool,
    },
}

impl AtomicFile {
    /// Creates a file with the default permissions, or with those of the file that it replaces.
    ///
    /// # Errors
    /// If `destination` has no file name, is a directory or is read-only, or if the file cannot be
    /// created.
    pub fn create(destination: &Path) -> io::Result<AtomicFile> {
        let (destination, magic) = follow_links(destination)?;
        let existing = match fs::metadata(&destination) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let sink = Sink::Temporary(temporary(&destination, MODE)?);
                return Ok(AtomicFile { destination, sink });
            }
            existing => existing?,
        };
        let file = open_existing(&destination, &existing)?;
        let replacement = match magic || !existing.is_file() || has_acl(&destination) {
            true => None,
            false => replacement(&destination, &existing)?,
        };
        let sink = match replacement {
            Some(file) => Sink::Temporary(file),
            None => Sink::InPlace { file, regular: existing.is_file(), truncated: false },
        };
        Ok(AtomicFile { destination, sink })
    }

    /// Creates a file that only its owner can read.
    ///
    /// # Errors
    /// If `destination` has no file name or the file cannot be created.
    pub fn create_secret(destination: &Path) -> io::Result<AtomicFile> {
        let (destination, _) = follow_links(destination)?;
        let sink = Sink::Temporary(temporary(&destination, SECRET_MODE)?);
        Ok(AtomicFile { destination, sink })
    }

    /// Fsyncs the file, renames it to its destination, and fsyncs the directory.
    ///
    /// # Errors
    /// If one of these steps fails. An existing file at the destination is then unchanged, unless
    /// only the last step failed or the file is written in place.
    pub fn persist(mut self) -> io::Result<()> {
        self.truncate()?;
        let file = match self.sink {
            Sink::InPlace { regular: false, mut file, .. } => return file.flush(),
            Sink::InPlace { file, .. } => return file.sync_all(),
            Sink::Temporary(file) => file,
        };
        file.as_file().sync_all()?;
        match file.persist(&self.destination) {
            Ok(_) => File::open(directory(&self.destination))?.sync_all(),
            // A rename cannot replace a mount point.
            Err(e) if e.error.kind() == ErrorKind::ResourceBusy => {
                copy_in_place(e.file.into_file(), &self.destination)
            }
            Err(e) => Err(e.error),
        }
    }

    fn truncate(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::InPlace { file, regular: true, truncated } if !*truncated => {
                *truncated = true;
                file.set_len(0)
            }
            Sink::InPlace { .. } | Sink::Temporary(_) => Ok(()),
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.truncate()?;
        match &mut self.sink {
            Sink::Temporary(file) => file.write(bytes),
            Sink::InPlace { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Temporary(file) => file.flush(),
            Sink::InPlace { file, .. } => file.flush(),
        }
    }
}

/// Follows the symbolic links at the end of a path; the target need not exist. Also returns whether
/// the result is in `/dev` or `/proc`. Such a file, for example `/dev/stdout`, cannot be replaced.
fn follow_links(path: &Path) -> io::Result<(PathBuf, bool)> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if path.file_name().is_none() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the path has no file name"));
        }
        if ["/dev", "/proc"].iter().any(|kernel| path.starts_with(kernel)) {
            return Ok((path, true));
        }
        match fs::read_link(&path) {
            Ok(target) => path = directory(&path).join(target),
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                return Ok((path, false));
            }
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// Opens an existing file before it is replaced, to check that it is writable.
fn open_existing(path: &Path, existing: &Metadata) -> io::Result<File> {
    if existing.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    let read_only = || io::Error::new(ErrorKind::PermissionDenied, "the file is read-only");
    // Respect a read-only mode even if the superuser could override it.
    if existing.is_file() && existing.mode() & 0o222 == 0 {
        return Err(read_only());
    }
    let opened = OpenOptions::new().write(true).open(path);
    opened.map_err(|e| if is_denied(&e) { read_only() } else { e })
}

fn is_denied(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// Creates a file with the mode and the owner of the file that it replaces. Returns `None` if this
/// process is not allowed to create a file in the directory or to set the owner.
fn replacement(path: &Path, existing: &Metadata) -> io::Result<Option<NamedTempFile>> {
    // Only the owner can read the file until its final mode is set.
    let file = match temporary(path, SECRET_MODE) {
        Err(e) if is_denied(&e) => return Ok(None),
        file => file?,
    };
    let created = file.as_file().metadata()?;
    if (created.uid(), created.gid()) != (existing.uid(), existing.gid()) {
        let owned = fchown(file.as_file(), Some(existing.uid()), Some(existing.gid()));
        if owned.is_err() {
            return Ok(None);
        }
    }
    let mode = Permissions::from_mode(existing.mode() & 0o7777);
    file.as_file().set_permissions(mode)?;
    Ok(Some(file))
}

/// Returns whether a file has an access control list. A replacement would lack the list, so more
/// users might be able to access it.
fn has_acl(path: &Path) -> bool {
    getxattr_query(path, c"system.posix_acl_access").is_ok_and(|bytes| bytes > 0)
}

fn temporary(destination: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".part")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory(destination))
}

fn copy_in_place(mut from: File, destination: &Path) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).truncate(true).open(destination)?;
    from.rewind()?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()
}

/// Returns the directory of a file, or `.` for a bare file name.
pub fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = AtomicFile::create(path)?;
        file.write_all(bytes)?;
        file.persist()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_appears_once_it_is_persisted_and_is_removed_if_it_is_dropped() {
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
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for kept in [0o600, 0o640, 0o755, 0o4711] {
            fs::write(&path, "old").unwrap();
            set_mode(&path, kept);
            // Only the superuser may change a file's owner.
            let owned = std::os::unix::fs::chown(&path, Some(4321), Some(4322)).is_ok();
            if owned {
                set_mode(&path, kept);
            }
            write(&path, b"new").unwrap();
            let file = fs::metadata(&path).unwrap();
            assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), kept));
            assert!(!owned || (file.uid(), file.gid()) == (4321, 4322));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn symbolic_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        symlink("sub/second", at("first")).unwrap();
        symlink("../target", at("sub/second")).unwrap();
        for text in ["created", "replaced"] {
            write(&at("first"), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(at("target")).unwrap(), text);
            assert_eq!(fs::read_link(at("first")).unwrap(), Path::new("sub/second"));
        }
        symlink("loop", at("loop")).unwrap();
        assert!(write(&at("loop"), b"").is_err());
    }

    #[test]
    fn read_only_files_and_directories_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        set_mode(&path, 0o444);
        assert!(write(&path, b"new").unwrap_err().to_string().contains("read-only"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(write(dir.path(), b"").unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_written_in_place_is_truncated_by_the_first_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let in_place = || {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let sink = Sink::InPlace { file, regular: true, truncated: false };
            AtomicFile { destination: path.clone(), sink }
        };
        fs::write(&path, "a long text").unwrap();
        drop(in_place());
        assert_eq!(fs::read(&path).unwrap(), b"a long text");
        let mut file = in_place();
        file.write_all(b"sho").unwrap();
        file.write_all(b"rt").unwrap();
        file.persist().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        in_place().persist().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        fs::write(dir.path().join("temporary"), "copy").unwrap();
        copy_in_place(File::open(dir.path().join("temporary")).unwrap(), &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"copy");
        write(Path::new("/dev/null"), b"x").unwrap();
    }
}
