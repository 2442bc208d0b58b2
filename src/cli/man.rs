//! `steadfast man`: generates the manual pages.

use super::error::{Result, file_error, local_error, local_exit_status};
use super::output::{Output, print_status};
use super::runtime::finish;
use crate::config::ManArgs;
use clap::Command;
use std::process::ExitCode;

pub(super) const HELP: &str = concat!(
    "\
Examples:
  steadfast man | man -l -
  steadfast man ~/.local/share/man/man1",
    local_exit_status!()
);

pub(super) fn run(args: &ManArgs, command: Command) -> ExitCode {
    finish(render(args, command))
}

fn render(args: &ManArgs, command: Command) -> Result<()> {
    if let Some(dir) = &args.dir {
        let created = std::fs::create_dir_all(dir);
        let written = created.and_then(|()| clap_mangen::generate_to(command, dir));
        written.map_err(|e| file_error(dir, e))?;
        print_status(&format!("wrote manual pages to {}", dir.display()));
        return Ok(());
    }
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut page);
    rendered.map_err(|e| local_error(e.to_string()))?;
    let mut out = Output::new();
    out.bytes(&page)?;
    out.flush()
}
