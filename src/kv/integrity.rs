//! What must hold of all records together, whatever engine keeps them.

use super::clock::Clock;
use super::codec::{ItemMeta, StoreMeta, TokenMeta};
use super::keyspace::{self, ITEMS, ORDER, STORES, TOKEN_HASH_BYTES, TOKENS};
use super::types::{Key, StoreId};
use crate::engine::copy;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Looks at records in the order of their keys; says what is wrong with each, and at the end what
/// is wrong with all.
#[derive(Debug, Default)]
pub struct IntegrityChecker {
    now: u64,
    /// Items, by the id of their store.
    items: BTreeMap<[u8; StoreId::LEN], u64>,
    /// Stores in the order of lists, by their heads.
    ordered: BTreeMap<Bytes, Vec<u8>>,
    stores: u64,
    /// Items whose store was found, or does not matter.
    counted: u64,
    problems: Vec<String>,
}

/// What a [`IntegrityChecker`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Stores.
    pub stores: u64,
    /// Items, expired ones too.
    pub items: u64,
}

impl IntegrityChecker {
    /// For records as they are now.
    pub fn new(clock: &dyn Clock) -> IntegrityChecker {
        IntegrityChecker { now: clock.now(), ..IntegrityChecker::default() }
    }

    /// Takes the next record.
    pub fn record(&mut self, key: &[u8], expires_at: u64, meta: &[u8], body_len: u64) {
        // What has expired may outlive its store until it is swept.
        let expired = expires_at > 0 && expires_at <= self.now;
        let judged = match key.split_first() {
            Some((&ITEMS, rest)) => self.item(rest, meta, body_len, expired),
            Some((&ORDER, _)) => {
                self.ordered.insert(Bytes::copy_from_slice(key), meta.to_vec());
                Ok(())
            }
            Some((&STORES, id)) => self.store(id, meta),
            Some((&TOKENS, hash)) => token(hash, meta),
            _ if key == copy::MARKER_KEY => Err("a copy into here is not finished".into()),
            _ => Err("a record of an unknown kind".into()),
        };
        if let Err(what) = judged {
            self.problems.push(format!("record {:?}: {what}", String::from_utf8_lossy(key)));
        }
    }

    fn item(
        &mut self,
        rest: &[u8],
        meta: &[u8],
        body_len: u64,
        expired: bool,
    ) -> Result<(), String> {
        let (id, key) = rest.split_first_chunk().ok_or("a key without a store")?;
        if expired {
            self.counted += 1;
        } else {
            *self.items.entry(*id).or_default() += 1;
        }
        Key::parse(key).map_err(|e| e.to_string())?;
        let meta = ItemMeta::decode(&Bytes::copy_from_slice(meta)).map_err(|e| e.to_string())?;
        if meta.size != body_len {
            return Err(format!("its value has {body_len} bytes, and should have {}", meta.size));
        }
        Ok(())
    }

    fn store(&mut self, id: &[u8], meta: &[u8]) -> Result<(), String> {
        self.stores += 1;
        let decoded = StoreMeta::decode(meta).map_err(|e| e.to_string())?;
        if decoded.info.id.as_bytes() != id {
            return Err("a store under the id of another".into());
        }
        let id: Option<&[u8; StoreId::LEN]> = id.first_chunk();
        self.counted += id.and_then(|id| self.items.remove(id)).unwrap_or(0);
        let order = keyspace::store_order(decoded.info.name.as_str());
        match self.ordered.remove(&order) {
            // A deletion that was cut off marks only the record by id.
            Some(other) if other == meta || decoded.closing => Ok(()),
            Some(_) => Err("its record in the order of lists differs".into()),
            None => Err("it is missing in the order of lists".into()),
        }
    }

    /// The problems so far, which are then forgotten.
    pub fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Judges what only all records together show.
    pub fn finish(mut self) -> (RecordCounts, Vec<String>) {
        for (id, count) in &self.items {
            let id = String::from_utf8_lossy(id);
            self.problems.push(format!("{count} items belong to no store: {id}"));
        }
        for key in self.ordered.keys() {
            let key = String::from_utf8_lossy(key);
            self.problems.push(format!("record {key:?} is of no store"));
        }
        let items = self.counted + self.items.values().sum::<u64>();
        (RecordCounts { stores: self.stores, items }, self.problems)
    }
}

/// A token may name stores that are gone: their ids never come again.
fn token(hash: &[u8], meta: &[u8]) -> Result<(), String> {
    if hash.len() != TOKEN_HASH_BYTES {
        return Err("a token under what is no hash".into());
    }
    TokenMeta::decode(meta).map(|_| ()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::clock::ManualClock;
    use super::super::tokens::{Grant, Scope, TokenId};
    use super::*;

    #[test]
    fn a_token_is_sound_under_a_hash_and_with_a_head_alone() {
        let grant = Grant::new("n", Scope::Global, vec![StoreId::random().unwrap()], "p").unwrap();
        let meta = TokenMeta { id: TokenId::random().unwrap(), grant, created_at: 1 }.encode();
        let key = keyspace::token(&[7; TOKEN_HASH_BYTES]);
        let problems = |key: &[u8], meta: &[u8]| {
            let mut checker = IntegrityChecker::new(&ManualClock::new(1));
            checker.record(key, 0, meta, 0);
            (checker.problems().len(), checker.finish().1.len())
        };
        assert_eq!(problems(&key, &meta), (0, 0));
        assert_eq!(problems(&key[1..], &meta), (1, 0), "of no kind");
        assert_eq!(problems(&key[..32], &meta), (1, 0), "of no hash");
        assert_eq!(problems(&key, &meta[..20]), (1, 0), "cut");
    }
}
