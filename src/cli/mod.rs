//! The command line: one file per command.

mod atomic_file;
mod backup;
mod check;
mod console;
mod copy;
mod env;
mod generate;
mod input;
mod key;
mod serve;
mod store;
mod token;
mod transfer;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// A self-hosted, durable KV store that speaks the Fastly KV Store API
#[derive(Parser)]
#[command(name = "steadfast", version, arg_required_else_help = true)]
#[command(after_help = "\
Start a server with its data in ./steadfast-data, and use it from another terminal there:
  steadfast serve
  steadfast store create site
  steadfast key put site greeting 'Hello, world'
  steadfast key get site greeting

Each command's --help has examples and its exit status.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write all stores, items and limited tokens of one moment into a file, while writes go on
    #[command(after_help = backup::BACKUP_HELP)]
    Backup(Box<crate::config::BackupArgs>),
    /// Verify every checksum of a data directory, and that all its parts agree
    #[command(after_help = check::HELP)]
    Check(crate::config::CheckArgs),
    /// Copy all stores and items from one engine to another, and compare both
    #[command(after_help = copy::HELP)]
    Copy(crate::config::CopyArgs),
    /// Print what completes this command in a shell
    #[command(after_help = generate::COMPLETIONS_HELP)]
    Completions(crate::config::CompletionsArgs),
    /// Run a command with the variables that point other tools at the server, or print them
    #[command(after_help = env::HELP)]
    Env(Box<crate::config::EnvArgs>),
    /// Write all items of a store to a file
    #[command(after_help = transfer::EXPORT_HELP)]
    Export(Box<crate::config::ExportArgs>),
    /// Put the items of a file or a folder into a store
    #[command(after_help = transfer::IMPORT_HELP)]
    Import(Box<crate::config::ImportArgs>),
    /// Write, read, list and delete items
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Print the manual page, or write those of all commands
    #[command(after_help = generate::MAN_HELP)]
    Man(crate::config::ManArgs),
    /// Print the API's description by OpenAPI 3.1
    #[command(after_help = generate::OPENAPI_HELP)]
    Openapi,
    /// Make, list, rename and delete stores
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Make a store like another one, here or at another server
    #[command(after_help = transfer::SYNC_HELP)]
    Sync(Box<crate::config::SyncArgs>),
    /// Make, list and revoke the tokens of others
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Fill an empty data directory or database from a backup
    #[command(after_help = backup::RESTORE_HELP)]
    Restore(crate::config::RestoreArgs),
    /// Serve the API until SIGTERM or SIGINT
    #[command(after_help = serve::HELP)]
    Serve(Box<crate::config::ServeArgs>),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let matches = Cli::command().get_matches();
    if let Some(name) = told_aloud(&matches) {
        let flag = name.replace('_', "-");
        let variable = name.to_uppercase();
        console::note(&format!("--{flag} is no flag: set the variable {variable} instead"));
        return ExitCode::from(2);
    }
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(e) => e.exit(),
    };
    match command {
        Command::Backup(args) => backup::backup(*args),
        Command::Check(args) => check::run(&args),
        Command::Completions(args) => generate::completions(&args, Cli::command()),
        Command::Copy(args) => copy::run(args),
        Command::Env(args) => env::run(&args),
        Command::Export(args) => transfer::export(*args),
        Command::Import(args) => transfer::import(*args),
        Command::Key(command) => key::run(command),
        Command::Man(args) => generate::man(&args, Cli::command()),
        Command::Restore(args) => backup::restore(args),
        Command::Openapi => generate::openapi(),
        Command::Serve(args) => serve::run(*args),
        Command::Store(command) => store::run(command),
        Command::Sync(args) => transfer::sync(*args),
        Command::Token(command) => token::run(command),
    }
}

/// The first argument on the command line that may only stand in the environment.
fn told_aloud(matches: &ArgMatches) -> Option<&'static str> {
    let told = |name: &&str| {
        matches.ids().any(|id| id.as_str() == *name)
            && matches.value_source(name) == Some(ValueSource::CommandLine)
    };
    let here = crate::config::ENVIRONMENT_ONLY.into_iter().find(told);
    here.or_else(|| matches.subcommand().and_then(|(_, inner)| told_aloud(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// Every command that does something, with the words that name it.
    fn leaves(command: &clap::Command, name: &str, into: &mut Vec<(String, clap::Command)>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let name = format!("{name} {}", inner.get_name());
            if inner.has_subcommands() {
                leaves(inner, &name, into);
            } else {
                into.push((name, inner.clone()));
            }
        }
    }

    #[test]
    fn every_command_has_an_example_and_says_its_exit_status() {
        let mut all = Vec::new();
        leaves(&Cli::command(), "steadfast", &mut all);
        assert!(all.len() > 15, "{}", all.len());
        for (name, command) in all {
            assert!(command.get_about().is_some(), "{name} says what it does");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&name), "{name} has an example");
            assert!(help.contains("Exit status"), "{name} says its exit status");
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{name}: {help}");
        }
    }
}
