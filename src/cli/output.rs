//! Standard output, status messages and progress bars.
//!
//! Results go to standard output; status messages, errors and progress bars go to standard error.

use super::error::{Result, local_error};
use crate::client::Client;
use crate::wire::Store;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Prints a status message to standard error, ignoring failures to write.
pub(super) fn print_status(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints an error message to standard error, ignoring failures to write.
pub(super) fn print_error(text: &str) {
    print_status(&format!("error: {text}"));
}

/// Returns the text that identifies a store in messages: `store "site" (id) at URL`.
pub(super) fn store_label(client: &Client, store: &Store) -> String {
    format!("store {:?} ({}) at {}", store.name, store.id, client.endpoint())
}

/// Formats a count and a noun, which is in the plural unless the count is 1.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Buffered standard output.
pub(super) struct Output {
    writer: BufWriter<io::Stdout>,
    is_terminal: bool,
}

impl Output {
    pub(super) fn new() -> Output {
        let is_terminal = io::stdout().is_terminal();
        Output { writer: BufWriter::with_capacity(64 << 10, io::stdout()), is_terminal }
    }

    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        self.writer.write_all(text.as_bytes())?;
        Ok(self.writer.write_all(b"\n")?)
    }

    /// Writes a value as one line of JSON.
    pub(super) fn json<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|e| local_error(e.to_string()))?;
        self.line(&text)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.writer.write_all(bytes)?)
    }

    /// Replaces the control characters in untrusted text if standard output is a terminal.
    pub(super) fn sanitize(&self, text: &str) -> String {
        if !self.is_terminal {
            return text.to_owned();
        }
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        Ok(self.writer.flush()?)
    }
}

/// Prints the result of a command as one line of JSON if `json` is set.
pub(super) fn print_json_if<T: Serialize>(json: bool, value: &T) -> Result<()> {
    let mut out = Output::new();
    if json {
        out.json(value)?;
    }
    out.flush()
}

/// Creates a progress bar, or a counter if there is no total. It is drawn only on a terminal.
pub(super) fn progress_bar(action: &'static str, unit: &str, total: Option<u64>) -> ProgressBar {
    let style = match total {
        Some(_) => format!(
            "{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left"
        ),
        None => format!("{{msg}} {{human_pos}} {unit}, {{per_sec}}"),
    };
    styled_bar(total, &style).with_message(action)
}

/// Creates a progress bar from an indicatif template. It is drawn only on a terminal.
pub(super) fn styled_bar(total: Option<u64>, style: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
