//! The read scheduler: runs reads on the calling task while they hit memory, and on blocking
//! threads while they wait for the disk.

use super::super::Result;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The average duration above which reads move to blocking threads, the maximum that a single read
/// contributes to the average, and how long reads stay on blocking threads.
const FAST_MICROS_MAX: u64 = 150;
const SAMPLE_MICROS_MAX: u64 = 1000;
const SLOW_PERIOD_MICROS: u64 = 100_000;

/// Chooses where reads run, based on their recent average duration. A read that hits memory costs
/// less than a thread switch.
#[derive(Debug)]
pub(super) struct ReadScheduler {
    opened: Instant,
    /// Moving average of read durations, in 1/16 of a microsecond.
    average: AtomicU64,
    /// When reads may run on the calling task again, in microseconds since `opened`.
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

    /// Runs a read on the calling task. Returns `None` if it should run on a blocking thread
    /// instead. For a read of many records, `expected_micros` is subtracted from its duration.
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
        let sample = end.saturating_sub(start + expected_micros).min(SAMPLE_MICROS_MAX);
        // Concurrent updates may lose a sample, which is harmless.
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
    fn reads_run_inline_until_several_are_slow() {
        let scheduler = ReadScheduler::default();
        let read = |millis| {
            scheduler.try_inline(0, || {
                std::thread::sleep(Duration::from_millis(millis));
                Ok(())
            })
        };
        // A single slow read, as after a context switch, has no effect.
        assert!(read(3).is_some() && read(0).is_some());
        let slow = (0..50).take_while(|_| read(2).is_some()).count();
        assert!((1..20).contains(&slow), "{slow} slow reads ran inline");
        std::thread::sleep(Duration::from_micros(SLOW_PERIOD_MICROS));
        assert!(read(0).is_some(), "reads run inline again after the slow period");
    }

    #[test]
    fn the_expected_duration_of_a_read_does_not_count_as_slow() {
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
