//! A model of a disk that may lose, tear or corrupt unsynced data.
//!
//! The model replays a trace and creates data directories that a power cut may leave, under the
//! assumptions of `docs/durability.md`. Bytes are durable after an fsync of the file that began
//! after the write. Names are durable after an fsync of the directory. Until then, each 4 KiB page
//! is independently in the state before or after any of its writes, torn, zero, or garbage. This
//! applies to the synced bytes of the page too: the model does not assume that part of a page is
//! overwritten atomically.

use crate::harness::random::Random;
use crate::syscall_trace::{Syscall, TraceRecord};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const PAGE: usize = 4096;

/// An unsynced change to a file.
#[derive(Clone, Debug)]
enum FileChange {
    Write { at: usize, bytes: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Debug, Default)]
struct FileState {
    synced: Vec<u8>,
    /// The unsynced changes, each with the number of its trace record.
    pending: Vec<(usize, FileChange)>,
}

/// An unsynced change to a directory.
#[derive(Clone, Debug)]
enum NameChange {
    File(String, usize),
    Dir(String),
    Removed(String),
    Renamed(String, String),
}

impl NameChange {
    fn path(&self) -> &str {
        match self {
            NameChange::File(path, _) | NameChange::Dir(path) => path,
            NameChange::Removed(path) | NameChange::Renamed(path, _) => path,
        }
    }

    /// Applies the change to a map from paths to file numbers. A directory has the value `None`.
    fn apply(&self, names: &mut BTreeMap<String, Option<usize>>) {
        match self {
            NameChange::File(path, file) => {
                names.insert(path.clone(), Some(*file));
            }
            NameChange::Dir(path) => {
                names.insert(path.clone(), None);
            }
            NameChange::Removed(path) => {
                names.remove(path);
            }
            NameChange::Renamed(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// The unsynced changes that an image contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageMode {
    /// No unsynced changes.
    DropUnsynced,
    /// All unsynced changes, as after kill -9.
    KeepUnsynced,
    /// All unsynced changes, with one corrupt page.
    OneCorruptPage,
    /// All unsynced changes, with the last write torn.
    TornLastWrite,
    /// The changes up to an earlier point in time.
    EarlierPoint,
    /// All unsynced changes of some files, and none of others.
    SomeFiles,
    /// A random state for each page.
    EachPage,
}

impl ImageMode {
    pub(crate) const ALL: [ImageMode; 7] = [
        ImageMode::DropUnsynced,
        ImageMode::KeepUnsynced,
        ImageMode::OneCorruptPage,
        ImageMode::TornLastWrite,
        ImageMode::EarlierPoint,
        ImageMode::SomeFiles,
        ImageMode::EachPage,
    ];
}

/// The state of a page in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageState {
    /// The state after this many of the unsynced writes to the page.
    After(usize),
    /// A torn page: the first part is in the state after this many of the writes to the page, the
    /// rest in the state before the last of them.
    Half(usize),
    Zero,
    Garbage,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DiskModel {
    files: Vec<FileState>,
    /// The current names, including unsynced changes.
    names: BTreeMap<String, Option<usize>>,
    synced_names: BTreeMap<String, Option<usize>>,
    pending_names: Vec<(usize, NameChange)>,
    /// The fsync in progress on each thread: the number of the record at which it began, and the
    /// file. A directory has no file.
    syncs: BTreeMap<u32, (usize, Option<usize>)>,
    /// The number of records applied.
    pub(crate) applied: usize,
    /// Fsyncs of paths that contain this text have no effect.
    ignored_syncs: Option<String>,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl DiskModel {
    /// Creates a disk that ignores fsyncs of paths that contain `syncs`, to test the checker.
    pub(crate) fn ignoring_syncs(syncs: &str) -> DiskModel {
        DiskModel { ignored_syncs: Some(syncs.to_owned()), ..DiskModel::default() }
    }

    /// Applies one record of the trace.
    pub(crate) fn apply(&mut self, record: &TraceRecord) {
        let (number, path) = (self.applied, &record.path);
        self.applied += 1;
        match record.kind {
            Syscall::Write => {
                let at = record.at as usize;
                self.edit_file(path, number, FileChange::Write { at, bytes: record.bytes.clone() });
            }
            Syscall::Truncate => {
                self.edit_file(path, number, FileChange::Resize(record.at as usize))
            }
            Syscall::SyncBegins => {
                let file = self.names.get(path).copied().flatten();
                self.syncs.insert(record.thread, (number, file));
            }
            Syscall::SyncEnds => self.complete_sync(record),
            Syscall::Create => {
                self.files.push(FileState::default());
                self.change_name(number, NameChange::File(path.clone(), self.files.len() - 1));
            }
            Syscall::Unlink => self.change_name(number, NameChange::Removed(path.clone())),
            Syscall::Mkdir if path.is_empty() => {}
            Syscall::Mkdir => self.change_name(number, NameChange::Dir(path.clone())),
            Syscall::Rename => {
                let to = String::from_utf8(record.bytes.clone()).unwrap();
                self.change_name(number, NameChange::Renamed(path.clone(), to));
            }
        }
    }

    fn edit_file(&mut self, path: &str, number: usize, change: FileChange) {
        // The contents of an unlinked file do not matter.
        if let Some(Some(file)) = self.names.get(path) {
            self.files[*file].pending.push((number, change));
        }
    }

    fn change_name(&mut self, number: usize, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push((number, change));
    }

    fn complete_sync(&mut self, record: &TraceRecord) {
        let Some((began, file)) = self.syncs.remove(&record.thread) else { return };
        if self.ignored_syncs.as_ref().is_some_and(|path| record.path.contains(path)) {
            return;
        }
        if let Some(file) = file {
            let file = &mut self.files[file];
            let done = file.pending.partition_point(|(number, _)| *number < began);
            for (_, change) in file.pending.drain(..done) {
                apply(&mut file.synced, &change);
            }
            return;
        }
        // The fsync was called on a directory.
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending_names)
            .into_iter()
            .partition(|(number, change)| *number < began && parent(change.path()) == record.path);
        done.iter().for_each(|(_, change)| change.apply(&mut self.synced_names));
        self.pending_names = rest;
    }

    /// Returns whether a file has unsynced changes.
    pub(crate) fn has_unsynced_data(&self) -> bool {
        self.files.iter().any(|file| !file.pending.is_empty())
    }

    /// Creates a data directory as a power cut at this point may leave it. Returns a description of
    /// the image.
    pub(crate) fn image(&self, mode: ImageMode, random: &mut Random, to: &Path) -> String {
        let earlier = self.random_record(random);
        let names = self.surviving_names(mode, earlier, random);
        fs::create_dir_all(to).unwrap();
        let mut description = format!("{mode:?}");
        if mode == ImageMode::EarlierPoint {
            description = format!("{description} (record {earlier} of {})", self.applied);
        }
        let corrupted = self.one_page(mode, &names, random);
        let last = self.files.iter().filter_map(|file| file.pending.last());
        let last = last.map(|(number, _)| *number).max().unwrap_or(0);
        for (path, node) in &names {
            // A directory sorts before its entries. If it is lost, its entries are lost too.
            if !parent(path).is_empty() && !to.join(parent(path)).is_dir() {
                continue;
            }
            let Some(file) = *node else {
                fs::create_dir(to.join(path)).unwrap();
                continue;
            };
            let corrupted = corrupted.filter(|(corrupted, _, _)| *corrupted == file);
            if let Some((_, page, state)) = corrupted {
                description = format!("{description} ({path}, page {page}: {state:?})");
            }
            let options = ImageOptions { mode, earlier, last, corrupted };
            write(&to.join(path), &self.files[file].surviving(&options, random));
        }
        description
    }

    /// Returns a random record number between the first pending change and the last record applied.
    fn random_record(&self, random: &mut Random) -> usize {
        let pending = self.files.iter().filter_map(|file| file.pending.first());
        let names = self.pending_names.first().map(|(number, _)| *number);
        let first = pending.map(|(number, _)| *number).chain(names).min();
        let first = first.unwrap_or(self.applied);
        first + random.below((self.applied - first) as u64 + 1) as usize
    }

    fn surviving_names(
        &self,
        mode: ImageMode,
        earlier: usize,
        random: &mut Random,
    ) -> BTreeMap<String, Option<usize>> {
        let mut names = self.synced_names.clone();
        // Changes to a directory survive in order, as in a journaling file system.
        let mut kept_until: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, change) in &self.pending_names {
            let until = *kept_until.entry(parent(change.path())).or_insert_with(|| match mode {
                ImageMode::DropUnsynced => 0,
                ImageMode::KeepUnsynced | ImageMode::OneCorruptPage | ImageMode::TornLastWrite => {
                    usize::MAX
                }
                ImageMode::EarlierPoint => earlier,
                ImageMode::SomeFiles | ImageMode::EachPage => match random.below(3) {
                    0 => 0,
                    1 => usize::MAX,
                    _ => random.below(self.applied as u64 + 1) as usize,
                },
            });
            if *number < until {
                change.apply(&mut names);
            }
        }
        names
    }

    /// Chooses the file, page and page state of [`ImageMode::OneCorruptPage`].
    fn one_page(
        &self,
        mode: ImageMode,
        names: &BTreeMap<String, Option<usize>>,
        random: &mut Random,
    ) -> Option<(usize, usize, PageState)> {
        let existing: Vec<usize> = names.values().copied().flatten().collect();
        let pending = |file: &&usize| !self.files[**file].pending.is_empty();
        let unsynced: Vec<&usize> = existing.iter().filter(pending).collect();
        if mode != ImageMode::OneCorruptPage || unsynced.is_empty() {
            return None;
        }
        let file = *unsynced[random.below(unsynced.len() as u64) as usize];
        let pages: Vec<_> = self.files[file].pages().into_iter().collect();
        // Prefer the first page, which can contain both synced and unsynced data.
        let among = if random.one_in(3) { 1 } else { pages.len() as u64 };
        let (page, changes) = &pages[random.below(among) as usize];
        let state = match random.below(4) {
            0 => PageState::After(random.below(changes.len() as u64) as usize),
            1 => PageState::Half(changes.len()),
            2 => PageState::Zero,
            _ => PageState::Garbage,
        };
        Some((file, *page, state))
    }
}

/// The parameters of an image.
struct ImageOptions {
    mode: ImageMode,
    earlier: usize,
    /// The record number of the last pending change to any file.
    last: usize,
    corrupted: Option<(usize, usize, PageState)>,
}

fn apply(bytes: &mut Vec<u8>, change: &FileChange) {
    match change {
        FileChange::Write { at, bytes: new } => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
        FileChange::Resize(size) => bytes.resize(*size, 0),
    }
}

impl FileState {
    /// Returns the largest length that the file has had since its last fsync.
    fn max_len(&self) -> usize {
        let ends = self.pending.iter().map(|(_, change)| match change {
            FileChange::Write { at, bytes } => at + bytes.len(),
            FileChange::Resize(size) => *size,
        });
        ends.max().unwrap_or(0).max(self.synced.len())
    }

    /// Returns the unsynced pages by number, each with the indexes of its pending changes.
    fn pages(&self) -> BTreeMap<usize, Vec<usize>> {
        let (mut pages, max_len): (BTreeMap<usize, Vec<usize>>, _) =
            (BTreeMap::new(), self.max_len());
        for (number, (_, change)) in self.pending.iter().enumerate() {
            let (from, to) = match change {
                FileChange::Write { at, bytes } => (*at, at + bytes.len()),
                FileChange::Resize(size) => (*size, max_len),
            };
            for page in from / PAGE..to.div_ceil(PAGE) {
                pages.entry(page).or_default().push(number);
            }
        }
        pages
    }

    /// Returns the contents of the file after the power cut.
    fn surviving(&self, options: &ImageOptions, random: &mut Random) -> Vec<u8> {
        let all = self.pending.len();
        let some = match options.mode {
            ImageMode::DropUnsynced => 0,
            ImageMode::KeepUnsynced
            | ImageMode::OneCorruptPage
            | ImageMode::TornLastWrite
            | ImageMode::EachPage => all,
            ImageMode::EarlierPoint => {
                self.pending.partition_point(|(number, _)| *number < options.earlier)
            }
            ImageMode::SomeFiles if random.one_in(2) => 0,
            ImageMode::SomeFiles => all,
        };
        let mut bytes = self.synced.clone();
        self.pending[..some].iter().for_each(|(_, change)| apply(&mut bytes, change));
        let mut corrupt_page = |page, changes: &[usize], state, random: &mut Random| {
            self.corrupt_page(&mut bytes, page, changes, state, random);
        };
        match options.mode {
            ImageMode::OneCorruptPage => {
                if let Some((_, page, state)) = options.corrupted {
                    corrupt_page(page, &self.pages()[&page], state, random);
                }
            }
            ImageMode::TornLastWrite
                if self.pending.last().is_some_and(|last| last.0 == options.last) =>
            {
                for (page, changes) in self.pages() {
                    if changes.last() == Some(&(all - 1)) {
                        corrupt_page(page, &changes, random_state(changes.len(), random), random);
                    }
                }
            }
            ImageMode::EachPage => {
                for (page, changes) in self.pages() {
                    corrupt_page(page, &changes, random_state(changes.len(), random), random);
                }
                // The length is separate metadata, which may be older than the contents.
                let known = random.below(all as u64 + 1) as usize;
                let mut then = self.synced.clone();
                self.pending[..known].iter().for_each(|(_, change)| apply(&mut then, change));
                bytes.resize(then.len(), 0);
            }
            ImageMode::DropUnsynced
            | ImageMode::KeepUnsynced
            | ImageMode::TornLastWrite
            | ImageMode::EarlierPoint
            | ImageMode::SomeFiles => {}
        }
        bytes
    }

    /// Puts one page of otherwise complete contents into the given state.
    fn corrupt_page(
        &self,
        bytes: &mut [u8],
        page: usize,
        changes: &[usize],
        state: PageState,
        random: &mut Random,
    ) {
        let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(bytes.len()));
        if start >= end {
            return;
        }
        let len = end - start;
        match state {
            PageState::After(some) => {
                bytes[start..end].copy_from_slice(&self.page(page, &changes[..some])[..len]);
            }
            PageState::Half(some) => {
                let (new, old) = (
                    self.page(page, &changes[..some]),
                    self.page(page, &changes[..some.saturating_sub(1)]),
                );
                let middle = (512 * (1 + random.below(7) as usize)).min(len);
                bytes[start..start + middle].copy_from_slice(&new[..middle]);
                bytes[start + middle..end].copy_from_slice(&old[middle..len]);
            }
            PageState::Zero | PageState::Garbage => {
                for byte in &mut bytes[start..end] {
                    let noise = random.next() as u8;
                    *byte = if state == PageState::Zero { 0 } else { noise };
                }
            }
        }
    }

    /// Returns the synced page with only the given changes applied.
    fn page(&self, page: usize, changes: &[usize]) -> Vec<u8> {
        let start = page * PAGE;
        let mut bytes = self.synced.get(start..).unwrap_or_default().to_vec();
        bytes.truncate(PAGE);
        bytes.resize(PAGE, 0);
        for number in changes {
            match &self.pending[*number].1 {
                FileChange::Write { at, bytes: new } => {
                    let (from, to) = ((*at).max(start), (at + new.len()).min(start + PAGE));
                    bytes[from - start..to - start].copy_from_slice(&new[from - at..to - at]);
                }
                FileChange::Resize(size) => bytes[size.saturating_sub(start).min(PAGE)..].fill(0),
            }
        }
        bytes
    }
}

/// Returns a random state for a page with this many changes.
fn random_state(changes: usize, random: &mut Random) -> PageState {
    match random.below(10) {
        0..=3 => PageState::After(changes),
        4..=6 => PageState::After(random.below(changes as u64 + 1) as usize),
        7 => PageState::Half(1 + random.below(changes as u64) as usize),
        8 => PageState::Zero,
        _ => PageState::Garbage,
    }
}

/// Writes a sparse file: blocks of zeros become holes.
fn write(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, chunk) in bytes.chunks(16 * PAGE).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, (number * 16 * PAGE) as u64).unwrap();
        }
    }
}
