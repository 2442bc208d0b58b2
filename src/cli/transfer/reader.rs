//! Reads all items of a store as lines, in the order of their keys: from Steadfast as one stream,
//! elsewhere key by key.

use crate::client::{Client, Error, Export, Value};
use crate::transfer::record::{self, Item, VALUE_BYTES_HARD};
use crate::wire::Store;
use bytes::Bytes;
use std::collections::VecDeque;
use tokio::task::JoinHandle;

/// Items that are asked for at once where there is no stream of them.
pub(super) const PARALLEL: usize = 16;
/// Keys of a page.
pub(super) const PAGE: u32 = 1000;

/// The items of a store, to be read once.
pub(super) enum Items {
    /// As one stream.
    Stream(Export),
    /// One by one.
    Each(Box<Each>),
}

impl Items {
    /// Begins to read.
    pub(super) async fn open(
        client: &Client,
        store: &Store,
        prefix: &str,
        steadfast: bool,
    ) -> Result<Items, Error> {
        if steadfast {
            return Ok(Items::Stream(client.export(store, prefix).await?));
        }
        Ok(Items::Each(Box::new(Each {
            client: client.clone(),
            store: store.clone(),
            prefix: prefix.to_owned(),
            cursor: None,
            listed: false,
            keys: VecDeque::new(),
            asked: VecDeque::new(),
        })))
    }

    /// The next piece of the lines, which may begin and end anywhere; `None` once all are there.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Items::Stream(export) => export.piece().await,
            Items::Each(each) => each.line().await,
        }
    }
}

type Asked = JoinHandle<Result<Option<Bytes>, Error>>;

/// Reads keys by the page and items by the key.
pub(super) struct Each {
    client: Client,
    store: Store,
    prefix: String,
    cursor: Option<String>,
    listed: bool,
    keys: VecDeque<String>,
    asked: VecDeque<Asked>,
}

impl Each {
    async fn line(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            self.ask().await?;
            let Some(asked) = self.asked.pop_front() else { return Ok(None) };
            let line = asked.await.map_err(|e| Error::Local(format!("a task ended: {e}")))??;
            // What was deleted since the list is not there.
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    async fn ask(&mut self) -> Result<(), Error> {
        while self.asked.len() < PARALLEL {
            let Some(key) = self.keys.pop_front() else {
                if self.listed {
                    return Ok(());
                }
                let cursor = self.cursor.as_deref();
                let page = self.client.keys(&self.store, &self.prefix, cursor, PAGE).await?;
                self.keys = page.data.into();
                self.cursor = page.meta.next_cursor;
                self.listed = self.cursor.is_none();
                continue;
            };
            let (client, store) = (self.client.clone(), self.store.clone());
            self.asked.push_back(tokio::spawn(async move { one(&client, &store, &key).await }));
        }
        Ok(())
    }
}

async fn one(client: &Client, store: &Store, key: &str) -> Result<Option<Bytes>, Error> {
    let value: Value = match client.get(store, key).await {
        Ok(value) => value,
        Err(e) if e.status() == Some(404) => return Ok(None),
        Err(e) => return Err(e),
    };
    let head = value.head.clone();
    let most = usize::try_from(VALUE_BYTES_HARD).unwrap_or(usize::MAX);
    let bytes = value.all(most).await?;
    let modified = head.modified.as_deref().and_then(record::modified);
    let item = Item {
        key,
        value: &bytes,
        metadata: &head.metadata,
        generation: Some(head.generation),
        modified: modified.as_deref(),
        ..Item::default()
    };
    let mut line = Vec::new();
    item.write(&mut line);
    Ok(Some(line.into()))
}
