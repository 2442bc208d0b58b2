//! Reads a directory: each file is a value, and its relative path is the key.

use super::checked_item::{too_large, write_checked};
use super::{ItemPosition, ItemSource, NextItem, RejectedItem, SourceError};
use crate::wire::hex;
use crate::wire::item_line::ItemLine;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// The maximum number of nested directories, including the imported one.
const DEPTH_MAX: usize = 256;

/// A file and its size, or the reason for rejecting it.
struct FoundFile {
    path: PathBuf,
    key: String,
    size: Result<u64, String>,
}

/// An [`ItemSource`] for the files below a directory, in key order. A symbolic link is followed
/// only if it points to a file within the directory.
pub struct DirectorySource {
    root: PathBuf,
    entries: walkdir::IntoIter,
    value_bytes_max: u64,
}

impl DirectorySource {
    /// Creates a source that rejects files larger than `value_bytes_max` bytes.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if the directory cannot be read.
    pub fn new(root: &Path, value_bytes_max: u64) -> Result<DirectorySource, SourceError> {
        let failed = |e| SourceError(format!("{}: {e}", root.display()));
        let root = fs::canonicalize(root).map_err(failed)?;
        fs::read_dir(&root).map_err(failed)?;
        let in_key_order = |a: &DirEntry, b: &DirEntry| key_bytes(a).cmp(key_bytes(b));
        let entries = WalkDir::new(&root).min_depth(1).sort_by(in_key_order).into_iter();
        Ok(DirectorySource { root, entries, value_bytes_max })
    }

    fn next_file(&mut self) -> Option<FoundFile> {
        loop {
            let (path, directory, size) = match self.entries.next()? {
                Ok(entry) if entry.file_name().to_str().is_none() => {
                    if entry.file_type().is_dir() {
                        self.entries.skip_current_dir();
                    }
                    (entry.into_path(), false, Err("the file name must be UTF-8".into()))
                }
                Ok(entry) if entry.file_type().is_dir() => {
                    if entry.depth() < DEPTH_MAX {
                        continue;
                    }
                    self.entries.skip_current_dir();
                    let reason = format!("more than {DEPTH_MAX} levels of nested directories");
                    (entry.into_path(), true, Err(reason))
                }
                Ok(entry) => {
                    let size = self.size(&entry);
                    (entry.into_path(), false, size)
                }
                Err(e) => {
                    let path = e.path().unwrap_or(&self.root).to_owned();
                    let e =
                        e.into_io_error().map_or("symbolic link loop".into(), |e| e.to_string());
                    (path, true, Err(format!("cannot read the directory: {e}")))
                }
            };
            let relative = path.strip_prefix(&self.root).unwrap_or(&path);
            let mut key = relative.to_string_lossy().into_owned();
            if directory {
                key.push('/');
            }
            return Some(FoundFile { path, key, size });
        }
    }

    fn size(&self, entry: &DirEntry) -> Result<u64, String> {
        let kind = entry.file_type();
        if !kind.is_file() && !kind.is_symlink() {
            return Err("not a regular file".into());
        }
        if kind.is_symlink() {
            match fs::canonicalize(entry.path()) {
                Ok(target) if !target.starts_with(&self.root) => {
                    return Err("the symbolic link points outside the directory".into());
                }
                Ok(target) if target.is_dir() => {
                    return Err("symbolic links to directories are not followed".into());
                }
                Ok(_) => {}
                Err(e) => return Err(format!("broken symbolic link: {e}")),
            }
        }
        match fs::metadata(entry.path()) {
            Ok(file) => Ok(file.len()),
            Err(e) => Err(format!("cannot read the file: {e}")),
        }
    }

    /// Returns a hash of the names and sizes of the files below a directory.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if the directory cannot be read.
    pub fn fingerprint(root: &Path) -> Result<String, SourceError> {
        let mut files = DirectorySource::new(root, 0)?;
        let mut hash = Sha256::new();
        while let Some(file) = files.next_file() {
            let size = file.size.map(|size| size.to_string()).unwrap_or_default();
            hash.update(format!("{}\n{}\n{size}\n", file.key.len(), file.key));
        }
        Ok(hex(&hash.finalize()))
    }
}

/// Returns the last component of an entry's key. The component of a directory ends in a slash, so
/// that the directory sorts like the keys below it.
fn key_bytes(entry: &DirEntry) -> impl Iterator<Item = &u8> {
    let slash = entry.file_type().is_dir().then_some(&b'/');
    entry.file_name().as_encoded_bytes().iter().chain(slash)
}

impl ItemSource for DirectorySource {
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError> {
        let Some(FoundFile { path, key, size }) = self.next_file() else {
            return Ok(NextItem::End);
        };
        Ok(match size.and_then(|_| read_file(&path, self.value_bytes_max)) {
            Ok(value) => {
                let item = ItemLine { key: &key, value: &value, ..ItemLine::default() };
                write_checked(ItemPosition::NONE, &item, out)
            }
            Err(reason) => {
                let position = ItemPosition::NONE;
                NextItem::Rejected(RejectedItem { position, key, reason })
            }
        })
    }
}

/// Reads a file into memory. Fails if the file is larger than `max` bytes.
pub(super) fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("cannot read the file: {e}");
    let file = fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("not a regular file".into());
    }
    let mut value = Vec::new();
    file.take(max + 1).read_to_end(&mut value).map_err(failed)?;
    if value.len() as u64 > max {
        return Err(too_large(max));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn read_all(root: &Path) -> (Vec<String>, Vec<RejectedItem>) {
        let mut source = DirectorySource::new(root, 10).unwrap();
        let (mut keys, mut rejected, mut out) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            out.clear();
            match source.next_item(&mut out).unwrap() {
                NextItem::Line(_) => {
                    keys.push(crate::wire::item_line::key_of(&out).unwrap().into_owned());
                }
                NextItem::Rejected(item) => rejected.push(item),
                NextItem::End => return (keys, rejected),
            }
        }
    }

    #[test]
    fn files_are_read_in_key_order_and_other_entries_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(root.join("a/deep")).unwrap();
        fs::create_dir_all(root.join("empty")).unwrap();
        for name in ["a/deep/x", "a/z", "a.txt", "a-b", "B", ".hidden", "question?"] {
            fs::write(root.join(name), name).unwrap();
        }
        fs::write(root.join("large"), [0; 11]).unwrap();
        fs::write(&outside, "secret").unwrap();
        let link = |to: &Path, name: &str| {
            std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        };
        link(&outside, "leaves");
        link(&root, "loop");
        link(Path::new("a/z"), "near");
        link(Path::new("nowhere"), "broken");
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();

        let (keys, rejected) = read_all(&root);
        assert_eq!(keys, [".hidden", "B", "a-b", "a.txt", "a/deep/x", "a/z", "near"]);
        let reason = |key: &str| {
            let item = rejected.iter().find(|item| item.key == key);
            item.map(|item| item.reason.as_str()).unwrap_or_default()
        };
        assert!(reason("question?").contains("must not contain '?'"));
        assert!(reason("large").contains("at most 10 bytes"));
        assert!(reason("leaves").contains("outside the directory"));
        assert!(reason("loop").contains("not followed"));
        assert!(reason("broken").contains("broken symbolic link"));
        assert!(reason("\u{fffd}").contains("UTF-8"));
        assert_eq!(rejected.len(), 6);
    }

    #[test]
    fn a_fingerprint_changes_with_the_size_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "one").unwrap();
        let before = DirectorySource::fingerprint(dir.path()).unwrap();
        fs::write(dir.path().join("a"), "two").unwrap();
        assert_eq!(before, DirectorySource::fingerprint(dir.path()).unwrap());
        fs::write(dir.path().join("a"), "three").unwrap();
        assert_ne!(before, DirectorySource::fingerprint(dir.path()).unwrap());
    }
}
