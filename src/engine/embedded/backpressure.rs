//! Backpressure: limits how far the WAL may run ahead of the database. A checkpoint starts when the
//! WAL reaches the configured size or the memtable has many tombstones. Writes stall when the WAL
//! reaches four times the configured size.

use super::super::{EngineError, Result};
use super::Shared;
use super::wal::segment::SEGMENT_BYTES;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Minimum WAL bytes charged per memtable entry, for the memory it occupies.
const ENTRY_BYTES_MIN: u64 = 1024;
/// Number of tombstones in the memtable that triggers a checkpoint, because scans must step over
/// them.
const TOMBSTONES_MAX: usize = 16 * 1024;
/// Writes stall at this multiple of the checkpoint threshold.
const STALL_FACTOR: usize = 4;
/// Maximum time between two checks of a stalled writer.
const STALL_POLL: Duration = Duration::from_millis(100);

/// The checkpoint threshold, and the condition that stalled writers wait for.
pub(super) struct Backpressure {
    /// Number of live segments, and of memtable entries, that triggers a checkpoint.
    segments: usize,
    entries: usize,
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
    /// Creates the limits for a checkpoint threshold of `bytes` of WAL.
    pub(super) fn new(bytes: u64) -> Backpressure {
        let limit = |size: u64| usize::try_from(bytes / size).unwrap_or(usize::MAX / 8).max(1);
        let (segments, entries) = (limit(SEGMENT_BYTES), limit(ENTRY_BYTES_MIN));
        Backpressure { segments, entries, state: Mutex::default(), changed: Condvar::new() }
    }

    fn exceeds(&self, shared: &Shared, factor: usize) -> bool {
        // The active segment cannot be checkpointed.
        let segments = shared.segments.live_before(u64::MAX).saturating_sub(1);
        segments >= self.segments * factor || shared.memtable().len() >= self.entries * factor
    }

    fn state(&self) -> MutexGuard<'_, StallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn should_checkpoint(&self, shared: &Shared) -> bool {
        self.exceeds(shared, 1) || shared.memtable().tombstones() >= TOMBSTONES_MAX
    }

    pub(super) fn should_stall(&self, shared: &Shared) -> bool {
        self.exceeds(shared, STALL_FACTOR)
    }

    /// Blocks until the WAL is below the stall threshold.
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
