//! Minimum transfer rates, which limit the total time a client may take for a body.
//!
//! A timeout per read is not enough: a client that sends a byte now and then could hold a
//! connection and memory for hours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Minimum average rate of a transfer, in bytes per second. It is enforced once the total time
/// spent waiting for the client exceeds the timeout of a single read or write.
pub(super) const BYTES_PER_SEC_MIN: u64 = 1024;
/// Minimum average rate in bytes per second while other requests wait for the transfer's memory.
pub(super) const CONTENDED_BYTES_PER_SEC_MIN: u64 = 32 * 1024;
/// Waiting time before the higher rate is enforced.
const GRACE_CONTENDED: Duration = Duration::from_secs(5);
/// Maximum time without progress while other requests wait for memory. The rate alone does not
/// detect a client that stops reading, because the megabytes that the kernel buffers count as
/// transferred.
const STALL_CONTENDED: Duration = Duration::from_secs(10);
/// Interval at which a waiting transfer checks for contention.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Counts the requests that wait for a limited resource. While any request waits, transfers that
/// hold the resource must be faster.
#[derive(Clone, Debug, Default)]
pub struct Contention(Arc<AtomicUsize>);

impl Contention {
    /// Counts a waiting request until the guard is dropped.
    pub fn wait(&self) -> Waiting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }

    fn exists(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// A guard that counts a request as waiting until it is dropped.
#[derive(Debug)]
pub struct Waiting(Contention);

impl Drop for Waiting {
    fn drop(&mut self) {
        let Waiting(Contention(count)) = self;
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The progress of one transfer. Only time spent waiting for the client counts.
#[derive(Debug)]
pub(super) struct TransferRate {
    /// Maximum waiting time without progress; also the delay before the rate is enforced.
    timeout: Duration,
    /// Waiting time since the last bytes.
    stalled: Duration,
    waited: Duration,
    bytes: u64,
    contention: Option<Contention>,
}

impl TransferRate {
    pub(super) fn new(timeout: Duration, contention: Option<Contention>) -> TransferRate {
        let (stalled, waited) = (Duration::ZERO, Duration::ZERO);
        TransferRate { timeout, stalled, waited, bytes: 0, contention }
    }

    /// Requires a higher rate while other requests wait.
    pub(super) fn yield_to(&mut self, contention: Contention) {
        self.contention = Some(contention);
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns whether the transfer made no progress for the whole timeout.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled >= self.timeout
    }

    /// Returns how long the next read or write may wait. After that time, call this again.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::TimedOut`] if the transfer has stalled or is too slow.
    pub(super) fn next_wait(&self) -> io::Result<Duration> {
        let earned = |rate| Duration::from_millis(self.bytes.saturating_mul(1000) / rate);
        let allowed = self.timeout.saturating_add(earned(BYTES_PER_SEC_MIN));
        let mut wait = self.timeout.min(allowed.saturating_sub(self.waited));
        if let Some(contention) = &self.contention {
            if contention.exists() {
                let grace = GRACE_CONTENDED.min(self.timeout);
                let allowed = grace.saturating_add(earned(CONTENDED_BYTES_PER_SEC_MIN));
                wait = wait.min(allowed.saturating_sub(self.waited));
                wait = wait.min(STALL_CONTENDED.saturating_sub(self.stalled));
            }
            wait = wait.min(CHECK_INTERVAL);
        }
        wait = wait.min(self.timeout.saturating_sub(self.stalled));
        if wait.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(wait) }
    }

    /// Records a wait in which no bytes were transferred.
    pub(super) fn record_wait(&mut self, waited: Duration) {
        self.stalled += waited;
        self.waited += waited;
    }

    /// Records a wait that ended with a transfer of bytes.
    pub(super) fn record_bytes(&mut self, bytes: usize, waited: Duration) {
        self.stalled = Duration::ZERO;
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns for how many seconds a transfer of `bytes` per second may continue, up to 1000.
    fn rounds(rate: &mut TransferRate, bytes: usize) -> usize {
        (0..1000)
            .find(|_| {
                let ended = rate.next_wait().is_err();
                rate.record_bytes(bytes, SECOND);
                ended
            })
            .unwrap_or(1000)
    }

    #[test]
    fn a_transfer_below_the_minimum_rate_ends_after_the_timeout() {
        assert_eq!(rounds(&mut TransferRate::new(30 * SECOND, None), 1), 31);
        assert_eq!(rounds(&mut TransferRate::new(30 * SECOND, None), 1024), 1000);
        let mut stalled = TransferRate::new(30 * SECOND, None);
        stalled.record_bytes(1 << 30, SECOND);
        assert_eq!(stalled.next_wait().unwrap(), 30 * SECOND);
        stalled.record_wait(30 * SECOND);
        assert!(stalled.next_wait().is_err() && stalled.is_stalled());
    }

    #[test]
    fn a_slow_transfer_ends_once_others_wait_for_its_memory() {
        let contention = Contention::default();
        let rate = || TransferRate::new(30 * SECOND, Some(contention.clone()));
        let mut slow = rate();
        assert_eq!(rounds(&mut slow, 10_000), 1000, "no request waits");
        assert_eq!(slow.next_wait().unwrap(), CHECK_INTERVAL);
        let waiting = contention.wait();
        assert!(slow.next_wait().is_err());
        assert_eq!(rounds(&mut rate(), 32 * 1024), 1000, "fast enough");
        let mut stalled = rate();
        stalled.record_bytes(1 << 30, SECOND);
        stalled.record_wait(STALL_CONTENDED);
        assert!(stalled.next_wait().is_err(), "no bytes for 10 s");
        drop(waiting);
        assert!(slow.next_wait().is_ok() && stalled.next_wait().is_ok());
    }
}
