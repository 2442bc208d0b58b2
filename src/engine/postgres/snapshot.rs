//! Snapshots. Each one is a repeatable-read transaction on a dedicated connection.

use super::super::{
    BoxFuture, EngineError, INLINE_BYTES_MAX, KeyedRecord, Record, Result, Snapshot,
};
use super::connection::{Fault, Params, evict, run_query, with_deadline, with_transfer_deadline};
use super::{AccountedBody, Backoff, Inner, bytes, malformed_row, number, record_at, signed, sql};
use bytes::Bytes;
use deadpool_postgres::Client;
use std::sync::Arc;
use tokio_postgres::Row;

/// Maximum number of records per query.
const PAGE_RECORDS: usize = 100;
/// Maximum number of body bytes returned by one query: 25 MiB.
const PAGE_BYTES: u64 = PAGE_RECORDS as u64 * INLINE_BYTES_MAX as u64;

/// Reads all records as of the call to [`SnapshotReader::open`].
pub(super) struct SnapshotReader {
    inner: Arc<Inner>,
    /// The connection; `None` after a failure.
    client: Option<Client>,
}

impl SnapshotReader {
    pub(super) async fn open(inner: &Arc<Inner>) -> Result<SnapshotReader> {
        let mut backoff = Backoff::new();
        loop {
            let fault = match inner.client().await {
                Err(fault) => fault,
                Ok(client) => {
                    let begun = with_deadline(client.batch_execute(sql::BEGIN_SNAPSHOT)).await;
                    let Err(fault) = begun else {
                        return Ok(SnapshotReader { inner: inner.clone(), client: Some(client) });
                    };
                    evict(client);
                    fault
                }
            };
            backoff.wait(fault).await?;
        }
    }

    /// Runs a query in the transaction. Any failure ends the snapshot.
    async fn query(&mut self, bytes: u64, text: &str, params: Params<'_>) -> Result<Vec<Row>> {
        let lost = || EngineError::Unavailable("the snapshot's connection was lost".into());
        let client = self.client.as_ref().ok_or_else(lost)?;
        let rows = with_transfer_deadline(bytes, run_query(client, text, params)).await;
        rows.map_err(|fault| {
            self.client.take().into_iter().for_each(evict);
            match fault {
                Fault::Conflict | Fault::LockTimeout => lost(),
                fault @ (Fault::Rejected(_) | Fault::Disconnected(_)) => fault.into(),
            }
        })
    }

    /// Reserves memory for a large body of `len` bytes, and reads its record.
    async fn read_large(&mut self, key: &[u8], len: u64) -> Result<Record> {
        let permit = self.inner.reserve_memory(len).await?;
        let rows = self.query(len, sql::READ_LARGE, &[&key, &signed(len)]).await?;
        let missing = || EngineError::Corrupt("a record disappeared from its snapshot".into());
        let row = rows.first().ok_or_else(missing)?;
        let bytes = row.try_get(3).map_err(malformed_row)?;
        record_at(row, 0, Bytes::from_owner(AccountedBody { bytes, _permit: permit }))
    }

    async fn page(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: u64,
    ) -> Result<Vec<KeyedRecord>> {
        let limit = signed(limit.min(PAGE_RECORDS) as u64);
        let rows = self.query(PAGE_BYTES, sql::SCAN_FULL, &[&start, &end, &limit]).await?;
        let (mut records, mut body_bytes) = (Vec::with_capacity(rows.len()), 0);
        for row in &rows {
            let key = Bytes::copy_from_slice(bytes(row, 0)?);
            let body: Option<&[u8]> = row.try_get(4).map_err(malformed_row)?;
            let record = match body {
                Some(body) => record_at(row, 1, Bytes::copy_from_slice(body))?,
                None => self.read_large(&key, number(row, 5)?).await?,
            };
            body_bytes += record.body.len();
            records.push((key, record));
            if body_bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }
}

impl Snapshot for SnapshotReader {
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

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        // Close the connection to end the transaction. Returning the connection to the pool does
        // not end it.
        self.client.take().into_iter().for_each(|client| drop(Client::take(client)));
    }
}
