//! Every metric, once. Labels are route templates and methods, never keys, names or tokens.

use crate::kv::Stats;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::hash::{Hash, Hasher};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Upper bounds of the latency histogram, in seconds.
const LATENCY_SECONDS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
    10.0,
];

/// The labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's template.
    pub route: &'static str,
    /// The method; `other` for one that no route has.
    pub method: &'static str,
    /// The status.
    pub status: u16,
}

/// The labels of a latency.
#[derive(Clone, Debug, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's template.
    pub route: &'static str,
    /// The method; `other` for one that no route has.
    pub method: &'static str,
}

// Both are looked up for every request. Their lengths tell nearly all routes and methods apart, and
// are far less to hash than their letters; comparing settles the rest.
impl Hash for RequestLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(short(self.route, self.method) << 16 | u64::from(self.status));
    }
}

impl Hash for RouteLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(short(self.route, self.method));
    }
}

fn short(route: &str, method: &str) -> u64 {
    (route.len() as u64) << 8 | method.len() as u64
}

/// What is counted where it happens; the engine's figures are gathered when asked for.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    auth_failures: Counter,
    overloads: Counter,
    /// Connections that are open.
    pub connections: Gauge,
    gathered: Gathered,
}

#[derive(Default)]
struct Gathered {
    stores: Gauge<u64, AtomicU64>,
    items: Gauge<u64, AtomicU64>,
    disk_bytes: Gauge<u64, AtomicU64>,
    wal_bytes: Gauge<u64, AtomicU64>,
    commits: Counter,
    conflicts: Counter,
    groups: Counter,
    sync_seconds: Counter<f64, AtomicU64>,
    cache_hits: Counter,
    cache_misses: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let histogram: fn() -> Histogram = || Histogram::new(LATENCY_SECONDS);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("steadfast"),
            requests: Family::default(),
            latency: Family::new_with_constructor(histogram),
            auth_failures: Counter::default(),
            overloads: Counter::default(),
            connections: Gauge::default(),
            gathered: Gathered::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("http_requests", "Requests answered", self.requests.clone());
        let what = "From a request's head to its answer, in seconds";
        r.register("http_request_duration_seconds", what, self.latency.clone());
        r.register("auth_failures", "Requests without a valid token", self.auth_failures.clone());
        let what = "Requests refused because bounds were reached for too long";
        r.register("overloads", what, self.overloads.clone());
        r.register("http_connections", "Open connections", self.connections.clone());
        let g = &self.gathered;
        r.register("stores", "Stores", g.stores.clone());
        r.register("items", "Items, expired ones that still take space too", g.items.clone());
        r.register("disk_bytes", "Bytes on disk", g.disk_bytes.clone());
        r.register("wal_bytes", "Bytes of the write-ahead log", g.wal_bytes.clone());
        r.register("commits", "Commits written", g.commits.clone());
        r.register("commit_conflicts", "Commits that met a conflict", g.conflicts.clone());
        let what = "Groups of commits made durable together, by one sync each";
        r.register("commit_groups", what, g.groups.clone());
        let what = "Seconds spent in making groups durable";
        r.register("sync_seconds", what, g.sync_seconds.clone());
        r.register("cache_hits", "Reads answered from the cache", g.cache_hits.clone());
        r.register("cache_misses", "Reads not answered from the cache", g.cache_misses.clone());
    }

    /// Counts a request.
    pub fn answered(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { route, method, status }).inc();
        self.latency.get_or_create(&RouteLabels { route, method }).observe(took.as_secs_f64());
    }

    /// Counts a request without a valid token.
    pub fn auth_failed(&self) {
        self.auth_failures.inc();
    }

    /// Counts a request that waited too long for its share of a bound.
    pub fn overloaded(&self) {
        self.overloads.inc();
    }

    /// All metrics in the text format of OpenMetrics.
    pub fn render(&self, stats: Stats, stores: u64, items: u64) -> String {
        let g = &self.gathered;
        g.stores.set(stores);
        g.items.set(items);
        g.disk_bytes.set(stats.disk_bytes);
        g.wal_bytes.set(stats.wal_bytes);
        let raise = |counter: &Counter, total: u64| {
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        raise(&g.commits, stats.commits);
        raise(&g.conflicts, stats.conflicts);
        raise(&g.groups, stats.groups);
        raise(&g.cache_hits, stats.cache_hits);
        raise(&g.cache_misses, stats.cache_misses);
        let seconds = Duration::from_micros(stats.sync_micros).as_secs_f64();
        g.sync_seconds.inc_by((seconds - g.sync_seconds.get()).max(0.0));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
