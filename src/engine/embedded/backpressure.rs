//! How far the log may run ahead of the database: from a first mark on the folder folds, and at a
//! second one, four times as far, writes wait for it.

use super::super::{EngineError, Result};
use super::Shared;
use super::wal::segment::SEGMENT_BYTES;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A record of the log counts as so many bytes at least: it takes memory until it is folded.
const RECORD_BYTES_MIN: u64 = 1024;
/// Writes wait at so many times the first mark.
const STALL_FACTOR: usize = 4;
/// A writer that waits looks again after so long at the latest.
const STALL_POLL: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Backpressure {
    /// Segments and records that wait in the log when the folder begins.
    segments: usize,
    records: usize,
    state: Mutex<StallState>,
    changed: Condvar,
}

#[derive(Default)]
struct StallState {
    /// Why the last fold failed.
    checkpoint_error: Option<EngineError>,
    is_closing: bool,
}

impl Backpressure {
    /// With the bytes of log at which folding begins.
    pub(super) fn new(bytes: u64) -> Backpressure {
        let count = |size: u64| usize::try_from(bytes / size).unwrap_or(usize::MAX / 8).max(1);
        let (segments, records) = (count(SEGMENT_BYTES), count(RECORD_BYTES_MIN));
        Backpressure { segments, records, state: Mutex::default(), changed: Condvar::new() }
    }

    fn exceeds(&self, shared: &Shared, factor: usize) -> bool {
        // The segment that is written to cannot be folded, and so does not count.
        let segments = shared.segments.live_before(u64::MAX).saturating_sub(1);
        segments >= self.segments * factor || shared.memtable().len() >= self.records * factor
    }

    fn state(&self) -> MutexGuard<'_, StallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the folder should begin.
    pub(super) fn should_checkpoint(&self, shared: &Shared) -> bool {
        self.exceeds(shared, 1)
    }

    /// Whether writes have to wait.
    pub(super) fn should_stall(&self, shared: &Shared) -> bool {
        self.exceeds(shared, STALL_FACTOR)
    }

    /// Waits until the log is short enough for another group.
    ///
    /// # Errors
    /// When the folder cannot go on: with its reason.
    pub(super) fn wait(&self, shared: &Shared) -> Result<()> {
        while self.should_stall(shared) {
            let state = self.state();
            if let Some(e) = &state.checkpoint_error {
                return Err(e.clone());
            }
            if state.is_closing {
                // Nothing more comes in: what waits may still go out.
                return Ok(());
            }
            drop(self.changed.wait_timeout(state, STALL_POLL));
        }
        Ok(())
    }

    /// How the last fold went, to those that wait.
    pub(super) fn report_checkpoint(&self, error: Option<EngineError>) {
        self.state().checkpoint_error = error;
        self.changed.notify_all();
    }

    /// From now on nothing waits.
    pub(super) fn close(&self) {
        self.state().is_closing = true;
        self.changed.notify_all();
    }

    /// Whether the engine is being closed.
    pub(super) fn is_closing(&self) -> bool {
        self.state().is_closing
    }
}
