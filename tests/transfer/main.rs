//! The commands that move items, as the real binary against the real server: nothing is lost, added
//! or changed on the way, however often the way is cut.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod between;
mod cuts;
mod emulator;
mod errors;
mod formats;
mod hosted;
mod round;
mod sync;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::{Server, TOKEN, binary};

/// A command of the binary that speaks to a port, run in a folder.
pub(crate) fn command(port: u16, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.env("FASTLY_API_ENDPOINT", format!("http://127.0.0.1:{port}"));
    command.env("FASTLY_API_TOKEN", TOKEN).env_remove("STEADFAST_TOKEN_FILE");
    command
}

/// How a command ended.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    fn of(output: &Output) -> Done {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Done { code, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// That it ended so.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Done {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }
}

pub(crate) fn run(port: u16, folder: &Path, args: &[&str]) -> Done {
    Done::of(&command(port, folder, args).output().unwrap())
}

/// The same, with something on the standard input.
pub(crate) fn fed(port: u16, folder: &Path, args: &[&str], input: &[u8]) -> Done {
    let mut command = command(port, folder, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|threads| {
        // It may end before it has read all.
        threads.spawn(move || std::io::Write::write_all(&mut stdin, input).is_ok());
        Done::of(&child.wait_with_output().unwrap())
    })
}

/// A line as an export has it.
pub(crate) fn line(key: &str, value: &[u8], rest: &str) -> String {
    let key = serde_json::to_string(key).unwrap();
    format!("{{\"key\":{key},\"value\":\"{}\"{rest}}}\n", BASE64_STANDARD.encode(value))
}

/// What stands at the end of the line of an item of no age.
pub(crate) fn stamp(generation: u64) -> String {
    let (day, micros) = (1 + generation % 28, generation % 1_000_000);
    format!(",\"generation\":{generation},\"modified\":\"2026-01-{day:02}T00:00:00.{micros:06}Z\"")
}

/// So many lines in the order of their keys, each with a value of so many bytes.
pub(crate) fn many(count: u64, size: usize) -> String {
    let value = |nth: u64| vec![u8::try_from(nth % 251).unwrap(); size];
    (0..count).map(|nth| line(&format!("key-{nth:08}"), &value(nth), &stamp(nth + 1))).collect()
}

/// All items of a store as lines.
pub(crate) fn exported(server: &Server, store: &str) -> String {
    run(server.port, Path::new("."), &["export", store]).ends(0).out
}

/// The value of an item; `None` without one.
pub(crate) fn value(server: &Server, store: &str, key: &str) -> Option<Vec<u8>> {
    let target = format!("GET /resources/stores/kv/{store}/keys/{key}");
    let answer = server.ask(&target, &[], b"");
    (answer.status == 200).then_some(answer.body)
}
