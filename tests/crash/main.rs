//! Crash tests: acknowledged writes survive kill -9, I/O errors and shutdowns.
//!
//! Each test runs a workload on a server, stops the server or makes the disk fail, restarts the
//! server, and compares the store with the journals of acknowledged writes.
//! `STEADFAST_CRASH_ROUNDS` sets the number of kills (default 30). `STEADFAST_SEED` sets the
//! random seed. Runs with the same seed make the same random choices, but their timing differs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "tests print and read env")]

mod failpoints;
mod fsync_order;
mod full_disk;
#[path = "../harness/mod.rs"]
mod harness;
mod io_errors;
mod planted_violations;
mod random_kills;
mod shutdown;
#[path = "../support/mod.rs"]
mod support;
mod testbed;
