//! `steadfast key`: the commands for items.

mod delete;
mod get;
mod list;
mod put;

use super::error::exit_status;
use super::runtime;
use crate::client::ItemHeaders;
use crate::config::{KeyDeleteArgs, KeyGetArgs, KeyHeadArgs, KeyListArgs, KeyPutArgs};
use crate::wire::{ItemDetails, http_date_to_rfc3339};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Subcommand;
use serde::Serialize;
use std::process::ExitCode;

pub(super) use delete::{count_items, delete_items};

/// The number of keys per page when listing keys.
const PAGE_KEYS: u32 = 1000;
/// The number of concurrent requests to a server that does not support bulk requests.
const CONCURRENT_REQUESTS: usize = 16;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Write an item
    #[command(after_help = concat!("\
Examples:
  steadfast key put site greeting 'Hello, world'
  steadfast key put site logo.svg --file logo.svg --metadata image/svg+xml
  tar c . | steadfast key put site backup.tar - --ttl 3d
  steadfast key put site counter 2 --if-generation-match 1795981305000000

Replaces an existing item, including its metadata and time to live. --append and --prepend extend
the existing value, but also replace the metadata and time to live. With --add, the command fails if
the item exists. With --if-generation-match, it fails if the generation differs.", exit_status!()))]
    Put(KeyPutArgs),
    /// Print the value of an item, or write it to a file
    #[command(after_help = concat!("\
Examples:
  steadfast key get site greeting
  steadfast key get site logo.svg -o logo.svg

With --json, prints the value in base64 together with the properties of the item.",
exit_status!()))]
    Get(KeyGetArgs),
    /// Show the properties of an item, but not its value
    #[command(after_help = concat!("\
Examples:
  steadfast key head site greeting
  steadfast key head site greeting --json | jq .generation

The hosted service does not return expiry times.", exit_status!()))]
    Head(KeyHeadArgs),
    /// List keys in byte order
    #[command(after_help = concat!("\
Examples:
  steadfast key list site
  steadfast key list site --prefix blog/ --long
  steadfast key list site --json --long | jq -r 'select(.size > 1000000) | .key'

Keys are printed as they arrive. --long prints size, generation, modification time, expiry, key and
metadata. With the hosted service, --long sends one request per item and cannot show expiry times.",
exit_status!()))]
    List(KeyListArgs),
    /// Delete one or more items
    #[command(after_help = concat!("\
Examples:
  steadfast key delete site greeting
  steadfast key delete site --prefix blog/2024/ --dry-run
  steadfast key delete site --from keys.txt --yes

Asks for confirmation, showing the key or the number of items, the store and its server. --yes is
required if there is no terminal, or with --from -. After an interruption, run the same command
again.", exit_status!()))]
    Delete(KeyDeleteArgs),
}

pub(super) fn run(command: KeyCommand) -> ExitCode {
    match command {
        KeyCommand::Put(args) => runtime::run(&args.client, |client| put::put(client, &args)),
        KeyCommand::Get(args) => runtime::run(&args.client, |client| get::get(client, &args)),
        KeyCommand::Head(args) => runtime::run(&args.client, |client| get::head(client, &args)),
        KeyCommand::List(args) => runtime::run(&args.client, |client| list::list(client, &args)),
        KeyCommand::Delete(args) => runtime::run(&args.client, |client| delete::run(client, &args)),
    }
}

/// The properties of an item other than its value.
struct ItemInfo {
    key: String,
    size: u64,
    generation: u64,
    metadata: Vec<u8>,
    modified: Option<String>,
    expires: ReportedExpiry,
}

/// The expiry of an item, which the hosted service does not return.
enum ReportedExpiry {
    Unknown,
    Never,
    At(String),
}

impl ItemInfo {
    fn from_headers(key: &str, headers: ItemHeaders) -> ItemInfo {
        ItemInfo {
            key: key.to_owned(),
            size: headers.size,
            generation: headers.generation,
            metadata: headers.metadata,
            modified: headers.modified.map(|date| http_date_to_rfc3339(&date).unwrap_or(date)),
            expires: ReportedExpiry::Unknown,
        }
    }

    fn from_details(details: ItemDetails) -> ItemInfo {
        ItemInfo {
            size: details.size,
            generation: details.generation,
            metadata: metadata(&details),
            key: details.key,
            modified: Some(details.modified),
            expires: details.expires.map_or(ReportedExpiry::Never, ReportedExpiry::At),
        }
    }

    fn json(&self) -> ItemJson<'_> {
        let text = std::str::from_utf8(&self.metadata).ok();
        ItemJson {
            key: &self.key,
            size: self.size,
            metadata: text,
            metadata_base64: text.is_none().then(|| BASE64_STANDARD.encode(&self.metadata)),
            generation: self.generation,
            modified: self.modified.as_deref(),
            expires: match &self.expires {
                ReportedExpiry::Unknown => None,
                ReportedExpiry::Never => Some(None),
                ReportedExpiry::At(time) => Some(Some(time)),
            },
        }
    }

    fn modified_text(&self) -> &str {
        self.modified.as_deref().unwrap_or("?")
    }

    fn expires_text(&self) -> &str {
        match &self.expires {
            ReportedExpiry::Unknown => "?",
            ReportedExpiry::Never => "-",
            ReportedExpiry::At(time) => time,
        }
    }

    fn metadata_text(&self) -> String {
        String::from_utf8_lossy(&self.metadata).into_owned()
    }
}

/// Returns the metadata of a listed item as bytes.
pub(super) fn metadata(details: &ItemDetails) -> Vec<u8> {
    match (&details.metadata, &details.metadata_base64) {
        (_, Some(encoded)) => BASE64_STANDARD.decode(encoded).unwrap_or_default(),
        (Some(text), None) => text.clone().into_bytes(),
        (None, None) => Vec::new(),
    }
}

/// The JSON form of [`ItemInfo`]. The field `expires` is omitted if the expiry is unknown.
#[derive(Serialize)]
struct ItemJson<'a> {
    key: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
    generation: u64,
    modified: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Option<&'a str>>,
}
