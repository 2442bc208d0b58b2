//! Arguments of `steadfast token`.

use super::ClientArgs;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

/// The operations that a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenScope {
    /// Read and write
    #[value(name = "global")]
    Global,
    /// Read only
    #[value(name = "global:read")]
    Read,
}

/// Arguments of `steadfast token create`.
#[derive(Args, Clone)]
pub struct TokenCreateArgs {
    /// Descriptive name, such as that of the machine that will use the token
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Operations to allow
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: TokenScope,
    /// Limit the token to this store (name or id); can be repeated [default: all stores]
    #[arg(long = "store", value_name = "STORE", value_parser = NonEmptyStringValueParser::new())]
    pub stores: Vec<String>,
    /// Limit the token to keys with this prefix
    #[arg(long, value_name = "PREFIX", value_parser = NonEmptyStringValueParser::new())]
    pub prefix: Option<String>,
    /// Expire the token after a duration (90d, 12h) or at a time (2027-01-31T00:00:00Z)
    /// [default: never]
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast token revoke`.
#[derive(Args, Clone)]
pub struct TokenRevokeArgs {
    /// Id of the token, as printed by steadfast token list
    #[arg(value_name = "ID")]
    pub id: String,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
