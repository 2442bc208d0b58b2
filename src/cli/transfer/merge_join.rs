//! The items of two stores side by side, in the order of their keys.

use super::reader::PAGE;
use crate::client::{Client, Error};
use crate::wire::{Details, Store};
use std::collections::VecDeque;

/// An item as a list shows it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) key: String,
    /// All but the value, where the server tells it.
    pub(super) details: Option<Details>,
}

/// One of the two stores.
#[derive(Clone)]
pub(super) struct End {
    pub(super) client: Client,
    pub(super) store: Store,
    pub(super) steadfast: bool,
}

/// The list of one store.
struct Listing {
    end: End,
    prefix: String,
    cursor: Option<String>,
    page: VecDeque<Seen>,
    listed: bool,
}

impl Listing {
    fn new(end: End, prefix: &str) -> Listing {
        let prefix = prefix.to_owned();
        Listing { end, prefix, cursor: None, page: VecDeque::new(), listed: false }
    }

    /// Makes sure that the next item is at hand, if there is one.
    async fn look(&mut self) -> Result<(), Error> {
        while self.page.is_empty() && !self.listed {
            let End { client, store, steadfast } = &self.end;
            let cursor = self.cursor.as_deref();
            let meta = if *steadfast {
                let page = client.details(store, &self.prefix, cursor, PAGE).await?;
                let seen =
                    |details: Details| Seen { key: details.key.clone(), details: Some(details) };
                self.page = page.data.into_iter().map(seen).collect();
                page.meta
            } else {
                let page = client.keys(store, &self.prefix, cursor, PAGE).await?;
                self.page = page.data.into_iter().map(|key| Seen { key, details: None }).collect();
                page.meta
            };
            self.listed = meta.next_cursor.is_none();
            self.cursor = meta.next_cursor;
        }
        Ok(())
    }
}

/// What the two stores have of one key.
#[derive(Clone, Debug)]
pub(super) enum Pair {
    From(Seen),
    To(Seen),
    Both(Seen, Seen),
}

/// Both lists.
pub(super) struct Pairs {
    from: Listing,
    to: Listing,
}

impl Pairs {
    pub(super) fn new(from: End, to: End, prefix: &str) -> Pairs {
        Pairs { from: Listing::new(from, prefix), to: Listing::new(to, prefix) }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Pair>, Error> {
        self.from.look().await?;
        self.to.look().await?;
        let (from, to) = (self.from.page.front(), self.to.page.front());
        let order = match (from, to) {
            (None, None) => return Ok(None),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(from), Some(to)) => from.key.cmp(&to.key),
        };
        let from = if order.is_le() { self.from.page.pop_front() } else { None };
        let to = if order.is_ge() { self.to.page.pop_front() } else { None };
        Ok(match (from, to) {
            (Some(from), Some(to)) => Some(Pair::Both(from, to)),
            (Some(from), None) => Some(Pair::From(from)),
            (None, Some(to)) => Some(Pair::To(to)),
            (None, None) => None,
        })
    }
}
