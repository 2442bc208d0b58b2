//! Detects whether there are many more reads than commits.

use super::Counters;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of commits after which the load is assessed again.
const WINDOW_COMMITS: u64 = 256;
/// Number of reads per commit above which the load consists mostly of reads. A put reads up to
/// three records.
const READS_PER_COMMIT: u64 = 4;

/// Assesses the load.
#[derive(Debug, Default)]
pub(super) struct LoadMonitor {
    /// Total numbers of reads and commits at the last assessment.
    reads: u64,
    commits: u64,
    is_read_mostly: bool,
}

impl LoadMonitor {
    /// Returns whether there were many more reads than commits when the load was last assessed.
    pub(super) fn is_read_mostly(&mut self, counters: &Counters) -> bool {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let commits = load(&counters.commits);
        let new_commits = commits - self.commits;
        if new_commits >= WINDOW_COMMITS {
            let reads = load(&counters.cache_hits) + load(&counters.cache_misses);
            self.is_read_mostly = (reads - self.reads) / new_commits > READS_PER_COMMIT;
            (self.reads, self.commits) = (reads, commits);
        }
        self.is_read_mostly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_assessed_after_a_number_of_commits() {
        let (mut load, counters) = (LoadMonitor::default(), Counters::default());
        let mut assess = |hits, misses, commits| {
            counters.cache_hits.fetch_add(hits, Ordering::Relaxed);
            counters.cache_misses.fetch_add(misses, Ordering::Relaxed);
            counters.commits.fetch_add(commits, Ordering::Relaxed);
            load.is_read_mostly(&counters)
        };
        assert!(!assess(100_000, 0, WINDOW_COMMITS - 1));
        assert!(assess(0, 0, 1));
        assert!(assess(0, WINDOW_COMMITS, WINDOW_COMMITS - 1));
        assert!(!assess(0, 0, 1));
        assert!(!assess(READS_PER_COMMIT * WINDOW_COMMITS, WINDOW_COMMITS - 1, WINDOW_COMMITS));
        assert!(assess(READS_PER_COMMIT * WINDOW_COMMITS, WINDOW_COMMITS, WINDOW_COMMITS));
    }
}
