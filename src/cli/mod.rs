//! The command line: one module per command, and modules that the commands share.
//!
//! `error` and `runtime` handle errors, exit statuses and interrupts; `output` and `confirm` handle
//! results, messages, progress bars and confirmation; `input` and `output_file` handle files.

mod backup;
mod check;
mod completions;
mod confirm;
mod copy;
mod env;
mod error;
mod input;
mod key;
mod man;
mod openapi;
mod output;
mod output_file;
mod runtime;
mod serve;
mod store;
mod token;
mod transfer;

use crate::config;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// A self-hosted, durable KV store with the Fastly KV Store API
#[derive(Parser)]
#[command(name = "steadfast", version, arg_required_else_help = true)]
#[command(after_help = "\
Start a server that stores its data in ./steadfast-data, and use it from another terminal in the
same directory:
  steadfast serve
  steadfast store create site
  steadfast key put site greeting 'Hello, world'
  steadfast key get site greeting

Each command's --help shows examples and exit statuses.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Back up all stores, items and limited tokens to a file
    #[command(after_help = backup::BACKUP_HELP)]
    Backup(Box<config::BackupArgs>),
    /// Check the integrity of a data directory or a backup
    #[command(after_help = check::HELP)]
    Check(config::CheckArgs),
    /// Generate shell completions
    #[command(after_help = completions::HELP)]
    Completions(config::CompletionsArgs),
    /// Copy all data between a data directory and a database, and compare both sides
    #[command(after_help = copy::HELP)]
    Copy(config::CopyArgs),
    /// Run a command with environment variables that point it at the server, or print the variables
    #[command(after_help = env::HELP)]
    Env(Box<config::EnvArgs>),
    /// Export the items of a store
    #[command(after_help = transfer::EXPORT_HELP)]
    Export(Box<config::ExportArgs>),
    /// Import items from a file or directory into a store
    #[command(after_help = transfer::IMPORT_HELP)]
    Import(Box<config::ImportArgs>),
    /// Write, read, list and delete items
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Print the manual page of steadfast, or write the pages of all commands to files
    #[command(after_help = man::HELP)]
    Man(config::ManArgs),
    /// Print the OpenAPI 3.1 description of the API
    #[command(after_help = openapi::HELP)]
    Openapi,
    /// Restore a backup into an empty data directory or database
    #[command(after_help = backup::RESTORE_HELP)]
    Restore(config::RestoreArgs),
    /// Run the server until SIGTERM or SIGINT
    #[command(after_help = serve::HELP)]
    Serve(Box<config::ServeArgs>),
    /// Create, list, describe, rename and delete stores
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Copy new and changed items from one store to another, on the same server or another one
    #[command(after_help = transfer::SYNC_HELP)]
    Sync(Box<config::SyncArgs>),
    /// Create, list and revoke limited tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    let matches = config::ignore_empty_variables(Cli::command()).get_matches();
    if let Some(name) = environment_only_flag(&matches) {
        let flag = name.replace('_', "-");
        let variable = name.to_uppercase();
        let message = format!(
            "unexpected argument --{flag}: set the environment variable {variable} instead"
        );
        return runtime::fail(&message, error::EXIT_USAGE);
    }
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(e) => e.exit(),
    };
    match command {
        Command::Backup(args) => backup::backup(&args),
        Command::Check(args) => check::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Copy(args) => copy::run(&args),
        Command::Env(args) => env::run(&args),
        Command::Export(args) => transfer::export(*args),
        Command::Import(args) => transfer::import(*args),
        Command::Key(command) => key::run(command),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Openapi => openapi::run(),
        Command::Restore(args) => backup::restore(&args),
        Command::Serve(args) => serve::run(*args),
        Command::Store(command) => store::run(command),
        Command::Sync(args) => transfer::sync(*args),
        Command::Token(command) => token::run(command),
    }
}

/// Returns the first argument on the command line that can be set only in the environment.
fn environment_only_flag(matches: &ArgMatches) -> Option<&'static str> {
    let on_command_line = |name: &&str| {
        matches.ids().any(|id| id.as_str() == *name)
            && matches.value_source(name) == Some(ValueSource::CommandLine)
    };
    let flag = config::ENVIRONMENT_ONLY.into_iter().find(on_command_line);
    flag.or_else(|| matches.subcommand().and_then(|(_, inner)| environment_only_flag(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_definition_is_valid() {
        Cli::command().debug_assert();
    }

    /// Collects all commands that have no subcommands, and their full names.
    fn collect_commands(
        command: &clap::Command,
        name: &str,
        into: &mut Vec<(String, clap::Command)>,
    ) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let name = format!("{name} {}", inner.get_name());
            if inner.has_subcommands() {
                collect_commands(inner, &name, into);
            } else {
                into.push((name, inner.clone()));
            }
        }
    }

    #[test]
    fn every_command_has_an_example_and_lists_its_exit_statuses() {
        let mut all = Vec::new();
        collect_commands(&Cli::command(), "steadfast", &mut all);
        assert!(all.len() > 15, "{}", all.len());
        for (name, command) in all {
            assert!(command.get_about().is_some(), "{name} has no description");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&name), "{name} has no example");
            assert!(help.contains("Exit status"), "{name} does not list its exit statuses");
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{name}: {help}");
        }
    }
}
