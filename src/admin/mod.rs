//! Offline administration: check, copy, back up and restore data that no server has open.
//!
//! Each function opens the engines itself and closes them before it returns.

mod backup;
mod check;
mod copy;

pub use crate::kv::backup::{RestoreError, Restored};
pub use backup::{backup, restore};
pub use check::{check, check_backup, reset_wal};
pub use copy::{CopyProgress, CopySummary, copy};

use crate::config::{EngineLocation, WAL_BYTES_DEFAULT};
use crate::engine::{Engine, EngineError};
use crate::storage::{self, StorageOptions};
use std::sync::Arc;

/// Limits for offline operations. At most eight large bodies are read at a time, so `reading_bytes`
/// is never reached.
const OPTIONS: StorageOptions =
    StorageOptions { cache_bytes: 0, wal_bytes: WAL_BYTES_DEFAULT, reading_bytes: 2 << 30 };

async fn open(location: &EngineLocation) -> Result<Arc<dyn Engine>, EngineError> {
    Ok(storage::open(location, OPTIONS).await?.engine)
}
