//! Bounds on the bytes that requests hold in memory at once. A request waits for its share, and
//! is refused only when it has waited for long: a busy publisher is slowed, not turned away.

use super::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit.
const UNIT: u64 = 1024;
/// So little is not worth counting: each connection has a buffer of that size anyway, and what is
/// small must not wait behind what is large and slow.
const SMALL_BYTES: u64 = 16 * 1024;
/// Snapshots at once: each keeps from being given back what it shows.
const SNAPSHOTS: u64 = 4;
/// For how long a request waits for its share.
const WAIT: Duration = Duration::from_secs(30);

/// A share of the bound, given back when dropped; none of what is small.
pub(crate) type Permit = Option<OwnedSemaphorePermit>;

/// The bounds.
pub(crate) struct MemoryLimiter {
    uploads: Limiter,
    long_lines: Limiter,
    downloads: Limiter,
    snapshots: Limiter,
}

struct Limiter {
    permits: Arc<Semaphore>,
    units: u32,
    name: &'static str,
}

impl Limiter {
    fn new(bytes: u64, name: &'static str) -> Limiter {
        let units = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX >> 4);
        // The semaphore's own bound is larger than what fits 28 bits.
        let units = units.min(u32::MAX >> 4);
        Limiter { permits: Arc::new(Semaphore::new(units as usize)), units, name }
    }

    async fn share(&self, bytes: u64) -> Result<Permit, Error> {
        if bytes <= SMALL_BYTES {
            return Ok(None);
        }
        self.take(bytes).await
    }

    async fn take(&self, bytes: u64) -> Result<Permit, Error> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        if let Ok(share) = self.permits.clone().try_acquire_many_owned(units) {
            return Ok(Some(share));
        }
        let wait = self.permits.clone().acquire_many_owned(units);
        match tokio::time::timeout(WAIT, wait).await {
            Ok(Ok(share)) => Ok(Some(share)),
            Ok(Err(_)) | Err(_) => Err(Error::Overloaded(self.name)),
        }
    }
}

impl MemoryLimiter {
    /// Half of `bytes` for what comes in, a quarter of it for long lines, and half for what goes
    /// out.
    pub(crate) fn new(bytes: u64) -> MemoryLimiter {
        MemoryLimiter {
            uploads: Limiter::new(bytes / 8 * 3, "too many bytes of uploads in flight"),
            long_lines: Limiter::new(bytes / 8, "too many bytes of long lines in flight"),
            downloads: Limiter::new(bytes / 2, "too many bytes of answers in flight"),
            snapshots: Limiter::new(SNAPSHOTS * UNIT, "too many exports and backups at once"),
        }
    }

    /// A share for a request that holds up to `bytes` of its body; more than all counts as all.
    pub(crate) async fn upload(&self, bytes: u64) -> Result<Permit, Error> {
        self.uploads.share(bytes).await
    }

    /// A share for a long line of a batch, which holds a share of an upload already. The bound is
    /// its own: batches that wait for more of what they all hold would wait for each other.
    pub(crate) async fn long_line(&self, bytes: u64) -> Result<Permit, Error> {
        self.long_lines.share(bytes).await
    }

    /// A place for an answer that is made from a snapshot.
    pub(crate) async fn snapshot(&self) -> Result<Permit, Error> {
        self.snapshots.take(UNIT).await
    }

    /// A share for an answer that holds up to `bytes`.
    pub(crate) async fn download(&self, bytes: u64) -> Result<Permit, Error> {
        self.downloads.share(bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = SMALL_BYTES + 1;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_share_and_is_refused_only_after_long() {
        let admission = Arc::new(MemoryLimiter::new(16 * SMALL_BYTES));
        let all = admission.upload(u64::MAX).await.unwrap();
        let other = tokio::spawn({
            let admission = admission.clone();
            async move { admission.upload(LARGE).await.is_ok() }
        });
        tokio::time::sleep(WAIT / 2).await;
        drop(all);
        assert!(other.await.unwrap(), "it waited");
        let _all = admission.upload(u64::MAX).await.unwrap();
        assert!(matches!(admission.upload(LARGE).await, Err(Error::Overloaded(_))));
        assert!(admission.download(LARGE).await.is_ok(), "the other bound is its own");
        assert!(admission.long_line(LARGE).await.is_ok(), "and so is that of long lines");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_never_waits() {
        let admission = MemoryLimiter::new(16 * SMALL_BYTES);
        let _all = admission.upload(u64::MAX).await.unwrap();
        let start = tokio::time::Instant::now();
        assert!(admission.upload(SMALL_BYTES).await.is_ok());
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
