//! Arguments of `steadfast serve`.

use super::{Database, EngineLocation, database_url, read_token};
use crate::simulation::{Setting, Spec};
use crate::wire::{DEFAULT_PORT, Token};
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The upper limit of `--max-value` in bytes: 1 GiB.
const MAX_VALUE: u64 = 1 << 30;
/// The upper limit of `--max-value` in bytes for a database, which requires values to be buffered
/// in memory.
const MAX_VALUE_DATABASE: u64 = 256 << 20;
/// The default of `--wal-bytes`, in bytes.
pub const WAL_BYTES_DEFAULT: u64 = 1 << 30;
/// The minimum length of the root token in bytes.
const ROOT_TOKEN_BYTES_MIN: usize = 16;
const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, DEFAULT_PORT);

/// Arguments of `steadfast serve`.
#[derive(Args, Clone)]
pub struct ServeArgs {
    /// Address to listen on; port 0 selects a free port
    #[arg(long, value_name = "ADDR:PORT", env = "STEADFAST_LISTEN")]
    #[arg(default_value_t = LISTEN.into())]
    listen: SocketAddr,

    /// Data directory, created if it does not exist
    #[arg(long, value_name = "DIR", env = "STEADFAST_DATA", default_value = "./steadfast-data")]
    data: PathBuf,

    /// Store all data in memory; it is lost when the server stops
    #[arg(long)]
    memory: bool,

    /// Store the data in a PostgreSQL database, which several servers can share, instead of a
    /// directory; if the URL contains a password, use the environment variable to hide it
    #[arg(long, value_name = "URL", env = "STEADFAST_ENGINE", hide_env_values = true)]
    #[arg(conflicts_with = "memory")]
    engine: Option<SecretString>,

    /// URL of the database's standbys, which serve lists with consistency=eventual
    #[arg(long, value_name = "URL", env = "STEADFAST_ENGINE_STANDBY", hide_env_values = true)]
    #[arg(requires = "engine")]
    engine_standby: Option<SecretString>,

    /// Maximum number of connections to the database
    #[arg(long, value_name = "N", env = "STEADFAST_ENGINE_CONNECTIONS", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=1000))]
    engine_connections: u16,

    /// Root token. Can be set only in the environment.
    #[arg(long, env = "STEADFAST_TOKEN", hide_env_values = true, hide = true)]
    token: Option<SecretString>,

    /// File that contains the root token (16 to 512 visible ASCII characters); without a token,
    /// the server generates one and stores it in the data directory
    #[arg(long, value_name = "FILE", env = "STEADFAST_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Allow a non-loopback address without TLS and with a generated token
    #[arg(long)]
    public: bool,

    /// Maximum size of a value, in bytes
    #[arg(long, value_name = "BYTES", env = "STEADFAST_MAX_VALUE", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_VALUE))]
    max_value: u64,

    /// Maximum number of open connections; further connections wait to be accepted
    #[arg(long, value_name = "N", env = "STEADFAST_MAX_CONNECTIONS", default_value_t = 16_384)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// Maximum memory for request and response bodies, in bytes; further requests wait
    #[arg(long, value_name = "BYTES", env = "STEADFAST_MAX_IN_FLIGHT", default_value_t = 256 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(16 << 20..=1 << 40))]
    max_in_flight: u64,

    /// Size of the read cache for small items, in bytes, allocated on demand; larger items, up to
    /// 1 MiB each, use up to a quarter of this size in addition
    #[arg(long, value_name = "BYTES", env = "STEADFAST_CACHE", default_value_t = 128 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1 << 40))]
    cache: u64,

    /// Maximum WAL size that triggers a checkpoint, in bytes; a larger WAL speeds up writes to
    /// large data sets, uses more memory and disk space, and slows down recovery
    #[arg(long, value_name = "BYTES", env = "STEADFAST_WAL_BYTES")]
    #[arg(default_value_t = WAL_BYTES_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 40))]
    wal_bytes: u64,

    /// Timeout for receiving a request head, in seconds
    #[arg(long, value_name = "SECS", env = "STEADFAST_HEADER_TIMEOUT", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    header_timeout: u64,

    /// Timeout for each read of a request body and each write of a response, in seconds
    #[arg(long, value_name = "SECS", env = "STEADFAST_BODY_TIMEOUT", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    body_timeout: u64,

    /// Timeout for idle connections, in seconds
    #[arg(long, value_name = "SECS", env = "STEADFAST_IDLE_TIMEOUT", default_value_t = 120)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_timeout: u64,

    /// Serve HTTPS with the certificate chain in this PEM file, the server's certificate first; TLS
    /// files are reloaded when they change, and on SIGHUP
    #[arg(long, value_name = "FILE", env = "STEADFAST_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE", env = "STEADFAST_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Only accept clients with a certificate signed by one of the CA certificates in this PEM file
    #[arg(long, value_name = "FILE", env = "STEADFAST_TLS_CLIENT_CA", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// For tests: simulate a distributed service, with settings such as stale=5s (outdated reads),
    /// latency=20ms, errors=1% (status 5xx) and "rate-limit=1/s per key" (status 429); separate
    /// several settings with commas or repeat the flag
    #[arg(long, value_name = "SPEC", env = "STEADFAST_SIMULATE", value_delimiter = ',')]
    simulate: Vec<Setting>,

    /// Seed of the simulation, which repeats its decisions; random by default
    #[arg(long, value_name = "N", env = "STEADFAST_SIMULATE_SEED", requires = "simulate")]
    simulate_seed: Option<u64>,

    /// Format of log lines
    #[arg(long, value_name = "FORMAT", env = "STEADFAST_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Log level (error, warn, info, debug or trace) or filter, such as steadfast=debug
    #[arg(long, value_name = "FILTER", env = "STEADFAST_LOG", default_value = "info")]
    log: String,

    /// Disables colours if not empty (<https://no-color.org>). Can be set only in the environment.
    #[arg(long, env = "NO_COLOR", hide = true)]
    no_color: Option<OsString>,

    /// The type of the terminal. Can be set only in the environment.
    #[arg(long, env = "TERM", hide = true)]
    term: Option<OsString>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text
    Text,
    /// One JSON object per line
    Json,
}

/// The PEM files for HTTPS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The CA certificates for clients. If set, each client must present a certificate signed by
    /// one of them.
    pub client_ca: Option<PathBuf>,
}

/// The source of the root token.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// The environment variable `STEADFAST_TOKEN`.
    Given(Token),
    /// A file chosen by the operator.
    File(Token, PathBuf),
    /// A token that the server generates on its first start.
    Generated,
}

/// The simulation of a distributed service.
#[derive(Clone, Debug)]
pub struct SimulationConfig {
    /// The settings.
    pub spec: Spec,
    /// The seed of all decisions.
    pub seed: u64,
}

/// The validated configuration of the server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The location of the data.
    pub engine: EngineLocation,
    /// The source of the root token.
    pub token: TokenSource,
    /// The maximum size of a value in bytes.
    pub max_value: u64,
    /// The maximum number of open connections.
    pub max_connections: u32,
    /// The maximum memory for request and response bodies, in bytes.
    pub max_in_flight: u64,
    /// The size of the read cache in bytes.
    pub cache_bytes: u64,
    /// The WAL size in bytes that triggers a checkpoint.
    pub wal_bytes: u64,
    /// The timeout for receiving a request head.
    pub header_timeout: Duration,
    /// The timeout for each read of a body and each write of a response.
    pub body_timeout: Duration,
    /// The timeout for idle connections.
    pub idle_timeout: Duration,
    /// The TLS files; `None` for plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The simulation of a distributed service; `None` to simulate nothing.
    pub simulation: Option<SimulationConfig>,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The log filter.
    pub log: String,
    /// Whether log lines on a terminal are coloured.
    pub log_color: bool,
}

impl ServeArgs {
    /// Validates the flags and reads the token file.
    ///
    /// # Errors
    /// Returns a message for the user that does not contain the token.
    pub fn resolve(self) -> Result<ServeConfig, String> {
        let token = self.token_source()?;
        let generated = matches!(token, TokenSource::Generated);
        let tls = self.tls_files();
        if !self.listen.ip().is_loopback() && generated && tls.is_none() && !self.public {
            return Err(format!(
                "{} is reachable from other machines without TLS: set --tls-cert and --tls-key, \
                 or your own token in STEADFAST_TOKEN or STEADFAST_TOKEN_FILE, or pass --public",
                self.listen
            ));
        }
        let simulation = self.simulation()?;
        let engine = self.engine_location()?;
        if matches!((&engine, &token), (EngineLocation::Database(..), TokenSource::Generated)) {
            return Err("servers that share a database require the same root token: set \
                        STEADFAST_TOKEN or STEADFAST_TOKEN_FILE"
                .into());
        }
        if matches!(engine, EngineLocation::Database(..)) && self.max_value > MAX_VALUE_DATABASE {
            return Err(format!("--max-value must be at most {MAX_VALUE_DATABASE} with --engine"));
        }
        Ok(ServeConfig {
            listen: self.listen,
            engine,
            token,
            max_value: self.max_value,
            max_connections: self.max_connections,
            max_in_flight: self.max_in_flight,
            cache_bytes: self.cache,
            wal_bytes: self.wal_bytes,
            header_timeout: Duration::from_secs(self.header_timeout),
            body_timeout: Duration::from_secs(self.body_timeout),
            idle_timeout: Duration::from_secs(self.idle_timeout),
            tls,
            simulation,
            log_format: self.log_format,
            log_color: is_color_allowed(self.no_color.as_deref(), self.term.as_deref()),
            log: self.log,
        })
    }

    fn simulation(&self) -> Result<Option<SimulationConfig>, String> {
        let spec = Spec::new(self.simulate.iter().copied());
        let spec = spec.map_err(|e| format!("--simulate: {e}"))?;
        if spec.is_empty() {
            return Ok(None);
        }
        let random = || getrandom::u64().map_err(|e| format!("cannot generate a seed: {e}"));
        let seed = self.simulate_seed.map_or_else(random, Ok)?;
        Ok(Some(SimulationConfig { spec, seed }))
    }

    fn tls_files(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(TlsFiles { cert, key, client_ca: self.tls_client_ca.clone() })
    }

    fn token_source(&self) -> Result<TokenSource, String> {
        match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => {
                Err("set STEADFAST_TOKEN or STEADFAST_TOKEN_FILE, not both".into())
            }
            (Some(text), None) => {
                let token = Token::parse(text.expose_secret()).and_then(check_root_token);
                Ok(TokenSource::Given(token.map_err(|e| format!("STEADFAST_TOKEN {e}"))?))
            }
            (None, Some(path)) => Ok(TokenSource::File(read_root_token(path)?, path.clone())),
            (None, None) => Ok(TokenSource::Generated),
        }
    }

    fn engine_location(&self) -> Result<EngineLocation, String> {
        let Some(url) = &self.engine else {
            return Ok(match self.memory {
                true => EngineLocation::Memory,
                false => EngineLocation::Directory(self.data.clone()),
            });
        };
        let standby = self.engine_standby.as_ref();
        let standby = standby.map(|url| database_url("--engine-standby", url)).transpose()?;
        let url = database_url("--engine", url)?;
        let connections = self.engine_connections.into();
        Ok(EngineLocation::Database(Database { url, standby, connections }))
    }
}

/// Returns whether the variables `NO_COLOR` and `TERM` allow colours.
fn is_color_allowed(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

/// Reads the root token from a file.
///
/// # Errors
/// Returns a message that names the file and does not contain the token.
pub fn read_root_token(path: &Path) -> Result<Token, String> {
    let checked = check_root_token(read_token(path)?);
    checked.map_err(|e| format!("token file {}: the root token {e}", path.display()))
}

fn check_root_token(token: Token) -> Result<Token, String> {
    if token.expose().len() < ROOT_TOKEN_BYTES_MIN {
        return Err(format!("must have at least {ROOT_TOKEN_BYTES_MIN} characters"));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_and_a_dumb_terminal_disable_colours() {
        let allowed = |no_color: Option<&str>, term: Option<&str>| {
            is_color_allowed(no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(allowed(None, None) && allowed(Some(""), Some("xterm")));
        assert!(!allowed(Some("0"), None) && !allowed(None, Some("dumb")));
    }
}
