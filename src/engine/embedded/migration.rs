//! Migration of the bodies that format 1 stored in the table `bodies`. They are moved to WAL
//! segments in the background, by relocations in key order while the server is not busy. The next
//! checkpoint deletes the row of a moved body, as for a record that was overwritten.

use super::super::Result;
use super::checkpoint::Checkpointer;
use super::connection_pool::read_body;
use super::database::{BodyRef, RecordRow};
use super::relocation::{Relocation, RelocationBatch};
use bytes::Bytes;
use rusqlite::params;

/// Maximum number of records examined in a quantum.
const EXAMINED_RECORDS_MAX: usize = 4096;
/// Number of vacuum steps in a quantum.
const VACUUM_STEPS: usize = 4;

/// The progress of the migration.
#[derive(Default)]
pub(super) enum Migration {
    /// Not known whether there is anything to migrate.
    #[default]
    Unknown,
    /// The records up to this key, if any, are migrated.
    Running(Option<Bytes>),
    /// The same, but the last attempt failed.
    Interrupted(Option<Bytes>),
    Completed,
}

impl Migration {
    /// Returns whether bodies are left to be moved now.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Migration::Running(_))
    }
}

impl Checkpointer {
    /// Moves bodies for one quantum. Returns whether there may be more.
    pub(super) fn migrate_bodies(&mut self) -> bool {
        let after = match std::mem::replace(&mut self.migration, Migration::Completed) {
            Migration::Completed => return false,
            Migration::Unknown => None,
            Migration::Running(after) | Migration::Interrupted(after) => after,
        };
        // Freed pages are returned meanwhile, so that the disk need not hold the bodies twice.
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

    fn migrate_after(&self, after: Option<&Bytes>) -> Result<Migration> {
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
            // No record has an empty key.
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
            return Ok(Migration::Interrupted(after.cloned()));
        }
        Ok(if is_complete { Migration::Completed } else { Migration::Running(last) })
    }

    /// Returns the relocation of a record whose body is in `bodies`, unless it is damaged or the
    /// next checkpoint replaces it.
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
