//! Cancellation of reads on blocking threads, which continue after their future is dropped.

use super::super::{EngineError, Result};
use std::sync::{Arc, Weak};

/// Number of records that a scan visits before it checks again whether the caller is waiting.
pub(super) const CHECK_RECORDS: usize = 1024;

/// The caller of a read, owned by the future of the read.
#[derive(Debug, Default)]
pub(super) struct Caller(Arc<()>);

/// A handle with which a read checks whether its caller is still waiting.
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

    /// Fails if the caller is no longer waiting. The error is not reported anywhere.
    pub(super) fn ensure_waiting(&self) -> Result<()> {
        match self.is_gone() {
            true => Err(EngineError::Failed("the read was cancelled".into())),
            false => Ok(()),
        }
    }
}
