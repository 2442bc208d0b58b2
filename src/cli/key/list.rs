//! `steadfast key list`: lists keys, optionally with the properties of the items.

use super::{CONCURRENT_REQUESTS, ItemInfo, PAGE_KEYS};
use crate::cli::error::{Result, local_error};
use crate::cli::output::Output;
use crate::client::{Client, Error, Retry};
use crate::config::KeyListArgs;
use crate::wire::Store;
use futures_util::stream::{self, StreamExt};
use serde_json::json;

pub(super) async fn list(client: Client, args: &KeyListArgs) -> Result<()> {
    let store = client.resolve(&args.store).await?;
    let has_details = args.long && client.is_steadfast().await?;
    let mut out = Output::new();
    let mut remaining = args.limit.unwrap_or(u64::MAX);
    let mut cursor = None::<String>;
    while remaining > 0 {
        let limit = u32::try_from(remaining).unwrap_or(PAGE_KEYS).min(PAGE_KEYS);
        let next = if has_details {
            let page = client.details(&store, &args.prefix, cursor.as_deref(), limit).await?;
            remaining = remaining.saturating_sub(page.data.len() as u64);
            for item in page.data {
                print_item(&mut out, &ItemInfo::from_details(item), args.client.json)?;
            }
            page.meta.next_cursor
        } else {
            let page = client.keys(&store, &args.prefix, cursor.as_deref(), limit).await?;
            remaining = remaining.saturating_sub(page.data.len() as u64);
            if args.long {
                print_each(&client, &store, page.data, &mut out, args.client.json).await?;
            } else {
                for key in &page.data {
                    if args.client.json {
                        out.json(&json!({ "key": key }))?;
                    } else {
                        let key = out.sanitize(key);
                        out.line(&key)?;
                    }
                }
            }
            page.meta.next_cursor
        };
        // Print each page as soon as it arrives.
        out.flush()?;
        match next {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            Some(_) | None => return Ok(()),
        }
    }
    Ok(())
}

fn print_item(out: &mut Output, item: &ItemInfo, json: bool) -> Result<()> {
    if json {
        return out.json(&item.json());
    }
    let (key, metadata) = (out.sanitize(&item.key), out.sanitize(&item.metadata_text()));
    let (modified, expires) = (item.modified_text(), item.expires_text());
    let line = format!(
        "{:>12}  {:>16}  {modified:27}  {expires:27}  {key}  {metadata}",
        item.size, item.generation
    );
    out.line(line.trim_end())
}

/// Sends concurrent HEAD requests for the items and prints the results in key order.
async fn print_each(
    client: &Client,
    store: &Store,
    keys: Vec<String>,
    out: &mut Output,
    json: bool,
) -> Result<()> {
    // Many requests can exceed a rate limit, so use the full retry policy.
    let client = client.clone().with_retry(Retry::default());
    let requests = stream::iter(keys).map(|key| {
        let (client, store) = (client.clone(), store.clone());
        tokio::spawn(async move {
            let headers = client.head(&store, &key).await;
            headers.map(|headers| ItemInfo::from_headers(&key, headers))
        })
    });
    let mut results = requests.buffered(CONCURRENT_REQUESTS);
    while let Some(result) = results.next().await {
        match result {
            Ok(Ok(item)) => print_item(out, &item, json)?,
            // The item was deleted after the page was read.
            Ok(Err(Error::Status { status: 404, .. })) => {}
            Ok(Err(e)) => return Err(e.into()),
            Err(e) => return Err(local_error(e.to_string())),
        }
    }
    Ok(())
}
