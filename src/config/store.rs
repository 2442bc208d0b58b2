//! Flags of `steadfast store`.

use super::ClientArgs;
use clap::Args;

/// Flags of `steadfast store describe`.
#[derive(Args, Clone)]
pub struct StoreNameArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast store create`.
#[derive(Args, Clone)]
pub struct StoreCreateArgs {
    /// Name: up to 255 characters, beginning with an ASCII letter
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
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// New name
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast store delete`.
#[derive(Args, Clone)]
pub struct StoreDeleteArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Delete the store's items first; without this flag, only an empty store can be deleted
    #[arg(long)]
    pub force: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}
