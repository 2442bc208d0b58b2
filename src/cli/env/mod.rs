//! `steadfast env`: prints the environment variables that point other programs at the server, or
//! runs a command with them.

use super::error::{Result, exit_status};
use super::output::Output;
use super::runtime::{block_on, connect, fail, finish};
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

Sets the variables that the Fastly CLI, go-fastly and Terraform read. COMMAND also gets a module for
Node.js 20 or later, loaded through NODE_OPTIONS, that redirects requests for api.fastly.com to the
server. The module supports fetch, https and the default dispatcher of undici, but not HTTP/2.
COMMAND replaces this process, receives its signals and determines its exit status. Status 127
means that COMMAND was not found, and 126 that it could not be run.

Without --show-token, the exports refer to the file or variable that contains the token.",
    exit_status!()
);

/// The module that redirects requests from Node.js programs.
const REDIRECT_MODULE: &str = include_str!("redirect.mjs");
/// The variables that name a file of CA certificates: the first for OpenSSL and Go, the second for
/// Node.js.
const CA_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"];
/// Exit status if the command cannot be run, as in shells.
const EXIT_CANNOT_RUN: u8 = 126;
/// Exit status if the command is not found, as in shells.
const EXIT_NOT_FOUND: u8 = 127;

pub(super) fn run(args: &EnvArgs) -> ExitCode {
    let connection = match args.client.resolve() {
        Ok(connection) => connection,
        Err(e) => return finish(Err(e.into())),
    };
    if let Err(e) = verify_identity(&connection) {
        return finish(Err(e));
    }
    match args.command.split_first() {
        None => finish(print_exports(&connection, args)),
        Some((program, program_args)) => {
            exec(&connection, program, program_args, args.node_options.as_deref())
        }
    }
}

/// Verifies the identity of a server found in the data directory, because other programs will send
/// the token to it.
fn verify_identity(connection: &ConnectionConfig) -> Result<()> {
    if connection.server.is_none() {
        return Ok(());
    }
    let client = connect(connection.clone())?;
    block_on(async { Ok(client.verify_identity().await?) })
}

/// Returns shell commands that export the variables; `token` is a shell expression.
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

/// Returns a shell expression that expands to the content of a file.
pub(super) fn read_file(path: &Path) -> String {
    format!("\"$(cat {})\"", shell_quote(&path.display().to_string()))
}

fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn print_exports(connection: &ConnectionConfig, args: &EnvArgs) -> Result<()> {
    let url = connection.endpoint.as_str();
    let mut out = Output::new();
    if args.client.json {
        let token = args.show_token.then(|| connection.token.expose());
        let file = match &connection.token_location {
            TokenLocation::Environment(_) => None,
            TokenLocation::File(path) => Some(path.display().to_string()),
        };
        out.json(&serde_json::json!({ "endpoint": url, "token_file": file, "token": token }))?;
    } else {
        let token = match &connection.token_location {
            _ if args.show_token => shell_quote(connection.token.expose()),
            TokenLocation::Environment(name) => format!("\"${name}\""),
            TokenLocation::File(path) => read_file(path),
        };
        out.bytes(exports(url, &token).as_bytes())?;
        if let Some(file) = &connection.ca_file {
            let file = shell_quote(&file.display().to_string());
            let [openssl, node] = CA_VARIABLES;
            out.line(&format!("\n# TLS\nexport {openssl}={file} {node}={file}"))?;
        }
    }
    out.flush()
}

/// Replaces this process with the command, and returns only if that fails.
fn exec(
    connection: &ConnectionConfig,
    program: &OsStr,
    args: &[OsString],
    node_options: Option<&OsStr>,
) -> ExitCode {
    let url = connection.endpoint.as_str();
    let mut command = Command::new(program);
    command.args(args);
    let urls =
        ["FASTLY_API_ENDPOINT", "FASTLY_ACCOUNT_ENDPOINT", "FASTLY_API_URL", "STEADFAST_URL"];
    command.envs(urls.map(|name| (name, url)));
    let token = connection.token.expose();
    command.envs([("FASTLY_API_TOKEN", token), ("FASTLY_API_KEY", token)]);
    if let Some(file) = &connection.ca_file {
        command.envs(CA_VARIABLES.map(|name| (name, file)));
    }
    command.env("NODE_OPTIONS", with_redirect(node_options));
    let error = command.exec();
    let not_found = error.kind() == io::ErrorKind::NotFound;
    let status = if not_found { EXIT_NOT_FOUND } else { EXIT_CANNOT_RUN };
    fail(&format!("cannot run {}: {error}", program.display()), status)
}

/// Adds the redirect module to the Node.js options. A data URL avoids a temporary file.
fn with_redirect(node_options: Option<&OsStr>) -> OsString {
    let module = BASE64_STANDARD.encode(REDIRECT_MODULE);
    let mut options = node_options.unwrap_or_default().to_owned();
    if !options.is_empty() {
        options.push(" ");
    }
    options.push(format!("--import=data:text/javascript;base64,{module}"));
    options
}
