//! Runs CPU-bound work of the recovery on several threads.

use std::num::NonZero;
use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

/// Maximum number of threads.
const THREADS_MAX: usize = 8;

/// Returns the number of threads that [`map`] uses for many items.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX)
}

/// Applies `work` to each item, and returns the results in the order of the items. Uses the calling
/// thread as well, so it works even if no thread can be started.
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let helpers = threads().min(items.len()).saturating_sub(1);
    let items = Mutex::new(items.into_iter().enumerate());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        let mut results = Vec::new();
        while let Some((number, item)) = next() {
            results.push((number, work(item)));
        }
        results
    };
    let mut results = thread::scope(|scope| {
        let helpers: Vec<_> =
            (0..helpers).map_while(|_| Builder::new().spawn_scoped(scope, run).ok()).collect();
        let mut results = run();
        for helper in helpers {
            results.extend(helper.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        }
        results
    });
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_are_in_the_order_of_the_items() {
        for count in [0, 1, 2, 1000] {
            let results = map((0..count).collect(), |number: u64| number * 3);
            assert_eq!(results, (0..count).map(|number| number * 3).collect::<Vec<_>>());
        }
    }
}
