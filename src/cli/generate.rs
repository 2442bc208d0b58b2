//! `steadfast completions`, `steadfast man`, `steadfast openapi`: what the binary says of itself to
//! other tools.

use super::console::{Out, Stop, ended, local, note};
use crate::config::{CompletionsArgs, ManArgs};
use crate::wire;
use clap::Command;
use std::process::ExitCode;

pub(super) const COMPLETIONS_HELP: &str = "\
Examples:
  steadfast completions bash > ~/.local/share/bash-completion/completions/steadfast
  steadfast completions zsh > ~/.zfunc/_steadfast
  steadfast completions fish > ~/.config/fish/completions/steadfast.fish

Exit status: 0 done, 1 failed, 2 called wrongly.";

pub(super) const MAN_HELP: &str = "\
Examples:
  steadfast man | man -l -
  steadfast man ~/.local/share/man/man1

Exit status: 0 done, 1 failed, 2 called wrongly.";

pub(super) const OPENAPI_HELP: &str = "\
Examples:
  steadfast openapi > steadfast.json
  steadfast openapi | jq '.paths | keys'

A server hands out the same under /_/openapi.json, without a token.

Exit status: 0 done, 1 failed, 2 called wrongly.";

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "steadfast", &mut text);
    let mut out = Out::new();
    ended(out.bytes(&text).and_then(|()| out.flush()))
}

pub(super) fn openapi() -> ExitCode {
    let mut out = Out::new();
    ended(out.bytes(wire::OPENAPI).and_then(|()| out.flush()))
}

pub(super) fn man(args: &ManArgs, command: Command) -> ExitCode {
    ended(pages(args, command))
}

fn pages(args: &ManArgs, command: Command) -> Result<(), Stop> {
    if let Some(dir) = &args.dir {
        let failed = |e: std::io::Error| local(format!("{}: {e}", dir.display()));
        std::fs::create_dir_all(dir).map_err(failed)?;
        clap_mangen::generate_to(command, dir).map_err(failed)?;
        note(&format!("the pages are in {}", dir.display()));
        return Ok(());
    }
    let mut text = Vec::new();
    let failed = |e: std::io::Error| local(e.to_string());
    clap_mangen::Man::new(command).render(&mut text).map_err(failed)?;
    let mut out = Out::new();
    out.bytes(&text)?;
    out.flush()
}
