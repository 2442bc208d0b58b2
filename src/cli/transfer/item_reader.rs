//! Reads the items of a store as NDJSON in key order: from Steadfast in one stream, and from other
//! servers item by item.

use super::memory_budget::{OrderedReads, Reservation, ValueReader};
use crate::client::{Client, Error, SnapshotStream};
use crate::transfer::checked_item::VALUE_BYTES_MAX;
use crate::wire::item_line::ItemLine;
use crate::wire::{Store, http_date_to_rfc3339};
use bytes::Bytes;
use std::collections::VecDeque;

/// The number of concurrent requests for single items.
pub(super) const CONCURRENCY: usize = 16;
/// The number of keys per page when listing keys.
pub(super) const PAGE_KEYS: u32 = 1000;

pub(super) enum ItemReader {
    /// One stream of all items.
    Stream(SnapshotStream),
    /// One request per listed key.
    List(Box<ListReader>),
}

impl ItemReader {
    /// Starts reading the items whose keys have the given prefix.
    pub(super) async fn open(
        client: &Client,
        store: &Store,
        prefix: &str,
        steadfast: bool,
    ) -> Result<ItemReader, Error> {
        if steadfast {
            return Ok(ItemReader::Stream(client.export(store, prefix).await?));
        }
        Ok(ItemReader::List(Box::new(ListReader {
            client: client.clone(),
            store: store.clone(),
            prefix: prefix.to_owned(),
            cursor: None,
            listed: false,
            keys: VecDeque::new(),
            reads: OrderedReads::new(),
        })))
    }

    /// Reads the next chunk, which may end in the middle of a line. Returns `None` at the end.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            ItemReader::Stream(export) => export.next_chunk().await,
            ItemReader::List(list) => list.next_line().await,
        }
    }
}

/// The line of an item, and the reservation of the memory for the line.
type ReservedLine = (Bytes, Option<Reservation>);

/// Lists the keys page by page and requests several items concurrently.
pub(super) struct ListReader {
    client: Client,
    store: Store,
    prefix: String,
    cursor: Option<String>,
    listed: bool,
    keys: VecDeque<String>,
    reads: OrderedReads<Option<ReservedLine>>,
}

impl ListReader {
    async fn next_line(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            self.start_reads().await?;
            let Some(line) = self.reads.next().await? else { return Ok(None) };
            // An item that was deleted after it was listed has no line.
            if let Some((line, _)) = line {
                return Ok(Some(line));
            }
        }
    }

    async fn start_reads(&mut self) -> Result<(), Error> {
        while self.reads.len() < CONCURRENCY {
            let Some(key) = self.keys.pop_front() else {
                if self.listed {
                    return Ok(());
                }
                let cursor = self.cursor.as_deref();
                let page = self.client.keys(&self.store, &self.prefix, cursor, PAGE_KEYS).await?;
                self.keys = page.data.into();
                self.cursor = page.meta.next_cursor;
                self.listed = self.cursor.is_none();
                continue;
            };
            let (client, store) = (self.client.clone(), self.store.clone());
            let read = |reader| async move { get_line(reader, &client, &store, &key).await };
            self.reads.push(read);
        }
        Ok(())
    }
}

async fn get_line(
    mut reader: ValueReader,
    client: &Client,
    store: &Store,
    key: &str,
) -> Result<Option<ReservedLine>, Error> {
    let (value, reservation) = match reader.get(client, store, key).await {
        Ok(value) => value,
        Err(e) if e.status() == Some(404) => return Ok(None),
        Err(e) => return Err(e),
    };
    let headers = value.headers.clone();
    let bytes = value.read_to_end(usize::try_from(VALUE_BYTES_MAX).unwrap_or(usize::MAX)).await?;
    let modified = headers.modified.as_deref().and_then(http_date_to_rfc3339);
    let item = ItemLine {
        key,
        value: &bytes,
        metadata: &headers.metadata,
        generation: Some(headers.generation),
        modified: modified.as_deref(),
        ..ItemLine::default()
    };
    let mut line = Vec::new();
    item.write(&mut line);
    Ok(Some((line.into(), reservation)))
}
