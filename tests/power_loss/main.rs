//! Power-loss tests: a server recovers every acknowledged write from any disk state that a power
//! cut may leave.
//!
//! `disk_images` derives disk states from a trace of the server's writes and fsyncs, in which each
//! unsynced page is old, new, torn, zero or garbage. `device_copies` copies the block device of a
//! mounted file system under load. Both modules use the workload and the checker in
//! `tests/harness`. `STEADFAST_POWER_LOSS_IMAGES` (default 100) and `STEADFAST_POWER_LOSS_CUTS`
//! (default 10) set the number of disk states. `STEADFAST_SEED` sets the random seed. Runs with
//! the same seed make the same random choices, but their timing differs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::expect_used, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "tests print and read env")]

mod device_copies;
mod disk_images;
mod disk_model;
#[path = "../harness/mod.rs"]
mod harness;
mod loop_device;
#[path = "../support/mod.rs"]
mod support;
mod syscall_trace;
