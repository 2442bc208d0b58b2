//! The one writer: a thread that takes all commits that wait, checks each against the state its
//! predecessors leave, writes those that hold in one transaction, syncs once, and answers.

use super::super::{Body, Commit, EngineError, Expect, NewRecord, Outcome, Result, Write};
use super::blobs::Blob;
use super::keeper::Chore;
use super::schema::{BLOB_BYTES, BUSY, body_sum, failed, head_sum};
use super::{Fatal, Shared};
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, params};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Commits in one group at most.
const GROUP_COMMITS_MAX: usize = 1024;
/// Bytes in one group at most; a larger commit is a group by itself.
const GROUP_BYTES_MAX: u64 = 8 << 20;
/// Frames (4 KiB pages) of log after which the keeper folds it while commits go on: 8 MiB.
const LOG_FRAMES_FOLD: i64 = 2048;
/// Frames of log after which the writer waits for the fold to end, so that the log starts anew.
const LOG_FRAMES_MAX: i64 = 16_384;
/// Without work for so long the writer gives space back.
const IDLE: Duration = Duration::from_millis(50);
/// Free pages given back in one step (256 KiB), and how many may stay for what comes next (4 MiB).
const VACUUM_STEP: u32 = 64;
const FREE_PAGES_KEPT: u32 = 1024;

/// A commit and where its answer goes.
pub(super) struct Job {
    pub(super) commit: Commit,
    pub(super) reply: oneshot::Sender<Result<Outcome>>,
}

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) jobs: Receiver<Job>,
    pub(super) keeper: SyncSender<Chore>,
    pub(super) shared: Arc<Shared>,
    pub(super) fatal: Fatal,
    pub(super) last_version: u64,
}

/// What a group changes besides its records; counted in once it is durable.
#[derive(Default)]
struct Tally {
    version: u64,
    counts: BTreeMap<i64, i64>,
    /// Blob files that lost their record.
    dropped: Vec<i64>,
}

impl Writer {
    /// Serves until every sender is gone, then folds the log and returns.
    pub(super) fn run(mut self) {
        loop {
            match self.jobs.recv_timeout(IDLE) {
                Ok(first) => {
                    let (jobs, open) = self.gather(first);
                    self.group(jobs);
                    self.limit_log();
                    if !open {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.give_space_back(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // Failing here loses nothing: the next start reads the log.
        if let Err(e) = checkpoint(&self.conn, "TRUNCATE") {
            tracing::warn!(error = %e, "the log could not be folded at the end");
        }
    }

    /// All that waits, up to a group's bounds; and whether more can come.
    fn gather(&self, first: Job) -> (Vec<Job>, bool) {
        let mut bytes = size(&first.commit);
        let mut jobs = vec![first];
        while jobs.len() < GROUP_COMMITS_MAX && bytes < GROUP_BYTES_MAX {
            match self.jobs.try_recv() {
                Ok(job) => {
                    bytes += size(&job.commit);
                    jobs.push(job);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return (jobs, false),
            }
        }
        (jobs, true)
    }

    /// One transaction, one sync, then the answers.
    fn group(&mut self, jobs: Vec<Job>) {
        let written: Vec<&[Write]> = jobs.iter().map(|job| &job.commit.write[..]).collect();
        let keys = || written.iter().flat_map(|writes| writes.iter()).map(|write| &write.key);
        let mut slots = Vec::new();
        let outcomes = self.transaction(&jobs).and_then(|(outcomes, tally)| {
            slots = self.shared.cache.begin(keys());
            let start = Instant::now();
            let committed = self.conn.execute_batch("COMMIT");
            let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.shared.figures.sync_micros.fetch_add(micros, Ordering::Relaxed);
            self.shared.figures.groups.fetch_add(1, Ordering::Relaxed);
            match committed {
                Ok(()) => Ok((outcomes, tally)),
                Err(e) => Err(self.commit_failed(&e)),
            }
        });
        match outcomes {
            Ok((outcomes, tally)) => {
                self.last_version = tally.version;
                // Before any reader can meet a file that is about to go, and before the answers.
                self.settle(&jobs, &outcomes, tally);
                self.shared.cache.end(&slots);
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    let _ = job.reply.send(Ok(outcome));
                }
            }
            Err(e) => {
                self.roll_back(&e);
                self.shared.cache.end(&slots);
                for job in jobs {
                    let _ = job.reply.send(Err(e.clone()));
                }
            }
        }
    }

    /// Checks and writes the group, all but the end of its transaction.
    fn transaction(&self, jobs: &[Job]) -> Result<(Vec<Outcome>, Tally)> {
        let sql = |e: rusqlite::Error| failed(&e);
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let mut statements = Statements::prepare(&self.conn).map_err(sql)?;
        let mut tally = Tally { version: self.last_version, ..Tally::default() };
        let mut outcomes = Vec::with_capacity(jobs.len());
        for Job { commit, .. } in jobs {
            if !statements.hold(&commit.expect).map_err(sql)? {
                outcomes.push(Outcome::Conflict);
                continue;
            }
            tally.version = commit.version_min.max(tally.version + 1);
            for write in &commit.write {
                statements.write(write, &mut tally)?;
            }
            outcomes.push(Outcome::Written(tally.version));
        }
        // Without a write there is nothing to sync: a conflict was decided on what is durable.
        if outcomes.iter().any(|outcome| *outcome != Outcome::Conflict) {
            statements.tally(&tally).map_err(sql)?;
        }
        Ok((outcomes, tally))
    }

    /// Makes the figures and the files follow a group that is durable.
    fn settle(&self, jobs: &[Job], outcomes: &[Outcome], tally: Tally) {
        let figures = &self.shared.figures;
        for (job, outcome) in jobs.iter().zip(outcomes) {
            if *outcome == Outcome::Conflict {
                figures.conflicts.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            figures.commits.fetch_add(1, Ordering::Relaxed);
            for blob in job.commit.write.iter().filter_map(staged_blob) {
                blob.set_committed();
            }
        }
        for (first, change) in tally.counts {
            self.shared.count(first, change);
        }
        for id in tally.dropped {
            let _ = self.keeper.send(Chore::Unlink(id));
        }
    }

    fn commit_failed(&self, e: &rusqlite::Error) -> EngineError {
        if e.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            return failed(e);
        }
        // Nobody knows what reached the disk: no answer is honest, and a retry may pretend.
        self.fatal.stop(&format!("could not make a commit durable: {e}"));
        failed(e)
    }

    fn roll_back(&self, cause: &EngineError) {
        tracing::error!(error = %cause, "a group of commits was not written");
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(e) = self.conn.execute_batch("ROLLBACK") {
            self.fatal.stop(&format!("could not roll back: {e}"));
        }
    }

    /// Keeps the log short: the keeper folds it beside the work, and only when it still grows past
    /// its bound does the writer finish that, which leaves it little to do.
    fn limit_log(&self) {
        let Ok(log) = checkpoint(&self.conn, "NOOP") else { return };
        if log.frames - log.folded > LOG_FRAMES_FOLD {
            let _ = self.keeper.try_send(Chore::Fold);
        }
        if log.frames > LOG_FRAMES_MAX {
            // Readers that are in the way are not waited for: the next group tries again.
            let restarted = self
                .conn
                .busy_timeout(Duration::from_millis(20))
                .and_then(|()| checkpoint(&self.conn, "RESTART"))
                .and_then(|_| self.conn.busy_timeout(BUSY));
            if let Err(e) = restarted {
                let _ = self.commit_failed(&e);
            }
        }
    }

    /// Returns free pages to the file system, one small step at a time, while nothing waits.
    fn give_space_back(&self) {
        let page_count =
            |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
        let free = page_count("freelist_count").unwrap_or(0);
        if free <= FREE_PAGES_KEPT {
            return;
        }
        let step = format!("PRAGMA incremental_vacuum({VACUUM_STEP})");
        let drained = self.conn.prepare_cached(&step).and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        match drained {
            Ok(()) => self.limit_log(),
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DiskFull) => {}
            Err(e) => {
                let _ = self.commit_failed(&e);
            }
        }
    }
}

/// How long the log is, and how much of it the database holds already; in frames of one page.
pub(super) struct Log {
    pub(super) frames: i64,
    pub(super) folded: i64,
}

/// Folds the log into the database in a given mode.
pub(super) fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<Log> {
    let mut statement = conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| Ok(Log { frames: row.get(1)?, folded: row.get(2)? }))
}

fn size(commit: &Commit) -> u64 {
    let write = |write: &Write| {
        let body = write.record.as_ref().map(|record| &record.body);
        let body = body.map_or(0, |body| match body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stored(_) => 0,
        });
        write.key.len() as u64 + body
    };
    commit.write.iter().map(write).sum()
}

fn staged_blob(write: &Write) -> Option<&Blob> {
    match &write.record.as_ref()?.body {
        Body::Stored(stored) => stored.as_any().downcast_ref(),
        Body::Bytes(_) => None,
    }
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
    version: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(conn: &'c Connection) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            find: conn.prepare_cached("SELECT version, home FROM heads WHERE key = ?1")?,
            put: conn.prepare_cached(
                "INSERT INTO heads (key, version, due, home, sum, head) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO UPDATE SET \
                 version = ?2, due = ?3, home = ?4, sum = ?5, head = ?6",
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
            version: conn.prepare_cached("UPDATE meta SET last_version = ?1 WHERE id = 1")?,
        })
    }

    /// Version and home of a record as the group has left it so far.
    fn find(&mut self, key: &[u8]) -> rusqlite::Result<Option<(i64, i64)>> {
        self.find.query_row(params![key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    fn hold(&mut self, expect: &[Expect]) -> rusqlite::Result<bool> {
        for Expect { key, version } in expect {
            let found = self.find(key)?.map_or(0, |(version, _)| version.cast_unsigned());
            if found != *version {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, write: &Write, tally: &mut Tally) -> Result<()> {
        let sql = |e: rusqlite::Error| failed(&e);
        let first = i64::from(write.key.first().copied().unwrap_or_default());
        let old = self.find(&write.key).map_err(sql)?.map(|(_, home)| home);
        match &write.record {
            Some(record) => {
                let home = self.place(record, old.unwrap_or(0), tally)?;
                let NewRecord { due, head, .. } = record;
                let sum = head_sum(&write.key, tally.version, *due, home, head);
                let (version, due) = (tally.version.cast_signed(), due.cast_signed());
                let row = params![&write.key[..], version, due, home, sum, &head[..]];
                self.put.execute(row).map_err(sql)?;
                if old.is_none() {
                    *tally.counts.entry(first).or_default() += 1;
                }
            }
            None => {
                if let Some(home) = old {
                    self.vacate(home, tally)?;
                    self.remove.execute(params![&write.key[..]]).map_err(sql)?;
                    *tally.counts.entry(first).or_default() -= 1;
                }
            }
        }
        Ok(())
    }

    /// Puts a body where it belongs, in the place of the one at `old` if it fits there.
    fn place(&mut self, record: &NewRecord, old: i64, tally: &mut Tally) -> Result<i64> {
        let sql = |e: rusqlite::Error| failed(&e);
        let bytes = match &record.body {
            Body::Bytes(bytes) => bytes,
            Body::Stored(stored) => {
                let blob: &Blob = stored
                    .as_any()
                    .downcast_ref()
                    .ok_or_else(|| EngineError::Failed("a stored body of another engine".into()))?;
                self.vacate(old, tally)?;
                let size = i64::try_from(super::super::StoredBody::len(blob)).unwrap_or(i64::MAX);
                self.blob_insert.execute(params![blob.id(), size]).map_err(sql)?;
                *tally.counts.entry(BLOB_BYTES).or_default() += size;
                return Ok(-blob.id());
            }
        };
        let sum = body_sum(tally.version, bytes);
        if old > 0 && !bytes.is_empty() {
            self.body_update.execute(params![old, sum, &bytes[..]]).map_err(sql)?;
            return Ok(old);
        }
        self.vacate(old, tally)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        self.body_insert.insert(params![sum, &bytes[..]]).map_err(sql)
    }

    /// Frees the place of a body that is replaced or removed.
    fn vacate(&mut self, home: i64, tally: &mut Tally) -> Result<()> {
        let sql = |e: rusqlite::Error| failed(&e);
        if home > 0 {
            self.body_remove.execute(params![home]).map_err(sql)?;
        } else if home < 0 {
            let freed = self.blob_remove.query_row(params![-home], |row| row.get::<_, i64>(0));
            let freed = freed.optional().map_err(sql)?.unwrap_or(0);
            *tally.counts.entry(BLOB_BYTES).or_default() -= freed;
            tally.dropped.push(-home);
        }
        Ok(())
    }

    fn tally(&mut self, tally: &Tally) -> rusqlite::Result<()> {
        for (first, change) in tally.counts.iter().filter(|(_, change)| **change != 0) {
            self.count.execute(params![first, change])?;
        }
        self.version.execute(params![tally.version.cast_signed()])?;
        Ok(())
    }
}
