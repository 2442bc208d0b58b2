//! The `steadfast` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    steadfast::cli::run()
}
