//! What the command line and the environment say, checked. The only reader of the environment.

mod backup;
mod client;
mod key;
mod transfer;

pub use backup::{BackupArgs, RestoreArgs};
pub use client::{
    ClientArgs, CompletionsArgs, ConnectionConfig, ENVIRONMENT_ONLY, EnvArgs, ManArgs,
    StoreCreateArgs, StoreDeleteArgs, StoreListArgs, StoreNameArgs, StoreRenameArgs,
    TokenCreateArgs, TokenListArgs, TokenLocation, TokenRevokeArgs, TokenScope,
};
pub use key::{KeyDeleteArgs, KeyGetArgs, KeyHeadArgs, KeyListArgs, KeyPutArgs, seconds};
pub use transfer::{ExportArgs, ExportTo, ImportArgs, ItemFormat, SyncArgs};

use crate::api::Token;
use clap::{Args, ValueEnum};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `steadfast serve`. Flags win over the environment, which wins over the defaults.
#[derive(Args, Clone)]
pub struct ServeArgs {
    /// Address to listen on; port 0 lets the system choose
    #[arg(long, value_name = "ADDR:PORT", env = "STEADFAST_LISTEN")]
    #[arg(default_value = "127.0.0.1:7678")]
    listen: SocketAddr,

    /// Directory that holds the data; made when it is not there
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    data: PathBuf,

    /// Keep everything in memory: fast, and gone when the server stops
    #[arg(long)]
    memory: bool,

    /// Keep the data in a database that speaks the PostgreSQL protocol, for several servers at
    /// once, instead of in a directory; better given by the environment, as it holds a password
    #[arg(long, value_name = "URL", env = "STEADFAST_ENGINE", hide_env_values = true)]
    #[arg(conflicts_with = "memory")]
    engine: Option<Secret>,

    /// Standbys of that database, for lists that ask for consistency=eventual
    #[arg(long, value_name = "URL", env = "STEADFAST_ENGINE_STANDBY", hide_env_values = true)]
    #[arg(requires = "engine")]
    engine_standby: Option<Secret>,

    /// Connections to that database at most
    #[arg(long, value_name = "N", env = "STEADFAST_ENGINE_CONNECTIONS", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=1000))]
    engine_connections: u16,

    /// The root token; better given by the environment than on a command line
    #[arg(
        long,
        value_name = "TOKEN",
        env = "STEADFAST_TOKEN",
        hide_env_values = true,
        hide = true
    )]
    token: Option<Secret>,

    /// File that holds the root token; without a token one is made and kept in the data directory
    #[arg(long, value_name = "FILE", env = "STEADFAST_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Allow an address that other machines reach without a token of your own choosing
    #[arg(long)]
    public: bool,

    /// Largest value, in bytes
    #[arg(long, value_name = "BYTES", env = "STEADFAST_MAX_VALUE", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_VALUE))]
    max_value: u64,

    /// Connections at once; further ones wait to be accepted
    #[arg(long, value_name = "N", env = "STEADFAST_MAX_CONNECTIONS", default_value_t = 16_384)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// Bytes of bodies held in memory at once; requests wait for their share
    #[arg(long, value_name = "BYTES", env = "STEADFAST_MAX_IN_FLIGHT", default_value_t = 256 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(16 << 20..=1 << 40))]
    max_in_flight: u64,

    /// Bytes of small items kept in memory for reading, taken as they are read; of larger ones, up
    /// to 1 MiB each, a quarter as much besides
    #[arg(long, value_name = "BYTES", env = "STEADFAST_CACHE", default_value_t = 128 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1 << 40))]
    cache: u64,

    /// Bytes of the commit log at which it is folded into the database; more makes writes faster
    /// and the start after a crash slower
    #[arg(long, value_name = "BYTES", env = "STEADFAST_WAL_BYTES", default_value_t = 128 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 40))]
    wal_bytes: u64,

    /// Seconds in which a request's head must come
    #[arg(long, value_name = "SECS", env = "STEADFAST_HEADER_TIMEOUT", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    header_timeout: u64,

    /// Seconds without a byte of a body, or of an answer being taken, after which to give up
    #[arg(long, value_name = "SECS", env = "STEADFAST_BODY_TIMEOUT", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    body_timeout: u64,

    /// Seconds that a connection may rest between requests
    #[arg(long, value_name = "SECS", env = "STEADFAST_IDLE_TIMEOUT", default_value_t = 120)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_timeout: u64,

    /// How log lines are written
    #[arg(long, value_name = "FORMAT", env = "STEADFAST_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, or a filter such as steadfast=debug
    #[arg(long, value_name = "FILTER", env = "STEADFAST_LOG", default_value = "info")]
    log: String,
}

/// Flags of `steadfast check`.
#[derive(Args, Clone)]
pub struct CheckArgs {
    /// Directory that holds the data
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    data: PathBuf,

    /// Look at a backup instead
    #[arg(long, value_name = "FILE")]
    pub backup: Option<PathBuf>,
}

impl CheckArgs {
    /// The data directory.
    pub fn data(&self) -> &std::path::Path {
        &self.data
    }
}

/// Flags of `steadfast copy`.
#[derive(Args, Clone)]
pub struct CopyArgs {
    /// What is copied: a data directory, or the URL of a database (postgres://...)
    #[arg(long, value_name = "ENGINE", env = "STEADFAST_COPY_FROM", hide_env_values = true)]
    from: Secret,

    /// Where it goes: a data directory or a database that is empty, or holds this copy unfinished
    #[arg(long, value_name = "ENGINE", env = "STEADFAST_COPY_TO", hide_env_values = true)]
    to: Secret,

    /// Connections to a database at most
    #[arg(long, value_name = "N", env = "STEADFAST_ENGINE_CONNECTIONS", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=1000))]
    engine_connections: u16,
}

impl CopyArgs {
    /// Where from and where to.
    ///
    /// # Errors
    /// In words for the person at the terminal; never with a URL.
    pub fn resolve(self) -> Result<(EngineLocation, EngineLocation), String> {
        let connections = usize::from(self.engine_connections);
        let place = |flag: &str, Secret(text): Secret| -> Result<EngineLocation, String> {
            if text.contains("://") {
                let url = database_url(flag, text)?;
                return Ok(EngineLocation::Database(Database { url, standby: None, connections }));
            }
            Ok(EngineLocation::Directory(text.into()))
        };
        let (from, to) = (place("--from", self.from)?, place("--to", self.to)?);
        match &from {
            EngineLocation::Directory(dir) if !dir.is_dir() => {
                Err(format!("--from: there is no directory {}", dir.display()))
            }
            EngineLocation::Directory(_)
            | EngineLocation::Memory
            | EngineLocation::Database(..) => Ok((from, to)),
        }
    }
}

/// No value may be larger, whatever the flag says: 1 GiB.
const MAX_VALUE: u64 = 1 << 30;
/// What a database takes as one value is bounded, and is held in memory.
const MAX_VALUE_DATABASE: u64 = 256 << 20;
/// A token file may have so many bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A text that is not shown.
#[derive(Clone)]
struct Secret(String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Secret, Self::Err> {
        Ok(Secret(text.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Where the root token comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// The environment gave it.
    Given(Token),
    /// The operator's file holds it.
    File(Token, PathBuf),
    /// Nobody gave one: the server makes it, or has made it before.
    Own,
}

/// Where the data is kept.
#[derive(Clone)]
pub enum EngineLocation {
    /// In this directory.
    Directory(PathBuf),
    /// In memory.
    Memory,
    /// In a database.
    Database(Database),
}

/// How a database is reached. The URLs may hold passwords.
#[derive(Clone)]
pub struct Database {
    /// Where writes go.
    pub url: String,
    /// Where lists may go that need not see the latest.
    pub standby: Option<String>,
    /// Connections at most.
    pub connections: usize,
}

impl fmt::Display for EngineLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineLocation::Directory(dir) => write!(f, "{}", dir.display()),
            EngineLocation::Memory => f.write_str("memory: gone when the server stops"),
            EngineLocation::Database(..) => f.write_str("the database of STEADFAST_ENGINE"),
        }
    }
}

impl fmt::Debug for EngineLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A checked configuration of the server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the data is kept.
    pub place: EngineLocation,
    /// Where the token comes from.
    pub token: TokenSource,
    /// Largest value, in bytes.
    pub max_value: u64,
    /// Connections at once.
    pub max_connections: u32,
    /// Bytes of bodies in memory at once.
    pub max_in_flight: u64,
    /// Bytes of the cache.
    pub cache_bytes: u64,
    /// Bytes of the commit log at which it is folded.
    pub wal_bytes: u64,
    /// See [`crate::http::Timeouts`].
    pub timeouts: crate::http::Timeouts,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
}

impl ServeArgs {
    /// Checks what belongs together and reads the token.
    ///
    /// # Errors
    /// In words for the person at the terminal; never with the token.
    pub fn resolve(self) -> Result<ServeConfig, String> {
        let token = match (self.token, self.token_file) {
            (Some(_), Some(_)) => {
                return Err("set STEADFAST_TOKEN or STEADFAST_TOKEN_FILE, not both".into());
            }
            (Some(Secret(text)), None) => {
                let token = Token::parse(&text);
                TokenSource::Given(token.map_err(|e| format!("STEADFAST_TOKEN {e}"))?)
            }
            (None, Some(path)) => TokenSource::File(read_token(&path)?, path),
            (None, None) => TokenSource::Own,
        };
        if !self.listen.ip().is_loopback() && matches!(token, TokenSource::Own) && !self.public {
            return Err(format!(
                "{} can be reached from other machines, without TLS: set STEADFAST_TOKEN or \
                 STEADFAST_TOKEN_FILE to a token of your own, or say --public",
                self.listen
            ));
        }
        let place = match self.engine {
            None if self.memory => EngineLocation::Memory,
            None => EngineLocation::Directory(self.data),
            Some(Secret(url)) => {
                let standby = self.engine_standby.map(|Secret(url)| url);
                let standby = standby.map(|url| database_url("--engine-standby", url));
                EngineLocation::Database(Database {
                    url: database_url("--engine", url)?,
                    standby: standby.transpose()?,
                    connections: self.engine_connections.into(),
                })
            }
        };
        if matches!((&place, &token), (EngineLocation::Database(..), TokenSource::Own)) {
            return Err("servers over one database share a token: set STEADFAST_TOKEN or \
                        STEADFAST_TOKEN_FILE"
                .into());
        }
        if matches!(place, EngineLocation::Database(..)) && self.max_value > MAX_VALUE_DATABASE {
            return Err(format!("--max-value must be at most {MAX_VALUE_DATABASE} with --engine"));
        }
        let seconds = Duration::from_secs;
        Ok(ServeConfig {
            listen: self.listen,
            place,
            token,
            max_value: self.max_value,
            max_connections: self.max_connections,
            max_in_flight: self.max_in_flight,
            cache_bytes: self.cache,
            wal_bytes: self.wal_bytes,
            timeouts: crate::http::Timeouts {
                head: seconds(self.header_timeout),
                idle: seconds(self.idle_timeout),
                body: seconds(self.body_timeout),
                write: seconds(self.body_timeout),
            },
            log_format: self.log_format,
            log: self.log,
        })
    }
}

fn database_url(flag: &str, url: String) -> Result<String, String> {
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    // Without the URL, which may hold a password.
    if known { Ok(url) } else { Err(format!("{flag} must be a URL that begins with postgres://")) }
}

/// Reads the token that a file holds, on a line of its own.
///
/// # Errors
/// In words, without the token.
pub fn read_token(path: &std::path::Path) -> Result<Token, String> {
    let text = read_token_text(path)?;
    Token::parse(text.trim_ascii())
        .map_err(|e| format!("the token file {}: the token in it {e}", path.display()))
}

/// What a token file holds, of a bounded size.
fn read_token_text(path: &std::path::Path) -> Result<String, String> {
    let failed = |e: &dyn fmt::Display| format!("the token file {}: {e}", path.display());
    let size = std::fs::metadata(path).map_err(|e| failed(&e))?.len();
    if size > TOKEN_FILE_BYTES_MAX {
        return Err(failed(&format_args!("must have at most {TOKEN_FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|e| failed(&e))
}
