//! Migration of the bodies that format 1 stored in the table `bodies`. While the server is not
//! busy, the checkpointer relocates these bodies to WAL segments in key order. The next checkpoint
//! deletes the rows of relocated bodies, as it does for overwritten records.

use super::super::{EngineError, Result};
use super::checkpoint::Checkpointer;
use super::connection_pool::read_body;
use super::database::{BodyRef, RecordRow};
use super::relocation::{Relocation, RelocationBatch};
use bytes::Bytes;
use rusqlite::params;

/// Maximum number of records examined per quantum.
const EXAMINED_RECORDS_MAX: usize = 4096;
/// Number of vacuum steps per quantum.
const VACUUM_STEPS: usize = 4;

/// The progress of the migration.
#[derive(Default)]
pub(super) enum Migration {
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
        matches!(self, Migration::Running(_))
    }
}

impl Checkpointer {
    /// Relocates bodies for one quantum. Returns `false` if the migration is complete, was
    /// interrupted, or cannot continue now.
    pub(super) fn migrate_bodies(&mut self) -> bool {
        if !self.can_relocate() {
            return false;
        }
        let after = match std::mem::replace(&mut self.migration, Migration::Completed) {
            Migration::Completed => return false,
            Migration::Unknown => None,
            Migration::Running(after) | Migration::Interrupted(after) => after,
        };
        // Returns freed pages to the file system in every quantum, so that the disk does not need
        // space for a second copy of all bodies.
        let vacuumed = (0..VACUUM_STEPS).try_for_each(|_| self.vacuum_step().map(|_| ()));
        self.migration = match vacuumed.and_then(|()| self.migrate_after(after.as_ref())) {
            Ok(migration) => migration,
            Err(e) => {
                tracing::debug!(error = %e, "the migration of values was interrupted");
                Migration::Interrupted(after)
            }
        };
        self.migration.is_running()
    }

    fn migrate_after(&mut self, after: Option<&Bytes>) -> Result<Migration> {
        let mut batch = RelocationBatch::default();
        let mut last = after.cloned();
        let mut is_complete = true;
        {
            let _transaction = self.conn.unchecked_transaction()?;
            let exists = "SELECT EXISTS (SELECT 1 FROM bodies)";
            if !self.conn.prepare_cached(exists)?.query_row([], |row| row.get(0))? {
                return Ok(Migration::Completed);
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
                batch.extend(self.in_bodies(&key, data)?);
                last = Some(key);
            }
        }
        if !self.relocate(batch, false)? {
            return Ok(Migration::Interrupted(after.cloned()));
        }
        Ok(if is_complete { Migration::Completed } else { Migration::Running(last) })
    }

    /// Returns the relocation of a record whose body is in `bodies`. Returns `None` if the body is
    /// stored elsewhere, if the row or the body is damaged, or if the next checkpoint replaces the
    /// record.
    fn in_bodies(&self, key: &Bytes, data: &[u8]) -> Result<Option<Relocation>> {
        let Some(row) = RecordRow::decode(key, data) else { return Ok(None) };
        let RecordRow { version, expires_at, body: BodyRef::Row(id), meta } = row else {
            return Ok(None);
        };
        if self.shared.memtable().get(key).is_some() {
            return Ok(None);
        }
        let body = match read_body(&self.conn, version, id) {
            Ok(body) => body,
            Err(EngineError::Corrupt(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        let (key, meta) = (key.clone(), Bytes::copy_from_slice(meta));
        Ok(Some(Relocation { key, version, expires_at, meta, body }))
    }
}
