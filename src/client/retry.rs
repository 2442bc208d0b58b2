//! The retry policy for idempotent requests.

use super::error::Error;
use std::time::Duration;

/// A retry policy with exponential backoff.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Maximum number of attempts, including the first.
    pub attempts_max: u32,
    /// Delay before the second attempt. The delay doubles with each further attempt.
    pub delay_initial: Duration,
    /// Upper bound of the delay.
    pub delay_max: Duration,
    /// Whether to retry when the server is unreachable.
    pub unreachable: bool,
}

/// Upper bound of a delay that a server requests with `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            attempts_max: 8,
            delay_initial: Duration::from_millis(200),
            delay_max: Duration::from_secs(10),
            unreachable: true,
        }
    }
}

impl Retry {
    /// Returns the policy for interactive commands: fewer attempts, and no retries if the server is
    /// unreachable.
    pub fn interactive() -> Retry {
        Retry { attempts_max: 4, unreachable: false, ..Retry::default() }
    }

    /// Runs an idempotent operation until it succeeds, fails permanently or runs out of attempts.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub async fn run<T, F, R>(&self, mut operation: F) -> Result<T, Error>
    where
        F: FnMut() -> R,
        R: Future<Output = Result<T, Error>>,
    {
        let mut attempt = 1;
        loop {
            let e = match operation().await {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            if attempt >= self.attempts_max || !self.is_retryable(&e) {
                return Err(e);
            }
            tokio::time::sleep(self.delay(attempt, &e)).await;
            attempt += 1;
        }
    }

    /// Returns whether the policy retries after this error.
    pub fn is_retryable(&self, e: &Error) -> bool {
        let unreachable = matches!(e, Error::Unreachable { .. });
        e.is_transient() && (self.unreachable || !unreachable)
    }

    /// Returns the delay after a failed attempt. Attempts are numbered from 1. The delay is the one
    /// that the server requests, or else an exponential backoff with jitter.
    pub fn delay(&self, attempt: u32, e: &Error) -> Duration {
        if let Some(delay) = e.retry_after() {
            return delay.min(RETRY_AFTER_MAX);
        }
        let doubled = self.delay_initial.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        let half = doubled.min(self.delay_max) / 2;
        let mut random = [0; 1];
        let _ = getrandom::fill(&mut random);
        half + half * u32::from(random[0]) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn error(status: u16, retry_after: Option<Duration>) -> Error {
        Error::from_response("x", status, b"", retry_after)
    }

    #[tokio::test(start_paused = true)]
    async fn transient_errors_are_retried_up_to_the_limit() {
        for (status, attempts) in [(503, 8), (429, 8), (502, 8), (504, 8), (500, 1), (404, 1)] {
            let count = Cell::new(0);
            let failing = || async {
                count.set(count.get() + 1);
                Err::<(), _>(error(status, None))
            };
            assert!(Retry::default().run(failing).await.is_err());
            assert_eq!(count.get(), attempts, "{status}");
        }
        let count = Cell::new(0);
        let third_succeeds = || async {
            count.set(count.get() + 1);
            if count.get() < 3 { Err(error(503, None)) } else { Ok(count.get()) }
        };
        assert_eq!(Retry::default().run(third_succeeds).await.unwrap(), 3);
    }

    #[test]
    fn delays_are_bounded_and_honour_retry_after() {
        let retry = Retry::default();
        for attempt in 1..40 {
            let delay = retry.delay(attempt, &error(503, None));
            let full = retry.delay_initial.saturating_mul(1 << (attempt - 1).min(20));
            let full = full.min(retry.delay_max);
            assert!(delay >= full / 2 && delay <= full, "{attempt}: {delay:?}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(retry.delay(1, &error(429, Some(second * 7))), second * 7);
        assert_eq!(retry.delay(1, &error(429, Some(second * 7000))), RETRY_AFTER_MAX);
    }
}
