//! The torture tests: load, kills at random and at named points, disks that fail; after each the
//! checker holds what the server has against what it acknowledged.
//!
//! `STEADFAST_TORTURE_ROUNDS` sets the number of kills (30), `STEADFAST_SEED` repeats a run's
//! choices, though not its timing. journal, load and check know nothing of how a server was
//! stopped, so that other suites can use them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, print, and read its environment and the clock"
)]

mod check;
mod failpoints;
mod ground;
mod io_errors;
mod journal;
mod kills;
mod load;
mod order;
mod planted;
mod random;
mod shim;
#[path = "../support/mod.rs"]
mod support;
mod value;
