//! Items as a table: columns `key` and `value`, and by a first line of names also `metadata` and
//! `time_to_live_sec`.

use super::record::{Item, take, too_large};
use super::{Broken, Next, Source, Wrong};
use csv::ByteRecord;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a row besides its value, and what is read ahead.
const SPARE_BYTES: u64 = 64 * 1024;

/// Ends the reading of a row that has no end: a row may have so many bytes, quotes included.
struct Bounded {
    from: Box<dyn BufRead + Send>,
    left: Arc<AtomicU64>,
}

impl Read for Bounded {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        let left = self.left.load(Ordering::Relaxed);
        let Some(left) = left.checked_sub(read as u64) else {
            return Err(io::Error::other("a row is too long, or a quote has no end"));
        };
        self.left.store(left, Ordering::Relaxed);
        Ok(read)
    }
}

/// Which column holds what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    key: usize,
    value: usize,
    metadata: Option<usize>,
    time_to_live_sec: Option<usize>,
    count: usize,
}

impl Columns {
    /// Without names: the key, the value.
    const BARE: Columns =
        Columns { key: 0, value: 1, metadata: None, time_to_live_sec: None, count: 2 };

    /// By names, if the row is one of names, all of which must be known.
    fn named(row: &ByteRecord) -> Result<Option<Columns>, Broken> {
        let at = |name: &str| {
            row.iter().position(|field| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        };
        let (Some(key), Some(value)) = (at("key"), at("value")) else { return Ok(None) };
        let (metadata, ttl) = (at("metadata"), at("time_to_live_sec"));
        let known = [Some(key), Some(value), metadata, ttl];
        if let Some((_, name)) = row.iter().enumerate().find(|(at, _)| !known.contains(&Some(*at)))
        {
            let name = String::from_utf8_lossy(name).into_owned();
            let hint = "there may be key, value, metadata and time_to_live_sec, each once";
            return Err(Broken(format!("has a column {name:?} in its first line: {hint}")));
        }
        Ok(Some(Columns { key, value, metadata, time_to_live_sec: ttl, count: row.len() }))
    }
}

/// The rows of a table.
pub struct Table {
    rows: csv::Reader<Bounded>,
    row: ByteRecord,
    columns: Option<Columns>,
    left: Arc<AtomicU64>,
    value_bytes_max: u64,
}

impl Table {
    /// Reads a table whose values have at most so many bytes.
    pub fn new(from: Box<dyn BufRead + Send>, value_bytes_max: u64) -> Table {
        let left = Arc::new(AtomicU64::new(0));
        let from = Bounded { from, left: left.clone() };
        let rows = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(from);
        Table { rows, row: ByteRecord::new(), columns: None, left, value_bytes_max }
    }

    /// Reads the next row; whether there was one.
    fn advance(&mut self) -> Result<bool, Broken> {
        let most = self.value_bytes_max.saturating_mul(2).saturating_add(SPARE_BYTES);
        self.left.store(most, Ordering::Relaxed);
        self.rows.read_byte_record(&mut self.row).map_err(|e| {
            Broken(format!("cannot be read behind line {}: {e}", self.rows.position().line()))
        })
    }

    fn item(&self, columns: Columns, number: u64, out: &mut Vec<u8>) -> Next {
        let field = |at: usize| self.row.get(at).unwrap_or_default();
        let wrong = |reason: String| {
            let key = String::from_utf8_lossy(field(columns.key)).into_owned();
            Next::Wrong(Wrong { number, key, reason })
        };
        if self.row.len() != columns.count {
            let (count, has) = (columns.count, self.row.len());
            return wrong(format!("must have {count} fields, and has {has}"));
        }
        let Ok(key) = std::str::from_utf8(field(columns.key)) else {
            return wrong("key must be UTF-8".into());
        };
        let value = field(columns.value);
        if value.len() as u64 > self.value_bytes_max {
            return wrong(too_large(self.value_bytes_max));
        }
        let metadata = columns.metadata.map(field).unwrap_or_default();
        let ttl = columns.time_to_live_sec.map(field).unwrap_or_default();
        let ttl = match std::str::from_utf8(ttl).map(str::trim) {
            Ok("") => None,
            Ok(text) => match text.parse() {
                Ok(secs) => Some(secs),
                Err(_) => return wrong("time_to_live_sec must be a whole number".into()),
            },
            Err(_) => return wrong("time_to_live_sec must be a whole number".into()),
        };
        let item = Item { key, value, metadata, time_to_live_sec: ttl, ..Item::default() };
        take(number, &item, out)
    }
}

impl Source for Table {
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Next, Broken> {
        if !self.advance()? {
            return Ok(Next::End);
        }
        let columns = match self.columns {
            Some(columns) => columns,
            None => {
                let named = Columns::named(&self.row)?;
                let columns = named.unwrap_or(Columns::BARE);
                self.columns = Some(columns);
                if named.is_some() && !self.advance()? {
                    return Ok(Next::End);
                }
                columns
            }
        };
        let number = self.row.position().map_or(0, csv::Position::line);
        Ok(self.item(columns, number, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &'static [u8]) -> (String, Vec<Wrong>, Option<Broken>) {
        let mut table = Table::new(Box::new(text), 5);
        let (mut out, mut wrongs) = (Vec::new(), Vec::new());
        let broken = loop {
            match table.next(&mut out) {
                Ok(Next::Line(_)) => {}
                Ok(Next::Wrong(wrong)) => wrongs.push(wrong),
                Ok(Next::End) => break None,
                Err(e) => break Some(e),
            }
        };
        (String::from_utf8(out).unwrap(), wrongs, broken)
    }

    #[test]
    fn two_columns_are_key_and_value_and_a_row_of_names_is_passed_over() {
        let lines = "{\"key\":\"a\",\"value\":\"MQ==\"}\n{\"key\":\"b,c\",\"value\":\"\"}\n";
        assert_eq!(all(b"a,1\n\"b,c\",\n"), (lines.into(), vec![], None));
        assert_eq!(all(b"Key,Value\r\na,1\r\n\"b,c\",\"\""), (lines.into(), vec![], None));
        assert_eq!(all(b"value,key\n1,a\n,\"b,c\"\n"), (lines.into(), vec![], None));
        assert_eq!(all(b""), (String::new(), vec![], None));
        assert_eq!(all(b"key,value\n"), (String::new(), vec![], None));
        let (text, ..) = all(b"key,value,metadata,time_to_live_sec\nk,v,m,60\nl,v,,\n");
        assert!(text.contains("\"metadata\":\"m\",\"time_to_live_sec\":60}\n"), "{text}");
        assert!(text.ends_with("{\"key\":\"l\",\"value\":\"dg==\"}\n"), "{text}");
    }

    #[test]
    fn wrong_rows_are_told_by_line_and_the_next_is_read() {
        let (text, wrongs, broken) =
            all(b"a,1\nb\nc,1,2\n\"x\ny\",1\nlong,123456\n\xff,1\n,1\nz,\"a\nb\"\n");
        let told: Vec<_> =
            wrongs.iter().map(|wrong| (wrong.number, wrong.reason.as_str())).collect();
        assert!(broken.is_none());
        assert_eq!(told.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 4, 6, 7, 8]);
        assert!(told[0].1.contains("2 fields") && told[3].1.contains("at most 5 bytes"));
        assert!(told[4].1.contains("UTF-8") && told[5].1.contains("empty"));
        assert!(text.contains("\"z\""));
    }

    #[test]
    fn a_quote_without_an_end_does_not_take_all_memory() {
        let text: &'static [u8] = Vec::leak([&b"a,\""[..], &vec![b'x'; 1 << 20]].concat());
        let (_, _, broken) = all(text);
        assert!(broken.unwrap().to_string().contains("too long"));
    }
}
