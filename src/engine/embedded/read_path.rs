//! Reads over all that a record can be in: the overlay, the database, and blob files.

use super::super::{Body, EngineError, Projection, Record, Result, Scan, ScanPage, ScannedRecord};
use super::Shared;
use super::blob_files::Blobs;
use super::connection_pool::Readers;
use super::memtable::{Entry, Overlay};
use super::wal::record::Home;
use super::wal::recovery;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard};

/// Records of one first byte in the overlay up to which a count is exact.
const COUNT_EXACT: usize = 4096;
/// What reads need.
pub(super) struct Reads {
    pub(super) shared: Arc<Shared>,
    pub(super) readers: Arc<Readers>,
    pub(super) blobs: Arc<Blobs>,
}

impl Reads {
    /// The newest record of a key.
    pub(super) fn find(&self, key: &[u8], part: Projection) -> Result<Option<Record>> {
        // A blob's file goes when its record is replaced: read the record again when that happens
        // between the two. A file that is missing for a record that stays is damage.
        let mut gone = None;
        loop {
            let above = self.shared.overlay().get(key).cloned();
            let (mut record, blob) = match above {
                Some(entry) => match resolve(entry, part)? {
                    Some(found) => found,
                    None => return Ok(None),
                },
                None => match self.readers.read(key, part)? {
                    Some((record, home)) => (record, (home < 0).then_some(-home)),
                    None => return Ok(None),
                },
            };
            let Some(id) = blob.filter(|_| part == Projection::Full) else {
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

    /// A page from the overlay and the database together. `view` is released once both are pinned.
    pub(super) fn scan(&self, scan: &Scan, view: RwLockReadGuard<'_, ()>) -> Result<ScanPage> {
        let reading = self.readers.take()?;
        let above = above(&self.shared.overlay(), scan);
        drop(view);
        let mut page = ScanPage::with_capacity(scan.limit);
        let mut above = above.into_iter().peekable();
        self.readers.scan(reading, scan, |found| {
            while let Some((key, entry)) = above.next_if(|(key, _)| key[..] < *found.key) {
                entry.into_iter().for_each(|entry| push(&mut page, &key, &entry));
            }
            if page.len() >= scan.limit {
                return false;
            }
            match above.next_if(|(key, _)| key[..] == *found.key) {
                Some((key, Some(entry))) => push(&mut page, &key, &entry),
                Some((_, None)) => {}
                None if found.expires_at > 0 && found.expires_at <= scan.skip_expired_at => {}
                None => page.push(found),
            }
            page.len() < scan.limit
        })?;
        for (key, entry) in above {
            entry.into_iter().for_each(|entry| push(&mut page, &key, &entry));
        }
        page.truncate(scan.limit);
        Ok(page)
    }

    pub(super) fn expired(&self, until: u64, limit: usize) -> Result<Vec<(Bytes, u64)>> {
        let _view = self.shared.view();
        let mut found =
            self.readers.expired(until, limit, |key| self.shared.overlay().get(key).is_none())?;
        {
            let overlay = self.shared.overlay();
            let above = overlay.expired(until).take(limit);
            found
                .extend(above.map(|(expires_at, key, version)| (expires_at, key.clone(), version)));
        }
        found.sort_by_key(|(expires_at, _, _)| *expires_at);
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, key, version)| (key, version)).collect())
    }

    pub(super) fn count(&self, first: u8) -> Result<u64> {
        let _view = self.shared.view();
        let unknown: Vec<Bytes> = {
            let overlay = self.shared.overlay();
            let mut keys: Vec<_> = overlay.first(first).take(COUNT_EXACT + 1).collect();
            if keys.len() > COUNT_EXACT {
                keys.clear();
            }
            keys.retain(|(_, entry)| entry.below.is_none());
            keys.into_iter().map(|(key, _)| key.clone()).collect()
        };
        for key in unknown {
            let below = self.readers.version(&key)? != 0;
            self.shared.overlay_mut().learn(&key, below);
        }
        let below = self.shared.counts.get(usize::from(first));
        let below = below.map_or(0, |count| count.load(Ordering::Relaxed));
        let count = below.saturating_add(self.shared.overlay().change(first));
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// The record of an entry, and its blob; `None` when it is a removal.
pub(super) fn resolve(entry: Entry, part: Projection) -> Result<Option<(Record, Option<i64>)>> {
    let Entry { version, expires_at, meta, home, place, .. } = entry;
    let (body, blob) = match (home, place) {
        (Home::Removed, _) => return Ok(None),
        (Home::Blob { id, .. }, _) => (Body::EMPTY, Some(id)),
        (Home::Inline { len, sum, .. }, Some((segment, at))) if part == Projection::Full => {
            (Body::Bytes(recovery::body(&segment, at, len, version, sum)?), None)
        }
        (Home::Empty | Home::Inline { .. }, _) => (Body::EMPTY, None),
    };
    Ok(Some((Record { version, expires_at, meta, body }, blob)))
}

/// What of the overlay takes part in a scan, up to the records that fill its page: records, and
/// `None` for what only hides a record of the database.
fn above(overlay: &Overlay, scan: &Scan) -> Vec<(Bytes, Option<Entry>)> {
    let (mut found, mut live) = (Vec::new(), 0);
    for (key, entry) in overlay.range(&scan.start, &scan.end) {
        if live == scan.limit {
            break;
        }
        let shown =
            entry.live() && (entry.expires_at == 0 || entry.expires_at > scan.skip_expired_at);
        live += usize::from(shown);
        found.push((key.clone(), shown.then(|| entry.clone())));
    }
    found
}

fn push(page: &mut ScanPage, key: &[u8], entry: &Entry) {
    let (version, expires_at, meta) = (entry.version, entry.expires_at, &entry.meta[..]);
    page.push(ScannedRecord { key, version, expires_at, meta });
}
