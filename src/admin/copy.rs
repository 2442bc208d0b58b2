//! Copies all data from one engine to another.

use super::open;
use crate::config::EngineLocation;
pub use crate::engine::copy::Progress as CopyProgress;
use crate::engine::copy::{self, CopyError, Side};
use crate::kv::keyspace;
use crate::storage;

/// The totals of a completed copy.
#[derive(Clone, Copy, Debug)]
pub struct CopySummary {
    /// Number of stores.
    pub stores: u64,
    /// Number of items, including expired items not yet removed.
    pub items: u64,
    /// Total size of keys, metadata and values as stored, in bytes.
    pub bytes: u64,
    /// CRC-32 of the records, which is the same on both sides.
    pub checksum: u32,
}

/// Copies all records and compares both sides. Resumes an interrupted copy.
///
/// Data directories must not be in use, and all servers that use one of the databases must be
/// stopped.
///
/// # Errors
/// See [`CopyError`]. Calling the function again resumes a failed copy.
pub async fn copy(
    from: &EngineLocation,
    to: &EngineLocation,
    report: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<CopySummary, CopyError> {
    let source = |e| CopyError::Engine(Side::Source, e);
    let destination = |e| CopyError::Engine(Side::Destination, e);
    let from = match from {
        // The source may be on a read-only file system.
        EngineLocation::Directory(dir) => storage::open_read_only(dir).map_err(source)?,
        EngineLocation::Memory | EngineLocation::Database(_) => open(from).await.map_err(source)?,
    };
    let to = open(to).await.map_err(destination)?;
    let copied = copy::copy(&from, &to, report).await;
    let stores = to.count(keyspace::STORES).await.map_err(destination);
    let items = to.count(keyspace::ITEMS).await.map_err(destination);
    // Close both engines before returning an error, so that a failed copy can be resumed.
    let closed = (from.close().await.map_err(source), to.close().await.map_err(destination));
    let CopyProgress { bytes, checksum, .. } = copied?;
    let (stores, items) = (stores?, items?);
    closed.0.and(closed.1)?;
    Ok(CopySummary { stores, items, bytes, checksum })
}
