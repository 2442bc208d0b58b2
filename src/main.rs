//! The `steadfast` binary.

use std::process::ExitCode;

/// Returns unused memory to the operating system. After a burst of requests, glibc's allocator
/// keeps most of it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    steadfast::cli::run()
}
