//! `steadfast key list`.

use super::{Known, PAGE, PARALLEL};
use crate::cli::console::{Out, Stop, local};
use crate::client::{Client, Error, Retry};
use crate::config::KeyListArgs;
use crate::wire::Store;
use serde_json::json;
use std::collections::VecDeque;

pub(super) async fn list(client: Client, args: &KeyListArgs) -> Result<(), Stop> {
    let store = client.resolve(&args.store).await?;
    let detailed = args.long && client.is_steadfast().await?;
    let mut out = Out::new();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut cursor = None::<String>;
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let next = if detailed {
            let page = client.details(&store, &args.prefix, cursor.as_deref(), limit).await?;
            left = left.saturating_sub(page.data.len() as u64);
            for item in page.data {
                show(&mut out, &Known::from_details(item), args.client.json)?;
            }
            page.meta.next_cursor
        } else {
            let page = client.keys(&store, &args.prefix, cursor.as_deref(), limit).await?;
            left = left.saturating_sub(page.data.len() as u64);
            if args.long {
                ask_each(&client, &store, page.data, &mut out, args.client.json).await?;
            } else {
                for key in &page.data {
                    if args.client.json {
                        out.json(&json!({ "key": key }))?;
                    } else {
                        let key = out.shown(key);
                        out.line(&key)?;
                    }
                }
            }
            page.meta.next_cursor
        };
        // Page by page, so that whoever reads need not wait for the last.
        out.flush()?;
        match next {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            Some(_) | None => return Ok(()),
        }
    }
    Ok(())
}

fn show(out: &mut Out, known: &Known, json: bool) -> Result<(), Stop> {
    if json {
        return out.json(&known.json());
    }
    let (key, metadata) = (out.shown(&known.key), out.shown(&known.metadata()));
    let (modified, expires) = (known.modified(), known.expires());
    let line = format!(
        "{:>12}  {:>16}  {modified:27}  {expires:27}  {key}  {metadata}",
        known.size, known.generation
    );
    out.line(line.trim_end())
}

/// Asks for each item of a page by itself, several at once, and shows them in their order.
async fn ask_each(
    client: &Client,
    store: &Store,
    keys: Vec<String>,
    out: &mut Out,
    json: bool,
) -> Result<(), Stop> {
    // Of so many requests some are told to wait.
    let client = client.clone().with_retry(Retry::default());
    let mut waiting = VecDeque::new();
    let mut keys = keys.into_iter();
    loop {
        while waiting.len() < PARALLEL
            && let Some(key) = keys.next()
        {
            let (client, store) = (client.clone(), store.clone());
            waiting.push_back(tokio::spawn(async move {
                let head = client.head(&store, &key).await;
                head.map(|head| Known::from_head(&key, head))
            }));
        }
        let Some(next) = waiting.pop_front() else {
            return Ok(());
        };
        match next.await {
            Ok(Ok(known)) => show(out, &known, json)?,
            // Deleted since the page was made.
            Ok(Err(Error::Refused { status: 404, .. })) => {}
            Ok(Err(e)) => return Err(e.into()),
            Err(e) => return Err(local(e.to_string())),
        }
    }
}
