//! Where reads run.

use super::super::Result;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Microseconds that reads take on average when they find their pages in memory, at most; what a
/// single read may add to the average; and for how long they are given threads of their own when
/// they take longer.
const FAST_MICROS_MAX: u64 = 150;
const SAMPLE_MICROS_MAX: u64 = 1000;
const SLOW_PERIOD_MICROS: u64 = 100_000;

/// Decides where reads run. A read that finds its pages in memory costs less than a change of
/// threads, and runs at once; when reads wait for the disk, they get threads of their own.
#[derive(Debug)]
pub(super) struct ReadScheduler {
    opened: Instant,
    /// The average of late, in 1/16 of a microsecond.
    average: AtomicU64,
    /// Until when reads get threads of their own; microseconds since the opening.
    slow_until: AtomicU64,
}

impl Default for ReadScheduler {
    fn default() -> ReadScheduler {
        let (average, slow_until) = (AtomicU64::new(0), AtomicU64::new(0));
        ReadScheduler { opened: Instant::now(), average, slow_until }
    }
}

impl ReadScheduler {
    fn elapsed_micros(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Runs a read, unless it should have a thread of its own. So many microseconds of it are
    /// explained by how much it reads.
    pub(super) fn try_inline<T>(
        &self,
        expected_micros: u64,
        read: impl FnOnce() -> Result<T>,
    ) -> Option<Result<T>> {
        let start = self.elapsed_micros();
        if start < self.slow_until.load(Ordering::Relaxed) {
            return None;
        }
        let result = read();
        let end = self.elapsed_micros();
        let sample =
            end.saturating_sub(start).saturating_sub(expected_micros).min(SAMPLE_MICROS_MAX);
        // Racing updates may lose one another's sample, which does no harm.
        let average = self.average.load(Ordering::Relaxed);
        let mut average = average - average / 16 + sample;
        if average > FAST_MICROS_MAX * 16 {
            self.slow_until.store(end + SLOW_PERIOD_MICROS, Ordering::Relaxed);
            average /= 2;
        }
        self.average.store(average, Ordering::Relaxed);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reads_run_at_once_until_several_have_met_the_disk() {
        let scheduler = ReadScheduler::default();
        let read = |millis| {
            scheduler.try_inline(0, || {
                std::thread::sleep(Duration::from_millis(millis));
                Ok(())
            })
        };
        // One that was only interrupted changes nothing.
        assert!(read(3).is_some() && read(0).is_some());
        let slow = (0..50).take_while(|_| read(2).is_some()).count();
        assert!((1..20).contains(&slow), "{slow} slow reads ran at once");
        std::thread::sleep(Duration::from_micros(SLOW_PERIOD_MICROS));
        assert!(read(0).is_some(), "and they are tried again");
    }

    #[test]
    fn reads_of_much_may_take_longer() {
        let scheduler = ReadScheduler::default();
        let long = || {
            scheduler.try_inline(50_000, || {
                std::thread::sleep(Duration::from_millis(2));
                Ok(())
            })
        };
        assert!((0..50).all(|_| long().is_some()));
    }
}
