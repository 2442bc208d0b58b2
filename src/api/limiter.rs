//! Memory limits for bodies in flight.
//!
//! A request waits for its permit and is refused only after [`WAIT`], so that a fast writer is
//! slowed down rather than rejected. While requests wait, transfers that hold permits must sustain
//! a higher rate ([`Contention`]), so that slow clients cannot hold all permits.

use super::error::Error;
use crate::http::Contention;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes per semaphore permit.
const UNIT: u64 = 1024;
/// Bodies up to this size need no permit: every connection has a buffer about this large anyway,
/// and small requests must not queue behind large ones.
const SMALL_BYTES: u64 = 16 * 1024;
/// Maximum number of open snapshots. While one is open, space used by deleted data is not
/// reclaimed.
const SNAPSHOTS: u64 = 4;
/// Maximum time that a request waits for a permit.
const WAIT: Duration = Duration::from_secs(30);

/// Part of a limit, released on drop; empty for a small body.
#[derive(Debug, Default)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    contention: Option<Contention>,
}

impl Permit {
    /// Returns the contention for the limit, which determines the rate that a transfer with this
    /// permit must sustain.
    pub(crate) fn contention(&self) -> Option<Contention> {
        self.contention.clone()
    }

    /// Releases all of the permit but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let kept = if bytes <= SMALL_BYTES { 0 } else { bytes.div_ceil(UNIT) };
        if kept == 0 {
            *self = Permit::default();
        } else if let Some(permit) = &mut self.permit {
            let kept = usize::try_from(kept).unwrap_or(usize::MAX);
            drop(permit.split(permit.num_permits().saturating_sub(kept)));
        }
    }
}

/// Separate limits for the memory of uploads, long lines and downloads, and for open snapshots.
pub(crate) struct MemoryLimiter {
    uploads: Limiter,
    long_lines: Limiter,
    downloads: Limiter,
    snapshots: Limiter,
}

/// A semaphore that counts bytes.
struct Limiter {
    semaphore: Arc<Semaphore>,
    units: u32,
    contention: Contention,
    /// The reason reported when a request times out while it waits for a permit.
    exhausted: &'static str,
}

impl Limiter {
    fn new(bytes: u64, exhausted: &'static str) -> Limiter {
        // Tokio's semaphores support 2^28 - 1 permits on every platform.
        let units = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX).min(u32::MAX >> 4);
        let semaphore = Arc::new(Semaphore::new(units as usize));
        Limiter { semaphore, units, contention: Contention::default(), exhausted }
    }

    /// Returns a permit for `bytes`, capped at the whole limit; `None` if too little of the limit
    /// is free.
    fn try_acquire(&self, bytes: u64) -> Option<Permit> {
        let permit = self.semaphore.clone().try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(self.permit(permit))
    }

    async fn acquire_unless_small(&self, bytes: u64) -> Result<Permit, Error> {
        if bytes <= SMALL_BYTES {
            return Ok(Permit::default());
        }
        self.acquire(bytes).await
    }

    /// Waits for a permit for `bytes`, capped at the whole limit.
    async fn acquire(&self, bytes: u64) -> Result<Permit, Error> {
        if let Some(permit) = self.try_acquire(bytes) {
            return Ok(permit);
        }
        let _waiting = self.contention.wait();
        let acquired = self.semaphore.clone().acquire_many_owned(self.units(bytes));
        match tokio::time::timeout(WAIT, acquired).await {
            Ok(Ok(permit)) => Ok(self.permit(permit)),
            Ok(Err(_)) | Err(_) => Err(Error::Overloaded(self.exhausted)),
        }
    }

    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units)
    }

    fn permit(&self, permit: OwnedSemaphorePermit) -> Permit {
        Permit { permit: Some(permit), contention: Some(self.contention.clone()) }
    }
}

impl MemoryLimiter {
    /// Splits `bytes`: 3/8 for uploads, 1/8 for long lines, 1/2 for downloads.
    pub(crate) fn new(bytes: u64) -> MemoryLimiter {
        MemoryLimiter {
            uploads: Limiter::new(bytes / 8 * 3, "too many bytes of uploads in flight"),
            long_lines: Limiter::new(bytes / 8, "too many bytes of long lines in flight"),
            downloads: Limiter::new(bytes / 2, "too many bytes of responses in flight"),
            snapshots: Limiter::new(SNAPSHOTS * UNIT, "too many concurrent exports and backups"),
        }
    }

    /// Waits for a permit to buffer up to `bytes` of a request body.
    pub(crate) async fn upload(&self, bytes: u64) -> Result<Permit, Error> {
        self.uploads.acquire_unless_small(bytes).await
    }

    /// Waits for a permit to buffer a long line of a batch that already has an upload permit.
    ///
    /// The limit is separate, because batches waiting to extend their upload permits could
    /// deadlock.
    pub(crate) async fn long_line(&self, bytes: u64) -> Result<Permit, Error> {
        self.long_lines.acquire_unless_small(bytes).await
    }

    /// Waits for a permit to open a snapshot.
    pub(crate) async fn snapshot(&self) -> Result<Permit, Error> {
        self.snapshots.acquire(UNIT).await
    }

    /// Like [`MemoryLimiter::download`], but returns `None` instead of waiting.
    pub(crate) fn try_download(&self, bytes: u64) -> Option<Permit> {
        match bytes <= SMALL_BYTES {
            true => Some(Permit::default()),
            false => self.downloads.try_acquire(bytes),
        }
    }

    /// Waits for a permit to buffer up to `bytes` of a response body. The caller must not have the
    /// body in memory yet, because the limit does not cover bodies held by waiting requests.
    pub(crate) async fn download(&self, bytes: u64) -> Result<Permit, Error> {
        self.downloads.acquire_unless_small(bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = SMALL_BYTES + 1;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_permit_and_is_refused_after_a_timeout() {
        let limiter = Arc::new(MemoryLimiter::new(16 * SMALL_BYTES));
        let all = limiter.upload(u64::MAX).await.unwrap();
        let other = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.upload(LARGE).await.is_ok() }
        });
        tokio::time::sleep(WAIT / 2).await;
        drop(all);
        assert!(other.await.unwrap(), "the request waits for its permit");
        let _all = limiter.upload(u64::MAX).await.unwrap();
        assert!(matches!(limiter.upload(LARGE).await, Err(Error::Overloaded(_))));
        assert!(limiter.download(LARGE).await.is_ok(), "downloads have their own limit");
        assert!(limiter.long_line(LARGE).await.is_ok(), "long lines have their own limit");
    }

    #[tokio::test]
    async fn shrinking_a_permit_releases_the_rest() {
        let limiter = MemoryLimiter::new(16 * SMALL_BYTES);
        let mut permit = limiter.download(8 * SMALL_BYTES).await.unwrap();
        assert!(limiter.try_download(LARGE).is_none());
        permit.shrink(4 * SMALL_BYTES);
        let other = limiter.try_download(4 * SMALL_BYTES).unwrap();
        assert!(limiter.try_download(LARGE).is_none());
        permit.shrink(u64::MAX);
        permit.shrink(SMALL_BYTES);
        assert!(limiter.try_download(4 * SMALL_BYTES).is_some());
        drop((permit, other));
        assert!(limiter.try_download(u64::MAX).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn small_bodies_never_wait() {
        let limiter = MemoryLimiter::new(16 * SMALL_BYTES);
        let _all = limiter.upload(u64::MAX).await.unwrap();
        let start = tokio::time::Instant::now();
        assert!(limiter.upload(SMALL_BYTES).await.is_ok());
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
