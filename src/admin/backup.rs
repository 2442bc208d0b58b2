//! Backs up a data directory and restores backups.

use super::open;
use crate::config::EngineLocation;
use crate::engine::copy;
use crate::kv::backup::{self, BackupReader, RestoreError, Restored};
use crate::kv::clock::SystemClock;
use crate::storage;
use std::io;
use std::path::Path;

/// Backs up a data directory without changing it. Calls `write` with each piece of the backup.
///
/// # Errors
/// If the directory cannot be read, or `write` fails.
pub async fn backup(
    dir: &Path,
    write: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", dir.display());
    let engine = storage::open_read_only(dir).map_err(|e| failed(&e))?;
    copy::check_complete(&*engine).await.map_err(|e| failed(&e))?;
    let mut backup = backup::backup(&*engine).await.map_err(|e| failed(&e))?;
    while let Some(piece) = backup.next().await.map_err(|e| failed(&e))? {
        write(&piece).map_err(|e| format!("cannot write the backup: {e}"))?;
    }
    drop(backup);
    engine.close().await.map_err(|e| failed(&e))
}

/// Restores a backup into an empty location and returns the number of records. Calls `report` with
/// the number of records restored so far.
///
/// # Errors
/// See [`RestoreError`]. If a restore into an empty location fails, the location stays marked as
/// incomplete.
pub async fn restore(
    source: impl io::Read + Send,
    to: &EngineLocation,
    report: &mut (dyn FnMut(u64) + Send),
) -> Result<Restored, RestoreError> {
    // Open the source first, so that no destination is created if the file is not a backup.
    let source = BackupReader::open(source)?;
    let to = open(to).await?;
    let restored = backup::restore(source, &to, &SystemClock, report).await;
    let closed = to.close().await;
    let restored = restored?;
    closed?;
    Ok(restored)
}
