//! Flags of `steadfast completions`.

use clap::Args;

/// Flags of `steadfast completions`.
#[derive(Args, Clone)]
pub struct CompletionsArgs {
    /// Shell to generate completions for
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}
