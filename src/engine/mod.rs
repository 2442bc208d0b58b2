//! The storage engine interface: an ordered map of byte keys to records, with atomic, durable
//! commits.
//!
//! The data model ([`crate::kv`]) depends only on this interface, and engines do not depend on
//! stores, items or HTTP. The implementations are [`embedded`], `postgres` and [`memory`]. Every
//! engine gives the following guarantees, which `tests/engine_contract.rs` checks for all engines:
//!
//! - **Atomicity and durability.** [`Engine::commit`] applies all mutations of a commit or none.
//!   It returns [`Outcome::Committed`] only after they are durable.
//! - **Versions.** A commit assigns one version to all records that it writes. The versions of a
//!   key strictly increase, even across restarts and after the record is removed, so they are never
//!   reused. A record that still has version 17 has not been overwritten since version 17 was
//!   assigned. Within a process, the version of a commit exceeds the versions of all earlier
//!   commits.
//! - **Isolation.** Each read and scan sees one consistent state, which includes every acknowledged
//!   commit and only durable commits. A scan with [`Scan::eventual`] may miss recent commits. A
//!   [`Snapshot`] never changes.
//! - **Integrity.** A read returns either the bytes that were written or [`EngineError::Corrupt`].
//! - **Errors.** If a commit fails with [`EngineError::Full`] or [`EngineError::Unavailable`],
//!   nothing was written. After any other error the outcome is unknown; read the records before
//!   retrying.

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

/// A boxed future, as the methods of trait objects must return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The result of an engine call.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// The future of [`Engine::read`].
pub type ReadFuture<'a> = BoxFuture<'a, Result<Option<Record>>>;

/// Maximum size of a body that callers pass in memory, in bytes (256 KiB). They write larger bodies
/// with a [`BlobWriter`].
pub const INLINE_BYTES_MAX: usize = 256 * 1024;

/// Maximum size of a stored body to read in one call, in bytes (1 MiB). Engines may keep bodies of
/// up to this size in memory.
pub const SINGLE_READ_BYTES_MAX: u64 = 4 * INLINE_BYTES_MAX as u64;

/// A stored record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Version of the commit that wrote the record; never 0.
    pub version: u64,
    /// Expiry time, in the caller's unit; 0 if the record never expires. Only [`Engine::expired`]
    /// and [`Scan::skip_expired_at`] depend on it.
    pub expires_at: u64,
    /// The small part of the record, which scans and reads with [`Projection::Meta`] return.
    pub meta: Bytes,
    /// The large part of the record; empty in a read with [`Projection::Meta`].
    pub body: Body,
}

/// The body of a record.
#[derive(Clone)]
pub enum Body {
    /// Bytes in memory. Callers should not commit more than [`INLINE_BYTES_MAX`] bytes.
    Bytes(Bytes),
    /// A blob of the engine, which is read in ranges.
    Stored(Arc<dyn StoredBody>),
}

impl Body {
    /// An empty body.
    pub const EMPTY: Body = Body::Bytes(Bytes::new());

    /// Returns the size of the body, in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stored(stored) => stored.len(),
        }
    }

    /// Returns whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `len` bytes at `offset`.
    ///
    /// # Errors
    /// Returns [`EngineError::Corrupt`] if the range exceeds the body, or if its bytes do not match
    /// their checksum.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        match self {
            Body::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(len);
                if end > bytes.len() {
                    return Err(EngineError::Corrupt("read past the end of a body".into()));
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

/// A handle to a blob in an engine. A blob that no commit refers to is deleted when its last handle
/// is dropped.
pub trait StoredBody: Send + Sync {
    /// Returns the size of the blob, in bytes.
    fn len(&self) -> u64;
    /// Returns whether the blob is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads `len` bytes at `offset` and verifies their checksums before returning them.
    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes>>;
    /// Returns `self`, so that the engine can downcast the handle.
    fn as_any(&self) -> &dyn Any;
}

/// Writes a blob chunk by chunk. Dropping the writer before [`BlobWriter::finish`] discards the
/// blob.
pub trait BlobWriter: Send {
    /// Appends a chunk.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>>;
    /// Returns a body that a commit can refer to. The body is durable no later than the commit that
    /// refers to it.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body>>;
}

/// A condition of a commit: the record under `key` must have exactly this version.
#[derive(Clone, Debug)]
pub struct Precondition {
    /// The record's key.
    pub key: Bytes,
    /// The required version; 0 requires that no record exists.
    pub version: u64,
}

/// A write in a commit. It puts or removes one record.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// The record's key.
    pub key: Bytes,
    /// The new record, or `None` to remove the existing one.
    pub record: Option<NewRecord>,
}

/// A record to write; the commit assigns its version.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// See [`Record::expires_at`].
    pub expires_at: u64,
    /// See [`Record::meta`].
    pub meta: Bytes,
    /// See [`Record::body`]; a [`Body::Stored`] must come from the same engine.
    pub body: Body,
}

/// Mutations that are applied atomically, provided that all preconditions hold.
///
/// A key may appear in at most one mutation.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Lower bound of the version assigned to the commit.
    pub version_min: u64,
    /// Conditions that must hold in the state to which the commit is applied.
    pub preconditions: Vec<Precondition>,
    /// Writes to apply.
    pub mutations: Vec<Mutation>,
}

/// The outcome of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The commit was applied with this version, and is durable and visible.
    Committed(u64),
    /// A precondition failed; nothing was written.
    Conflict,
}

/// The parts of a record to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// The whole record except for the body, which is returned empty.
    Meta,
    /// The whole record.
    Full,
}

/// A scan over a range of keys in byte order.
#[derive(Clone, Debug)]
pub struct Scan {
    /// First key of the range.
    pub start: Bytes,
    /// First key after the range.
    pub end: Bytes,
    /// Maximum number of records to return.
    pub limit: usize,
    /// Records with `0 < expires_at <= skip_expired_at` are skipped.
    pub skip_expired_at: u64,
    /// Allows a slightly stale result, for example from an asynchronous replica.
    pub eventual: bool,
}

/// The records that a scan returns, packed into one buffer.
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

/// A record of a [`ScanPage`], without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScannedRecord<'p> {
    /// The record's key.
    pub key: &'p [u8],
    /// See [`Record::version`].
    pub version: u64,
    /// See [`Record::expires_at`].
    pub expires_at: u64,
    /// See [`Record::meta`].
    pub meta: &'p [u8],
}

impl ScanPage {
    /// Creates an empty page with room for `limit` records of typical size, up to 1024 records.
    pub fn with_capacity(limit: usize) -> ScanPage {
        const RECORDS: usize = 1024;
        const RECORD_BYTES: usize = 72;
        let records = limit.min(RECORDS);
        let bytes = Vec::with_capacity(records * RECORD_BYTES);
        ScanPage { bytes, spans: Vec::with_capacity(records) }
    }

    /// Appends a record.
    pub fn push(&mut self, record: ScannedRecord<'_>) {
        self.bytes.extend_from_slice(record.key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(record.meta);
        let (version, expires_at) = (record.version, record.expires_at);
        self.spans.push(Span { key_end, meta_end: self.bytes.len(), version, expires_at });
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns whether the page has no records.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Drops all records after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.spans.truncate(len);
    }

    /// Iterates over the records in key order.
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

/// A record with its key.
pub type KeyedRecord = (Bytes, Record);

/// A consistent view of all records at one point in time, unaffected by later commits.
///
/// A snapshot may prevent the engine from reclaiming space, so drop it as soon as possible.
pub trait Snapshot: Send {
    /// Returns the first records of `start..end`, with bodies, in key order.
    ///
    /// Returns at most `limit` records, and fewer if their bodies exceed about `bytes` bytes.
    /// Returns at least one record unless the range is empty.
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        bytes: u64,
    ) -> BoxFuture<'_, Result<Vec<KeyedRecord>>>;
}

/// Statistics of an engine. The counters start at 0 when the engine is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Bytes used on disk; 0 if the engine does not manage files.
    pub disk_bytes: u64,
    /// Size of the WAL segments with commits that are not yet checkpointed, in bytes.
    pub wal_bytes: u64,
    /// Number of commits applied.
    pub commits: u64,
    /// Number of commits rejected because a precondition failed.
    pub conflicts: u64,
    /// Number of commit groups. One sync makes a whole group durable.
    pub groups: u64,
    /// Microseconds spent making commit groups durable.
    pub sync_micros: u64,
    /// Number of reads served from the read cache.
    pub cache_hits: u64,
    /// Number of reads not served from the read cache.
    pub cache_misses: u64,
}

/// Why an engine call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// No space is left, and nothing was written. Reads still work.
    #[error("storage is full: {0}")]
    Full(String),
    /// Stored bytes do not match their checksum or cannot be decoded.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Any other failure; a commit may or may not have been applied.
    #[error("storage failed: {0}")]
    Failed(String),
    /// The storage could not be reached within the time limit for retries; nothing was written.
    #[error("storage cannot be reached: {0}")]
    Unavailable(String),
    /// The engine has been closed.
    #[error("storage is closed")]
    Closed,
}

/// Returns the first key after `key`.
pub fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// An ordered key-value store with atomic, durable commits; see the [module](self) for the
/// guarantees.
pub trait Engine: Send + Sync + 'static {
    /// Reads the record under `key`.
    fn read<'a>(&'a self, key: &'a [u8], projection: Projection) -> ReadFuture<'a>;
    /// Returns the records of a range, without bodies, as of one point in time.
    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<ScanPage>>;
    /// Opens a snapshot of the current state.
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>>>;
    /// Returns the keys and versions of up to `limit` records with `0 < expires_at <= until`, in
    /// order of expiry time.
    fn expired(&self, until: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, u64)>>>;
    /// Returns the number of records whose keys begin with the byte `first`, without scanning them.
    fn count(&self, first: u8) -> BoxFuture<'_, Result<u64>>;
    /// Checks the preconditions and applies the mutations, atomically and durably.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Outcome>>;
    /// Returns whether whole blobs are held in memory while they are written and read. If so,
    /// callers must reserve memory for their full size. If not, the engine may still hold blobs of
    /// up to [`SINGLE_READ_BYTES_MAX`] bytes in memory.
    fn buffers_blobs(&self) -> bool;
    /// Starts writing a blob.
    fn create_blob(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>>>;
    /// Completes all accepted commits and closes the engine. Later calls fail with
    /// [`EngineError::Closed`].
    fn close(&self) -> BoxFuture<'_, Result<()>>;
    /// Returns the engine's statistics.
    fn stats(&self) -> Stats;
}
