//! The memory budget of the transfer commands: values wait until there is memory for them.

use crate::client::{Client, Error, ValueStream};
use crate::wire::Store;
use crate::wire::item_line::line_bytes_max;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;

/// Memory for items that are read or sent at the same time, in bytes: two of the largest values of
/// the hosted API with their lines.
const BUDGET_BYTES: u64 = 128 << 20;
/// Bytes per semaphore permit.
const UNIT: u64 = 1024;

/// A semaphore that counts bytes.
#[derive(Clone)]
pub(super) struct MemoryBudget(Arc<Semaphore>);

/// Part of the budget, released on drop.
pub(super) struct Reservation {
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

impl MemoryBudget {
    pub(super) fn new() -> MemoryBudget {
        MemoryBudget(Arc::new(Semaphore::new(units(BUDGET_BYTES) as usize)))
    }

    /// Waits until `bytes` are available, or the whole budget if `bytes` exceeds it.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<Reservation, Error> {
        let permit = self.0.clone().acquire_many_owned(units(bytes)).await;
        let permit = permit.map_err(|e| Error::Local(e.to_string()))?;
        Ok(Reservation { bytes, _permit: permit })
    }

    fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let permit = self.0.clone().try_acquire_many_owned(units(bytes)).ok()?;
        Some(Reservation { bytes, _permit: permit })
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.min(BUDGET_BYTES).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Tasks that run concurrently, each of which reads an item, and whose results are taken in order.
pub(super) struct OrderedReads<T> {
    budget: MemoryBudget,
    running: VecDeque<RunningRead<T>>,
}

struct RunningRead<T> {
    task: JoinHandle<Result<T, Error>>,
    is_next: oneshot::Sender<()>,
}

impl<T: Send + 'static> OrderedReads<T> {
    pub(super) fn new() -> OrderedReads<T> {
        OrderedReads { budget: MemoryBudget::new(), running: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn push<R>(&mut self, read: impl FnOnce(ValueReader) -> R)
    where
        R: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (is_next, next) = oneshot::channel();
        let reader = ValueReader { budget: self.budget.clone(), next };
        self.running.push_back(RunningRead { task: tokio::spawn(read(reader)), is_next });
    }

    /// Waits for the result of the oldest task; `None` if there is none.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Error> {
        let Some(RunningRead { task, is_next }) = self.running.pop_front() else {
            return Ok(None);
        };
        // The later tasks may have taken the whole budget, and release it only after this one.
        let _ = is_next.send(());
        let result = task.await.map_err(|e| Error::Local(format!("task failed: {e}")))?;
        result.map(Some)
    }
}

/// Reads one value within the budget.
pub(super) struct ValueReader {
    budget: MemoryBudget,
    /// Resolves when this task is the oldest, which reads even if the budget is exhausted.
    next: oneshot::Receiver<()>,
}

impl ValueReader {
    /// Gets an item once there is memory for its value and its line. The result that contains
    /// either keeps the reservation.
    pub(super) async fn get(
        &mut self,
        client: &Client,
        store: &Store,
        key: &str,
    ) -> Result<(ValueStream, Option<Reservation>), Error> {
        let mut reserved: Option<Reservation> = None;
        loop {
            let value = client.get(store, key).await?;
            let size = value.headers.size;
            let bytes = size.saturating_add(line_bytes_max(size));
            // The value may have grown since its size was reserved.
            reserved = reserved.filter(|reserved| reserved.bytes >= bytes);
            if let Some(reserved) = reserved.or_else(|| self.budget.try_reserve(bytes)) {
                return Ok((value, Some(reserved)));
            }
            // The request is repeated, because servers end responses that are not read.
            drop(value);
            reserved = tokio::select! {
                reserved = self.budget.reserve(bytes) => Some(reserved?),
                _ = &mut self.next => return Ok((client.get(store, key).await?, None)),
            };
        }
    }
}
