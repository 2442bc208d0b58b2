//! What is done beside the work: the tables at the start, the clock, the floor of versions, and the
//! rows that removed records left.

use super::super::{EngineError, Result};
use super::connection::{Fault, evict, timely};
use super::{Inner, Patience, number, sql};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often this process looks at the clock and the floor.
const EVERY: Duration = Duration::from_secs(10);
/// Rows of removed records are kept for so many microseconds; the floor follows at half of it. A
/// process that chooses versions has looked at the floor far more lately than that.
const KEPT_MICROS: u64 = 3_600_000_000;
/// For how long the tables may be in the making before they are tried again.
const MAKING: Duration = Duration::from_secs(15);
/// Questions for the time at once; the fastest answer is the most exact.
const ASKED: usize = 3;

/// Tends the tables until the engine is gone.
pub(super) async fn run(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(e) = inner.tend().await {
            tracing::warn!(error = %e, "the database could not be tended");
        }
    }
}

impl Inner {
    /// Makes the tables, whoever comes first, and checks their version.
    pub(super) async fn prepare(&self) -> Result<()> {
        let mut patience = Patience::new();
        let format = loop {
            match tokio::time::timeout(MAKING, self.make_tables()).await {
                Ok(Ok(format)) => break format,
                Ok(Err(fault)) => patience.after(fault).await?,
                Err(_) => patience.after(Fault::Cut("the tables were not made".into())).await?,
            }
        };
        if format == sql::FORMAT {
            return Ok(());
        }
        Err(EngineError::Corrupt(format!(
            "the database has tables of format {format}, and this build reads format {}; run the \
             version of steadfast that made them, or name another database",
            sql::FORMAT
        )))
    }

    async fn make_tables(&self) -> std::result::Result<i32, Fault> {
        let mut client = self.client().await?;
        // Two that make it at once: the second meets a name that is taken, and tries again.
        if let Err(e) = client.batch_execute(sql::META).await {
            let taken = e.code().is_some_and(|code| code.code().starts_with("42P0"));
            return Err(if taken { Fault::Crossed } else { e.into() });
        }
        let transaction = client.transaction().await?;
        let row = transaction.query_one(sql::LOCK_META, &[]).await?;
        let format: i32 = row.try_get(0)?;
        if format != 0 {
            return Ok(format);
        }
        transaction.batch_execute(sql::TABLES).await?;
        transaction.commit().await?;
        if let Err(e) = client.batch_execute(sql::STORE_PLAIN).await {
            tracing::debug!(error = %e, "how values are stored was left as it is");
        }
        Ok(sql::FORMAT)
    }

    /// Looks at the clock, raises the floor of versions, and drops what need not be kept.
    pub(super) async fn tend(&self) -> Result<()> {
        self.set_clock().await?;
        let floor = self.now().saturating_sub(KEPT_MICROS / 2);
        self.raise(self.raise_floor(floor).await?);
        let kept = floor.saturating_sub(KEPT_MICROS / 2).cast_signed();
        let client = self.client().await.map_err(unavailable)?;
        let tended = async {
            client.execute(sql::DROP_REMOVED, &[&kept]).await?;
            client.execute(sql::FOLD_COUNTS, &[]).await
        };
        match timely(tended).await {
            Ok(_) => Ok(()),
            Err(fault) => {
                evict(client);
                Err(unavailable(fault))
            }
        }
    }

    async fn set_clock(&self) -> Result<()> {
        let mut best: Option<(Duration, i64)> = None;
        for _ in 0..ASKED {
            let asked = Instant::now();
            let rows = self.rows(sql::NOW, &[]).await?;
            let took = asked.elapsed();
            let told = rows.first().map_or(Ok(0), |row| number(row, 0))?;
            let then = (asked + took / 2).saturating_duration_since(self.opened);
            let ahead = told.cast_signed() - i64::try_from(then.as_micros()).unwrap_or(i64::MAX);
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, ahead));
            }
        }
        if let Some((_, ahead)) = best {
            self.clock.store(ahead, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn raise_floor(&self, floor: u64) -> Result<u64> {
        let rows = self.rows(sql::RAISE_FLOOR, &[&floor.cast_signed()]).await?;
        rows.first().map_or(Ok(floor), |row| number(row, 0))
    }

    /// Leaves the last version behind for the next process.
    pub(super) async fn leave(&self) {
        let last = self.last.load(Ordering::Acquire);
        if let Err(e) = self.raise_floor(last).await {
            tracing::debug!(error = %e, "the last version was not left behind");
        }
    }
}

fn unavailable(fault: Fault) -> EngineError {
    match fault {
        Fault::Refused(e) => e,
        Fault::Crossed | Fault::Held => EngineError::Unavailable("others were in the way".into()),
        Fault::Cut(why) => EngineError::Unavailable(why),
    }
}
