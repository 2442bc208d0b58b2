//! Arguments of `steadfast store`.

use super::ClientArgs;
use clap::Args;

/// Arguments of `steadfast store describe`.
#[derive(Args, Clone)]
pub struct StoreDescribeArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast store create`.
#[derive(Args, Clone)]
pub struct StoreCreateArgs {
    /// Name of the store: up to 255 characters, no control characters
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast store rename`.
#[derive(Args, Clone)]
pub struct StoreRenameArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// New name of the store
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast store delete`.
#[derive(Args, Clone)]
pub struct StoreDeleteArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Delete the store even if it contains items
    #[arg(long)]
    pub force: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
