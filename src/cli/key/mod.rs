//! `steadfast key`: one file for each of its commands.

mod delete;
mod get;
mod list;
mod put;

use super::console::{self, exit_status};
use crate::client::ItemHeaders;
use crate::config::{KeyDeleteArgs, KeyGetArgs, KeyHeadArgs, KeyListArgs, KeyPutArgs};
use crate::wire::ItemDetails;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Subcommand;
use serde::Serialize;
use std::process::ExitCode;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) use delete::{count, empty};

/// Keys of a page.
const PAGE: u32 = 1000;
/// Requests at once where the server has none for many items.
const PARALLEL: usize = 16;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Write an item
    #[command(after_help = concat!("\
Examples:
  steadfast key put site greeting 'Hello, world'
  steadfast key put site logo.svg --file logo.svg --metadata image/svg+xml
  tar c . | steadfast key put site backup.tar - --ttl 3d
  steadfast key put site counter 2 --if-generation-match 1795981305000000

An item that is there is replaced with its metadata and time to live, unless --add, --append,
--prepend or --if-generation-match says otherwise.", exit_status!()))]
    Put(KeyPutArgs),
    /// Write an item's value to the standard output or a file
    #[command(after_help = concat!("\
Examples:
  steadfast key get site greeting
  steadfast key get site logo.svg -o logo.svg

With --json the value comes in base64, with the item's metadata and generation.", exit_status!()))]
    Get(KeyGetArgs),
    /// Show an item without its value
    #[command(after_help = concat!("\
Examples:
  steadfast key head site greeting
  steadfast key head site greeting --json | jq .generation

The hosted service does not tell when an item expires.", exit_status!()))]
    Head(KeyHeadArgs),
    /// List keys in the order of their bytes
    #[command(after_help = concat!("\
Examples:
  steadfast key list site
  steadfast key list site --prefix blog/ --long
  steadfast key list site --json --long | jq -r 'select(.size > 1000000) | .key'

Keys are printed as they come, however many there are. --long shows size, generation, time of
change, time of expiry, key and metadata; the hosted service is asked for each item by itself, and
does not tell when one expires.", exit_status!()))]
    List(KeyListArgs),
    /// Delete an item, or many
    #[command(after_help = concat!("\
Examples:
  steadfast key delete site greeting
  steadfast key delete site --prefix blog/2024/ --dry-run
  steadfast key delete site --from keys.txt --yes

It says which store, where, and how many items, and asks; without a terminal it wants --yes. A
deletion of many that was cut can be run again.", exit_status!()))]
    Delete(KeyDeleteArgs),
}

pub(super) fn run(command: KeyCommand) -> ExitCode {
    match command {
        KeyCommand::Put(args) => console::run(&args.client, |client| put::put(client, &args)),
        KeyCommand::Get(args) => console::run(&args.client, |client| get::get(client, &args)),
        KeyCommand::Head(args) => console::run(&args.client, |client| get::head(client, &args)),
        KeyCommand::List(args) => console::run(&args.client, |client| list::list(client, &args)),
        KeyCommand::Delete(args) => {
            console::run(&args.client, |client| delete::delete(client, &args))
        }
    }
}

/// All that is known of an item but its value.
struct Known {
    key: String,
    size: u64,
    generation: u64,
    metadata: Vec<u8>,
    modified: Option<String>,
    /// Whether the server tells when items expire.
    tells_expiry: bool,
    expires: Option<String>,
}

impl Known {
    fn from_head(key: &str, head: ItemHeaders) -> Known {
        Known {
            key: key.to_owned(),
            size: head.size,
            generation: head.generation,
            metadata: head.metadata,
            modified: head.modified.as_deref().map(rfc3339),
            tells_expiry: false,
            expires: None,
        }
    }

    fn from_details(details: ItemDetails) -> Known {
        let base64 = details.metadata_base64.unwrap_or_default();
        let metadata = match details.metadata {
            Some(text) => text.into_bytes(),
            None => BASE64_STANDARD.decode(base64).unwrap_or_default(),
        };
        Known {
            key: details.key,
            size: details.size,
            generation: details.generation,
            metadata,
            modified: Some(details.modified),
            tells_expiry: true,
            expires: details.expires,
        }
    }

    /// The same fields wherever they come from; `expires` is left out where it is not known.
    fn json(&self) -> Shape<'_> {
        let text = std::str::from_utf8(&self.metadata).ok();
        Shape {
            key: &self.key,
            size: self.size,
            metadata: text,
            metadata_base64: text.is_none().then(|| BASE64_STANDARD.encode(&self.metadata)),
            generation: self.generation,
            modified: self.modified.as_deref(),
            expires: self.tells_expiry.then_some(self.expires.as_deref()),
        }
    }

    fn modified(&self) -> &str {
        self.modified.as_deref().unwrap_or("?")
    }

    /// `-` for never, `?` where the server does not tell.
    fn expires(&self) -> &str {
        match (&self.expires, self.tells_expiry) {
            (Some(at), _) => at,
            (None, true) => "-",
            (None, false) => "?",
        }
    }

    /// Metadata for a line of text.
    fn metadata(&self) -> String {
        String::from_utf8_lossy(&self.metadata).into_owned()
    }
}

/// An item without its value in JSON.
#[derive(Serialize)]
struct Shape<'a> {
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

/// The date of a header field in the form of all other times; as it came where it is no date.
fn rfc3339(date: &str) -> String {
    let parsed = httpdate::parse_http_date(date).ok().map(OffsetDateTime::from);
    parsed.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| date.to_owned())
}
