//! Opens the engine at a configured location, for the server and for offline administration.

use crate::config::{Database, EngineLocation};
use crate::engine::embedded::{Embedded, FatalErrorHandler, Options};
use crate::engine::memory::Memory;
use crate::engine::{Engine, EngineError};
use crate::kv::clock::{Clock, SystemClock};
use crate::logging;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Exit status after a failure that leaves the durability of later writes in doubt, such as a
/// failed fsync.
const EXIT_FATAL: i32 = 70;
/// Maximum time for writing the log line about a fatal failure.
const FATAL_FLUSH: Duration = Duration::from_secs(1);

/// Memory and WAL limits of an engine.
#[derive(Clone, Copy, Debug)]
pub struct StorageOptions {
    /// Size of the read cache, in bytes.
    pub cache_bytes: u64,
    /// Maximum WAL size that triggers a checkpoint, in bytes.
    pub wal_bytes: u64,
    /// Memory limit for large bodies being read from a PostgreSQL database, in bytes.
    pub reading_bytes: u64,
}

/// An open engine and the clock that decides when its items expire.
pub struct Storage {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Opens the engine at a location. A fatal error in an embedded engine ends the process.
///
/// # Errors
/// Fails if the engine cannot be opened.
pub async fn open(
    location: &EngineLocation,
    options: StorageOptions,
) -> Result<Storage, EngineError> {
    let dir = match location {
        EngineLocation::Memory => {
            return Ok(Storage { engine: Arc::new(Memory::new()), clock: Arc::new(SystemClock) });
        }
        EngineLocation::Database(database) => {
            return open_database(database, options.reading_bytes).await;
        }
        EngineLocation::Directory(dir) => dir.clone(),
    };
    let fatal = FatalErrorHandler::new(|error| {
        tracing::error!(%error, "stopping after a storage failure");
        logging::flush(FATAL_FLUSH);
        std::process::exit(EXIT_FATAL);
    });
    let StorageOptions { cache_bytes, wal_bytes, .. } = options;
    let engine = Embedded::open(Options { dir, cache_bytes, wal_bytes, fatal })?;
    Ok(Storage { engine: Arc::new(engine), clock: Arc::new(SystemClock) })
}

/// Opens a data directory for reading, without changing it.
///
/// # Errors
/// Fails if the directory cannot be opened.
pub fn open_read_only(dir: &Path) -> Result<Arc<dyn Engine>, EngineError> {
    Ok(Arc::new(Embedded::open_read_only(dir)?))
}

#[cfg(feature = "postgres")]
async fn open_database(database: &Database, reading_bytes: u64) -> Result<Storage, EngineError> {
    use crate::engine::postgres::{Options, Postgres};

    /// Follows the clock of the database, so that items expire at the same time on all servers.
    struct DatabaseClock(Arc<Postgres>);

    impl Clock for DatabaseClock {
        fn now(&self) -> u64 {
            self.0.now()
        }
    }

    let Database { url, standby, connections } = database.clone();
    let engine = Postgres::open(Options { url, standby, connections, reading_bytes }).await?;
    let engine = Arc::new(engine);
    Ok(Storage { engine: engine.clone(), clock: Arc::new(DatabaseClock(engine)) })
}

#[cfg(not(feature = "postgres"))]
async fn open_database(_: &Database, _: u64) -> Result<Storage, EngineError> {
    Err(EngineError::Failed("this build lacks PostgreSQL support (feature postgres)".into()))
}
