//! Creates the engines under test.
//!
//! With PostgreSQL, three engines share one database, like three servers. Each call uses a random
//! engine; `STEADFAST_SEED` sets the seed of these choices.

mod multi_process;
#[path = "../harness/random.rs"]
#[allow(dead_code, clippy::print_stdout, clippy::disallowed_methods, reason = "used in part")]
mod random;

use multi_process::MultiProcessEngine;
use random::Random;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use steadfast::engine::Engine;
use steadfast::engine::embedded::{Embedded, FatalErrorHandler, Options};
use steadfast::engine::memory::Memory;
use steadfast::engine::postgres::{self, Postgres};
use steadfast::kv::Kv;
use steadfast::kv::clock::ManualClock;
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// The number of engines that share a PostgreSQL database.
const PROCESSES: usize = 3;

/// An engine under test that can be reopened.
pub(crate) struct Subject {
    /// The engine to call. With PostgreSQL, it distributes the calls among `processes`.
    #[allow(dead_code, reason = "not every suite uses it")]
    pub(crate) engine: Arc<dyn Engine>,
    /// The engines of all processes: three with PostgreSQL, otherwise one.
    #[allow(dead_code, reason = "not every suite uses it")]
    pub(crate) processes: Vec<Arc<dyn Engine>>,
    dir: Option<TempDir>,
    url: Option<String>,
}

impl Subject {
    pub(crate) fn memory() -> Subject {
        Subject::single(Arc::new(Memory::new()), None)
    }

    pub(crate) fn embedded() -> Subject {
        let dir = tempfile::tempdir().unwrap();
        Subject::single(open(dir.path().join("data")), Some(dir))
    }

    fn single(engine: Arc<dyn Engine>, dir: Option<TempDir>) -> Subject {
        Subject { engine: engine.clone(), processes: vec![engine], dir, url: None }
    }

    /// Creates a database on the server at `STEADFAST_TEST_POSTGRES`. Returns `None` and prints a
    /// notice if the variable is not set.
    #[allow(dead_code, reason = "not every suite uses it")]
    #[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a test may be skipped")]
    pub(crate) async fn postgres() -> Option<Subject> {
        let Ok(server) = std::env::var("STEADFAST_TEST_POSTGRES") else {
            println!("skipped: STEADFAST_TEST_POSTGRES is not set");
            return None;
        };
        let (client, connection) = tokio_postgres::connect(&server, NoTls).await.unwrap();
        tokio::spawn(connection);
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (host, _) = server.rsplit_once('/').unwrap();
        let url = format!("{host}/{name}");
        let processes = connect(&url).await;
        let engine = Arc::new(MultiProcessEngine::new(processes.clone()));
        Some(Subject { engine, processes, dir: None, url: Some(url) })
    }

    /// Creates one [`Kv`] for each process, with the given clock and value size limit.
    #[allow(dead_code, reason = "not every suite uses it")]
    pub(crate) fn kvs(&self, clock: &Arc<ManualClock>, value_bytes_max: u64) -> Vec<Arc<Kv>> {
        let kv = |engine: &Arc<dyn Engine>| {
            Arc::new(Kv::new(engine.clone(), clock.clone(), value_bytes_max))
        };
        self.processes.iter().map(kv).collect()
    }

    /// Closes and reopens the engine. The memory engine stays open.
    #[allow(dead_code, reason = "not every suite uses it")]
    pub(crate) async fn reopen(&mut self) {
        if let Some(dir) = &self.dir {
            self.engine.close().await.unwrap();
            self.engine = open(dir.path().join("data"));
            self.processes = vec![self.engine.clone()];
        }
        if let Some(url) = &self.url {
            self.engine.close().await.unwrap();
            self.processes = connect(url).await;
            self.engine = Arc::new(MultiProcessEngine::new(self.processes.clone()));
        }
    }

    /// Returns whether several processes may use the engine at the same time.
    #[allow(dead_code, reason = "not every suite uses it")]
    pub(crate) fn shared(&self) -> bool {
        self.url.is_some()
    }

    /// Returns the data directory of the embedded engine.
    #[allow(dead_code, reason = "not every suite uses it")]
    pub(crate) fn data(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.path().join("data"))
    }
}

/// The number of the next database that this process creates.
static NEXT: AtomicU64 = AtomicU64::new(0);

async fn connect(url: &str) -> Vec<Arc<dyn Engine>> {
    let mut processes: Vec<Arc<dyn Engine>> = Vec::new();
    for _ in 0..PROCESSES {
        let (url, standby) = (url.into(), None);
        let options = postgres::Options { url, standby, connections: 8, reading_bytes: 8 << 20 };
        processes.push(Arc::new(Postgres::open(options).await.unwrap()));
    }
    processes
}

/// Picks a random process for each call. The seed determines the choices.
pub(crate) struct ProcessPicker {
    random: Mutex<Random>,
    processes: usize,
}

impl ProcessPicker {
    /// Creates a picker. All pickers of a run use the same seed, so a repeated case makes the same
    /// choices.
    #[allow(clippy::print_stdout, reason = "a failure shows the seed")]
    pub(crate) fn new(processes: usize) -> ProcessPicker {
        static SEED: OnceLock<u64> = OnceLock::new();
        let seed = || random::env_number("STEADFAST_SEED").unwrap_or_else(random::now_micros);
        let seed = *SEED.get_or_init(seed);
        if processes > 1 {
            println!("process picker: STEADFAST_SEED={seed}");
        }
        ProcessPicker { random: Mutex::new(Random(seed)), processes }
    }

    pub(crate) fn next(&self) -> usize {
        let process = self.random.lock().unwrap().below(self.processes as u64);
        usize::try_from(process).unwrap()
    }
}

pub(crate) fn open(dir: PathBuf) -> Arc<dyn Engine> {
    let fatal = FatalErrorHandler::new(|why| panic!("the engine stopped: {why}"));
    // With a small WAL, checkpoints run during the tests.
    let options = Options { dir, cache_bytes: 1 << 20, wal_bytes: 64 << 10, fatal };
    Arc::new(Embedded::open(options).unwrap())
}

/// Defines a test for each engine and each of the given async functions. The functions take a
/// [`Subject`].
#[macro_export]
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::engines::Subject::memory()).await; })*
        }
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::engines::Subject::embedded()).await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if let Some(subject) = super::engines::Subject::postgres().await {
                    super::$test(subject).await;
                }
            })*
        }
    };
}
