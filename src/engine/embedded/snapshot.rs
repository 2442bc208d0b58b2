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
use super::memtable::{MemtableEntry, MemtableKey};
use super::memtable_copy::MemtableCopy;
use super::read_path::{ReadPath, missing_body, resolve};
use super::segment_body::open_body;
use super::wal::segment::Segment;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, PoisonError};

/// Number of bytes that a scan counts towards its limit for each body that is not yet in memory.
const BLOB_MEMORY_BYTES: u64 = 256 << 10;

pub(super) struct SnapshotReader(Arc<SnapshotState>);

struct SnapshotState {
    read_path: Arc<ReadPath>,
    /// The connection. Its lock serializes reads.
    conn: Mutex<PooledConnection>,
    memtable: BTreeMap<MemtableKey, MemtableEntry>,
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
        let shared = &read_path.shared;
        let (memtable, segments) = {
            let _copying = shared.copy_lock();
            let (copy, segments) = {
                // No checkpoint step commits while the lock is held, so no record moves from the
                // memtable to the database. Every segment that records in the database refer to is
                // still in the pool, because only segments without such records are retired.
                let _guard = shared.checkpoint_lock();
                conn.begin_snapshot(0)?;
                // Order matters: commits continue, and may start a new segment. A segment is added
                // to the pool before its entries are added to the memtable.
                let copy = MemtableCopy::begin(&mut shared.memtable_mut());
                (copy, shared.segments.all())
            };
            (copy.finish(shared), segments)
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
        let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        let live = self.memtable.range::<[u8], _>(bounds).filter(|(_, entry)| entry.is_live());
        let in_memtable = |(key, entry): (&MemtableKey, &MemtableEntry)| {
            (Bytes::copy_from_slice(key), SnapshotEntry::InMemtable(entry.clone()))
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

#[cfg(test)]
mod tests {
    use super::super::database::body_checksum;
    use super::super::wal::record::BodyLocation;
    use super::super::*;
    use super::*;
    use crate::engine::INLINE_BYTES_MAX;
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_to_a_new_segment_while_a_snapshot_is_taken_does_not_break_the_snapshot() {
        const SEQ: u64 = 1000;
        let dir = tempfile::tempdir().unwrap();
        let fatal = FatalErrorHandler::new(|reason| panic!("{reason}"));
        let options = Options { dir: dir.path().into(), cache_bytes: 0, wal_bytes: 1 << 30, fatal };
        let engine = Embedded::open(options).unwrap();
        let shared = engine.shared.clone();
        let older = shared.segments.allocate(SEQ).unwrap();
        // The body is too large to be read with its record.
        let body = Bytes::from(vec![b'v'; 2 * INLINE_BYTES_MAX]);
        let taken = {
            let mut memtable = shared.memtable_mut();
            let read_path = engine.read_path.clone();
            let taken = tokio::task::spawn_blocking(move || SnapshotReader::new(read_path));
            // The snapshot waits for the memtable. If it copied the pool first, it has done so once
            // it refers to the older segment.
            let end = Instant::now() + Duration::from_millis(500);
            while Arc::strong_count(&older) == 2 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            let segment = shared.segments.allocate(SEQ + 1).unwrap();
            segment.file().write_all_at(&body, 0).unwrap();
            let (len, checksum) = (body.len().try_into().unwrap(), body_checksum(1, &body));
            let location = BodyLocation::Inline { at: 0, len, checksum };
            let (expires_at, meta, body_at) = (0, Bytes::new(), Some((segment, 0)));
            let in_db = Some(false);
            let entry = MemtableEntry { version: 1, expires_at, meta, location, body_at, in_db };
            memtable.put(Bytes::from_static(b"k"), entry);
            taken
        };
        let mut snapshot = taken.await.unwrap().unwrap();
        let (start, end) = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));
        let page = snapshot.scan(start, end, 10, u64::MAX).await.unwrap();
        let [(_, record)] = &page[..] else { panic!("{} records", page.len()) };
        assert!(record.body.read(0, body.len()).await.unwrap() == body);
    }
}
