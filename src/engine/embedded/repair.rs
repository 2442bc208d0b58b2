//! Repair of a data directory that has lost WAL segments.

use super::super::Result;
use super::data_dir::DataDir;
use super::database;
use super::wal::recovery::{self, RecoveryMode, SealedSegments};
use super::wal::segment::SegmentPool;
use std::path::Path;
use std::sync::Arc;

/// Resets the WAL of a data directory with missing segments, so that the directory can be opened
/// without the commits in the missing segments. Returns whether any segment was missing.
///
/// # Errors
/// Fails if the directory is in use, cannot be read, or is damaged in another way.
pub fn reset_wal(dir: &Path) -> Result<bool> {
    let dir = Arc::new(DataDir::open_existing(dir)?);
    let conn = database::open_checked(&dir)?;
    let position = database::checkpoint_position(&conn)?;
    let rows = database::segment_rows(&conn)?;
    let (segments, mut files) = SegmentPool::open(dir.clone(), &rows)?;
    let is_empty = files.is_empty();
    let mut wal_end = position.first_segment;
    if is_empty {
        segments.ensure_file()?;
    } else {
        SealedSegments::split_off(&mut files, &rows, position)?;
        let (mode, is_in_db) = (RecoveryMode::Incomplete, database::lookup(&conn));
        let recovered = recovery::recover(files, position, mode, is_in_db, |_, _, _| {})?;
        wal_end = recovered.live.last().map_or(wal_end, |segment| segment.seq + 1);
    }
    drop(conn);
    let is_incomplete = is_empty || wal_end < position.wal_end;
    if is_incomplete {
        let conn = database::open_writer(dir.path())?;
        database::save_wal_end(&conn, wal_end)?;
    }
    Ok(is_incomplete)
}
