//! The engines that every suite runs over, made fresh for each test.

use std::path::PathBuf;
use std::sync::Arc;
use steadfast::engine::Engine;
use steadfast::engine::embedded::{Embedded, Fatal, Options};
use steadfast::engine::memory::Memory;
use tempfile::TempDir;

/// An engine under test, and how to open it again.
pub(crate) struct Subject {
    pub(crate) engine: Arc<dyn Engine>,
    dir: Option<TempDir>,
}

impl Subject {
    pub(crate) fn memory() -> Subject {
        Subject { engine: Arc::new(Memory::new()), dir: None }
    }

    pub(crate) fn embedded() -> Subject {
        let dir = tempfile::tempdir().unwrap();
        Subject { engine: open(dir.path().join("data")), dir: Some(dir) }
    }

    /// Closes and opens it; one that keeps nothing stays as it is.
    pub(crate) async fn reopen(&mut self) {
        if let Some(dir) = &self.dir {
            self.engine.close().await.unwrap();
            self.engine = open(dir.path().join("data"));
        }
    }

    /// Where its data is, for those that have a place.
    #[allow(dead_code, reason = "not every suite looks at the files")]
    pub(crate) fn data(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.path().join("data"))
    }
}

pub(crate) fn open(dir: PathBuf) -> Arc<dyn Engine> {
    let fatal = Fatal::new(|why| panic!("the engine stopped: {why}"));
    // A short log is folded all the time, so that suites meet folds.
    let options = Options { dir, cache_bytes: 1 << 20, log_bytes: 64 << 10, fatal };
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
    };
}
