//! The engines that every suite runs over, made fresh for each test. Over a database there are
//! three at once, which have nothing in common but the database, as three servers have them.
//! `STEADFAST_SEED` repeats which of them is asked when.

#[path = "../crash/random.rs"]
#[allow(dead_code, clippy::print_stdout, clippy::disallowed_methods, reason = "it is shared")]
mod random;
mod several;

use random::Random;
use several::Several;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use steadfast::engine::Engine;
use steadfast::engine::embedded::{Embedded, FatalErrorHandler, Options};
use steadfast::engine::memory::Memory;
use steadfast::engine::postgres::{self, Postgres};
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// Processes over one database.
const PROCESSES: usize = 3;

/// An engine under test, and how to open it again.
pub(crate) struct Subject {
    /// Over a database, each call goes to another of `processes`.
    pub(crate) engine: Arc<dyn Engine>,
    /// What each process has open: one alone, or several over one database.
    #[allow(dead_code, reason = "not every suite tells them apart")]
    pub(crate) processes: Vec<Arc<dyn Engine>>,
    dir: Option<TempDir>,
    url: Option<String>,
}

impl Subject {
    pub(crate) fn memory() -> Subject {
        Subject::alone(Arc::new(Memory::new()), None)
    }

    pub(crate) fn embedded() -> Subject {
        let dir = tempfile::tempdir().unwrap();
        Subject::alone(open(dir.path().join("data")), Some(dir))
    }

    fn alone(engine: Arc<dyn Engine>, dir: Option<TempDir>) -> Subject {
        Subject { engine: engine.clone(), processes: vec![engine], dir, url: None }
    }

    /// Over a database of its own on the server of `STEADFAST_TEST_POSTGRES`; `None` without one.
    #[allow(dead_code, reason = "not every suite runs over it")]
    #[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a test may be skipped")]
    pub(crate) async fn postgres() -> Option<Subject> {
        let Ok(server) = std::env::var("STEADFAST_TEST_POSTGRES") else {
            println!("skipped: STEADFAST_TEST_POSTGRES names no database server");
            return None;
        };
        let (client, connection) = tokio_postgres::connect(&server, NoTls).await.unwrap();
        tokio::spawn(connection);
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (host, _) = server.rsplit_once('/').unwrap();
        let url = format!("{host}/{name}");
        let processes = connect(&url).await;
        let engine = Arc::new(Several::new(processes.clone()));
        Some(Subject { engine, processes, dir: None, url: Some(url) })
    }

    /// Closes and opens it; one that keeps nothing stays as it is.
    pub(crate) async fn reopen(&mut self) {
        if let Some(dir) = &self.dir {
            self.engine.close().await.unwrap();
            self.engine = open(dir.path().join("data"));
            self.processes = vec![self.engine.clone()];
        }
        if let Some(url) = &self.url {
            self.engine.close().await.unwrap();
            self.processes = connect(url).await;
            self.engine = Arc::new(Several::new(self.processes.clone()));
        }
    }

    /// Whether other processes may use it at the same time.
    #[allow(dead_code, reason = "not every suite asks")]
    pub(crate) fn shared(&self) -> bool {
        self.url.is_some()
    }

    /// Where its data is, for those that have a place.
    #[allow(dead_code, reason = "not every suite looks at the files")]
    pub(crate) fn data(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.path().join("data"))
    }
}

/// Numbers databases within a process.
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

/// Whose turn it is: one of so many, at random, the same again from the same seed.
pub(crate) struct Turns {
    random: Mutex<Random>,
    among: usize,
}

impl Turns {
    /// All of a run begin with its seed, so that a case that is tried again meets the same.
    #[allow(clippy::print_stdout, reason = "a failure shows the seed")]
    pub(crate) fn among(among: usize) -> Turns {
        static SEED: OnceLock<u64> = OnceLock::new();
        let told = || random::number("STEADFAST_SEED").unwrap_or_else(random::now);
        let seed = *SEED.get_or_init(told);
        if among > 1 {
            println!("whose turn it is: STEADFAST_SEED={seed}");
        }
        Turns { random: Mutex::new(Random(seed)), among }
    }

    pub(crate) fn next(&self) -> usize {
        let turn = self.random.lock().unwrap().below(self.among as u64);
        usize::try_from(turn).unwrap()
    }
}

pub(crate) fn open(dir: PathBuf) -> Arc<dyn Engine> {
    let fatal = FatalErrorHandler::new(|why| panic!("the engine stopped: {why}"));
    // A short log is folded all the time, so that suites meet folds.
    let options = Options { dir, cache_bytes: 1 << 20, wal_bytes: 64 << 10, fatal };
    Arc::new(Embedded::open(options).unwrap())
}

/// One test for each engine: `suite!(name_of_an_async_function_over_a_subject, ...)`.
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
