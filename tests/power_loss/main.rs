//! Power cuts: data directories as a cut leaves them, each of which the server must start from with
//! every acknowledged write.
//!
//! `images` makes them from a trace of what the server wrote and synced, with every page that was
//! not synced old, new, torn, zero or garbage. `cuts` copies a file system's device under load.
//! Both use the journal and the checker of the torture tests. `STEADFAST_POWER_IMAGES` (100) and
//! `STEADFAST_POWER_CUTS` (10) say how many, `STEADFAST_SEED` repeats a run's choices, though not
//! its timing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, print, and read its environment and the clock"
)]
#![allow(dead_code, reason = "the modules of the torture tests are used in part")]

#[path = "../crash/check.rs"]
mod check;
mod cuts;
mod disk;
mod images;
#[path = "../crash/journal.rs"]
mod journal;
#[path = "../crash/load.rs"]
mod load;
#[path = "../crash/random.rs"]
mod random;
#[path = "../crash/shim.rs"]
mod shim;
#[path = "../support/mod.rs"]
mod support;
mod trace;
#[path = "../crash/value.rs"]
mod value;
mod volume;
