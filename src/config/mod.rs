//! Command-line flags and environment variables, parsed and validated.
//!
//! Only this module reads the environment. It depends only on `wire`, `address_file`, `small_file`
//! and `simulation`; `server` and `cli` build their own settings from its values.

mod admin;
mod client;
mod completions;
mod env;
mod key;
mod man;
mod serve;
mod store;
mod token;
mod transfer;

pub use admin::{BackupArgs, CheckArgs, CopyArgs, RestoreArgs};
pub use client::{ClientArgs, ConnectionConfig, ConnectionError};
pub use completions::CompletionsArgs;
pub use env::EnvArgs;
pub use key::{KeyDeleteArgs, KeyGetArgs, KeyHeadArgs, KeyListArgs, KeyPutArgs, parse_duration};
pub use man::ManArgs;
pub use serve::{
    LogFormat, ServeArgs, ServeConfig, SimulationConfig, TlsFiles, TokenSource, WAL_BYTES_DEFAULT,
    read_root_token,
};
pub use store::{StoreCreateArgs, StoreDeleteArgs, StoreDescribeArgs, StoreRenameArgs};
pub use token::{TokenCreateArgs, TokenRevokeArgs, TokenScope};
pub use transfer::{ExportArgs, ExportFormat, ImportArgs, ImportFormat, SyncArgs};

use crate::small_file;
use crate::wire::Token;
use clap::Command;
use clap::builder::{OsStr, Resettable};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::path::{Path, PathBuf};

/// Arguments that can be set only by environment variable: tokens, because other users of the
/// machine can read command lines, and settings that are shared with other programs.
pub const ENVIRONMENT_ONLY: [&str; 6] = [
    "fastly_api_token",
    "steadfast_token",
    "steadfast_token_file",
    "node_options",
    "no_color",
    "term",
];

/// Makes a command and its subcommands treat empty environment variables as unset, as most programs
/// do.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module reads the environment")]
pub fn ignore_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        match value.is_some_and(|value| value.is_empty()) {
            true => arg.env(Resettable::<OsStr>::Reset),
            false => arg,
        }
    });
    command.mut_subcommands(ignore_empty_variables)
}

/// The maximum size of a token file in bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// The file or variable from which a token was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLocation {
    /// An environment variable, by name.
    Environment(&'static str),
    /// A file.
    File(PathBuf),
}

/// The location of the data.
#[derive(Clone)]
pub enum EngineLocation {
    /// A data directory.
    Directory(PathBuf),
    /// The memory of the process.
    Memory,
    /// A PostgreSQL database.
    Database(Database),
}

/// Connection settings of a database. The URLs may contain passwords.
#[derive(Clone)]
pub struct Database {
    /// The URL of the primary.
    pub url: String,
    /// The URL of the standbys, which serve eventually consistent lists.
    pub standby: Option<String>,
    /// The maximum number of connections to the database.
    pub connections: usize,
}

impl fmt::Display for EngineLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineLocation::Directory(dir) => write!(f, "{}", dir.display()),
            EngineLocation::Memory => f.write_str("memory (lost when the server stops)"),
            EngineLocation::Database(..) => f.write_str("PostgreSQL database"),
        }
    }
}

impl fmt::Debug for EngineLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Validates the scheme of a database URL. The error omits the URL, which may contain a password.
fn database_url(flag: &str, url: &SecretString) -> Result<String, String> {
    let url = url.expose_secret();
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    if !known {
        return Err(format!("{flag} must be a postgres:// URL"));
    }
    Ok(url.to_owned())
}

/// Reads a token from a file.
fn read_token(path: &Path) -> Result<Token, String> {
    let text = small_file::read_text(path, TOKEN_FILE_BYTES_MAX);
    let text = text.map_err(|e| format!("token file {}: {e}", path.display()))?;
    Token::parse(&text).map_err(|e| format!("token file {}: the token {e}", path.display()))
}
