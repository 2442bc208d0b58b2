//! Migration of the bodies that format 1 stored in the table `bodies`. While the server is not
//! busy, the checkpointer relocates these bodies to WAL segments in key order. The next checkpoint
//! deletes the rows of relocated bodies, as it does for overwritten records.

use super::super::Result;
use super::checkpoint::Checkpointer;
use super::connection_pool::read_body;
use super::database::{BodyRef, RecordRow};
use super::relocation::{Relocation, RelocationBatch};
use bytes::Bytes;
use rusqlite::params;
use std::time::{Duration, Instant};

/// Maximum number of records examined per quantum.
const EXAMINED_RECORDS_MAX: usize = 4096;
/// Number of vacuum steps per quantum.
const VACUUM_STEPS: usize = 4;

/// Delay after the first of several consecutive errors. It doubles with each error up to the
/// maximum. Each attempt on a full disk writes to the remaining space.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// The migration and its retries.
#[derive(Default)]
pub(super) struct Migration {
    progress: Progress,
    retry: Option<Retry>,
}

/// The next attempt after an error.
#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    delay: Duration,
}

impl Retry {
    /// Returns the next attempt after another error. `last` is the attempt that failed.
    fn after(last: Option<Retry>) -> Retry {
        let delay = last.map_or(RETRY_DELAY, |last| RETRY_DELAY_MAX.min(2 * last.delay));
        Retry { at: Instant::now() + delay, delay }
    }
}

/// The progress of the migration.
#[derive(Default)]
enum Progress {
    /// The state after startup: it is not known whether the table `bodies` has rows.
    #[default]
    Unknown,
    /// The migration is in progress. The records up to and including this key are migrated; `None`
    /// if no record is migrated yet.
    Running(Option<Bytes>),
    /// The last attempt failed or was interrupted. The next attempt continues after this key;
    /// `None` to start with the first record.
    Interrupted(Option<Bytes>),
    Completed,
}

impl Migration {
    /// Returns whether the migration is in progress and its last attempt succeeded.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.progress, Progress::Running(_))
    }
}

impl Checkpointer {
    /// Relocates bodies for one quantum. Returns `false` if the migration is complete, was
    /// interrupted, or cannot continue now.
    pub(super) fn migrate_bodies(&mut self) -> bool {
        let retry = self.migration.retry;
        if !self.can_relocate() || retry.is_some_and(|retry| Instant::now() < retry.at) {
            return false;
        }
        let after = match std::mem::replace(&mut self.migration.progress, Progress::Completed) {
            Progress::Completed => return false,
            Progress::Unknown => None,
            Progress::Running(after) | Progress::Interrupted(after) => after,
        };
        // Returns freed pages to the file system in every quantum, so that the disk does not need
        // space for a second copy of all bodies.
        let vacuumed = (0..VACUUM_STEPS).try_for_each(|_| self.vacuum_step().map(|_| ()));
        let migrated = vacuumed.and_then(|()| self.migrate_after(after.as_ref()));
        let (progress, retry) = match migrated {
            Ok(progress) => (progress, None),
            Err(e) => {
                tracing::debug!(error = %e, "the migration of values was interrupted");
                (Progress::Interrupted(after), Some(Retry::after(retry)))
            }
        };
        self.migration = Migration { progress, retry };
        self.migration.is_running()
    }

    fn migrate_after(&mut self, after: Option<&Bytes>) -> Result<Progress> {
        let mut batch = RelocationBatch::default();
        let mut last = after.cloned();
        let mut is_complete = true;
        {
            let _transaction = self.conn.unchecked_transaction()?;
            let exists = "SELECT EXISTS (SELECT 1 FROM bodies)";
            if !self.conn.prepare_cached(exists)?.query_row([], |row| row.get(0))? {
                return Ok(Progress::Completed);
            }
            let select = "SELECT key, data FROM heads WHERE key > ?1 ORDER BY key";
            let mut select = self.conn.prepare_cached(select)?;
            // No record has an empty key, so the scan includes the first record.
            let mut rows = select.query(params![after.map_or(&b""[..], |after| after)])?;
            let mut examined = 0;
            while let Some(row) = rows.next()? {
                if batch.is_full() || examined >= EXAMINED_RECORDS_MAX {
                    is_complete = false;
                    break;
                }
                examined += 1;
                let key = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                let key = Bytes::copy_from_slice(key);
                let data = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
                batch.extend(self.in_bodies(&key, data));
                last = Some(key);
            }
        }
        if !self.relocate(batch, false)? {
            return Ok(Progress::Interrupted(after.cloned()));
        }
        Ok(if is_complete { Progress::Completed } else { Progress::Running(last) })
    }

    /// Returns the relocation of a record whose body is in `bodies`. Returns `None` if the body is
    /// stored elsewhere, if the row or the body is damaged or cannot be read, or if the next
    /// checkpoint replaces the record.
    fn in_bodies(&self, key: &Bytes, data: &[u8]) -> Option<Relocation> {
        let RecordRow { version, expires_at, body, meta } = RecordRow::decode(key, data)?;
        let BodyRef::Row(id) = body else { return None };
        if self.shared.memtable().get(key).is_some() {
            return None;
        }
        let body = read_body(&self.conn, version, id).ok()?;
        let (key, meta) = (key.clone(), Bytes::copy_from_slice(meta));
        Some(Relocation { key, version, expires_at, meta, body })
    }
}

#[cfg(test)]
mod tests {
    use super::super::EngineError;
    use super::super::database::body_checksum;
    use super::super::stepped_engine::SteppedEngine;
    use super::super::writer::WriterCommand;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn insert_row(checkpointer: &Checkpointer, key: &[u8], id: i64) {
        let body = b"body";
        let conn = &checkpointer.conn;
        let sql = "INSERT INTO bodies (id, sum, body) VALUES (?1, ?2, ?3)";
        conn.execute(sql, params![id, body_checksum(1, body), &body[..]]).unwrap();
        let mut data = Vec::new();
        let body = BodyRef::Row(id);
        RecordRow { version: 1, expires_at: 0, body, meta: b"" }.encode(key, &mut data);
        let sql = "INSERT INTO heads (key, due, data) VALUES (?1, 0, ?2)";
        conn.execute(sql, params![key, data]).unwrap();
    }

    #[test]
    fn migration_on_a_full_disk_is_not_repeated_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SteppedEngine::open(dir.path(), 1 << 20);
        insert_row(&engine.checkpointer, b"key", 1);
        let requests = AtomicUsize::new(0);
        let handle = |command| {
            let WriterCommand::Relocate(request) = command else { panic!() };
            requests.fetch_add(1, Ordering::Relaxed);
            assert!(request.claim());
            request.reply.send(Err(EngineError::Full("the disk is full".into()))).unwrap();
        };
        engine.with_writer(handle, |checkpointer| {
            for _ in 0..100 {
                assert!(!checkpointer.migrate_bodies());
            }
        });
        let requests = requests.into_inner();
        assert!((1..10).contains(&requests), "{requests} requests");
    }

    #[test]
    fn migration_skips_a_body_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SteppedEngine::open(dir.path(), 1 << 20);
        insert_row(&engine.checkpointer, b"a", 1);
        insert_row(&engine.checkpointer, b"b", 2);
        // The read of the first body fails with an error other than damage.
        let conn = &engine.checkpointer.conn;
        let view = "ALTER TABLE bodies RENAME TO stored;
            CREATE VIEW bodies AS
            SELECT id, iif(id = 1, abs(-9223372036854775807 - id), sum) AS sum, body FROM stored";
        conn.execute_batch(view).unwrap();
        assert!(matches!(read_body(conn, 1, 1), Err(EngineError::Failed(_))));
        read_body(conn, 1, 2).unwrap();
        let migrated = AtomicUsize::new(0);
        let handle = |command| {
            let WriterCommand::Relocate(request) = command else { panic!() };
            migrated.fetch_add(request.relocations.len(), Ordering::Relaxed);
            assert!(request.claim());
            request.reply.send(Ok(())).unwrap();
        };
        engine.with_writer(handle, |checkpointer| checkpointer.migrate_bodies());
        assert_eq!(migrated.into_inner(), 1);
    }
}
