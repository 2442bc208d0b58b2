//! Items: get, put and delete.

use super::clock::SECOND;
use super::codec::{ItemMeta, StoreMeta};
use super::preconditions::{self, DeleteAction, ItemState, PutAction, PutMode};
use super::types::{Key, Metadata, StoreId, Ttl};
use super::{ATTEMPTS_MAX, Error, Kv, Result, Value, keyspace};
use crate::engine::{
    Body, Commit, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome, Precondition, Projection, Record,
};
use crate::wire::MICROS_MAX;
use bytes::{Bytes, BytesMut};

/// Size in bytes of the pieces that are copied when two values are concatenated.
const COPY_BYTES: u64 = 1 << 20;

/// An item.
#[derive(Clone, Debug)]
pub struct Item {
    /// The generation. Every put assigns a generation greater than all earlier generations of the
    /// key; an import may set any generation.
    pub generation: u64,
    /// When the item was last modified, in microseconds since the Unix epoch.
    pub modified_at: u64,
    /// When the item expires, in microseconds since the Unix epoch; `None` if it never does.
    pub expires_at: Option<u64>,
    /// The user metadata.
    pub metadata: Metadata,
    /// Size of the value, in bytes.
    pub size: u64,
    /// The value; empty if only the meta was read.
    pub value: Value,
}

/// The parameters of a put, except for its value.
#[derive(Clone, Debug, Default)]
pub struct PutRequest {
    /// How to treat an existing item.
    pub mode: PutMode,
    /// Requires that the item has this generation; 0 requires that the item does not exist.
    pub if_generation: Option<u64>,
    /// Time to live; `None` if the item does not expire.
    pub ttl: Option<Ttl>,
    /// The new metadata, which replaces the metadata of an existing item.
    pub metadata: Metadata,
}

impl PutRequest {
    /// Returns whether the outcome depends on the existing item.
    fn is_conditional(&self) -> bool {
        self.mode != PutMode::Overwrite || self.if_generation.is_some()
    }

    /// Returns whether the new value includes the existing one.
    fn concatenates(&self) -> bool {
        matches!(self.mode, PutMode::Append | PutMode::Prepend)
    }
}

/// The records read by [`Kv::check_put`], which the first attempt of [`Kv::put_checked`] reuses.
#[derive(Default)]
pub struct PutCheck {
    store: Option<StoreVersion>,
    /// The item's record, which only conditional puts read; `Some(None)` if the item has no record.
    item: Option<Option<Record>>,
    /// Size of the existing value with which the new one is joined, in bytes.
    joined_bytes: u64,
}

/// The parameters of a delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteRequest {
    /// Succeeds even if the item does not exist.
    pub force: bool,
    /// Requires that the item has this generation.
    pub if_generation: Option<u64>,
}

/// The version of a store's record. Every put into the store requires that this version is
/// unchanged.
pub(super) struct StoreVersion {
    key: Bytes,
    version: u64,
    /// The meta that reopens the store, if it is closing.
    reopen: Option<Bytes>,
}

impl StoreVersion {
    /// Starts a commit that conflicts if the store has been deleted, and that cancels a deletion in
    /// progress.
    pub(super) fn into_commit(self, now: u64) -> Commit {
        let mut commit = Commit { version_min: now, ..Commit::default() };
        if let Some(meta) = self.reopen {
            let record = Some(NewRecord { expires_at: 0, meta, body: Body::EMPTY });
            commit.mutations.push(Mutation { key: self.key.clone(), record });
        }
        commit.preconditions.push(Precondition { key: self.key, version: self.version });
        commit
    }
}

impl Kv {
    /// Reads an item.
    ///
    /// # Errors
    /// Returns [`Error::NoItem`] or [`Error::NoStore`].
    pub async fn get(&self, store: &StoreId, key: &Key) -> Result<Item> {
        self.read_item(store, key, Projection::Full).await
    }

    /// Reads an item without its value.
    ///
    /// # Errors
    /// Same as [`Kv::get`].
    pub async fn head(&self, store: &StoreId, key: &Key) -> Result<Item> {
        self.read_item(store, key, Projection::Meta).await
    }

    async fn read_item(&self, store: &StoreId, key: &Key, projection: Projection) -> Result<Item> {
        let found = self.engine.read(&keyspace::item(store, key), projection).await?;
        let now = self.clock.now();
        match found.filter(|record| record.expires_at == 0 || record.expires_at > now) {
            Some(record) => from_record(record, projection),
            None => {
                self.require_store(store).await?;
                Err(Error::NoItem)
            }
        }
    }

    /// Checks the preconditions of a put before its value is received. `declared` is the size of
    /// the value in bytes, if known.
    ///
    /// # Errors
    /// Same as [`Kv::put`], in the order that docs/contract.md section 11.6 defines.
    pub async fn check_put(
        &self,
        store: &StoreId,
        key: &Key,
        put: &PutRequest,
        declared: Option<u64>,
    ) -> Result<PutCheck> {
        let store_version = Some(self.require_store(store).await?);
        let mut check = PutCheck { store: store_version, ..PutCheck::default() };
        if declared.is_some_and(|bytes| bytes > self.value_bytes_max) {
            return Err(Error::TooLarge(self.value_bytes_max));
        }
        if put.is_conditional() {
            let found = self.engine.read(&keyspace::item(store, key), Projection::Meta).await?;
            preconditions::put(self.item_state(found.as_ref())?, put.mode, put.if_generation)?;
            if let Some(record) = found.as_ref().filter(|_| put.concatenates()) {
                check.joined_bytes = ItemMeta::decode(&record.meta)?.size;
            }
            // An append or prepend reads the existing value only after receiving the new value.
            check.item = Some(found).filter(|found| found.is_none() || !put.concatenates());
        }
        Ok(check)
    }

    /// Returns how much memory to reserve for joining an uploaded value with the existing one, in
    /// bytes.
    pub fn join_memory_bytes(&self, check: &PutCheck) -> u64 {
        match check.joined_bytes {
            size if self.engine.buffers_blobs() => size.saturating_mul(2),
            size => size.min(2 * COPY_BYTES),
        }
    }

    /// Puts an item durably and returns its new generation.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`], [`Error::Precondition`] or [`Error::TooLarge`].
    pub async fn put(
        &self,
        store: &StoreId,
        key: &Key,
        put: &PutRequest,
        value: Value,
    ) -> Result<u64> {
        self.put_checked(store, key, put, PutCheck::default(), value).await
    }

    /// Puts an item and reuses the records that [`Kv::check_put`] read.
    ///
    /// # Errors
    /// Same as [`Kv::put`].
    pub async fn put_checked(
        &self,
        store: &StoreId,
        key: &Key,
        put: &PutRequest,
        mut check: PutCheck,
        value: Value,
    ) -> Result<u64> {
        let key = keyspace::item(store, key);
        let _guard = self.locks.lock(&key, put.is_conditional()).await;
        for _ in 0..ATTEMPTS_MAX {
            // The commit requires the versions that were checked, so it conflicts if a record has
            // changed in the meantime.
            let store_version = match check.store.take() {
                Some(version) => version,
                None => self.require_store(store).await?,
            };
            let now = self.clock.now();
            let mut commit = store_version.into_commit(now);
            let mut body = value.0.clone();
            if put.is_conditional() {
                let reused = check.item.is_some();
                let found = match check.item.take() {
                    Some(found) => found,
                    None if put.concatenates() => self.engine.read(&key, Projection::Full).await?,
                    None => self.engine.read(&key, Projection::Meta).await?,
                };
                let state = self.item_state(found.as_ref())?;
                let action = match preconditions::put(state, put.mode, put.if_generation) {
                    // The item has expired since the check and may have been replaced. Read it
                    // again.
                    Err(_) if reused => continue,
                    action => action?,
                };
                let version = found.as_ref().map_or(0, |record| record.version);
                commit.preconditions.push(Precondition { key: key.clone(), version });
                body = self.new_body(action, found, body).await?;
            }
            if body.len() > self.value_bytes_max {
                return Err(Error::TooLarge(self.value_bytes_max));
            }
            let expires_at = expiry(put.ttl, now);
            commit.mutations.push(put_mutation(key.clone(), expires_at, &put.metadata, body, now));
            if let Outcome::Committed(generation) = self.engine.commit(commit).await? {
                return Ok(generation);
            }
        }
        Err(Error::Busy)
    }

    /// Deletes an item durably.
    ///
    /// # Errors
    /// Returns [`Error::NoStore`], [`Error::NoItem`] or [`Error::Precondition`].
    pub async fn delete(&self, store: &StoreId, key: &Key, delete: DeleteRequest) -> Result<()> {
        self.delete_at(store, &keyspace::item(store, key), delete).await
    }

    /// Deletes the item with this engine key; see [`Kv::delete`].
    pub(super) async fn delete_at(
        &self,
        store: &StoreId,
        key: &Bytes,
        delete: DeleteRequest,
    ) -> Result<()> {
        let _guard = self.locks.lock(key, true).await;
        for _ in 0..ATTEMPTS_MAX {
            self.require_store(store).await?;
            let found = self.engine.read(key, Projection::Meta).await?;
            let state = self.item_state(found.as_ref())?;
            match preconditions::delete(state, delete.force, delete.if_generation)? {
                DeleteAction::Nothing => return Ok(()),
                DeleteAction::Remove => {}
            }
            let version = found.map_or(0, |record| record.version);
            let commit = Commit {
                version_min: self.clock.now(),
                preconditions: vec![Precondition { key: key.clone(), version }],
                mutations: vec![Mutation { key: key.clone(), record: None }],
            };
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    /// Returns the current state of an item, given its record.
    pub(super) fn item_state(&self, found: Option<&Record>) -> Result<ItemState> {
        let Some(record) = found else { return Ok(ItemState::Absent) };
        let meta = ItemMeta::decode(&record.meta)?;
        let generation = meta.generation.unwrap_or(record.version);
        Ok(ItemState::of(Some((generation, record.expires_at)), self.clock.now()))
    }

    /// Reads the version of a store's record. Fails with [`Error::NoStore`] if the store does not
    /// exist.
    pub(super) async fn require_store(&self, store: &StoreId) -> Result<StoreVersion> {
        let key = keyspace::store(store);
        let record = self.engine.read(&key, Projection::Full).await?.ok_or(Error::NoStore)?;
        let reopen = StoreMeta::reopened(&record.meta)?;
        Ok(StoreVersion { key, version: record.version, reopen })
    }

    async fn new_body(&self, act: PutAction, found: Option<Record>, value: Body) -> Result<Body> {
        let existing = found.map_or(Body::EMPTY, |record| record.body);
        let (first, second) = match act {
            PutAction::Replace => return Ok(value),
            PutAction::Append => (existing, value),
            PutAction::Prepend => (value, existing),
        };
        let total = first.len().saturating_add(second.len());
        if total > self.value_bytes_max {
            return Err(Error::TooLarge(self.value_bytes_max));
        }
        if let (Body::Bytes(first), Body::Bytes(second)) = (&first, &second)
            && first.len() + second.len() <= INLINE_BYTES_MAX
        {
            let mut joined = BytesMut::with_capacity(first.len() + second.len());
            joined.extend_from_slice(first);
            joined.extend_from_slice(second);
            return Ok(Body::Bytes(joined.freeze()));
        }
        let mut blob = self.engine.create_blob().await?;
        for part in [first, second] {
            let mut offset = 0;
            while offset < part.len() {
                let len = COPY_BYTES.min(part.len() - offset);
                // The length is at most COPY_BYTES, so it fits a usize.
                blob.write(part.read(offset, len as usize).await?).await?;
                offset += len;
            }
        }
        Ok(blob.finish().await?)
    }
}

/// Returns the expiry time of an item that is put at time `now`; 0 if it never expires.
pub(super) fn expiry(ttl: Option<Ttl>, now: u64) -> u64 {
    let expiry = |ttl: Ttl| now.saturating_add(ttl.secs().saturating_mul(SECOND)).min(MICROS_MAX);
    ttl.map_or(0, expiry)
}

/// Returns the expiry time of a stored record; `None` if it never expires. The time is limited to
/// the year 9999, because earlier builds accepted later times.
pub(super) fn stored_expiry(expires_at: u64) -> Option<u64> {
    (expires_at > 0).then(|| expires_at.min(MICROS_MAX))
}

pub(super) fn put_mutation(
    key: Bytes,
    expires_at: u64,
    metadata: &Metadata,
    body: Body,
    modified_at: u64,
) -> Mutation {
    let (size, metadata) = (body.len(), metadata.clone());
    let meta = ItemMeta { generation: None, modified_at, size, metadata };
    Mutation { key, record: Some(NewRecord { expires_at, meta: meta.encode(), body }) }
}

pub(super) fn from_record(record: Record, projection: Projection) -> Result<Item> {
    let meta = ItemMeta::decode(&record.meta)?;
    if projection == Projection::Full && record.body.len() != meta.size {
        return Err(Error::Internal("stored data is damaged: a value has the wrong size".into()));
    }
    Ok(Item {
        generation: meta.generation.unwrap_or(record.version),
        modified_at: meta.modified_at,
        expires_at: stored_expiry(record.expires_at),
        metadata: meta.metadata,
        size: meta.size,
        value: Value(record.body),
    })
}

#[cfg(test)]
mod tests {
    use super::super::clock::ManualClock;
    use super::super::types::StoreName;
    use super::*;
    use crate::engine::memory::Memory;
    use std::sync::Arc;

    async fn fixture() -> (Kv, Arc<ManualClock>, StoreId, Key) {
        let clock = Arc::new(ManualClock::new(SECOND));
        let kv = Kv::new(Arc::new(Memory::new()), clock.clone(), 100);
        let store = kv.create_store(StoreName::parse("s").unwrap(), None).await.unwrap().id;
        (kv, clock, store, Key::parse(b"k").unwrap())
    }

    fn value(text: &'static str) -> Value {
        Value::from(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn changes_between_check_and_put_are_detected() {
        let (kv, clock, store, key) = fixture().await;
        let overwrite = PutRequest { ttl: Some(Ttl::new(5).unwrap()), ..PutRequest::default() };
        let generation = kv.put(&store, &key, &overwrite, value("a")).await.unwrap();
        let matching = PutRequest { if_generation: Some(generation), ..PutRequest::default() };
        let append = PutRequest { mode: PutMode::Append, ..PutRequest::default() };

        let check = kv.check_put(&store, &key, &append, None).await.unwrap();
        kv.put(&store, &key, &overwrite, value("b")).await.unwrap();
        kv.put_checked(&store, &key, &append, check, value("c")).await.unwrap();
        let item = kv.get(&store, &key).await.unwrap();
        assert_eq!(item.value.in_memory().unwrap(), "bc");
        let stale = kv.check_put(&store, &key, &matching, None).await;
        assert_eq!(stale.err(), Some(Error::Precondition));

        let matching = PutRequest { if_generation: Some(item.generation), ..matching };
        let check = kv.check_put(&store, &key, &matching, None).await.unwrap();
        let other = kv.check_put(&store, &key, &matching, None).await.unwrap();
        kv.put_checked(&store, &key, &matching, check, value("d")).await.unwrap();
        let put = kv.put_checked(&store, &key, &matching, other, value("e")).await;
        assert_eq!(put, Err(Error::Precondition));

        let generation = kv.put(&store, &key, &overwrite, value("f")).await.unwrap();
        let matching = PutRequest { if_generation: Some(generation), ..matching };
        let check = kv.check_put(&store, &key, &matching, None).await.unwrap();
        clock.advance(5 * SECOND);
        let put = kv.put_checked(&store, &key, &matching, check, value("g")).await;
        assert_eq!(put, Err(Error::Precondition), "the item expired after the check");

        let check = kv.check_put(&store, &key, &overwrite, None).await.unwrap();
        kv.delete_store(&store).await.unwrap();
        let put = kv.put_checked(&store, &key, &overwrite, check, value("h")).await;
        assert_eq!(put, Err(Error::NoStore));
    }
}
