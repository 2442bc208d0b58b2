//! Items on their way into a store and out of it: the line they travel as, and the files they come
//! from. No network here, and no server: the commands that move data carry the lines.
//!
//! Whatever the items come from, each leaves its [`Source`] as one line of JSON, so that what moves
//! lines need know nothing else. A source of lines hands them on as they are.

pub mod batches;
pub mod csv;
pub mod detect;
pub mod directory;
pub mod fastly_toml;
pub mod kv_json;
pub mod ndjson;
pub mod record;
pub mod resume;

use std::fmt;

/// What a source's items are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// A folder whose files are the values, by their relative paths.
    Tree,
    /// The local emulator's `kv.json`: one object of keys.
    Viceroy,
    /// A `fastly.toml`, which names stores and their items.
    Manifest,
    /// Two columns, key and value.
    Csv,
}

impl Format {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Ndjson => "ndjson",
            Format::Tree => "dir",
            Format::Viceroy => "viceroy",
            Format::Manifest => "fastly",
            Format::Csv => "csv",
        }
    }
}

/// An item that cannot be taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The number of its line, or its place among the items, from 1.
    pub number: u64,
    /// Its key, where it could be read.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What comes next from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The item of this number, whose line was written.
    Line(u64),
    /// An item that cannot be taken; others follow.
    Wrong(Wrong),
    /// Nothing: that was all.
    End,
}

/// Why no more can come from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Broken {
    fn from(e: std::io::Error) -> Broken {
        Broken(format!("cannot be read: {e}"))
    }
}

/// Items, one after the other, always in the same order.
pub trait Source: Send {
    /// Writes the next item behind what `out` holds, as a line with its end.
    ///
    /// # Errors
    /// When nothing more can be read.
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Next, Broken>;
}

/// Items that are held in memory.
impl Source for std::vec::IntoIter<kv_json::Item> {
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Next, Broken> {
        Ok(Iterator::next(self).map_or(Next::End, |item| item.write(out)))
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
