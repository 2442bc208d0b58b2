//! Reads CSV (RFC 4180) with the columns `key` and `value`. A header row can reorder them and add
//! `metadata` and `time_to_live_sec`.
//!
//! Quoting is strict: a misplaced or unclosed quote ends the import with an error that states its
//! position, because the rows after the quote cannot be parsed reliably.

use super::checked_item::{too_large, write_checked};
use super::{ItemPosition, ItemSource, NextItem, RejectedItem, SourceError};
use crate::wire::item_line::ItemLine;
use std::io::{self, BufRead};

/// The number of bytes allowed for a row in addition to twice the maximum size of a value.
const ROW_EXTRA_BYTES: u64 = 64 * 1024;
/// The maximum number of fields in a row.
const FIELDS_MAX: usize = 1000;

/// A position in the input. Lines and columns are counted from 1; a column is one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    line: u64,
    column: u64,
}

impl Position {
    const START: Position = Position { line: 1, column: 1 };

    fn after(self, byte: u8) -> Position {
        let Position { line, column } = self;
        match byte {
            b'\n' => Position { line: line + 1, column: 1 },
            // A UTF-8 continuation byte belongs to the same column.
            0x80..=0xbf => self,
            _ => Position { line, column: column + 1 },
        }
    }

    fn error(self, problem: &str) -> SourceError {
        let Position { line, column } = self;
        SourceError(format!("is not valid CSV at line {line}, column {column}: {problem}"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a field.
    Start,
    Unquoted,
    Quoted,
    /// After a quote in a quoted field. The quote closes the field unless another quote follows.
    Quote,
    /// After the end of a row.
    End,
}

/// A row and the state of the parser.
struct RowParser {
    state: State,
    position: Position,
    /// Whether the last row ended in a carriage return, which a line feed may follow.
    after_return: bool,
    /// The position of the last opening quote.
    quote: Position,
    /// The line on which the row starts.
    line: u64,
    /// The concatenated fields, without their quotes.
    bytes: Vec<u8>,
    /// The position in `bytes` at which each field ends.
    ends: Vec<usize>,
}

impl RowParser {
    fn new() -> RowParser {
        let (bytes, ends) = (Vec::new(), Vec::new());
        let (state, position, quote) = (State::Start, Position::START, Position::START);
        RowParser { state, position, after_return: false, quote, line: 1, bytes, ends }
    }

    fn start_row(&mut self) {
        (self.state, self.line) = (State::Start, self.position.line);
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, byte: u8) -> Result<(), SourceError> {
        if std::mem::take(&mut self.after_return) && byte == b'\n' {
            return Ok(());
        }
        let at = self.position;
        self.position = at.after(byte);
        match (self.state, byte) {
            (State::Start, b'"') => (self.state, self.quote) = (State::Quoted, at),
            (State::Quoted, b'"') => self.state = State::Quote,
            (State::Quote, b'"') => {
                self.state = State::Quoted;
                self.bytes.push(byte);
            }
            (State::Quoted, _) => self.bytes.push(byte),
            (_, b',') => {
                self.end_field()?;
                self.state = State::Start;
            }
            (_, b'\r' | b'\n') => {
                self.after_return = byte == b'\r';
                self.position = at.after(b'\n');
                self.end_line()?;
            }
            (State::Unquoted, b'"') => {
                return Err(at.error(
                    "quote in a field that does not start with a quote: enclose the field in \
                     quotes and double the quotes within it",
                ));
            }
            (State::Quote, _) => {
                return Err(at.error(
                    "text after the closing quote of a field: double the quotes within a field",
                ));
            }
            (State::Start | State::Unquoted | State::End, _) => {
                self.state = State::Unquoted;
                self.bytes.push(byte);
            }
        }
        Ok(())
    }

    fn end_field(&mut self) -> Result<(), SourceError> {
        if self.ends.len() >= FIELDS_MAX {
            let problem = format!("more than {FIELDS_MAX} fields in a row");
            return Err(self.position.error(&problem));
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), SourceError> {
        if self.state == State::Start && self.ends.is_empty() {
            // Skip an empty line.
            self.start_row();
            return Ok(());
        }
        self.end_field()?;
        self.state = State::End;
        Ok(())
    }

    /// Ends the last row, which may lack a line break. Returns false if there is no row to end.
    fn end_input(&mut self) -> Result<bool, SourceError> {
        if self.state == State::Quoted {
            return Err(self.quote.error("this quote is not closed"));
        }
        self.end_line()?;
        Ok(self.state == State::End)
    }

    fn field(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let range = self.ends.get(at).map(|end| start.unwrap_or(0)..*end);
        range.and_then(|range| self.bytes.get(range)).unwrap_or_default()
    }

    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|at| self.field(at))
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

    /// Parses the first row. Returns `None` if the row is not a header.
    fn from_header(row: &RowParser) -> Result<Option<Columns>, SourceError> {
        let name = |field: &[u8]| field.trim_ascii().to_ascii_lowercase();
        let at = |wanted: &str| row.fields().position(|field| name(field) == wanted.as_bytes());
        if row.bytes.len() <= 5 && name(row.field(0)).starts_with(b"sep=") {
            let problem =
                "remove this line, which sets the separator for Excel; use commas as separators";
            return Err(Position::START.error(problem));
        }
        let (key, value) = match (at("key"), at("value")) {
            (None, None) => return Ok(None),
            (Some(key), Some(value)) => (key, value),
            (key, _) => {
                let missing = if key.is_none() { "key" } else { "value" };
                return Err(Position { line: row.line, column: 1 }.error(&format!(
                    "the header has no column {missing:?}; if this is an item, add the header \
                     key,value"
                )));
            }
        };
        let (metadata, ttl) = (at("metadata"), at("time_to_live_sec"));
        let used = [Some(key), Some(value), metadata, ttl];
        let other = row.fields().enumerate().find(|(at, _)| !used.contains(&Some(*at)));
        if let Some((_, other)) = other {
            let lower = name(other);
            let known = ["key", "value", "metadata", "time_to_live_sec"];
            if let Some(known) = known.into_iter().find(|known| known.as_bytes() == lower) {
                return Err(SourceError(format!("has a duplicate column {known:?}")));
            }
            let other = String::from_utf8_lossy(other);
            let hint = "use key, value, metadata and time_to_live_sec";
            return Err(SourceError(format!("has an unknown column {other:?}; {hint}")));
        }
        let count = row.ends.len();
        Ok(Some(Columns { key, value, metadata, time_to_live_sec: ttl, count }))
    }
}

/// An [`ItemSource`] for CSV.
pub struct CsvSource {
    from: Box<dyn BufRead + Send>,
    row: RowParser,
    columns: Option<Columns>,
    value_bytes_max: u64,
}

impl CsvSource {
    /// Creates a source that rejects values longer than `value_bytes_max` bytes.
    pub fn new(from: Box<dyn BufRead + Send>, value_bytes_max: u64) -> CsvSource {
        CsvSource { from, row: RowParser::new(), columns: None, value_bytes_max }
    }

    /// Reads the next row that is not empty. Returns false at the end of the input.
    fn read_row(&mut self) -> Result<bool, SourceError> {
        let bytes_max = self.value_bytes_max.saturating_mul(2).saturating_add(ROW_EXTRA_BYTES);
        let row = &mut self.row;
        row.start_row();
        loop {
            let buffer = match self.from.fill_buf() {
                Ok([]) => return row.end_input(),
                Ok(buffer) => buffer,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            let mut used = 0;
            for byte in buffer {
                row.push(*byte)?;
                used += 1;
                if row.state == State::End {
                    break;
                }
            }
            self.from.consume(used);
            if row.state == State::End {
                return Ok(true);
            }
            if row.bytes.len() as u64 > bytes_max {
                let start = Position { line: row.line, column: 1 };
                let at = if row.state == State::Quoted { row.quote } else { start };
                let problem =
                    format!("row too long, or unclosed quote: more than {bytes_max} bytes");
                return Err(at.error(&problem));
            }
        }
    }

    fn write_row(&self, columns: Columns, out: &mut Vec<u8>) -> NextItem {
        let position = ItemPosition::line(self.row.line);
        let field = |at: usize| self.row.field(at);
        let rejected = |reason: String| {
            let key = String::from_utf8_lossy(field(columns.key)).into_owned();
            NextItem::Rejected(RejectedItem { position, key, reason })
        };
        let (count, found) = (columns.count, self.row.ends.len());
        if found != count {
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
        write_checked(position, &item, out)
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
        Ok(self.write_row(columns, out))
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
    fn columns_follow_the_header_row_and_default_to_key_and_value() {
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
    fn invalid_rows_are_rejected_with_their_line_and_reading_continues() {
        let (text, rejected, error) =
            read_all(b"a,1\nb\nc,1,2\n\"x\ny\",1\nlong,123456\n\xff,1\n,1\nz,\"a\nb\"\n");
        assert!(error.is_none());
        let numbers: Vec<_> = rejected.iter().map(|item| item.position.line).collect();
        assert_eq!(numbers, [2, 3, 4, 6, 7, 8]);
        let reason = |at: usize| rejected[at].reason.as_str();
        assert!(reason(0).contains("2 fields") && reason(3).contains("at most 5 bytes"));
        assert!(reason(4).contains("UTF-8") && reason(5).contains("empty"));
        assert!(text.contains("\"z\""));
    }

    #[test]
    fn rows_end_with_any_line_break_and_empty_lines_are_skipped() {
        let lines = "{\"key\":\"a\",\"value\":\"MQ==\"}\n{\"key\":\"b\",\"value\":\"Mg==\"}\n";
        for text in
            ["a,1\nb,2", "\r\n\na,1\r\n\r\nb,2\r\n", "a,1\rb,2\r", "\"a\",\"1\"\n\n\"b\",\"2\""]
        {
            assert_eq!(read_all(text.as_bytes()), (lines.into(), vec![], None), "{text:?}");
        }
        let (_, rejected, _) = read_all(b"a,1\rx\ry\r\n\nz\n\"\"\n");
        let numbers: Vec<_> = rejected.iter().map(|item| item.position.line).collect();
        assert_eq!(numbers, [2, 3, 5, 6]);
        let (text, ..) = read_all(b"a,\"\"\"x\"\"\"\n");
        assert!(text.contains("\"Ingi\""), "{text}");
    }

    #[test]
    fn invalid_quoting_and_headers_are_reported_with_their_position() {
        for (text, position, problem) in [
            (&b"a,1\nb,\"2\nc,3\nd,4\n"[..], "line 2, column 3", "not closed"),
            (b"a,1\n\"\xc3\xbc\",\"", "line 2, column 5", "not closed"),
            (b"a,\"1\n2\"x\n", "line 2, column 3", "after the closing quote"),
            (b"a,\"1\" \n", "line 1, column 6", "after the closing quote"),
            (b"a,1\r\nb,2\"3\"\r\n", "line 2, column 4", "does not start with a quote"),
            (b"a,1\rb, \"3\"\r", "line 2, column 4", "does not start with a quote"),
            (b"sep=,\r\na,1\r\n", "line 1, column 1", "Excel"),
            (b"SEP=;\na;1\n", "line 1, column 1", "Excel"),
            (b"\nkey,metadata\na,1\n", "line 2, column 1", "no column \"value\""),
            (b"name,Value\na,1\n", "line 1, column 1", "no column \"key\""),
        ] {
            let shown = String::from_utf8_lossy(text);
            let (_, rejected, error) = read_all(text);
            let error = error.unwrap_or_else(|| panic!("{shown:?} was accepted")).to_string();
            assert!(error.contains(position) && error.contains(problem), "{shown:?}: {error}");
            assert!(rejected.is_empty(), "{shown:?}");
        }
    }

    #[test]
    fn duplicate_and_unknown_columns_are_refused() {
        let error = |text: &'static [u8]| read_all(text).2.unwrap().to_string();
        assert!(error(b"key,value,Key\n").contains("has a duplicate column \"key\""));
        assert!(error(b"key,value,metadata,metadata\n").contains("duplicate column \"metadata\""));
        assert!(error(b"key,value,x\n").contains("has an unknown column \"x\""));
    }

    #[test]
    fn the_number_of_fields_in_a_row_is_limited() {
        let text: &'static [u8] = Vec::leak(vec![b','; 1 << 20]);
        assert!(read_all(text).2.unwrap().to_string().contains("more than 1000 fields"));
    }

    #[test]
    fn an_unclosed_quote_does_not_exhaust_memory() {
        let text: &'static [u8] = Vec::leak([&b"a,\""[..], &vec![b'x'; 1 << 20]].concat());
        let (_, _, error) = read_all(text);
        assert!(error.unwrap().to_string().contains("too long"));
    }
}
