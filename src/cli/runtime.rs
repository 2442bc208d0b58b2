//! Runs a command: the tokio runtime, interrupts and the exit status.

use super::error::{CommandError, EXIT_INTERRUPTED, local_error};
use super::output::{print_error, print_status};
use crate::client::{Client, Retry};
use crate::config::ClientArgs;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// The time between an interrupt and the forced end of a command that is stuck.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);

/// Builds the multi-threaded tokio runtime that every command uses.
pub(super) fn build() -> Result<Runtime, CommandError> {
    let built = Builder::new_multi_thread().enable_all().build();
    built.map_err(|e| local_error(format!("cannot start threads: {e}")))
}

/// Runs a client command until it ends or is interrupted.
pub(super) fn run<F, R>(args: &ClientArgs, command: F) -> ExitCode
where
    F: FnOnce(Client) -> R,
    R: Future<Output = Result<(), CommandError>>,
{
    finish(connect_and_run(args, command))
}

fn connect_and_run<F, R>(args: &ClientArgs, command: F) -> Result<(), CommandError>
where
    F: FnOnce(Client) -> R,
    R: Future<Output = Result<(), CommandError>>,
{
    let connection = args.resolve()?;
    let client = Client::new(connection.endpoint, &connection.token)?;
    let client = client.with_retry(Retry::interactive());
    let runtime = build()?;
    let result = runtime.block_on(async {
        tokio::spawn(exit_if_stuck());
        tokio::select! {
            // Polled first: installs the handler before the first request is sent.
            biased;
            _ = tokio::signal::ctrl_c() => Err(CommandError::Interrupted),
            result = Box::pin(command(client)) => result,
        }
    });
    // Blocking threads may be stuck in a read from a terminal or a disk: do not wait for them.
    runtime.shutdown_background();
    result
}

/// Ends the process after an interrupt if the command blocks, such as in a read from a terminal.
async fn exit_if_stuck() {
    if tokio::signal::ctrl_c().await.is_ok() {
        tokio::time::sleep(INTERRUPT_GRACE).await;
        std::process::exit(EXIT_INTERRUPTED.into());
    }
}

/// Reports the result of a command and returns its exit status.
pub(super) fn finish(result: Result<(), CommandError>) -> ExitCode {
    match result {
        Ok(()) | Err(CommandError::OutputClosed) => ExitCode::SUCCESS,
        Err(CommandError::Failed(e)) => fail(&e.to_string(), e.kind().exit_code()),
        Err(CommandError::Declined) => {
            print_status("cancelled: nothing was changed");
            ExitCode::FAILURE
        }
        Err(CommandError::Interrupted) => fail("interrupted", EXIT_INTERRUPTED),
    }
}

/// Prints an error and returns the given exit status.
pub(super) fn fail(message: &str, status: u8) -> ExitCode {
    print_error(message);
    ExitCode::from(status)
}
