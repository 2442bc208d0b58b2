//! Reads over all that a record can be in: the overlay, the database, and blob files.

use super::super::{Body, EngineError, Page, Projection, Record, Result, Scan, ScannedRecord};
use super::Shared;
use super::blob_files::BlobFiles;
use super::connection_pool::ConnectionPool;
use super::memtable::{Memtable, MemtableEntry};
use super::wal::record::BodyLocation;
use super::wal::recovery;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard};

/// Records of one first byte in the overlay up to which a count is exact.
const EXACT_COUNT_ENTRIES_MAX: usize = 4096;
/// What reads need.
pub(super) struct ReadPath {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) blobs: Arc<BlobFiles>,
}

impl ReadPath {
    /// The newest record of a key.
    pub(super) fn find(&self, key: &[u8], projection: Projection) -> Result<Option<Record>> {
        // A blob's file goes when its record is replaced: read the record again when that happens
        // between the two. A file that is missing for a record that stays is damage.
        let mut gone = None;
        loop {
            let in_memtable = self.shared.memtable().get(key).cloned();
            let (mut record, blob) = match in_memtable {
                Some(entry) => match resolve(entry, projection)? {
                    Some(found) => found,
                    None => return Ok(None),
                },
                None => match self.pool.read(key, projection)? {
                    Some((record, location)) => (record, (location < 0).then_some(-location)),
                    None => return Ok(None),
                },
            };
            let Some(id) = blob.filter(|_| projection == Projection::Full) else {
                return Ok(Some(record));
            };
            if let Some(blob) = self.blobs.find(id)? {
                record.body = Body::Stored(Arc::new(blob));
                return Ok(Some(record));
            }
            if gone == Some(id) {
                return Err(EngineError::Corrupt(format!("blob file {id:016x} is missing")));
            }
            gone = Some(id);
        }
    }

    /// A page from the overlay and the database together. `checkpoint_lock` is released once both are pinned.
    pub(super) fn scan(
        &self,
        scan: &Scan,
        checkpoint_lock: RwLockReadGuard<'_, ()>,
    ) -> Result<Page> {
        let conn = self.pool.acquire()?;
        let in_memtable = in_memtable(&self.shared.memtable(), scan);
        drop(checkpoint_lock);
        let mut page = Page::with_room(scan.limit);
        let mut in_memtable = in_memtable.into_iter().peekable();
        self.pool.scan(conn, scan, |found| {
            while let Some((key, entry)) = in_memtable.next_if(|(key, _)| key[..] < *found.key) {
                entry.into_iter().for_each(|entry| push(&mut page, &key, &entry));
            }
            if page.len() >= scan.limit {
                return false;
            }
            match in_memtable.next_if(|(key, _)| key[..] == *found.key) {
                Some((key, Some(entry))) => push(&mut page, &key, &entry),
                Some((_, None)) => {}
                None if found.expires_at > 0 && found.expires_at <= scan.skip_expired_at => {}
                None => page.push(found),
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
        let mut found =
            self.pool.expired(until, limit, |key| self.shared.memtable().get(key).is_none())?;
        {
            let memtable = self.shared.memtable();
            let in_memtable = memtable.expired(until).take(limit);
            found.extend(
                in_memtable.map(|(expires_at, key, version)| (expires_at, key.clone(), version)),
            );
        }
        found.sort_by_key(|(expires_at, _, _)| *expires_at);
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, key, version)| (key, version)).collect())
    }

    pub(super) fn count(&self, with_first_byte: u8) -> Result<u64> {
        let _guard = self.shared.checkpoint_lock();
        let unknown: Vec<Bytes> = {
            let memtable = self.shared.memtable();
            let mut keys: Vec<_> = memtable
                .with_first_byte(with_first_byte)
                .take(EXACT_COUNT_ENTRIES_MAX + 1)
                .collect();
            if keys.len() > EXACT_COUNT_ENTRIES_MAX {
                keys.clear();
            }
            keys.retain(|(_, entry)| entry.in_db.is_none());
            keys.into_iter().map(|(key, _)| key.clone()).collect()
        };
        for key in unknown {
            let in_db = self.pool.version(&key)? != 0;
            self.shared.memtable_mut().set_in_db(&key, in_db);
        }
        let in_db = self.shared.record_counts.get(usize::from(with_first_byte));
        let in_db = in_db.map_or(0, |count| count.load(Ordering::Relaxed));
        let count = in_db.saturating_add(self.shared.memtable().count_delta(with_first_byte));
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// The record of an entry, and its blob; `None` when it is a removal.
pub(super) fn resolve(
    entry: MemtableEntry,
    projection: Projection,
) -> Result<Option<(Record, Option<i64>)>> {
    let MemtableEntry { version, expires_at, meta, location, body_at, .. } = entry;
    let (body, blob) = match (location, body_at) {
        (BodyLocation::Removed, _) => return Ok(None),
        (BodyLocation::Blob { id, .. }, _) => (Body::EMPTY, Some(id)),
        (BodyLocation::Inline { len, checksum, .. }, Some((segment, at)))
            if projection == Projection::Full =>
        {
            (Body::Bytes(recovery::read_body(&segment, at, len, version, checksum)?), None)
        }
        (BodyLocation::Empty | BodyLocation::Inline { .. }, _) => (Body::EMPTY, None),
    };
    Ok(Some((Record { version, expires_at, meta, body }, blob)))
}

/// What of the overlay takes part in a scan, up to the records that fill its page: records, and
/// `None` for what only hides a record of the database.
fn in_memtable(memtable: &Memtable, scan: &Scan) -> Vec<(Bytes, Option<MemtableEntry>)> {
    let (mut found, mut is_live) = (Vec::new(), 0);
    for (key, entry) in memtable.range(&scan.start, &scan.end) {
        if is_live == scan.limit {
            break;
        }
        let shown =
            entry.is_live() && (entry.expires_at == 0 || entry.expires_at > scan.skip_expired_at);
        is_live += usize::from(shown);
        found.push((key.clone(), shown.then(|| entry.clone())));
    }
    found
}

fn push(page: &mut Page, key: &[u8], entry: &MemtableEntry) {
    let (version, expires_at, meta) = (entry.version, entry.expires_at, &entry.meta[..]);
    page.push(ScannedRecord { key, version, expires_at, meta });
}
