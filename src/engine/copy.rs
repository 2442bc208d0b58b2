//! Copies all records from one engine to another, then compares the two. An interrupted copy can be
//! resumed.
//!
//! Records are copied in key order. Until the copy completes, the destination has a marker record
//! under [`MARKER_KEY`] with the last key copied. Every commit of the copy requires the marker's
//! version and updates the marker. An interrupted copy therefore resumes after its last commit, and
//! two concurrent copies to the same destination conflict. The destination assigns its own
//! versions, which are not lower than the versions in the source.

use super::{
    Body, Commit, Engine, EngineError, INLINE_BYTES_MAX, KeyedRecord, Mutation, NewRecord, Outcome,
    Precondition, Projection, Record, Result, Scan, ScanPage, ScannedRecord, successor,
};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The key of the marker record of an incomplete copy; its meta is the last key copied. No other
/// key may begin with this byte, so the marker sorts before all other records.
pub const MARKER_KEY: &[u8] = &[0];

/// Start and end of the key range of all records except the marker.
const RANGE_START: &[u8] = &[1];
const RANGE_END: [u8; 1] = [0xff];
/// Maximum number of records per scan.
const PAGE_RECORDS: usize = 1000;
/// Number of concurrent reads per engine. Concurrent reads increase the throughput of a remote
/// engine.
const READ_CONCURRENCY: usize = 8;
/// Maximum number of records, and of body bytes, per commit.
const COMMIT_RECORDS: usize = 500;
const COMMIT_BYTES: u64 = 4 << 20;
/// Size in bytes of the chunks in which a large body is copied.
const CHUNK_BYTES: usize = 256 << 10;

/// The progress of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether all records are copied and the comparison is running.
    pub comparing: bool,
    /// Number of records copied, or compared if `comparing` is set.
    pub records: u64,
    /// Number of records in the source at the start.
    pub total: u64,
    /// Total size of the keys, metas and bodies copied or compared by the current call of [`copy`],
    /// in bytes.
    pub bytes: u64,
    /// CRC-32 of the records compared so far.
    pub checksum: u32,
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The destination contains records, but no interrupted copy that can be resumed.
    #[error("the destination is not empty, or has an incomplete copy or restore")]
    NotEmpty,
    /// The source is itself an incomplete copy.
    #[error("the source is itself an incomplete copy")]
    SourceIncomplete,
    /// Another copy is writing to the destination.
    #[error("another copy is writing to the same destination")]
    Conflict,
    /// The two engines differ after the copy.
    #[error(
        "source and destination differ at record {0:?}: the source was modified during the copy, \
         or one of them is damaged; stop all servers that use the source, empty the destination, \
         and copy again"
    )]
    Mismatch(String),
    /// An engine failed; records already copied remain, and the copy can be resumed.
    #[error("the {0}: {1}")]
    Engine(Side, EngineError),
}

/// One side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The engine that is read.
    Source,
    /// The engine that is written.
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

fn source(e: EngineError) -> CopyError {
    CopyError::Engine(Side::Source, e)
}

fn destination(e: EngineError) -> CopyError {
    CopyError::Engine(Side::Destination, e)
}

/// Checks that an engine does not contain an incomplete copy or restore.
///
/// # Errors
/// Returns [`EngineError::Failed`] if the engine contains an incomplete copy or restore, or the
/// error that occurred while reading the marker.
pub async fn check_complete(engine: &dyn Engine) -> Result<()> {
    match engine.read(MARKER_KEY, Projection::Meta).await? {
        None => Ok(()),
        Some(_) => Err(EngineError::Failed(
            "it contains an incomplete copy or restore: repeat the copy to complete it, or empty \
             it and repeat the restore"
                .into(),
        )),
    }
}

/// Copies all records, then compares both engines. Calls `report` with the progress.
///
/// # Errors
/// See [`CopyError`]. Repeat the call to resume a copy that failed with an engine error.
pub async fn copy(
    from: &Arc<dyn Engine>,
    to: &Arc<dyn Engine>,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<Progress, CopyError> {
    if from.read(MARKER_KEY, Projection::Meta).await.map_err(source)?.is_some() {
        return Err(CopyError::SourceIncomplete);
    }
    let mut writer = MarkedWriter::begin(to.clone()).await?;
    writer.progress.total = total(&**from).await.map_err(source)?;
    report(writer.progress);
    let mut next = Some(writer.start.clone());
    while let Some(start) = next {
        let page = scan_from(&**from, start).await.map_err(source)?;
        next = next_page_start(&page);
        let mut records = PrefetchedRecords::new(from, &page);
        // Records that were removed after the scan are skipped.
        while let Some((key, record)) = records.next().await.map_err(source)? {
            writer.copy_record(key, record).await?;
        }
        writer.flush().await?;
        report(writer.progress);
    }
    let compared = compare(from, to, writer.progress.total, report).await?;
    writer.finish().await?;
    Ok(compared)
}

/// Loads records into an empty engine, which is marked as incomplete until [`BulkLoader::finish`].
pub struct BulkLoader(MarkedWriter);

impl BulkLoader {
    /// Marks an empty destination as incomplete.
    ///
    /// # Errors
    /// Returns [`CopyError::NotEmpty`] if the destination has records or an incomplete copy, and
    /// [`CopyError::Engine`] if the engine fails.
    pub async fn begin(to: Arc<dyn Engine>) -> Result<BulkLoader, CopyError> {
        match to.read(MARKER_KEY, Projection::Meta).await.map_err(destination)? {
            Some(_) => Err(CopyError::NotEmpty),
            None => Ok(BulkLoader(MarkedWriter::begin(to).await?)),
        }
    }

    /// Adds the next record in key order; a stored body must be a blob in the destination.
    pub async fn add(&mut self, key: Bytes, record: Record) -> Result<(), CopyError> {
        self.0.add(key, record).await
    }

    /// Writes the remaining records and removes the marker.
    pub async fn finish(mut self) -> Result<(), CopyError> {
        self.0.flush().await?;
        self.0.finish().await
    }
}

/// Writes records in commits that also advance the marker.
struct MarkedWriter {
    to: Arc<dyn Engine>,
    /// The first key to copy.
    start: Bytes,
    /// The marker's version; 0 before the marker exists.
    marker_version: u64,
    pending: Vec<Mutation>,
    pending_bytes: u64,
    version_min: u64,
    progress: Progress,
}

impl MarkedWriter {
    /// Marks an empty destination as incomplete, or resumes an interrupted copy.
    async fn begin(to: Arc<dyn Engine>) -> Result<MarkedWriter, CopyError> {
        let marker = to.read(MARKER_KEY, Projection::Meta).await.map_err(destination)?;
        let first = Bytes::from_static(RANGE_START);
        let (start, marker_version) = match marker {
            Some(record) if record.meta.is_empty() => (first, record.version),
            Some(record) => (successor(&record.meta), record.version),
            None => {
                let page = scan_from(&*to, first.clone()).await;
                if !page.map_err(destination)?.is_empty() {
                    return Err(CopyError::NotEmpty);
                }
                (first, 0)
            }
        };
        let (pending, pending_bytes, version_min) = (Vec::new(), 0, 0);
        // `total` includes the marker, which is not a record of the source.
        let present = total(&*to).await.map_err(destination)?;
        let records = present.saturating_sub(marker_version.min(1));
        let progress = Progress { records, ..Progress::default() };
        let mut writer = MarkedWriter {
            to,
            start,
            marker_version,
            pending,
            pending_bytes,
            version_min,
            progress,
        };
        if writer.marker_version == 0 {
            writer.commit(Some(Bytes::new())).await?;
        }
        Ok(writer)
    }

    /// Adds a record from another engine. Copies a large body to a blob in the destination.
    async fn copy_record(&mut self, key: Bytes, record: Record) -> Result<(), CopyError> {
        let large = record.body.len() > INLINE_BYTES_MAX as u64;
        let body = if large { self.copy_body(record.body).await? } else { record.body };
        self.add(key, Record { body, ..record }).await
    }

    async fn add(&mut self, key: Bytes, record: Record) -> Result<(), CopyError> {
        let Record { version, expires_at, meta, body } = record;
        let len = body.len();
        let full = self.pending.len() >= COMMIT_RECORDS || self.pending_bytes + len > COMMIT_BYTES;
        if full && !self.pending.is_empty() {
            self.flush().await?;
        }
        self.progress.records += 1;
        self.progress.bytes += (key.len() + meta.len()) as u64 + len;
        self.pending_bytes += len;
        self.version_min = self.version_min.max(version);
        self.pending.push(Mutation { key, record: Some(NewRecord { expires_at, meta, body }) });
        Ok(())
    }

    async fn copy_body(&self, body: Body) -> Result<Body, CopyError> {
        let mut blob = self.to.create_blob().await.map_err(destination)?;
        let mut offset = 0;
        while offset < body.len() {
            let chunk = read_chunk(&body, offset).await.map_err(source)?;
            offset += chunk.len() as u64;
            blob.write(chunk).await.map_err(destination)?;
        }
        blob.finish().await.map_err(destination)
    }

    /// Commits the pending records, and stores the last key in the marker.
    async fn flush(&mut self) -> Result<(), CopyError> {
        match self.pending.last().map(|mutation| mutation.key.clone()) {
            Some(last) => self.commit(Some(last)).await,
            None => Ok(()),
        }
    }

    /// Removes the marker.
    async fn finish(mut self) -> Result<(), CopyError> {
        match self.commit(None).await {
            // The commit may have been applied despite the error.
            Err(CopyError::Engine(..)) if check_complete(&*self.to).await.is_ok() => Ok(()),
            result => result,
        }
    }

    async fn commit(&mut self, last_key: Option<Bytes>) -> Result<(), CopyError> {
        let key = Bytes::from_static(MARKER_KEY);
        let marker = |meta| NewRecord { expires_at: 0, meta, body: Body::EMPTY };
        let mut mutations = std::mem::take(&mut self.pending);
        mutations.push(Mutation { key: key.clone(), record: last_key.map(marker) });
        let preconditions = vec![Precondition { key, version: self.marker_version }];
        let commit = Commit { version_min: self.version_min, preconditions, mutations };
        self.pending_bytes = 0;
        match self.to.commit(commit).await.map_err(destination)? {
            Outcome::Committed(version) => {
                self.marker_version = version;
                Ok(())
            }
            Outcome::Conflict => Err(CopyError::Conflict),
        }
    }
}

/// Reads the full records of a page concurrently and returns them in key order.
struct PrefetchedRecords<'c> {
    from: &'c Arc<dyn Engine>,
    keys: std::vec::IntoIter<Bytes>,
    reads: JoinSet<(usize, Bytes, Result<Option<Record>>)>,
    /// Records that have been read, in reverse key order.
    ready: Vec<Option<KeyedRecord>>,
}

impl<'c> PrefetchedRecords<'c> {
    fn new(from: &'c Arc<dyn Engine>, page: &ScanPage) -> PrefetchedRecords<'c> {
        let keys: Vec<Bytes> = page.iter().map(|found| Bytes::copy_from_slice(found.key)).collect();
        let (keys, ready) = (keys.into_iter(), Vec::new());
        PrefetchedRecords { from, keys, reads: JoinSet::new(), ready }
    }

    async fn next(&mut self) -> Result<Option<KeyedRecord>> {
        loop {
            match self.ready.pop() {
                Some(Some(record)) => return Ok(Some(record)),
                Some(None) => continue,
                None => {}
            }
            let keys: Vec<Bytes> = self.keys.by_ref().take(READ_CONCURRENCY).collect();
            if keys.is_empty() {
                return Ok(None);
            }
            self.ready.resize_with(keys.len(), || None);
            for (index, key) in keys.into_iter().rev().enumerate() {
                let from = self.from.clone();
                self.reads.spawn(async move {
                    let record = from.read(&key, Projection::Full).await;
                    (index, key, record)
                });
            }
            while let Some(read) = self.reads.join_next().await {
                let (index, key, record) = read.map_err(|e| EngineError::Failed(e.to_string()))?;
                if let (Some(record), Some(slot)) = (record?, self.ready.get_mut(index)) {
                    *slot = Some((key, record));
                }
            }
        }
    }
}

/// Compares all records of both engines in key order.
async fn compare(
    from: &Arc<dyn Engine>,
    to: &Arc<dyn Engine>,
    total: u64,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<Progress, CopyError> {
    let mut progress = Progress { comparing: true, total, ..Progress::default() };
    let mut checksum = crc32fast::Hasher::new();
    let mut next = Some(Bytes::from_static(RANGE_START));
    while let Some(start) = next {
        let pages = tokio::join!(scan_from(&**from, start.clone()), scan_from(&**to, start));
        let (ours, theirs) = (pages.0.map_err(source)?, pages.1.map_err(destination)?);
        if let Some(key) = first_difference(&ours, &theirs) {
            return Err(CopyError::Mismatch(key));
        }
        next = next_page_start(&ours);
        let mut ours = PrefetchedRecords::new(from, &ours);
        let mut theirs = PrefetchedRecords::new(to, &theirs);
        loop {
            let records = tokio::join!(ours.next(), theirs.next());
            let (one, other) = match (records.0.map_err(source)?, records.1.map_err(destination)?) {
                (None, None) => break,
                (Some(one), Some(other)) => (one, other),
                (Some((key, _)), None) | (None, Some((key, _))) => {
                    return Err(CopyError::Mismatch(printable(&key)));
                }
            };
            let digests = tokio::join!(digest(&one), digest(&other));
            let (expected, found) = (digests.0.map_err(source)?, digests.1.map_err(destination)?);
            if expected != found {
                return Err(CopyError::Mismatch(printable(&one.0)));
            }
            checksum.update(&expected.0.to_le_bytes());
            progress.records += 1;
            progress.bytes += expected.1;
        }
        progress.checksum = checksum.clone().finalize();
        report(progress);
    }
    Ok(progress)
}

/// Returns the number of records in an engine, including the marker.
async fn total(engine: &dyn Engine) -> Result<u64> {
    let mut total = 0;
    for first in 0..RANGE_END[0] {
        total += engine.count(first).await?;
    }
    Ok(total)
}

/// Returns the CRC-32 of a record's key, expiry time, meta and body, and the total size of key,
/// meta and body in bytes.
async fn digest((key, record): &KeyedRecord) -> Result<(u32, u64)> {
    let mut checksum = crc32fast::Hasher::new();
    let lens = [key.len() as u64, record.expires_at, record.meta.len() as u64, record.body.len()];
    for number in lens {
        checksum.update(&number.to_le_bytes());
    }
    checksum.update(key);
    checksum.update(&record.meta);
    let mut offset = 0;
    while offset < record.body.len() {
        let chunk = read_chunk(&record.body, offset).await?;
        checksum.update(&chunk);
        offset += chunk.len() as u64;
    }
    let bytes = (key.len() + record.meta.len()) as u64 + record.body.len();
    Ok((checksum.finalize(), bytes))
}

async fn read_chunk(body: &Body, offset: u64) -> Result<Bytes> {
    let remaining = usize::try_from(body.len() - offset).unwrap_or(usize::MAX);
    body.read(offset, remaining.min(CHUNK_BYTES)).await
}

/// Returns the first key at which two pages differ in key, expiry time or meta.
fn first_difference(one: &ScanPage, other: &ScanPage) -> Option<String> {
    let same = |a: &ScannedRecord<'_>, b: &ScannedRecord<'_>| {
        a.key == b.key && a.expires_at == b.expires_at && a.meta == b.meta
    };
    let mut others = other.iter();
    for record in one.iter() {
        match others.next() {
            Some(other) if same(&record, &other) => {}
            Some(other) => return Some(printable(record.key.min(other.key))),
            None => return Some(printable(record.key)),
        }
    }
    others.next().map(|other| printable(other.key))
}

async fn scan_from(engine: &dyn Engine, start: Bytes) -> Result<ScanPage> {
    let end = Bytes::from_static(&RANGE_END);
    engine.scan(Scan { start, end, limit: PAGE_RECORDS, skip_expired_at: 0, eventual: false }).await
}

/// Returns the start of the next page; `None` if this page is the last one.
fn next_page_start(page: &ScanPage) -> Option<Bytes> {
    if page.len() < PAGE_RECORDS {
        return None;
    }
    page.iter().last().map(|record| successor(record.key))
}

fn printable(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
