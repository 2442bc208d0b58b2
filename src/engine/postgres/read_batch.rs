//! Batches concurrent reads, because a statement with many keys costs little more than one with a
//! single key. A statement is sent only after all of its reads were queued, so each read sees every
//! commit that was acknowledged before the read was queued.

use super::super::{EngineError, Projection, Record, Result};
use super::{Inner, bytes, malformed_row, number, record_at, sql};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::Row;

/// Number of concurrent statements per projection.
const WORKERS: usize = 2;
/// Maximum number of keys per statement. Each key may return a body of up to 256 KiB.
const BATCH_KEYS: usize = 32;
/// Maximum number of queued reads per projection. Further callers wait for room in the queue.
const QUEUE_READS: usize = 1024;

#[derive(Clone, Debug)]
pub(super) enum BatchedRead {
    /// There is no record.
    Absent,
    /// The record, with the parts that were requested.
    Record(Record),
    /// The record's body has this many bytes, too many for a batch.
    Large(u64),
}

struct PendingRead {
    key: Bytes,
    reply: oneshot::Sender<Result<BatchedRead>>,
}

/// Queues reads for the workers, which stop when the queue is dropped.
pub(super) struct ReadBatcher {
    meta: mpsc::Sender<PendingRead>,
    full: mpsc::Sender<PendingRead>,
}

impl ReadBatcher {
    pub(super) fn new(inner: &Arc<Inner>) -> ReadBatcher {
        let start = |projection: Projection| {
            let (sender, receiver) = mpsc::channel(QUEUE_READS);
            let receiver = Arc::new(Mutex::new(receiver));
            for _ in 0..WORKERS {
                tokio::spawn(run_worker(inner.clone(), receiver.clone(), projection));
            }
            sender
        };
        ReadBatcher { meta: start(Projection::Meta), full: start(Projection::Full) }
    }

    /// Reads a record in the next batch.
    pub(super) async fn read(&self, key: &[u8], projection: Projection) -> Result<BatchedRead> {
        let (reply, result) = oneshot::channel();
        let read = PendingRead { key: Bytes::copy_from_slice(key), reply };
        let queue = if projection == Projection::Meta { &self.meta } else { &self.full };
        queue.send(read).await.map_err(|_| EngineError::Closed)?;
        result.await.map_err(|_| EngineError::Closed)?
    }
}

async fn run_worker(
    inner: Arc<Inner>,
    queue: Arc<Mutex<mpsc::Receiver<PendingRead>>>,
    projection: Projection,
) {
    loop {
        let batch = {
            let mut queue = queue.lock().await;
            let mut batch: Vec<PendingRead> = Vec::new();
            if queue.recv_many(&mut batch, BATCH_KEYS).await == 0 {
                return;
            }
            // Drop the reads of cancelled requests.
            batch.retain(|read| !read.reply.is_closed());
            if batch.is_empty() {
                continue;
            }
            batch
        };
        let inner = inner.clone();
        // The batch runs in a separate task, so that a panic does not end the worker.
        let _ = tokio::spawn(async move { run_batch(&inner, batch, projection).await }).await;
    }
}

async fn run_batch(inner: &Inner, batch: Vec<PendingRead>, projection: Projection) {
    let results = fetch(inner, &batch, projection).await;
    for PendingRead { key, reply } in batch {
        let result = match &results {
            // The result is cloned, because several reads may have the same key.
            Ok(results) => results.get(&key[..]).cloned().unwrap_or(Ok(BatchedRead::Absent)),
            Err(e) => Err(e.clone()),
        };
        let _ = reply.send(result);
    }
}

type ResultsByKey = HashMap<Vec<u8>, Result<BatchedRead>>;

async fn fetch(inner: &Inner, reads: &[PendingRead], part: Projection) -> Result<ResultsByKey> {
    let keys: Vec<&[u8]> = reads.iter().map(|read| &read.key[..]).collect();
    let statement = if part == Projection::Meta { sql::READ_META } else { sql::READ_SMALL };
    let rows = inner.query(statement, &[&keys]).await?;
    rows.iter().map(|row| Ok((bytes(row, 0)?.to_vec(), decode_row(row, part)))).collect()
}

/// Decodes a row of [`sql::READ_META`] or [`sql::READ_SMALL`].
fn decode_row(row: &Row, projection: Projection) -> Result<BatchedRead> {
    if projection == Projection::Meta {
        return record_at(row, 1, Bytes::new()).map(BatchedRead::Record);
    }
    let small: Option<&[u8]> = row.try_get(4).map_err(malformed_row)?;
    match small {
        Some(body) => record_at(row, 1, Bytes::copy_from_slice(body)).map(BatchedRead::Record),
        None => Ok(BatchedRead::Large(number(row, 5)?)),
    }
}
