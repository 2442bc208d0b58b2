//! Stores: create, list, describe, rename, delete.
//!
//! A store has two records, one by id and one in the order of lists, always written together. A
//! put expects the version of the first, so that it loses to a deletion that came before it. A
//! deletion first marks the store as closing, then looks whether it is empty, then removes it,
//! expecting its own mark: a put that comes between opens the store again and so wins. No lock is
//! held, and a crash in between leaves a store that the next put opens.

use super::codec::StoreHead;
use super::types::{Location, StoreId, StoreName};
use super::{ATTEMPTS_MAX, Error, Kv, StoreInfo, keyspace};
use crate::engine::{Body, Commit, Expect, NewRecord, Outcome, Part, Scan, Write};
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

fn put(key: Bytes, head: &StoreHead) -> Write {
    let record = NewRecord { due: 0, head: head.encode(), body: Body::EMPTY };
    Write { key, record: Some(record) }
}

fn order(head: &StoreHead) -> Bytes {
    keyspace::store_order(head.info.name.as_str())
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
        let info = StoreInfo { id: StoreId::random()?, name, created: now, updated: now };
        let head = StoreHead { info, location, closing: false };
        let by_id = keyspace::store(&head.info.id);
        let absent = |key: Bytes| Expect { key, version: 0 };
        let commit = Commit {
            version_min: now,
            expect: vec![absent(order(&head)), absent(by_id.clone())],
            write: vec![put(order(&head), &head), put(by_id, &head)],
        };
        match self.engine.commit(commit).await? {
            Outcome::Written(_) => Ok(head.info),
            Outcome::Conflict => Err(Error::StoreExists(head.info.name.as_str().into())),
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
            let found = self.engine.read(&key, Part::Head).await?;
            let total = u64::from(found.is_some());
            let mut stores = Vec::new();
            if let Some(record) = found.filter(|_| after.is_none_or(|after| key >= after)) {
                stores.push(StoreHead::decode(&record.head)?.info);
            }
            return Ok(StorePage { stores, total, more: false });
        }
        let (start, end) = keyspace::store_orders();
        let start = after.unwrap_or(start);
        let limit = list.limit.saturating_add(1);
        let mut page =
            self.engine.scan(Scan { start, end, limit, skip_due: 0, eventual: false }).await?;
        let more = page.len() > list.limit;
        page.truncate(list.limit);
        let stores = page.iter().map(|found| Ok(StoreHead::decode(found.head)?.info));
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

    async fn store_head(&self, id: &StoreId) -> Result<(StoreHead, u64), Error> {
        let record = self.engine.read(&keyspace::store(id), Part::Whole).await?;
        let record = record.ok_or(Error::NoStore)?;
        Ok((StoreHead::decode(&record.head)?, record.version))
    }

    /// Gives a store another name; its own name is no change.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::StoreExists`], or when the engine fails.
    pub async fn rename_store(&self, id: &StoreId, name: StoreName) -> Result<(), Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (head, version) = self.store_head(id).await?;
            if head.info.name == name {
                return Ok(());
            }
            let (now, by_id) = (self.clock.now(), keyspace::store(id));
            let info = StoreInfo { name: name.clone(), updated: now, ..head.info.clone() };
            let renamed = StoreHead { info, location: head.location, closing: false };
            let taken = self.engine.read(&order(&renamed), Part::Head).await?;
            if taken.is_some() {
                return Err(Error::StoreExists(name.as_str().into()));
            }
            let commit = Commit {
                version_min: now,
                expect: vec![
                    Expect { key: by_id.clone(), version },
                    Expect { key: order(&renamed), version: 0 },
                ],
                write: vec![
                    Write { key: order(&head), record: None },
                    put(order(&renamed), &renamed),
                    put(by_id, &renamed),
                ],
            };
            if let Outcome::Written(_) = self.engine.commit(commit).await? {
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
            let (head, version) = self.store_head(id).await?;
            self.expect_empty(id).await?;
            let by_id = keyspace::store(id);
            let closing = StoreHead { closing: true, ..head.clone() };
            let marked = self.commit_store(&by_id, version, vec![put(by_id.clone(), &closing)]);
            let Outcome::Written(version) = marked.await? else { continue };
            if let Err(e) = self.expect_empty(id).await {
                // If this meets a conflict, a put has opened the store already.
                let open = StoreHead { closing: false, ..head };
                self.commit_store(&by_id, version, vec![put(by_id.clone(), &open)]).await?;
                return Err(e);
            }
            let remove = |key: Bytes| Write { key, record: None };
            let removed = vec![remove(order(&head)), remove(by_id.clone())];
            if let Outcome::Written(_) = self.commit_store(&by_id, version, removed).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    async fn commit_store(
        &self,
        key: &Bytes,
        version: u64,
        write: Vec<Write>,
    ) -> Result<Outcome, Error> {
        let expect = vec![Expect { key: key.clone(), version }];
        let version_min = self.clock.now();
        Ok(self.engine.commit(Commit { version_min, expect, write }).await?)
    }

    async fn expect_empty(&self, id: &StoreId) -> Result<(), Error> {
        let start = keyspace::items(id);
        let end = keyspace::end_of(&start);
        let scan = Scan { start, end, limit: 1, skip_due: self.clock.now(), eventual: false };
        let live = self.engine.scan(scan).await?;
        if live.is_empty() { Ok(()) } else { Err(Error::StoreNotEmpty) }
    }
}
