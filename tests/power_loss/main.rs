//! Power-loss tests: the server recovers every acknowledged write from the disk state that a power
//! cut leaves.
//!
//! `disk_images` derives disk states from a trace of the server's writes and fsyncs: each unsynced
//! page is old, new, torn, zero or garbage. `device_copies` copies the block device of a mounted
//! file system under load. Both use the workload and the checker of `tests/harness`.
//! `STEADFAST_POWER_LOSS_IMAGES` (100) and `STEADFAST_POWER_LOSS_CUTS` (10) set the number of disk
//! states; `STEADFAST_SEED` repeats the choices of a run, not its timing.
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
