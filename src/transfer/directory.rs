//! A folder as items: the files are the values, their relative paths the keys.

use super::record::{Item, take, too_large};
use super::{Broken, Next, Source, Wrong};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folders within folders, at most.
const DEPTH_MAX: usize = 256;

/// A file that was found, or what stands in its place.
struct Found {
    path: PathBuf,
    key: String,
    kind: Kind,
}

enum Kind {
    File(u64),
    Folder,
    Not(String),
}

/// The files below a folder, in the order of their keys. Links are followed to files within the
/// folder only.
pub struct Tree {
    root: PathBuf,
    /// What is still to come of the folders on the way down, the next last.
    open: Vec<Vec<Found>>,
    number: u64,
    value_bytes_max: u64,
}

impl Tree {
    /// Walks a folder; files of more than so many bytes are told, and not taken.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn new(root: &Path, value_bytes_max: u64) -> Result<Tree, Broken> {
        let told = |e| Broken(format!("{}: {e}", root.display()));
        let root = fs::canonicalize(root).map_err(told)?;
        let first = list(&root, &root, "").map_err(told)?;
        Ok(Tree { root, open: vec![first], number: 0, value_bytes_max })
    }

    /// What is next, folders passed through.
    fn step(&mut self) -> Option<Found> {
        loop {
            let Some(found) = self.open.last_mut()?.pop() else {
                self.open.pop();
                continue;
            };
            if !matches!(found.kind, Kind::Folder) {
                return Some(found);
            }
            let told =
                |kind| Some(Found { path: found.path.clone(), key: found.key.clone(), kind });
            if self.open.len() >= DEPTH_MAX {
                let reason = format!("folders must not be more than {DEPTH_MAX} deep");
                return told(Kind::Not(reason));
            }
            match list(&self.root, &found.path, &found.key) {
                Ok(below) => self.open.push(below),
                Err(e) => return told(Kind::Not(format!("the folder cannot be read: {e}"))),
            }
        }
    }

    /// What tells whether a folder is the same as before: a hash of its names and sizes.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn identity(root: &Path) -> Result<String, Broken> {
        let mut tree = Tree::new(root, 0)?;
        let mut hash = Sha256::new();
        while let Some(found) = tree.step() {
            let size = match found.kind {
                Kind::File(size) => size.to_string(),
                Kind::Folder | Kind::Not(_) => String::new(),
            };
            hash.update(format!("{}\n{}\n{size}\n", found.key.len(), found.key));
        }
        Ok(super::hex(&hash.finalize()))
    }
}

impl Source for Tree {
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Next, Broken> {
        let Some(found) = self.step() else { return Ok(Next::End) };
        self.number += 1;
        let number = self.number;
        let value = match found.kind {
            Kind::File(_) => read(&found.path, self.value_bytes_max),
            Kind::Folder => return Ok(Next::End),
            Kind::Not(reason) => Err(reason),
        };
        Ok(match value {
            Ok(value) => {
                let item = Item { key: &found.key, value: &value, ..Item::default() };
                take(number, &item, out)
            }
            Err(reason) => Next::Wrong(Wrong { number, key: found.key, reason }),
        })
    }
}

/// Reads a file as a value of at most so many bytes.
pub(super) fn read(path: &Path, value_bytes_max: u64) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("the file cannot be read: {e}");
    let file = fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("must be a file".into());
    }
    let mut value = Vec::new();
    file.take(value_bytes_max + 1).read_to_end(&mut value).map_err(failed)?;
    if value.len() as u64 > value_bytes_max {
        return Err(too_large(value_bytes_max));
    }
    Ok(value)
}

/// What a folder holds, the first of the keys last.
fn list(root: &Path, folder: &Path, prefix: &str) -> std::io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        let mut key = match name.to_str() {
            Some(name) => format!("{prefix}{name}"),
            None => format!("{prefix}{}", name.to_string_lossy()),
        };
        let mut kind = kind(root, &path, &entry.file_type()?);
        if name.to_str().is_none() {
            kind = Kind::Not("the name must be UTF-8".into());
        }
        if matches!(kind, Kind::Folder) {
            key.push('/');
        }
        found.push(Found { path, key, kind });
    }
    found.sort_by(|a, b| (&b.key, &b.path).cmp(&(&a.key, &a.path)));
    Ok(found)
}

fn kind(root: &Path, path: &Path, of: &fs::FileType) -> Kind {
    if of.is_dir() {
        return Kind::Folder;
    }
    if !of.is_file() && !of.is_symlink() {
        return Kind::Not("must be a file".into());
    }
    if of.is_symlink() {
        match fs::canonicalize(path) {
            Ok(target) if !target.starts_with(root) => {
                return Kind::Not("the link leads out of the folder".into());
            }
            Ok(target) if target.is_dir() => {
                return Kind::Not("links to folders are not followed".into());
            }
            Ok(_) => {}
            Err(e) => return Kind::Not(format!("the link leads nowhere: {e}")),
        }
    }
    match fs::metadata(path) {
        Ok(about) => Kind::File(about.len()),
        Err(e) => Kind::Not(format!("the file cannot be read: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn walk(root: &Path) -> (Vec<String>, Vec<Wrong>) {
        let mut tree = Tree::new(root, 10).unwrap();
        let (mut keys, mut wrongs, mut out) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            out.clear();
            match tree.next(&mut out).unwrap() {
                Next::Line(_) => {
                    keys.push(super::super::record::key_of(&out).unwrap().into_owned());
                }
                Next::Wrong(wrong) => wrongs.push(wrong),
                Next::End => return (keys, wrongs),
            }
        }
    }

    #[test]
    fn files_come_in_the_order_of_their_keys_and_what_is_none_is_told() {
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

        let (keys, wrongs) = walk(&root);
        assert_eq!(keys, [".hidden", "B", "a-b", "a.txt", "a/deep/x", "a/z", "near"]);
        let told = |key: &str| {
            let wrong = wrongs.iter().find(|wrong| wrong.key == key);
            wrong.map(|wrong| wrong.reason.as_str()).unwrap_or_default()
        };
        assert!(told("question?").contains("must not contain '?'"));
        assert!(told("large").contains("at most 10 bytes"));
        assert!(told("leaves").contains("out of the folder"));
        assert!(told("loop").contains("not followed"));
        assert!(told("broken").contains("nowhere"));
        assert!(told("\u{fffd}").contains("UTF-8"));
        assert_eq!(wrongs.len(), 6);
    }

    #[test]
    fn a_folder_is_the_same_until_a_name_or_a_size_changes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "one").unwrap();
        let before = Tree::identity(dir.path()).unwrap();
        fs::write(dir.path().join("a"), "two").unwrap();
        assert_eq!(before, Tree::identity(dir.path()).unwrap());
        fs::write(dir.path().join("a"), "three").unwrap();
        assert_ne!(before, Tree::identity(dir.path()).unwrap());
    }
}
