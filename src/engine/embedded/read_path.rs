//! The read path: merges the memtable and the database, and opens blob files.

use super::super::{Body, EngineError, Projection, Record, Result, Scan, ScanPage, ScannedRecord};
use super::Shared;
use super::blob_files::BlobFiles;
use super::connection_pool::ConnectionPool;
use super::memtable::{Memtable, MemtableEntry};
use super::wal::record::BodyLocation;
use super::wal::recovery;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard};

/// Maximum number of memtable entries per first key byte for which counts are exact.
const EXACT_COUNT_ENTRIES_MAX: usize = 4096;

/// The components of reads that miss the read cache.
pub(super) struct ReadPath {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) blobs: Arc<BlobFiles>,
}

impl ReadPath {
    /// Returns the newest record of a key.
    pub(super) fn find(&self, key: &[u8], projection: Projection) -> Result<Option<Record>> {
        // A blob file is deleted when its record is replaced. If that happens after the record was
        // read, the record is read again; a file missing for an unchanged record is damage.
        let mut missing = None;
        loop {
            let in_memtable = self.shared.memtable().get(key).cloned();
            let (mut record, blob) = match in_memtable {
                Some(entry) => match resolve(entry, projection)? {
                    Some(resolved) => resolved,
                    None => return Ok(None),
                },
                None => match self.pool.read(key, projection)? {
                    Some((record, body_ref)) => (record, (body_ref < 0).then_some(-body_ref)),
                    None => return Ok(None),
                },
            };
            let blob = blob.filter(|_| projection == Projection::Full);
            let Some(id) = blob else { return Ok(Some(record)) };
            if let Some(blob) = self.blobs.find(id)? {
                record.body = Body::Stored(Arc::new(blob));
                return Ok(Some(record));
            }
            if missing == Some(id) {
                return Err(EngineError::Corrupt(format!("blob file {id:016x} is missing")));
            }
            missing = Some(id);
        }
    }

    /// Returns a page merged from the memtable and the database. Releases `guard` once both are
    /// pinned.
    pub(super) fn scan(&self, scan: &Scan, guard: RwLockReadGuard<'_, ()>) -> Result<ScanPage> {
        let conn = self.pool.acquire()?;
        let in_memtable = scan_memtable(&self.shared.memtable(), scan);
        drop(guard);
        let mut page = ScanPage::with_capacity(scan.limit);
        let mut in_memtable = in_memtable.into_iter().peekable();
        self.pool.scan(conn, scan, |record| {
            while let Some((key, entry)) = in_memtable.next_if(|(key, _)| key[..] < *record.key) {
                entry.into_iter().for_each(|entry| push(&mut page, &key, &entry));
            }
            if page.len() >= scan.limit {
                return false;
            }
            match in_memtable.next_if(|(key, _)| key[..] == *record.key) {
                Some((key, Some(entry))) => push(&mut page, &key, &entry),
                Some((_, None)) => {}
                None if record.expires_at > 0 && record.expires_at <= scan.skip_expired_at => {}
                None => page.push(record),
            }
            page.len() < scan.limit
        })?;
        for (key, entry) in in_memtable {
            entry.into_iter().for_each(|entry| push(&mut page, &key, &entry));
        }
        page.truncate(scan.limit);
        Ok(page)
    }

    pub(super) fn expired(&self, until: u64, limit: usize) -> Result<Vec<(Bytes, u64)>> {
        let _guard = self.shared.checkpoint_lock();
        let not_in_memtable = |key: &[u8]| self.shared.memtable().get(key).is_none();
        let mut expired = self.pool.expired(until, limit, not_in_memtable)?;
        {
            let memtable = self.shared.memtable();
            let in_memtable = memtable.expired(until).take(limit);
            expired.extend(in_memtable.map(|(at, key, version)| (at, key.clone(), version)));
        }
        expired.sort_by_key(|(expires_at, _, _)| *expires_at);
        expired.truncate(limit);
        Ok(expired.into_iter().map(|(_, key, version)| (key, version)).collect())
    }

    pub(super) fn count(&self, first: u8) -> Result<u64> {
        let _guard = self.shared.checkpoint_lock();
        let unknown: Vec<Bytes> = {
            let memtable = self.shared.memtable();
            let mut entries: Vec<_> =
                memtable.with_first_byte(first).take(EXACT_COUNT_ENTRIES_MAX + 1).collect();
            if entries.len() > EXACT_COUNT_ENTRIES_MAX {
                entries.clear();
            }
            entries.retain(|(_, entry)| entry.in_db.is_none());
            entries.into_iter().map(|(key, _)| key.clone()).collect()
        };
        for key in unknown {
            let in_db = self.pool.version(&key)? != 0;
            self.shared.memtable_mut().set_in_db(&key, in_db);
        }
        let in_db = self.shared.record_counts.get(usize::from(first));
        let in_db = in_db.map_or(0, |count| count.load(Ordering::Relaxed));
        let count = in_db.saturating_add(self.shared.memtable().count_delta(first));
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// A record, and its blob if the body is in one.
type RecordAndBlob = (Record, Option<i64>);

/// Returns the record of an entry; `None` for a deletion.
pub(super) fn resolve(entry: MemtableEntry, part: Projection) -> Result<Option<RecordAndBlob>> {
    let MemtableEntry { version, expires_at, meta, location, body_at, .. } = entry;
    let (body, blob) = match (location, body_at) {
        (BodyLocation::Removed, _) => return Ok(None),
        (BodyLocation::Blob { id, .. }, _) => (Body::EMPTY, Some(id)),
        (BodyLocation::Inline { len, checksum, .. }, Some((segment, at)))
            if part == Projection::Full =>
        {
            (Body::Bytes(recovery::read_body(&segment, at, len, version, checksum)?), None)
        }
        (BodyLocation::Empty | BodyLocation::Inline { .. }, _) => (Body::EMPTY, None),
    };
    Ok(Some((Record { version, expires_at, meta, body }, blob)))
}

/// Collects the memtable entries of a scan, up to `limit` visible records. `None` stands for an
/// entry that only hides a record of the database.
fn scan_memtable(memtable: &Memtable, scan: &Scan) -> Vec<(Bytes, Option<MemtableEntry>)> {
    let (mut entries, mut visible) = (Vec::new(), 0);
    for (key, entry) in memtable.range(&scan.start, &scan.end) {
        if visible == scan.limit {
            break;
        }
        let expires_at = entry.expires_at;
        let is_visible = entry.is_live() && (expires_at == 0 || expires_at > scan.skip_expired_at);
        visible += usize::from(is_visible);
        entries.push((key.clone(), is_visible.then(|| entry.clone())));
    }
    entries
}

fn push(page: &mut ScanPage, key: &[u8], entry: &MemtableEntry) {
    let (version, expires_at, meta) = (entry.version, entry.expires_at, &entry.meta[..]);
    page.push(ScannedRecord { key, version, expires_at, meta });
}
