//! Flags of the commands that speak to a server, and where they find its address and token.

use super::{Secret, read_token_text};
use crate::client::{Endpoint, Error, Token};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where a server keeps its token by default, seen from where it was started.
const OWN_TOKEN: &str = "./steadfast-data/token";
/// Where it says its address while it runs.
const OWN_ADDRESS: &str = "./steadfast-data/address";

/// Which server a command speaks to, and how it tells what it did.
#[derive(Args, Clone)]
#[command(next_help_heading = "Server and output")]
pub struct ClientArgs {
    /// Server to speak to: Steadfast, or the hosted service
    #[arg(long, value_name = "URL", env = "FASTLY_API_ENDPOINT")]
    #[arg(default_value = Endpoint::DEFAULT)]
    endpoint: String,

    /// File that holds the token; else STEADFAST_TOKEN_FILE names it, or FASTLY_API_TOKEN holds
    /// the token; for a server on this machine also ./steadfast-data/token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Print JSON, one object a line, in a form that stays
    #[arg(long)]
    pub json: bool,

    /// From the environment only: see [`ENVIRONMENT_ONLY`].
    #[arg(long, env = "FASTLY_API_TOKEN", hide_env_values = true, hide = true)]
    fastly_api_token: Option<Secret>,

    /// From the environment only: what a server of this machine is started with.
    #[arg(long, env = "STEADFAST_TOKEN", hide_env_values = true, hide = true)]
    steadfast_token: Option<Secret>,

    /// From the environment only.
    #[arg(long, env = "STEADFAST_TOKEN_FILE", hide = true)]
    steadfast_token_file: Option<PathBuf>,
}

/// The arguments that stand for variables of the environment and are refused on a command line,
/// where others see them.
pub const ENVIRONMENT_ONLY: [&str; 4] =
    ["fastly_api_token", "steadfast_token", "steadfast_token_file", "node_options"];

/// Where a token came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLocation {
    /// `FASTLY_API_TOKEN`.
    Environment,
    /// A file.
    File(PathBuf),
}

/// A server and what opens it.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// What opens it.
    pub token: Token,
    /// Where that came from.
    pub token_at: TokenLocation,
}

impl ClientArgs {
    /// Checks the endpoint and finds the token.
    ///
    /// # Errors
    /// [`Error::Usage`] for the endpoint, [`Error::NoToken`] without a token.
    pub fn resolve(&self) -> Result<ConnectionConfig, Error> {
        let endpoint = self.own_endpoint().unwrap_or_else(|| Endpoint::parse(&self.endpoint));
        let endpoint = endpoint?;
        let (token, token_at) = self.token_for(&endpoint)?;
        Ok(ConnectionConfig { endpoint, token, token_at })
    }

    /// The same for another endpoint than `--endpoint`, as commands that name two need it.
    ///
    /// # Errors
    /// As [`ClientArgs::resolve`].
    pub fn resolve_at(&self, endpoint: &str) -> Result<ConnectionConfig, Error> {
        ClientArgs { endpoint: endpoint.to_owned(), ..self.clone() }.resolve()
    }

    /// Where the server of this place says that it listens, if no other endpoint is named.
    fn own_endpoint(&self) -> Option<Result<Endpoint, Error>> {
        let own = match self.named_endpoint() {
            Some(_) => return None,
            None => super::read_token_text(Path::new(OWN_ADDRESS)).ok()?,
        };
        Endpoint::parse(&own).ok().filter(Endpoint::is_loopback).map(Ok)
    }

    /// The endpoint, if it is another than the one by default.
    pub fn named_endpoint(&self) -> Option<&str> {
        let named = self.endpoint.trim_end_matches('/');
        (named != Endpoint::DEFAULT).then_some(named)
    }

    /// The same for the server of a data directory, which has its token there unless it was told
    /// another.
    #[must_use]
    pub fn at_home(&self, endpoint: String, token: &Path) -> ClientArgs {
        let token_file = self.token_file.clone();
        let token_file = token_file.or_else(|| token.is_file().then(|| token.to_owned()));
        ClientArgs { endpoint, token_file, ..self.clone() }
    }

    /// The same for an end of a command that names two servers. A token that was given for another
    /// server than this one is not sent there: its own must be named.
    ///
    /// # Errors
    /// As [`ClientArgs::resolve`].
    pub fn resolve_end(
        &self,
        endpoint: &str,
        token_file: Option<&Path>,
        flag: &str,
    ) -> Result<ConnectionConfig, Error> {
        let at = Endpoint::parse(endpoint)?;
        if token_file.is_none() && at != Endpoint::parse(&self.endpoint)? {
            let own = Path::new(OWN_TOKEN);
            if at.is_loopback() && own.is_file() {
                let (token, token_at) = from_file(own)?;
                return Ok(ConnectionConfig { endpoint: at, token, token_at });
            }
            let why =
                format!("no token for {at}, which is not --endpoint: name a file with {flag}");
            return Err(Error::NoToken(why));
        }
        let token_file = token_file.map(Path::to_owned).or_else(|| self.token_file.clone());
        ClientArgs { endpoint: endpoint.to_owned(), token_file, ..self.clone() }.resolve()
    }

    /// The endpoint as it was given.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn token_for(&self, endpoint: &Endpoint) -> Result<(Token, TokenLocation), Error> {
        if let Some(path) = &self.token_file {
            return from_file(path);
        }
        let given = self.fastly_api_token.as_ref().filter(|Secret(text)| !text.is_empty());
        if let Some(Secret(text)) = given {
            let token = Token::parse(text);
            return Ok((
                token.map_err(|e| Error::NoToken(format!("FASTLY_API_TOKEN: {e}")))?,
                TokenLocation::Environment,
            ));
        }
        if let Some(path) = &self.steadfast_token_file {
            return from_file(path);
        }
        let own = Path::new(OWN_TOKEN);
        // A token that was not meant for clients leaves this machine for no other.
        let served = self.steadfast_token.as_ref().filter(|Secret(text)| !text.is_empty());
        if let (Some(Secret(text)), true) = (served, endpoint.is_loopback()) {
            let token = Token::parse(text);
            let token = token.map_err(|e| Error::NoToken(format!("STEADFAST_TOKEN: {e}")))?;
            return Ok((token, TokenLocation::Environment));
        }
        if endpoint.is_loopback() && own.is_file() {
            return from_file(own);
        }
        let hint = match endpoint.is_loopback() {
            true => "; here is no ./steadfast-data/token either",
            false => "",
        };
        Err(Error::NoToken(format!(
            "no token for {endpoint}: set FASTLY_API_TOKEN or STEADFAST_TOKEN_FILE, or name a file \
             with --token-file{hint}"
        )))
    }
}

fn from_file(path: &Path) -> Result<(Token, TokenLocation), Error> {
    let text = read_token_text(path).map_err(Error::NoToken)?;
    let token = Token::parse(&text)
        .map_err(|e| Error::NoToken(format!("the token file {}: {e}", path.display())))?;
    Ok((token, TokenLocation::File(path.to_owned())))
}

/// Flags of `steadfast store describe`.
#[derive(Args, Clone)]
pub struct StoreNameArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast store create`.
#[derive(Args, Clone)]
pub struct StoreCreateArgs {
    /// Name: up to 255 characters, the first an ASCII letter
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast store list`.
#[derive(Args, Clone)]
pub struct StoreListArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast store rename`.
#[derive(Args, Clone)]
pub struct StoreRenameArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Name it gets
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast store delete`.
#[derive(Args, Clone)]
pub struct StoreDeleteArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Delete its items first; without this, a store that holds items is refused
    #[arg(long)]
    pub force: bool,
    /// Do not ask: for scripts
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenScope {
    /// Read and write.
    #[value(name = "global")]
    Global,
    /// Read alone.
    #[value(name = "global:read")]
    Read,
}

/// Flags of `steadfast token create`.
#[derive(Args, Clone)]
pub struct TokenCreateArgs {
    /// What you call it, such as the machine that will use it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it may do: global reads and writes, global:read only reads
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: TokenScope,
    /// Store that it may use, by name or id; give it again for further ones; all by default
    #[arg(long = "store", value_name = "STORE")]
    pub stores: Vec<String>,
    /// It may use keys that begin so, and no others
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// When it ends: in so long (90d, 12h), or at a time (2027-01-31T00:00:00Z); never by default
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast token list`.
#[derive(Args, Clone)]
pub struct TokenListArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast token revoke`.
#[derive(Args, Clone)]
pub struct TokenRevokeArgs {
    /// Its id, as the list shows it
    #[arg(value_name = "ID")]
    pub id: String,
    /// Do not ask: for scripts
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast env`.
#[derive(Args, Clone)]
pub struct EnvArgs {
    /// Command to run, with its arguments; without one the exports are printed
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
    /// Print the token itself where it stands in a file
    #[arg(long)]
    pub show_token: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
    /// From the environment only.
    #[arg(long, env = "NODE_OPTIONS", hide = true, hide_env_values = true)]
    pub node_options: Option<OsString>,
}

/// Flags of `steadfast completions`.
#[derive(Args, Clone)]
pub struct CompletionsArgs {
    /// Shell to complete in
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Flags of `steadfast man`.
#[derive(Args, Clone)]
pub struct ManArgs {
    /// Directory for the pages of all commands; without it the first page is printed
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
