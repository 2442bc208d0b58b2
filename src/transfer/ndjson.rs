//! Reads NDJSON without modifying its lines.

use super::{ItemPosition, ItemSource, NextItem, RejectedItem, SourceError};
use std::io::{self, BufRead};

/// The result of reading a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineStatus {
    /// The line was read completely.
    Complete,
    /// The line exceeds the limit and was skipped.
    TooLong,
    /// There are no more lines.
    End,
}

/// Reads a line and appends it to `out`, with a line feed even if the input has none. Skips a line
/// longer than `max` bytes.
///
/// # Errors
/// Returns an error if reading fails.
pub fn read_line(from: &mut dyn BufRead, out: &mut Vec<u8>, max: u64) -> io::Result<LineStatus> {
    let start = out.len();
    let (mut any, mut too_long) = (false, false);
    loop {
        let buffer = match from.fill_buf() {
            Ok(buffer) => buffer,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let end = memchr::memchr(b'\n', buffer);
        let (chunk, _) = buffer.split_at(end.map_or(buffer.len(), |at| at + 1));
        any |= !chunk.is_empty();
        too_long |= (out.len() - start + chunk.len()) as u64 > max.saturating_add(1);
        if !too_long {
            out.extend_from_slice(chunk);
        }
        let (consumed, eof) = (chunk.len(), chunk.is_empty());
        from.consume(consumed);
        if too_long {
            out.truncate(start);
        }
        if end.is_some() || eof {
            return Ok(match (any, too_long) {
                (false, _) => LineStatus::End,
                (true, true) => LineStatus::TooLong,
                (true, false) => {
                    if end.is_none() {
                        out.push(b'\n');
                    }
                    LineStatus::Complete
                }
            });
        }
    }
}

/// An [`ItemSource`] for NDJSON.
pub struct NdjsonSource {
    from: Box<dyn BufRead + Send>,
    line_bytes_max: u64,
    number: u64,
}

impl NdjsonSource {
    /// Creates a source that rejects lines longer than `line_bytes_max` bytes.
    pub fn new(from: Box<dyn BufRead + Send>, line_bytes_max: u64) -> NdjsonSource {
        NdjsonSource { from, line_bytes_max, number: 0 }
    }
}

impl ItemSource for NdjsonSource {
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError> {
        loop {
            let start = out.len();
            let status = read_line(&mut *self.from, out, self.line_bytes_max)?;
            self.number += 1;
            let position = ItemPosition::line(self.number);
            match status {
                LineStatus::End => return Ok(NextItem::End),
                LineStatus::TooLong => {
                    let reason = format!("line must be at most {} bytes", self.line_bytes_max);
                    let key = String::new();
                    return Ok(NextItem::Rejected(RejectedItem { position, key, reason }));
                }
                LineStatus::Complete => {
                    let line = out.get(start..).unwrap_or_default();
                    if !line.trim_ascii().is_empty() {
                        return Ok(NextItem::Line(position));
                    }
                    out.truncate(start);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &'static str, max: u64) -> (Vec<NextItem>, String) {
        let from = Box::new(io::BufReader::with_capacity(3, text.as_bytes()));
        let mut source = NdjsonSource::new(from, max);
        let (mut items, mut out) = (Vec::new(), Vec::new());
        loop {
            match source.next_item(&mut out).unwrap() {
                NextItem::End => return (items, String::from_utf8(out).unwrap()),
                item @ (NextItem::Line(_) | NextItem::Rejected(_)) => items.push(item),
            }
        }
    }

    #[test]
    fn blank_lines_are_skipped_but_counted() {
        let (items, out) = read_all("a\n\n  \r\nbb\r\nlast", 100);
        assert_eq!(items, [1, 4, 5].map(|line| NextItem::Line(ItemPosition::line(line))));
        assert_eq!(out, "a\nbb\r\nlast\n");
        assert_eq!(read_all("", 100), (vec![], String::new()));
    }

    #[test]
    fn a_line_that_exceeds_the_limit_is_rejected_and_reading_continues() {
        let (items, out) = read_all("12345\n123456\n1\n1234567", 5);
        let numbers: Vec<_> = items
            .iter()
            .map(|item| match item {
                NextItem::Line(position) => (position.line, true),
                NextItem::Rejected(item) => (item.position.line, false),
                NextItem::End => (0, false),
            })
            .collect();
        assert_eq!(numbers, [(1, true), (2, false), (3, true), (4, false)]);
        assert_eq!(out, "12345\n1\n");
    }
}
