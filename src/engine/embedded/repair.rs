//! Repair of a data directory that has lost its WAL.

use super::super::Result;
use super::database::{self, CheckpointPosition};
use super::lock_dir;
use super::wal::recovery::{self, RecoveryMode};
use super::wal::segment::SegmentPool;
use std::path::Path;

/// Lets a data directory open without the commits of missing WAL segments, which are lost. Returns
/// whether any segment was missing.
///
/// # Errors
/// When the directory is in use, unreadable, or damaged in another way.
pub fn reset_wal(dir: &Path) -> Result<bool> {
    database::ensure_exists(dir)?;
    let _lock = lock_dir(dir)?;
    let conn = database::open_checked(dir)?;
    let position = database::checkpoint_position(&conn)?;
    drop(conn);
    let (segments, files) = SegmentPool::open(dir)?;
    let is_empty = files.is_empty();
    let mut wal_end = position.first_segment;
    if is_empty {
        segments.ensure_file()?;
    } else {
        let present = CheckpointPosition { wal_end: 0, ..position };
        let recovered = recovery::recover(files, present, RecoveryMode::ReadOnly, |_, _, _| {})?;
        wal_end = recovered.live.last().map_or(wal_end, |segment| segment.seq + 1);
    }
    let is_incomplete = is_empty || wal_end < position.wal_end;
    if is_incomplete {
        let conn = database::open_writer(dir)?;
        database::save_wal_end(&conn, wal_end)?;
    }
    Ok(is_incomplete)
}
