//! Reads the JSON arrays that other KV stores export, one element at a time. Each element is an
//! item.
//!
//! An element with an invalid field is rejected, and reading continues. A syntax error ends the
//! import with an error that states its position, because the elements after it cannot be parsed
//! reliably.

use super::checked_item::too_large;
use super::element::{Element, check_syntax, parse, write_item};
use super::json_reader::{JsonReader, TextPosition, ValueStatus};
use super::source_notes::SourceNotes;
use super::{
    ItemPosition, ItemSource, NextItem, RejectedItem, SourceError, cloudflare, consul, etcd,
};
use crate::wire::item_line::line_bytes_max;
use std::io::BufRead;
use std::sync::Arc;

/// Maximum size in bytes of a member that is not an array of items.
const MEMBER_BYTES_MAX: u64 = 64 * 1024;

/// The product that exported an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayFormat {
    /// Cloudflare KV: an array.
    Cloudflare,
    /// Consul: an array.
    Consul,
    /// etcd: an object that contains an array.
    Etcd,
}

/// The part of the input that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Start,
    /// The first element or the end of the array.
    First,
    /// A comma and an element, or the end of the array.
    Other,
    End,
}

/// An [`ItemSource`] for the JSON exports of Cloudflare KV, Consul and etcd.
pub struct JsonArraySource {
    reader: JsonReader<Box<dyn BufRead + Send>>,
    format: ArrayFormat,
    next: Next,
    /// Whether the members `header` and `kvs` have been found, if the input is an object.
    has_header: bool,
    has_array: bool,
    item: u64,
    element: Vec<u8>,
    value_bytes_max: u64,
    notes: Arc<SourceNotes>,
}

impl JsonArraySource {
    /// Creates a source that rejects values longer than `value_bytes_max` bytes.
    pub fn new(
        from: Box<dyn BufRead + Send>,
        format: ArrayFormat,
        value_bytes_max: u64,
        notes: Arc<SourceNotes>,
    ) -> JsonArraySource {
        JsonArraySource {
            reader: JsonReader::new(from),
            format,
            next: Next::Start,
            has_header: false,
            has_array: false,
            item: 0,
            element: Vec::new(),
            value_bytes_max,
            notes,
        }
    }

    /// Moves to the start of the next element. Returns false at the end of the input.
    fn find_element(&mut self) -> Result<bool, SourceError> {
        if self.next == Next::Start {
            match self.format {
                ArrayFormat::Etcd => self.enter_object()?,
                ArrayFormat::Cloudflare | ArrayFormat::Consul => self.enter_array()?,
            }
        }
        let end = match self.next {
            Next::Start | Next::End => return Ok(false),
            Next::First => self.reader.consume_if(b']')?,
            Next::Other if self.reader.consume_if(b',')? => false,
            Next::Other if self.reader.consume_if(b']')? => true,
            Next::Other => return Err(self.reader.unexpected("expected ',' or ']'")?),
        };
        if !end {
            self.next = Next::Other;
            return Ok(true);
        }
        match self.format {
            ArrayFormat::Etcd => self.leave_array()?,
            ArrayFormat::Cloudflare | ArrayFormat::Consul => self.end_input()?,
        }
        Ok(false)
    }

    fn enter_array(&mut self) -> Result<(), SourceError> {
        if self.reader.peek()? == Some(b'{') {
            let hint = match self.format {
                ArrayFormat::Cloudflare => {
                    "; the output of \"kv bulk get\" must be converted first"
                }
                ArrayFormat::Consul | ArrayFormat::Etcd => "",
            };
            return Err(SourceError(format!("must be a JSON array of items, not an object{hint}")));
        }
        self.reader.require(b'[')?;
        self.next = Next::First;
        Ok(())
    }

    /// Enters the output of `etcdctl get`, an object whose member `kvs` contains the items.
    fn enter_object(&mut self) -> Result<(), SourceError> {
        self.reader.require(b'{')?;
        match self.reader.peek()? {
            Some(b'}') => self.leave_object(),
            _ => self.find_array(),
        }
    }

    fn leave_array(&mut self) -> Result<(), SourceError> {
        match self.reader.consume_if(b',')? {
            true => self.find_array(),
            false => self.leave_object(),
        }
    }

    fn leave_object(&mut self) -> Result<(), SourceError> {
        self.reader.require(b'}')?;
        if !self.has_header && !self.has_array {
            let reason =
                "has neither a member \"header\" nor \"kvs\", so it is not from etcdctl get";
            return Err(SourceError(reason.into()));
        }
        self.end_input()
    }

    /// Reads members up to the one that contains the items, or to the end of the input.
    fn find_array(&mut self) -> Result<(), SourceError> {
        loop {
            let at = self.reader.position();
            let name = self.read_member_part(b'"')?;
            self.reader.require(b':')?;
            if name == b"\"kvs\"" && self.reader.peek()? != Some(b'n') {
                if std::mem::replace(&mut self.has_array, true) {
                    return Err(at.error("duplicate member \"kvs\""));
                }
                self.reader.require(b'[')?;
                self.next = Next::First;
                return Ok(());
            }
            let value = self.read_member_part(0)?;
            self.has_header |= name == b"\"header\"";
            if name == b"\"more\"" && value == b"true" {
                self.notes.add_incomplete();
            }
            if !self.reader.consume_if(b',')? {
                return self.leave_object();
            }
        }
    }

    /// Reads the name or the value of a member other than `kvs`. `first` is the byte with which it
    /// must start, or 0 for any.
    fn read_member_part(&mut self, first: u8) -> Result<Vec<u8>, SourceError> {
        if first > 0 && self.reader.peek()? != Some(first) {
            return Err(self.reader.unexpected("expected the name of a member")?);
        }
        self.reader.peek()?;
        let (at, mut part) = (self.reader.position(), Vec::new());
        match self.reader.read_value(&mut part, MEMBER_BYTES_MAX)? {
            ValueStatus::Complete => check_syntax(&part, at).map(|()| part),
            ValueStatus::TooLong(_) => {
                Err(at.error(&format!("a member must be at most {MEMBER_BYTES_MAX} bytes")))
            }
        }
    }

    fn end_input(&mut self) -> Result<(), SourceError> {
        self.next = Next::End;
        match self.reader.peek()? {
            None => Ok(()),
            Some(_) => Err(self.reader.position().error("unexpected text after the end")),
        }
    }

    fn write<'e, T: Element<'e>>(
        &self,
        element: &'e [u8],
        at: TextPosition,
        position: ItemPosition,
        out: &mut Vec<u8>,
    ) -> Result<NextItem, SourceError> {
        let rejected = |key: String, reason: String| {
            Ok(NextItem::Rejected(RejectedItem { position, key, reason }))
        };
        let parsed = match parse::<T>(element, at)? {
            Ok(parsed) => parsed,
            Err(reason) => return rejected(String::new(), reason),
        };
        let key = match parsed.key() {
            Ok(key) => key,
            Err((key, reason)) => return rejected(key, reason),
        };
        let item = match parsed.item(position, &key, &self.notes) {
            Ok(item) => item,
            Err(reason) => return rejected(key.into_owned(), reason),
        };
        match write_item(&key, &item, self.value_bytes_max, out) {
            Ok(()) => Ok(NextItem::Line(position)),
            Err(reason) => rejected(key.into_owned(), reason),
        }
    }
}

impl ItemSource for JsonArraySource {
    fn next_item(&mut self, out: &mut Vec<u8>) -> Result<NextItem, SourceError> {
        if !self.find_element()? {
            return Ok(NextItem::End);
        }
        self.item += 1;
        self.reader.peek()?;
        let at = self.reader.position();
        let position = ItemPosition { item: self.item, line: at.line };
        let in_item = |e: SourceError| SourceError(format!("{e} (item {})", position.item));
        // A line contains the value in base64, which is longer than a value without escapes.
        let bytes_max = line_bytes_max(self.value_bytes_max);
        let mut element = std::mem::take(&mut self.element);
        let status = self.reader.read_value(&mut element, bytes_max).map_err(in_item)?;
        let next = match (status, self.format) {
            (ValueStatus::TooLong(key), format) => {
                let key = if format == ArrayFormat::Etcd { etcd::decode_key(&key) } else { key };
                let value = too_large(self.value_bytes_max);
                let reason = format!("item must be at most {bytes_max} bytes of JSON: {value}");
                Ok(NextItem::Rejected(RejectedItem { position, key, reason }))
            }
            (ValueStatus::Complete, ArrayFormat::Consul) => {
                self.write::<consul::Pair<'_>>(&element, at, position, out)
            }
            (ValueStatus::Complete, ArrayFormat::Etcd) => {
                self.write::<etcd::KeyValue<'_>>(&element, at, position, out)
            }
            (ValueStatus::Complete, ArrayFormat::Cloudflare) => {
                self.write::<cloudflare::Pair<'_>>(&element, at, position, out)
            }
        };
        self.element = element;
        next.map_err(in_item)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};
    use std::io::{self, BufReader};

    /// Everything that was read from a source.
    pub(in super::super) struct ReadResult {
        pub(in super::super) lines: String,
        /// Position and text of each rejected item.
        pub(in super::super) rejected: Vec<String>,
        pub(in super::super) error: Option<String>,
        pub(in super::super) notes: Vec<String>,
    }

    pub(in super::super) fn read_all(
        format: ArrayFormat,
        text: &[u8],
        value_bytes_max: u64,
        buffer: usize,
    ) -> ReadResult {
        let notes = Arc::<SourceNotes>::default();
        let from = BufReader::with_capacity(buffer, io::Cursor::new(text.to_vec()));
        let from = Box::new(from);
        let mut source = JsonArraySource::new(from, format, value_bytes_max, notes.clone());
        let (mut out, mut rejected) = (Vec::new(), Vec::new());
        let error = loop {
            match source.next_item(&mut out) {
                Ok(NextItem::Line(_)) => {}
                Ok(NextItem::Rejected(RejectedItem { position, key, reason })) => {
                    rejected.push(format!("{position}, key {key:?}: {reason}"));
                }
                Ok(NextItem::End) => break None,
                Err(e) => break Some(e.0),
            }
        };
        let lines = String::from_utf8(out).unwrap();
        ReadResult { lines, rejected, error, notes: notes.messages() }
    }

    fn cloudflare(text: &str) -> ReadResult {
        read_all(ArrayFormat::Cloudflare, text.as_bytes(), 100, 64)
    }

    const LINES: &str = "{\"key\":\"a\",\"value\":\"MQ==\"}\n{\"key\":\"a\",\"value\":\"Mg==\"}\n";

    #[test]
    fn arrays_are_read_whatever_their_layout_and_the_size_of_the_buffer() {
        let compact = "[{\"key\":\"a\",\"value\":\"1\"},{\"key\":\"a\",\"value\":\"2\"}]";
        let spread = compact.replace(',', " \r\n\t, ").replace(':', "\n :\t");
        for text in [compact.to_owned(), format!("\n {compact} \n"), spread] {
            for buffer in [1, 2, 3, 1000] {
                let read = read_all(ArrayFormat::Cloudflare, text.as_bytes(), 100, buffer);
                assert_eq!((read.lines.as_str(), read.error), (LINES, None), "{text}");
                assert_eq!(read.rejected, [""; 0]);
            }
        }
        for empty in ["[]", " [ \n] "] {
            let read = cloudflare(empty);
            assert_eq!((read.lines.as_str(), read.error), ("", None));
        }
    }

    #[test]
    fn rejected_elements_are_reported_with_their_position_and_reading_continues() {
        let long = "x".repeat(40_000);
        let big = format!(r#"{{"key":"big","value":"{}"}}"#, &long[..101]);
        let huge = format!(r#"{{"value":"{long}","key":"huge"}}"#);
        let text = [
            r#"[{"key":"a","value":"1"},"#,
            r#"7, null, [1],"#,
            "",
            r#""text",{},"#,
            r#"{"key":1,"value":""},{"key":"k"},{"key":"k","value":2},"#,
            r#"{"key":"","value":""},{"key":"a#b","value":""},"#,
            &format!("{big},{huge},"),
            r#"{"key":"k","key":"l","value":""},{"key":"\ud800","value":""},"#,
            r#"{"key":"a","value":"2","other":[[]]}]"#,
        ]
        .join("\n");
        let read = cloudflare(&text);
        assert_eq!((read.lines.as_str(), read.error), (LINES, None));
        let expected = [
            "item 2, line 2, key \"\": must be a JSON object",
            "item 3, line 2, key \"\": must be a JSON object",
            "item 4, line 2, key \"\": must be a JSON object",
            "item 5, line 4, key \"\": must be a JSON object",
            "item 6, line 4, key \"\": key is required and must be a string",
            "item 7, line 5, key \"\": key must be a string",
            "item 8, line 5, key \"k\": value is required and must be a string",
            "item 9, line 5, key \"k\": value must be a string",
            "item 10, line 6, key \"\": key must not be empty",
            "item 11, line 6, key \"a#b\": key must not contain '#'",
            "item 12, line 7, key \"big\": value must be at most 100 bytes (see --max-value)",
            "item 13, line 7, key \"huge\": item must be at most 32904 bytes of JSON: value must \
             be at most 100 bytes (see --max-value)",
            "item 14, line 8, key \"\": duplicate field `key`",
            "item 15, line 8, key \"\": key must not contain unpaired surrogates",
        ];
        assert_eq!(read.rejected, expected);
    }

    #[test]
    fn an_element_that_is_not_utf_8_is_rejected() {
        let text = b"[{\"key\":\"a\",\"value\":\"\xff\"},{\"key\":\"b\",\"value\":\"\"}]";
        let read = read_all(ArrayFormat::Cloudflare, text, 100, 10);
        assert_eq!((read.rejected.len(), read.error), (1, None));
        assert!(read.rejected[0].contains("item 1, line 1, key \"\": must be UTF-8"));
        assert_eq!(read.lines, "{\"key\":\"b\",\"value\":\"\"}\n");
    }

    #[test]
    fn deep_nesting_is_skipped_without_recursion() {
        let deep = ["[".repeat(10_000), "]".repeat(10_000)].concat();
        let text = format!("[{{\"key\":\"a\",\"value\":\"1\",\"other\":{deep}}},{deep}]");
        let read = cloudflare(&text);
        assert_eq!((read.lines.as_str(), read.error), (&LINES[..27], None));
        assert_eq!(read.rejected.len(), 1);
        let open = format!("[{}", "{\"a\":[".repeat(10_000));
        let read = cloudflare(&open);
        assert!(read.error.unwrap().contains("is incomplete"));
    }

    #[test]
    fn syntax_errors_end_the_input_with_their_position() {
        let item = "{\"key\":\"a\",\"value\":\"1\"}";
        for (text, error) in [
            (String::new(), "line 1, column 1: expected '[', but the input ends"),
            ("7".into(), "line 1, column 1: expected '['"),
            ("[".into(), "line 1, column 2: expected a value, but the input ends (item 1)"),
            (format!("[{item}"), "column 25: expected ',' or ']', but the input ends"),
            (format!("[{item},"), "expected a value, but the input ends (item 2)"),
            (format!("[{item},]"), "column 26: expected a value (item 2)"),
            (format!("[{item} {item}]"), "column 26: expected ',' or ']'"),
            (format!("[\n{item}\n]]"), "line 3, column 2: unexpected text after the end"),
            (format!("[{item}]\n{item}"), "line 2, column 1: unexpected text after the end"),
            (format!("[{item}]\0"), "unexpected text after the end"),
            (format!("[{item},{}", &item[..20]), "starts here is incomplete (item 2)"),
            ("[{\"key\":\"a\n\"}]".into(), "line 1, column 10: control character"),
            ("[{\"key\":\n\"a\",value:1}]".into(), "line 2, column 5: key must be a string"),
            ("[{\"key\":\"a\" \"value\":\"\"}]".into(), "column 13: expected `,` or `}`"),
            ("[{\"key\":\"a\"]".into(), "expected `,` or `}` (item 1)"),
            ("[nulk]".into(), "expected ident (item 1)"),
            ("[{\"key\":\"\\q\"}]".into(), "invalid escape (item 1)"),
        ] {
            let read = cloudflare(&text);
            let found = read.error.unwrap_or_default();
            assert!(found.contains(error), "{text:?}: {found}");
            assert!(found.starts_with("is not valid JSON at line "), "{found}");
        }
        let object = cloudflare("{\"a\":{\"value\":\"1\"}}").error.unwrap();
        assert!(object.contains("must be a JSON array of items, not an object; the output"));
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<i32>().prop_map(|n| Json::from(f64::from(n) / 8.0)),
            "\\PC{0,10}|[\"\\\\\n{}\\[\\]]{0,6}".prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                proptest::collection::btree_map("[a-c\"]{1,3}", inner, 0..4)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_element_of_an_array_is_either_written_or_rejected(
            elements in proptest::collection::vec(any_json(), 0..6),
            pretty in any::<bool>(), buffer in 1_usize..20,
        ) {
            let mut all = Vec::new();
            for (nth, element) in elements.iter().enumerate() {
                all.push(json!({ "key": format!("k{nth}"), "value": "", "metadata": element }));
                all.push(element.clone());
            }
            let all = Json::from(all);
            let text = if pretty { format!("{all:#}") } else { all.to_string() };
            let read = read_all(ArrayFormat::Cloudflare, text.as_bytes(), 100, buffer);
            prop_assert_eq!(read.error, None);
            let lines: Vec<Json> =
                read.lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            prop_assert_eq!(lines.len() + read.rejected.len(), 2 * elements.len());
            for line in lines {
                let nth: usize = line["key"].as_str().unwrap()[1..].parse().unwrap();
                let metadata = line.get("metadata").map(|text| text.as_str().unwrap());
                let metadata = metadata.map(|text| serde_json::from_str::<Json>(text).unwrap());
                prop_assert_eq!(&metadata.unwrap_or_default(), &elements[nth]);
            }
        }

        #[test]
        fn damaged_input_never_panics(
            at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
            format in prop::sample::select(
                vec![ArrayFormat::Cloudflare, ArrayFormat::Consul, ArrayFormat::Etcd]),
        ) {
            let mut text = b"{\"header\":{\"revision\":1},\"kvs\":[{\"key\":\"YQ==\",\"flags\":1,\
                \"value\":\"YQ==\",\"lease\":7},{\"key\":\"\\u0041\",\"metadata\":{\"a\":[1]},\
                \"expiration\":1.0,\"value\":\"\"}],\"more\":true,\"count\":2}\n".to_vec();
            if format != ArrayFormat::Etcd {
                let start = text.iter().position(|byte| *byte == b'[').unwrap();
                let end = text.iter().rposition(|byte| *byte == b']').unwrap();
                text = text[start..=end].to_vec();
            }
            let at = at.index(text.len());
            match cut {
                true => text.truncate(at),
                false => text[at] = byte,
            }
            read_all(format, &text, 100, 7);
            super::super::detect::format_of_json(&text);
        }
    }
}
