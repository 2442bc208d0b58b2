//! Flags of the commands that connect to a server, and the lookup of its address and token.

use super::{TokenLocation, read_small_file, read_token};
use crate::wire::{Endpoint, Token};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};

/// The token file of a server that runs on the default data directory.
const LOCAL_TOKEN_FILE: &str = "./steadfast-data/token";
/// The file that contains that server's URL while it runs.
const LOCAL_ADDRESS_FILE: &str = "./steadfast-data/address";

/// The server to connect to, and the output format.
#[derive(Args, Clone)]
#[command(next_help_heading = "Server and output")]
pub struct ClientArgs {
    /// URL of a Steadfast server or of the hosted service; if not set, a server running on
    /// ./steadfast-data takes precedence over the default
    #[arg(long, value_name = "URL", env = "FASTLY_API_ENDPOINT")]
    #[arg(default_value_t = Endpoint::default_url())]
    endpoint: String,

    /// File that contains the token [default: the token in FASTLY_API_TOKEN, then the file named by
    /// STEADFAST_TOKEN_FILE, then, for a local server, ./steadfast-data/token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Print newline-delimited JSON, in a stable format
    #[arg(long)]
    pub json: bool,

    /// Set in the environment only; see [`super::ENVIRONMENT_ONLY`].
    #[arg(long, env = "FASTLY_API_TOKEN", hide_env_values = true, hide = true)]
    fastly_api_token: Option<SecretString>,

    /// Set in the environment only: the root token of a local server.
    #[arg(long, env = "STEADFAST_TOKEN", hide_env_values = true, hide = true)]
    steadfast_token: Option<SecretString>,

    /// Set in the environment only.
    #[arg(long, env = "STEADFAST_TOKEN_FILE", hide = true)]
    steadfast_token_file: Option<PathBuf>,
}

/// A server and its token.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// The address of the server.
    pub endpoint: Endpoint,
    /// The token.
    pub token: Token,
    /// The location of the token.
    pub token_location: TokenLocation,
}

/// The reason a connection cannot be configured. Messages contain neither URL passwords nor tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionError {
    /// The endpoint is invalid.
    Endpoint(String),
    /// The token is missing or invalid.
    Token(String),
}

impl ClientArgs {
    /// Validates the endpoint and finds the token.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub fn resolve(&self) -> Result<ConnectionConfig, ConnectionError> {
        let endpoint = match self.running_endpoint() {
            Some(endpoint) => endpoint,
            None => parse_endpoint(&self.endpoint)?,
        };
        let (token, token_location) = self.find_token(&endpoint)?;
        Ok(ConnectionConfig { endpoint, token, token_location })
    }

    /// Resolves one of two servers of a command. The token of `--endpoint` is not sent to another
    /// server, which requires `token_file`; `flag` is the name of its flag.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub fn resolve_for(
        &self,
        endpoint: &str,
        token_file: Option<&Path>,
        flag: &str,
    ) -> Result<ConnectionConfig, ConnectionError> {
        let other = parse_endpoint(endpoint)?;
        if token_file.is_none() && other != parse_endpoint(&self.endpoint)? {
            let local = Path::new(LOCAL_TOKEN_FILE);
            if other.is_loopback() && local.is_file() {
                let (token, token_location) = token_from_file(local)?;
                return Ok(ConnectionConfig { endpoint: other, token, token_location });
            }
            return Err(ConnectionError::Token(format!(
                "no token for {other}, which is not the server at --endpoint: set {flag}"
            )));
        }
        let token_file = token_file.map(Path::to_owned).or_else(|| self.token_file.clone());
        ClientArgs { endpoint: endpoint.to_owned(), token_file, ..self.clone() }.resolve()
    }

    /// Returns the arguments for the server of a data directory. They use that directory's token
    /// file unless `--token-file` is set.
    #[must_use]
    pub fn for_data_directory(&self, endpoint: String, data: &Path) -> ClientArgs {
        let generated = Some(data.join("token")).filter(|path| path.is_file());
        let token_file = self.token_file.clone().or(generated);
        ClientArgs { endpoint, token_file, ..self.clone() }
    }

    /// Returns the endpoint, unless it is the default.
    pub fn explicit_endpoint(&self) -> Option<&str> {
        Some(self.endpoint.trim_end_matches('/')).filter(|url| *url != Endpoint::default_url())
    }

    /// The value of `--endpoint`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the address of a server running on the default data directory, unless an endpoint is
    /// set.
    fn running_endpoint(&self) -> Option<Endpoint> {
        if self.explicit_endpoint().is_some() {
            return None;
        }
        let url = read_small_file(Path::new(LOCAL_ADDRESS_FILE)).ok()?;
        Endpoint::parse(&url).ok().filter(Endpoint::is_loopback)
    }

    fn find_token(&self, endpoint: &Endpoint) -> Result<(Token, TokenLocation), ConnectionError> {
        if let Some(path) = &self.token_file {
            return token_from_file(path);
        }
        if let Some(text) = &self.fastly_api_token {
            return token_from_variable("FASTLY_API_TOKEN", text);
        }
        if let Some(path) = &self.steadfast_token_file {
            return token_from_file(path);
        }
        // The root token of a local server is never sent to another machine.
        if endpoint.is_loopback() {
            if let Some(text) = &self.steadfast_token {
                return token_from_variable("STEADFAST_TOKEN", text);
            }
            let local = Path::new(LOCAL_TOKEN_FILE);
            if local.is_file() {
                return token_from_file(local);
            }
        }
        let local =
            if endpoint.is_loopback() { "; ./steadfast-data/token does not exist" } else { "" };
        Err(ConnectionError::Token(format!(
            "no token for {endpoint}: set FASTLY_API_TOKEN or STEADFAST_TOKEN_FILE, or pass \
             --token-file{local}"
        )))
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, ConnectionError> {
    Endpoint::parse(text).map_err(ConnectionError::Endpoint)
}

fn token_from_variable(
    name: &'static str,
    text: &SecretString,
) -> Result<(Token, TokenLocation), ConnectionError> {
    let token = Token::parse(text.expose_secret());
    let token = token.map_err(|e| ConnectionError::Token(format!("{name} {e}")))?;
    Ok((token, TokenLocation::Environment(name)))
}

fn token_from_file(path: &Path) -> Result<(Token, TokenLocation), ConnectionError> {
    let token = read_token(path).map_err(ConnectionError::Token)?;
    Ok((token, TokenLocation::File(path.to_owned())))
}
