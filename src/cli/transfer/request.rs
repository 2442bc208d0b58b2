//! Sends batches of items into a store: to Steadfast as they are, elsewhere by what the hosted API
//! has.

use crate::client::{Body, Client, Error, IfExists, Mode, PutOptions, Retry};
use crate::transfer::Wrong;
use crate::transfer::batches::{Batch, Bounds};
use crate::transfer::record::{Checked, Item, Line};
use crate::transfer::resume::Counts;
use crate::wire::{BatchError, Store};
use bytes::Bytes;
use std::collections::HashSet;

/// A value of more bytes goes by itself where the bound of a batch's line is not known.
const SINGLE_BYTES: usize = 1 << 20;
/// The code of a line whose item is there.
const EXISTS: &str = "412";
/// What is told of it.
const THERE: &str = "the item exists";

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) counts: Counts,
    pub(super) failures: Vec<Wrong>,
}

impl Outcome {
    fn fail(&mut self, wrong: Wrong, existed: bool) {
        self.counts.failed += 1;
        self.counts.existed += u64::from(existed);
        self.failures.push(wrong);
    }
}

/// Puts batches into one store.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) client: Client,
    pub(super) store: Store,
    pub(super) steadfast: bool,
    pub(super) if_exists: IfExists,
    pub(super) value_bytes_max: u64,
    pub(super) retry: Retry,
}

impl Sender {
    /// Into a store; asks what the server is.
    pub(super) async fn new(
        client: &Client,
        store: &Store,
        if_exists: IfExists,
        value_bytes_max: u64,
    ) -> Result<Sender, Error> {
        let steadfast = client.is_steadfast().await?;
        let retry = Retry::default();
        // Tries are counted here, where it is known what a second one means.
        let client = client.clone().with_retry(Retry { tries: 1, ..retry });
        Ok(Sender { client, store: store.clone(), steadfast, if_exists, value_bytes_max, retry })
    }

    /// How items are cut into batches for it.
    pub(super) fn bounds(&self) -> Bounds {
        let overwrite = self.if_exists == IfExists::Overwrite;
        match (self.steadfast, overwrite) {
            (true, _) => Bounds { lines: 10_000, bytes: 2 << 20, apart: !overwrite },
            (false, true) => Bounds { lines: 1000, bytes: 2 << 20, apart: true },
            // One request for each.
            (false, false) => Bounds { lines: 32, bytes: 2 << 20, apart: true },
        }
    }

    /// Sends a batch, again and again where that helps.
    pub(super) async fn send(&self, batch: Batch) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        for wrong in batch.wrongs {
            outcome.fail(wrong, false);
        }
        let lines =
            Lines { body: Bytes::from(batch.lines), numbers: batch.numbers, again: batch.again };
        if lines.numbers.is_empty() {
            return Ok(outcome);
        }
        if self.steadfast {
            self.import(&lines, &mut outcome).await?;
        } else {
            Box::pin(self.remake(&lines, &mut outcome)).await?;
        }
        Ok(outcome)
    }

    async fn import(&self, lines: &Lines, outcome: &mut Outcome) -> Result<(), Error> {
        let retry = self.retry;
        let (mut nth, mut again) = (1, lines.again);
        loop {
            // What may have been written by a try before is no failure.
            let if_exists = match self.if_exists {
                IfExists::Fail if again => IfExists::Skip,
                other @ (IfExists::Overwrite | IfExists::Skip | IfExists::Fail) => other,
            };
            let body = Body::bytes(lines.body.clone());
            let e = match self.client.import(&self.store, body, if_exists).await {
                Ok(report) => {
                    let failing = report.errors.iter().any(server_failed);
                    if !failing || nth >= retry.tries {
                        outcome.counts.written += report.written;
                        outcome.counts.skipped += report.skipped;
                        lines.tell(report.failed, report.errors, outcome);
                        return Ok(());
                    }
                    busy("the server failed at some lines")
                }
                Err(e) => e,
            };
            wait(&retry, nth, e).await?;
            nth += 1;
            again = true;
        }
    }

    /// Makes the lines anew for a server that knows the hosted API alone.
    async fn remake(&self, lines: &Lines, outcome: &mut Outcome) -> Result<(), Error> {
        let mut batch = Lines { again: lines.again, ..Lines::default() };
        let mut body = Vec::new();
        let mut singles = Vec::new();
        for (line, number) in lines.each() {
            let parsed = Line::parse(line);
            let key = parsed.as_ref().map(|line| line.key.clone().into_owned());
            let key = key.unwrap_or_default();
            let checked = parsed.and_then(|line| line.check(self.value_bytes_max));
            let item = match checked {
                Ok(item) => item,
                Err(reason) => {
                    outcome.fail(Wrong { number, key, reason }, false);
                    continue;
                }
            };
            if item.left == Some(0) {
                outcome.counts.skipped += 1;
                continue;
            }
            let text = std::str::from_utf8(&item.metadata).is_ok();
            let single = item.value.len() > SINGLE_BYTES || !text;
            if single || self.if_exists != IfExists::Overwrite {
                singles.push((number, key, item));
                continue;
            }
            let line = Item {
                key: &key,
                value: &item.value,
                metadata: &item.metadata,
                time_to_live_sec: item.left,
                ..Item::default()
            };
            line.write(&mut body);
            batch.numbers.push(number);
        }
        batch.body = body.into();
        if !batch.numbers.is_empty() {
            self.batch(&batch, outcome).await?;
        }
        for (number, key, item) in singles {
            self.put(number, key, item, lines.again, outcome).await?;
        }
        Ok(())
    }

    async fn batch(&self, lines: &Lines, outcome: &mut Outcome) -> Result<(), Error> {
        let retry = self.retry;
        let mut nth = 1;
        let errors = loop {
            let e = match self.client.batch(&self.store, lines.body.clone()).await {
                Ok(report) if nth < retry.tries && report.errors.iter().any(server_failed) => {
                    busy("the server failed at some lines")
                }
                Ok(report) => break report.errors,
                Err(e) => e,
            };
            wait(&retry, nth, e).await?;
            nth += 1;
        };
        let failed = errors.len() as u64;
        outcome.counts.written += (lines.numbers.len() as u64).saturating_sub(failed);
        lines.tell(failed, errors, outcome);
        Ok(())
    }

    async fn put(
        &self,
        number: u64,
        key: String,
        item: Checked,
        again: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let overwrite = self.if_exists == IfExists::Overwrite;
        let options = PutOptions {
            metadata: (!item.metadata.is_empty()).then_some(item.metadata),
            time_to_live: item.left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
            mode: if overwrite { Mode::Overwrite } else { Mode::Add },
            if_generation_match: None,
        };
        let value = Bytes::from(item.value);
        let retry = self.retry;
        let (mut nth, mut again) = (1, again);
        loop {
            match self.client.put(&self.store, &key, value.clone(), &options).await {
                Ok(()) => outcome.counts.written += 1,
                Err(e) if e.status() == Some(412) => {
                    if again || self.if_exists == IfExists::Skip {
                        outcome.counts.skipped += 1;
                    } else {
                        let reason = THERE.to_owned();
                        outcome.fail(Wrong { number, key, reason }, true);
                    }
                }
                Err(e) if matches!(e.status(), Some(400 | 413)) => {
                    outcome.fail(Wrong { number, key, reason: e.to_string() }, false);
                }
                Err(e) => {
                    wait(&retry, nth, e).await?;
                    nth += 1;
                    again = true;
                    continue;
                }
            }
            return Ok(());
        }
    }
}

/// Lines that are sent together, and may be sent again.
#[derive(Default)]
struct Lines {
    body: Bytes,
    numbers: Vec<u64>,
    again: bool,
}

impl Lines {
    fn each(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.body.split(|byte| *byte == b'\n').zip(self.numbers.iter().copied())
    }

    /// Tells the errors of an answer, by the numbers that people count.
    fn tell(&self, failed: u64, errors: Vec<BatchError>, outcome: &mut Outcome) {
        let told = errors.len() as u64;
        let mut lines = HashSet::new();
        for error in errors {
            let at = usize::try_from(error.index).unwrap_or(usize::MAX);
            let number = self.numbers.get(at).copied().unwrap_or_default();
            lines.insert(number);
            let existed = error.code == EXISTS;
            let reason = match existed {
                true => THERE.to_owned(),
                false => format!("{} ({})", error.reason, error.code),
            };
            outcome.fail(Wrong { number, key: error.key, reason }, existed);
        }
        // A server tells a bounded number of them.
        if let (Some(first), Some(last)) = (self.numbers.first(), self.numbers.last())
            && failed > told
        {
            let more = failed - told;
            let reason = format!("{more} more between {first} and {last} failed; no reason came");
            outcome.counts.failed += more;
            outcome.failures.push(Wrong { number: *last, key: String::new(), reason });
        }
    }
}

fn server_failed(error: &BatchError) -> bool {
    error.code.starts_with('5') || error.code == "429"
}

fn busy(why: &str) -> Error {
    Error::Refused {
        what: "a batch of items".into(),
        status: 503,
        said: why.into(),
        retry_after: None,
    }
}

/// Waits before the next try; gives the error back when there is to be none.
async fn wait(retry: &Retry, nth: u32, e: Error) -> Result<(), Error> {
    let worth = retry.worth(&e) || e.status() == Some(500);
    if nth >= retry.tries || !worth {
        return Err(e);
    }
    tokio::time::sleep(retry.wait(nth, &e)).await;
    Ok(())
}
