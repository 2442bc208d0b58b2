//! Garbage collection of sealed WAL segments: relocates the bodies that records still refer to from
//! segments that contain much garbage, so that the files of these segments can be reused.
//!
//! A pass collects one segment, the victim: it reads the WAL records of the segment and relocates
//! the bodies of current records (see [`relocation`](super::relocation)). The next checkpoint
//! stores the new locations. No record then refers to the victim, which is retired like any other
//! segment. Passes advance in small quanta, both between checkpoints and between the steps of a
//! checkpoint.

use super::super::{EngineError, Result};
use super::checkpoint::Checkpointer;
use super::database::{BodyRef, RecordRow, SegmentLocation};
use super::relocation::{Relocation, RelocationBatch};
use super::replaced_bodies::ReplacedBodies;
use super::wal::record::{BodyLocation, WalEntry};
use super::wal::recovery;
use super::wal::segment::{Segment, SegmentUsage};
use bytes::Bytes;
use rusqlite::{CachedStatement, OptionalExtension, Row, params};
use std::collections::HashSet;
use std::sync::Arc;

/// Maximum number of WAL entries examined per quantum.
const EXAMINED_ENTRIES_MAX: usize = 1024;
/// Collection starts when the total size of the sealed segments exceeds `START_PERCENT` of their
/// live bytes plus the size of two segments. It ends when the total size no longer exceeds
/// `STOP_PERCENT` of the live bytes plus the size of one segment. The difference lets a series of
/// passes end although their own relocations fill a new segment.
const START_PERCENT: u64 = 155;
const STOP_PERCENT: u64 = 150;
/// Replaces both percentages while the disk is full.
const FULL_PERCENT: u64 = 110;
/// Writes are delayed when the total size of the sealed segments exceeds this percentage of their
/// live bytes by more than an allowance.
const DEBT_PERCENT: u64 = 160;

/// Maximum size of the relocated bytes of a segment that is collected on a full disk, in percent of
/// the size of the segment. Segments with little garbage would be rewritten again and again.
const FULL_VICTIM_PERCENT: u64 = 85;
/// Size of relocated bytes in percent of the live bytes. WAL records end with padding, which is
/// significant if values are small or have about the size of a record.
const PADDED_PERCENT: u64 = 115;

/// The state of garbage collection.
#[derive(Default)]
pub(super) struct GarbageCollector {
    /// Initial value of the checksums of WAL records.
    salt: u32,
    victim: Option<Victim>,
    /// Sequence numbers of the segments whose pass is complete. The next checkpoint retires these
    /// segments, except damaged ones. Those are not collected again before the next start.
    collected: HashSet<u64>,
    /// Total size of the segments collected since the last checkpoint, in bytes.
    collected_bytes: u64,
    /// Bodies that the checkpointer replaced since the start.
    pub(super) replaced: ReplacedBodies,
    is_running: bool,
    /// Whether the last quantum failed.
    is_failing: bool,
}

impl GarbageCollector {
    pub(super) fn new(salt: u32) -> GarbageCollector {
        GarbageCollector { salt, ..GarbageCollector::default() }
    }

    /// Returns whether garbage collection is in progress. Returns `false` if the last quantum
    /// failed or was interrupted.
    pub(super) fn is_running(&self) -> bool {
        self.is_running
    }

    /// Returns the total size of the segments collected since the last checkpoint, in bytes.
    pub(super) fn collected_bytes(&self) -> u64 {
        self.collected_bytes
    }

    /// Ends a checkpoint. `exists` returns whether there is a segment with a sequence number.
    pub(super) fn end_checkpoint(&mut self, exists: impl Fn(u64) -> bool) {
        self.collected_bytes = 0;
        self.replaced.retain_segments(exists);
    }
}

/// The segment that is being collected.
struct Victim {
    segment: Arc<Segment>,
    disk_bytes: u64,
    /// Offsets of bodies that are known to be garbage, in bytes and in ascending order.
    replaced: Vec<u32>,
    /// The entries of the current WAL record that are not examined yet, and the offsets in bytes of
    /// the record and of its bodies section.
    entries: std::vec::IntoIter<WalEntry>,
    record_at: u64,
    bodies_at: u64,
    /// Offset of the next WAL record, in bytes.
    next_at: u64,
    /// Offset in bytes of the first WAL record with bodies that may not have been relocated.
    restart_at: u64,
    /// Whether a body could not be relocated.
    is_damaged: bool,
}

impl Victim {
    fn new(segment: Arc<Segment>, disk_bytes: u64, replaced: Vec<u32>) -> Victim {
        let (record_at, bodies_at, next_at, restart_at) = (0, 0, 0, 0);
        let entries = Vec::new().into_iter();
        let is_damaged = false;
        Victim {
            segment,
            disk_bytes,
            replaced,
            entries,
            record_at,
            bodies_at,
            next_at,
            restart_at,
            is_damaged,
        }
    }

    /// Returns the next entry; `None` at the end of the segment, or if the next WAL record cannot
    /// be read.
    fn next_entry(&mut self, salt: u32) -> Option<WalEntry> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(entry);
            }
            let found = recovery::next_record(&self.segment, salt, self.next_at);
            let (at, header, entries) = found.unwrap_or_else(|e| self.set_damaged(&e))?;
            self.record_at = at;
            self.bodies_at = at + header.bodies_offset();
            self.next_at = at + header.disk_len();
            self.entries = entries.into_iter();
        }
    }

    /// Records that all bodies examined so far have been relocated. A restart then begins with the
    /// current WAL record, or with the next one if the current one has no unexamined entries.
    fn confirm(&mut self) {
        self.restart_at = if self.entries.len() > 0 { self.record_at } else { self.next_at };
    }

    /// Goes back to the first WAL record with bodies that may not have been relocated.
    fn restart(&mut self) {
        self.next_at = self.restart_at;
        self.entries = Vec::new().into_iter();
    }

    /// Reads the body at a location. Returns `None` if the body is damaged or cannot be read. A
    /// damaged body must not be relocated, because recovery discards the newest WAL record if a
    /// body in it is damaged.
    fn read_body(&mut self, entry: &WalEntry, location: SegmentLocation) -> Option<Bytes> {
        let body = recovery::read_located(&self.segment, location, entry.version);
        body.map_or_else(|e| self.set_damaged(&e), Some)
    }

    /// Records that a body cannot be relocated, and logs the first error. The pass then continues
    /// with other bodies and other segments, because an error may persist. Returns `None`.
    fn set_damaged<T>(&mut self, e: &EngineError) -> Option<T> {
        if !self.is_damaged {
            let segment = self.segment.seq;
            tracing::error!(segment, error = %e, "a WAL segment has values that cannot be moved");
        }
        self.is_damaged = true;
        None
    }
}

impl Checkpointer {
    /// Collects garbage for one quantum. Returns `false` if there is too little garbage, or if the
    /// quantum failed or was interrupted.
    pub(super) fn collect_garbage(&mut self) -> bool {
        let usage = self.update_space_debt();
        if !self.can_relocate() {
            self.garbage.is_running = false;
            return false;
        }
        if self.garbage.victim.is_none() {
            self.garbage.victim = self.choose_victim(&usage);
        }
        let Some(mut victim) = self.garbage.victim.take() else { return false };
        let collected = self.collect_from(&mut victim);
        let garbage = &mut self.garbage;
        match &collected {
            // Logs only the first failure, because the quantum is repeated at every tick until it
            // succeeds.
            Err(e) if !garbage.is_failing => {
                let segment = victim.segment.seq;
                tracing::warn!(segment, error = %e, "garbage collection failed; retrying");
            }
            Ok(_) | Err(_) => {}
        }
        garbage.is_failing = collected.is_err();
        garbage.is_running = matches!(collected, Ok(Progress::Continues | Progress::Completed));
        match collected {
            Ok(Progress::Completed) => {
                tracing::debug!(segment = victim.segment.seq, "collected a WAL segment");
                garbage.collected.insert(victim.segment.seq);
                if !victim.is_damaged {
                    garbage.collected_bytes += victim.disk_bytes;
                }
            }
            Ok(Progress::Continues) => garbage.victim = Some(victim),
            // Another segment may fit in the remaining space.
            Err(EngineError::Full(_)) => {}
            Ok(Progress::Interrupted) | Err(_) => {
                victim.restart();
                garbage.victim = Some(victim);
            }
        }
        garbage.is_running
    }

    /// Collects garbage for one quantum between two steps of a checkpoint, unless the checkpoint is
    /// behind. Each quantum waits for the writer, and the writer delays its commits until the
    /// checkpoint catches up.
    pub(super) fn collect_garbage_during_checkpoint(&mut self) {
        if self.shared.backpressure.is_checkpoint_behind(&self.shared) {
            self.update_space_debt();
        } else {
            self.collect_garbage();
        }
    }

    /// Returns the usage of the sealed segments that can be collected, and updates the space debt.
    fn update_space_debt(&mut self) -> Vec<SegmentUsage> {
        let mut usage = self.shared.segments.sealed_usage();
        let garbage = &mut self.garbage;
        let sealed: HashSet<u64> = usage.iter().map(|segment| segment.seq).collect();
        garbage.collected.retain(|seq| sealed.contains(seq));
        // The next checkpoint retires segments without live bytes.
        usage.retain(|used| used.live_bytes > 0 && !garbage.collected.contains(&used.seq));
        let backpressure = &self.shared.backpressure;
        // A checkpoint seals many segments at once, and their collection takes some time.
        let allowance = 2 * backpressure.wal_bytes();
        let (size, live) = total(&usage);
        let debt = size.saturating_sub(self.size_limit(live, DEBT_PERCENT, 3) + allowance);
        backpressure.set_space_debt(debt, live);
        usage
    }

    /// Returns a percentage of the live bytes plus the size of some segments.
    fn size_limit(&self, live: u64, percent: u64, segments: u64) -> u64 {
        live / 100 * percent + segments * self.shared.segments.segment_bytes()
    }

    /// Returns the segment with the smallest share of live bytes if there is enough garbage.
    fn choose_victim(&mut self, usage: &[SegmentUsage]) -> Option<Victim> {
        let (size, live) = total(usage);
        let is_full = self.shared.segments.is_full();
        let (percent, segments) = match (is_full, self.garbage.is_running) {
            (true, true) => (FULL_PERCENT, 1),
            (true, false) => (FULL_PERCENT, 2),
            (false, true) => (STOP_PERCENT, 1),
            (false, false) => (START_PERCENT, 2),
        };
        let victim = if size > self.size_limit(live, percent, segments) {
            // Live bytes in parts per million of the size of the segment.
            let live_share = |used: &&SegmentUsage| {
                u128::from(used.live_bytes) * 1_000_000 / u128::from(used.disk_bytes.max(1))
            };
            let is_permitted = |used: &&SegmentUsage| !is_full || self.frees_space_when_full(used);
            usage.iter().filter(is_permitted).min_by_key(live_share)
        } else {
            None
        };
        self.garbage.is_running = victim.is_some();
        let victim = victim?;
        let segment = self.shared.segments.find(victim.seq)?;
        let replaced = self.garbage.replaced.take(victim.seq);
        Some(Victim::new(segment, victim.disk_bytes, replaced))
    }

    /// Returns whether the collection of a segment frees space on a full disk: it has enough
    /// garbage, and if only reserved files are free, its live bytes fit in the next one.
    fn frees_space_when_full(&self, used: &SegmentUsage) -> bool {
        let segments = &self.shared.segments;
        let with_padding = used.live_bytes / 100 * PADDED_PERCENT;
        let fits = || with_padding <= segments.reserved_bytes(self.shared.is_checkpointed());
        with_padding <= used.disk_bytes / 100 * FULL_VICTIM_PERCENT
            && (segments.has_preallocated() || fits())
    }

    fn collect_from(&mut self, victim: &mut Victim) -> Result<Progress> {
        let (mut batch, mut examined) = (RelocationBatch::default(), 0);
        let mut is_complete = false;
        {
            // A single read transaction serves all lookups.
            let _transaction = self.conn.unchecked_transaction()?;
            let mut find = self.conn.prepare_cached("SELECT data FROM heads WHERE key = ?1")?;
            while !batch.is_full() && examined < EXAMINED_ENTRIES_MAX {
                let Some(entry) = victim.next_entry(self.garbage.salt) else {
                    is_complete = true;
                    break;
                };
                examined += 1;
                let location = self.current_location(victim, &entry, &mut find);
                let location = location.unwrap_or_else(|e| victim.set_damaged(&e));
                let Some(location) = location else { continue };
                let body = victim.read_body(&entry, location);
                let WalEntry { key, version, expires_at, meta, .. } = entry;
                batch.extend(body.map(|body| Relocation { key, version, expires_at, meta, body }));
            }
        }
        if !self.relocate(batch, true)? {
            return Ok(Progress::Interrupted);
        }
        victim.confirm();
        Ok(if is_complete { Progress::Completed } else { Progress::Continues })
    }

    /// Returns the location of the body of an entry if the current record of its key refers to this
    /// body.
    fn current_location(
        &self,
        victim: &Victim,
        entry: &WalEntry,
        find: &mut CachedStatement<'_>,
    ) -> Result<Option<SegmentLocation>> {
        let BodyLocation::Inline { at, len, checksum } = entry.location else { return Ok(None) };
        let (seq, at) = (victim.segment.seq, victim.bodies_at + at);
        if u32::try_from(at).is_ok_and(|at| victim.replaced.binary_search(&at).is_ok()) {
            return Ok(None);
        }
        // The next checkpoint replaces the record in the database, or stores the new location of
        // its body.
        if self.shared.memtable().get(&entry.key).is_some() {
            return Ok(None);
        }
        let location = SegmentLocation { seq, at, len, checksum };
        let is_current = |row: &Row<'_>| {
            let row = RecordRow::decode(&entry.key, row.get_ref(0)?.as_blob()?);
            let body = BodyRef::Segment(location);
            Ok(row.is_some_and(|row| row.version == entry.version && row.body == body))
        };
        let is_current = find.query_row(params![&entry.key[..]], is_current).optional()?;
        Ok(is_current.unwrap_or(false).then_some(location))
    }
}

/// Returns the total size of the segments, and their total live bytes.
fn total(usage: &[SegmentUsage]) -> (u64, u64) {
    let total = |bytes: fn(&SegmentUsage) -> u64| usage.iter().map(bytes).sum();
    (total(|segment| segment.disk_bytes), total(|segment| segment.live_bytes))
}

/// The result of a quantum.
enum Progress {
    Continues,
    /// All bodies of the victim are relocated, except those that are damaged or cannot be read.
    Completed,
    /// The bodies of this quantum were not relocated.
    Interrupted,
}

#[cfg(test)]
mod tests {
    use super::super::SegmentPool;
    use super::super::data_dir::DataDir;
    use super::super::memtable::Memtable;
    use super::super::stepped_engine::SteppedEngine;
    use super::super::wal::segment::SegmentFile;
    use super::super::writer::WriterCommand;
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::Duration;

    /// Returns a segment that cannot be read, because its file is a directory.
    fn unreadable_segment(dir: &Path) -> Arc<Segment> {
        let data = Arc::new(DataDir::create(dir).unwrap());
        fs::create_dir_all(dir.join("log/slot-0001")).unwrap();
        let (_, mut files) = SegmentPool::open_read_only(data, &[]).unwrap();
        Segment::new(1 << 40, files.remove(0))
    }

    /// Handles a command like the writer, but relocates nothing.
    fn confirm(command: WriterCommand) {
        let WriterCommand::Relocate(request) = command else { panic!() };
        assert!(request.claim());
        request.reply.send(Ok(())).unwrap();
    }

    /// Collects garbage until a quantum returns `false`.
    fn collect_all(checkpointer: &mut Checkpointer) {
        let quanta = (0..1000).take_while(|_| checkpointer.collect_garbage()).count();
        assert!(quanta < 1000, "garbage collection does not end");
    }

    #[test]
    fn bodies_replaced_by_a_checkpoint_are_known_to_be_garbage() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(dir.path(), 1 << 20);
        let values = |filter: fn(&u32) -> bool| {
            let numbers = (0..20_u32).filter(filter);
            numbers.map(|number| (format!("k{number:02}"), Bytes::from(vec![1; 1000])))
        };
        engine.commit(values(|_| true));
        engine.checkpoint();
        engine.commit(values(|number| number % 4 != 0));
        engine.checkpoint();
        let seq = engine.shared.segments.sealed_usage()[0].seq;
        let mut victim = Victim::new(
            engine.shared.segments.find(seq).unwrap(),
            1 << 20,
            engine.checkpointer.garbage.replaced.take(seq),
        );
        assert_eq!(victim.replaced.len(), 15);
        while let Some(entry) = victim.next_entry(engine.checkpointer.garbage.salt) {
            let BodyLocation::Inline { at, .. } = entry.location else { panic!() };
            let at = u32::try_from(victim.bodies_at + at).unwrap();
            let is_current =
                [&b"k00"[..], b"k04", b"k08", b"k12", b"k16"].contains(&&entry.key[..]);
            let is_replaced = victim.replaced.binary_search(&at).is_ok();
            assert_eq!(is_replaced, !is_current, "{:?}", entry.key);
        }
    }

    #[test]
    fn an_unreadable_segment_does_not_stop_garbage_collection() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(&dir.path().join("data"), 1 << 20);
        engine.create_garbage();
        let unreadable = unreadable_segment(&dir.path().join("unreadable"));
        engine.checkpointer.garbage.victim = Some(Victim::new(unreadable, 1 << 20, Vec::new()));
        engine.with_writer(confirm, |checkpointer| {
            collect_all(checkpointer);
            assert!(checkpointer.garbage.victim.is_none());
            assert_eq!(checkpointer.garbage.collected.len(), 2);
        });
    }

    #[test]
    fn an_unreadable_body_stays_in_its_segment() {
        let dir = tempfile::tempdir().unwrap();
        let segment = unreadable_segment(dir.path());
        let location = SegmentLocation { seq: segment.seq, at: 0, len: 10, checksum: 0 };
        let entry = WalEntry {
            key: Bytes::from_static(b"key"),
            version: 1,
            expires_at: 0,
            meta: Bytes::new(),
            location: BodyLocation::Inline { at: 0, len: 10, checksum: 0 },
        };
        let mut victim = Victim::new(segment, 1 << 20, Vec::new());
        assert!(victim.read_body(&entry, location).is_none());
        assert!(victim.is_damaged);
    }

    #[test]
    fn unreadable_pages_of_the_database_do_not_stop_garbage_collection() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(dir.path(), 1 << 20);
        engine.create_garbage();
        let conn = &engine.checkpointer.conn;
        let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'heads'";
        let root: u32 = conn.query_row(root, [], |row| row.get(0)).unwrap();
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(engine);
        let file = File::options().write(true).open(dir.path().join("steadfast.db")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], u64::from(root - 1) * 8192)
            .unwrap();
        let engine = SteppedEngine::open(dir.path(), 1 << 20);
        engine.with_writer(confirm, |checkpointer| {
            collect_all(checkpointer);
            assert_eq!(checkpointer.garbage.collected.len(), 2);
        });
    }

    #[test]
    fn the_space_debt_is_updated_while_a_segment_is_collected() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(&dir.path().join("data"), 1 << 20);
        let unreadable = unreadable_segment(&dir.path().join("unreadable"));
        engine.checkpointer.garbage.victim = Some(Victim::new(unreadable, 1 << 20, Vec::new()));
        let backpressure = &engine.shared.backpressure;
        backpressure.set_space_debt(1 << 30, 0);
        assert!(backpressure.delay(&engine.shared) > Duration::ZERO);
        engine.checkpointer.collect_garbage();
        assert_eq!(backpressure.delay(&engine.shared), Duration::ZERO);
    }

    /// Creates segment files of these sizes, in bytes.
    fn segment_files(engine: &SteppedEngine, sizes: &[u64]) -> Vec<SegmentFile> {
        let log = engine.shared.dir.path().join("log");
        for (number, size) in sizes.iter().enumerate() {
            File::create(log.join(format!("slot-{number:04}"))).unwrap().set_len(*size).unwrap();
        }
        SegmentPool::open_read_only(engine.shared.dir.clone(), &[]).unwrap().1
    }

    #[test]
    fn on_a_full_disk_the_victim_fits_in_the_reserved_file_if_no_other_file_is_free() {
        const MIB: u64 = 1 << 20;
        for (free, expected) in [(2, 2), (3, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let mut engine = SteppedEngine::open(dir.path(), 1 << 20);
            let sizes = [64 * MIB, 16 * MIB, 8 * MIB, 8 * MIB, 8 * MIB];
            let mut sealed = segment_files(&engine, &sizes[..2 + free]);
            let free = sealed.split_off(2);
            let sealed = (1..).zip(sealed).map(|(seq, file)| Segment::new(seq, file)).collect();
            let segments = &engine.shared.segments;
            segments.restore(Vec::new(), sealed, free);
            let live = [(1, 12 << 20), (2, 5 << 20)];
            segments.add_live_bytes(live.into_iter());
            segments.report_full();
            let usage = engine.checkpointer.update_space_debt();
            let victim = engine.checkpointer.choose_victim(&usage).unwrap();
            assert_eq!(victim.segment.seq, expected);
        }
    }

    #[test]
    fn on_a_full_disk_the_last_file_is_kept_for_the_database_until_everything_is_checkpointed() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(dir.path(), 1 << 20);
        let mut sealed = segment_files(&engine, &[16 * MIB, 16 * MIB, 8 * MIB]);
        let free = sealed.split_off(2);
        let sealed = (1..).zip(sealed).map(|(seq, file)| Segment::new(seq, file)).collect();
        let shared = engine.shared.clone();
        shared.segments.restore(Vec::new(), sealed, free);
        shared.segments.add_live_bytes([(1, 5 << 20), (2, 5 << 20)].into_iter());
        shared.segments.report_full();
        SteppedEngine::fill_memtable(&shared, 1);
        let usage = engine.checkpointer.update_space_debt();
        assert!(engine.checkpointer.choose_victim(&usage).is_none());
        shared.segments.allocate_reserved(3, shared.is_checkpointed()).unwrap_err();
        *shared.memtable_mut() = Memtable::default();
        assert!(engine.checkpointer.choose_victim(&usage).is_some());
        shared.segments.allocate_reserved(3, shared.is_checkpointed()).unwrap();
    }

    #[test]
    fn on_a_full_disk_segments_with_little_garbage_are_not_collected() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let mut engine = SteppedEngine::open(dir.path(), 1 << 20);
        let mut sealed = segment_files(&engine, &[8 * MIB; 43]);
        let free = sealed.split_off(40);
        let sealed = (1..).zip(sealed).map(|(seq, file)| Segment::new(seq, file)).collect();
        let segments = &engine.shared.segments;
        segments.restore(Vec::new(), sealed, free);
        segments.add_live_bytes((1..=40).map(|seq| (seq, 6_500_000)));
        segments.report_full();
        let usage = engine.checkpointer.update_space_debt();
        assert!(engine.checkpointer.choose_victim(&usage).is_none());
        assert!(!engine.checkpointer.garbage.is_running());
        engine.shared.segments.add_live_bytes([(7, -1_000_000)].into_iter());
        let usage = engine.checkpointer.update_space_debt();
        assert_eq!(engine.checkpointer.choose_victim(&usage).unwrap().segment.seq, 7);
    }
}
