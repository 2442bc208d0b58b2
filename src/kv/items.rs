//! Items: get, put, delete.

use super::clock::SECOND;
use super::codec::{ItemMeta, StoreMeta};
use super::preconditions::{self, Combine, Current, PutMode, Removal};
use super::types::{Key, Metadata, StoreId, Ttl};
use super::{ATTEMPTS_MAX, Error, Kv, Value, keyspace};
use crate::engine::{
    Body, Commit, INLINE_BYTES_MAX, Mutation, NewRecord, Outcome, Precondition, Projection, Record,
};
use bytes::{Bytes, BytesMut};

/// Bytes copied at once when a large value is put together from two.
const COPY_BYTES: u64 = 1 << 20;

/// An item as it is read.
#[derive(Clone, Debug)]
pub struct Item {
    /// Changes with each write; never the same twice for a key.
    pub generation: u64,
    /// When it was written, in microseconds.
    pub modified_at: u64,
    /// When it expires, in microseconds; `None` for never.
    pub expires_at: Option<u64>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Bytes of its value.
    pub size: u64,
    /// Its value; empty when only the head was asked for.
    pub value: Value,
}

/// How an item is put.
#[derive(Clone, Debug, Default)]
pub struct PutRequest {
    /// What happens to an item that is there.
    pub mode: PutMode,
    /// Only if the item has this generation; 0: only if there is none.
    pub if_generation: Option<u64>,
    /// For how long it lives from now.
    pub ttl: Option<Ttl>,
    /// Its metadata; nothing is inherited from an item that is there.
    pub metadata: Metadata,
}

impl PutRequest {
    /// Whether what is there decides what happens.
    fn conditional(&self) -> bool {
        self.mode != PutMode::Overwrite || self.if_generation.is_some()
    }
}

/// How an item is deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteRequest {
    /// An item that is not there is no error.
    pub force: bool,
    /// Only if the item has this generation.
    pub if_generation: Option<u64>,
}

/// A store that a write found: its version, and its head when the write must reopen it.
pub(super) struct OpenStore {
    pub(super) key: Bytes,
    pub(super) version: u64,
    pub(super) reopen: Option<Bytes>,
}

impl OpenStore {
    /// A commit that loses to the deletion of the store, and wins over one that is not done yet.
    pub(super) fn commit(self, now: u64) -> Commit {
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
    /// The item under a key.
    ///
    /// # Errors
    /// [`Error::NoItem`], [`Error::NoStore`], or when the engine fails.
    pub async fn get(&self, store: &StoreId, key: &Key) -> Result<Item, Error> {
        self.find(store, key, Projection::Full).await
    }

    /// The item under a key, its value left empty; costs no read of the value.
    ///
    /// # Errors
    /// As [`Kv::get`].
    pub async fn head(&self, store: &StoreId, key: &Key) -> Result<Item, Error> {
        self.find(store, key, Projection::Meta).await
    }

    async fn find(&self, store: &StoreId, key: &Key, part: Projection) -> Result<Item, Error> {
        let found = self.engine.read(&keyspace::item(store, key), part).await?;
        let now = self.clock.now();
        match found {
            Some(record) if record.expires_at == 0 || record.expires_at > now => item(record, part),
            _ => {
                self.open_store(store).await?;
                Err(Error::NoItem)
            }
        }
    }

    /// Whether a put would be refused as things stand, before its value is asked for. `declared`
    /// is the value's size where it is known.
    ///
    /// # Errors
    /// As [`Kv::put`].
    pub async fn check_put(
        &self,
        store: &StoreId,
        key: &Key,
        put: &PutRequest,
        declared: Option<u64>,
    ) -> Result<(), Error> {
        self.open_store(store).await?;
        if declared.is_some_and(|bytes| bytes > self.value_bytes_max) {
            return Err(Error::TooLarge(self.value_bytes_max));
        }
        if put.conditional() {
            let found = self.engine.read(&keyspace::item(store, key), Projection::Meta).await?;
            preconditions::put(self.current(found.as_ref())?, put.mode, put.if_generation)?;
        }
        Ok(())
    }

    /// Puts an item; durable when it answers, with the item's new generation.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::Precondition`], [`Error::TooLarge`], or when the engine fails.
    pub async fn put(
        &self,
        store: &StoreId,
        key: &Key,
        put: &PutRequest,
        value: Value,
    ) -> Result<u64, Error> {
        let at = keyspace::item(store, key);
        let _place = self.locks.enter(&at, put.conditional()).await;
        for _ in 0..ATTEMPTS_MAX {
            let open = self.open_store(store).await?;
            let now = self.clock.now();
            let mut commit = open.commit(now);
            let mut body = value.0.clone();
            if put.conditional() {
                let joins = matches!(put.mode, PutMode::Append | PutMode::Prepend);
                let part = if joins { Projection::Full } else { Projection::Meta };
                let found = self.engine.read(&at, part).await?;
                let current = self.current(found.as_ref())?;
                let combine = preconditions::put(current, put.mode, put.if_generation)?;
                let version = found.as_ref().map_or(0, |record| record.version);
                commit.preconditions.push(Precondition { key: at.clone(), version });
                body = self.combine(combine, found, body).await?;
            }
            if body.len() > self.value_bytes_max {
                return Err(Error::TooLarge(self.value_bytes_max));
            }
            commit.mutations.push(write(
                at.clone(),
                expires_at(put.ttl, now),
                &put.metadata,
                body,
                now,
            ));
            if let Outcome::Committed(generation) = self.engine.commit(commit).await? {
                return Ok(generation);
            }
        }
        Err(Error::Busy)
    }

    /// Deletes an item; durable when it answers.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::NoItem`], [`Error::Precondition`], or when the engine fails.
    pub async fn delete(
        &self,
        store: &StoreId,
        key: &Key,
        delete: DeleteRequest,
    ) -> Result<(), Error> {
        let at = keyspace::item(store, key);
        let _place = self.locks.enter(&at, true).await;
        for _ in 0..ATTEMPTS_MAX {
            self.open_store(store).await?;
            let found = self.engine.read(&at, Projection::Meta).await?;
            let current = self.current(found.as_ref())?;
            if preconditions::delete(current, delete.force, delete.if_generation)?
                == Removal::Nothing
            {
                return Ok(());
            }
            let version = found.map_or(0, |record| record.version);
            let commit = Commit {
                version_min: self.clock.now(),
                preconditions: vec![Precondition { key: at.clone(), version }],
                mutations: vec![Mutation { key: at.clone(), record: None }],
            };
            if let Outcome::Committed(_) = self.engine.commit(commit).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    /// What a record is at this moment.
    pub(super) fn current(&self, found: Option<&Record>) -> Result<Current, Error> {
        let Some(record) = found else { return Ok(Current::Absent) };
        let meta = ItemMeta::decode(&record.meta)?;
        let generation = meta.generation.unwrap_or(record.version);
        Ok(Current::of(Some((generation, record.expires_at)), self.clock.now()))
    }

    /// The store, for a write into it.
    pub(super) async fn open_store(&self, store: &StoreId) -> Result<OpenStore, Error> {
        let key = keyspace::store(store);
        let record = self.engine.read(&key, Projection::Full).await?.ok_or(Error::NoStore)?;
        let meta = StoreMeta::reopened(&record.meta)?;
        Ok(OpenStore { key, version: record.version, reopen: meta })
    }

    /// The value that a put leaves.
    async fn combine(
        &self,
        combine: Combine,
        found: Option<Record>,
        value: Body,
    ) -> Result<Body, Error> {
        let there = found.map_or(Body::EMPTY, |record| record.body);
        let (first, second) = match combine {
            Combine::Replace => return Ok(value),
            Combine::Append => (there, value),
            Combine::Prepend => (value, there),
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
        let mut stage = self.engine.create_blob().await?;
        for part in [first, second] {
            let mut offset = 0;
            while offset < part.len() {
                let len = COPY_BYTES.min(part.len() - offset);
                // At most COPY_BYTES, which fits.
                stage.write(part.read(offset, len as usize).await?).await?;
                offset += len;
            }
        }
        Ok(stage.finish().await?)
    }
}

/// When an item expires that is put now; 0 for never.
pub(super) fn expires_at(ttl: Option<Ttl>, now: u64) -> u64 {
    ttl.map_or(0, |ttl| now.saturating_add(ttl.secs().saturating_mul(SECOND)))
}

/// The write that puts an item.
pub(super) fn write(
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

/// The item that a record holds.
pub(super) fn item(record: Record, part: Projection) -> Result<Item, Error> {
    let meta = ItemMeta::decode(&record.meta)?;
    if part == Projection::Full && record.body.len() != meta.size {
        return Err(Error::Internal("stored data is damaged: a value of another size".into()));
    }
    Ok(Item {
        generation: meta.generation.unwrap_or(record.version),
        modified_at: meta.modified_at,
        expires_at: (record.expires_at > 0).then_some(record.expires_at),
        metadata: meta.metadata,
        size: meta.size,
        value: Value(record.body),
    })
}
