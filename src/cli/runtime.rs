//! Runs commands on the tokio runtime, handles interrupts and returns exit statuses.

use super::error::{CommandError, EXIT_INTERRUPTED, Result, local_error};
use super::output::{print_error, print_status};
use crate::client::{Client, Error, Retry, TlsFiles};
use crate::config::{ClientArgs, ConnectionConfig};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Grace period after an interrupt. If the command has not stopped by then, the process exits.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);

/// Builds the multi-threaded tokio runtime that every command uses.
pub(super) fn build() -> Result<Runtime> {
    let built = Builder::new_multi_thread().enable_all().build();
    built.map_err(|e| local_error(format!("cannot start the runtime: {e}")))
}

/// Runs a client command until it ends or is interrupted.
pub(super) fn run<F, R>(args: &ClientArgs, command: F) -> ExitCode
where
    F: FnOnce(Client) -> R,
    R: Future<Output = Result<()>>,
{
    let client = args.resolve().map_err(CommandError::from).and_then(|to| Ok(connect(to)?));
    finish(client.and_then(|client| block_on(until_interrupted(command(client)))))
}

/// Creates a client with the retry policy for interactive commands.
pub(super) fn connect(connection: ConnectionConfig) -> Result<Client, Error> {
    let ConnectionConfig { endpoint, token, ca_file, client_certificate, server, .. } = connection;
    let tls = TlsFiles { ca: ca_file, certificate: client_certificate };
    let client = Client::new(endpoint, &token, &tls)?.with_retry(Retry::interactive());
    Ok(match server {
        Some(server) => client.with_identity(server.secret, &server.data),
        None => client,
    })
}

/// Runs a command on a new runtime.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = build()?;
    let result = runtime.block_on(Box::pin(command));
    // Do not wait for threads that are blocked on a terminal, a pipe or a disk.
    runtime.shutdown_background();
    result
}

/// Runs a command until it ends or SIGINT is received.
pub(super) async fn until_interrupted<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::spawn(exit_if_stuck());
    tokio::select! {
        // Poll in order: the first branch must install the signal handler before the command
        // sends a request.
        biased;
        _ = tokio::signal::ctrl_c() => Err(CommandError::Interrupted),
        result = Box::pin(command) => result,
    }
}

/// Ends the process after an interrupt if the command does not stop, for example because it is
/// blocked on a terminal.
async fn exit_if_stuck() {
    if tokio::signal::ctrl_c().await.is_ok() {
        tokio::time::sleep(INTERRUPT_GRACE).await;
        std::process::exit(EXIT_INTERRUPTED.into());
    }
}

/// Reports the result of a command and returns its exit status.
pub(super) fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) | Err(CommandError::OutputClosed) => ExitCode::SUCCESS,
        Err(CommandError::Failed(e)) => fail(&e.to_string(), e.kind().exit_status()),
        Err(CommandError::Declined) => {
            print_status("cancelled");
            ExitCode::FAILURE
        }
        Err(CommandError::Interrupted) => fail("interrupted", EXIT_INTERRUPTED),
    }
}

/// Prints an error and returns `status`.
pub(super) fn fail(message: &str, status: u8) -> ExitCode {
    print_error(message);
    ExitCode::from(status)
}
