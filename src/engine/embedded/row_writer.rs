//! Writes the records of a checkpoint step to the database, and tracks the changes to the record
//! counts and to the table of segments.

use super::database::{BLOB_BYTES_COUNTER, BodyRef, RecordRow, SegmentLocation};
use super::memtable::MemtableEntry;
use super::wal::record::{BodyLocation, entry_bytes};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};
use std::collections::BTreeMap;

/// Side effects of writing the records of a step.
#[derive(Default)]
pub(super) struct StepEffects {
    pub(super) counts: BTreeMap<i64, i64>,
    /// Changes to the table `segments`, by sequence number.
    pub(super) segments: BTreeMap<u64, SegmentChange>,
    /// Blob files whose record was replaced or deleted.
    pub(super) orphaned_blobs: Vec<i64>,
    /// Bodies in segments whose record was replaced or deleted.
    pub(super) replaced_bodies: Vec<SegmentLocation>,
}

/// A change to a row of `segments`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SegmentChange {
    /// Number of the segment's file; `None` if no bodies were added.
    file: Option<u64>,
    /// Change of the live bytes: size of the added entries minus size of the entries that are no
    /// longer referenced.
    pub(super) bytes: i64,
}

/// The body of a record that a step replaces or deletes in the database.
#[derive(Clone, Copy)]
struct ReplacedBody {
    body: BodyRef,
    /// Size of the entry with the body in its segment, in bytes; 0 if the body is not in a segment.
    entry_bytes: u64,
}

impl ReplacedBody {
    const EMPTY: ReplacedBody = ReplacedBody { body: BodyRef::Empty, entry_bytes: 0 };

    fn new(body: BodyRef, key: &[u8], meta: &[u8]) -> ReplacedBody {
        let bytes = match body {
            BodyRef::Segment(SegmentLocation { len, .. }) => entry_bytes(key, meta, len),
            BodyRef::Empty | BodyRef::Row(_) | BodyRef::Blob(_) => 0,
        };
        ReplacedBody { body, entry_bytes: bytes }
    }
}

/// The prepared statements of a step.
pub(super) struct RowWriter<'c> {
    find: CachedStatement<'c>,
    put: CachedStatement<'c>,
    remove: CachedStatement<'c>,
    segment_add: CachedStatement<'c>,
    segment_subtract: CachedStatement<'c>,
    segment_remove: CachedStatement<'c>,
    body_remove: CachedStatement<'c>,
    blob_insert: CachedStatement<'c>,
    blob_remove: CachedStatement<'c>,
    pub(super) count: CachedStatement<'c>,
    /// Reused buffer for encoded rows.
    data: Vec<u8>,
}

impl<'c> RowWriter<'c> {
    pub(super) fn prepare(conn: &'c Connection) -> rusqlite::Result<RowWriter<'c>> {
        Ok(RowWriter {
            find: conn.prepare_cached("SELECT data FROM heads WHERE key = ?1")?,
            put: conn.prepare_cached(
                "INSERT INTO heads (key, due, data) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (key) DO UPDATE SET due = ?2, data = ?3",
            )?,
            remove: conn.prepare_cached("DELETE FROM heads WHERE key = ?1")?,
            segment_add: conn.prepare_cached(
                "INSERT INTO segments (seq, file, live) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (seq) DO UPDATE SET live = live + ?3",
            )?,
            segment_subtract: conn
                .prepare_cached("UPDATE segments SET live = live + ?2 WHERE seq = ?1")?,
            segment_remove: conn
                .prepare_cached("DELETE FROM segments WHERE seq = ?1 AND live <= 0")?,
            body_remove: conn.prepare_cached("DELETE FROM bodies WHERE id = ?1")?,
            blob_insert: conn.prepare_cached("INSERT INTO blobs (id, size) VALUES (?1, ?2)")?,
            blob_remove: conn.prepare_cached("DELETE FROM blobs WHERE id = ?1 RETURNING size")?,
            count: conn.prepare_cached(
                "INSERT INTO counts (first, n) VALUES (?1, ?2) \
                 ON CONFLICT (first) DO UPDATE SET n = n + ?2",
            )?,
            data: Vec::new(),
        })
    }

    /// Writes the record of an entry, or deletes the record if the entry is a deletion.
    pub(super) fn write(
        &mut self,
        key: &Bytes,
        entry: &MemtableEntry,
        effects: &mut StepEffects,
    ) -> rusqlite::Result<()> {
        let first = i64::from(key.first().copied().unwrap_or_default());
        let replaced = |row: &Row<'_>| {
            let data = row.get_ref(0)?.as_blob()?;
            // A damaged row is replaced, and its body remains unreferenced.
            let body = |row: RecordRow<'_>| ReplacedBody::new(row.body, key, row.meta);
            Ok(RecordRow::decode(key, data).map_or(ReplacedBody::EMPTY, body))
        };
        let old = self.find.query_row(params![&key[..]], replaced).optional()?;
        if !entry.is_live() {
            if let Some(body) = old {
                self.free_body(body, effects)?;
                self.remove.execute(params![&key[..]])?;
                *effects.counts.entry(first).or_default() -= 1;
            }
            return Ok(());
        }
        self.replace_body(old.unwrap_or(ReplacedBody::EMPTY), key, entry, effects)?;
        let MemtableEntry { version, expires_at, ref meta, .. } = *entry;
        let body = entry.body_ref();
        RecordRow { version, expires_at, body, meta }.encode(key, &mut self.data);
        self.put.execute(params![&key[..], expires_at.cast_signed(), &self.data[..]])?;
        if old.is_none() {
            *effects.counts.entry(first).or_default() += 1;
        }
        Ok(())
    }

    /// Frees the body `old` and accounts for the body of `entry` in its place.
    fn replace_body(
        &mut self,
        old: ReplacedBody,
        key: &[u8],
        entry: &MemtableEntry,
        effects: &mut StepEffects,
    ) -> rusqlite::Result<()> {
        // A checkpoint repeated after a crash may find that the database already has the reference.
        if entry.body_ref() == old.body {
            return Ok(());
        }
        self.free_body(old, effects)?;
        match (entry.location, &entry.body_at) {
            (BodyLocation::Blob { id, len }, _) => {
                let size = i64::try_from(len).unwrap_or(i64::MAX);
                self.blob_insert.execute(params![id, size])?;
                *effects.counts.entry(BLOB_BYTES_COUNTER).or_default() += size;
            }
            (BodyLocation::Inline { len, .. }, Some((segment, _))) => {
                let change = effects.segments.entry(segment.seq).or_default();
                change.file = Some(segment.number());
                let bytes = entry_bytes(key, &entry.meta, len);
                change.bytes = change.bytes.saturating_add_unsigned(bytes);
            }
            (BodyLocation::Removed | BodyLocation::Empty | BodyLocation::Inline { .. }, _) => {}
        }
        Ok(())
    }

    /// Frees a body that was replaced or deleted: deletes its row, marks its blob file as orphaned,
    /// or subtracts its entry from the live bytes of its segment.
    fn free_body(&mut self, old: ReplacedBody, effects: &mut StepEffects) -> rusqlite::Result<()> {
        match old.body {
            BodyRef::Empty => {}
            BodyRef::Row(id) => {
                self.body_remove.execute(params![id])?;
            }
            BodyRef::Blob(id) => {
                let freed = self.blob_remove.query_row(params![id], |row| row.get::<_, i64>(0));
                let freed = freed.optional()?.unwrap_or(0);
                *effects.counts.entry(BLOB_BYTES_COUNTER).or_default() -= freed;
                effects.orphaned_blobs.push(id);
            }
            BodyRef::Segment(location) => {
                let change = effects.segments.entry(location.seq).or_default();
                change.bytes = change.bytes.saturating_sub_unsigned(old.entry_bytes);
                effects.replaced_bodies.push(location);
            }
        }
        Ok(())
    }

    /// Updates the row of a segment. Deletes the row if no record refers to a body in the segment.
    pub(super) fn change_segment(
        &mut self,
        seq: u64,
        change: SegmentChange,
    ) -> rusqlite::Result<()> {
        let (seq, SegmentChange { file, bytes }) = (seq.cast_signed(), change);
        match file {
            Some(file) => self.segment_add.execute(params![seq, file.cast_signed(), bytes])?,
            None => self.segment_subtract.execute(params![seq, bytes])?,
        };
        if bytes <= 0 {
            self.segment_remove.execute(params![seq])?;
        }
        Ok(())
    }
}
