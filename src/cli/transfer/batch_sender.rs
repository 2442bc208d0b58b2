//! Sends batches of items to a server: to Steadfast as imports, and to other servers as batches and
//! single items.

use crate::client::{Client, Error, PutMode, PutOptions, RequestBody, Retry};
use crate::transfer::batches::{Batch, BatchLimits};
use crate::transfer::checked_item::CheckedItem;
use crate::transfer::resume::ImportCounts;
use crate::transfer::{ItemPosition, RejectedItem};
use crate::wire::item_line::ItemLine;
use crate::wire::{BatchError, IfExists, Store};
use bytes::Bytes;

/// Maximum size in bytes of a value in a batch for another server. Larger values are sent in
/// separate PUT requests, because the server's line limit is unknown.
const SINGLE_BYTES: usize = 1 << 20;
/// The error code of a line that was not written because the item exists.
const EXISTS_CODE: &str = "412";
const EXISTS_REASON: &str = "the item exists";

#[derive(Debug, Default)]
pub(super) struct BatchOutcome {
    pub(super) counts: ImportCounts,
    pub(super) failures: Vec<RejectedItem>,
}

impl BatchOutcome {
    fn fail(&mut self, item: RejectedItem, existed: bool) {
        self.counts.failed += 1;
        self.counts.existed += u64::from(existed);
        self.failures.push(item);
    }
}

/// Sends batches of items to a store.
#[derive(Clone)]
pub(super) struct BatchSender {
    client: Client,
    store: Store,
    steadfast: bool,
    if_exists: IfExists,
    value_bytes_max: u64,
    retry: Retry,
}

impl BatchSender {
    pub(super) async fn new(
        client: &Client,
        store: &Store,
        if_exists: IfExists,
        value_bytes_max: u64,
    ) -> Result<BatchSender, Error> {
        let steadfast = client.is_steadfast().await?;
        let retry = Retry::default();
        // This type retries requests itself, because the outcome of an attempt depends on earlier
        // attempts.
        let client = client.clone().with_retry(Retry { attempts_max: 1, ..retry });
        let store = store.clone();
        Ok(BatchSender { client, store, steadfast, if_exists, value_bytes_max, retry })
    }

    /// Returns the limits of a batch for this server.
    pub(super) fn limits(&self) -> BatchLimits {
        let overwrite = self.if_exists == IfExists::Overwrite;
        let (items, unique_keys) = match (self.steadfast, overwrite) {
            (true, _) => (10_000, !overwrite),
            (false, true) => (1000, true),
            // Each item is a separate request.
            (false, false) => (32, true),
        };
        let decode = (!self.steadfast).then_some(self.value_bytes_max);
        BatchLimits { items, bytes: 2 << 20, unique_keys, decode }
    }

    /// Sends a batch and retries failed attempts.
    pub(super) async fn send(&self, batch: Batch) -> Result<BatchOutcome, Error> {
        let mut outcome = BatchOutcome::default();
        for item in batch.rejected {
            outcome.fail(item, false);
        }
        if batch.positions.is_empty() {
            return Ok(outcome);
        }
        if self.steadfast {
            let (body, positions) = (Bytes::from(batch.lines), batch.positions);
            self.import(&BatchLines { body, positions }, batch.resent, &mut outcome).await?;
        } else {
            let items = batch.positions.into_iter().zip(batch.items);
            Box::pin(self.put_items(items, batch.resent, &mut outcome)).await?;
        }
        Ok(outcome)
    }

    async fn import(
        &self,
        lines: &BatchLines,
        mut resent: bool,
        outcome: &mut BatchOutcome,
    ) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            // An earlier attempt may have written the items.
            let if_exists = match self.if_exists {
                IfExists::Fail if resent => IfExists::Skip,
                other @ (IfExists::Overwrite | IfExists::Skip | IfExists::Fail) => other,
            };
            let body = RequestBody::bytes(lines.body.clone());
            let e = match self.client.import(&self.store, body, if_exists).await {
                Ok(report) => {
                    let retryable = report.errors.iter().any(is_server_error);
                    if !retryable || attempt >= self.retry.attempts_max {
                        outcome.counts.written += report.written;
                        outcome.counts.skipped += report.skipped;
                        lines.report(report.failed, report.errors, outcome);
                        return Ok(());
                    }
                    lines_failed()
                }
                Err(e) => e,
            };
            wait_or_fail(&self.retry, attempt, e).await?;
            attempt += 1;
            resent = true;
        }
    }

    /// Writes items through the hosted API: in a batch where possible, and otherwise one by one.
    async fn put_items(
        &self,
        items: impl Iterator<Item = (ItemPosition, CheckedItem)>,
        resent: bool,
        outcome: &mut BatchOutcome,
    ) -> Result<(), Error> {
        let (mut body, mut positions, mut singles) = (Vec::new(), Vec::new(), Vec::new());
        for (position, item) in items {
            let time_to_live_sec = item.expiry.remaining_secs();
            if time_to_live_sec == Some(0) {
                outcome.counts.skipped += 1;
                continue;
            }
            let text = std::str::from_utf8(&item.metadata).is_ok();
            let single = item.value.len() > SINGLE_BYTES || !text;
            if single || self.if_exists != IfExists::Overwrite {
                singles.push((position, item));
                continue;
            }
            let line = ItemLine {
                key: &item.key,
                value: &item.value,
                metadata: &item.metadata,
                time_to_live_sec,
                ..ItemLine::default()
            };
            line.write(&mut body);
            positions.push(position);
        }
        if !positions.is_empty() {
            self.batch(&BatchLines { body: body.into(), positions }, outcome).await?;
        }
        for (position, item) in singles {
            self.put(position, item, resent, outcome).await?;
        }
        Ok(())
    }

    async fn batch(&self, lines: &BatchLines, outcome: &mut BatchOutcome) -> Result<(), Error> {
        let mut attempt = 1;
        let errors = loop {
            let last = attempt >= self.retry.attempts_max;
            let e = match self.client.batch(&self.store, lines.body.clone()).await {
                Ok(report) if !last && report.errors.iter().any(is_server_error) => lines_failed(),
                Ok(report) => break report.errors,
                Err(e) => e,
            };
            wait_or_fail(&self.retry, attempt, e).await?;
            attempt += 1;
        };
        let failed = errors.len() as u64;
        outcome.counts.written += (lines.positions.len() as u64).saturating_sub(failed);
        lines.report(failed, errors, outcome);
        Ok(())
    }

    async fn put(
        &self,
        position: ItemPosition,
        item: CheckedItem,
        mut resent: bool,
        outcome: &mut BatchOutcome,
    ) -> Result<(), Error> {
        let overwrite = self.if_exists == IfExists::Overwrite;
        let secs = item.expiry.remaining_secs();
        let options = PutOptions {
            metadata: (!item.metadata.is_empty()).then_some(item.metadata),
            time_to_live: secs.map(|secs| u32::try_from(secs.max(1)).unwrap_or(u32::MAX)),
            mode: if overwrite { PutMode::Overwrite } else { PutMode::Add },
            if_generation_match: None,
        };
        let (key, value) = (item.key, Bytes::from(item.value));
        let mut attempt = 1;
        loop {
            match self.client.put(&self.store, &key, value.clone(), &options).await {
                Ok(()) => outcome.counts.written += 1,
                Err(e) if e.status() == Some(412) => {
                    if resent || self.if_exists == IfExists::Skip {
                        outcome.counts.skipped += 1;
                    } else {
                        let reason = EXISTS_REASON.to_owned();
                        outcome.fail(RejectedItem { position, key, reason }, true);
                    }
                }
                Err(e) if matches!(e.status(), Some(400 | 413)) => {
                    let reason = e.to_string();
                    outcome.fail(RejectedItem { position, key, reason }, false);
                }
                Err(e) => {
                    wait_or_fail(&self.retry, attempt, e).await?;
                    attempt += 1;
                    resent = true;
                    continue;
                }
            }
            return Ok(());
        }
    }
}

/// The lines of a request, and the position of each item in the input.
struct BatchLines {
    body: Bytes,
    positions: Vec<ItemPosition>,
}

impl BatchLines {
    /// Adds the lines that a response reports as failed, with their positions in the input.
    fn report(&self, failed: u64, errors: Vec<BatchError>, outcome: &mut BatchOutcome) {
        let listed = errors.len() as u64;
        for error in errors {
            let at = usize::try_from(error.index).unwrap_or(usize::MAX);
            let position = self.positions.get(at).copied().unwrap_or_default();
            let existed = error.code == EXISTS_CODE;
            let reason = match existed {
                true => EXISTS_REASON.to_owned(),
                false => format!("{} ({})", error.reason, error.code),
            };
            outcome.fail(RejectedItem { position, key: error.key, reason }, existed);
        }
        // Servers limit the number of errors in a response.
        if let (Some(first), Some(last)) = (self.positions.first(), self.positions.last())
            && failed > listed
        {
            let more = failed - listed;
            let range = match (first.item, first.line) {
                (0, 0) => String::new(),
                (0, line) => format!(" in lines {line} to {}", last.line),
                (item, _) => format!(" from item {item} to {}", last.item),
            };
            let (items, errors) = match more {
                1 => ("item", "the error"),
                _ => ("items", "their errors"),
            };
            let reason =
                format!("{more} more {items}{range} failed; the server did not list {errors}");
            outcome.counts.failed += more;
            outcome.failures.push(RejectedItem {
                position: ItemPosition::NONE,
                key: String::new(),
                reason,
            });
        }
    }
}

fn is_server_error(error: &BatchError) -> bool {
    error.code.starts_with('5') || error.code == "429"
}

/// Creates the error for an attempt in which some lines failed with server errors.
fn lines_failed() -> Error {
    Error::Status {
        subject: "a batch of items".into(),
        status: 503,
        message: "some lines failed with a server error".into(),
        retry_after: None,
    }
}

/// Waits before the next attempt. Returns the error if it is permanent or no attempts remain.
async fn wait_or_fail(retry: &Retry, attempt: u32, e: Error) -> Result<(), Error> {
    let retryable = retry.is_retryable(&e) || e.status() == Some(500);
    if attempt >= retry.attempts_max || !retryable {
        return Err(e);
    }
    tokio::time::sleep(retry.delay(attempt, &e)).await;
    Ok(())
}
