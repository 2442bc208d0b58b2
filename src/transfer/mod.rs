//! File formats that items are imported from and exported to, and the state of an import.
//!
//! Every [`ItemSource`] turns its items into item lines, so the commands that send them handle one
//! format only; NDJSON passes through unchanged. Nothing here uses the network.

pub mod batches;
pub mod csv;
pub mod detect;
pub mod directory;
pub mod fastly_toml;
pub mod item;
pub mod kv_json;
pub mod ndjson;
pub mod resume;

use std::fmt;

/// An item that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedItem {
    /// Line number, or position among the items, from 1.
    pub number: u64,
    /// Key; empty if it could not be read.
    pub key: String,
    /// Cause.
    pub reason: String,
}

/// The result of reading one item from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextItem {
    /// The line of the item with this number was written.
    Line(u64),
    /// The item is rejected; reading can continue.
    Rejected(RejectedItem),
    /// There are no more items.
    End,
}

/// An error that ends the reading of a source.
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

/// A sequence of items, in the same order each time it is read.
pub trait ItemSource: Send {
    /// Reads the next item and appends its line, with line feed, to `out`.
    ///
    /// # Errors
    /// [`SourceError`] if reading cannot continue.
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError>;
}

/// Items of a file that was read as a whole.
impl ItemSource for std::vec::IntoIter<kv_json::FileItem> {
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError> {
        Ok(Iterator::next(self).map_or(NextItem::End, |item| item.write(out)))
    }
}
