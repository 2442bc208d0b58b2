//! How far the log may run ahead of the database: from a first mark on the folder folds, and at a
//! second one writes wait for it.

use super::super::{EngineError, Result};
use super::Shared;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Segments (8 MiB each) and records that wait in the log when the folder begins.
const SEGMENTS_FOLD: usize = 16;
const RECORDS_FOLD: usize = 128 << 10;
/// Segments and records at which writes wait.
const SEGMENTS_MAX: usize = 64;
const RECORDS_MAX: usize = 512 << 10;
/// A writer that waits looks again after so long at the latest.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Default)]
pub(super) struct Pressure {
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
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the folder should begin.
    pub(super) fn due(&self, shared: &Shared) -> bool {
        over(shared, SEGMENTS_FOLD, RECORDS_FOLD)
    }

    /// Waits until the log is short enough for another group.
    ///
    /// # Errors
    /// When the folder cannot go on: with its reason.
    pub(super) fn wait(&self, shared: &Shared) -> Result<()> {
        while over(shared, SEGMENTS_MAX, RECORDS_MAX) {
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

fn over(shared: &Shared, segments: usize, records: usize) -> bool {
    shared.slots.live_before(u64::MAX) >= segments || shared.overlay().len() >= records
}
