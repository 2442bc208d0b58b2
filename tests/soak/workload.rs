//! The workload: clients that put, expire and delete items, and clients that read items.

use crate::random::Random;
use crate::support::Client;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

const KEYS: u64 = 20_000;
const WRITERS: u64 = 4;
const READERS: u64 = 4;

/// A latency histogram. The bucket bounds in microseconds are powers of 2^(1/4).
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram(vec![0; 128])
    }
}

impl Histogram {
    fn add(&mut self, began: Instant) {
        let micros = began.elapsed().as_micros().max(1) as f64;
        let slot = (micros.log2() * 4.0) as usize;
        self.0[slot.min(127)] += 1;
    }

    fn since(&self, earlier: &Histogram) -> Histogram {
        Histogram(self.0.iter().zip(&earlier.0).map(|(now, earlier)| now - earlier).collect())
    }

    fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns a percentile in milliseconds, or 0 if there are no samples.
    pub(crate) fn percentile(&self, percent: u64) -> f64 {
        let wanted = self.count() * percent / 100;
        let mut seen = 0;
        for (slot, count) in self.0.iter().enumerate() {
            seen += count;
            if seen > wanted {
                return ((slot + 1) as f64 / 4.0).exp2() / 1000.0;
            }
        }
        0.0
    }
}

/// The latencies of reads and writes, and the length of the period in which they were measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) reads: Histogram,
    pub(crate) writes: Histogram,
    pub(crate) seconds: f64,
}

impl Latencies {
    pub(crate) fn since(&self, earlier: &Latencies) -> Latencies {
        Latencies {
            reads: self.reads.since(&earlier.reads),
            writes: self.writes.since(&earlier.writes),
            seconds: self.seconds - earlier.seconds,
        }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }
}

struct Shared {
    stop: AtomicBool,
    operations: AtomicU64,
    latencies: Mutex<Latencies>,
}

/// The running clients.
pub(crate) struct Workload {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    began: Instant,
}

impl Workload {
    pub(crate) fn start(port: u16, store: &str, seed: u64) -> Workload {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            latencies: Mutex::default(),
        });
        let clients = (0..WRITERS + READERS).map(|number| {
            let shared = shared.clone();
            let base = format!("/resources/stores/kv/{store}");
            let random = Random(seed.wrapping_add(number));
            let worker =
                Worker { client: Client::connect(port).unwrap(), base, random, shared, port };
            std::thread::spawn(move || worker.run(number < WRITERS))
        });
        let clients = clients.collect();
        Workload { shared, clients, began: Instant::now() }
    }

    pub(crate) fn latencies(&self) -> Latencies {
        let mut latencies = self.shared.latencies.lock().unwrap().clone();
        latencies.seconds = self.began.elapsed().as_secs_f64();
        latencies
    }

    /// Stops the clients and returns the number of requests that got a response.
    pub(crate) fn stop(self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client failed");
        }
        self.shared.operations.load(Ordering::Relaxed)
    }
}

struct Worker {
    client: Client,
    base: String,
    random: Random,
    shared: Arc<Shared>,
    port: u16,
}

impl Worker {
    fn run(mut self, writes: bool) {
        let mut turn = 0_u64;
        while !self.shared.stop.load(Ordering::Relaxed) {
            // Reconnect occasionally, as real clients do.
            turn += 1;
            if turn.is_multiple_of(1000) {
                self.client = Client::connect(self.port).unwrap();
            }
            let began = Instant::now();
            if writes {
                self.write()
            } else {
                self.read()
            }
            let mut latencies = self.shared.latencies.lock().unwrap();
            if writes {
                latencies.writes.add(began)
            } else {
                latencies.reads.add(began)
            }
            drop(latencies);
            self.shared.operations.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(&mut self, request: &str, fields: &[(&str, &str)], body: &[u8], expected: &[u16]) {
        let reply = self.client.request(request, fields, body).unwrap();
        assert!(expected.contains(&reply.status), "{request}: {}", reply.status);
    }

    fn read(&mut self) {
        match self.random.below(100) {
            0 => self.send(&format!("GET {}/keys?limit=100", self.base), &[], b"", &[200]),
            _ => {
                let key = self.random.below(KEYS);
                self.send(&format!("GET {}/keys/k{key}", self.base), &[], b"", &[200, 404]);
            }
        }
    }

    fn write(&mut self) {
        let key = self.random.below(KEYS);
        let item = format!("{}/keys/k{key}", self.base);
        let bytes = match self.random.below(200) {
            0 => 300 * 1024,
            _ => self.random.below(4096),
        };
        let body = vec![b'a' + (key % 26) as u8; bytes as usize];
        match self.random.below(100) {
            0..60 => self.send(&format!("PUT {item}"), &[], &body, &[200]),
            60..75 => {
                let life = (1 + self.random.below(5)).to_string();
                let fields = [("time_to_live_sec", life.as_str())];
                self.send(&format!("PUT {item}"), &fields, &body, &[200]);
            }
            75..95 => self.send(&format!("DELETE {item}"), &[], b"", &[204, 404]),
            95..97 => {
                let query = "append=true";
                self.send(&format!("PUT {item}?{query}"), &[], b"and more", &[200]);
            }
            _ => self.batch(),
        }
    }

    fn batch(&mut self) {
        let mut lines = String::new();
        for _ in 0..50 {
            let key = self.random.below(KEYS);
            lines.push_str(&format!("{{\"key\":\"k{key}\",\"value\":\"c3RlYWRmYXN0\"}}\n"));
        }
        let request = format!("PUT {}/batch", self.base);
        let kind = [("Content-Type", "application/x-ndjson")];
        self.send(&request, &kind, lines.as_bytes(), &[200]);
    }
}
