//! The checkpointer thread: moves commits from the WAL to the database in batched transactions, and
//! returns free pages to the file system.
//!
//! A checkpoint consists of steps. Each step is one transaction without fsync, since the WAL still
//! has its commits. The last transaction is synced and stores the new checkpoint position. Only
//! then is a WAL segment retired if no record in the database refers to it.
//!
//! A checkpoint does not copy bodies: a record in the database refers to its body in the WAL
//! segment. The memtable contains only durable commits, so every body is fsynced before a record in
//! the database refers to it.

use super::super::{EngineError, Result};
use super::blob_files::BlobFiles;
use super::connection_pool::ConnectionPool;
use super::database::{BUSY_TIMEOUT, execute_synced, is_disk_full, save_wal_end, sync};
use super::garbage_collection::GarbageCollector;
use super::maintenance::MaintenanceTask;
use super::memtable::MemtableEntry;
use super::migration::Migration;
use super::row_writer::{RowWriter, StepEffects};
use super::writer::WriterCommand;
use super::{FatalErrorHandler, Shared, WalPosition};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, params};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Maximum number of records in a step.
const STEP_RECORDS_MAX: usize = 512;
/// Number of entries that are copied or removed while the memtable is locked. It is low, because
/// this thread has a low priority and may be preempted while commits wait for the lock.
const LOCKED_ENTRIES: usize = 32;
/// Interval between checks for work.
const TICK: Duration = Duration::from_millis(100);
/// Number of commit groups per tick above which the server counts as busy.
const BUSY_GROUPS_MIN: u64 = 50;
/// Ticks without a commit after which the server counts as idle.
const IDLE_TICKS: u32 = 5;
/// Minimum interval between updates of the end of the WAL under load, as each one is fsynced.
const WAL_END_INTERVAL: Duration = Duration::from_secs(1);
/// Interval, in ticks, after which connections that were not used are closed.
const CLOSE_UNUSED_TICKS: u64 = 100;
/// Size of SQLite's WAL that triggers an SQLite checkpoint, in frames of one 8 KiB page: 16 MiB.
const SQLITE_WAL_FRAMES_MAX: i64 = 2048;
/// Time to wait for readers, so that SQLite can restart its WAL.
const RESTART_TIMEOUT: Duration = Duration::from_millis(100);
/// Free pages returned per step (256 KiB), and free pages kept for reuse (4 MiB).
const VACUUM_STEP_PAGES: u32 = 32;
const FREE_PAGES_MAX: u32 = 512;
/// Time limit of the checkpoint on close; the next start recovers the rest from the WAL.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);
/// Niceness of this thread, so that requests take precedence.
const NICENESS: i32 = 10;

pub(super) struct Checkpointer {
    pub(super) conn: Connection,
    /// Length of SQLite's WAL, in frames, when a snapshot last prevented a checkpoint of it.
    pub(super) pinned_frames: i64,
    /// The end of the WAL as last stored in the database, and when it was stored.
    pub(super) saved_wal_end: (u64, Option<Instant>),
    pub(super) blobs: Arc<BlobFiles>,
    /// Receives the end of the WAL when the writer thread ends.
    pub(super) wal_end: Receiver<WalPosition>,
    pub(super) garbage: GarbageCollector,
    pub(super) migration: Migration,
    /// The last relocation request that was withdrawn; see [`Checkpointer::can_relocate`].
    pub(super) withdrawn: Option<Arc<AtomicBool>>,
    pub(super) commands: Weak<SyncSender<WriterCommand>>,
    pub(super) maintenance: SyncSender<MaintenanceTask>,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) fatal: FatalErrorHandler,
}

/// The records of a step, in key order.
type Step = Vec<(Bytes, MemtableEntry)>;

impl Checkpointer {
    /// Runs checkpoints until the writer thread ends, then a final one.
    pub(super) fn run(mut self) {
        if let Err(e) = rustix::process::nice(NICENESS) {
            tracing::debug!(error = %e, "could not lower the checkpointer's priority");
        }
        let (mut groups, mut idle_ticks, mut is_busy) = (0, 0_u32, true);
        for tick in 1_u64.. {
            match self.wait(is_busy) {
                Ok(wal_end) => return self.finish(wal_end),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Once the engine has been dropped, its directory may be removed as well.
            if self.commands.strong_count() > 0
                && let Err(e) = self.shared.dir.ensure_in_place()
            {
                self.fatal.stop(&e.to_string());
            }
            self.save_wal_end();
            if tick.is_multiple_of(CLOSE_UNUSED_TICKS) {
                self.pool.close_unused();
            }
            let groups_now = self.shared.counters.groups.load(Ordering::Relaxed);
            idle_ticks = if groups_now == groups { idle_ticks.saturating_add(1) } else { 0 };
            is_busy = groups_now - groups > BUSY_GROUPS_MIN;
            groups = groups_now;
            let idle = idle_ticks >= IDLE_TICKS;
            let to = self.shared.wal_position();
            let has_segments = self.shared.segments.live_before(to.seq) > 0;
            // A checkpoint would seal the partly filled segment that contains the latest
            // relocations. An idle server therefore starts none until the relocations end.
            let is_relocating = self.garbage.is_running() || self.migration.is_running();
            // On a full disk, writes may fail until a checkpoint retires segments.
            let is_blocked = idle_ticks > 0 && self.shared.segments.was_refused();
            let should_run = (idle || is_blocked) && !is_relocating
                || self.shared.backpressure.should_checkpoint(&self.shared)
                || self.garbage.collected_bytes() >= self.shared.backpressure.wal_bytes();
            if has_segments && should_run {
                self.run_task(|checkpointer| checkpointer.checkpoint_on_full_disk(to));
            } else if should_run && self.shared.segments.live_before(u64::MAX) > 0 {
                // The rotated segment is checkpointed at the next tick.
                if let Some(commands) = self.commands.upgrade() {
                    let _ = commands.try_send(WriterCommand::RotateSegment);
                }
            } else if idle && !is_relocating {
                self.run_task(Checkpointer::vacuum);
            }
            // This is repeated, because the last files become free only after the last checkpoint.
            if idle && idle_ticks.is_multiple_of(IDLE_TICKS) && self.shared.segments.has_surplus() {
                let _ = self.maintenance.try_send(MaintenanceTask::TrimSegments);
            }
        }
    }

    /// Waits for one tick. Collects garbage during the tick. If there is no garbage to collect and
    /// the server is not busy, migrates bodies during the first half of the tick. Returns the end
    /// of the WAL if the writer thread has ended.
    fn wait(&mut self, is_busy: bool) -> Result<WalPosition, RecvTimeoutError> {
        let start = Instant::now();
        let (end, migration_end) = (start + TICK, start + TICK / 2);
        while Instant::now() < end
            && (self.collect_garbage()
                || !is_busy && Instant::now() < migration_end && self.migrate_bodies())
        {
            match self.wal_end.try_recv() {
                Ok(wal_end) => return Ok(wal_end),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
        }
        self.wal_end.recv_timeout(end.saturating_duration_since(Instant::now()))
    }

    /// Runs a task and reports its result to stalled writers. A failed checkpoint is logged and
    /// retried; the WAL still has every commit.
    fn run_task(&mut self, task: impl FnOnce(&mut Checkpointer) -> Result<()>) {
        let result = task(self);
        if let Err(e) = &result {
            tracing::error!(error = %e, "checkpoint failed");
        }
        self.shared.backpressure.report_checkpoint(result.err());
    }

    fn finish(&mut self, wal_end: WalPosition) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        // On failure nothing is lost: the next start recovers from the WAL.
        if let Err(e) = self.checkpoint(wal_end, Some(deadline)) {
            tracing::warn!(error = %e, "final checkpoint failed");
        }
        self.pool.end_idle_snapshots();
        if let Err(e) = sqlite_checkpoint(&self.conn, "TRUNCATE") {
            tracing::warn!(error = %e, "final SQLite checkpoint failed");
        }
    }

    /// Runs a checkpoint. If the database cannot grow because the disk is full, restarts SQLite's
    /// WAL, or deletes a reserved segment file, and continues.
    fn checkpoint_on_full_disk(&mut self, to: WalPosition) -> Result<()> {
        let mut remaining = usize::MAX;
        loop {
            let result = self.checkpoint(to, None);
            if !matches!(result, Err(EngineError::Full(_))) {
                return result;
            }
            let before = std::mem::replace(&mut remaining, self.shared.memtable().len());
            if remaining >= before && !self.shared.segments.release_reserve()? {
                return result;
            }
            // SQLite then overwrites its WAL from the start, which needs no further space.
            let wal = sqlite_checkpoint(&self.conn, "NOOP")?;
            self.checkpoint_sqlite_wal(&wal);
        }
    }

    /// Moves all commits before `to` into the database. Stops between steps after the deadline.
    pub(super) fn checkpoint(&mut self, to: WalPosition, deadline: Option<Instant>) -> Result<()> {
        let mut after: Option<Bytes> = None;
        loop {
            let (step, last_key) = self.next_step(after.as_deref(), to.version);
            if !step.is_empty() {
                self.apply_step(&step)?;
                self.shared.backpressure.report_checkpoint(None);
                self.bound_sqlite_wal();
            }
            if deadline.is_none() {
                self.collect_garbage_during_checkpoint();
            }
            if last_key.is_none() {
                break;
            }
            after = last_key;
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok(());
            }
        }
        self.save_position(to)?;
        // If the database file was removed, the segments are now the only copy of the commits.
        self.shared.dir.ensure_in_place()?;
        // Order matters: syncing the position also syncs the steps that removed the last reference
        // to a segment. Only then may the file of the segment be overwritten.
        self.shared.segments.seal_before(to.seq);
        self.shared.adapt_sizes();
        let segments = &self.shared.segments;
        self.garbage.end_checkpoint(|seq| segments.find(seq).is_some());
        self.shared.memtable_mut().hidden_mut().end_checkpoint();
        let _ = self.maintenance.try_send(MaintenanceTask::AllocateSegments);
        self.shared.backpressure.report_checkpoint(None);
        self.bound_sqlite_wal();
        Ok(())
    }

    /// Returns the next records in key order up to `version`, and the last key visited; `None` at
    /// the end of the memtable.
    fn next_step(&self, after: Option<&[u8]>, version: u64) -> (Step, Option<Bytes>) {
        let (mut step, mut last_key) = (Vec::new(), after.map(Bytes::copy_from_slice));
        for _ in 0..8 * STEP_RECORDS_MAX / LOCKED_ENTRIES {
            let memtable = self.shared.memtable();
            let entries = memtable.after(last_key.as_deref()).take(LOCKED_ENTRIES);
            let entries: Vec<_> =
                entries.map(|(key, entry)| (Bytes::copy_from_slice(key), entry.clone())).collect();
            drop(memtable);
            let is_end = entries.len() < LOCKED_ENTRIES;
            last_key = entries.last().map(|(key, _)| key.clone());
            step.extend(entries.into_iter().filter(|(_, entry)| entry.version <= version));
            if is_end {
                return (step, None);
            }
            if step.len() + LOCKED_ENTRIES > STEP_RECORDS_MAX {
                break;
            }
        }
        (step, last_key)
    }

    /// Writes one step in a transaction, then drops its records from the memtable.
    fn apply_step(&mut self, step: &[(Bytes, MemtableEntry)]) -> Result<()> {
        let result = self.write_step(step).and_then(|effects| {
            let _guard = self.shared.checkpoint_lock_mut();
            self.conn.execute_batch("COMMIT").map_err(|e| self.storage_error(e))?;
            // Order matters: a reader that misses a record in the memtable must find it in the
            // database.
            self.pool.advance_epoch();
            let expiring = step.iter().filter(|(_, entry)| entry.is_live() && entry.expires_at > 0);
            let earliest = expiring.map(|(key, entry)| (entry.expires_at, key.clone())).min();
            if let Some(earliest) = earliest {
                let mut position = self.shared.expiry_position();
                *position = earliest.min(position.clone());
            }
            for (first, delta) in &effects.counts {
                self.shared.add_to_count(*first, *delta);
            }
            for entries in step.chunks(LOCKED_ENTRIES) {
                let mut memtable = self.shared.memtable_mut();
                for (key, entry) in entries {
                    memtable.remove_checkpointed(key, entry);
                }
            }
            let changes = effects.segments.iter().map(|(seq, change)| (*seq, change.bytes));
            self.shared.segments.add_live_bytes(changes);
            Ok(effects)
        });
        let effects = result.inspect_err(|_| self.roll_back())?;
        self.garbage.replaced.add(&effects.replaced_bodies);
        for id in effects.orphaned_blobs {
            // May block while many files are being deleted: no reply waits for this thread, and the
            // number of files to delete stays bounded.
            let _ = self.maintenance.send(MaintenanceTask::DeleteBlob(id));
        }
        Ok(())
    }

    fn write_step(&self, step: &[(Bytes, MemtableEntry)]) -> Result<StepEffects> {
        let sql = |e| self.storage_error(e);
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let mut rows = RowWriter::prepare(&self.conn).map_err(sql)?;
        let mut effects = StepEffects::default();
        for (key, entry) in step {
            rows.write(key, entry, &mut effects).map_err(sql)?;
        }
        for (seq, change) in &effects.segments {
            rows.change_segment(*seq, *change).map_err(sql)?;
        }
        for (first, delta) in effects.counts.iter().filter(|(_, delta)| **delta != 0) {
            rows.count.execute(params![first, delta]).map_err(sql)?;
        }
        Ok(effects)
    }

    fn roll_back(&self) {
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(e) = self.conn.execute_batch("ROLLBACK") {
            self.fatal.stop(&format!("could not roll back a transaction: {e}"));
        }
    }

    /// Durably stores the position at which the WAL now starts.
    fn save_position(&self, to: WalPosition) -> Result<()> {
        let position = params![to.version.cast_signed(), to.seq.cast_signed()];
        let update = "UPDATE meta SET last_version = ?1, log_start = ?2 WHERE id = 1";
        execute_synced(&self.conn, update, position).map_err(|e| self.storage_error(e))
    }

    /// Stores the end of the WAL in the database if it has advanced.
    fn save_wal_end(&mut self) {
        let (saved, saved_at) = self.saved_wal_end;
        let wal_end = self.shared.wal_end.load(Ordering::Acquire);
        if wal_end == saved || saved_at.is_some_and(|at| at.elapsed() < WAL_END_INTERVAL) {
            return;
        }
        let saved = match save_wal_end(&self.conn, wal_end) {
            Ok(()) => wal_end,
            Err(e) => {
                // This is retried later. Until then, the loss of the newest segment is not
                // detected.
                tracing::debug!(error = %e, "could not store the end of the WAL");
                let _ = self.storage_error(e);
                saved
            }
        };
        self.saved_wal_end = (saved, Some(Instant::now()));
    }

    /// Converts an SQLite error. An I/O error stops the process, because the state on disk is
    /// unknown.
    fn storage_error(&self, e: rusqlite::Error) -> EngineError {
        if e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) && !is_disk_full(&e) {
            self.fatal.stop(&format!("could not write the database: {e}"));
        }
        e.into()
    }

    /// Checkpoints SQLite's WAL when it exceeds its limit.
    fn bound_sqlite_wal(&mut self) {
        let Ok(wal) = sqlite_checkpoint(&self.conn, "NOOP") else { return };
        if self.pending_frames(&wal) > SQLITE_WAL_FRAMES_MAX {
            self.checkpoint_sqlite_wal(&wal);
        }
    }

    /// Returns the number of frames that an SQLite checkpoint could move. While a snapshot pins the
    /// WAL, only frames added since the last attempt count.
    fn pending_frames(&mut self, wal: &SqliteWal) -> i64 {
        if self.blobs.pinned_snapshots() == 0 || self.pinned_frames > wal.frames {
            self.pinned_frames = 0;
        }
        wal.frames - wal.checkpointed.max(self.pinned_frames)
    }

    fn checkpoint_sqlite_wal(&mut self, wal: &SqliteWal) {
        // Idle snapshots limit how much SQLite can checkpoint.
        self.pool.end_idle_snapshots();
        // SQLite appends to its WAL after this, and a power failure could tear the page shared with
        // the last checkpointed frame. A synced commit pads that page.
        let synced = sync(&self.conn);
        let checkpointed = synced.and_then(|()| sqlite_checkpoint(&self.conn, "PASSIVE"));
        if self.blobs.pinned_snapshots() > 0 && checkpointed.is_ok() {
            self.pinned_frames = wal.frames;
            return;
        }
        // SQLite restarts its WAL only when no snapshot reads from it. Under constant load, idle
        // connections must therefore end theirs; otherwise the WAL would grow without bound.
        let restarted = checkpointed.and_then(|_| {
            self.pool.without_idle_snapshots(|| {
                self.conn.busy_timeout(RESTART_TIMEOUT)?;
                let restarted = sqlite_checkpoint(&self.conn, "RESTART");
                self.conn.busy_timeout(BUSY_TIMEOUT)?;
                restarted
            })
        });
        if let Err(e) = restarted {
            tracing::warn!(error = %e, "SQLite checkpoint failed");
            let _ = self.storage_error(e);
        }
    }

    /// Returns free pages to the file system in small steps.
    fn vacuum(&mut self) -> Result<()> {
        while self.vacuum_step()? {
            if self.shared.segments.live_before(u64::MAX) > 0
                || self.shared.backpressure.is_closing()
            {
                return Ok(());
            }
        }
        let wal = sqlite_checkpoint(&self.conn, "NOOP")?;
        let frames_max = if self.blobs.pinned_snapshots() > 0 { SQLITE_WAL_FRAMES_MAX } else { 0 };
        if self.pending_frames(&wal) > frames_max {
            self.checkpoint_sqlite_wal(&wal);
        }
        if wal.frames > 0 && wal.frames == wal.checkpointed {
            // Truncates the WAL file unless readers prevent it.
            self.conn.busy_timeout(Duration::from_millis(20))?;
            let _ = sqlite_checkpoint(&self.conn, "TRUNCATE");
            self.conn.busy_timeout(BUSY_TIMEOUT)?;
        }
        Ok(())
    }

    /// Returns some free pages of the database to the file system if more than [`FREE_PAGES_MAX`]
    /// are free. Returns whether it did so.
    pub(super) fn vacuum_step(&mut self) -> Result<bool> {
        let free = self.conn.pragma_query_value(None, "freelist_count", |row| row.get(0));
        let free: u32 = free?;
        if free <= FREE_PAGES_MAX {
            return Ok(false);
        }
        let step = format!("PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})");
        let vacuumed = self.conn.prepare_cached(&step).and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        vacuumed.map_err(|e| self.storage_error(e))?;
        self.pool.advance_epoch();
        self.bound_sqlite_wal();
        Ok(true)
    }
}

/// Size of SQLite's own WAL, in frames of one page, and how many of them are checkpointed.
struct SqliteWal {
    frames: i64,
    checkpointed: i64,
}

fn sqlite_checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<SqliteWal> {
    let mut statement = conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| Ok(SqliteWal { frames: row.get(1)?, checkpointed: row.get(2)? }))
}
