//! Consistency checks of all records. The checks are the same for every engine.

use super::clock::Clock;
use super::codec::{ItemMeta, StoreMeta, TokenMeta};
use super::import::{self, GENERATION_MAX};
use super::keyspace::{self, ITEMS, STORE_ORDER, STORES, TOKEN_HASH_BYTES, TOKENS};
use super::types::{Key, StoreId};
use crate::engine::copy;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Maximum number of problems reported about generations above the maximum.
const GENERATIONS_LISTED_MAX: u64 = 100;

/// The result of a check; the error describes the problem.
type CheckResult<T = ()> = Result<T, String>;

/// Checks each record on its own and against the others. The caller passes the records in key
/// order.
#[derive(Debug, Default)]
pub struct IntegrityChecker {
    now: u64,
    /// Number of live items by store id, for stores not yet seen.
    orphans: BTreeMap<[u8; StoreId::LEN], u64>,
    /// Metas of list-order records by key, for stores not yet seen.
    list_order: BTreeMap<Bytes, Vec<u8>>,
    stores: u64,
    /// Number of items whose store exists or that have expired.
    items: u64,
    /// Number of records with a generation above the maximum.
    excessive_generations: u64,
    problems: Vec<String>,
}

/// The numbers of records that an [`IntegrityChecker`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Number of stores.
    pub stores: u64,
    /// Number of items, including expired ones.
    pub items: u64,
}

impl IntegrityChecker {
    /// Creates a checker that evaluates expiry at the current time of `clock`.
    pub fn new(clock: &dyn Clock) -> IntegrityChecker {
        IntegrityChecker { now: clock.now(), ..IntegrityChecker::default() }
    }

    /// Checks the next record in key order.
    pub fn record(
        &mut self,
        key: &[u8],
        version: u64,
        expires_at: u64,
        meta: &[u8],
        body_len: u64,
    ) {
        let mut generation = version;
        // Expired items may remain after their store was deleted, until they are purged.
        let expired = expires_at > 0 && expires_at <= self.now;
        let result: CheckResult = match key.split_first() {
            Some((&ITEMS, rest)) => {
                let explicit = self.check_item(rest, meta, body_len, expired);
                explicit.map(|explicit| generation = generation.max(explicit.unwrap_or(0)))
            }
            Some((&STORE_ORDER, _)) => {
                self.list_order.insert(Bytes::copy_from_slice(key), meta.to_vec());
                Ok(())
            }
            Some((&STORES, id)) => self.check_store(id, meta),
            Some((&TOKENS, hash)) => check_token(hash, meta),
            _ if key == copy::MARKER_KEY => Err("a copy into this engine is incomplete".into()),
            _ => Err("unknown kind of record".into()),
        };
        if let Err(what) = result {
            self.problems.push(format!("record {:?}: {what}", String::from_utf8_lossy(key)));
        }
        self.check_generation(key, generation);
    }

    /// Reports a version or generation above the maximum, because later writes get even greater
    /// ones.
    fn check_generation(&mut self, key: &[u8], generation: u64) {
        let max = import::generation_max(self.now);
        if generation <= max {
            return;
        }
        self.excessive_generations += 1;
        if self.excessive_generations > GENERATIONS_LISTED_MAX {
            return;
        }
        let cause = if generation > GENERATION_MAX {
            "2^53 or greater, which JSON clients round; back up and restore to get new generations"
        } else {
            "more than a day ahead of this machine's clock; set the clock if it is wrong"
        };
        let key = String::from_utf8_lossy(key);
        self.problems.push(format!("record {key:?} has generation {generation}, {cause}"));
    }

    /// Returns the item's explicit generation.
    fn check_item(
        &mut self,
        rest: &[u8],
        meta: &[u8],
        size: u64,
        expired: bool,
    ) -> CheckResult<Option<u64>> {
        let (id, key) = rest.split_first_chunk().ok_or("the key has no store id")?;
        if expired {
            self.items += 1;
        } else {
            *self.orphans.entry(*id).or_default() += 1;
        }
        Key::parse(key).map_err(|e| e.to_string())?;
        let meta = ItemMeta::decode(&Bytes::copy_from_slice(meta)).map_err(|e| e.to_string())?;
        if meta.size != size {
            return Err(format!("the value has {size} bytes instead of {}", meta.size));
        }
        Ok(meta.generation)
    }

    fn check_store(&mut self, id: &[u8], meta: &[u8]) -> CheckResult {
        self.stores += 1;
        let decoded = StoreMeta::decode(meta).map_err(|e| e.to_string())?;
        if decoded.info.id.as_bytes() != id {
            return Err("the id in the store's meta differs from its key".into());
        }
        let id: Option<&[u8; StoreId::LEN]> = id.first_chunk();
        self.items += id.and_then(|id| self.orphans.remove(id)).unwrap_or(0);
        let order = keyspace::store_order(decoded.info.name.as_str());
        match self.list_order.remove(&order) {
            // An interrupted deletion marks only the record by id.
            Some(other) if other == meta || decoded.closing => Ok(()),
            Some(_) => Err("its list-order record has a different meta".into()),
            None => Err("its list-order record is missing".into()),
        }
    }

    /// Returns the problems found since the last call.
    pub fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Runs the checks that need all records. Returns the record counts and the remaining problems.
    pub fn finish(mut self) -> (RecordCounts, Vec<String>) {
        for (id, count) in &self.orphans {
            let id = String::from_utf8_lossy(id);
            self.problems.push(format!("{count} items refer to store {id}, which does not exist"));
        }
        for key in self.list_order.keys() {
            let key = String::from_utf8_lossy(key);
            self.problems.push(format!("record {key:?} refers to a store that does not exist"));
        }
        let unlisted = self.excessive_generations.saturating_sub(GENERATIONS_LISTED_MAX);
        if unlisted > 0 {
            self.problems.push(format!("{unlisted} more records have such generations"));
        }
        let items = self.items + self.orphans.values().sum::<u64>();
        (RecordCounts { stores: self.stores, items }, self.problems)
    }
}

/// Checks the record of a token. A token may refer to deleted stores, because store ids are never
/// reused.
fn check_token(hash: &[u8], meta: &[u8]) -> CheckResult {
    if hash.len() != TOKEN_HASH_BYTES {
        return Err("the key of the token is not a hash".into());
    }
    TokenMeta::decode(meta).map(|_| ()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::clock::ManualClock;
    use super::super::tokens::{Grant, Scope, TokenId};
    use super::super::types::Metadata;
    use super::*;

    #[test]
    fn a_token_requires_a_hash_as_its_key_and_a_valid_meta() {
        let grant = Grant::new("n", Scope::Global, vec![StoreId::random().unwrap()], "p").unwrap();
        let meta = TokenMeta { id: TokenId::random().unwrap(), grant, created_at: 1 }.encode();
        let key = keyspace::token(&[7; TOKEN_HASH_BYTES]);
        let problems = |key: &[u8], meta: &[u8]| {
            let mut checker = IntegrityChecker::new(&ManualClock::new(1));
            checker.record(key, 1, 0, meta, 0);
            (checker.problems().len(), checker.finish().1.len())
        };
        assert_eq!(problems(&key, &meta), (0, 0));
        assert_eq!(problems(&key[1..], &meta), (1, 0), "the key has no kind");
        assert_eq!(problems(&key[..32], &meta), (1, 0), "the hash is too short");
        assert_eq!(problems(&key, &meta[..20]), (1, 0), "the meta is truncated");
    }

    #[test]
    fn records_with_generations_above_the_maximum_are_problems() {
        const NOW: u64 = 1_700_000_000_000_000;
        const DAY: u64 = 86_400_000_000;
        let id = StoreId::random().unwrap();
        let check = |version, generation, now, count: usize| {
            let metadata = Metadata::default();
            let meta = ItemMeta { generation, modified_at: 1, size: 0, metadata }.encode();
            let mut checker = IntegrityChecker::new(&ManualClock::new(now));
            for number in 0..count {
                let key = Key::parse(format!("k{number:03}").as_bytes()).unwrap();
                checker.record(&keyspace::item(&id, &key), version, 1, &meta, 0);
            }
            checker.finish().1
        };
        assert!(check(NOW + DAY, None, NOW, 1).is_empty());
        assert!(check(5, Some(NOW + DAY), NOW, 1).is_empty());
        assert!(check(5, Some(GENERATION_MAX), u64::MAX, 1).is_empty());
        for (version, generation) in [(NOW + DAY + 1, Some(5)), (5, Some(NOW + DAY + 1))] {
            let problems = check(version, generation, NOW, 1);
            assert_eq!(problems.len(), 1);
            assert!(problems[0].contains("k000") && problems[0].contains("set the clock"));
        }
        let problems = check(5, Some(GENERATION_MAX + 1), u64::MAX, 103);
        assert_eq!(problems.len(), 101);
        assert!(problems[0].contains("restore to get new generations"), "{}", problems[0]);
        assert_eq!(problems[100], "3 more records have such generations");
    }
}
