//! `steadfast env`.

use super::console::{Out, Stop, ended, exit_status, note};
use crate::config::{ConnectionConfig, EnvArgs, TokenLocation};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

pub(super) const HELP: &str = concat!(
    "\
Examples:
  eval \"$(steadfast env)\"
  steadfast env -- fastly kv-store list
  steadfast env -- terraform apply
  steadfast env -- npx @fastly/compute-js-static-publish publish-content

COMMAND finds the variables that point the Fastly CLI, go-fastly and Terraform at the server. If it
is a Node.js program (20 or later), it also finds a module in NODE_OPTIONS that sends to the server
what is meant for api.fastly.com. COMMAND takes this command's place: signals reach it, and its exit
status is the one you see; 127 says that there is no such command, 126 that it cannot be run.

The exports name the file of a token and not the token, unless --show-token is given.",
    exit_status!()
);

/// What Node.js loads before its program.
const REDIRECT: &str = include_str!("redirect.mjs");
const NOT_RUNNABLE: u8 = 126;
const NO_SUCH_COMMAND: u8 = 127;

pub(super) fn run(args: &EnvArgs) -> ExitCode {
    let at = match args.client.resolve() {
        Ok(at) => at,
        Err(e) => return ended(Err(e.into())),
    };
    match args.command.split_first() {
        None => ended(print(&at, args)),
        Some((program, rest)) => become_command(&at, program, rest, args.node_options.as_deref()),
    }
}

/// The exports that point the Fastly CLI, go-fastly and Terraform at a server. `token` is an
/// expression of the shell.
pub(super) fn exports(url: &str, token: &str) -> String {
    format!(
        "\
# Fastly CLI
export FASTLY_API_ENDPOINT={url} FASTLY_ACCOUNT_ENDPOINT={url}
export FASTLY_API_TOKEN={token}

# Terraform, go-fastly
export FASTLY_API_URL={url}
export FASTLY_API_KEY={token}
"
    )
}

/// The expression of the shell that reads a file.
pub(super) fn read_file(path: &Path) -> String {
    format!("\"$(cat {})\"", quoted(&path.display().to_string()))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn print(at: &ConnectionConfig, args: &EnvArgs) -> Result<(), Stop> {
    let token = match &at.token_at {
        _ if args.show_token => quoted(at.token.reveal()),
        TokenLocation::Environment => "\"$FASTLY_API_TOKEN\"".to_owned(),
        TokenLocation::File(path) => read_file(path),
    };
    let mut out = Out::new();
    if args.client.json {
        let token = args.show_token.then(|| at.token.reveal());
        let file = match &at.token_at {
            TokenLocation::Environment => None,
            TokenLocation::File(path) => Some(path.display().to_string()),
        };
        let url = at.endpoint.as_str();
        out.json(&serde_json::json!({ "endpoint": url, "token_file": file, "token": token }))?;
    } else {
        out.bytes(exports(at.endpoint.as_str(), &token).as_bytes())?;
    }
    out.flush()
}

/// Runs the command in place of this one; returns only if that cannot be done.
fn become_command(
    at: &ConnectionConfig,
    program: &OsStr,
    rest: &[OsString],
    node_options: Option<&OsStr>,
) -> ExitCode {
    let url = at.endpoint.as_str();
    let mut command = Command::new(program);
    command.args(rest);
    for name in
        ["FASTLY_API_ENDPOINT", "FASTLY_ACCOUNT_ENDPOINT", "FASTLY_API_URL", "STEADFAST_URL"]
    {
        command.env(name, url);
    }
    for name in ["FASTLY_API_TOKEN", "FASTLY_API_KEY"] {
        command.env(name, at.token.reveal());
    }
    command.env("NODE_OPTIONS", with_redirect(node_options));
    let failed = command.exec();
    note(&format!("cannot run {}: {failed}", program.display()));
    let missing = failed.kind() == io::ErrorKind::NotFound;
    ExitCode::from(if missing { NO_SUCH_COMMAND } else { NOT_RUNNABLE })
}

/// The module itself stands in the variable, so that no file is left behind however the command
/// ends, and the programs that it starts find it too.
fn with_redirect(node_options: Option<&OsStr>) -> OsString {
    let module = BASE64_STANDARD.encode(REDIRECT);
    let mut options = node_options.unwrap_or_default().to_owned();
    if !options.is_empty() {
        options.push(" ");
    }
    options.push(format!("--import=data:text/javascript;base64,{module}"));
    options
}
