//! The file formats of imports and exports, and the resume state of an import.
//!
//! Every [`ItemSource`] converts its items to NDJSON lines, so that callers handle a single format.
//! The lines of an NDJSON source are not modified. This module does not use the network.

pub mod batches;
pub mod checked_item;
pub mod csv;
pub mod detect;
pub mod directory;
pub mod fastly_toml;
pub mod kv_json;
pub mod ndjson;
pub mod resume;

use std::fmt;

/// An item that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedItem {
    /// Line number, counted from 1; 0 if the input format is not line-based.
    pub number: u64,
    /// Key; empty if the key could not be read.
    pub key: String,
    /// The reason for rejecting the item.
    pub reason: String,
}

/// The result of reading an item from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextItem {
    /// The item was written as a line. Contains its line number in the input, or 0 if the format is
    /// not line-based.
    Line(u64),
    /// The item was rejected, but reading can continue.
    Rejected(RejectedItem),
    /// There are no more items.
    End,
}

/// An error after which a source cannot be read further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError(pub String);

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for SourceError {
    fn from(e: std::io::Error) -> SourceError {
        SourceError(format!("cannot be read: {e}"))
    }
}

/// A sequence of items whose order is the same in every run.
pub trait ItemSource: Send {
    /// Reads the next item and appends its line, including the line feed, to `out`.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if the source cannot be read further.
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError>;
}

/// Returns the items of a file that was read into memory.
impl ItemSource for std::vec::IntoIter<kv_json::DeclaredItem> {
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError> {
        Ok(Iterator::next(self).map_or(NextItem::End, |item| item.write(out)))
    }
}
