//! Runs checks one at a time. A failed check does not stop the run.

use std::fmt::Debug;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

/// The result of a check. `Err` contains a description of the failure.
pub type Verdict = Result<(), String>;

const LIMIT: Duration = Duration::from_secs(120);

#[derive(Default)]
pub struct Checks {
    passed: usize,
    failed: usize,
}

impl Checks {
    pub fn section(&self, title: &str) {
        println!("\n{title}");
    }

    pub async fn check(&mut self, name: &str, body: impl Future<Output = Verdict>) {
        let verdict = tokio::time::timeout(LIMIT, body)
            .await
            .unwrap_or_else(|_| Err(format!("timed out after {} s", LIMIT.as_secs())));
        match verdict {
            Ok(()) => {
                self.passed += 1;
                println!("  ok      {name}");
            }
            Err(reason) => {
                self.failed += 1;
                println!("  FAILED  {name}");
                for line in reason.lines() {
                    println!("          {line}");
                }
            }
        }
    }

    pub fn finish(self) -> ExitCode {
        println!("\n{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

pub fn ensure(holds: bool, what: impl Into<String>) -> Verdict {
    if holds { Ok(()) } else { Err(what.into()) }
}

pub fn same<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Verdict {
    ensure(got == wanted, format!("{what}: got {got:?}, wanted {wanted:?}"))
}
