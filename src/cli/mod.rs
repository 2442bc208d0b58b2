//! The command line: one file per command.

mod check;
mod copy;
mod serve;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A self-hosted, durable KV store that speaks the Fastly KV Store API
#[derive(Parser)]
#[command(name = "steadfast", version, arg_required_else_help = true)]
#[command(after_help = "Start a server with its data in ./steadfast-data:\n  steadfast serve")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Verify every checksum of a data directory, and that all its parts agree
    #[command(after_help = check::HELP)]
    Check(crate::config::CheckArgs),
    /// Copy all stores and items from one engine to another, and compare both
    #[command(after_help = copy::HELP)]
    Copy(crate::config::CopyArgs),
    /// Serve the API until SIGTERM or SIGINT
    #[command(after_help = serve::HELP)]
    Serve(Box<crate::config::ServeArgs>),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Copy(args) => copy::run(args),
        Command::Serve(args) => serve::run(*args),
    }
}
