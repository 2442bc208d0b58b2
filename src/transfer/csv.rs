//! Reads CSV with the columns `key` and `value`. A header row can reorder them and add `metadata`
//! and `time_to_live_sec`.

use super::checked_item::{too_large, write_checked};
use super::{ItemSource, NextItem, RejectedItem, SourceError};
use crate::wire::item_line::ItemLine;
use csv::ByteRecord;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes allowed for a row in addition to its value, and for the read buffer.
const ROW_EXTRA_BYTES: u64 = 64 * 1024;

/// A reader that fails when a row exceeds its byte limit, as after an unclosed quote.
struct RowLimitReader {
    from: Box<dyn BufRead + Send>,
    remaining: Arc<AtomicU64>,
}

impl Read for RowLimitReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        let remaining = self.remaining.load(Ordering::Relaxed);
        let Some(remaining) = remaining.checked_sub(read as u64) else {
            return Err(io::Error::other("row too long, or unclosed quote"));
        };
        self.remaining.store(remaining, Ordering::Relaxed);
        Ok(read)
    }
}

/// The positions of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    key: usize,
    value: usize,
    metadata: Option<usize>,
    time_to_live_sec: Option<usize>,
    count: usize,
}

impl Columns {
    /// The columns of a file without a header row.
    const DEFAULT: Columns =
        Columns { key: 0, value: 1, metadata: None, time_to_live_sec: None, count: 2 };

    /// Parses a header row; `None` if the row is not one.
    fn from_header(row: &ByteRecord) -> Result<Option<Columns>, SourceError> {
        let at = |name: &str| {
            row.iter().position(|field| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        };
        let (Some(key), Some(value)) = (at("key"), at("value")) else { return Ok(None) };
        let (metadata, ttl) = (at("metadata"), at("time_to_live_sec"));
        let known = [Some(key), Some(value), metadata, ttl];
        if let Some((_, name)) = row.iter().enumerate().find(|(at, _)| !known.contains(&Some(*at)))
        {
            let name = String::from_utf8_lossy(name);
            let hint = "use key, value, metadata and time_to_live_sec, each at most once";
            return Err(SourceError(format!("has an unknown column {name:?}; {hint}")));
        }
        Ok(Some(Columns { key, value, metadata, time_to_live_sec: ttl, count: row.len() }))
    }
}

/// An [`ItemSource`] for CSV.
pub struct CsvSource {
    rows: csv::Reader<RowLimitReader>,
    row: ByteRecord,
    columns: Option<Columns>,
    row_bytes_remaining: Arc<AtomicU64>,
    value_bytes_max: u64,
}

impl CsvSource {
    /// Reads rows with values of at most `value_bytes_max` bytes.
    pub fn new(from: Box<dyn BufRead + Send>, value_bytes_max: u64) -> CsvSource {
        let row_bytes_remaining = Arc::new(AtomicU64::new(0));
        let from = RowLimitReader { from, remaining: row_bytes_remaining.clone() };
        let rows = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(from);
        let row = ByteRecord::new();
        CsvSource { rows, row, columns: None, row_bytes_remaining, value_bytes_max }
    }

    /// Reads the next row; returns false at the end.
    fn read_row(&mut self) -> Result<bool, SourceError> {
        let max = self.value_bytes_max.saturating_mul(2).saturating_add(ROW_EXTRA_BYTES);
        self.row_bytes_remaining.store(max, Ordering::Relaxed);
        self.rows.read_byte_record(&mut self.row).map_err(|e| {
            SourceError(format!("cannot be read after line {}: {e}", self.rows.position().line()))
        })
    }

    fn write_row(&self, columns: Columns, number: u64, out: &mut Vec<u8>) -> NextItem {
        let field = |at: usize| self.row.get(at).unwrap_or_default();
        let rejected = |reason: String| {
            let key = String::from_utf8_lossy(field(columns.key)).into_owned();
            NextItem::Rejected(RejectedItem { number, key, reason })
        };
        if self.row.len() != columns.count {
            let (count, found) = (columns.count, self.row.len());
            return rejected(format!("expected {count} fields, found {found}"));
        }
        let Ok(key) = std::str::from_utf8(field(columns.key)) else {
            return rejected("key must be UTF-8".into());
        };
        let value = field(columns.value);
        if value.len() as u64 > self.value_bytes_max {
            return rejected(too_large(self.value_bytes_max));
        }
        let metadata = columns.metadata.map(field).unwrap_or_default();
        let ttl = columns.time_to_live_sec.map(field).unwrap_or_default();
        let ttl = std::str::from_utf8(ttl).ok().map(str::trim);
        let time_to_live_sec = match ttl.map(|text| (text, text.parse())) {
            Some(("", _)) => None,
            Some((_, Ok(secs))) => Some(secs),
            Some((_, Err(_))) | None => {
                return rejected("time_to_live_sec must be a whole number".into());
            }
        };
        let item = ItemLine { key, value, metadata, time_to_live_sec, ..ItemLine::default() };
        write_checked(number, &item, out)
    }
}

impl ItemSource for CsvSource {
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError> {
        if !self.read_row()? {
            return Ok(NextItem::End);
        }
        let columns = match self.columns {
            Some(columns) => columns,
            None => {
                let header = Columns::from_header(&self.row)?;
                let columns = header.unwrap_or(Columns::DEFAULT);
                self.columns = Some(columns);
                if header.is_some() && !self.read_row()? {
                    return Ok(NextItem::End);
                }
                columns
            }
        };
        let number = self.row.position().map_or(0, csv::Position::line);
        Ok(self.write_row(columns, number, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &'static [u8]) -> (String, Vec<RejectedItem>, Option<SourceError>) {
        let mut source = CsvSource::new(Box::new(text), 5);
        let (mut out, mut rejected) = (Vec::new(), Vec::new());
        let error = loop {
            match source.next_item(&mut out) {
                Ok(NextItem::Line(_)) => {}
                Ok(NextItem::Rejected(item)) => rejected.push(item),
                Ok(NextItem::End) => break None,
                Err(e) => break Some(e),
            }
        };
        (String::from_utf8(out).unwrap(), rejected, error)
    }

    #[test]
    fn columns_follow_the_header_row_or_are_key_and_value() {
        let lines = "{\"key\":\"a\",\"value\":\"MQ==\"}\n{\"key\":\"b,c\",\"value\":\"\"}\n";
        assert_eq!(read_all(b"a,1\n\"b,c\",\n"), (lines.into(), vec![], None));
        assert_eq!(read_all(b"Key,Value\r\na,1\r\n\"b,c\",\"\""), (lines.into(), vec![], None));
        assert_eq!(read_all(b"value,key\n1,a\n,\"b,c\"\n"), (lines.into(), vec![], None));
        assert_eq!(read_all(b""), (String::new(), vec![], None));
        assert_eq!(read_all(b"key,value\n"), (String::new(), vec![], None));
        let (text, ..) = read_all(b"key,value,metadata,time_to_live_sec\nk,v,m,60\nl,v,,\n");
        assert!(text.contains("\"metadata\":\"m\",\"time_to_live_sec\":60}\n"), "{text}");
        assert!(text.ends_with("{\"key\":\"l\",\"value\":\"dg==\"}\n"), "{text}");
    }

    #[test]
    fn invalid_rows_are_rejected_by_line_and_reading_continues() {
        let (text, rejected, error) =
            read_all(b"a,1\nb\nc,1,2\n\"x\ny\",1\nlong,123456\n\xff,1\n,1\nz,\"a\nb\"\n");
        assert!(error.is_none());
        let numbers: Vec<_> = rejected.iter().map(|item| item.number).collect();
        assert_eq!(numbers, [2, 3, 4, 6, 7, 8]);
        let reason = |at: usize| rejected[at].reason.as_str();
        assert!(reason(0).contains("2 fields") && reason(3).contains("at most 5 bytes"));
        assert!(reason(4).contains("UTF-8") && reason(5).contains("empty"));
        assert!(text.contains("\"z\""));
    }

    #[test]
    fn an_unclosed_quote_does_not_exhaust_memory() {
        let text: &'static [u8] = Vec::leak([&b"a,\""[..], &vec![b'x'; 1 << 20]].concat());
        let (_, _, error) = read_all(text);
        assert!(error.unwrap().to_string().contains("too long"));
    }
}
