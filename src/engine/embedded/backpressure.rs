//! How far the log may run ahead of the database: from a first mark on the folder folds, and at a
//! second one, four times as far, writes wait for it.

use super::super::{EngineError, Result};
use super::Shared;
use super::wal::segment::SEGMENT_BYTES;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A record of the log counts as so many bytes at least: it takes memory until it is folded.
const RECORD_BYTES: u64 = 1024;
/// Writes wait at so many times the first mark.
const WAIT_FACTOR: usize = 4;
/// A writer that waits looks again after so long at the latest.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Pressure {
    /// Segments and records that wait in the log when the folder begins.
    segments: usize,
    records: usize,
    state: Mutex<State>,
    eased: Condvar,
}

#[derive(Default)]
struct State {
    /// Why the last fold failed.
    stuck: Option<EngineError>,
    closing: bool,
}

impl Pressure {
    /// With the bytes of log at which folding begins.
    pub(super) fn new(bytes: u64) -> Pressure {
        let count = |size: u64| usize::try_from(bytes / size).unwrap_or(usize::MAX / 8).max(1);
        let (segments, records) = (count(SEGMENT_BYTES), count(RECORD_BYTES));
        Pressure { segments, records, state: Mutex::default(), eased: Condvar::new() }
    }

    fn over(&self, shared: &Shared, factor: usize) -> bool {
        // The segment that is written to cannot be folded, and so does not count.
        let segments = shared.slots.live_before(u64::MAX).saturating_sub(1);
        segments >= self.segments * factor || shared.overlay().len() >= self.records * factor
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the folder should begin.
    pub(super) fn expired(&self, shared: &Shared) -> bool {
        self.over(shared, 1)
    }

    /// Whether writes have to wait.
    pub(super) fn full(&self, shared: &Shared) -> bool {
        self.over(shared, WAIT_FACTOR)
    }

    /// Waits until the log is short enough for another group.
    ///
    /// # Errors
    /// When the folder cannot go on: with its reason.
    pub(super) fn wait(&self, shared: &Shared) -> Result<()> {
        while self.full(shared) {
            let state = self.state();
            if let Some(e) = &state.stuck {
                return Err(e.clone());
            }
            if state.closing {
                // Nothing more comes in: what waits may still go out.
                return Ok(());
            }
            drop(self.eased.wait_timeout(state, LOOK));
        }
        Ok(())
    }

    /// How the last fold went, to those that wait.
    pub(super) fn tell(&self, failed: Option<EngineError>) {
        self.state().stuck = failed;
        self.eased.notify_all();
    }

    /// From now on nothing waits.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.eased.notify_all();
    }

    /// Whether the engine is being closed.
    pub(super) fn closing(&self) -> bool {
        self.state().closing
    }
}
