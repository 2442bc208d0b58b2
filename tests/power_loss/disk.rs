//! A disk that keeps what was synced and may lose, tear or spoil the rest: it follows a trace, and
//! makes data directories as a power cut at that moment may leave them.
//!
//! What it assumes is what `docs/durability.md` says it rests on: a file's bytes are kept once a
//! sync of the file that began after they were written has ended; a name, once its folder was
//! synced. Until then every page of 4 KiB is as it was, as any of its writes left it, half and
//! half, zero, or garbage, each page by itself: also what was synced in it before, for no disk is
//! trusted to overwrite part of a page safely.

use crate::random::Random;
use crate::trace::{Kind, Record};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const PAGE: usize = 4096;

/// What a file is about to become.
#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Debug, Default)]
struct Content {
    synced: Vec<u8>,
    /// With the number of the record.
    pending: Vec<(usize, Change)>,
}

/// What a folder is about to become.
#[derive(Clone, Debug)]
enum Naming {
    File(String, usize),
    Folder(String),
    Gone(String),
    Moved(String, String),
}

impl Naming {
    fn path(&self) -> &str {
        match self {
            Naming::File(path, _) | Naming::Folder(path) => path,
            Naming::Gone(path) | Naming::Moved(path, _) => path,
        }
    }

    /// On the names: a file's number, or `None` for a folder.
    fn apply(&self, names: &mut BTreeMap<String, Option<usize>>) {
        match self {
            Naming::File(path, content) => {
                names.insert(path.clone(), Some(*content));
            }
            Naming::Folder(path) => {
                names.insert(path.clone(), None);
            }
            Naming::Gone(path) => {
                names.remove(path);
            }
            Naming::Moved(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// How much of what was not synced an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Lost,
    /// All, as kill -9 leaves it.
    All,
    /// All but one page.
    OnePage,
    /// All, but of the pages of the write that was last any.
    LastWrite,
    /// What was done up to some earlier moment.
    Earlier,
    /// Of some files all, of others nothing.
    Files,
    /// Each page by itself.
    Pages,
}

pub(crate) const MODES: [Mode; 7] = [
    Mode::Lost,
    Mode::All,
    Mode::OnePage,
    Mode::LastWrite,
    Mode::Earlier,
    Mode::Files,
    Mode::Pages,
];

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// As after so many of the writes that touched it.
    After(usize),
    /// The first half as after so many, the rest as before the last of them.
    Half(usize),
    Zero,
    Garbage,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    contents: Vec<Content>,
    /// As the server sees them.
    names: BTreeMap<String, Option<usize>>,
    synced_names: BTreeMap<String, Option<usize>>,
    pending_names: Vec<(usize, Naming)>,
    /// Syncs under way, by thread: where they began, and what is synced.
    syncs: BTreeMap<u32, (usize, Option<usize>)>,
    /// Records followed so far.
    pub(crate) followed: usize,
    /// Syncs of files whose path has this in it do nothing.
    idle_syncs: Option<&'static str>,
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk {
    /// One on which syncs of files whose path has this in it do nothing: for tests of the test.
    pub(crate) fn without(syncs: &'static str) -> Disk {
        Disk { idle_syncs: Some(syncs), ..Disk::default() }
    }

    /// Follows one record.
    pub(crate) fn follow(&mut self, record: &Record) {
        let (number, path) = (self.followed, &record.path);
        self.followed += 1;
        match record.kind {
            Kind::Write => {
                let at = record.at as usize;
                self.change(path, number, Change::Write { at, bytes: record.bytes.clone() });
            }
            Kind::Truncate => self.change(path, number, Change::Resize(record.at as usize)),
            Kind::SyncBegins => {
                let content = self.names.get(path).copied().flatten();
                self.syncs.insert(record.thread, (number, content));
            }
            Kind::SyncEnds => self.synced(record),
            Kind::Create => {
                self.contents.push(Content::default());
                self.name(number, Naming::File(path.clone(), self.contents.len() - 1));
            }
            Kind::Unlink => self.name(number, Naming::Gone(path.clone())),
            Kind::Mkdir if path.is_empty() => {}
            Kind::Mkdir => self.name(number, Naming::Folder(path.clone())),
            Kind::Rename => {
                let to = String::from_utf8(record.bytes.clone()).unwrap();
                self.name(number, Naming::Moved(path.clone(), to));
            }
        }
    }

    fn change(&mut self, path: &str, number: usize, change: Change) {
        // Of a file without a name nothing is left.
        if let Some(Some(content)) = self.names.get(path) {
            self.contents[*content].pending.push((number, change));
        }
    }

    fn name(&mut self, number: usize, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push((number, naming));
    }

    fn synced(&mut self, record: &Record) {
        let Some((began, content)) = self.syncs.remove(&record.thread) else { return };
        if self.idle_syncs.is_some_and(|path| record.path.contains(path)) {
            return;
        }
        if let Some(content) = content {
            let content = &mut self.contents[content];
            let done = content.pending.partition_point(|(number, _)| *number < began);
            for (_, change) in content.pending.drain(..done) {
                apply(&mut content.synced, &change);
            }
            return;
        }
        // A folder.
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending_names)
            .into_iter()
            .partition(|(number, naming)| *number < began && folder(naming.path()) == record.path);
        done.iter().for_each(|(_, naming)| naming.apply(&mut self.synced_names));
        self.pending_names = rest;
    }

    /// Whether anything is not synced.
    pub(crate) fn unsettled(&self) -> bool {
        self.contents.iter().any(|content| !content.pending.is_empty())
    }

    /// Makes a data directory as a cut now may leave it; says what was done to it.
    pub(crate) fn image(&self, mode: Mode, random: &mut Random, to: &Path) -> String {
        let earlier = self.moment(random);
        let names = self.names_left(mode, earlier, random);
        fs::create_dir_all(to).unwrap();
        let mut said = format!("{mode:?}");
        if mode == Mode::Earlier {
            said = format!("{said} (record {earlier} of {})", self.followed);
        }
        let spoilt = self.one_page(mode, &names, random);
        let last = self.contents.iter().filter_map(|content| content.pending.last());
        let last = last.map(|(number, _)| *number).max().unwrap_or(0);
        for (path, node) in &names {
            // A folder sorts before what is in it; without it nothing in it is left.
            if !folder(path).is_empty() && !to.join(folder(path)).is_dir() {
                continue;
            }
            let Some(content) = *node else {
                fs::create_dir(to.join(path)).unwrap();
                continue;
            };
            let spoilt = spoilt.filter(|(spoilt, _, _)| *spoilt == content);
            if let Some((_, page, fate)) = spoilt {
                said = format!("{said} ({path}, page {page}: {fate:?})");
            }
            let left = Left { mode, earlier, last, spoilt };
            write(&to.join(path), &self.contents[content].left(&left, random));
        }
        said
    }

    /// A record between the first that is pending and now.
    fn moment(&self, random: &mut Random) -> usize {
        let pending = self.contents.iter().filter_map(|content| content.pending.first());
        let names = self.pending_names.first().map(|(number, _)| *number);
        let first = pending.map(|(number, _)| *number).chain(names).min();
        let first = first.unwrap_or(self.followed);
        first + random.below((self.followed - first) as u64 + 1) as usize
    }

    fn names_left(
        &self,
        mode: Mode,
        earlier: usize,
        random: &mut Random,
    ) -> BTreeMap<String, Option<usize>> {
        let mut names = self.synced_names.clone();
        // Of each folder what was done first is kept first, as journals of file systems do it.
        let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, naming) in &self.pending_names {
            let until = *kept.entry(folder(naming.path())).or_insert_with(|| match mode {
                Mode::Lost => 0,
                Mode::All | Mode::OnePage | Mode::LastWrite => usize::MAX,
                Mode::Earlier => earlier,
                Mode::Files | Mode::Pages => match random.below(3) {
                    0 => 0,
                    1 => usize::MAX,
                    _ => random.below(self.followed as u64 + 1) as usize,
                },
            });
            if *number < until {
                naming.apply(&mut names);
            }
        }
        names
    }

    /// The page that [`Mode::OnePage`] spoils: the file, the page, its fate.
    fn one_page(
        &self,
        mode: Mode,
        names: &BTreeMap<String, Option<usize>>,
        random: &mut Random,
    ) -> Option<(usize, usize, Fate)> {
        let there: Vec<usize> = names.values().copied().flatten().collect();
        let pending = |content: &&usize| !self.contents[**content].pending.is_empty();
        let unsynced: Vec<&usize> = there.iter().filter(pending).collect();
        if mode != Mode::OnePage || unsynced.is_empty() {
            return None;
        }
        let content = *unsynced[random.below(unsynced.len() as u64) as usize];
        let pages: Vec<_> = self.contents[content].pages().into_iter().collect();
        // The first is where what is synced and what is not meet.
        let among = if random.one_in(3) { 1 } else { pages.len() as u64 };
        let (page, changes) = &pages[random.below(among) as usize];
        let fate = match random.below(4) {
            0 => Fate::After(random.below(changes.len() as u64) as usize),
            1 => Fate::Half(changes.len()),
            2 => Fate::Zero,
            _ => Fate::Garbage,
        };
        Some((content, *page, fate))
    }
}

/// What is left of the files.
struct Left {
    mode: Mode,
    earlier: usize,
    /// The number of the last change of all.
    last: usize,
    spoilt: Option<(usize, usize, Fate)>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { at, bytes: new } => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
        Change::Resize(size) => bytes.resize(*size, 0),
    }
}

impl Content {
    /// The largest it is at any moment.
    fn reach(&self) -> usize {
        let ends = self.pending.iter().map(|(_, change)| match change {
            Change::Write { at, bytes } => at + bytes.len(),
            Change::Resize(size) => *size,
        });
        ends.max().unwrap_or(0).max(self.synced.len())
    }

    /// The pages that are not synced, with the numbers of the pending changes that touch each.
    fn pages(&self) -> BTreeMap<usize, Vec<usize>> {
        let (mut pages, reach): (BTreeMap<usize, Vec<usize>>, _) = (BTreeMap::new(), self.reach());
        for (number, (_, change)) in self.pending.iter().enumerate() {
            let (from, to) = match change {
                Change::Write { at, bytes } => (*at, at + bytes.len()),
                Change::Resize(size) => (*size, reach),
            };
            for page in from / PAGE..to.div_ceil(PAGE) {
                pages.entry(page).or_default().push(number);
            }
        }
        pages
    }

    /// What is left of it.
    fn left(&self, left: &Left, random: &mut Random) -> Vec<u8> {
        let all = self.pending.len();
        let some = match left.mode {
            Mode::Lost => 0,
            Mode::All | Mode::OnePage | Mode::LastWrite | Mode::Pages => all,
            Mode::Earlier => self.pending.partition_point(|(number, _)| *number < left.earlier),
            Mode::Files if random.one_in(2) => 0,
            Mode::Files => all,
        };
        let mut bytes = self.synced.clone();
        self.pending[..some].iter().for_each(|(_, change)| apply(&mut bytes, change));
        let mut spoil = |page, changes: &[usize], fate, random: &mut Random| {
            self.spoil(&mut bytes, page, changes, fate, random);
        };
        match left.mode {
            Mode::OnePage => {
                if let Some((_, page, fate)) = left.spoilt {
                    spoil(page, &self.pages()[&page], fate, random);
                }
            }
            Mode::LastWrite if self.pending.last().is_some_and(|last| last.0 == left.last) => {
                for (page, changes) in self.pages() {
                    if changes.last() == Some(&(all - 1)) {
                        spoil(page, &changes, drawn(changes.len(), random), random);
                    }
                }
            }
            Mode::Pages => {
                for (page, changes) in self.pages() {
                    spoil(page, &changes, drawn(changes.len(), random), random);
                }
                // The length is a change of its own, which may be behind.
                let known = random.below(all as u64 + 1) as usize;
                let mut then = self.synced.clone();
                self.pending[..known].iter().for_each(|(_, change)| apply(&mut then, change));
                bytes.resize(then.len(), 0);
            }
            Mode::Lost | Mode::All | Mode::LastWrite | Mode::Earlier | Mode::Files => {}
        }
        bytes
    }

    /// Makes a page of what otherwise has all changes look as its fate has it.
    fn spoil(
        &self,
        bytes: &mut [u8],
        page: usize,
        changes: &[usize],
        fate: Fate,
        random: &mut Random,
    ) {
        let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(bytes.len()));
        if start >= end {
            return;
        }
        let len = end - start;
        match fate {
            Fate::After(some) => {
                bytes[start..end].copy_from_slice(&self.page(page, &changes[..some])[..len]);
            }
            Fate::Half(some) => {
                let (new, old) = (
                    self.page(page, &changes[..some]),
                    self.page(page, &changes[..some.saturating_sub(1)]),
                );
                let middle = (512 * (1 + random.below(7) as usize)).min(len);
                bytes[start..start + middle].copy_from_slice(&new[..middle]);
                bytes[start + middle..end].copy_from_slice(&old[middle..len]);
            }
            Fate::Zero | Fate::Garbage => {
                for byte in &mut bytes[start..end] {
                    let noise = random.next() as u8;
                    *byte = if fate == Fate::Zero { 0 } else { noise };
                }
            }
        }
    }

    /// A page after some of the changes.
    fn page(&self, page: usize, changes: &[usize]) -> Vec<u8> {
        let start = page * PAGE;
        let mut bytes = self.synced.get(start..).unwrap_or_default().to_vec();
        bytes.truncate(PAGE);
        bytes.resize(PAGE, 0);
        for number in changes {
            match &self.pending[*number].1 {
                Change::Write { at, bytes: new } => {
                    let (from, to) = ((*at).max(start), (at + new.len()).min(start + PAGE));
                    bytes[from - start..to - start].copy_from_slice(&new[from - at..to - at]);
                }
                Change::Resize(size) => bytes[size.saturating_sub(start).min(PAGE)..].fill(0),
            }
        }
        bytes
    }
}

/// The fate of a page that this many changes touched.
fn drawn(changes: usize, random: &mut Random) -> Fate {
    match random.below(10) {
        0..=3 => Fate::After(changes),
        4..=6 => Fate::After(random.below(changes as u64 + 1) as usize),
        7 => Fate::Half(1 + random.below(changes as u64) as usize),
        8 => Fate::Zero,
        _ => Fate::Garbage,
    }
}

/// Writes a file, its zeros as holes.
fn write(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, chunk) in bytes.chunks(16 * PAGE).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, (number * 16 * PAGE) as u64).unwrap();
        }
    }
}
