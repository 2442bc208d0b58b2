//! Snapshots: a copy of the memtable together with a read transaction of the database on a
//! dedicated connection.
//!
//! While a snapshot exists, no blob file is deleted, no WAL segment that was live or sealed when
//! the snapshot was taken is recycled, and SQLite's WAL cannot restart.

use super::super::{
    Body, BoxFuture, EngineError, KeyedRecord, Projection, Record, Result, Snapshot,
};
use super::blob_files::{SnapshotPin, blocking};
use super::connection_pool::PooledConnection;
use super::database::BodyRef;
use super::memtable::MemtableEntry;
use super::read_path::{ReadPath, missing_body, resolve};
use super::segment_body::open_body;
use super::wal::segment::Segment;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Number of bytes that a scan counts towards its limit for each body that is not yet in memory.
const BLOB_MEMORY_BYTES: u64 = 256 << 10;

pub(super) struct SnapshotReader(Arc<SnapshotState>);

struct SnapshotState {
    read_path: Arc<ReadPath>,
    /// The connection. Its lock serializes reads.
    conn: Mutex<PooledConnection>,
    memtable: BTreeMap<Bytes, MemtableEntry>,
    /// The segments that were live or sealed when the snapshot was taken, by sequence number. These
    /// references prevent the segments from being recycled.
    segments: BTreeMap<u64, Arc<Segment>>,
    _pin: SnapshotPin,
}

/// A record of a page, before its body is loaded.
enum SnapshotEntry {
    InMemtable(MemtableEntry),
    /// A record of the database and the reference to its body.
    InDb(Record, BodyRef),
}

impl SnapshotReader {
    pub(super) fn new(read_path: Arc<ReadPath>) -> Result<SnapshotReader> {
        // Pins the blob files first, so that none is deleted before the snapshot is complete.
        let pin = read_path.blobs.pin();
        let mut conn = read_path.pool.dedicated()?;
        let (memtable, segments) = {
            // No checkpoint step commits while the lock is held, so no record moves from the
            // memtable to the database. Every segment that records in the database refer to is
            // still in the pool, because only segments without such records are retired.
            let _guard = read_path.shared.checkpoint_lock();
            conn.begin_snapshot(0)?;
            let segments = read_path.shared.segments.all();
            (read_path.shared.memtable().clone_entries(), segments)
        };
        let conn = Mutex::new(conn);
        let state = SnapshotState { read_path, conn, memtable, segments, _pin: pin };
        Ok(SnapshotReader(Arc::new(state)))
    }
}

impl SnapshotState {
    fn scan(&self, range: &Range<Bytes>, limit: usize, bytes: u64) -> Result<Vec<KeyedRecord>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let Range { start, end } = range;
        let conn = self.conn.lock().unwrap_or_else(PoisonError::into_inner);
        let in_db = conn.records(start, end, limit, |key| !self.memtable.contains_key(key))?;
        let mut entries: Vec<(Bytes, SnapshotEntry)> = Vec::with_capacity(in_db.len());
        let live = self.memtable.range::<Bytes, _>(start..end).filter(|(_, entry)| entry.is_live());
        let in_memtable = |(key, entry): (&Bytes, &MemtableEntry)| {
            (key.clone(), SnapshotEntry::InMemtable(entry.clone()))
        };
        let mut memtable = live.map(in_memtable).peekable();
        for (key, record, body) in in_db {
            while let Some(entry) = memtable.next_if(|(other, _)| *other < key) {
                entries.push(entry);
            }
            if entries.len() >= limit {
                break;
            }
            entries.push((key, SnapshotEntry::InDb(record, body)));
        }
        entries.extend(memtable.take(limit.saturating_sub(entries.len())));
        entries.truncate(limit);
        let (mut records, mut bytes_in_memory) = (Vec::with_capacity(entries.len()), 0);
        for (key, entry) in entries {
            let record = self.load(&conn, entry)?;
            bytes_in_memory += match &record.body {
                Body::Bytes(bytes) => bytes.len() as u64,
                Body::Stored(_) => BLOB_MEMORY_BYTES,
            };
            records.push((key, record));
            if bytes_in_memory >= bytes {
                break;
            }
        }
        Ok(records)
    }

    fn load(&self, conn: &PooledConnection, entry: SnapshotEntry) -> Result<Record> {
        let (mut record, body) = match entry {
            SnapshotEntry::InMemtable(entry) => resolve(entry, Projection::Full)?
                .ok_or_else(|| EngineError::Corrupt("a deletion among live records".into()))?,
            SnapshotEntry::InDb(record, body) => (record, body),
        };
        match body {
            BodyRef::Empty => {}
            BodyRef::Row(id) => record.body = Body::Bytes(conn.body(record.version, id)?),
            BodyRef::Blob(id) => {
                let blob = self.read_path.blobs.open_file(id)?;
                record.body = Body::Stored(Arc::new(blob.ok_or_else(|| missing_body(body))?));
            }
            BodyRef::Segment(location) => {
                let segment = self.segments.get(&location.seq);
                let segment = segment.ok_or_else(|| missing_body(body))?;
                let (blobs, segment) = (&self.read_path.blobs, segment.clone());
                record.body = open_body(blobs, segment, location, record.version)?;
            }
        }
        Ok(record)
    }
}

impl Snapshot for SnapshotReader {
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        bytes: u64,
    ) -> BoxFuture<'_, Result<Vec<KeyedRecord>>> {
        let state = self.0.clone();
        Box::pin(async move { blocking(move || state.scan(&(start..end), limit, bytes)).await })
    }
}
