//! Arguments of the commands that operate on a data directory, a database or a backup.

use super::client::ClientArgs;
use super::{Database, EngineLocation, database_url};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};

/// The maximum number of database connections that a restore uses.
const RESTORE_CONNECTIONS: usize = 8;

/// Arguments of `steadfast backup`.
#[derive(Args, Clone)]
pub struct BackupArgs {
    /// Data directory to back up; a server may be running on it
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    pub data: PathBuf,

    /// Back up the server at --endpoint instead of a data directory
    #[arg(long)]
    pub online: bool,

    /// Output file, compressed if its name ends in .zst; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Replace an existing file
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast restore`.
#[derive(Args, Clone)]
pub struct RestoreArgs {
    /// Backup to restore; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Data directory to restore into; must be empty or absent
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    data: PathBuf,

    /// Restore into this PostgreSQL database, which must be empty, instead of a data directory
    #[arg(long, value_name = "URL", env = "STEADFAST_ENGINE", hide_env_values = true)]
    engine: Option<SecretString>,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl RestoreArgs {
    /// Returns the location into which to restore the backup.
    ///
    /// # Errors
    /// Returns a message for the user that does not contain the database URL.
    pub fn destination(&self) -> Result<EngineLocation, String> {
        let Some(url) = &self.engine else {
            return Ok(EngineLocation::Directory(self.data.clone()));
        };
        let url = database_url("--engine", url)?;
        let connections = RESTORE_CONNECTIONS;
        Ok(EngineLocation::Database(Database { url, standby: None, connections }))
    }
}

/// Arguments of `steadfast check`.
#[derive(Args, Clone)]
pub struct CheckArgs {
    /// Data directory to check
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    pub data: PathBuf,

    /// Check this backup instead of a data directory
    #[arg(long, value_name = "FILE")]
    pub backup: Option<PathBuf>,

    /// Accept the loss of the commits in missing WAL segments, and reset the WAL before the check
    #[arg(long, conflicts_with = "backup")]
    pub reset_wal: bool,
}

/// Arguments of `steadfast copy`.
#[derive(Args, Clone)]
pub struct CopyArgs {
    /// Source: a data directory or a database URL (postgres://...)
    #[arg(long, value_name = "ENGINE", env = "STEADFAST_COPY_FROM", hide_env_values = true)]
    from: SecretString,

    /// Destination: a data directory or a database URL; must be empty or contain an unfinished copy
    /// of the same source
    #[arg(long, value_name = "ENGINE", env = "STEADFAST_COPY_TO", hide_env_values = true)]
    to: SecretString,

    /// Maximum number of connections to each database
    #[arg(long, value_name = "N", env = "STEADFAST_ENGINE_CONNECTIONS", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=1000))]
    engine_connections: u16,
}

impl CopyArgs {
    /// Returns the source and the destination.
    ///
    /// # Errors
    /// Returns a message for the user that does not contain the database URL.
    pub fn resolve(&self) -> Result<(EngineLocation, EngineLocation), String> {
        let from = self.location("--from", &self.from)?;
        let to = self.location("--to", &self.to)?;
        if let EngineLocation::Directory(dir) = &from
            && !dir.is_dir()
        {
            return Err(format!("--from: {} is not a directory", dir.display()));
        }
        Ok((from, to))
    }

    fn location(&self, flag: &str, text: &SecretString) -> Result<EngineLocation, String> {
        if !text.expose_secret().contains("://") {
            return Ok(EngineLocation::Directory(Path::new(text.expose_secret()).to_owned()));
        }
        let url = database_url(flag, text)?;
        let connections = self.engine_connections.into();
        Ok(EngineLocation::Database(Database { url, standby: None, connections }))
    }
}
