//! A seeded random number generator and the environment variables that control a run.

use std::time::{SystemTime, UNIX_EPOCH};

/// A splitmix64 random number generator.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns true with probability `1 / many`.
    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// Reads a number from an environment variable.
pub(crate) fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Prints and returns the seed of a run: `STEADFAST_SEED`, or the current time. Runs with the
/// same seed make the same random choices, but their timing differs.
pub(crate) fn run_seed(test: &str) -> u64 {
    let seed = env_number("STEADFAST_SEED").unwrap_or_else(now_micros);
    println!("{test}: STEADFAST_SEED={seed}");
    seed
}

/// Returns the wall clock time in microseconds since the Unix epoch. Times to live use this clock.
pub(crate) fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}
