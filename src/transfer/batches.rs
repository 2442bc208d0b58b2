//! Groups items into batches. Each batch is sent and retried as a unit.

use super::checked_item::CheckedItem;
use super::{ItemPosition, ItemSource, NextItem, RejectedItem, SourceError};
use crate::wire::item_line::key_of;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The limits of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Maximum number of items in a batch.
    pub items: usize,
    /// Total size of the lines, in bytes, at which a batch is complete.
    pub bytes: usize,
    /// Whether the keys in a batch must be unique.
    pub unique_keys: bool,
    /// If set, items are decoded and checked instead of being collected as lines, and values larger
    /// than this many bytes are rejected.
    pub decode: Option<u64>,
}

/// An item to add to a batch. Its line is parsed once, when the entry is created.
pub struct BatchEntry {
    position: ItemPosition,
    /// Hash of the key, if the line contains a key.
    key_hash: Option<u64>,
    bytes: usize,
    content: Content,
}

enum Content {
    Line(Vec<u8>),
    Item(CheckedItem),
    Rejected(RejectedItem),
}

impl BatchEntry {
    /// Creates an entry from a line. Decodes the line as [`BatchLimits::decode`] specifies.
    pub fn new(position: ItemPosition, line: Vec<u8>, decode: Option<u64>) -> BatchEntry {
        let bytes = line.len();
        let Some(value_bytes_max) = decode else {
            let key_hash = key_of(&line).map(|key| hash(&key));
            return BatchEntry { position, key_hash, bytes, content: Content::Line(line) };
        };
        match CheckedItem::parse(&line, position, value_bytes_max) {
            Ok(item) => {
                let key_hash = Some(hash(&item.key));
                BatchEntry { position, key_hash, bytes, content: Content::Item(item) }
            }
            Err(rejected) => BatchEntry::rejected(rejected),
        }
    }

    fn rejected(item: RejectedItem) -> BatchEntry {
        let content = Content::Rejected(item);
        BatchEntry { position: ItemPosition::NONE, key_hash: None, bytes: 0, content }
    }
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Consecutive items, either as lines or in decoded form.
#[derive(Debug, Default)]
pub struct Batch {
    /// Position of the first item.
    pub from: u64,
    /// Position after the last item.
    pub to: u64,
    /// Lines of the items; empty if the items are decoded.
    pub lines: Vec<u8>,
    /// Decoded items; empty if the items are kept as lines.
    pub items: Vec<CheckedItem>,
    /// Position of each item in the input, for messages.
    pub positions: Vec<ItemPosition>,
    /// Hashes of the keys of the items.
    pub key_hashes: Vec<u64>,
    /// Items that cannot be sent.
    pub rejected: Vec<RejectedItem>,
    /// Total size of all lines in bytes, including lines that were decoded.
    pub bytes: usize,
    /// Whether an earlier run may have sent these items.
    pub resent: bool,
}

impl Batch {
    /// Adds an entry to the batch.
    pub fn push(&mut self, entry: BatchEntry) {
        self.key_hashes.extend(entry.key_hash);
        self.bytes += entry.bytes;
        match entry.content {
            // Avoid copying the line, which may be long.
            Content::Line(line) if self.lines.is_empty() => self.lines = line,
            Content::Line(line) => self.lines.extend_from_slice(&line),
            Content::Item(item) => self.items.push(item),
            Content::Rejected(item) => return self.rejected.push(item),
        }
        self.positions.push(entry.position);
    }
}

/// Reads batches from a source.
pub struct BatchReader {
    source: Box<dyn ItemSource>,
    limits: BatchLimits,
    position: u64,
    /// Items before this position may have been sent by an earlier run.
    sent: u64,
    /// The entry that was read last but did not fit into the previous batch.
    pending: Option<BatchEntry>,
    ended: bool,
}

impl BatchReader {
    /// Creates a reader that skips the first `done` items. An earlier run may have sent the items
    /// before position `sent`.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if reading fails or the source has fewer than `done` items.
    pub fn new(
        mut source: Box<dyn ItemSource>,
        limits: BatchLimits,
        done: u64,
        sent: u64,
    ) -> Result<BatchReader, SourceError> {
        let mut skipped = Vec::new();
        for _ in 0..done {
            skipped.clear();
            if source.next_item(&mut skipped)? == NextItem::End {
                return Err(SourceError("has fewer items than have been imported".into()));
            }
        }
        Ok(BatchReader { source, limits, position: done, sent, pending: None, ended: false })
    }

    /// Reads the next batch. Returns `None` at the end of the source.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if reading fails.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, SourceError> {
        let from = self.position;
        let mut batch = Batch { from, to: from, resent: from < self.sent, ..Batch::default() };
        let mut keys = HashSet::new();
        while !self.ended && !self.is_full(&batch) {
            let Some(entry) = self.next_entry()? else {
                self.ended = true;
                break;
            };
            let repeated = entry.key_hash.is_some_and(|hash| !keys.insert(hash));
            if repeated && self.limits.unique_keys {
                self.pending = Some(entry);
                break;
            }
            batch.push(entry);
            self.position += 1;
            batch.to = self.position;
        }
        Ok((batch.to > from).then_some(batch))
    }

    fn next_entry(&mut self) -> Result<Option<BatchEntry>, SourceError> {
        if let Some(entry) = self.pending.take() {
            return Ok(Some(entry));
        }
        let mut line = Vec::new();
        Ok(match self.source.next_item(&mut line)? {
            NextItem::End => None,
            NextItem::Rejected(item) => Some(BatchEntry::rejected(item)),
            NextItem::Line(position) => Some(BatchEntry::new(position, line, self.limits.decode)),
        })
    }

    fn is_full(&self, batch: &Batch) -> bool {
        batch.to - batch.from >= self.limits.items as u64
            || batch.bytes >= self.limits.bytes
            || (batch.resent && batch.to >= self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ndjson::NdjsonSource;
    use super::*;

    fn read_all(text: &'static str, limits: BatchLimits, done: u64, sent: u64) -> Vec<Batch> {
        let source = Box::new(NdjsonSource::new(Box::new(text.as_bytes()), 60));
        let mut batches = BatchReader::new(source, limits, done, sent).unwrap();
        std::iter::from_fn(|| batches.next_batch().unwrap()).collect()
    }

    const LIMITS: BatchLimits =
        BatchLimits { items: 2, bytes: 1000, unique_keys: false, decode: None };
    const TEXT: &str = "{\"key\":\"a\"}\n\n{\"key\":\"b\"}\n{\"key\":\"a\"}\nbad\n{\"key\":\"c\"}";

    #[test]
    fn batches_end_at_their_limits_and_after_the_last_resent_item() {
        let spans = |batches: &[Batch]| -> Vec<_> {
            batches.iter().map(|batch| (batch.from, batch.to, batch.resent)).collect()
        };
        let all = read_all(TEXT, LIMITS, 0, 0);
        assert_eq!(spans(&all), [(0, 2, false), (2, 4, false), (4, 5, false)]);
        assert_eq!(all[0].positions, [1, 3].map(ItemPosition::line));
        assert_eq!(all[1].positions, [4, 5].map(ItemPosition::line));
        assert_eq!((all[1].key_hashes.len(), all[1].key_hashes[0]), (1, all[0].key_hashes[0]));
        assert_eq!(all[2].lines, b"{\"key\":\"c\"}\n");
        let bytes = BatchLimits { bytes: 5, ..LIMITS };
        assert_eq!(read_all(TEXT, bytes, 0, 0).len(), 4, "only the fourth line is below the limit");
        let resumed = read_all(TEXT, BatchLimits { items: 10, ..LIMITS }, 1, 3);
        assert_eq!(spans(&resumed), [(1, 3, true), (3, 5, false)]);
    }

    #[test]
    fn a_repeated_key_starts_a_new_batch_if_keys_must_be_unique() {
        let unique_keys = BatchLimits { items: 10, unique_keys: true, ..LIMITS };
        let spans: Vec<_> =
            read_all(TEXT, unique_keys, 0, 0).iter().map(|batch| (batch.from, batch.to)).collect();
        assert_eq!(spans, [(0, 2), (2, 5)]);
    }

    #[test]
    fn a_source_with_fewer_items_than_were_imported_is_refused() {
        let source = Box::new(NdjsonSource::new(Box::new(&b"a\n"[..]), 60));
        assert!(BatchReader::new(source, LIMITS, 2, 2).is_err());
    }

    #[test]
    fn decoded_items_are_checked_and_invalid_items_are_rejected() {
        let text =
            "{\"key\":\"a\",\"value\":\"aGk=\"}\nbad\n{\"key\":\"b\",\"value\":\"dGhyZWU=\"}\n";
        let decode = BatchLimits { items: 10, decode: Some(4), ..LIMITS };
        let batch = read_all(text, decode, 0, 0).remove(0);
        assert_eq!((batch.to, batch.lines.len()), (3, 0));
        assert_eq!(batch.positions, [ItemPosition::line(1)]);
        assert_eq!(batch.items[0].value, b"hi");
        let rejected: Vec<_> = batch.rejected.iter().map(|item| item.position.line).collect();
        assert_eq!(rejected, [2, 3]);
    }
}
