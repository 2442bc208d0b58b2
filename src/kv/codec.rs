//! Encodes items, stores and tokens as record metas. docs/format.md specifies the encoding; engines
//! add the checksums. Decoding a malformed meta fails with [`Error::Internal`].

use super::tokens::{Grant, Scope, TokenId};
use super::types::{Location, Metadata, StoreId, StoreName};
use super::{Error, Result, StoreInfo};
use crate::wire::MICROS_MAX;
use bytes::{BufMut, Bytes, BytesMut};

/// The format version, which is the first byte of a meta.
const FORMAT: u8 = 1;
/// The format version in the meta of an item with an explicit generation.
const FORMAT_WITH_GENERATION: u8 = 2;
const ITEM_FIXED: usize = 1 + 8 + 8;
const STORE_FIXED: usize = 1 + 1 + 1 + 8 + 8 + StoreId::LEN;
const TOKEN_FIXED: usize = 1 + 1 + 8 + StoreId::LEN + 1 + 2;

/// The meta of an item. The expiry time is in [`Record::expires_at`](crate::engine::Record).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemMeta {
    /// The imported or restored generation; if `None`, the record's version is the generation.
    pub generation: Option<u64>,
    /// When the item was written, in microseconds since the Unix epoch.
    pub modified_at: u64,
    /// Size of the value, in bytes.
    pub size: u64,
    /// The user metadata.
    pub metadata: Metadata,
}

impl ItemMeta {
    /// Encodes the meta.
    pub fn encode(&self) -> Bytes {
        let metadata = self.metadata.as_bytes();
        let mut meta = BytesMut::with_capacity(ITEM_FIXED + 8 + metadata.len());
        meta.put_u8(if self.generation.is_some() { FORMAT_WITH_GENERATION } else { FORMAT });
        meta.put_u64_le(self.modified_at);
        meta.put_u64_le(self.size);
        if let Some(generation) = self.generation {
            meta.put_u64_le(generation);
        }
        meta.put_slice(metadata);
        meta.freeze()
    }

    /// Decodes a meta.
    pub fn decode(meta: &Bytes) -> Result<ItemMeta> {
        let ([format], rest) = split::<1>(meta)?;
        let (modified_at, rest) = split_time(rest)?;
        let (size, rest) = split_u64(rest)?;
        let (generation, fixed) = match format {
            FORMAT => (None, ITEM_FIXED),
            FORMAT_WITH_GENERATION => (Some(split_u64(rest)?.0), ITEM_FIXED + 8),
            _ => return Err(damaged("unknown item format")),
        };
        let metadata = Metadata::from_stored(meta.slice(fixed..));
        Ok(ItemMeta { generation, modified_at, size, metadata })
    }
}

/// The meta of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMeta {
    /// The properties shown by the API.
    pub info: StoreInfo,
    /// The requested region.
    pub location: Option<Location>,
    /// Whether a deletion of the store is in progress; see [`super::stores`].
    pub closing: bool,
}

impl StoreMeta {
    /// Encodes the meta.
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

    /// Returns the meta that reopens a closing store; `None` if the store is open.
    pub fn reopened(meta: &[u8]) -> Result<Option<Bytes>> {
        // The meta of an open store is not decoded, because every put calls this function.
        if let [FORMAT, _, 0, ..] = meta {
            return Ok(None);
        }
        let open = StoreMeta { closing: false, ..StoreMeta::decode(meta)? };
        Ok(Some(open.encode()))
    }

    /// Decodes a meta.
    pub fn decode(meta: &[u8]) -> Result<StoreMeta> {
        let ([format, location, closing], rest) = split::<3>(meta)?;
        let (created_at, rest) = split_time(rest)?;
        let (updated_at, rest) = split_time(rest)?;
        let (id, name) = split::<{ StoreId::LEN }>(rest)?;
        let location = match location {
            0 => None,
            1 => Some(Location::Asia),
            2 => Some(Location::Aus),
            3 => Some(Location::Eu),
            4 => Some(Location::Us),
            _ => return Err(damaged("unknown store location")),
        };
        if format != FORMAT || closing > 1 {
            return Err(damaged("unknown store format"));
        }
        let name = std::str::from_utf8(name).map_err(|_| damaged("invalid store name"))?;
        let id = StoreId::parse(&id).map_err(|_| damaged("invalid store id"))?;
        let name = StoreName::parse(name).map_err(|_| damaged("invalid store name"))?;
        let info = StoreInfo { id, name, created_at, updated_at };
        Ok(StoreMeta { info, location, closing: closing == 1 })
    }
}

/// The meta of a limited token. The expiry time is in
/// [`Record::expires_at`](crate::engine::Record).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMeta {
    /// The token's id.
    pub id: TokenId,
    /// The token's name and permissions.
    pub grant: Grant,
    /// When the token was created, in microseconds since the Unix epoch.
    pub created_at: u64,
}

impl TokenMeta {
    /// Encodes the meta.
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
        // Both lengths fit, because a grant has at most 100 stores and a name of at most 1020
        // bytes.
        meta.put_u8(stores.len() as u8);
        for store in stores {
            meta.put_slice(store.as_bytes());
        }
        meta.put_u16_le(name.len() as u16);
        meta.put_slice(name);
        meta.put_slice(prefix);
        meta.freeze()
    }

    /// Decodes a meta.
    pub fn decode(meta: &[u8]) -> Result<TokenMeta> {
        let ([format, scope], rest) = split::<2>(meta)?;
        let (created_at, rest) = split_time(rest)?;
        let (id, rest) = split::<{ StoreId::LEN }>(rest)?;
        let ([count], mut rest) = split::<1>(rest)?;
        let scope = match scope {
            0 => Scope::Global,
            1 => Scope::Read,
            _ => return Err(damaged("unknown token scope")),
        };
        if format != FORMAT {
            return Err(damaged("unknown token format"));
        }
        let mut stores = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (store, tail) = split::<{ StoreId::LEN }>(rest)?;
            stores.push(StoreId::parse(&store).map_err(|_| damaged("invalid store id"))?);
            rest = tail;
        }
        let (len, rest) = split::<2>(rest)?;
        let len = usize::from(u16::from_le_bytes(len));
        let (name, prefix) =
            rest.split_at_checked(len).ok_or_else(|| damaged("truncated token"))?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| damaged("invalid token text"));
        let count = stores.len();
        let grant = Grant::new(text(name)?, scope, stores, text(prefix)?)
            .ok()
            .filter(|grant| grant.stores().len() == count)
            .ok_or_else(|| damaged("invalid token limits"))?;
        let id = TokenId::parse(&id).map_err(|_| damaged("invalid token id"))?;
        Ok(TokenMeta { id, grant, created_at })
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8])> {
    let (meta, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("truncated record"))?;
    Ok((*meta, rest))
}

fn split_u64(bytes: &[u8]) -> Result<(u64, &[u8])> {
    split(bytes).map(|(number, rest)| (u64::from_le_bytes(number), rest))
}

/// Reads a time in microseconds since the Unix epoch and limits it to the end of the year 9999.
/// Earlier builds accepted later times, which the date formats of the API cannot express.
fn split_time(bytes: &[u8]) -> Result<(u64, &[u8])> {
    split_u64(bytes).map(|(time, rest)| (time.min(MICROS_MAX), rest))
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
        fn item_metas_round_trip(generation: Option<u64>, modified_at in 0..=MICROS_MAX,
            size: u64, meta in "[ -~é]{0,300}") {
            let metadata = Metadata::from_stored(Bytes::from(meta));
            let meta = ItemMeta { generation, modified_at, size, metadata };
            prop_assert_eq!(ItemMeta::decode(&meta.encode()).ok(), Some(meta));
        }

        #[test]
        fn store_metas_round_trip(created_at in 0..=MICROS_MAX, updated_at in 0..=MICROS_MAX,
            name in "[a-zA-Z][ -~é]{0,200}",
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
        fn token_metas_round_trip(created_at in 0..=MICROS_MAX, name in "[ -~é]{1,200}",
            count in 0..101_usize,
            reads: bool, prefix in "[ -~é]{0,200}") {
            let stores = (0..count).map(|_| StoreId::random().unwrap()).collect();
            let scope = if reads { Scope::Read } else { Scope::Global };
            let grant = Grant::new(&name, scope, stores, &prefix).unwrap();
            let meta = TokenMeta { id: TokenId::random().unwrap(), grant, created_at };
            prop_assert_eq!(TokenMeta::decode(&meta.encode()).ok(), Some(meta));
        }

        #[test]
        fn decoding_arbitrary_bytes_does_not_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = ItemMeta::decode(&bytes);
            let _ = StoreMeta::decode(&bytes);
            let _ = TokenMeta::decode(&bytes);
        }
    }
}
