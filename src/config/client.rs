//! Arguments of the commands that connect to a server, and the lookup of the server's
//! address and token.

use super::{TokenLocation, read_token};
use crate::address_file::{RunningServer, running_server};
use crate::wire::{Endpoint, Token};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};

/// The data directory in which commands look for a running server.
const LOCAL_DATA: &str = "./steadfast-data";
/// The name of the file with the generated token in a data directory.
const TOKEN_FILE: &str = "token";

/// The server to connect to, and the output format.
#[derive(Args, Clone)]
#[command(next_help_heading = "Server and output")]
pub struct ClientArgs {
    /// URL of a Steadfast server or of the hosted service [default: the server running on
    /// ./steadfast-data, or else http://127.0.0.1:7678]
    #[arg(long, value_name = "URL", env = "FASTLY_API_ENDPOINT")]
    endpoint: Option<String>,

    /// File that contains the token [default: the token in FASTLY_API_TOKEN, then the file named by
    /// STEADFAST_TOKEN_FILE, then, for a local server, the token in STEADFAST_TOKEN or
    /// ./steadfast-data/token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// PEM file with the CA certificates to trust for https endpoints, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// PEM file with a client certificate, for a server that requires one
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,

    /// PEM file with the private key of the client certificate [default: the file of --client-cert]
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,

    /// Print newline-delimited JSON, in a stable format
    #[arg(long)]
    pub json: bool,

    /// The token. Can be set only in the environment; see [`super::ENVIRONMENT_ONLY`].
    #[arg(long, env = "FASTLY_API_TOKEN", hide_env_values = true, hide = true)]
    fastly_api_token: Option<SecretString>,

    /// The root token of a local server. Can be set only in the environment.
    #[arg(long, env = "STEADFAST_TOKEN", hide_env_values = true, hide = true)]
    steadfast_token: Option<SecretString>,

    /// The file that contains the token. Can be set only in the environment.
    #[arg(long, env = "STEADFAST_TOKEN_FILE", hide = true)]
    steadfast_token_file: Option<PathBuf>,

    /// The server running on a data directory. It takes precedence over the endpoint.
    #[arg(skip)]
    running: Option<RunningServer>,
}

/// The settings of a connection to a server, including the token.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// The address of the server.
    pub endpoint: Endpoint,
    /// The token to send.
    pub token: Token,
    /// The file or variable from which the token was read.
    pub token_location: TokenLocation,
    /// The server running on a data directory, which must prove its identity; `None` if the
    /// endpoint was not found through a data directory.
    pub server: Option<RunningServer>,
    /// The CA certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The files of the client certificate and its private key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// The reason a connection cannot be configured. Messages never contain passwords or tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionError {
    /// The endpoint is invalid.
    Endpoint(String),
    /// The token is missing or invalid.
    Token(String),
    /// No server is running on the data directory that contains the token.
    NotRunning {
        /// The default endpoint.
        endpoint: String,
        /// The reason and the remedy.
        reason: String,
    },
}

impl ClientArgs {
    /// Validates the endpoint and finds the token.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub fn resolve(&self) -> Result<ConnectionConfig, ConnectionError> {
        let server = self.running_server()?;
        let endpoint = match &server {
            Some(server) => parse_endpoint(&server.url)?,
            None => self.configured_endpoint()?,
        };
        let (token, token_location) = self.find_token(&endpoint, server.is_some())?;
        Ok(self.connection(endpoint, server, token, token_location))
    }

    /// Resolves the source or destination server of a command that connects to two servers. The
    /// token for `--endpoint` is never sent to another server.
    ///
    /// `token_file` is the value of the flag named `flag`. It is required if `endpoint` names
    /// another server, unless that server is local and `./steadfast-data/token` exists.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub fn resolve_for(
        &self,
        endpoint: Option<String>,
        token_file: Option<&Path>,
        flag: &str,
    ) -> Result<ConnectionConfig, ConnectionError> {
        let other = endpoint.as_deref().map(parse_endpoint).transpose()?;
        if let (Some(other), None) = (other, token_file)
            && other != self.configured_endpoint()?
        {
            let local = Path::new(LOCAL_DATA).join(TOKEN_FILE);
            if other.is_loopback() && local.is_file() {
                let (token, token_location) = token_from_file(&local)?;
                return Ok(self.connection(other, None, token, token_location));
            }
            return Err(ConnectionError::Token(format!(
                "no token for {other}, which is not the server at --endpoint: set {flag}"
            )));
        }
        let token_file = token_file.map(Path::to_owned).or_else(|| self.token_file.clone());
        let endpoint = endpoint.or_else(|| self.endpoint.clone());
        ClientArgs { endpoint, token_file, ..self.clone() }.resolve()
    }

    /// Returns arguments that select the server running on a data directory. Unless `--token-file`
    /// is set, they also select the token file in that directory.
    #[must_use]
    pub fn for_running_server(&self, server: RunningServer) -> ClientArgs {
        let generated = Some(server.data.join(TOKEN_FILE)).filter(|path| path.is_file());
        let token_file = self.token_file.clone().or(generated);
        ClientArgs { running: Some(server), token_file, ..self.clone() }
    }

    /// Returns the endpoint, without trailing slashes, if the user has set it.
    pub fn explicit_endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref().map(|url| url.trim_end_matches('/'))
    }

    fn configured_endpoint(&self) -> Result<Endpoint, ConnectionError> {
        match &self.endpoint {
            Some(endpoint) => parse_endpoint(endpoint),
            None => parse_endpoint(&Endpoint::default_url()),
        }
    }

    /// Returns the selected server or, if no endpoint is set, the server running on the default
    /// data directory.
    fn running_server(&self) -> Result<Option<RunningServer>, ConnectionError> {
        if self.running.is_some() || self.endpoint.is_some() {
            return Ok(self.running.clone());
        }
        let server = running_server(Path::new(LOCAL_DATA)).map_err(ConnectionError::Endpoint)?;
        // An address file must not cause tokens to be sent to another machine.
        let is_local = |url: &str| Endpoint::parse(url).is_ok_and(|url| url.is_loopback());
        Ok(server.filter(|server| is_local(&server.url)))
    }

    fn connection(
        &self,
        endpoint: Endpoint,
        server: Option<RunningServer>,
        token: Token,
        token_location: TokenLocation,
    ) -> ConnectionConfig {
        let key = self.client_key.as_ref().or(self.client_cert.as_ref());
        let client_certificate = self.client_cert.clone().zip(key.cloned());
        let ca_file = self.ca_file.clone();
        ConnectionConfig { endpoint, server, token, token_location, ca_file, client_certificate }
    }

    /// Finds the token for an endpoint. `is_running` is true if the endpoint was found through a
    /// data directory.
    fn find_token(
        &self,
        endpoint: &Endpoint,
        is_running: bool,
    ) -> Result<(Token, TokenLocation), ConnectionError> {
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
            let local = Path::new(LOCAL_DATA).join(TOKEN_FILE);
            if local.is_file() {
                if !is_running && self.endpoint.is_none() {
                    return Err(ConnectionError::NotRunning {
                        endpoint: endpoint.to_string(),
                        reason: format!(
                            "no server is running on {LOCAL_DATA}, and the token in it is not sent \
                             to any other server; start the server, or specify one with --endpoint"
                        ),
                    });
                }
                return token_from_file(&local);
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
