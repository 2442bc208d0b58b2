//! Tests of the transfer commands (import, export and sync) against a real server. No item is lost,
//! added or changed, even if connections are cut off and processes are killed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::print_stdout, reason = "tests may print")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/proxy.rs"]
mod proxy;

mod errors;
mod formats;
mod hosted_api;
mod interruptions;
mod memory;
mod other_products;
mod outputs;
mod round_trip;
mod sync;
mod viceroy;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{CommandOutput, Server, TOKEN, binary};

/// Returns a command that runs in `directory` and uses the server on `port` with the root token.
pub(crate) fn command(port: u16, directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(directory).stdin(Stdio::null());
    command.env("FASTLY_API_ENDPOINT", format!("http://127.0.0.1:{port}"));
    command.env("FASTLY_API_TOKEN", TOKEN).env_remove("STEADFAST_TOKEN_FILE");
    command
}

pub(crate) fn run(port: u16, directory: &Path, args: &[&str]) -> CommandOutput {
    support::run(&mut command(port, directory, args))
}

/// Runs a command with `input` on its standard input.
pub(crate) fn pipe(port: u16, directory: &Path, args: &[&str], input: &[u8]) -> CommandOutput {
    support::run_with_input(command(port, directory, args), input)
}

/// Returns a line of an export, in which `rest` follows the value.
pub(crate) fn line(key: &str, value: &[u8], rest: &str) -> String {
    let key = serde_json::to_string(key).unwrap();
    format!("{{\"key\":{key},\"value\":\"{}\"{rest}}}\n", BASE64_STANDARD.encode(value))
}

/// Returns the generation and modification time as they appear at the end of an exported line.
pub(crate) fn stamp(generation: u64) -> String {
    let (day, micros) = (1 + generation % 28, generation % 1_000_000);
    format!(",\"generation\":{generation},\"modified\":\"2026-01-{day:02}T00:00:00.{micros:06}Z\"")
}

/// Returns `count` lines in key order, each with a value of `size` bytes.
pub(crate) fn numbered_lines(count: u64, size: usize) -> String {
    let value = |nth: u64| vec![u8::try_from(nth % 251).unwrap(); size];
    (0..count).map(|nth| line(&format!("key-{nth:08}"), &value(nth), &stamp(nth + 1))).collect()
}

/// Exports a whole store and returns the lines.
pub(crate) fn export(server: &Server, store: &str) -> String {
    run(server.port, Path::new("."), &["export", store]).expect_exit(0).text()
}

/// Returns the value of an item, or `None` if the item does not exist.
pub(crate) fn value(server: &Server, store: &str, key: &str) -> Option<Vec<u8>> {
    let target = format!("GET /resources/stores/kv/{store}/keys/{key}");
    let response = server.request(&target, &[], b"");
    (response.status == 200).then_some(response.body)
}
