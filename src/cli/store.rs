//! `steadfast store`: the commands for stores.

use super::confirm::confirm;
use super::error::{Result, exit_status};
use super::key;
use super::output::{Output, counted, print_json_if, print_status, store_label};
use super::runtime;
use crate::client::{Client, Error};
use crate::config::{
    ClientArgs, StoreCreateArgs, StoreDeleteArgs, StoreDescribeArgs, StoreRenameArgs,
};
use clap::Subcommand;
use serde_json::json;
use std::process::ExitCode;

/// Maximum number of attempts by `delete --force`. An attempt fails if an item is written after the
/// items are deleted and before the store is.
const DELETE_ATTEMPTS: usize = 3;

#[derive(Subcommand)]
pub(super) enum StoreCommand {
    /// Create a store and print its id
    #[command(after_help = concat!("\
Example:
  steadfast store create site", exit_status!()))]
    Create(StoreCreateArgs),
    /// List all stores
    #[command(after_help = concat!("\
Examples:
  steadfast store list
  steadfast store list --json | jq -r .name", exit_status!()))]
    List(ClientArgs),
    /// Show the name, id, creation time and update time of a store
    #[command(after_help = concat!("\
Example:
  steadfast store describe site", exit_status!()))]
    Describe(StoreDescribeArgs),
    /// Rename a store; its id and items do not change
    #[command(after_help = concat!("\
Example:
  steadfast store rename site site-2026", exit_status!()))]
    Rename(StoreRenameArgs),
    /// Delete a store
    #[command(after_help = concat!("\
Examples:
  steadfast store delete site
  steadfast store delete site --force --yes

Asks for confirmation, showing the store, its server and, with --force, the number of items. A store
that contains items is deleted only with --force.", exit_status!()))]
    Delete(StoreDeleteArgs),
}

pub(super) fn run(command: StoreCommand) -> ExitCode {
    match command {
        StoreCommand::Create(args) => runtime::run(&args.client, |client| create(client, &args)),
        StoreCommand::List(args) => runtime::run(&args, |client| list(client, args.json)),
        StoreCommand::Describe(args) => runtime::run(&args.client, |client| show(client, &args)),
        StoreCommand::Rename(args) => runtime::run(&args.client, |client| rename(client, &args)),
        StoreCommand::Delete(args) => runtime::run(&args.client, |client| delete(client, &args)),
    }
}

async fn create(client: Client, args: &StoreCreateArgs) -> Result<()> {
    let store = client.create_store(&args.name).await?;
    let mut out = Output::new();
    if args.client.json {
        out.json(&store)?;
    } else {
        print_status(&format!("created {}", store_label(&client, &store)));
        out.line(&store.id)?;
    }
    out.flush()
}

async fn list(client: Client, json: bool) -> Result<()> {
    let stores = client.stores().await?;
    let mut out = Output::new();
    for store in &stores {
        if json {
            out.json(store)?;
        } else {
            let name = out.sanitize(&store.name);
            out.line(&format!("{}  {}  {name}", store.id, store.created_at))?;
        }
    }
    out.flush()
}

async fn show(client: Client, args: &StoreDescribeArgs) -> Result<()> {
    let store = client.resolve(&args.store).await?;
    let mut out = Output::new();
    if args.client.json {
        out.json(&store)?;
    } else {
        let name = out.sanitize(&store.name);
        out.line(&format!("name     {name}"))?;
        out.line(&format!("id       {}", store.id))?;
        out.line(&format!("created  {}", store.created_at))?;
        out.line(&format!("updated  {}", store.updated_at))?;
    }
    out.flush()
}

async fn rename(client: Client, args: &StoreRenameArgs) -> Result<()> {
    let store = client.resolve(&args.store).await?;
    client.rename_store(&store, &args.name).await?;
    print_status(&format!("renamed {} to {:?}", store_label(&client, &store), args.name));
    let result = json!({ "id": store.id, "name": args.name, "was": store.name });
    print_json_if(args.client.json, &result)
}

async fn delete(client: Client, args: &StoreDeleteArgs) -> Result<()> {
    let store = client.resolve(&args.store).await?;
    let label = store_label(&client, &store);
    let mut deleted = 0;
    if args.force {
        let count = key::count_items(&client, &store, "").await?;
        confirm(&format!("delete {label} and its {}", counted(count, "item")), args.yes).await?;
        deleted = key::delete_items(&client, &store, "", count).await?;
    } else {
        confirm(&format!("delete {label}"), args.yes).await?;
    }
    for attempt in 1.. {
        match client.delete_store(&store).await {
            Err(Error::Status { status: 409, .. }) if args.force && attempt < DELETE_ATTEMPTS => {
                deleted += key::delete_items(&client, &store, "", 0).await?;
            }
            Err(Error::Status { status: 409, subject, .. }) => {
                let message = "the store contains items: use --force to delete them too".into();
                return Err(
                    Error::Status { subject, status: 409, message, retry_after: None }.into()
                );
            }
            Err(e) => return Err(e.into()),
            Ok(()) => break,
        }
    }
    print_status(&format!("deleted {label}"));
    let result = json!({ "id": store.id, "name": store.name, "deleted_items": deleted });
    print_json_if(args.client.json, &result)
}
