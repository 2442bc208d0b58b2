//! Backpressure: limits how far the WAL may run ahead of the database, and how far garbage
//! collection may fall behind. A checkpoint starts when the WAL reaches a size that depends on the
//! size of the data, or when the memtable has many entries or tombstones. When the WAL or the
//! memtable grows well beyond these limits, or garbage collection falls behind, each commit group
//! is delayed. The delay grows with the excess. Writes stall when the WAL or the memtable reaches
//! its maximum size.

use super::super::{EngineError, Result};
use super::Shared;
use super::wal::segment_size::SEGMENT_BYTES_MIN;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The WAL size that triggers a checkpoint is the live bytes divided by `WAL_PART`, at least
/// `WAL_BYTES_MIN` and at most the configured size. A checkpoint of entries with random keys writes
/// most pages of the database, so a WAL that grows with the data keeps the number of pages written
/// per entry constant.
const WAL_PART: u64 = 4;
const WAL_BYTES_MIN: u64 = 128 << 20;
/// The number of memtable entries that triggers a checkpoint is the WAL size that triggers one,
/// divided by `ENTRY_BYTES_MIN`. This bounds the memory of the memtable if entries are small.
const ENTRY_BYTES_MIN: u64 = 1024;
/// Number of tombstones in the memtable that triggers a checkpoint, because scans must step over
/// them.
const TOMBSTONES_MAX: usize = 16 * 1024;
/// Percentages of the checkpoint threshold above which writes are delayed, and at which they stall.
/// The percentages are higher for WAL bytes, because a checkpoint removes entries from the memtable
/// as it proceeds, but seals segments only at its end.
const WAL_PERCENT: (u64, u64) = (200, 400);
const ENTRIES_PERCENT: (u64, u64) = (150, 200);
/// The number of memtable entries delays commits only if at least this many entries trigger a
/// checkpoint. A checkpoint of fewer entries ends before a delay would matter.
const DELAYED_ENTRIES_MIN: u64 = 4096;
/// Maximum delay of a commit group.
const DELAY_MAX: Duration = Duration::from_millis(20);
/// The space debt at which the delay reaches its maximum is the live bytes divided by `DEBT_PART`,
/// at least `DEBT_BYTES_MIN`.
const DEBT_BYTES_MIN: u64 = 64 << 20;
const DEBT_PART: u64 = 20;
/// Maximum time between two checks of a stalled writer.
const STALL_POLL: Duration = Duration::from_millis(100);

/// The checkpoint threshold, and the condition that stalled writers wait for.
pub(super) struct Backpressure {
    /// Maximum WAL size that triggers a checkpoint, in bytes.
    wal_bytes_max: u64,
    /// WAL size that triggers a checkpoint of the current data, in bytes.
    wal_bytes: AtomicU64,
    /// Space debt of garbage collection, in percent of the debt at which the delay is
    /// `DELAY_MAX`.
    space_debt_percent: AtomicU64,
    state: Mutex<StallState>,
    changed: Condvar,
}

#[derive(Default)]
struct StallState {
    /// Error of the last checkpoint, if it failed.
    checkpoint_error: Option<EngineError>,
    closing: bool,
}

impl Backpressure {
    /// Creates the limits for a data directory without live bytes. `wal_bytes_max` is the maximum
    /// WAL size that triggers a checkpoint, in bytes.
    pub(super) fn new(wal_bytes_max: u64) -> Backpressure {
        let backpressure = Backpressure {
            wal_bytes_max,
            wal_bytes: AtomicU64::new(0),
            space_debt_percent: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        backpressure.adapt_wal_bytes(0);
        backpressure
    }

    /// Adapts the WAL size that triggers a checkpoint to the total live bytes.
    pub(super) fn adapt_wal_bytes(&self, live: u64) {
        let bytes = (live / WAL_PART).max(WAL_BYTES_MIN).min(self.wal_bytes_max);
        self.wal_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the WAL size that triggers a checkpoint, in bytes.
    pub(super) fn wal_bytes(&self) -> u64 {
        // A checkpoint covers whole segments.
        self.wal_bytes.load(Ordering::Relaxed).max(SEGMENT_BYTES_MIN)
    }

    /// Returns the number of memtable entries that triggers a checkpoint.
    fn entries(&self) -> u64 {
        (self.wal_bytes.load(Ordering::Relaxed) / ENTRY_BYTES_MIN).max(1)
    }

    /// Returns the size of the WAL and the number of memtable entries, each in percent of the value
    /// that triggers a checkpoint.
    fn percent(&self, shared: &Shared) -> (u64, u64) {
        let percent = |used: u64, max: u64| used.saturating_mul(100) / max;
        let entries = shared.memtable().len() as u64;
        let wal_bytes = shared.segments.closed_bytes();
        (percent(wal_bytes, self.wal_bytes()), percent(entries, self.entries()))
    }

    fn state(&self) -> MutexGuard<'_, StallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn should_checkpoint(&self, shared: &Shared) -> bool {
        let (wal, entries) = self.percent(shared);
        wal.max(entries) >= 100 || shared.memtable().tombstones() >= TOMBSTONES_MAX
    }

    pub(super) fn should_stall(&self, shared: &Shared) -> bool {
        let (wal, entries) = self.percent(shared);
        wal >= WAL_PERCENT.1 || entries >= ENTRIES_PERCENT.1
    }

    /// Sets the space debt: the number of bytes by which the segment files exceed their limit.
    /// `live` is the total live bytes.
    pub(super) fn set_space_debt(&self, bytes: u64, live: u64) {
        let percent = bytes.saturating_mul(100) / (live / DEBT_PART).max(DEBT_BYTES_MIN);
        self.space_debt_percent.store(percent.min(100), Ordering::Relaxed);
    }

    /// Returns by how much the WAL or the memtable exceeds the size above which writes are delayed,
    /// in percent of the excess at which they stall.
    fn excess(&self, shared: &Shared) -> u64 {
        let (wal, entries) = self.percent(shared);
        let excess = |percent: u64, (from, to): (u64, u64)| {
            percent.saturating_sub(from).saturating_mul(100) / (to - from)
        };
        let entries = if self.entries() < DELAYED_ENTRIES_MIN { 0 } else { entries };
        excess(wal, WAL_PERCENT).max(excess(entries, ENTRIES_PERCENT))
    }

    /// Returns whether checkpoints are so far behind that they delay writes, and are further behind
    /// than garbage collection.
    pub(super) fn is_checkpoint_behind(&self, shared: &Shared) -> bool {
        self.excess(shared) > self.space_debt_percent.load(Ordering::Relaxed)
    }

    /// Returns the delay of the next commit group.
    pub(super) fn delay(&self, shared: &Shared) -> Duration {
        let debt = self.space_debt_percent.load(Ordering::Relaxed);
        let excess = self.excess(shared).max(debt);
        let excess = u32::try_from(excess.min(100)).unwrap_or(100);
        // The delay grows with the square of the excess, so that a small excess costs little.
        DELAY_MAX * (excess * excess) / 10_000
    }

    /// Blocks until the WAL and the memtable are below their stall thresholds, or until the engine
    /// closes.
    ///
    /// # Errors
    /// Returns the error of the last checkpoint, if it failed.
    pub(super) fn wait(&self, shared: &Shared) -> Result<()> {
        while self.should_stall(shared) {
            let state = self.state();
            if let Some(e) = &state.checkpoint_error {
                return Err(e.clone());
            }
            if state.closing {
                // The engine accepts no further commits, so let the queued ones through.
                return Ok(());
            }
            drop(self.changed.wait_timeout(state, STALL_POLL));
        }
        Ok(())
    }

    /// Reports the result of a checkpoint to stalled writers.
    pub(super) fn report_checkpoint(&self, error: Option<EngineError>) {
        self.state().checkpoint_error = error;
        self.changed.notify_all();
    }

    /// Releases stalled writers and disables stalling.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state().closing
    }
}
