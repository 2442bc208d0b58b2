//! Moves all records of one engine into another, in the order of their keys, so that a copy that
//! was cut goes on where it was; then compares both, record by record.
//!
//! While it lasts the destination has a record that says so, which each commit of the copy expects
//! and moves on: two copies into one destination stop each other, and nothing is done twice.
//! Versions are the destination's own, and no smaller than those they had.

use super::{
    Body, Commit, Engine, EngineError, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome,
    Precondition, Projection, Record, Result, Scan, ScanPage, ScannedRecord,
};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The key of the record that marks an unfinished copy; its head is the last key that was copied.
/// It comes before all others, which must not begin with this byte.
pub const MARKER_KEY: &[u8] = &[0];

/// The range of all records but the mark.
const FIRST: &[u8] = &[1];
const LAST: [u8; 1] = [0xff];
/// Keys looked at together.
const PAGE_RECORDS: usize = 1000;
/// Records read at once: a database answers many as fast as one.
const READS: usize = 8;
/// Records and bytes in one commit.
const GROUP_RECORDS: usize = 500;
const GROUP_BYTES: u64 = 4 << 20;
/// Bytes of a large body that are held at once, where the engine reads by the piece.
const PIECE_BYTES: usize = 256 << 10;

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether both sides are compared by now.
    pub comparing: bool,
    /// Records copied, or compared.
    pub records: u64,
    /// Records that the source had at the start.
    pub total: u64,
    /// Bytes of their keys, heads and bodies.
    pub bytes: u64,
    /// The checksum (CRC-32) of all that was compared so far.
    pub checksum: u32,
}

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The destination has records of its own.
    #[error("the destination is not empty, or holds what was cut")]
    NotEmpty,
    /// The source is an unfinished copy itself.
    #[error("the source is itself an unfinished copy")]
    SourceIncomplete,
    /// Another copy writes to the destination.
    #[error("another copy writes to the same destination")]
    Conflict,
    /// The two differ after all.
    #[error(
        "source and destination differ at record {0:?}: the source was changed while it was \
         copied, or one of them is damaged; stop all servers of the source, empty the destination, \
         and copy again"
    )]
    Mismatch(String),
    /// An engine failed; what was copied stays, and the copy goes on from there.
    #[error("the {0}: {1}")]
    Engine(Side, EngineError),
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is copied.
    Source,
    /// Where it goes.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Destination => "destination",
        })
    }
}

/// Refuses an engine that holds an unfinished copy: some of its records are missing.
///
/// # Errors
/// When it does, or cannot be read.
pub async fn check_complete(engine: &dyn Engine) -> Result<()> {
    match engine.read(MARKER_KEY, Projection::Meta).await? {
        None => Ok(()),
        Some(_) => Err(EngineError::Failed(
            "it holds an unfinished copy or restore: run the same copy again to finish it; after a \
             restore that was cut, empty it and restore again"
                .into(),
        )),
    }
}

/// Copies all records and compares them; `tell` hears how far it is.
///
/// # Errors
/// See [`CopyError`]; after any of them the same call may be made again.
pub async fn copy(
    from: &Arc<dyn Engine>,
    to: &Arc<dyn Engine>,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> std::result::Result<Progress, CopyError> {
    let source = |e| CopyError::Engine(Side::Source, e);
    if from.read(MARKER_KEY, Projection::Meta).await.map_err(source)?.is_some() {
        return Err(CopyError::SourceIncomplete);
    }
    let mut copy = Copy::begin(to.clone()).await?;
    copy.progress.total = total(&**from).await.map_err(source)?;
    tell(copy.progress);
    let mut next = Some(copy.start.clone());
    while let Some(start) = next {
        let page = page_from(&**from, start).await.map_err(source)?;
        next = following(&page);
        let mut reads = Reads::new(from, &page);
        // What is gone by now is found missing in the end, if it matters.
        while let Some((key, record)) = reads.next().await.map_err(source)? {
            copy.take(key, record).await?;
        }
        copy.flush().await?;
        tell(copy.progress);
    }
    let compared = compare(from, to, copy.progress.total, tell).await?;
    copy.end().await?;
    Ok(compared)
}

/// An empty destination that is being filled, in the order of keys; until [`BulkLoader::end`] it is
/// marked as unfinished.
pub struct BulkLoader(Copy);

impl BulkLoader {
    /// Marks an empty destination.
    ///
    /// # Errors
    /// [`CopyError::NotEmpty`], also when something unfinished is there; or when the engine fails.
    pub async fn begin(to: Arc<dyn Engine>) -> std::result::Result<BulkLoader, CopyError> {
        let found = to.read(MARKER_KEY, Projection::Meta).await;
        match found.map_err(|e| CopyError::Engine(Side::Destination, e))? {
            Some(_) => Err(CopyError::NotEmpty),
            None => Ok(BulkLoader(Copy::begin(to).await?)),
        }
    }

    /// Takes the next record, whose body is in memory or was staged by the destination.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn add(&mut self, key: Bytes, record: Record) -> std::result::Result<(), CopyError> {
        self.0.add(key, record).await
    }

    /// Writes what is left and takes the mark away.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn end(mut self) -> std::result::Result<(), CopyError> {
        self.0.flush().await?;
        self.0.end().await
    }
}

/// A copy under way.
struct Copy {
    to: Arc<dyn Engine>,
    /// The first key that is to be copied.
    start: Bytes,
    /// The version of the mark.
    mark: u64,
    group: Vec<Mutation>,
    group_bytes: u64,
    version_min: u64,
    progress: Progress,
}

impl Copy {
    /// Marks an empty destination, or goes on where a copy was cut.
    async fn begin(to: Arc<dyn Engine>) -> std::result::Result<Copy, CopyError> {
        let destination = |e| CopyError::Engine(Side::Destination, e);
        let found = to.read(MARKER_KEY, Projection::Meta).await.map_err(destination)?;
        let (start, mark) = match found {
            Some(record) if record.meta.is_empty() => (Bytes::from_static(FIRST), record.version),
            Some(record) => (after(&record.meta), record.version),
            None => {
                let first = page_from(&*to, Bytes::from_static(FIRST)).await;
                if !first.map_err(destination)?.is_empty() {
                    return Err(CopyError::NotEmpty);
                }
                (Bytes::from_static(FIRST), 0)
            }
        };
        let (group, group_bytes, version_min) = (Vec::new(), 0, 0);
        // The mark is no record of the source.
        let there = total(&*to).await.map_err(destination)?.saturating_sub(mark.min(1));
        let progress = Progress { records: there, ..Progress::default() };
        let mut copy = Copy { to, start, mark, group, group_bytes, version_min, progress };
        if copy.mark == 0 {
            copy.write(Some(Bytes::new())).await?;
        }
        Ok(copy)
    }

    /// Takes the next record.
    async fn take(&mut self, key: Bytes, record: Record) -> std::result::Result<(), CopyError> {
        let large = record.body.len() > INLINE_BYTES_MAX as u64;
        let body = if large { self.stage(record.body).await? } else { record.body };
        self.add(key, Record { body, ..record }).await
    }

    /// Takes the next record, with a body that the destination can keep as it is.
    async fn add(&mut self, key: Bytes, record: Record) -> std::result::Result<(), CopyError> {
        let Record { version, expires_at, meta, body } = record;
        let len = body.len();
        let full = self.group.len() >= GROUP_RECORDS || self.group_bytes + len > GROUP_BYTES;
        if full && !self.group.is_empty() {
            self.flush().await?;
        }
        self.progress.records += 1;
        self.progress.bytes += (key.len() + meta.len()) as u64 + len;
        self.group_bytes += len;
        self.version_min = self.version_min.max(version);
        self.group.push(Mutation { key, record: Some(NewRecord { expires_at, meta, body }) });
        Ok(())
    }

    /// Brings a large body into the destination's keeping.
    async fn stage(&self, body: Body) -> std::result::Result<Body, CopyError> {
        let destination = |e| CopyError::Engine(Side::Destination, e);
        let mut stage = self.to.create_blob().await.map_err(destination)?;
        let mut at = 0;
        while at < body.len() {
            let piece = piece(&body, at).await;
            let piece = piece.map_err(|e| CopyError::Engine(Side::Source, e))?;
            at += piece.len() as u64;
            stage.write(piece).await.map_err(destination)?;
        }
        stage.finish().await.map_err(destination)
    }

    /// Commits what was taken, and how far that is.
    async fn flush(&mut self) -> std::result::Result<(), CopyError> {
        match self.group.last().map(|write| write.key.clone()) {
            Some(last) => self.write(Some(last)).await,
            None => Ok(()),
        }
    }

    /// Takes the mark away: the copy is whole.
    async fn end(mut self) -> std::result::Result<(), CopyError> {
        match self.write(None).await {
            // It may have been made: then nothing is left to be done.
            Err(CopyError::Engine(..)) if check_complete(&*self.to).await.is_ok() => Ok(()),
            done => done,
        }
    }

    async fn write(&mut self, mark: Option<Bytes>) -> std::result::Result<(), CopyError> {
        let key = Bytes::from_static(MARKER_KEY);
        let marked = |meta| NewRecord { expires_at: 0, meta, body: Body::EMPTY };
        let mut mutations = std::mem::take(&mut self.group);
        mutations.push(Mutation { key: key.clone(), record: mark.map(marked) });
        let preconditions = vec![Precondition { key, version: self.mark }];
        let commit = Commit { version_min: self.version_min, preconditions, mutations };
        self.group_bytes = 0;
        match self.to.commit(commit).await {
            Ok(Outcome::Committed(version)) => {
                self.mark = version;
                Ok(())
            }
            Ok(Outcome::Conflict) => Err(CopyError::Conflict),
            Err(e) => Err(CopyError::Engine(Side::Destination, e)),
        }
    }
}

/// Reads the records of a page, several at once, and hands them out in order.
struct Reads<'c> {
    from: &'c Arc<dyn Engine>,
    keys: std::vec::IntoIter<Bytes>,
    running: JoinSet<(usize, Bytes, Result<Option<Record>>)>,
    ready: Vec<Option<(Bytes, Record)>>,
}

impl<'c> Reads<'c> {
    fn new(from: &'c Arc<dyn Engine>, page: &ScanPage) -> Reads<'c> {
        let keys: Vec<Bytes> = page.iter().map(|found| Bytes::copy_from_slice(found.key)).collect();
        Reads { from, keys: keys.into_iter(), running: JoinSet::new(), ready: Vec::new() }
    }

    async fn next(&mut self) -> Result<Option<(Bytes, Record)>> {
        loop {
            // The last of them is the next one.
            match self.ready.pop() {
                Some(Some(found)) => return Ok(Some(found)),
                Some(None) => continue,
                None => {}
            }
            let keys: Vec<Bytes> = self.keys.by_ref().take(READS).collect();
            if keys.is_empty() {
                return Ok(None);
            }
            self.ready.resize_with(keys.len(), || None);
            for (at, key) in keys.into_iter().rev().enumerate() {
                let from = self.from.clone();
                self.running.spawn(async move {
                    let record = from.read(&key, Projection::Full).await;
                    (at, key, record)
                });
            }
            while let Some(read) = self.running.join_next().await {
                let (at, key, record) = read.map_err(|e| EngineError::Failed(e.to_string()))?;
                if let (Some(record), Some(place)) = (record?, self.ready.get_mut(at)) {
                    *place = Some((key, record));
                }
            }
        }
    }
}

/// Compares all records of both, in the order of their keys.
async fn compare(
    from: &Arc<dyn Engine>,
    to: &Arc<dyn Engine>,
    total: u64,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> std::result::Result<Progress, CopyError> {
    let mut progress = Progress { comparing: true, total, ..Progress::default() };
    let mut checksum = crc32fast::Hasher::new();
    let mut next = Some(Bytes::from_static(FIRST));
    while let Some(start) = next {
        let sides = tokio::join!(page_from(&**from, start.clone()), page_from(&**to, start));
        let source = sides.0.map_err(|e| CopyError::Engine(Side::Source, e))?;
        let destination = sides.1.map_err(|e| CopyError::Engine(Side::Destination, e))?;
        if let Some(key) = first_difference(&source, &destination) {
            return Err(CopyError::Mismatch(key));
        }
        next = following(&source);
        let (mut ours, mut theirs) = (Reads::new(from, &source), Reads::new(to, &destination));
        loop {
            let (source, destination) = tokio::join!(ours.next(), theirs.next());
            let source = source.map_err(|e| CopyError::Engine(Side::Source, e))?;
            let destination = destination.map_err(|e| CopyError::Engine(Side::Destination, e))?;
            let (source, destination) = match (source, destination) {
                (None, None) => break,
                (Some(source), Some(destination)) => (source, destination),
                (Some((key, _)), None) | (None, Some((key, _))) => {
                    return Err(CopyError::Mismatch(shown(&key)));
                }
            };
            let (one, other) = tokio::join!(digest(&source), digest(&destination));
            let one = one.map_err(|e| CopyError::Engine(Side::Source, e))?;
            let other = other.map_err(|e| CopyError::Engine(Side::Destination, e))?;
            if one != other {
                return Err(CopyError::Mismatch(shown(&source.0)));
            }
            checksum.update(&one.0.to_le_bytes());
            progress.records += 1;
            progress.bytes += one.1;
        }
        progress.checksum = checksum.clone().finalize();
        tell(progress);
    }
    Ok(progress)
}

/// How many records an engine has; the mark is one.
async fn total(engine: &dyn Engine) -> Result<u64> {
    let mut total = 0;
    for first in 0..LAST[0] {
        total += engine.count(first).await?;
    }
    Ok(total)
}

/// The checksum and the size of a record: its key, due, head and body.
async fn digest((key, record): &(Bytes, Record)) -> Result<(u32, u64)> {
    let mut checksum = crc32fast::Hasher::new();
    let lens = [key.len() as u64, record.expires_at, record.meta.len() as u64, record.body.len()];
    for number in lens {
        checksum.update(&number.to_le_bytes());
    }
    checksum.update(key);
    checksum.update(&record.meta);
    let mut at = 0;
    while at < record.body.len() {
        let piece = piece(&record.body, at).await?;
        checksum.update(&piece);
        at += piece.len() as u64;
    }
    let bytes = (key.len() + record.meta.len()) as u64 + record.body.len();
    Ok((checksum.finalize(), bytes))
}

async fn piece(body: &Body, at: u64) -> Result<Bytes> {
    let left = usize::try_from(body.len() - at).unwrap_or(usize::MAX);
    body.read(at, left.min(PIECE_BYTES)).await
}

/// The first key at which two pages differ in key, due or head.
fn first_difference(one: &ScanPage, other: &ScanPage) -> Option<String> {
    let mut others = other.iter();
    for found in one.iter() {
        let same = |with: &ScannedRecord<'_>| {
            found.key == with.key && found.expires_at == with.expires_at && found.meta == with.meta
        };
        match others.next() {
            Some(with) if same(&with) => {}
            Some(with) => return Some(shown(found.key.min(with.key))),
            None => return Some(shown(found.key)),
        }
    }
    others.next().map(|with| shown(with.key))
}

async fn page_from(engine: &dyn Engine, start: Bytes) -> Result<ScanPage> {
    let end = Bytes::from_static(&LAST);
    engine.scan(Scan { start, end, limit: PAGE_RECORDS, skip_expired_at: 0, eventual: false }).await
}

/// Where the page after this one starts; `None` when this was the last.
fn following(page: &ScanPage) -> Option<Bytes> {
    if page.len() < PAGE_RECORDS {
        return None;
    }
    page.iter().last().map(|found| after(found.key))
}

/// The first key after `key`.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
