//! Errors that end a command, and their exit statuses.

use crate::client::Error;
use crate::config::ConnectionError;
use std::fmt::Display;
use std::io;
use std::path::Path;

/// Exit status of a command that failed.
pub(super) const EXIT_FAILURE: u8 = 1;
/// Exit status of a command with invalid arguments.
pub(super) const EXIT_USAGE: u8 = 2;
/// Exit status if a precondition failed, for example because an output file exists.
pub(super) const EXIT_PRECONDITION: u8 = 4;
/// Exit status of an interrupted command.
pub(super) const EXIT_INTERRUPTED: u8 = 130;

/// The last paragraph of the help text of every command that connects to a server.
macro_rules! exit_status {
    () => {
        "\n\nExit status: 0 success, 1 failure, 2 usage error or invalid argument, 3 not found,\n\
         4 precondition failed, 5 missing token or permission denied, 6 server unreachable,\n\
         130 interrupted."
    };
}
pub(super) use exit_status;

/// The last paragraph of the help text of every command that does not connect to a server, except
/// commands with exit statuses of their own.
macro_rules! local_exit_status {
    () => {
        "\n\nExit status: 0 success, 1 failure, 2 usage error."
    };
}
pub(super) use local_exit_status;

/// The result of a command or of one of its steps.
pub(super) type Result<T, E = CommandError> = std::result::Result<T, E>;

/// The reason a command ends early.
#[derive(Debug)]
pub(super) enum CommandError {
    /// The command failed.
    Failed(Error),
    /// The reader closed standard output, which is not an error.
    OutputClosed,
    /// The user did not confirm the command.
    Declined,
    /// The command received SIGINT.
    Interrupted,
}

impl From<Error> for CommandError {
    fn from(e: Error) -> CommandError {
        CommandError::Failed(e)
    }
}

impl From<ConnectionError> for Error {
    fn from(e: ConnectionError) -> Error {
        match e {
            ConnectionError::Endpoint(text) => Error::Usage(text),
            ConnectionError::Token(text) => Error::NoToken(text),
            ConnectionError::NotRunning { endpoint, reason } => {
                let subject = "the server".into();
                Error::Unreachable { subject, endpoint, reason }
            }
        }
    }
}

impl From<ConnectionError> for CommandError {
    fn from(e: ConnectionError) -> CommandError {
        CommandError::Failed(e.into())
    }
}

/// Converts an I/O error from a write to standard output.
impl From<io::Error> for CommandError {
    fn from(e: io::Error) -> CommandError {
        if e.kind() == io::ErrorKind::BrokenPipe {
            return CommandError::OutputClosed;
        }
        local_error(format!("cannot write to standard output: {e}"))
    }
}

/// Creates an error for invalid arguments.
pub(super) fn usage_error(text: impl Into<String>) -> CommandError {
    CommandError::Failed(Error::Usage(text.into()))
}

/// Creates an error for a failure on this machine.
pub(super) fn local_error(text: impl Into<String>) -> CommandError {
    CommandError::Failed(Error::Local(text.into()))
}

/// Creates an error for a failed operation on a local file.
pub(super) fn file_error(path: &Path, reason: impl Display) -> CommandError {
    local_error(format!("{}: {reason}", path.display()))
}
