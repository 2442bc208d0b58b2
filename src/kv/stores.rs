//! Stores: create, list, describe, rename, delete.
//!
//! A store has two records, one by id and one in the order of lists, always written together. A
//! put expects the version of the first, so that it loses to a deletion that came before it. A
//! deletion first marks the store as closing, then looks whether it is empty, then removes it,
//! expecting its own mark: a put that comes between opens the store again and so wins. No lock is
//! held, and a crash in between leaves a store that the next put opens.

use super::codec::StoreMeta;
use super::types::{Location, StoreId, StoreName};
use super::{ATTEMPTS_MAX, Error, Kv, StoreInfo, keyspace};
use crate::engine::{Body, Commit, Mutation, NewRecord, Outcome, Precondition, Projection, Scan};
use bytes::Bytes;

/// Which stores are wanted.
#[derive(Clone, Debug, Default)]
pub struct ListStores {
    /// Only the one with this name.
    pub name: Option<String>,
    /// Only stores after the one with this name, in the order of lists.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A page of stores, by name with ASCII letters folded to upper case.
#[derive(Clone, Debug)]
pub struct StorePage {
    /// The stores.
    pub stores: Vec<StoreInfo>,
    /// How many there are that the filter lets through, on all pages.
    pub total: u64,
    /// Whether more follow.
    pub more: bool,
}

fn put(key: Bytes, meta: &StoreMeta) -> Mutation {
    let record = NewRecord { expires_at: 0, meta: meta.encode(), body: Body::EMPTY };
    Mutation { key, record: Some(record) }
}

fn order(meta: &StoreMeta) -> Bytes {
    keyspace::store_order(meta.info.name.as_str())
}

impl Kv {
    /// Creates a store.
    ///
    /// # Errors
    /// [`Error::StoreExists`], or when the engine fails.
    pub async fn create_store(
        &self,
        name: StoreName,
        location: Option<Location>,
    ) -> Result<StoreInfo, Error> {
        let now = self.clock.now();
        let info = StoreInfo { id: StoreId::random()?, name, created_at: now, updated_at: now };
        let meta = StoreMeta { info, location, closing: false };
        let by_id = keyspace::store(&meta.info.id);
        let absent = |key: Bytes| Precondition { key, version: 0 };
        let commit = Commit {
            version_min: now,
            preconditions: vec![absent(order(&meta)), absent(by_id.clone())],
            mutations: vec![put(order(&meta), &meta), put(by_id, &meta)],
        };
        match self.engine.commit(commit).await? {
            Outcome::Committed(_) => Ok(meta.info),
            Outcome::Conflict => Err(Error::StoreExists(meta.info.name.as_str().into())),
        }
    }

    /// A page of stores.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn list_stores(&self, list: &ListStores) -> Result<StorePage, Error> {
        let after = list.after.as_deref().map(|name| keyspace::after(&keyspace::store_order(name)));
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
        let mut page = self
            .engine
            .scan(Scan { start, end, limit, skip_expired_at: 0, eventual: false })
            .await?;
        let more = page.len() > list.limit;
        page.truncate(list.limit);
        let stores = page.iter().map(|found| Ok(StoreMeta::decode(found.meta)?.info));
        let stores = stores.collect::<Result<_, Error>>()?;
        Ok(StorePage { stores, total: self.stores_count().await?, more })
    }

    /// A page of these stores alone, which should be few: each is read. Those that are not there
    /// are left out, and counted nowhere.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn list_stores_among(
        &self,
        list: &ListStores,
        ids: &[StoreId],
    ) -> Result<StorePage, Error> {
        let mut stores = Vec::with_capacity(ids.len());
        for id in ids {
            match self.describe_store(id).await {
                Err(Error::NoStore) => {}
                found => stores.push(found?),
            }
        }
        stores.retain(|info| list.name.as_deref().is_none_or(|name| name == info.name.as_str()));
        let total = stores.len() as u64;
        let place = |info: &StoreInfo| keyspace::store_order(info.name.as_str());
        if let Some(after) = list.after.as_deref().map(keyspace::store_order) {
            stores.retain(|info| place(info) > after);
        }
        stores.sort_by_key(place);
        let more = stores.len() > list.limit;
        stores.truncate(list.limit);
        Ok(StorePage { stores, total, more })
    }

    /// One store.
    ///
    /// # Errors
    /// [`Error::NoStore`], or when the engine fails.
    pub async fn describe_store(&self, id: &StoreId) -> Result<StoreInfo, Error> {
        Ok(self.store_head(id).await?.0.info)
    }

    async fn store_head(&self, id: &StoreId) -> Result<(StoreMeta, u64), Error> {
        let record = self.engine.read(&keyspace::store(id), Projection::Full).await?;
        let record = record.ok_or(Error::NoStore)?;
        Ok((StoreMeta::decode(&record.meta)?, record.version))
    }

    /// Gives a store another name; its own name is no change.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::StoreExists`], or when the engine fails.
    pub async fn rename_store(&self, id: &StoreId, name: StoreName) -> Result<(), Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (meta, version) = self.store_head(id).await?;
            if meta.info.name == name {
                return Ok(());
            }
            let (now, by_id) = (self.clock.now(), keyspace::store(id));
            let info = StoreInfo { name: name.clone(), updated_at: now, ..meta.info.clone() };
            let renamed = StoreMeta { info, location: meta.location, closing: false };
            let taken = self.engine.read(&order(&renamed), Projection::Meta).await?;
            if taken.is_some() {
                return Err(Error::StoreExists(name.as_str().into()));
            }
            let commit = Commit {
                version_min: now,
                preconditions: vec![
                    Precondition { key: by_id.clone(), version },
                    Precondition { key: order(&renamed), version: 0 },
                ],
                mutations: vec![
                    Mutation { key: order(&meta), record: None },
                    put(order(&renamed), &renamed),
                    put(by_id, &renamed),
                ],
            };
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    /// Deletes a store that has no live item.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::StoreNotEmpty`], or when the engine fails.
    pub async fn delete_store(&self, id: &StoreId) -> Result<(), Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (meta, version) = self.store_head(id).await?;
            self.expect_empty(id).await?;
            let by_id = keyspace::store(id);
            let closing = StoreMeta { closing: true, ..meta.clone() };
            let marked = self.commit_store(&by_id, version, vec![put(by_id.clone(), &closing)]);
            let Outcome::Committed(version) = marked.await? else { continue };
            if let Err(e) = self.expect_empty(id).await {
                // If this meets a conflict, a put has opened the store already.
                let open = StoreMeta { closing: false, ..meta };
                self.commit_store(&by_id, version, vec![put(by_id.clone(), &open)]).await?;
                return Err(e);
            }
            let remove = |key: Bytes| Mutation { key, record: None };
            let removed = vec![remove(order(&meta)), remove(by_id.clone())];
            if let Outcome::Committed(_) = self.commit_store(&by_id, version, removed).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    async fn commit_store(
        &self,
        key: &Bytes,
        version: u64,
        mutations: Vec<Mutation>,
    ) -> Result<Outcome, Error> {
        let preconditions = vec![Precondition { key: key.clone(), version }];
        let version_min = self.clock.now();
        Ok(self.engine.commit(Commit { version_min, preconditions, mutations }).await?)
    }

    async fn expect_empty(&self, id: &StoreId) -> Result<(), Error> {
        let start = keyspace::items(id);
        let end = keyspace::end_of(&start);
        let scan =
            Scan { start, end, limit: 1, skip_expired_at: self.clock.now(), eventual: false };
        let live = self.engine.scan(scan).await?;
        if live.is_empty() { Ok(()) } else { Err(Error::StoreNotEmpty) }
    }
}
