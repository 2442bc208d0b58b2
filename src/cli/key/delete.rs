//! `steadfast key delete`: deletes items by key, by prefix or from a file of keys.

use super::{CONCURRENT_REQUESTS, PAGE_KEYS};
use crate::cli::confirm::confirm;
use crate::cli::error::{Result, local_error, usage_error};
use crate::cli::input;
use crate::cli::output::{Output, counted, print_status, progress_bar, store_label};
use crate::client::{Client, Error, Retry};
use crate::config::KeyDeleteArgs;
use crate::transfer::detect::is_utf_16;
use crate::wire::{BOM, Store};
use indicatif::ProgressBar;
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use tokio::task::JoinSet;

/// The maximum length of a line in a key file, in bytes. The limit for keys is lower.
const LINE_BYTES_MAX: u64 = 4096;

pub(super) async fn run(client: Client, args: &KeyDeleteArgs) -> Result<()> {
    let store = client.resolve(&args.store).await?;
    let label = store_label(&client, &store);
    let count = if let Some(key) = &args.key {
        delete_one(&client, &store, key, args).await?
    } else if let Some(path) = &args.from {
        delete_listed(&client, &store, path, args).await?
    } else {
        delete_prefix(&client, &store, args).await?
    };
    let items = counted(count, "item");
    let mut out = Output::new();
    let (verb, action) = match args.dry_run {
        true => ("would delete", "matched"),
        false => ("deleted", "deleted"),
    };
    print_status(&format!("{verb} {items} from {label}"));
    if args.client.json {
        out.json(&json!({ "store": store.name, "store_id": store.id, action: count }))?;
    } else if args.dry_run {
        out.line(&count.to_string())?;
    }
    out.flush()
}

async fn delete_one(
    client: &Client,
    store: &Store,
    key: &str,
    args: &KeyDeleteArgs,
) -> Result<u64> {
    if args.dry_run {
        let item = client.head(store, key).await?;
        if args.if_generation_match.is_some_and(|wanted| wanted != item.generation) {
            let subject = format!("item {key:?}");
            let message = format!("the generation is {}", item.generation);
            return Err(Error::Status { subject, status: 412, message, retry_after: None }.into());
        }
        return Ok(1);
    }
    let label = store_label(client, store);
    confirm(&format!("delete item {key:?} from {label}"), args.yes).await?;
    client.delete(store, key, false, args.if_generation_match).await?;
    Ok(1)
}

/// Deletes the items whose keys have the given prefix, or all items.
async fn delete_prefix(client: &Client, store: &Store, args: &KeyDeleteArgs) -> Result<u64> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let count = count_items(client, store, prefix).await?;
    if args.dry_run {
        return Ok(count);
    }
    let label = store_label(client, store);
    let items = counted(count, "item");
    let action = match &args.prefix {
        Some(prefix) => format!("delete {items} with the key prefix {prefix:?} from {label}"),
        None => format!("delete all items ({count}) from {label}"),
    };
    confirm(&action, args.yes).await?;
    delete_items(client, store, prefix, count).await
}

/// Counts the items whose keys start with `prefix`.
pub(in crate::cli) async fn count_items(
    client: &Client,
    store: &Store,
    prefix: &str,
) -> Result<u64> {
    if client.is_steadfast().await? {
        return Ok(client.count_by_prefix(store, prefix).await?);
    }
    let (mut count, mut cursor) = (0, None::<String>);
    loop {
        let page = client.keys(store, prefix, cursor.as_deref(), PAGE_KEYS).await?;
        count += page.data.len() as u64;
        match page.meta.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(count),
        }
    }
}

/// Deletes the items whose keys start with `prefix` and returns the number of deleted items. The
/// progress bar shows `expected` as the total, unless `expected` is 0.
pub(in crate::cli) async fn delete_items(
    client: &Client,
    store: &Store,
    prefix: &str,
    expected: u64,
) -> Result<u64> {
    let bar = progress_bar("deleting", "items", Some(expected).filter(|count| *count > 0));
    let result = if client.is_steadfast().await? {
        delete_in_bulk(client, store, prefix, &bar).await
    } else {
        delete_page_by_page(client, store, prefix, &bar).await
    };
    bar.finish_and_clear();
    result
}

async fn delete_in_bulk(
    client: &Client,
    store: &Store,
    prefix: &str,
    bar: &ProgressBar,
) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let batch = client.delete_by_prefix(store, prefix).await?;
        deleted += batch.deleted;
        bar.set_position(deleted);
        if !batch.more {
            return Ok(deleted);
        }
    }
}

async fn delete_page_by_page(
    client: &Client,
    store: &Store,
    prefix: &str,
    bar: &ProgressBar,
) -> Result<u64> {
    let mut requests = ConcurrentRequests::new(client, store, Operation::Delete);
    let mut cursor = None::<String>;
    loop {
        let page = client.keys(store, prefix, cursor.as_deref(), PAGE_KEYS).await?;
        for key in page.data {
            requests.push(key).await?;
            bar.set_position(requests.succeeded);
        }
        match page.meta.next_cursor {
            Some(next) => cursor = Some(next),
            None => return requests.finish().await,
        }
    }
}

#[derive(Clone, Copy)]
enum Operation {
    /// Counts the items that exist.
    Count,
    /// Deletes items. Items that do not exist count as deleted.
    Delete,
}

/// Sends one request per item, and up to [`CONCURRENT_REQUESTS`] requests at a time.
struct ConcurrentRequests<'a> {
    client: Client,
    store: &'a Store,
    operation: Operation,
    running: JoinSet<Result<bool, Error>>,
    succeeded: u64,
}

impl<'a> ConcurrentRequests<'a> {
    fn new(client: &Client, store: &'a Store, operation: Operation) -> ConcurrentRequests<'a> {
        // Many requests can exceed a rate limit, so use the full retry policy.
        let client = client.clone().with_retry(Retry::default());
        ConcurrentRequests { client, store, operation, running: JoinSet::new(), succeeded: 0 }
    }

    async fn push(&mut self, key: String) -> Result<()> {
        if self.running.len() >= CONCURRENT_REQUESTS {
            self.join_next().await?;
        }
        let (client, store, operation) = (self.client.clone(), self.store.clone(), self.operation);
        self.running.spawn(async move {
            match operation {
                Operation::Delete => client.delete(&store, &key, true, None).await.map(|()| true),
                Operation::Count => match client.head(&store, &key).await {
                    Ok(_) => Ok(true),
                    Err(Error::Status { status: 404, .. }) => Ok(false),
                    Err(e) => Err(e),
                },
            }
        });
        Ok(())
    }

    async fn join_next(&mut self) -> Result<()> {
        match self.running.join_next().await {
            Some(Ok(result)) => self.succeeded += u64::from(result?),
            Some(Err(e)) => return Err(local_error(e.to_string())),
            None => {}
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<u64> {
        while !self.running.is_empty() {
            self.join_next().await?;
        }
        Ok(self.succeeded)
    }
}

/// Deletes the items whose keys are listed in a file.
async fn delete_listed(
    client: &Client,
    store: &Store,
    path: &Path,
    args: &KeyDeleteArgs,
) -> Result<u64> {
    if args.dry_run {
        let mut requests = ConcurrentRequests::new(client, store, Operation::Count);
        let mut keys = KeyFile::open(path)?;
        while let Some(key) = keys.next()? {
            requests.push(key).await?;
        }
        return requests.finish().await;
    }
    let label = store_label(client, store);
    let count = if input::is_dash(path) {
        // Standard input supplies the keys, so it cannot also supply the confirmation.
        if !args.yes {
            return Err(usage_error(format!(
                "refusing to delete items from {label} without confirmation: pass --yes if the \
                 keys are read from standard input"
            )));
        }
        None
    } else {
        let (mut keys, mut count) = (KeyFile::open(path)?, 0);
        while keys.next()?.is_some() {
            count += 1;
        }
        let items = counted(count, "item");
        let action = format!("delete up to {items} listed in {} from {label}", path.display());
        confirm(&action, args.yes).await?;
        Some(count)
    };
    let bar = progress_bar("deleting", "keys", count);
    let mut requests = ConcurrentRequests::new(client, store, Operation::Delete);
    let mut keys = KeyFile::open(path)?;
    while let Some(key) = keys.next()? {
        requests.push(key).await?;
        bar.set_position(requests.succeeded);
    }
    let result = requests.finish().await;
    bar.finish_and_clear();
    result
}

/// A file with one key per line. Empty lines are skipped.
struct KeyFile {
    reader: BufReader<Box<dyn Read + Send>>,
    name: String,
    line_number: u64,
}

impl KeyFile {
    fn open(path: &Path) -> Result<KeyFile> {
        let (reader, _) = input::open(path)?;
        let name = path.display().to_string();
        Ok(KeyFile { reader: BufReader::new(reader), name, line_number: 0 })
    }

    fn next(&mut self) -> Result<Option<String>> {
        loop {
            let mut line = Vec::new();
            self.line_number += 1;
            let position = format!("{}, line {}", self.name, self.line_number);
            let mut limited = (&mut self.reader).take(LINE_BYTES_MAX + 1);
            let read = limited.read_until(b'\n', &mut line);
            match read.map_err(|e| local_error(format!("{position}: {e}")))? {
                0 => return Ok(None),
                read if read as u64 > LINE_BYTES_MAX => {
                    let reason = format!("line is longer than {LINE_BYTES_MAX} bytes");
                    return Err(local_error(format!("{position}: {reason}")));
                }
                _ => {}
            }
            if self.line_number == 1 && is_utf_16(&line) {
                let reason = "the file is UTF-16: convert it to UTF-8 first";
                return Err(local_error(format!("{}: {reason}", self.name)));
            }
            // Some Windows programs start text files with a byte order mark.
            let bom: &[u8] = if self.line_number == 1 { BOM } else { b"" };
            let line = line.strip_prefix(bom).unwrap_or(&line);
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match std::str::from_utf8(line) {
                Ok("") => {}
                Ok(key) => return Ok(Some(key.to_owned())),
                Err(_) => return Err(local_error(format!("{position}: key is not UTF-8"))),
            }
        }
    }
}
