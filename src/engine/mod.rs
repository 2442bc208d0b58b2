//! Ordered bytes with atomic, durable commits: the seam between the meaning of a KV store and
//! the place where its bytes live.
//!
//! An engine knows records, each under a key of bytes, and nothing of stores, items, HTTP or the
//! time of day. What it promises is the same for every engine and is held by
//! `tests/engine_contract.rs`:
//!
//! - [`Engine::commit`] is atomic: all of its writes happen, or none. It answers
//!   [`Outcome::Committed`] only when the writes are durable.
//! - Every commit gets a *version*, greater than that of any commit before it, over restarts too;
//!   where several processes share an engine, than any of this process and any that wrote one of
//!   its keys. The records it writes carry it. Under a key a version never comes twice, so "the
//!   record still has version 17" says "nobody touched it since".
//! - Reads and scans answer from one snapshot that holds every commit already answered as written,
//!   and never one that is not durable yet. A [`Snapshot`] stays as it is.
//! - What is read is what was written: damage is [`EngineError::Corrupt`], never other bytes.
//! - `Err` after a commit means *unknown*, unless it is [`EngineError::Full`]: the caller must read
//!   before it tries again.

pub mod copy;
pub mod embedded;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;

use bytes::Bytes;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A boxed future, so that engines can be chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What engine calls answer.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Bodies of up to this many bytes travel in memory; larger ones are staged. 256 KiB.
pub const INLINE_BYTES_MAX: usize = 256 * 1024;

/// Stored bodies up to this size, in bytes, are best read at once when all of them are wanted: an
/// engine may keep them in memory whole.
pub const SINGLE_READ_BYTES_MAX: u64 = 4 * INLINE_BYTES_MAX as u64;

/// A record as stored.
#[derive(Clone, Debug)]
pub struct Record {
    /// The version of the commit that wrote it; never 0.
    pub version: u64,
    /// The number [`Engine::expires_at`] finds it by; 0 is never due.
    pub expires_at: u64,
    /// The small part: read by scans and by [`Projection::Meta`].
    pub meta: Bytes,
    /// The large part; empty when only the head was asked for.
    pub body: Body,
}

/// The large part of a record.
#[derive(Clone)]
pub enum Body {
    /// In memory, up to [`INLINE_BYTES_MAX`] bytes (engines accept more, but hold it all).
    Bytes(Bytes),
    /// Kept by the engine and read piece by piece.
    Stored(Arc<dyn StoredBody>),
}

impl Body {
    /// A body of no bytes.
    pub const EMPTY: Body = Body::Bytes(Bytes::new());

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stored(stored) => stored.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` bytes from `offset`; the range must lie within the body.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        match self {
            Body::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(len);
                if end > bytes.len() {
                    return Err(EngineError::Corrupt("a read past the end of a body".into()));
                }
                Ok(bytes.slice(start..end))
            }
            Body::Stored(stored) => stored.read(offset, len).await,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len())
    }
}

/// A large body in the engine's keeping. Dropping the last handle of one that was staged and
/// never committed removes it.
pub trait StoredBody: Send + Sync {
    /// Its size in bytes.
    fn len(&self) -> u64;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// `len` bytes from `offset`, checked against their checksums before they are returned.
    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes>>;
    /// For the engine that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A large body on its way in. Dropped unfinished, it leaves nothing behind.
pub trait BlobWriter: Send {
    /// Appends a chunk.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>>;
    /// Makes all chunks durable and hands out the body, to be named in a commit.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body>>;
}

/// What a commit demands: the record under `key` has exactly this version.
#[derive(Clone, Debug)]
pub struct Precondition {
    /// The record's key.
    pub key: Bytes,
    /// Its version; 0 demands that there is no record.
    pub version: u64,
}

/// What a commit writes.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// The record's key.
    pub key: Bytes,
    /// The new record, or `None` to remove it.
    pub record: Option<NewRecord>,
}

/// A record to be written.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// See [`Record::expires_at`].
    pub expires_at: u64,
    /// See [`Record::meta`].
    pub meta: Bytes,
    /// See [`Record::body`]; a stored body must come from the same engine.
    pub body: Body,
}

/// All or nothing: when every expectation holds, every write is made. No key is written twice.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The version is at least this.
    pub version_min: u64,
    /// What must hold.
    pub preconditions: Vec<Precondition>,
    /// What is then written.
    pub mutations: Vec<Mutation>,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written, durable, visible; with its version.
    Committed(u64),
    /// An expectation did not hold; nothing was written.
    Conflict,
}

/// Which parts of a record are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// Version, due and head; the body comes empty.
    Meta,
    /// All of it.
    Full,
}

/// A range of keys to scan, in the order of their bytes.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The first key that belongs to it.
    pub start: Bytes,
    /// The first key that does not.
    pub end: Bytes,
    /// At most so many records.
    pub limit: usize,
    /// Records with `0 < due <= skip_due` are passed over.
    pub skip_expired_at: u64,
    /// Whether a snapshot of a little earlier will do, from a copy that follows.
    pub eventual: bool,
}

/// What a scan found, in one buffer.
#[derive(Debug, Default)]
pub struct ScanPage {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

#[derive(Debug)]
struct Span {
    key_end: usize,
    meta_end: usize,
    version: u64,
    expires_at: u64,
}

/// One record of a [`ScanPage`], without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScannedRecord<'p> {
    /// Its key.
    pub key: &'p [u8],
    /// See [`Record::version`].
    pub version: u64,
    /// See [`Record::expires_at`].
    pub expires_at: u64,
    /// See [`Record::meta`].
    pub meta: &'p [u8],
}

impl ScanPage {
    /// With room for as many records of a usual size as a page of the API holds.
    pub fn with_capacity(limit: usize) -> ScanPage {
        const RECORDS: usize = 1024;
        const RECORD_BYTES: usize = 72;
        let records = limit.min(RECORDS);
        let bytes = Vec::with_capacity(records * RECORD_BYTES);
        ScanPage { bytes, spans: Vec::with_capacity(records) }
    }

    /// Appends a record.
    pub fn push(&mut self, found: ScannedRecord<'_>) {
        self.bytes.extend_from_slice(found.key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(found.meta);
        let (version, expires_at) = (found.version, found.expires_at);
        self.spans.push(Span { key_end, meta_end: self.bytes.len(), version, expires_at });
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Drops the records after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.spans.truncate(len);
    }

    /// The records, in key order.
    pub fn iter(&self) -> impl Iterator<Item = ScannedRecord<'_>> {
        let mut start = 0;
        self.spans.iter().map(move |span| {
            let key = self.bytes.get(start..span.key_end).unwrap_or_default();
            let meta = self.bytes.get(span.key_end..span.meta_end).unwrap_or_default();
            start = span.meta_end;
            ScannedRecord { key, version: span.version, expires_at: span.expires_at, meta }
        })
    }
}

/// A whole record under its key.
pub type KeyedRecord = (Bytes, Record);

/// All records as they were at one moment, while others go on writing. It keeps what it shows from
/// being given back, so it should not live longer than needed.
pub trait Snapshot: Send {
    /// The first records of a range, whole, in the order of their keys: at least one, if there is
    /// any, and at most `limit`; fewer when their bodies pass about `bytes` bytes in memory.
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        bytes: u64,
    ) -> BoxFuture<'_, Result<Vec<KeyedRecord>>>;
}

/// Figures for an operator; all cheap to gather.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Bytes on disk, where there is one.
    pub disk_bytes: u64,
    /// Bytes of the log that is not yet folded into its home.
    pub wal_bytes: u64,
    /// Commits that were written.
    pub commits: u64,
    /// Commits that met a conflict.
    pub conflicts: u64,
    /// Groups: each is one sync for all its commits.
    pub groups: u64,
    /// Microseconds spent in making groups durable.
    pub sync_micros: u64,
    /// Reads answered from the cache.
    pub cache_hits: u64,
    /// Reads that were not.
    pub cache_misses: u64,
}

/// Why an engine could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// No space; nothing was written, and reads go on.
    #[error("storage is full: {0}")]
    Full(String),
    /// Stored bytes are damaged.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// A commit may or may not have happened; or a read failed.
    #[error("storage failed: {0}")]
    Failed(String),
    /// Nobody could be asked, for longer than it is worth waiting; nothing was written.
    #[error("storage cannot be reached: {0}")]
    Unavailable(String),
    /// The engine is shut.
    #[error("storage is closed")]
    Closed,
}

/// Ordered bytes with atomic, durable commits; the module's text is its contract.
pub trait Engine: Send + Sync + 'static {
    /// The record under `key`.
    fn read<'a>(&'a self, key: &'a [u8], part: Projection)
    -> BoxFuture<'a, Result<Option<Record>>>;
    /// The records of a range, without bodies, from one snapshot.
    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>>;
    /// All records as they are now, to be read at leisure.
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>>;
    /// Keys and versions of at most `limit` records with `0 < due <= until`, the earliest first.
    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>>;
    /// How many records have keys that begin with `first`; costs no scan.
    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>>;
    /// Checks and writes, atomically and durably.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>>;
    /// Whether a large body on its way in is held in memory whole, and so must be admitted whole.
    fn buffers_blobs(&self) -> bool {
        false
    }
    /// Begins a large body.
    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>>;
    /// Finishes what was accepted and shuts; later calls answer [`EngineError::Closed`].
    fn close(&self) -> BoxFuture<'_, Result<()>>;
    /// Figures for an operator.
    fn stats(&self) -> Stats;
}
