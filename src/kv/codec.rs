//! How stores and items are written into an engine's records. docs/format.md describes the bytes;
//! their checksums are the engine's.

use super::tokens::{Grant, Scope, TokenId};
use super::types::{Location, Metadata, StoreId, StoreName};
use super::{Error, StoreInfo};
use bytes::{BufMut, Bytes, BytesMut};

/// The version of these encodings; the first byte of every head.
const FORMAT: u8 = 1;
/// The first byte of the head of an item that brought its generation along.
const FORMAT_BROUGHT: u8 = 2;
const ITEM_FIXED: usize = 1 + 8 + 8;
const STORE_FIXED: usize = 1 + 1 + 1 + 8 + 8 + StoreId::LEN;
const TOKEN_FIXED: usize = 1 + 1 + 8 + StoreId::LEN + 1 + 2;

/// What an item's head holds; the time of expiry is the record's `expires_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemMeta {
    /// The generation it had where it came from; without one its record's version counts.
    pub generation: Option<u64>,
    /// When it was written, in microseconds.
    pub modified_at: u64,
    /// Bytes of its value.
    pub size: u64,
    /// Its metadata.
    pub metadata: Metadata,
}

impl ItemMeta {
    /// To bytes.
    pub fn encode(&self) -> Bytes {
        let metadata = self.metadata.as_bytes();
        let mut meta = BytesMut::with_capacity(ITEM_FIXED + 8 + metadata.len());
        meta.put_u8(if self.generation.is_some() { FORMAT_BROUGHT } else { FORMAT });
        meta.put_u64_le(self.modified_at);
        meta.put_u64_le(self.size);
        if let Some(generation) = self.generation {
            meta.put_u64_le(generation);
        }
        meta.put_slice(metadata);
        meta.freeze()
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are none of this format.
    pub fn decode(meta: &Bytes) -> Result<ItemMeta, Error> {
        let ([format], rest) = split::<1>(meta)?;
        let (modified_at, rest) = split::<8>(rest)?;
        let (size, rest) = split::<8>(rest)?;
        let (generation, fixed) = match format {
            FORMAT => (None, ITEM_FIXED),
            FORMAT_BROUGHT => (Some(u64::from_le_bytes(split::<8>(rest)?.0)), ITEM_FIXED + 8),
            _ => return Err(damaged("an item of an unknown format")),
        };
        Ok(ItemMeta {
            generation,
            modified_at: u64::from_le_bytes(modified_at),
            size: u64::from_le_bytes(size),
            metadata: Metadata::stored(meta.slice(fixed..)),
        })
    }
}

/// What a store's head holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMeta {
    /// What the API shows.
    pub info: StoreInfo,
    /// Where it shall live.
    pub location: Option<Location>,
    /// A delete is looking whether it is empty; see [`super::stores`].
    pub closing: bool,
}

impl StoreMeta {
    /// To bytes.
    pub fn encode(&self) -> Bytes {
        let name = self.info.name.as_str().as_bytes();
        let mut meta = BytesMut::with_capacity(STORE_FIXED + name.len());
        meta.put_u8(FORMAT);
        meta.put_u8(match self.location {
            None => 0,
            Some(Location::Asia) => 1,
            Some(Location::Aus) => 2,
            Some(Location::Eu) => 3,
            Some(Location::Us) => 4,
        });
        meta.put_u8(u8::from(self.closing));
        meta.put_u64_le(self.info.created_at);
        meta.put_u64_le(self.info.updated_at);
        meta.put_slice(self.info.id.as_bytes());
        meta.put_slice(name);
        meta.freeze()
    }

    /// The head that makes a closing store open again; `None` when it is open.
    ///
    /// # Errors
    /// [`Error::Internal`] when the bytes are none of this format.
    pub fn reopened(meta: &[u8]) -> Result<Option<Bytes>, Error> {
        // The common case looks at three bytes: every put passes here.
        if let [FORMAT, _, 0, ..] = meta {
            return Ok(None);
        }
        let open = StoreMeta { closing: false, ..StoreMeta::decode(meta)? };
        Ok(Some(open.encode()))
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are none of this format.
    pub fn decode(meta: &[u8]) -> Result<StoreMeta, Error> {
        let ([format, location, closing], rest) = split::<3>(meta)?;
        let (created_at, rest) = split::<8>(rest)?;
        let (updated_at, rest) = split::<8>(rest)?;
        let (id, name) = split::<{ StoreId::LEN }>(rest)?;
        let location = match location {
            0 => None,
            1 => Some(Location::Asia),
            2 => Some(Location::Aus),
            3 => Some(Location::Eu),
            4 => Some(Location::Us),
            _ => return Err(damaged("a store of an unknown location")),
        };
        if format != FORMAT || closing > 1 {
            return Err(damaged("a store of an unknown format"));
        }
        let name = std::str::from_utf8(name).map_err(|_| damaged("a store's name"))?;
        let info = StoreInfo {
            id: StoreId::parse(&id).map_err(|_| damaged("a store's id"))?,
            name: StoreName::parse(name).map_err(|_| damaged("a store's name"))?,
            created_at: u64::from_le_bytes(created_at),
            updated_at: u64::from_le_bytes(updated_at),
        };
        Ok(StoreMeta { info, location, closing: closing == 1 })
    }
}

/// What a limited token's head holds; the time of expiry is the record's `expires_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMeta {
    /// Its id.
    pub id: TokenId,
    /// What it was made for.
    pub grant: Grant,
    /// When it was made, in microseconds.
    pub created_at: u64,
}

impl TokenMeta {
    /// To bytes.
    pub fn encode(&self) -> Bytes {
        let (name, prefix) = (self.grant.name().as_bytes(), self.grant.prefix().as_bytes());
        let stores = self.grant.stores();
        let variable = stores.len() * StoreId::LEN + name.len() + prefix.len();
        let mut meta = BytesMut::with_capacity(TOKEN_FIXED + variable);
        meta.put_u8(FORMAT);
        meta.put_u8(match self.grant.scope() {
            Scope::Global => 0,
            Scope::Read => 1,
        });
        meta.put_u64_le(self.created_at);
        meta.put_slice(self.id.as_bytes());
        // A grant has at most 100 stores, and a name of at most 1020 bytes.
        meta.put_u8(stores.len() as u8);
        for store in stores {
            meta.put_slice(store.as_bytes());
        }
        meta.put_u16_le(name.len() as u16);
        meta.put_slice(name);
        meta.put_slice(prefix);
        meta.freeze()
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are none of this format.
    pub fn decode(meta: &[u8]) -> Result<TokenMeta, Error> {
        let ([format, scope], rest) = split::<2>(meta)?;
        let (created_at, rest) = split::<8>(rest)?;
        let (id, rest) = split::<{ StoreId::LEN }>(rest)?;
        let ([count], mut rest) = split::<1>(rest)?;
        let scope = match scope {
            0 => Scope::Global,
            1 => Scope::Read,
            _ => return Err(damaged("a token of an unknown scope")),
        };
        if format != FORMAT {
            return Err(damaged("a token of an unknown format"));
        }
        let mut stores = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (store, after) = split::<{ StoreId::LEN }>(rest)?;
            stores.push(StoreId::parse(&store).map_err(|_| damaged("a token's store"))?);
            rest = after;
        }
        let (len, rest) = split::<2>(rest)?;
        let len = usize::from(u16::from_le_bytes(len));
        let (name, prefix) =
            rest.split_at_checked(len).ok_or_else(|| damaged("a token cut short"))?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| damaged("a token's text"));
        let given = stores.len();
        let grant = Grant::new(text(name)?, scope, stores, text(prefix)?)
            .ok()
            .filter(|grant| grant.stores().len() == given)
            .ok_or_else(|| damaged("a token's limits"))?;
        let id = TokenId::parse(&id).map_err(|_| damaged("a token's id"))?;
        Ok(TokenMeta { id, grant, created_at: u64::from_le_bytes(created_at) })
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    let (meta, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("a record cut short"))?;
    Ok((*meta, rest))
}

fn damaged(what: &str) -> Error {
    Error::Internal(format!("stored data is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn item_heads_round_trip(generation: Option<u64>, modified_at: u64, size: u64,
            meta in "[ -~é]{0,300}") {
            let metadata = Metadata::stored(Bytes::from(meta));
            let meta = ItemMeta { generation, modified_at, size, metadata };
            prop_assert_eq!(ItemMeta::decode(&meta.encode()).ok(), Some(meta));
        }

        #[test]
        fn store_heads_round_trip(created_at: u64, updated_at: u64, name in "[a-zA-Z][ -~é]{0,200}",
            closing: bool, place in 0..5_usize) {
            let info = StoreInfo {
                id: StoreId::random().unwrap(), name: StoreName::parse(&name).unwrap(),
                created_at, updated_at,
            };
            let places = ["US", "EU", "ASIA", "AUS"];
            let location = places.get(place).map(|text| Location::parse(text).unwrap());
            let meta = StoreMeta { info, location, closing };
            prop_assert_eq!(StoreMeta::decode(&meta.encode()).ok(), Some(meta));
        }

        #[test]
        fn token_heads_round_trip(created_at: u64, name in "[ -~é]{1,200}", count in 0..101_usize,
            reads: bool, prefix in "[ -~é]{0,200}") {
            let stores = (0..count).map(|_| StoreId::random().unwrap()).collect();
            let scope = if reads { Scope::Read } else { Scope::Global };
            let grant = Grant::new(&name, scope, stores, &prefix).unwrap();
            let meta = TokenMeta { id: TokenId::random().unwrap(), grant, created_at };
            prop_assert_eq!(TokenMeta::decode(&meta.encode()).ok(), Some(meta));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = ItemMeta::decode(&bytes);
            let _ = StoreMeta::decode(&bytes);
            let _ = TokenMeta::decode(&bytes);
        }
    }
}
