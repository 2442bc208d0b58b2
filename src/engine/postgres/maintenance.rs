//! Maintenance: creates the tables and missing indexes, synchronizes with the database's clock,
//! raises the version floor and purges tombstones.

use super::super::{EngineError, Result};
use super::connection::{Fault, evict, with_deadline};
use super::{Backoff, Inner, number, sql};
use deadpool_postgres::Client;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_postgres::{Client as PgClient, SimpleQueryMessage};

const INTERVAL: Duration = Duration::from_secs(10);
/// Time for which tombstones are kept, in microseconds. The version floor trails the clock by half
/// of this time, which is far more than [`INTERVAL`], the interval at which every process reads the
/// floor.
const TOMBSTONE_RETENTION_MICROS: u64 = 3_600_000_000;
/// Time limit of one attempt to create the tables.
const SETUP_TIMEOUT: Duration = Duration::from_secs(15);
/// Number of times the clock is queried per synchronization. The query with the shortest round trip
/// is used.
const CLOCK_SAMPLES: usize = 3;

/// Builds a missing index, and runs maintenance periodically until the engine is dropped.
pub(super) async fn run(inner: Weak<Inner>) {
    tokio::join!(run_periodically(inner.clone()), build_live_index(inner));
}

async fn run_periodically(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(e) = inner.run_maintenance().await {
            tracing::warn!(error = %e, "database maintenance failed");
        }
    }
}

/// Builds the index that scans use, unless a valid one exists. Retries until the index is valid,
/// because another server may be building it or the connection may be lost.
async fn build_live_index(inner: Weak<Inner>) {
    loop {
        match try_build_live_index(&inner).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(Fault::Rejected(e)) => {
                tracing::warn!(error = %e, "building the index records_live failed; until it \
                    exists, lists are slow after many deletions");
                return;
            }
            Err(fault) => tracing::debug!(?fault, "building the index records_live failed"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Builds the index if it is not valid and no other server is building it. Returns whether it is
/// valid.
async fn try_build_live_index(inner: &Weak<Inner>) -> Result<bool, Fault> {
    let (builder, lock) = {
        let Some(inner) = inner.upgrade() else { return Ok(true) };
        let client = inner.client().await?;
        match live_index_valid(&client).await {
            Ok(Some(true)) => return Ok(true),
            Ok(_) => {}
            Err(fault) => {
                evict(client);
                return Err(fault);
            }
        }
        // Both connections are taken out of the pool, because a build may take minutes, and are
        // closed when it ends.
        let builder = Client::take(client);
        (builder, Client::take(inner.client().await?))
    };
    with_deadline(lock.batch_execute(sql::ADD_BUILD_LOCK)).await?;
    let locked = with_deadline(lock.simple_query(sql::LOCK_BUILD)).await?;
    if !locked.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_))) {
        return Ok(false);
    }
    match live_index_valid(&builder).await? {
        Some(true) => return Ok(true),
        Some(false) => {
            with_deadline(builder.batch_execute(sql::SHORT_LOCK_TIMEOUT)).await?;
            with_deadline(builder.batch_execute(sql::DROP_LIVE_INDEX)).await?;
        }
        None => {}
    }
    tracing::info!("building the index records_live");
    with_deadline(builder.batch_execute(sql::NO_TIMEOUTS)).await?;
    builder.batch_execute(sql::CREATE_LIVE_INDEX).await?;
    tracing::info!("built the index records_live");
    Ok(true)
}

async fn live_index_valid(client: &PgClient) -> Result<Option<bool>, Fault> {
    let row = with_deadline(client.query_opt(sql::LIVE_INDEX_VALID, &[])).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

impl Inner {
    /// Creates the tables if they do not exist, and checks their format.
    pub(super) async fn prepare(&self) -> Result<()> {
        let mut backoff = Backoff::new();
        let format = loop {
            match tokio::time::timeout(SETUP_TIMEOUT, self.create_tables()).await {
                Ok(Ok(format)) => break format,
                Ok(Err(fault)) => backoff.wait(fault).await?,
                Err(_) => {
                    let why = "creating the tables timed out".into();
                    backoff.wait(Fault::Disconnected(why)).await?;
                }
            }
        };
        if format == sql::FORMAT {
            return Ok(());
        }
        Err(EngineError::Corrupt(format!(
            "the database has tables of format {format}, but this build supports format {}; run \
             the version of steadfast that created them, or use another database",
            sql::FORMAT
        )))
    }

    async fn create_tables(&self) -> Result<i32, Fault> {
        let mut client = self.client().await?;
        // If another process creates the table at the same time, this fails with a duplicate name
        // and is retried.
        if let Err(e) = client.batch_execute(sql::META).await {
            let duplicate = e.code().is_some_and(|code| code.code().starts_with("42P0"));
            return Err(if duplicate { Fault::Conflict } else { e.into() });
        }
        let transaction = client.transaction().await?;
        let row = transaction.query_one(sql::LOCK_META, &[]).await?;
        let format: i32 = row.try_get(0)?;
        if format != 0 {
            return Ok(format);
        }
        transaction.batch_execute(sql::TABLES).await?;
        transaction.commit().await?;
        if let Err(e) = client.batch_execute(sql::DISABLE_COMPRESSION).await {
            tracing::debug!(error = %e, "could not disable compression of values");
        }
        Ok(sql::FORMAT)
    }

    /// Synchronizes the clock, raises the version floor, purges tombstones and compacts counts.
    pub(super) async fn run_maintenance(&self) -> Result<()> {
        self.sync_clock().await?;
        let floor = self.now().saturating_sub(TOMBSTONE_RETENTION_MICROS / 2);
        self.raise_last_version(self.raise_version_floor(floor).await?);
        let purge_below = floor.saturating_sub(TOMBSTONE_RETENTION_MICROS / 2).cast_signed();
        let client = self.client().await?;
        let statements = async {
            client.execute(sql::PURGE_TOMBSTONES, &[&purge_below]).await?;
            client.execute(sql::COMPACT_COUNTS, &[]).await
        };
        let result = with_deadline(statements).await;
        if result.is_err() {
            evict(client);
        }
        Ok(result.map(|_| ())?)
    }

    async fn sync_clock(&self) -> Result<()> {
        let mut best: Option<(Duration, i64)> = None;
        for _ in 0..CLOCK_SAMPLES {
            let sent = Instant::now();
            let rows = self.query(sql::NOW, &[]).await?;
            let round_trip = sent.elapsed();
            let database = rows.first().map_or(Ok(0), |row| number(row, 0))?;
            let local = (sent + round_trip / 2).saturating_duration_since(self.opened);
            let local = i64::try_from(local.as_micros()).unwrap_or(i64::MAX);
            let offset = database.cast_signed() - local;
            if best.is_none_or(|(shortest, _)| round_trip < shortest) {
                best = Some((round_trip, offset));
            }
        }
        if let Some((_, offset)) = best {
            self.clock_offset_micros.store(offset, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn raise_version_floor(&self, floor: u64) -> Result<u64> {
        let rows = self.query(sql::RAISE_VERSION_FLOOR, &[&floor.cast_signed()]).await?;
        rows.first().map_or(Ok(floor), |row| number(row, 0))
    }

    /// Stores the last assigned version as the version floor for the next process.
    pub(super) async fn publish_last_version(&self) {
        let last = self.last_version.load(Ordering::Acquire);
        if let Err(e) = self.raise_version_floor(last).await {
            tracing::debug!(error = %e, "could not store the last version");
        }
    }
}
