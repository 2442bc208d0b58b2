//! The file formats of imports and exports, and the resume state of an import.
//!
//! Every [`ItemSource`] converts its items to NDJSON lines, so that callers handle a single format.
//! The lines of an NDJSON source are not modified. This module does not use the network.

pub mod batches;
pub mod checked_item;
mod cloudflare;
mod consul;
pub mod csv;
pub mod detect;
pub mod directory;
mod element;
mod etcd;
pub mod fastly_toml;
pub mod json_array;
mod json_reader;
pub mod kv_json;
pub mod ndjson;
pub mod resume;
pub mod source_notes;

use std::fmt;

/// The position of an item in its input. Both numbers are counted from 1. A number is 0 if the
/// format does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemPosition {
    /// Number of the item in the input.
    pub item: u64,
    /// Number of the line on which the item starts.
    pub line: u64,
}

impl ItemPosition {
    /// The position of an item in a format that is a set of items.
    pub const NONE: ItemPosition = ItemPosition { item: 0, line: 0 };

    /// Returns the position of an item in a line-based format.
    pub fn line(line: u64) -> ItemPosition {
        ItemPosition { item: 0, line }
    }
}

/// Writes the position for a message, for example `item 2, line 7`. Writes nothing for
/// [`ItemPosition::NONE`].
impl fmt::Display for ItemPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.item, self.line) {
            (0, 0) => Ok(()),
            (0, line) => write!(f, "line {line}"),
            (item, 0) => write!(f, "item {item}"),
            (item, line) => write!(f, "item {item}, line {line}"),
        }
    }
}

/// An item that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedItem {
    /// Position of the item in the input.
    pub position: ItemPosition,
    /// Key; empty if the key could not be read.
    pub key: String,
    /// The reason for rejecting the item.
    pub reason: String,
}

/// The result of reading an item from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextItem {
    /// The item was written as a line. Contains its position in the input.
    Line(ItemPosition),
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
