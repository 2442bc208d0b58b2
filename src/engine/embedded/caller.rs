//! Cancellation of reads on blocking threads, which go on after their future is dropped.

use super::super::{EngineError, Result};
use std::sync::{Arc, Weak};

/// Records visited between two checks for the caller.
pub(super) const CHECK_RECORDS: usize = 1024;

/// The caller of a read: kept by its future, dropped with it.
#[derive(Debug, Default)]
pub(super) struct Caller(Arc<()>);

/// Tells a read whether its caller still waits.
#[derive(Debug)]
pub(super) struct CallerHandle(Weak<()>);

impl Caller {
    pub(super) fn handle(&self) -> CallerHandle {
        CallerHandle(Arc::downgrade(&self.0))
    }
}

impl CallerHandle {
    pub(super) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Fails once the caller is gone; nobody receives the error.
    pub(super) fn ensure_waiting(&self) -> Result<()> {
        match self.is_gone() {
            true => Err(EngineError::Failed("the read was cancelled".into())),
            false => Ok(()),
        }
    }
}
