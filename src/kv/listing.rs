//! Lists of keys.

use super::items::{self, Item};
use super::types::StoreId;
use super::{Error, Kv, keyspace};
use crate::engine::{Body, Projection, Record, Scan, ScanPage};
use bytes::Bytes;

/// Which keys are wanted.
#[derive(Clone, Debug)]
pub struct ListKeys {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<Vec<u8>>,
    /// At most so many.
    pub limit: usize,
    /// Whether a state of a little earlier will do (contract.md, 3.4: consistency).
    pub eventual: bool,
}

/// A page of keys in the order of their bytes, from one snapshot.
#[derive(Debug)]
pub struct KeyPage {
    page: ScanPage,
    skip: usize,
    /// Whether more keys follow.
    pub more: bool,
}

impl KeyPage {
    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.page.iter().map(|found| found.key.get(self.skip..).unwrap_or_default())
    }

    /// The items under them, without their values.
    pub fn items(&self) -> impl Iterator<Item = Result<(&[u8], Item), Error>> {
        self.page.iter().map(|found| {
            let key = found.key.get(self.skip..).unwrap_or_default();
            let (version, expires_at) = (found.version, found.expires_at);
            let meta = Bytes::copy_from_slice(found.meta);
            let record = Record { version, expires_at, meta, body: Body::EMPTY };
            Ok((key, items::item(record, Projection::Meta)?))
        })
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.page.len()
    }

    /// Whether it has none; then none follow either.
    pub fn is_empty(&self) -> bool {
        self.page.is_empty()
    }
}

impl Kv {
    /// A page of a store's keys; expired items are not in it.
    ///
    /// # Errors
    /// [`Error::NoStore`], or when the engine fails.
    pub async fn list_keys(&self, store: &StoreId, list: &ListKeys) -> Result<KeyPage, Error> {
        self.open_store(store).await?;
        let items = keyspace::items(store);
        let prefix = [&items[..], list.prefix.as_bytes()].concat();
        let end = keyspace::end_of(&prefix);
        let mut start = prefix.into();
        if let Some(after) = &list.after {
            start = keyspace::after(&[&items[..], after].concat()).max(start);
        }
        // One more than wanted tells whether more follow.
        let limit = list.limit.saturating_add(1);
        let (skip_expired_at, eventual) = (self.clock.now(), list.eventual);
        let scan = Scan { start, end, limit, skip_expired_at, eventual };
        let mut page = self.engine.scan(scan).await?;
        let more = page.len() > list.limit;
        page.truncate(list.limit);
        Ok(KeyPage { page, skip: items.len(), more })
    }
}
