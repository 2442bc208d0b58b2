//! Arguments of `steadfast env`.

use super::ClientArgs;
use clap::Args;
use std::ffi::OsString;

/// Arguments of `steadfast env`.
#[derive(Args, Clone)]
pub struct EnvArgs {
    /// Command to run, with its arguments; if omitted, print shell exports of the variables
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
    /// Print the token itself instead of a reference to the file or variable that contains it
    #[arg(long)]
    pub show_token: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The existing Node.js options. Can be set only in the environment.
    #[arg(long, env = "NODE_OPTIONS", hide = true, hide_env_values = true)]
    pub node_options: Option<OsString>,
}
