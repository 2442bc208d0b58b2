//! Flags of `steadfast backup` and `steadfast restore`.

use super::client::ClientArgs;
use super::{Database, EngineLocation, Secret, database_url};
use clap::Args;
use std::path::PathBuf;

/// Flags of `steadfast backup`.
#[derive(Args, Clone)]
pub struct BackupArgs {
    /// Data directory to back up, while its server runs or not
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    pub data: PathBuf,

    /// Back up the server of --endpoint, wherever its data is
    #[arg(long)]
    pub online: bool,

    /// File to write, compressed if it ends in .zst; - for the standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "described where it is made")]
    pub client: ClientArgs,
}

/// Flags of `steadfast restore`.
#[derive(Args, Clone)]
pub struct RestoreArgs {
    /// Backup to read; - for the standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Data directory to fill: empty, or not there yet
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    data: PathBuf,

    /// Fill a database that speaks the PostgreSQL protocol instead
    #[arg(long, value_name = "URL", env = "STEADFAST_ENGINE", hide_env_values = true)]
    engine: Option<Secret>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl RestoreArgs {
    /// Where the backup goes.
    ///
    /// # Errors
    /// In words for the person at the terminal; never with a URL.
    pub fn place(&self) -> Result<EngineLocation, String> {
        match &self.engine {
            None => Ok(EngineLocation::Directory(self.data.clone())),
            Some(Secret(url)) => {
                let url = database_url("--engine", url.clone())?;
                Ok(EngineLocation::Database(Database {
                    url,
                    standby: None,
                    connections: CONNECTIONS,
                }))
            }
        }
    }
}

/// Connections to a database.
const CONNECTIONS: usize = 8;
