//! When a request that changes nothing twice is sent again.

use super::error::Error;
use std::time::Duration;

/// How often and how soon a request is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries in all, the first included.
    pub tries: u32,
    /// The wait before the second try, doubled for each further one.
    pub first: Duration,
    /// No wait of our own is longer.
    pub longest: Duration,
    /// Whether a server that cannot be reached is tried again too.
    pub unreachable: bool,
}

/// However long a server asks to be left alone, a command waits no longer than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            tries: 8,
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
            unreachable: true,
        }
    }
}

impl Retry {
    /// For a person who waits: a server that is not there is told of at once.
    pub fn impatient() -> Retry {
        Retry { tries: 4, unreachable: false, ..Retry::default() }
    }

    /// Runs `attempt` until it goes well, fails for good, or the tries are used up. What it does
    /// must have the same outcome when it is done twice.
    ///
    /// # Errors
    /// Those of the last attempt.
    pub async fn run<T, F, R>(&self, mut attempt: F) -> Result<T, Error>
    where
        F: FnMut() -> R,
        R: Future<Output = Result<T, Error>>,
    {
        let mut nth = 1;
        loop {
            let failed = match attempt().await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            if nth >= self.tries || !self.worth(&failed) {
                return Err(failed);
            }
            tokio::time::sleep(self.wait(nth, &failed)).await;
            nth += 1;
        }
    }

    /// Whether it is worth trying again after this.
    pub fn worth(&self, failed: &Error) -> bool {
        let away = matches!(failed, Error::Unreachable { .. });
        failed.is_transient() && (self.unreachable || !away)
    }

    /// How long to wait after the `nth` try failed: half of it by chance, so that clients which
    /// failed together do not come back together.
    pub fn wait(&self, nth: u32, failed: &Error) -> Duration {
        if let Some(asked) = failed.retry_after() {
            return asked.min(RETRY_AFTER_MAX);
        }
        let doubled = self.first.saturating_mul(1 << nth.saturating_sub(1).min(20));
        let half = doubled.min(self.longest) / 2;
        let mut chance = [0; 1];
        let _ = getrandom::fill(&mut chance);
        half + half * u32::from(chance[0]) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn refused(status: u16, retry_after: Option<Duration>) -> Error {
        Error::refused("x", status, b"", retry_after)
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_no_more_often_than_said() {
        for (status, tries) in [(503, 8), (429, 8), (502, 8), (504, 8), (500, 1), (404, 1)] {
            let count = Cell::new(0);
            let failing = || async {
                count.set(count.get() + 1);
                Err::<(), _>(refused(status, None))
            };
            assert!(Retry::default().run(failing).await.is_err());
            assert_eq!(count.get(), tries, "{status}");
        }
        let count = Cell::new(0);
        let at_last = || async {
            count.set(count.get() + 1);
            if count.get() < 3 { Err(refused(503, None)) } else { Ok(count.get()) }
        };
        assert_eq!(Retry::default().run(at_last).await.unwrap(), 3);
    }

    #[test]
    fn waits_grow_to_a_bound_and_a_server_may_name_its_own() {
        let retry = Retry::default();
        for nth in 1..40 {
            let wait = retry.wait(nth, &refused(503, None));
            let full = retry.first.saturating_mul(1 << (nth - 1).min(20)).min(retry.longest);
            assert!(wait >= full / 2 && wait <= full, "{nth}: {wait:?}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(retry.wait(1, &refused(429, Some(second * 7))), second * 7);
        assert_eq!(retry.wait(1, &refused(429, Some(second * 7000))), RETRY_AFTER_MAX);
    }
}
