//! What the commands that speak to a server share: how they start, tell, ask and end.

use crate::client::{Client, Error, Retry};
use crate::config::ClientArgs;
use crate::wire::Store;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// The exit status of a command that was interrupted.
pub(super) const INTERRUPTED: u8 = 130;

/// After an interrupt a command has so long to leave its state in order.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the help of each of these commands ends with.
macro_rules! exit_status {
    () => {
        "\n\nExit status: 0 done, 1 failed, 2 called wrongly or refused as wrong, 3 not found,\n\
         4 a condition is not met, 5 no token or not allowed, 6 the server cannot be reached,\n\
         130 interrupted."
    };
}
pub(super) use exit_status;

/// Why a command ends before its work is done.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something failed.
    Failed(Error),
    /// Nobody reads what it says any more, and so nothing is amiss.
    Unread,
    /// The person at the terminal said no.
    Declined,
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Failed(e)
    }
}

/// A failure to write what a command says.
impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        if e.kind() == io::ErrorKind::BrokenPipe {
            return Stop::Unread;
        }
        local(format!("cannot write: {e}"))
    }
}

/// A mistake in how the command was called.
pub(super) fn usage(text: impl Into<String>) -> Stop {
    Stop::Failed(Error::Usage(text.into()))
}

/// A failure on this machine.
pub(super) fn local(text: impl Into<String>) -> Stop {
    Stop::Failed(Error::Local(text.into()))
}

/// Runs a command against the server of its flags until it ends or is interrupted.
pub(super) fn run<F, R>(args: &ClientArgs, command: F) -> ExitCode
where
    F: FnOnce(Client) -> R,
    R: Future<Output = Result<(), Stop>>,
{
    let connected = args.resolve().and_then(|at| Client::new(at.endpoint, at.token));
    let client = match connected {
        Ok(client) => client.with_retry(Retry::interactive()),
        Err(e) => return ended(Err(e.into())),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return ended(Err(local(format!("cannot start threads: {e}")))),
    };
    let done = runtime.block_on(async {
        tokio::spawn(leave_when_stuck());
        tokio::select! {
            done = Box::pin(command(client)) => Some(done),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    // A thread that still waits for the terminal or a disk holds nobody up.
    runtime.shutdown_background();
    match done {
        Some(done) => ended(done),
        None => {
            note("interrupted");
            ExitCode::from(INTERRUPTED)
        }
    }
}

/// Ends the process if an interrupt finds it where it cannot stop, such as in a read of a terminal.
async fn leave_when_stuck() {
    if tokio::signal::ctrl_c().await.is_ok() {
        tokio::time::sleep(PATIENCE).await;
        std::process::exit(INTERRUPTED.into());
    }
}

/// Says why a command ends, and gives its exit status.
pub(super) fn ended(done: Result<(), Stop>) -> ExitCode {
    match done {
        Ok(()) | Err(Stop::Unread) => ExitCode::SUCCESS,
        Err(Stop::Failed(e)) => {
            note(&e.to_string());
            ExitCode::from(e.kind().exit_code())
        }
        Err(Stop::Declined) => {
            note("nothing was done");
            ExitCode::FAILURE
        }
    }
}

/// Says something to the person, who need not be there.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "steadfast: {text}");
}

/// How a store is named where something happens to it.
pub(super) fn target(client: &Client, store: &Store) -> String {
    format!("store {:?} ({}) at {}", store.name, store.id, client.endpoint())
}

/// Asks whether to go on, unless that was said before; without a terminal it must have been.
pub(super) async fn confirm(question: &str, yes: bool) -> Result<(), Stop> {
    if yes {
        note(question);
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(usage(format!("{question}: say --yes, as there is no terminal to ask at")));
    }
    let _ = write!(io::stderr(), "{question}? [y/N] ");
    // On a thread of its own, so that an interrupt ends the wait.
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    match answer.await {
        Ok(Ok(line)) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) | Err(_) => Err(Stop::Declined),
    }
}

/// What a command says on the standard output.
pub(super) struct Out {
    to: BufWriter<io::Stdout>,
    terminal: bool,
}

impl Out {
    pub(super) fn new() -> Out {
        let terminal = io::stdout().is_terminal();
        Out { to: BufWriter::with_capacity(64 << 10, io::stdout()), terminal }
    }

    /// A line.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Stop> {
        self.to.write_all(text.as_bytes())?;
        Ok(self.to.write_all(b"\n")?)
    }

    /// A line of JSON.
    pub(super) fn json<T: Serialize>(&mut self, what: &T) -> Result<(), Stop> {
        let text = serde_json::to_string(what).map_err(|e| local(e.to_string()))?;
        self.line(&text)
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        Ok(self.to.write_all(bytes)?)
    }

    /// A text of others, without what would drive a terminal if it goes to one.
    pub(super) fn shown(&self, text: &str) -> String {
        if !self.terminal {
            return text.to_owned();
        }
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }

    /// Hands on what is held back.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        Ok(self.to.flush()?)
    }
}

/// A bar on a terminal; nothing elsewhere. Without a total it counts only.
pub(super) fn bar(what: &'static str, unit: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let style = match total {
        Some(_) => format!(
            "{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left"
        ),
        None => format!("{{msg}} {{human_pos}} {unit}, {{per_sec}}"),
    };
    if let Ok(style) = ProgressStyle::with_template(&style) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
