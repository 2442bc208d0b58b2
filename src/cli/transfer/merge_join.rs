//! Merge join of the item lists of two stores by key.

use super::item_reader::PAGE_KEYS;
use crate::client::{Client, Error};
use crate::wire::{ItemDetails, Store};
use std::cmp::Ordering;
use std::collections::VecDeque;

#[derive(Clone, Debug)]
pub(super) struct ListedItem {
    pub(super) key: String,
    /// The details of the item, if the server lists them.
    pub(super) details: Option<ItemDetails>,
}

/// One of the two stores to synchronize.
#[derive(Clone)]
pub(super) struct SyncStore {
    pub(super) client: Client,
    pub(super) store: Store,
    pub(super) steadfast: bool,
}

/// The items of a store, listed page by page.
struct ItemList {
    store: SyncStore,
    prefix: String,
    cursor: Option<String>,
    page: VecDeque<ListedItem>,
    /// The last key on the pages read so far.
    last_key: Option<String>,
    ended: bool,
}

impl ItemList {
    fn new(store: SyncStore, prefix: &str) -> ItemList {
        let (prefix, page) = (prefix.to_owned(), VecDeque::new());
        ItemList { store, prefix, cursor: None, page, last_key: None, ended: false }
    }

    /// Reads the next page if the current one is empty.
    async fn fill_page(&mut self) -> Result<(), Error> {
        while self.page.is_empty() && !self.ended {
            let SyncStore { client, store, steadfast } = &self.store;
            let cursor = self.cursor.as_deref();
            let meta = if *steadfast {
                let page = client.details(store, &self.prefix, cursor, PAGE_KEYS).await?;
                self.page.extend(page.data.into_iter().map(|details| ListedItem {
                    key: details.key.clone(),
                    details: Some(details),
                }));
                page.meta
            } else {
                let page = client.keys(store, &self.prefix, cursor, PAGE_KEYS).await?;
                let item = |key| ListedItem { key, details: None };
                self.page.extend(page.data.into_iter().map(item));
                page.meta
            };
            self.ended = meta.next_cursor.is_none();
            self.cursor = meta.next_cursor;
            self.check_order()?;
        }
        Ok(())
    }

    /// Checks that the keys ascend in byte order. If they did not, an item that exists in both
    /// stores could be mistaken for one that exists only in the destination, and be deleted.
    fn check_order(&mut self) -> Result<(), Error> {
        let mut last = self.last_key.as_deref();
        for ListedItem { key, .. } in &self.page {
            if let Some(last) = last.filter(|last| *last >= key.as_str()) {
                let SyncStore { client, store, .. } = &self.store;
                let subject =
                    format!("the keys of store {:?} at {}", store.name, client.endpoint());
                let reason = format!("{key:?} follows {last:?}, but keys must ascend");
                return Err(Error::Unexpected { subject, reason });
            }
            last = Some(key);
        }
        self.last_key = last.map(str::to_owned);
        Ok(())
    }
}

/// One row of the join: an item found in only one store, or the two items with the same key.
#[derive(Clone, Debug)]
pub(super) enum JoinedItem {
    From(ListedItem),
    To(ListedItem),
    Both(ListedItem, ListedItem),
}

pub(super) struct MergeJoin {
    from: ItemList,
    to: ItemList,
}

impl MergeJoin {
    pub(super) fn new(from: SyncStore, to: SyncStore, prefix: &str) -> MergeJoin {
        MergeJoin { from: ItemList::new(from, prefix), to: ItemList::new(to, prefix) }
    }

    /// Returns the items with the next key, or `None` at the end of both lists.
    pub(super) async fn next(&mut self) -> Result<Option<JoinedItem>, Error> {
        self.from.fill_page().await?;
        self.to.fill_page().await?;
        let (from, to) = (self.from.page.front(), self.to.page.front());
        let order = match (from, to) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(from), Some(to)) => from.key.cmp(&to.key),
        };
        let from = if order.is_le() { self.from.page.pop_front() } else { None };
        let to = if order.is_ge() { self.to.page.pop_front() } else { None };
        Ok(match (from, to) {
            (Some(from), Some(to)) => Some(JoinedItem::Both(from, to)),
            (Some(from), None) => Some(JoinedItem::From(from)),
            (None, Some(to)) => Some(JoinedItem::To(to)),
            (None, None) => None,
        })
    }
}
