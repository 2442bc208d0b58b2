//! The folder: a thread that moves what the log holds into the database, in large ordered steps,
//! and gives space back. The log's segments are free again once the database has their commits
//! durably.
//!
//! A step is one transaction that is not synced: the log has everything until the fold's last
//! transaction, which is, and which says where the log now begins.

use super::super::{EngineError, Result};
use super::blob_files::BlobFiles;
use super::connection_pool::ConnectionPool;
use super::database::{
    BLOB_BYTES_COUNTER, BUSY_TIMEOUT, RecordRow, execute_synced, sqlite_error, sync,
};
use super::maintenance::MaintenanceTask;
use super::memtable::MemtableEntry;
use super::wal::record::BodyLocation;
use super::writer::WriterCommand;
use super::{FatalErrorHandler, Shared, WalPosition};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, Row, params};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Records and bytes of bodies in one step at most.
const STEP_RECORDS_MAX: usize = 512;
const STEP_BYTES_MAX: u64 = 1 << 20;
/// The folder looks so often whether there is something to do.
const TICK: Duration = Duration::from_millis(100);
/// Without a commit for so many ticks the server counts as idle.
const IDLE_TICKS: u32 = 5;
/// Frames (8 KiB pages) of the database's own log after which it is folded too: 16 MiB.
const SQLITE_WAL_FRAMES_MAX: i64 = 2048;
/// For how long the folder waits for reads to end, so that that log can start anew.
const RESTART_TIMEOUT: Duration = Duration::from_millis(100);
/// Free pages given back in one step (256 KiB), and how many may stay for what comes next (4 MiB).
const VACUUM_STEP_PAGES: u32 = 32;
const FREE_PAGES_MAX: u32 = 512;
/// Closing folds for so long at most; what is left is read from the log at the next start.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);
/// How much nicer than the rest this thread is: requests come first.
const NICENESS: i32 = 10;

/// What the folder thread owns.
pub(super) struct Checkpointer {
    pub(super) conn: Connection,
    /// How long the database's log was when a snapshot last kept it from being folded; in frames.
    pub(super) pinned_frames: i64,
    pub(super) blobs: Arc<BlobFiles>,
    /// Where the log ends, told once by the writer when it is done.
    pub(super) wal_end: Receiver<WalPosition>,
    pub(super) commands: Weak<SyncSender<WriterCommand>>,
    pub(super) maintenance: SyncSender<MaintenanceTask>,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) fatal: FatalErrorHandler,
}

/// What a step changes besides its records.
#[derive(Default)]
struct StepEffects {
    counts: BTreeMap<i64, i64>,
    /// Blob files that lost their record.
    orphaned_blobs: Vec<i64>,
}

impl Checkpointer {
    /// Folds until the writer is done, and then what is left.
    pub(super) fn run(mut self) {
        if let Err(e) = rustix::process::nice(NICENESS) {
            tracing::debug!(error = %e, "the folder runs with the priority of the rest");
        }
        let (mut groups, mut idle_ticks) = (0, 0_u32);
        loop {
            match self.wal_end.recv_timeout(TICK) {
                Ok(wal_end) => return self.finish(wal_end),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = self.shared.counters.groups.load(Ordering::Relaxed);
            idle_ticks = if now == groups { idle_ticks.saturating_add(1) } else { 0 };
            groups = now;
            let idle = idle_ticks >= IDLE_TICKS;
            let to = self.shared.wal_position();
            let has_segments = self.shared.segments.live_before(to.seq) > 0;
            let expires_at = idle || self.shared.backpressure.should_checkpoint(&self.shared);
            if has_segments && expires_at {
                self.reporting(|checkpointer| checkpointer.checkpoint(to, None));
            } else if expires_at && self.shared.segments.live_before(u64::MAX) > 0 {
                // What the last segment holds can be folded from the next tick on.
                if let Some(commands) = self.commands.upgrade() {
                    let _ = commands.try_send(WriterCommand::RotateSegment);
                }
            } else if idle {
                self.reporting(Checkpointer::vacuum);
            }
            // More than once: the last slots come free only after the last fold.
            if idle && idle_ticks.is_multiple_of(IDLE_TICKS) && self.shared.segments.has_surplus() {
                let _ = self.maintenance.try_send(MaintenanceTask::TrimSegments);
            }
        }
    }

    /// What fails is said, and tried again: until then the log has everything.
    fn reporting(&mut self, work: impl FnOnce(&mut Checkpointer) -> Result<()>) {
        let done = work(self);
        if let Err(e) = &done {
            tracing::error!(error = %e, "the log could not be folded into the database");
        }
        self.shared.backpressure.report_checkpoint(done.err());
    }

    fn finish(&mut self, wal_end: WalPosition) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        // Failing here loses nothing: the next start reads the log.
        if let Err(e) = self.checkpoint(wal_end, Some(deadline)) {
            tracing::warn!(error = %e, "the log could not be folded at the end");
        }
        self.pool.end_idle_snapshots();
        if let Err(e) = sqlite_checkpoint(&self.conn, "TRUNCATE") {
            tracing::warn!(error = %e, "the database's log could not be folded at the end");
        }
    }

    /// Moves all commits before a boundary into the database; gives up at the deadline.
    fn checkpoint(&mut self, to: WalPosition, deadline: Option<Instant>) -> Result<()> {
        let mut after: Option<Bytes> = None;
        loop {
            let (step, reached) = self.next_step(after.as_deref(), to.version);
            if !step.is_empty() {
                self.step(&step)?;
                self.shared.backpressure.report_checkpoint(None);
                self.bound_sqlite_wal();
            }
            if reached.is_none() {
                break;
            }
            after = reached;
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok(());
            }
        }
        self.save_position(to)?;
        self.shared.segments.retire(to.seq);
        let _ = self.maintenance.try_send(MaintenanceTask::AllocateSegments);
        self.shared.backpressure.report_checkpoint(None);
        self.bound_sqlite_wal();
        Ok(())
    }

    /// The next records in order, and the key reached; none when there are no more.
    fn next_step(
        &self,
        after: Option<&[u8]>,
        version: u64,
    ) -> (Vec<(Bytes, MemtableEntry)>, Option<Bytes>) {
        let memtable = self.shared.memtable();
        let (mut step, mut bytes, mut reached) = (Vec::new(), 0, None);
        for (visited, (key, entry)) in memtable.after(after).enumerate() {
            if step.len() >= STEP_RECORDS_MAX
                || bytes >= STEP_BYTES_MAX
                || visited >= 8 * STEP_RECORDS_MAX
            {
                return (step, reached);
            }
            reached = Some(key.clone());
            if entry.version <= version {
                if let BodyLocation::Inline { len, .. } = entry.location {
                    bytes += u64::from(len);
                }
                step.push((key.clone(), entry.clone()));
            }
        }
        (step, None)
    }

    /// One transaction; then readers find its records in the database and no more in the overlay.
    fn step(&self, step: &[(Bytes, MemtableEntry)]) -> Result<()> {
        let done = self.write(step).and_then(|effects| {
            let _guard = self.shared.checkpoint_lock_mut();
            self.conn.execute_batch("COMMIT").map_err(|e| self.storage_error(&e))?;
            // In this order: who does not find a record in the overlay finds it below.
            self.pool.advance_epoch();
            let mut memtable = self.shared.memtable_mut();
            for (first, change) in &effects.counts {
                self.shared.add_to_count(*first, *change);
            }
            for (key, entry) in step {
                memtable.remove_checkpointed(key, entry.version, entry.is_live());
            }
            Ok(effects.orphaned_blobs)
        });
        match done {
            Ok(orphaned_blobs) => {
                for id in orphaned_blobs {
                    let _ = self.maintenance.send(MaintenanceTask::DeleteBlob(id));
                }
                Ok(())
            }
            Err(e) => {
                self.roll_back();
                Err(e)
            }
        }
    }

    fn write(&self, step: &[(Bytes, MemtableEntry)]) -> Result<StepEffects> {
        let sql = |e: rusqlite::Error| self.storage_error(&e);
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let mut statements = Statements::prepare(&self.conn).map_err(sql)?;
        let mut effects = StepEffects::default();
        for (key, entry) in step {
            let body = match (&entry.location, &entry.body_at) {
                // Its checksum goes with it as it is: damage is found when it is read.
                (BodyLocation::Inline { len, .. }, Some((segment, at))) => {
                    segment.read(*at, *len as usize)?
                }
                _ => Vec::new(),
            };
            statements.write(key, entry, &body, &mut effects).map_err(sql)?;
        }
        for (first, change) in effects.counts.iter().filter(|(_, change)| **change != 0) {
            statements.count.execute(params![first, change]).map_err(sql)?;
        }
        Ok(effects)
    }

    fn roll_back(&self) {
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(e) = self.conn.execute_batch("ROLLBACK") {
            self.fatal.stop(&format!("could not roll back: {e}"));
        }
    }

    /// Says durably that the log begins at `to`.
    fn save_position(&self, to: WalPosition) -> Result<()> {
        let numbers = params![to.version.cast_signed(), to.seq.cast_signed()];
        let mark = "UPDATE meta SET last_version = ?1, log_start = ?2 WHERE id = 1";
        execute_synced(&self.conn, mark, numbers).map_err(|e| self.storage_error(&e))
    }

    /// A write or sync of the database that fails for another reason than space ends the process:
    /// nobody knows what is on disk then.
    fn storage_error(&self, e: &rusqlite::Error) -> EngineError {
        if e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
            self.fatal.stop(&format!("could not write the database: {e}"));
        }
        sqlite_error(e)
    }

    /// Keeps the database's own log short.
    fn bound_sqlite_wal(&mut self) {
        let Ok(wal) = sqlite_checkpoint(&self.conn, "NOOP") else { return };
        if self.pending_frames(&wal) > SQLITE_WAL_FRAMES_MAX {
            self.checkpoint_sqlite_wal(&wal);
        }
    }

    /// Frames that could be folded. What a snapshot was found to keep is not looked at again
    /// before as many have come.
    fn pending_frames(&mut self, wal: &SqliteWal) -> i64 {
        if self.blobs.pinned_snapshots() == 0 || self.pinned_frames > wal.frames {
            self.pinned_frames = 0;
        }
        wal.frames - wal.checkpointed.max(self.pinned_frames)
    }

    fn checkpoint_sqlite_wal(&mut self, wal: &SqliteWal) {
        // Before, so that all can be folded.
        self.pool.end_idle_snapshots();
        // The database's log grows on after this, and a power cut could tear the page where what
        // was folded ends. A synced commit leaves no such page.
        let wal_end = sync(&self.conn);
        let checkpointed = wal_end.and_then(|()| sqlite_checkpoint(&self.conn, "PASSIVE"));
        if self.blobs.pinned_snapshots() > 0 && checkpointed.is_ok() {
            self.pinned_frames = wal.frames;
            return;
        }
        // The log starts anew only while nobody reads from it, and under load somebody always does
        // unless snapshots are given up: it would grow for as long as the load lasts.
        let restarted = checkpointed.and_then(|_| {
            self.pool.without_idle_snapshots(|| {
                self.conn.busy_timeout(RESTART_TIMEOUT)?;
                let restarted = sqlite_checkpoint(&self.conn, "RESTART");
                self.conn.busy_timeout(BUSY_TIMEOUT)?;
                restarted
            })
        });
        if let Err(e) = restarted {
            tracing::warn!(error = %e, "the database's log could not be folded");
            let _ = self.storage_error(&e);
        }
    }

    /// Returns free pages to the file system, one small step at a time.
    fn vacuum(&mut self) -> Result<()> {
        loop {
            let free = self.conn.pragma_query_value(None, "freelist_count", |row| row.get(0));
            let free: u32 = free.map_err(|e| sqlite_error(&e))?;
            if free <= FREE_PAGES_MAX {
                break;
            }
            let step = format!("PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})");
            let drained = self.conn.prepare_cached(&step).and_then(|mut statement| {
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            });
            drained.map_err(|e| self.storage_error(&e))?;
            self.pool.advance_epoch();
            self.bound_sqlite_wal();
            if self.shared.segments.live_before(u64::MAX) > 0
                || self.shared.backpressure.is_closing()
            {
                return Ok(());
            }
        }
        let wal = sqlite_checkpoint(&self.conn, "NOOP").map_err(|e| sqlite_error(&e))?;
        let most = if self.blobs.pinned_snapshots() > 0 { SQLITE_WAL_FRAMES_MAX } else { 0 };
        if self.pending_frames(&wal) > most {
            self.checkpoint_sqlite_wal(&wal);
        }
        if wal.frames > 0 && wal.frames == wal.checkpointed {
            // Shortens the file; readers that are in the way are not waited for.
            let wait = |time| self.conn.busy_timeout(time).map_err(|e| sqlite_error(&e));
            wait(Duration::from_millis(20))?;
            let _ = sqlite_checkpoint(&self.conn, "TRUNCATE");
            wait(BUSY_TIMEOUT)?;
        }
        Ok(())
    }
}

/// How long the database's log is, and how much of it the database holds; in frames of one page.
struct SqliteWal {
    frames: i64,
    checkpointed: i64,
}

/// Folds the database's log in a given mode.
fn sqlite_checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<SqliteWal> {
    let mut statement = conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| Ok(SqliteWal { frames: row.get(1)?, checkpointed: row.get(2)? }))
}

struct Statements<'c> {
    find: CachedStatement<'c>,
    put: CachedStatement<'c>,
    remove: CachedStatement<'c>,
    body_insert: CachedStatement<'c>,
    body_update: CachedStatement<'c>,
    body_remove: CachedStatement<'c>,
    blob_insert: CachedStatement<'c>,
    blob_remove: CachedStatement<'c>,
    count: CachedStatement<'c>,
    /// A row's data, in memory that is used again.
    data: Vec<u8>,
}

impl<'c> Statements<'c> {
    fn prepare(conn: &'c Connection) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            find: conn.prepare_cached("SELECT data FROM heads WHERE key = ?1")?,
            put: conn.prepare_cached(
                "INSERT INTO heads (key, due, data) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (key) DO UPDATE SET due = ?2, data = ?3",
            )?,
            remove: conn.prepare_cached("DELETE FROM heads WHERE key = ?1")?,
            body_insert: conn.prepare_cached("INSERT INTO bodies (sum, body) VALUES (?1, ?2)")?,
            body_update: conn
                .prepare_cached("UPDATE bodies SET sum = ?2, body = ?3 WHERE id = ?1")?,
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

    fn write(
        &mut self,
        key: &Bytes,
        entry: &MemtableEntry,
        body: &[u8],
        effects: &mut StepEffects,
    ) -> rusqlite::Result<()> {
        let first = i64::from(key.first().copied().unwrap_or_default());
        let body_ref = |row: &Row<'_>| {
            let data = row.get_ref(0)?.as_blob()?;
            // A damaged record is replaced; its body, wherever it is, stays as garbage.
            Ok(RecordRow::decode(key, data).map_or(0, |data| data.body_ref))
        };
        let old = self.find.query_row(params![&key[..]], body_ref).optional()?;
        if !entry.is_live() {
            if let Some(body_ref) = old {
                self.free_body(body_ref, effects)?;
                self.remove.execute(params![&key[..]])?;
                *effects.counts.entry(first).or_default() -= 1;
            }
            return Ok(());
        }
        let body_ref = self.store_body(entry, body, old.unwrap_or(0), effects)?;
        let data = RecordRow {
            version: entry.version,
            expires_at: entry.expires_at,
            body_ref,
            meta: &entry.meta,
        };
        data.encode(key, &mut self.data);
        self.put.execute(params![&key[..], entry.expires_at.cast_signed(), &self.data[..]])?;
        if old.is_none() {
            *effects.counts.entry(first).or_default() += 1;
        }
        Ok(())
    }

    /// Puts a body where it belongs, in the place of the one at `old` if it fits there.
    fn store_body(
        &mut self,
        entry: &MemtableEntry,
        body: &[u8],
        old: i64,
        effects: &mut StepEffects,
    ) -> rusqlite::Result<i64> {
        match entry.location {
            BodyLocation::Removed | BodyLocation::Empty => {
                self.free_body(old, effects)?;
                Ok(0)
            }
            BodyLocation::Inline { checksum, .. } if old > 0 => {
                self.body_update.execute(params![old, checksum, body])?;
                Ok(old)
            }
            BodyLocation::Inline { checksum, .. } => {
                self.free_body(old, effects)?;
                self.body_insert.insert(params![checksum, body])
            }
            // The log is read again after a crash, and may name what the database already has.
            BodyLocation::Blob { id, .. } if old == -id => Ok(old),
            BodyLocation::Blob { id, len } => {
                self.free_body(old, effects)?;
                let size = i64::try_from(len).unwrap_or(i64::MAX);
                self.blob_insert.execute(params![id, size])?;
                *effects.counts.entry(BLOB_BYTES_COUNTER).or_default() += size;
                Ok(-id)
            }
        }
    }

    /// Frees the place of a body that is replaced or removed.
    fn free_body(&mut self, body_ref: i64, effects: &mut StepEffects) -> rusqlite::Result<()> {
        if body_ref > 0 {
            self.body_remove.execute(params![body_ref])?;
        } else if body_ref < 0 {
            let freed = self.blob_remove.query_row(params![-body_ref], |row| row.get::<_, i64>(0));
            let freed = freed.optional()?.unwrap_or(0);
            *effects.counts.entry(BLOB_BYTES_COUNTER).or_default() -= freed;
            effects.orphaned_blobs.push(-body_ref);
        }
        Ok(())
    }
}
