//! The memory budget of the transfer commands. A read waits until there is memory for its value.
//! The oldest read never waits.

use crate::client::{Client, Error, ValueStream};
use crate::wire::Store;
use crate::wire::item_line::line_bytes_max;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;

/// Memory in bytes for items that are being read or sent. Sufficient for two values of the maximum
/// size that the hosted API allows, and for the lines of these items.
const BUDGET_BYTES: u64 = 128 << 20;
/// The number of bytes per semaphore permit.
const UNIT: u64 = 1024;

/// A semaphore that counts bytes.
#[derive(Clone)]
pub(super) struct MemoryBudget(Arc<Semaphore>);

/// A reserved part of the budget. It is released on drop.
pub(super) struct Reservation {
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

impl MemoryBudget {
    pub(super) fn new() -> MemoryBudget {
        MemoryBudget(Arc::new(Semaphore::new(units(BUDGET_BYTES) as usize)))
    }

    /// Waits until `bytes` bytes are available, and reserves them. Reserves the whole budget if
    /// `bytes` exceeds it.
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

/// Concurrent tasks that each read an item. The results are returned in the order in which the
/// tasks were added.
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

    /// Waits for the result of the oldest task. Returns `None` if no tasks remain.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Error> {
        let Some(RunningRead { task, is_next }) = self.running.pop_front() else {
            return Ok(None);
        };
        // Let this task read without a reservation, because later tasks may hold the whole budget
        // until this task has ended.
        let _ = is_next.send(());
        let result = task.await.map_err(|e| Error::Local(format!("task failed: {e}")))?;
        result.map(Some)
    }
}

/// Reads the value of one item within the memory budget.
pub(super) struct ValueReader {
    budget: MemoryBudget,
    /// Resolves once this task is the oldest. The oldest task reads even if the budget is
    /// exhausted.
    next: oneshot::Receiver<()>,
}

impl ValueReader {
    /// Gets an item once there is memory for its value and its line. The caller must keep the
    /// returned reservation for as long as it keeps the value or the line.
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
            // The value may have grown since memory was reserved for it.
            reserved = reserved.filter(|reserved| reserved.bytes >= bytes);
            if let Some(reserved) = reserved.or_else(|| self.budget.try_reserve(bytes)) {
                return Ok((value, Some(reserved)));
            }
            // Repeat the request later, because servers abort responses that clients do not read.
            drop(value);
            reserved = tokio::select! {
                reserved = self.budget.reserve(bytes) => Some(reserved?),
                _ = &mut self.next => return Ok((client.get(store, key).await?, None)),
            };
        }
    }
}
