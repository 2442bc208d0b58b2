//! `steadfast key delete`.

use super::{PAGE, PARALLEL};
use crate::cli::console::{Out, Stop, bar, confirm, local, note, target, usage};
use crate::cli::input;
use crate::client::{Client, Error, Retry};
use crate::config::KeyDeleteArgs;
use crate::wire::Store;
use indicatif::ProgressBar;
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use tokio::task::JoinSet;

/// A line of a file of keys may have so many bytes; no key is longer.
const LINE_BYTES_MAX: u64 = 4096;

pub(super) async fn delete(client: Client, args: &KeyDeleteArgs) -> Result<(), Stop> {
    let store = client.resolve(&args.store).await?;
    let whose = target(&client, &store);
    let (word, number) = if let Some(key) = &args.key {
        one(&client, &store, key, args).await?
    } else if let Some(path) = &args.from {
        of_file(&client, &store, path, args).await?
    } else {
        let prefix = args.prefix.as_deref().unwrap_or_default();
        let count = count(&client, &store, prefix).await?;
        if args.dry_run {
            ("matched", count)
        } else {
            let which = match &args.prefix {
                Some(prefix) => format!("the {count} items whose keys begin with {prefix:?}"),
                None => format!("all {count} items"),
            };
            confirm(&format!("delete {which} of {whose}"), args.yes).await?;
            ("deleted", empty(&client, &store, prefix, count).await?)
        }
    };
    let items = if number == 1 { "item" } else { "items" };
    match word {
        "matched" => note(&format!("would delete {number} {items} of {whose}")),
        _ => note(&format!("deleted {number} {items} of {whose}")),
    }
    let mut out = Out::new();
    if args.client.json {
        out.json(&json!({ "store": store.name, "store_id": store.id, word: number }))?;
    } else if args.dry_run {
        out.line(&number.to_string())?;
    }
    out.flush()
}

async fn one(
    client: &Client,
    store: &Store,
    key: &str,
    args: &KeyDeleteArgs,
) -> Result<(&'static str, u64), Stop> {
    if args.dry_run {
        let head = client.head(store, key).await?;
        if args.if_generation_match.is_some_and(|wanted| wanted != head.generation) {
            return Err(Error::Refused {
                subject: format!("item {key:?}"),
                status: 412,
                message: format!("it has generation {}", head.generation),
                retry_after: None,
            }
            .into());
        }
        return Ok(("matched", 1));
    }
    let whose = target(client, store);
    confirm(&format!("delete item {key:?} of {whose}"), args.yes).await?;
    client.delete(store, key, false, args.if_generation_match).await?;
    Ok(("deleted", 1))
}

/// How many items have keys that begin so.
pub(in crate::cli) async fn count(
    client: &Client,
    store: &Store,
    prefix: &str,
) -> Result<u64, Stop> {
    if client.is_steadfast().await? {
        return Ok(client.count_by_prefix(store, prefix).await?);
    }
    let (mut count, mut cursor) = (0, None::<String>);
    loop {
        let page = client.keys(store, prefix, cursor.as_deref(), PAGE).await?;
        count += page.data.len() as u64;
        match page.meta.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(count),
        }
    }
}

/// Deletes the items whose keys begin so, and says how many these were.
pub(in crate::cli) async fn empty(
    client: &Client,
    store: &Store,
    prefix: &str,
    count: u64,
) -> Result<u64, Stop> {
    let bar = bar("deleting", "items", Some(count).filter(|count| *count > 0));
    let done = if client.is_steadfast().await? {
        at_once(client, store, prefix, &bar).await
    } else {
        page_by_page(client, store, prefix, &bar).await
    };
    bar.finish_and_clear();
    done
}

async fn at_once(
    client: &Client,
    store: &Store,
    prefix: &str,
    bar: &ProgressBar,
) -> Result<u64, Stop> {
    let mut deleted = 0;
    loop {
        let some = client.delete_by_prefix(store, prefix).await?;
        deleted += some.deleted;
        bar.set_position(deleted);
        if !some.more {
            return Ok(deleted);
        }
    }
}

async fn page_by_page(
    client: &Client,
    store: &Store,
    prefix: &str,
    bar: &ProgressBar,
) -> Result<u64, Stop> {
    let (mut many, mut cursor) = (Many::new(client, store), None::<String>);
    loop {
        let page = client.keys(store, prefix, cursor.as_deref(), PAGE).await?;
        for key in page.data {
            many.push(key).await?;
            bar.set_position(many.done);
        }
        match page.meta.next_cursor {
            Some(next) => cursor = Some(next),
            None => return many.finish().await,
        }
    }
}

/// Deletions or looks, several at once.
struct Many<'a> {
    client: Client,
    store: &'a Store,
    /// Whether it only looks whether they are there.
    looks: bool,
    running: JoinSet<Result<bool, Error>>,
    done: u64,
}

impl<'a> Many<'a> {
    fn new(client: &Client, store: &'a Store) -> Many<'a> {
        // Of so many requests some are told to wait, and nobody counts the seconds.
        let client = client.clone().with_retry(Retry::default());
        Many { client, store, looks: false, running: JoinSet::new(), done: 0 }
    }

    async fn push(&mut self, key: String) -> Result<(), Stop> {
        if self.running.len() >= PARALLEL {
            self.take().await?;
        }
        let (client, store, looks) = (self.client.clone(), self.store.clone(), self.looks);
        self.running.spawn(async move {
            if !looks {
                return client.delete(&store, &key, true, None).await.map(|()| true);
            }
            match client.head(&store, &key).await {
                Ok(_) => Ok(true),
                Err(Error::Refused { status: 404, .. }) => Ok(false),
                Err(e) => Err(e),
            }
        });
        Ok(())
    }

    async fn take(&mut self) -> Result<(), Stop> {
        match self.running.join_next().await {
            Some(Ok(counts)) => self.done += u64::from(counts?),
            Some(Err(e)) => return Err(local(e.to_string())),
            None => {}
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<u64, Stop> {
        while !self.running.is_empty() {
            self.take().await?;
        }
        Ok(self.done)
    }
}

async fn of_file(
    client: &Client,
    store: &Store,
    path: &Path,
    args: &KeyDeleteArgs,
) -> Result<(&'static str, u64), Stop> {
    let mut many = Many::new(client, store);
    if args.dry_run {
        many.looks = true;
        let mut keys = Keys::open(path)?;
        while let Some(key) = keys.next()? {
            many.push(key).await?;
        }
        return Ok(("matched", many.finish().await?));
    }
    let whose = target(client, store);
    let count = if input::is_stdin(path) {
        // It can be read once only, and nobody could answer there.
        if !args.yes {
            return Err(usage(format!(
                "delete the items of {whose} whose keys come on the standard input: say --yes"
            )));
        }
        None
    } else {
        let (mut keys, mut count) = (Keys::open(path)?, 0);
        while keys.next()?.is_some() {
            count += 1;
        }
        let which = format!("the items of the {count} keys in {}", path.display());
        confirm(&format!("delete {which} of {whose}"), args.yes).await?;
        Some(count)
    };
    let bar = bar("deleting", "keys", count);
    let mut keys = Keys::open(path)?;
    while let Some(key) = keys.next()? {
        many.push(key).await?;
        bar.set_position(many.done);
    }
    let done = many.finish().await;
    bar.finish_and_clear();
    Ok(("deleted", done?))
}

/// The keys of a file, one a line; empty lines are passed over.
struct Keys {
    lines: BufReader<Box<dyn Read + Send>>,
    name: String,
    number: u64,
}

impl Keys {
    fn open(path: &Path) -> Result<Keys, Stop> {
        let (reader, _) = input::open(path)?;
        Ok(Keys { lines: BufReader::new(reader), name: path.display().to_string(), number: 0 })
    }

    fn next(&mut self) -> Result<Option<String>, Stop> {
        loop {
            let mut line = Vec::new();
            self.number += 1;
            let at = format!("line {} of {}", self.number, self.name);
            let read = (&mut self.lines).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
            match read.map_err(|e| local(format!("{at}: {e}")))? {
                0 => return Ok(None),
                read if read as u64 > LINE_BYTES_MAX => {
                    return Err(local(format!("{at} is longer than {LINE_BYTES_MAX} bytes")));
                }
                _ => {}
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match std::str::from_utf8(line) {
                Ok("") => {}
                Ok(key) => return Ok(Some(key.to_owned())),
                Err(_) => return Err(local(format!("{at} is not UTF-8"))),
            }
        }
    }
}
