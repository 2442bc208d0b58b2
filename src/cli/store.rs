//! `steadfast store`.

use super::console::{self, Out, Stop, confirm, exit_status, note, target};
use super::key;
use crate::client::{Client, Error};
use crate::config::{
    StoreCreateArgs, StoreDeleteArgs, StoreListArgs, StoreNameArgs, StoreRenameArgs,
};
use clap::Subcommand;
use serde_json::json;
use std::process::ExitCode;

/// How often a store is emptied again when others write to it meanwhile.
const ROUNDS: usize = 3;

#[derive(Subcommand)]
pub(super) enum StoreCommand {
    /// Make a store, and print its id
    #[command(after_help = concat!("\
Example:
  steadfast store create site", exit_status!()))]
    Create(StoreCreateArgs),
    /// List all stores
    #[command(after_help = concat!("\
Examples:
  steadfast store list
  steadfast store list --json | jq -r .name", exit_status!()))]
    List(StoreListArgs),
    /// Show one store
    #[command(after_help = concat!("\
Example:
  steadfast store describe site", exit_status!()))]
    Describe(StoreNameArgs),
    /// Give a store another name; its id and items stay
    #[command(after_help = concat!("\
Example:
  steadfast store rename site site-2026", exit_status!()))]
    Rename(StoreRenameArgs),
    /// Delete a store
    #[command(after_help = concat!("\
Examples:
  steadfast store delete site
  steadfast store delete site --force --yes

It says which store, where, and how many items, and asks. A store that holds items is refused
unless --force deletes them first.", exit_status!()))]
    Delete(StoreDeleteArgs),
}

pub(super) fn run(command: StoreCommand) -> ExitCode {
    match command {
        StoreCommand::Create(args) => console::run(&args.client, |client| create(client, &args)),
        StoreCommand::List(args) => console::run(&args.client, |client| list(client, &args)),
        StoreCommand::Describe(args) => {
            console::run(&args.client, |client| describe(client, &args))
        }
        StoreCommand::Rename(args) => console::run(&args.client, |client| rename(client, &args)),
        StoreCommand::Delete(args) => console::run(&args.client, |client| delete(client, &args)),
    }
}

async fn create(client: Client, args: &StoreCreateArgs) -> Result<(), Stop> {
    let store = client.create_store(&args.name).await?;
    let mut out = Out::new();
    if args.client.json {
        out.json(&store)?;
    } else {
        note(&format!("made {}", target(&client, &store)));
        out.line(&store.id)?;
    }
    out.flush()
}

async fn list(client: Client, args: &StoreListArgs) -> Result<(), Stop> {
    let stores = client.stores().await?;
    let mut out = Out::new();
    for store in &stores {
        if args.client.json {
            out.json(store)?;
        } else {
            let name = out.shown(&store.name);
            out.line(&format!("{}  {}  {name}", store.id, store.created_at))?;
        }
    }
    out.flush()
}

async fn describe(client: Client, args: &StoreNameArgs) -> Result<(), Stop> {
    let store = client.resolve(&args.store).await?;
    let mut out = Out::new();
    if args.client.json {
        out.json(&store)?;
    } else {
        let name = out.shown(&store.name);
        out.line(&format!("name     {name}"))?;
        out.line(&format!("id       {}", store.id))?;
        out.line(&format!("created  {}", store.created_at))?;
        out.line(&format!("updated  {}", store.updated_at))?;
    }
    out.flush()
}

async fn rename(client: Client, args: &StoreRenameArgs) -> Result<(), Stop> {
    let store = client.resolve(&args.store).await?;
    client.rename_store(&store, &args.name).await?;
    note(&format!("{} is now named {:?}", target(&client, &store), args.name));
    let mut out = Out::new();
    if args.client.json {
        out.json(&json!({ "id": store.id, "name": args.name, "was": store.name }))?;
    }
    out.flush()
}

async fn delete(client: Client, args: &StoreDeleteArgs) -> Result<(), Stop> {
    let store = client.resolve(&args.store).await?;
    let whole = target(&client, &store);
    let mut deleted = 0;
    if args.force {
        let count = key::count(&client, &store, "").await?;
        confirm(&format!("delete {whole} and its {count} items"), args.yes).await?;
        deleted = key::empty(&client, &store, "", count).await?;
    } else {
        confirm(&format!("delete {whole}"), args.yes).await?;
    }
    for round in 1.. {
        match client.delete_store(&store).await {
            Err(Error::Refused { status: 409, .. }) if args.force && round < ROUNDS => {
                deleted += key::empty(&client, &store, "", 0).await?;
            }
            Err(Error::Refused { status: 409, subject, .. }) => {
                return Err(Error::Refused {
                    subject,
                    status: 409,
                    message: "it holds items; --force deletes them first".into(),
                    retry_after: None,
                }
                .into());
            }
            done => {
                done?;
                break;
            }
        }
    }
    note(&format!("deleted {whole}"));
    let mut out = Out::new();
    if args.client.json {
        out.json(&json!({ "id": store.id, "name": store.name, "deleted_items": deleted }))?;
    }
    out.flush()
}
