//! Lists the keys of a store.

use super::items::{self, Item};
use super::types::StoreId;
use super::{Kv, Result, keyspace};
use crate::engine::{Body, Projection, Record, Scan, ScanPage, successor};
use bytes::Bytes;

/// The parameters of a list of keys.
#[derive(Clone, Debug)]
pub struct ListKeys {
    /// Only list keys with this prefix.
    pub prefix: String,
    /// Only list keys after this one.
    pub after: Option<Vec<u8>>,
    /// Maximum number of keys to return.
    pub limit: usize,
    /// Allows slightly stale results (docs/contract.md section 3.4, `consistency`).
    pub eventual: bool,
}

/// A page of keys in byte order, as of one point in time.
#[derive(Debug)]
pub struct KeyPage {
    page: ScanPage,
    /// Length of the part of an engine key that precedes the item key, in bytes.
    key_offset: usize,
    /// Whether more keys follow.
    pub more: bool,
}

impl KeyPage {
    /// Iterates over the keys.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.page.iter().map(|record| record.key.get(self.key_offset..).unwrap_or_default())
    }

    /// Iterates over the keys and their items. The values of the items are empty.
    pub fn items(&self) -> impl Iterator<Item = Result<(&[u8], Item)>> {
        self.page.iter().map(|scanned| {
            let key = scanned.key.get(self.key_offset..).unwrap_or_default();
            let (version, expires_at) = (scanned.version, scanned.expires_at);
            let meta = Bytes::copy_from_slice(scanned.meta);
            let record = Record { version, expires_at, meta, body: Body::EMPTY };
            Ok((key, items::from_record(record, Projection::Meta)?))
        })
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.page.len()
    }

    /// Returns the total size of the keys and metas, in bytes.
    pub fn bytes(&self) -> usize {
        self.page.iter().map(|record| record.key.len() + record.meta.len()).sum()
    }

    /// Returns whether the page has no keys.
    pub fn is_empty(&self) -> bool {
        self.page.is_empty()
    }
}

impl Kv {
    /// Lists a page of a store's keys. Expired items are omitted.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`](super::Error::NoStore).
    pub async fn list_keys(&self, store: &StoreId, list: &ListKeys) -> Result<KeyPage> {
        self.require_store(store).await?;
        let items = keyspace::items(store);
        let prefix = [&items[..], list.prefix.as_bytes()].concat();
        let end = keyspace::prefix_end(&prefix);
        let mut start = prefix.into();
        if let Some(after) = &list.after {
            start = successor(&[&items[..], after].concat()).max(start);
        }
        // Scan one record more than needed, to find out whether more keys follow.
        let limit = list.limit.saturating_add(1);
        let (skip_expired_at, eventual) = (self.clock.now(), list.eventual);
        let scan = Scan { start, end, limit, skip_expired_at, eventual };
        let mut page = self.engine.scan(scan).await?;
        let more = page.len() > list.limit;
        page.truncate(list.limit);
        Ok(KeyPage { page, key_offset: items.len(), more })
    }
}
