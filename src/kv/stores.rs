//! Stores: create, list, describe, rename and delete.
//!
//! A store has two records, one by id and one in list order, which are created, renamed and removed
//! together. Every put into a store requires that its record by id is unchanged. A deletion marks
//! that record as closing, checks that the store has no live items, and removes both records on
//! condition that the marked one is unchanged. A put in between reopens the store and thereby
//! cancels the deletion. The deletion holds no lock. If a crash interrupts it, the next put reopens
//! the store.

use super::codec::StoreMeta;
use super::types::{Location, StoreId, StoreName};
use super::{ATTEMPTS_MAX, Error, Kv, Result, StoreInfo, keyspace};
use crate::engine::{
    Body, Commit, Mutation, NewRecord, Outcome, Precondition, Projection, Scan, successor,
};
use bytes::Bytes;

/// The parameters of a list of stores.
#[derive(Clone, Debug, Default)]
pub struct ListStores {
    /// Only list the store with this name.
    pub name: Option<String>,
    /// Only list the stores after this name, in list order.
    pub after: Option<String>,
    /// Maximum number of stores to return.
    pub limit: usize,
}

/// A page of stores in list order (docs/contract.md section 11.2).
#[derive(Clone, Debug)]
pub struct StorePage {
    /// The stores of this page.
    pub stores: Vec<StoreInfo>,
    /// Total number of stores on all pages.
    pub total: u64,
    /// Whether more stores follow.
    pub more: bool,
}

fn put_mutation(key: Bytes, meta: &StoreMeta) -> Mutation {
    let record = NewRecord { expires_at: 0, meta: meta.encode(), body: Body::EMPTY };
    Mutation { key, record: Some(record) }
}

fn order_key(meta: &StoreMeta) -> Bytes {
    keyspace::store_order(meta.info.name.as_str())
}

impl Kv {
    /// Creates a store.
    ///
    /// # Errors
    /// Returns [`Error::StoreExists`].
    pub async fn create_store(
        &self,
        name: StoreName,
        location: Option<Location>,
    ) -> Result<StoreInfo> {
        let now = self.clock.now();
        let info = StoreInfo { id: StoreId::random()?, name, created_at: now, updated_at: now };
        let meta = StoreMeta { info, location, closing: false };
        let by_id = keyspace::store(&meta.info.id);
        let absent = |key: Bytes| Precondition { key, version: 0 };
        let commit = Commit {
            version_min: now,
            preconditions: vec![absent(order_key(&meta)), absent(by_id.clone())],
            mutations: vec![put_mutation(order_key(&meta), &meta), put_mutation(by_id, &meta)],
        };
        match self.engine.commit(commit).await? {
            Outcome::Committed(_) => Ok(meta.info),
            Outcome::Conflict => Err(Error::StoreExists(meta.info.name.as_str().into())),
        }
    }

    /// Lists a page of stores.
    pub async fn list_stores(&self, list: &ListStores) -> Result<StorePage> {
        let after = list.after.as_deref().map(keyspace::store_order);
        let after = after.map(|last| successor(&last));
        if let Some(name) = &list.name {
            let key = keyspace::store_order(name);
            let found = self.engine.read(&key, Projection::Meta).await?;
            let total = u64::from(found.is_some());
            let mut stores = Vec::new();
            if let Some(record) = found.filter(|_| after.is_none_or(|after| key >= after)) {
                stores.push(StoreMeta::decode(&record.meta)?.info);
            }
            return Ok(StorePage { stores, total, more: false });
        }
        let (start, end) = keyspace::store_orders();
        let start = after.unwrap_or(start);
        let limit = list.limit.saturating_add(1);
        let scan = Scan { start, end, limit, skip_expired_at: 0, eventual: false };
        let mut page = self.engine.scan(scan).await?;
        let more = page.len() > list.limit;
        page.truncate(list.limit);
        let stores = page.iter().map(|found| Ok(StoreMeta::decode(found.meta)?.info));
        let stores = stores.collect::<Result<_>>()?;
        Ok(StorePage { stores, total: self.stores_count().await?, more })
    }

    /// Lists a page of the stores with these ids. Reads the record of each store, and omits stores
    /// that do not exist.
    pub async fn list_stores_among(&self, list: &ListStores, ids: &[StoreId]) -> Result<StorePage> {
        let mut stores = Vec::with_capacity(ids.len());
        for id in ids {
            match self.describe_store(id).await {
                Err(Error::NoStore) => {}
                found => stores.push(found?),
            }
        }
        stores.retain(|info| list.name.as_deref().is_none_or(|name| name == info.name.as_str()));
        let total = stores.len() as u64;
        let sort_key = |info: &StoreInfo| keyspace::store_order(info.name.as_str());
        if let Some(after) = list.after.as_deref().map(keyspace::store_order) {
            stores.retain(|info| sort_key(info) > after);
        }
        stores.sort_by_key(sort_key);
        let more = stores.len() > list.limit;
        stores.truncate(list.limit);
        Ok(StorePage { stores, total, more })
    }

    /// Returns the properties of a store.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`].
    pub async fn describe_store(&self, id: &StoreId) -> Result<StoreInfo> {
        Ok(self.read_store(id).await?.0.info)
    }

    async fn read_store(&self, id: &StoreId) -> Result<(StoreMeta, u64)> {
        let record = self.engine.read(&keyspace::store(id), Projection::Full).await?;
        let record = record.ok_or(Error::NoStore)?;
        Ok((StoreMeta::decode(&record.meta)?, record.version))
    }

    /// Renames a store; does nothing if it already has this name.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`] or [`Error::StoreExists`].
    pub async fn rename_store(&self, id: &StoreId, name: StoreName) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let (meta, version) = self.read_store(id).await?;
            if meta.info.name == name {
                return Ok(());
            }
            let (now, by_id) = (self.clock.now(), keyspace::store(id));
            let info = StoreInfo { name: name.clone(), updated_at: now, ..meta.info.clone() };
            let renamed = StoreMeta { info, location: meta.location, closing: false };
            if self.engine.read(&order_key(&renamed), Projection::Meta).await?.is_some() {
                return Err(Error::StoreExists(name.as_str().into()));
            }
            let commit = Commit {
                version_min: now,
                preconditions: vec![
                    Precondition { key: by_id.clone(), version },
                    Precondition { key: order_key(&renamed), version: 0 },
                ],
                mutations: vec![
                    Mutation { key: order_key(&meta), record: None },
                    put_mutation(order_key(&renamed), &renamed),
                    put_mutation(by_id, &renamed),
                ],
            };
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    /// Deletes a store, which must not have live items.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`] or [`Error::StoreNotEmpty`].
    pub async fn delete_store(&self, id: &StoreId) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let (meta, version) = self.read_store(id).await?;
            self.require_empty(id).await?;
            let by_id = keyspace::store(id);
            let close = put_mutation(by_id.clone(), &StoreMeta { closing: true, ..meta.clone() });
            let marked = self.commit_store(&by_id, version, vec![close]).await?;
            let Outcome::Committed(version) = marked else { continue };
            if let Err(e) = self.require_empty(id).await {
                // If this commit conflicts, a put has already reopened the store.
                let reopen = put_mutation(by_id.clone(), &StoreMeta { closing: false, ..meta });
                self.commit_store(&by_id, version, vec![reopen]).await?;
                return Err(e);
            }
            let remove = |key: Bytes| Mutation { key, record: None };
            let removed = vec![remove(order_key(&meta)), remove(by_id.clone())];
            if let Outcome::Committed(_) = self.commit_store(&by_id, version, removed).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    async fn commit_store(&self, key: &Bytes, version: u64, all: Vec<Mutation>) -> Result<Outcome> {
        let preconditions = vec![Precondition { key: key.clone(), version }];
        let version_min = self.clock.now();
        Ok(self.engine.commit(Commit { version_min, preconditions, mutations: all }).await?)
    }

    async fn require_empty(&self, id: &StoreId) -> Result<()> {
        let start = keyspace::items(id);
        let end = keyspace::prefix_end(&start);
        let (limit, skip_expired_at) = (1, self.clock.now());
        let scan = Scan { start, end, limit, skip_expired_at, eventual: false };
        let live = self.engine.scan(scan).await?;
        if live.is_empty() { Ok(()) } else { Err(Error::StoreNotEmpty) }
    }
}
