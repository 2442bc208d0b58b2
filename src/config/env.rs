//! Flags of `steadfast env`.

use super::ClientArgs;
use clap::Args;
use std::ffi::OsString;

/// Flags of `steadfast env`.
#[derive(Args, Clone)]
pub struct EnvArgs {
    /// Command to run, with its arguments; without it, print the variables as shell exports
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
    /// Print the token itself instead of a command that reads it
    #[arg(long)]
    pub show_token: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
    /// The existing Node.js options, read from the environment only.
    #[arg(long, env = "NODE_OPTIONS", hide = true, hide_env_values = true)]
    pub node_options: Option<OsString>,
}
