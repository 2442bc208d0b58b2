//! `steadfast completions`: generates shell completions.

use super::error::local_exit_status;
use super::output::Output;
use super::runtime::finish;
use crate::config::CompletionsArgs;
use clap::Command;
use std::process::ExitCode;

pub(super) const HELP: &str = concat!(
    "\
Examples:
  steadfast completions bash > ~/.local/share/bash-completion/completions/steadfast
  steadfast completions zsh > ~/.zfunc/_steadfast
  steadfast completions fish > ~/.config/fish/completions/steadfast.fish",
    local_exit_status!()
);

pub(super) fn run(args: &CompletionsArgs, mut command: Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "steadfast", &mut script);
    let mut out = Output::new();
    finish(out.bytes(&script).and_then(|()| out.flush()))
}
