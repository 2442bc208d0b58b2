//! All records as they were at one moment: a transaction that sees no later ones, on a connection
//! of its own.

use super::connection::{Fault, evict, timely, timely_with};
use super::{Inner, Patience, bytes, misshapen, number, record_at, signed, sql};
use crate::engine::{BoxFuture, EngineError, KeyedRecord, Record, Result, Snapshot};
use bytes::Bytes;
use deadpool_postgres::Client;
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Records asked for at once: with bodies as large as they may be, 25 MiB.
const PAGE_RECORDS: usize = 100;
/// Bytes that such a page may have.
const PAGE_BYTES: u64 = PAGE_RECORDS as u64 * super::super::INLINE_BYTES_MAX as u64;

/// See the module.
pub(super) struct Frozen {
    inner: Arc<Inner>,
    /// `None` once it failed.
    client: Option<Client>,
}

impl Frozen {
    /// A snapshot of this moment.
    pub(super) async fn of(inner: &Arc<Inner>) -> Result<Frozen> {
        let mut patience = Patience::new();
        loop {
            let begun = async {
                let client = inner.client().await?;
                match timely(client.batch_execute(sql::FREEZE)).await {
                    Ok(()) => Ok(client),
                    Err(fault) => {
                        evict(client);
                        Err(fault)
                    }
                }
            };
            match begun.await {
                Ok(client) => return Ok(Frozen { inner: inner.clone(), client: Some(client) }),
                Err(fault) => patience.after(fault).await?,
            }
        }
    }

    /// Rows, or the end of the snapshot.
    async fn rows(
        &mut self,
        bytes: u64,
        text: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let lost = || EngineError::Unavailable("the snapshot's connection was lost".into());
        let client = self.client.as_ref().ok_or_else(lost)?;
        let rows = async {
            let statement = client.prepare_cached(text).await?;
            client.query(&statement, params).await
        };
        match timely_with(bytes, rows).await {
            Ok(rows) => Ok(rows),
            Err(fault) => {
                self.client.take().into_iter().for_each(evict);
                Err(match fault {
                    Fault::Refused(e) => e,
                    Fault::Crossed | Fault::Held => lost(),
                    Fault::Cut(why) => EngineError::Unavailable(why),
                })
            }
        }
    }

    /// The body of a record that has so many bytes, which count for as long as they are held.
    async fn large(&mut self, key: &[u8], len: u64) -> Result<Record> {
        let share = self.inner.share(len).await?;
        let rows = self.rows(len, sql::READ_LARGE, &[&key, &signed(len)]).await?;
        let gone = || EngineError::Corrupt("a record left its snapshot".into());
        let row = rows.first().ok_or_else(gone)?;
        let body = super::Held { bytes: row.try_get(3).map_err(misshapen)?, _share: share };
        record_at(row, 0, Bytes::from_owner(body))
    }

    async fn page(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        most: u64,
    ) -> Result<Vec<KeyedRecord>> {
        let limit = signed(limit.min(PAGE_RECORDS) as u64);
        let rows = self.rows(PAGE_BYTES, sql::SCAN_WHOLE, &[&start, &end, &limit]).await?;
        let (mut found, mut held) = (Vec::with_capacity(rows.len()), 0);
        for row in &rows {
            let key = Bytes::copy_from_slice(bytes(row, 0)?);
            let body: Option<&[u8]> = row.try_get(4).map_err(misshapen)?;
            let record = match body {
                Some(body) => record_at(row, 1, Bytes::copy_from_slice(body))?,
                None => self.large(&key, number(row, 5)?).await?,
            };
            held += record.body.len();
            found.push((key, record));
            if held >= most {
                break;
            }
        }
        Ok(found)
    }
}

impl Snapshot for Frozen {
    fn scan(
        &mut self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        bytes: u64,
    ) -> BoxFuture<'_, Result<Vec<KeyedRecord>>> {
        Box::pin(async move { self.page(&start, &end, limit, bytes).await })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Its connection ends with it, and so does the transaction.
        self.client.take().into_iter().for_each(|client| drop(Client::take(client)));
    }
}
