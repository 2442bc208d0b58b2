//! Flags of `steadfast env`.

use super::ClientArgs;
use clap::Args;
use std::ffi::OsString;

/// Flags of `steadfast env`.
#[derive(Args, Clone)]
pub struct EnvArgs {
    /// Command to run and its arguments; if omitted, print the variables as shell exports
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
    /// Print the token itself instead of a shell command that reads it from its file
    #[arg(long)]
    pub show_token: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The existing Node.js options. Set in the environment only.
    #[arg(long, env = "NODE_OPTIONS", hide = true, hide_env_values = true)]
    pub node_options: Option<OsString>,
}
