//! Flags of `steadfast man`.

use clap::Args;
use std::path::PathBuf;

/// Flags of `steadfast man`.
#[derive(Args, Clone)]
pub struct ManArgs {
    /// Directory to write the manual pages of all commands to, created if it does not exist;
    /// without it, the page of steadfast itself is printed
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
