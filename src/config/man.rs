//! Arguments of `steadfast man`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `steadfast man`.
#[derive(Args, Clone)]
pub struct ManArgs {
    /// Output directory for the manual pages of all commands, created if it does not exist; if
    /// omitted, print the steadfast(1) page
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
