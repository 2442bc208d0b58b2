//! Reads JSON value by value from a stream. Finds the end of a value without parsing it, so that a
//! value that exceeds a limit is skipped in bounded memory.

use super::SourceError;
use std::io::{self, BufRead};

/// Maximum length in bytes of the key that is kept of a value that exceeds the limit; more than a
/// valid key has, even if all of its characters are escaped.
const KEY_BYTES_MAX: usize = 8 * 1024;

/// A position in the input. Both numbers are counted from 1; a column is a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextPosition {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl TextPosition {
    fn advance(&mut self, bytes: &[u8]) {
        let breaks = memchr::memchr_iter(b'\n', bytes).count() as u64;
        match memchr::memrchr(b'\n', bytes) {
            Some(last) => {
                self.line += breaks;
                self.column = (bytes.len() - last) as u64;
            }
            None => self.column += bytes.len() as u64,
        }
    }

    /// Returns the position of a syntax error in a value that starts at this position.
    pub(super) fn of_error(self, e: &serde_json::Error) -> TextPosition {
        let (line, column) = (e.line() as u64, e.column() as u64);
        match line {
            0 | 1 => TextPosition { column: self.column + column.saturating_sub(1), ..self },
            _ => TextPosition { line: self.line + line - 1, column },
        }
    }

    pub(super) fn error(self, problem: &str) -> SourceError {
        let TextPosition { line, column } = self;
        SourceError(format!("is not valid JSON at line {line}, column {column}: {problem}"))
    }
}

/// The result of reading a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ValueStatus {
    /// The value was read completely.
    Complete,
    /// The value exceeds the limit and was skipped. Contains its member `key`, which is empty if
    /// the value is not an object or has no such member.
    TooLong(String),
}

/// Reads JSON from a stream.
pub(super) struct JsonReader<R> {
    from: R,
    position: TextPosition,
}

impl<R: BufRead> JsonReader<R> {
    pub(super) fn new(from: R) -> JsonReader<R> {
        JsonReader { from, position: TextPosition { line: 1, column: 1 } }
    }

    /// Returns the position of the next byte.
    pub(super) fn position(&self) -> TextPosition {
        self.position
    }

    /// Skips white space and returns the byte that follows it, without consuming that byte. Returns
    /// `None` at the end of the input.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, SourceError> {
        loop {
            let buffer = match self.from.fill_buf() {
                Ok([]) => return Ok(None),
                Ok(buffer) => buffer,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            let text = buffer.iter().position(|byte| !is_space(*byte)).unwrap_or(buffer.len());
            let (spaces, rest) = buffer.split_at(text);
            let next = rest.first().copied();
            self.position.advance(spaces);
            self.from.consume(text);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Consumes the next byte after any white space if it is `byte`, and returns whether it is.
    pub(super) fn consume_if(&mut self, byte: u8) -> Result<bool, SourceError> {
        let found = self.peek()? == Some(byte);
        if found {
            self.position.advance(&[byte]);
            self.from.consume(1);
        }
        Ok(found)
    }

    /// Consumes `byte`, which must be the next byte after any white space.
    ///
    /// # Errors
    /// Returns a [`SourceError`] with the position if another byte or the end of the input follows.
    pub(super) fn require(&mut self, byte: u8) -> Result<(), SourceError> {
        if self.consume_if(byte)? {
            return Ok(());
        }
        Err(self.unexpected(&format!("expected {:?}", char::from(byte)))?)
    }

    /// Returns the error for an unexpected byte or the end of the input.
    pub(super) fn unexpected(&mut self, problem: &str) -> Result<SourceError, SourceError> {
        let end = self.peek()?.is_none();
        let found = if end { ", but the input ends" } else { "" };
        Ok(self.position.error(&format!("{problem}{found}")))
    }

    /// Skips white space, and replaces the content of `out` with the text of the value that
    /// follows. Skips a value with more than `bytes_max` bytes, in which an escape sequence counts
    /// as one byte. The text may be malformed, except that brackets and quotes are balanced.
    ///
    /// # Errors
    /// Returns a [`SourceError`] if there is no value or the input ends within it.
    pub(super) fn read_value(
        &mut self,
        out: &mut Vec<u8>,
        bytes_max: u64,
    ) -> Result<ValueStatus, SourceError> {
        out.clear();
        if matches!(self.peek()?, None | Some(b',' | b':' | b']' | b'}')) {
            return Err(self.unexpected("expected a value")?);
        }
        let start = self.position;
        let (mut scanner, mut done, mut too_long) = (ValueScanner::default(), false, false);
        while !done {
            let buffer = match self.from.fill_buf() {
                Ok([]) if scanner.lexeme == Lexeme::Scalar => break,
                Ok([]) => return Err(start.error("the value that starts here is incomplete")),
                Ok(buffer) => buffer,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            let used;
            (used, done) = scanner.scan(buffer);
            let (chunk, _) = buffer.split_at(used);
            too_long |= scanner.size() > bytes_max;
            match too_long {
                true => *out = Vec::new(),
                false => out.extend_from_slice(chunk),
            }
            self.position.advance(chunk);
            self.from.consume(used);
        }
        Ok(match too_long {
            true => ValueStatus::TooLong(unescape(&scanner.key)),
            false => ValueStatus::Complete,
        })
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Decodes the text between the quotes of a JSON string, which may be truncated.
fn unescape(text: &[u8]) -> String {
    let quoted = [b"\"", text, b"\""].concat();
    serde_json::from_slice(&quoted).unwrap_or_else(|_| String::from_utf8_lossy(text).into_owned())
}

/// The lexical element at the current position of a [`ValueScanner`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lexeme {
    /// Brackets, commas, colons, and scalars within the value.
    #[default]
    Structure,
    /// A value that is a number, `true`, `false` or `null`.
    Scalar,
    Text,
    /// After a backslash in a string.
    Escape,
}

/// The string that a [`ValueScanner`] copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copied {
    #[default]
    Nothing,
    /// The name of a member of the value.
    Name,
    /// The member `key` of the value.
    Key,
}

/// The effect of a byte outside strings.
enum Step {
    Continue,
    /// The byte is the last one of the value.
    End,
    /// The byte follows the value.
    After,
}

/// Finds the end of a JSON value.
#[derive(Default)]
struct ValueScanner {
    lexeme: Lexeme,
    /// The number of open brackets.
    depth: u64,
    /// Whether the value is an object.
    object: bool,
    /// Whether the next string in the object is a name.
    name_follows: bool,
    copied: Copied,
    /// The last name of a member, truncated.
    name: Vec<u8>,
    key: Vec<u8>,
    /// The number of bytes that were scanned.
    bytes: u64,
    /// The number of these bytes that are not counted, because they belong to escape sequences.
    uncounted: u64,
}

impl ValueScanner {
    /// Returns the number of bytes that were scanned, counting an escape sequence as one byte.
    fn size(&self) -> u64 {
        self.bytes.saturating_sub(self.uncounted)
    }

    /// Scans the next bytes of the input. Returns the number of bytes that belong to the value, and
    /// whether the value is complete.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        let done = loop {
            let Some(rest @ [byte, ..]) = bytes.get(at..) else { break false };
            match self.lexeme {
                Lexeme::Text => {
                    let end = memchr::memchr2(b'"', b'\\', rest);
                    let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
                    self.copy(text);
                    at += text.len();
                    match after.first() {
                        None => {}
                        Some(b'"') => {
                            at += 1;
                            (self.lexeme, self.copied) = (Lexeme::Structure, Copied::Nothing);
                            if self.depth == 0 {
                                break true;
                            }
                        }
                        Some(_) => {
                            at += 1;
                            self.copy(b"\\");
                            self.lexeme = Lexeme::Escape;
                        }
                    }
                }
                Lexeme::Escape => {
                    at += 1;
                    self.copy(&[*byte]);
                    // Four digits follow a u.
                    self.uncounted += if *byte == b'u' { 5 } else { 1 };
                    self.lexeme = Lexeme::Text;
                }
                Lexeme::Structure | Lexeme::Scalar => match self.step(*byte) {
                    Step::Continue => at += 1,
                    Step::End => {
                        at += 1;
                        break true;
                    }
                    Step::After => break true,
                },
            }
        };
        self.bytes += at as u64;
        (at, done)
    }

    fn step(&mut self, byte: u8) -> Step {
        if self.lexeme == Lexeme::Scalar {
            let ends = is_space(byte) || b",:[]{}\"".contains(&byte);
            return if ends { Step::After } else { Step::Continue };
        }
        let top_level = self.object && self.depth == 1;
        match byte {
            b'"' => {
                self.lexeme = Lexeme::Text;
                self.copied = match (top_level, self.name_follows) {
                    (true, true) => Copied::Name,
                    (true, false) if self.name == b"key" => Copied::Key,
                    _ => Copied::Nothing,
                };
                match self.copied {
                    Copied::Name => self.name.clear(),
                    Copied::Key => self.key.clear(),
                    Copied::Nothing => {}
                }
            }
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth == 1 {
                    self.object = byte == b'{';
                    self.name_follows = true;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return Step::End;
                }
            }
            b',' if top_level => self.name_follows = true,
            b':' if top_level => self.name_follows = false,
            _ if self.depth == 0 => self.lexeme = Lexeme::Scalar,
            _ => {}
        }
        Step::Continue
    }

    fn copy(&mut self, text: &[u8]) {
        let to = match self.copied {
            Copied::Nothing => return,
            Copied::Name => &mut self.name,
            Copied::Key => &mut self.key,
        };
        let room = KEY_BYTES_MAX.saturating_sub(to.len()).min(text.len());
        to.extend_from_slice(text.get(..room).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{BufReader, Read};

    fn reader(text: &[u8], buffer: usize) -> JsonReader<BufReader<&[u8]>> {
        JsonReader::new(BufReader::with_capacity(buffer, text))
    }

    #[test]
    fn a_value_ends_at_its_last_byte_whatever_the_size_of_the_buffer() {
        for value in [
            "{}",
            "[]",
            "\"\"",
            "1.5e+3",
            "true",
            "null",
            r#""\"\\""#,
            r#"{"a":"}\"]","b":[{}]}"#,
            "[[[\"[\",{\"x\":[]}]]]",
            "\"é\u{1F600}\"",
            "{\n \"a\" : 1\n}",
        ] {
            for after in ["", ",", " ", "]", "}", "\n"] {
                for buffer in 1..8 {
                    let text = format!(" \n {value}{after}");
                    let (mut reader, mut out) = (reader(text.as_bytes(), buffer), Vec::new());
                    assert_eq!(reader.read_value(&mut out, 100).unwrap(), ValueStatus::Complete);
                    assert_eq!(String::from_utf8_lossy(&out), value, "{text:?}");
                    assert_eq!(reader.peek().unwrap(), after.trim().bytes().next());
                }
            }
        }
    }

    #[test]
    fn a_long_value_is_skipped_and_its_key_is_kept() {
        let long = "x".repeat(1000);
        for (value, key) in [
            (format!(r#"{{"key":"a\u00e9\"b","value":"{long}"}}"#), "aé\"b"),
            (format!(r#"{{"value":"{long}","z":{{"key":"no"}},"key":"last"}}"#), "last"),
            (format!(r#"{{"value":["key","{long}"]}}"#), ""),
            (format!(r#"["key","{long}"]"#), ""),
            (format!(r#""{long}""#), ""),
            ("1".repeat(1000), ""),
            (" ".repeat(1000), "spaces"),
        ] {
            for buffer in [1, 7, 5000] {
                let text = match key {
                    "spaces" => format!("{{\"key\":\"spaces\"{value}}},5"),
                    _ => format!("{value},5"),
                };
                let (mut reader, mut out) = (reader(text.as_bytes(), buffer), Vec::new());
                let status = reader.read_value(&mut out, 900).unwrap();
                assert_eq!(status, ValueStatus::TooLong(key.to_owned()));
                assert!(out.is_empty() && reader.consume_if(b',').unwrap());
                reader.read_value(&mut out, 900).unwrap();
                assert_eq!(out, b"5");
            }
        }
    }

    #[test]
    fn an_endless_value_takes_bounded_memory() {
        // The reader would run out of memory if it kept the value.
        let text = (&b"{\"key\":\""[..]).chain(io::repeat(b'x').take(16 << 20));
        let mut reader = JsonReader::new(BufReader::new(text));
        let mut out = Vec::new();
        let error = reader.read_value(&mut out, 1000).unwrap_err();
        assert!(error.0.contains("line 1, column 1: the value that starts here is incomplete"));
        assert_eq!(out.capacity(), 0);
    }

    #[test]
    fn an_escape_sequence_counts_as_one_byte() {
        let size = |value: &str| {
            let mut scanner = ValueScanner::default();
            assert_eq!(scanner.scan(value.as_bytes()), (value.len(), true), "{value}");
            scanner.size()
        };
        assert_eq!(size(r#""\n\u00e9\\x""#), 6);
        assert_eq!(size(r#"["\u0000"]"#), 5);
    }

    #[test]
    fn positions_are_counted_across_buffers() {
        for buffer in 1..6 {
            let mut reader = reader(b" {\"a\":\n1}\n  ,,", buffer);
            reader.read_value(&mut Vec::new(), 100).unwrap();
            assert_eq!(reader.position(), TextPosition { line: 2, column: 3 });
            assert!(reader.consume_if(b',').unwrap());
            assert_eq!(reader.position(), TextPosition { line: 3, column: 4 });
            let error = reader.read_value(&mut Vec::new(), 100).unwrap_err();
            assert_eq!(error.0, "is not valid JSON at line 3, column 4: expected a value");
            let error = reader.require(b']').unwrap_err();
            assert_eq!(error.0, "is not valid JSON at line 3, column 4: expected ']'");
        }
        let error = reader(b"\n", 10).require(b'[').unwrap_err();
        assert!(error.0.ends_with("line 2, column 1: expected '[', but the input ends"), "{error}");
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(
            bytes in "[\\[\\]{}\",:\\\\ue1 \n]{0,60}", buffer in 1_usize..9, max in 0_u64..40,
        ) {
            let mut reader = reader(bytes.as_bytes(), buffer);
            let mut out = Vec::new();
            while reader.read_value(&mut out, max).is_ok() {
                prop_assert!(out.len() as u64 <= 6 * max);
                reader.consume_if(b',').unwrap();
            }
        }
    }
}
