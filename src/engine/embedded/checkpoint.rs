//! The folder: a thread that moves what the log holds into the database, in large ordered steps,
//! and gives space back. The log's segments are free again once the database has their commits
//! durably.
//!
//! A step is one transaction that is not synced: the log has everything until the fold's last
//! transaction, which is, and which says where the log now begins.

use super::super::{EngineError, Result};
use super::blob_files::Blobs;
use super::connection_pool::Readers;
use super::database::{BLOB_BYTES, BUSY, Data, failed, sync, synced};
use super::maintenance::Chore;
use super::memtable::Entry;
use super::wal::record::Home;
use super::writer::Task;
use super::{Boundary, FatalErrorHandler, Shared};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, Row, params};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Records and bytes of bodies in one step at most.
const STEP_RECORDS: usize = 512;
const STEP_BYTES: u64 = 1 << 20;
/// The folder looks so often whether there is something to do.
const TICK: Duration = Duration::from_millis(100);
/// Without a commit for so many ticks the server counts as idle.
const IDLE_TICKS: u32 = 5;
/// Frames (8 KiB pages) of the database's own log after which it is folded too: 16 MiB.
const WAL_FRAMES_FOLD: i64 = 2048;
/// For how long the folder waits for reads to end, so that that log can start anew.
const RESTART_WAIT: Duration = Duration::from_millis(100);
/// Free pages given back in one step (256 KiB), and how many may stay for what comes next (4 MiB).
const VACUUM_STEP: u32 = 32;
const FREE_PAGES_KEPT: u32 = 512;
/// Closing folds for so long at most; what is left is read from the log at the next start.
const CLOSE: Duration = Duration::from_secs(4);
/// How much nicer than the rest this thread is: requests come first.
const NICE: i32 = 10;

/// What the folder thread owns.
pub(super) struct Folder {
    pub(super) conn: Connection,
    /// How long the database's log was when a snapshot last kept it from being folded; in frames.
    pub(super) kept: i64,
    pub(super) blobs: Arc<Blobs>,
    /// Where the log ends, told once by the writer when it is done.
    pub(super) end: Receiver<Boundary>,
    pub(super) tasks: Weak<SyncSender<Task>>,
    pub(super) keeper: SyncSender<Chore>,
    pub(super) shared: Arc<Shared>,
    pub(super) readers: Arc<Readers>,
    pub(super) fatal: FatalErrorHandler,
}

/// What a step changes besides its records.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<i64, i64>,
    /// Blob files that lost their record.
    dropped: Vec<i64>,
}

impl Folder {
    /// Folds until the writer is done, and then what is left.
    pub(super) fn run(mut self) {
        if let Err(e) = rustix::process::nice(NICE) {
            tracing::debug!(error = %e, "the folder runs with the priority of the rest");
        }
        let (mut groups, mut quiet) = (0, 0_u32);
        loop {
            match self.end.recv_timeout(TICK) {
                Ok(end) => return self.finish(end),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = self.shared.figures.groups.load(Ordering::Relaxed);
            quiet = if now == groups { quiet.saturating_add(1) } else { 0 };
            groups = now;
            let idle = quiet >= IDLE_TICKS;
            let to = self.shared.boundary();
            let some = self.shared.slots.live_before(to.seq) > 0;
            let expires_at = idle || self.shared.pressure.expired(&self.shared);
            if some && expires_at {
                self.report(|folder| folder.fold(to, None));
            } else if expires_at && self.shared.slots.live_before(u64::MAX) > 0 {
                // What the last segment holds can be folded from the next tick on.
                if let Some(tasks) = self.tasks.upgrade() {
                    let _ = tasks.try_send(Task::Rotate);
                }
            } else if idle {
                self.report(Folder::give_space_back);
            }
            // More than once: the last slots come free only after the last fold.
            if idle && quiet.is_multiple_of(IDLE_TICKS) && self.shared.slots.unsettled() {
                let _ = self.keeper.try_send(Chore::Settle);
            }
        }
    }

    /// What fails is said, and tried again: until then the log has everything.
    fn report(&mut self, work: impl FnOnce(&mut Folder) -> Result<()>) {
        let done = work(self);
        if let Err(e) = &done {
            tracing::error!(error = %e, "the log could not be folded into the database");
        }
        self.shared.pressure.tell(done.err());
    }

    fn finish(&mut self, end: Boundary) {
        let deadline = Instant::now() + CLOSE;
        // Failing here loses nothing: the next start reads the log.
        if let Err(e) = self.fold(end, Some(deadline)) {
            tracing::warn!(error = %e, "the log could not be folded at the end");
        }
        self.readers.release();
        if let Err(e) = checkpoint(&self.conn, "TRUNCATE") {
            tracing::warn!(error = %e, "the database's log could not be folded at the end");
        }
    }

    /// Moves all commits before a boundary into the database; gives up at the deadline.
    fn fold(&mut self, to: Boundary, deadline: Option<Instant>) -> Result<()> {
        let mut after: Option<Bytes> = None;
        loop {
            let (step, reached) = self.gather(after.as_deref(), to.version);
            if !step.is_empty() {
                self.step(&step)?;
                self.shared.pressure.tell(None);
                self.limit_wal();
            }
            if reached.is_none() {
                break;
            }
            after = reached;
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok(());
            }
        }
        self.move_mark(to)?;
        self.shared.slots.retire(to.seq);
        let _ = self.keeper.try_send(Chore::Prepare);
        self.shared.pressure.tell(None);
        self.limit_wal();
        Ok(())
    }

    /// The next records in order, and the key reached; none when there are no more.
    fn gather(&self, after: Option<&[u8]>, version: u64) -> (Vec<(Bytes, Entry)>, Option<Bytes>) {
        let overlay = self.shared.overlay();
        let (mut step, mut bytes, mut reached) = (Vec::new(), 0, None);
        for (looked, (key, entry)) in overlay.after(after).enumerate() {
            if step.len() >= STEP_RECORDS || bytes >= STEP_BYTES || looked >= 8 * STEP_RECORDS {
                return (step, reached);
            }
            reached = Some(key.clone());
            if entry.version <= version {
                if let Home::Inline { len, .. } = entry.home {
                    bytes += u64::from(len);
                }
                step.push((key.clone(), entry.clone()));
            }
        }
        (step, None)
    }

    /// One transaction; then readers find its records in the database and no more in the overlay.
    fn step(&self, step: &[(Bytes, Entry)]) -> Result<()> {
        let done = self.write(step).and_then(|tally| {
            let _view = self.shared.view_mut();
            self.conn.execute_batch("COMMIT").map_err(|e| self.storage_failed(&e))?;
            // In this order: who does not find a record in the overlay finds it below.
            self.readers.advance();
            let mut overlay = self.shared.overlay_mut();
            for (first, change) in &tally.counts {
                self.shared.count(*first, *change);
            }
            for (key, entry) in step {
                overlay.folded(key, entry.version, entry.live());
            }
            Ok(tally.dropped)
        });
        match done {
            Ok(dropped) => {
                for id in dropped {
                    let _ = self.keeper.send(Chore::Unlink(id));
                }
                Ok(())
            }
            Err(e) => {
                self.roll_back();
                Err(e)
            }
        }
    }

    fn write(&self, step: &[(Bytes, Entry)]) -> Result<Tally> {
        let sql = |e: rusqlite::Error| self.storage_failed(&e);
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let mut statements = Statements::prepare(&self.conn).map_err(sql)?;
        let mut tally = Tally::default();
        for (key, entry) in step {
            let body = match (&entry.home, &entry.place) {
                // Its checksum goes with it as it is: damage is found when it is read.
                (Home::Inline { len, .. }, Some((segment, at))) => {
                    segment.read(*at, *len as usize)?
                }
                _ => Vec::new(),
            };
            statements.write(key, entry, &body, &mut tally).map_err(sql)?;
        }
        for (first, change) in tally.counts.iter().filter(|(_, change)| **change != 0) {
            statements.count.execute(params![first, change]).map_err(sql)?;
        }
        Ok(tally)
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
    fn move_mark(&self, to: Boundary) -> Result<()> {
        let numbers = params![to.version.cast_signed(), to.seq.cast_signed()];
        let mark = "UPDATE meta SET last_version = ?1, log_start = ?2 WHERE id = 1";
        synced(&self.conn, mark, numbers).map_err(|e| self.storage_failed(&e))
    }

    /// A write or sync of the database that fails for another reason than space ends the process:
    /// nobody knows what is on disk then.
    fn storage_failed(&self, e: &rusqlite::Error) -> EngineError {
        if e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
            self.fatal.stop(&format!("could not write the database: {e}"));
        }
        failed(e)
    }

    /// Keeps the database's own log short.
    fn limit_wal(&mut self) {
        let Ok(log) = checkpoint(&self.conn, "NOOP") else { return };
        if self.unfolded(&log) > WAL_FRAMES_FOLD {
            self.fold_wal(&log);
        }
    }

    /// Frames that could be folded. What a snapshot was found to keep is not looked at again
    /// before as many have come.
    fn unfolded(&mut self, log: &Log) -> i64 {
        if self.blobs.pins() == 0 || self.kept > log.frames {
            self.kept = 0;
        }
        log.frames - log.folded.max(self.kept)
    }

    fn fold_wal(&mut self, log: &Log) {
        // Before, so that all can be folded.
        self.readers.release();
        // The database's log grows on after this, and a power cut could tear the page where what
        // was folded ends. A synced commit leaves no such page.
        let end = sync(&self.conn);
        let folded = end.and_then(|()| checkpoint(&self.conn, "PASSIVE"));
        if self.blobs.pins() > 0 && folded.is_ok() {
            self.kept = log.frames;
            return;
        }
        // The log starts anew only while nobody reads from it, and under load somebody always does
        // unless snapshots are given up: it would grow for as long as the load lasts.
        let restarted = folded.and_then(|_| {
            self.readers.releasing(|| {
                self.conn.busy_timeout(RESTART_WAIT)?;
                let restarted = checkpoint(&self.conn, "RESTART");
                self.conn.busy_timeout(BUSY)?;
                restarted
            })
        });
        if let Err(e) = restarted {
            tracing::warn!(error = %e, "the database's log could not be folded");
            let _ = self.storage_failed(&e);
        }
    }

    /// Returns free pages to the file system, one small step at a time.
    fn give_space_back(&mut self) -> Result<()> {
        loop {
            let free = self.conn.pragma_query_value(None, "freelist_count", |row| row.get(0));
            let free: u32 = free.map_err(|e| failed(&e))?;
            if free <= FREE_PAGES_KEPT {
                break;
            }
            let step = format!("PRAGMA incremental_vacuum({VACUUM_STEP})");
            let drained = self.conn.prepare_cached(&step).and_then(|mut statement| {
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            });
            drained.map_err(|e| self.storage_failed(&e))?;
            self.readers.advance();
            self.limit_wal();
            if self.shared.slots.live_before(u64::MAX) > 0 || self.shared.pressure.closing() {
                return Ok(());
            }
        }
        let log = checkpoint(&self.conn, "NOOP").map_err(|e| failed(&e))?;
        let most = if self.blobs.pins() > 0 { WAL_FRAMES_FOLD } else { 0 };
        if self.unfolded(&log) > most {
            self.fold_wal(&log);
        }
        if log.frames > 0 && log.frames == log.folded {
            // Shortens the file; readers that are in the way are not waited for.
            let wait = |time| self.conn.busy_timeout(time).map_err(|e| failed(&e));
            wait(Duration::from_millis(20))?;
            let _ = checkpoint(&self.conn, "TRUNCATE");
            wait(BUSY)?;
        }
        Ok(())
    }
}

/// How long the database's log is, and how much of it the database holds; in frames of one page.
struct Log {
    frames: i64,
    folded: i64,
}

/// Folds the database's log in a given mode.
fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<Log> {
    let mut statement = conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| Ok(Log { frames: row.get(1)?, folded: row.get(2)? }))
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
        entry: &Entry,
        body: &[u8],
        tally: &mut Tally,
    ) -> rusqlite::Result<()> {
        let first = i64::from(key.first().copied().unwrap_or_default());
        let home = |row: &Row<'_>| {
            let data = row.get_ref(0)?.as_blob()?;
            // A damaged record is replaced; its body, wherever it is, stays as garbage.
            Ok(Data::decode(key, data).map_or(0, |data| data.home))
        };
        let old = self.find.query_row(params![&key[..]], home).optional()?;
        if !entry.live() {
            if let Some(home) = old {
                self.vacate(home, tally)?;
                self.remove.execute(params![&key[..]])?;
                *tally.counts.entry(first).or_default() -= 1;
            }
            return Ok(());
        }
        let home = self.place(entry, body, old.unwrap_or(0), tally)?;
        let data =
            Data { version: entry.version, expires_at: entry.expires_at, home, meta: &entry.meta };
        data.encode(key, &mut self.data);
        self.put.execute(params![&key[..], entry.expires_at.cast_signed(), &self.data[..]])?;
        if old.is_none() {
            *tally.counts.entry(first).or_default() += 1;
        }
        Ok(())
    }

    /// Puts a body where it belongs, in the place of the one at `old` if it fits there.
    fn place(
        &mut self,
        entry: &Entry,
        body: &[u8],
        old: i64,
        tally: &mut Tally,
    ) -> rusqlite::Result<i64> {
        match entry.home {
            Home::Removed | Home::Empty => {
                self.vacate(old, tally)?;
                Ok(0)
            }
            Home::Inline { sum, .. } if old > 0 => {
                self.body_update.execute(params![old, sum, body])?;
                Ok(old)
            }
            Home::Inline { sum, .. } => {
                self.vacate(old, tally)?;
                self.body_insert.insert(params![sum, body])
            }
            // The log is read again after a crash, and may name what the database already has.
            Home::Blob { id, .. } if old == -id => Ok(old),
            Home::Blob { id, len } => {
                self.vacate(old, tally)?;
                let size = i64::try_from(len).unwrap_or(i64::MAX);
                self.blob_insert.execute(params![id, size])?;
                *tally.counts.entry(BLOB_BYTES).or_default() += size;
                Ok(-id)
            }
        }
    }

    /// Frees the place of a body that is replaced or removed.
    fn vacate(&mut self, home: i64, tally: &mut Tally) -> rusqlite::Result<()> {
        if home > 0 {
            self.body_remove.execute(params![home])?;
        } else if home < 0 {
            let freed = self.blob_remove.query_row(params![-home], |row| row.get::<_, i64>(0));
            let freed = freed.optional()?.unwrap_or(0);
            *tally.counts.entry(BLOB_BYTES).or_default() -= freed;
            tally.dropped.push(-home);
        }
        Ok(())
    }
}
