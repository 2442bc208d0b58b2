//! A cache of read results per location, which makes reads eventually consistent.
//!
//! A *location* is a group of readers that share a cache, such as those of one point of presence. A
//! result that a location has read, including the absence of an item, is returned to it again for a
//! time drawn from zero to the maximum, even if the item has been changed in the meantime. A
//! location therefore never reads a result that has been outdated for longer than the maximum, its
//! own writes are visible to it at once, and its successive reads of a key never go back in time.

use super::digest;
use super::draws::{Draws, Kind};
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum size of all cached results, in bytes. Beyond it, rarely used results are evicted, and
/// the next reads return the current ones.
pub const CACHE_BYTES_MAX: u64 = 64 << 20;
/// Maximum size of a cached result, in bytes. Larger results are never outdated.
pub const CACHED_BYTES_MAX: usize = 1 << 20;
/// Memory of a cached result in addition to its own size, in bytes.
const ENTRY_BYTES: u64 = 256;
/// Expected number of results, for the initial size of the tables.
const ENTRIES: usize = 4096;
/// Number of write counters.
const COUNTERS: usize = 1 << 16;

/// The kinds of reads. The kind is part of the id of a lookup.
const ITEM: &[u8] = b"item";
const LIST: &[u8] = b"list";

/// A cached result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached<V> {
    /// The result.
    pub value: V,
    /// The time since the result was read.
    pub age: Duration,
}

/// One read by a location: its id in the cache, and the time at which it began.
#[derive(Clone, Debug)]
pub struct Lookup {
    id: [u8; 16],
    key: Vec<u8>,
    began: Instant,
}

struct Entry<V> {
    value: V,
    bytes: usize,
    began: Instant,
    fresh_until: Instant,
}

#[derive(Clone)]
struct EntryWeighter;

impl<V> Weighter<[u8; 16], Entry<V>> for EntryWeighter {
    fn weight(&self, _: &[u8; 16], entry: &Entry<V>) -> u64 {
        ENTRY_BYTES + entry.bytes as u64
    }
}

/// A cache of the results that each location has read.
pub struct StaleCache<V> {
    stale: Duration,
    draws: Arc<Draws>,
    entries: Mutex<Cache<[u8; 16], Entry<V>, EntryWeighter>>,
    /// Numbers of writes by a location, in total or to one key. They are part of the ids, so a
    /// write makes a new id: a result that was read before the write is never found again, even
    /// if it is cached after the write. Counters are shared, which makes some reads fresher.
    writes: Vec<AtomicU64>,
}

impl<V: Clone> StaleCache<V> {
    /// Creates a cache of at most `bytes_max` bytes.
    pub(super) fn new(stale: Duration, draws: Arc<Draws>, bytes_max: u64) -> StaleCache<V> {
        let entries = Cache::with_weighter(ENTRIES, bytes_max, EntryWeighter);
        let writes = std::iter::repeat_with(AtomicU64::default).take(COUNTERS).collect();
        StaleCache { stale, draws, entries: Mutex::new(entries), writes }
    }

    /// Begins a read of an item. Call this before the item is read from the store.
    pub fn item(&self, location: &[u8], store: &[u8], key: &[u8], now: Instant) -> Lookup {
        self.start_lookup([ITEM, location, store, key], &[location, store, key], now)
    }

    /// Begins a list with eventual consistency. `query` contains the parameters. Call this before
    /// the keys are listed.
    pub fn list(&self, location: &[u8], store: &[u8], query: &[u8], now: Instant) -> Lookup {
        self.start_lookup([LIST, location, store, query], &[location, store], now)
    }

    fn start_lookup(&self, read: [&[u8]; 4], written: &[&[u8]], now: Instant) -> Lookup {
        let [kind, location, store, key] = read;
        let writes = self.counter(written).load(Ordering::SeqCst).to_be_bytes();
        let all_writes = self.counter(&[location]).load(Ordering::SeqCst).to_be_bytes();
        let id = digest(&[kind, location, store, key, &writes, &all_writes]);
        Lookup { id, key: key.to_vec(), began: now }
    }

    /// Returns the cached result, if the location still gets it.
    pub fn get(&self, lookup: &Lookup, now: Instant) -> Option<Cached<V>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&lookup.id).filter(|entry| now < entry.fresh_until)?;
        let age = now.saturating_duration_since(entry.began);
        Some(Cached { value: entry.value.clone(), age })
    }

    /// Caches the result of a read. `bytes` is its size. A result above [`CACHED_BYTES_MAX`] is
    /// not cached.
    pub fn insert(&self, lookup: &Lookup, value: V, bytes: usize) {
        if bytes > CACHED_BYTES_MAX {
            return;
        }
        let fresh_until = lookup.began + self.delay(&lookup.key);
        let entry = Entry { value, bytes, began: lookup.began, fresh_until };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Of two concurrent reads, the later one may have read a newer result.
        if entries.peek(&lookup.id).is_none_or(|existing| existing.began <= lookup.began) {
            entries.insert(lookup.id, entry);
        }
    }

    /// Draws the time for which a result is cached.
    fn delay(&self, key: &[u8]) -> Duration {
        let amount = u128::from(self.draws.next(Kind::Stale, key).amount);
        let nanos = (self.stale.as_nanos() * amount) >> 64;
        // The maximum is below 2^64 ns, and so is the product after the shift.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }

    /// Makes a write to a key visible to the location that wrote it. Call this after the write and
    /// before its result is returned, even if the write failed.
    pub fn invalidate(&self, location: &[u8], store: &[u8], key: &[u8]) {
        for written in [&[location, store, key][..], &[location, store]] {
            self.counter(written).fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Makes all writes visible to a location, for example after a batch.
    pub fn invalidate_all(&self, location: &[u8]) {
        self.counter(&[location]).fetch_add(1, Ordering::SeqCst);
    }

    fn counter(&self, written: &[&[u8]]) -> &AtomicU64 {
        static UNUSED: AtomicU64 = AtomicU64::new(0);
        let [a, b, ..] = digest(written);
        self.writes.get(usize::from(u16::from_be_bytes([a, b]))).unwrap_or(&UNUSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulation;

    const STALE: Duration = Duration::from_secs(5);

    fn cache(seed: u64) -> StaleCache<Option<u64>> {
        Simulation::new("stale=5s".parse().unwrap(), seed).stale_cache().unwrap()
    }

    /// Reads through the cache as callers do.
    fn read(
        cache: &StaleCache<Option<u64>>,
        location: &str,
        truth: Option<u64>,
        now: Instant,
    ) -> Option<u64> {
        let lookup = cache.item(location.as_bytes(), b"s", b"k", now);
        match cache.get(&lookup, now) {
            Some(cached) => cached.value,
            None => {
                cache.insert(&lookup, truth, 8);
                truth
            }
        }
    }

    #[test]
    fn an_old_result_is_served_for_at_most_the_maximum_and_never_comes_back() {
        for seed in 0..200 {
            let (cache, start) = (cache(seed), Instant::now());
            assert_eq!(read(&cache, "a", None, start), None);
            let results: Vec<_> = (1..=60)
                .map(|n| read(&cache, "a", Some(1), start + n * STALE / 50).is_some())
                .collect();
            let fresh = results.iter().position(|fresh| *fresh).unwrap();
            assert!(fresh < 50, "seed {seed}: outdated for longer than the maximum");
            assert!(results[fresh..].iter().all(|fresh| *fresh), "seed {seed}: {results:?}");
        }
    }

    #[test]
    fn the_seed_determines_the_delays_which_spread_over_the_whole_range() {
        let delays = |seed| -> Vec<Duration> {
            let cache = cache(seed);
            (0..1000_u32).map(|n| cache.delay(&n.to_be_bytes())).collect()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
        assert!(delays(1).iter().all(|delay| *delay <= STALE));
        assert!(delays(1).iter().any(|delay| *delay < STALE / 20));
        assert!(delays(1).iter().any(|delay| *delay > STALE * 19 / 20));
    }

    #[test]
    fn a_write_is_visible_to_its_own_location_at_once() {
        let (cache, now) = (cache(0), Instant::now());
        for location in ["a", "b"] {
            assert_eq!(read(&cache, location, Some(1), now), Some(1));
        }
        // A read that began before the write and ends after it must not hide the write.
        let slow = cache.item(b"a", b"s", b"k", now);
        cache.invalidate(b"a", b"s", b"k");
        cache.insert(&slow, Some(1), 8);
        assert_eq!(read(&cache, "a", Some(2), now), Some(2));
        assert_eq!(read(&cache, "b", Some(2), now), Some(1));
        cache.invalidate_all(b"b");
        assert_eq!(read(&cache, "b", Some(2), now), Some(2));
    }

    #[test]
    fn lists_are_dropped_when_their_location_writes_any_key_of_the_store() {
        let (cache, now) = (cache(0), Instant::now());
        let lists = [b"s", b"t"].map(|store| (store, cache.list(b"a", store, b"limit=1", now)));
        for (_, lookup) in &lists {
            cache.insert(lookup, Some(1), 8);
        }
        cache.invalidate(b"a", b"s", b"k");
        let [first, second] = lists
            .map(|(store, _)| cache.get(&cache.list(b"a", store, b"limit=1", now), now).is_some());
        assert!(!first && second);
    }

    #[test]
    fn of_two_concurrent_reads_the_later_one_is_cached() {
        let (cache, now) = (cache(0), Instant::now());
        let early = cache.item(b"a", b"s", b"k", now);
        let late = cache.item(b"a", b"s", b"k", now + Duration::from_nanos(1));
        cache.insert(&late, Some(2), 8);
        cache.insert(&early, Some(1), 8);
        assert_eq!(cache.get(&late, now).unwrap().value, Some(2));
    }

    #[test]
    fn memory_is_bounded_and_large_results_are_not_cached() {
        let (cache, now) = (cache(0), Instant::now());
        let large = cache.item(b"a", b"s", b"large", now);
        cache.insert(&large, None, CACHED_BYTES_MAX + 1);
        assert!(cache.get(&large, now).is_none());
        for n in 0..200_u64 {
            let lookup = cache.item(b"a", b"s", &n.to_be_bytes(), now);
            cache.insert(&lookup, Some(n), CACHED_BYTES_MAX);
        }
        let weight = cache.entries.lock().unwrap().weight();
        assert!(weight <= CACHE_BYTES_MAX, "{weight}");
        assert!(weight > CACHE_BYTES_MAX / 2, "{weight}");
        let small: StaleCache<()> = StaleCache::new(STALE, Arc::new(Draws::new(0)), 1 << 20);
        for n in 0..10_000_u64 {
            small.insert(&small.item(b"a", b"s", &n.to_be_bytes(), now), (), 0);
        }
        let entries = small.entries.lock().unwrap().len() as u64;
        assert!(entries * ENTRY_BYTES <= 1 << 20, "{entries}");
    }
}
