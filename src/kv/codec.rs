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

/// What an item's head holds; the time of expiry is the record's `due`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemHead {
    /// The generation it had where it came from; without one its record's version counts.
    pub generation: Option<u64>,
    /// When it was written, in microseconds.
    pub modified: u64,
    /// Bytes of its value.
    pub size: u64,
    /// Its metadata.
    pub metadata: Metadata,
}

impl ItemHead {
    /// To bytes.
    pub fn encode(&self) -> Bytes {
        let metadata = self.metadata.as_bytes();
        let mut head = BytesMut::with_capacity(ITEM_FIXED + 8 + metadata.len());
        head.put_u8(if self.generation.is_some() { FORMAT_BROUGHT } else { FORMAT });
        head.put_u64_le(self.modified);
        head.put_u64_le(self.size);
        if let Some(generation) = self.generation {
            head.put_u64_le(generation);
        }
        head.put_slice(metadata);
        head.freeze()
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are none of this format.
    pub fn decode(head: &Bytes) -> Result<ItemHead, Error> {
        let ([format], rest) = split::<1>(head)?;
        let (modified, rest) = split::<8>(rest)?;
        let (size, rest) = split::<8>(rest)?;
        let (generation, fixed) = match format {
            FORMAT => (None, ITEM_FIXED),
            FORMAT_BROUGHT => (Some(u64::from_le_bytes(split::<8>(rest)?.0)), ITEM_FIXED + 8),
            _ => return Err(damaged("an item of an unknown format")),
        };
        Ok(ItemHead {
            generation,
            modified: u64::from_le_bytes(modified),
            size: u64::from_le_bytes(size),
            metadata: Metadata::stored(head.slice(fixed..)),
        })
    }
}

/// What a store's head holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHead {
    /// What the API shows.
    pub info: StoreInfo,
    /// Where it shall live.
    pub location: Option<Location>,
    /// A delete is looking whether it is empty; see [`super::stores`].
    pub closing: bool,
}

impl StoreHead {
    /// To bytes.
    pub fn encode(&self) -> Bytes {
        let name = self.info.name.as_str().as_bytes();
        let mut head = BytesMut::with_capacity(STORE_FIXED + name.len());
        head.put_u8(FORMAT);
        head.put_u8(match self.location {
            None => 0,
            Some(Location::Asia) => 1,
            Some(Location::Aus) => 2,
            Some(Location::Eu) => 3,
            Some(Location::Us) => 4,
        });
        head.put_u8(u8::from(self.closing));
        head.put_u64_le(self.info.created);
        head.put_u64_le(self.info.updated);
        head.put_slice(self.info.id.as_bytes());
        head.put_slice(name);
        head.freeze()
    }

    /// The head that makes a closing store open again; `None` when it is open.
    ///
    /// # Errors
    /// [`Error::Internal`] when the bytes are none of this format.
    pub fn reopened(head: &[u8]) -> Result<Option<Bytes>, Error> {
        // The common case looks at three bytes: every put passes here.
        if let [FORMAT, _, 0, ..] = head {
            return Ok(None);
        }
        let open = StoreHead { closing: false, ..StoreHead::decode(head)? };
        Ok(Some(open.encode()))
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are none of this format.
    pub fn decode(head: &[u8]) -> Result<StoreHead, Error> {
        let ([format, location, closing], rest) = split::<3>(head)?;
        let (created, rest) = split::<8>(rest)?;
        let (updated, rest) = split::<8>(rest)?;
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
            created: u64::from_le_bytes(created),
            updated: u64::from_le_bytes(updated),
        };
        Ok(StoreHead { info, location, closing: closing == 1 })
    }
}

/// What a limited token's head holds; the time of expiry is the record's `due`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHead {
    /// Its id.
    pub id: TokenId,
    /// What it was made for.
    pub grant: Grant,
    /// When it was made, in microseconds.
    pub created: u64,
}

impl TokenHead {
    /// To bytes.
    pub fn encode(&self) -> Bytes {
        let (name, prefix) = (self.grant.name().as_bytes(), self.grant.prefix().as_bytes());
        let stores = self.grant.stores();
        let variable = stores.len() * StoreId::LEN + name.len() + prefix.len();
        let mut head = BytesMut::with_capacity(TOKEN_FIXED + variable);
        head.put_u8(FORMAT);
        head.put_u8(match self.grant.scope() {
            Scope::Global => 0,
            Scope::Read => 1,
        });
        head.put_u64_le(self.created);
        head.put_slice(self.id.as_bytes());
        // A grant has at most 100 stores, and a name of at most 1020 bytes.
        head.put_u8(stores.len() as u8);
        for store in stores {
            head.put_slice(store.as_bytes());
        }
        head.put_u16_le(name.len() as u16);
        head.put_slice(name);
        head.put_slice(prefix);
        head.freeze()
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are none of this format.
    pub fn decode(head: &[u8]) -> Result<TokenHead, Error> {
        let ([format, scope], rest) = split::<2>(head)?;
        let (created, rest) = split::<8>(rest)?;
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
        Ok(TokenHead { id, grant, created: u64::from_le_bytes(created) })
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    let (head, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("a record cut short"))?;
    Ok((*head, rest))
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
        fn item_heads_round_trip(generation: Option<u64>, modified: u64, size: u64,
            meta in "[ -~é]{0,300}") {
            let metadata = Metadata::stored(Bytes::from(meta));
            let head = ItemHead { generation, modified, size, metadata };
            prop_assert_eq!(ItemHead::decode(&head.encode()).ok(), Some(head));
        }

        #[test]
        fn store_heads_round_trip(created: u64, updated: u64, name in "[a-zA-Z][ -~é]{0,200}",
            closing: bool, place in 0..5_usize) {
            let info = StoreInfo {
                id: StoreId::random().unwrap(), name: StoreName::parse(&name).unwrap(),
                created, updated,
            };
            let places = ["US", "EU", "ASIA", "AUS"];
            let location = places.get(place).map(|text| Location::parse(text).unwrap());
            let head = StoreHead { info, location, closing };
            prop_assert_eq!(StoreHead::decode(&head.encode()).ok(), Some(head));
        }

        #[test]
        fn token_heads_round_trip(created: u64, name in "[ -~é]{1,200}", count in 0..101_usize,
            reads: bool, prefix in "[ -~é]{0,200}") {
            let stores = (0..count).map(|_| StoreId::random().unwrap()).collect();
            let scope = if reads { Scope::Read } else { Scope::Global };
            let grant = Grant::new(&name, scope, stores, &prefix).unwrap();
            let head = TokenHead { id: TokenId::random().unwrap(), grant, created };
            prop_assert_eq!(TokenHead::decode(&head.encode()).ok(), Some(head));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = ItemHead::decode(&bytes);
            let _ = StoreHead::decode(&bytes);
            let _ = TokenHead::decode(&bytes);
        }
    }
}
