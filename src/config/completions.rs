//! Arguments of `steadfast completions`.

use clap::Args;

/// Arguments of `steadfast completions`.
#[derive(Args, Clone)]
pub struct CompletionsArgs {
    /// Shell for which to generate completions
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}
