//! Parses the elements of `etcdctl get --prefix "" -w json`.

use super::ItemPosition;
use super::element::{Element, ElementItem, ElementValue, required_string, string};
use super::source_notes::SourceNotes;
use crate::wire::item_line::decode_base64;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A key-value pair. etcdctl omits members that are empty or 0.
#[derive(Deserialize)]
pub(super) struct KeyValue<'e> {
    #[serde(borrow)]
    key: Option<&'e RawValue>,
    #[serde(borrow)]
    value: Option<&'e RawValue>,
    #[serde(borrow)]
    lease: Option<&'e RawValue>,
}

impl<'e> Element<'e> for KeyValue<'e> {
    fn key(&self) -> Result<Cow<'e, str>, (String, String)> {
        let text = required_string("key", self.key).map_err(|reason| (String::new(), reason))?;
        let Some(bytes) = decode_base64(text.as_bytes()) else {
            return Err((text.into_owned(), "key must be base64".into()));
        };
        String::from_utf8(bytes).map(Cow::Owned).map_err(|e| {
            let key = String::from_utf8_lossy(e.as_bytes()).into_owned();
            (key, format!("key must be UTF-8 (it is {text:?} in base64)"))
        })
    }

    fn item(
        &self,
        position: ItemPosition,
        key: &str,
        notes: &SourceNotes,
    ) -> Result<ElementItem<'e>, String> {
        let value = string("value", self.value)?.unwrap_or_default();
        let lease = match self.lease.map(|lease| lease.get().parse::<i64>()) {
            None => 0,
            Some(Ok(lease)) => lease,
            Some(Err(_)) => return Err("lease must be a whole number".into()),
        };
        notes.add_value(!value.is_empty());
        if lease != 0 {
            notes.add_lease(position, key);
        }
        Ok(ElementItem::new(ElementValue::Base64(value)))
    }
}

/// Decodes a key for a message. Returns the key unchanged if it is not base64.
pub(super) fn decode_key(key: &str) -> String {
    match decode_base64(key.as_bytes()) {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::json_array::ArrayFormat;
    use super::super::json_array::tests::{ReadResult, read_all};

    fn read(text: &str) -> ReadResult {
        read_all(ArrayFormat::Etcd, text.as_bytes(), 5, 16)
    }

    const HEADER: &str =
        r#""header":{"cluster_id":14841639068965178418,"member_id":1,"revision":3,"raft_term":2}"#;

    #[test]
    fn keys_and_values_are_decoded_and_leases_are_noted() {
        let pair = r#""create_revision":2,"mod_revision":3,"version":1"#;
        let result = read(&format!(
            "{{{HEADER},\"kvs\":[{{\"key\":\"w6k=\",{pair},\"value\":\"aGk=\"}},\
             {{\"key\":\"YQ==\",{pair},\"lease\":7587883124562374659}},\
             {{\"key\":\"Yg==\",{pair},\"value\":\"\",\"lease\":-5}}],\"more\":true,\"count\":9}}\n"
        ));
        assert_eq!((result.error, result.rejected), (None, vec![]));
        let expected = [
            r#"{"key":"é","value":"aGk="}"#,
            r#"{"key":"a","value":""}"#,
            r#"{"key":"b","value":""}"#,
        ];
        assert_eq!(result.lines.lines().collect::<Vec<_>>(), expected);
        assert!(result.notes[0].starts_with("2 items have a lease"), "{:?}", result.notes);
        assert!(result.notes[0].ends_with("(first: item 2, line 1, key \"a\")"));
        assert!(result.notes[1].starts_with("the export is incomplete"));
        assert_eq!(result.notes.len(), 2);
    }

    #[test]
    fn an_export_without_items_is_empty() {
        for text in [
            format!("{{{HEADER}}}"),
            format!("{{{HEADER},\"kvs\":[],\"count\":0}}"),
            format!("{{\"kvs\":null,{HEADER}}}"),
        ] {
            let result = read(&text);
            assert_eq!((result.error, result.lines.as_str()), (None, ""), "{text}");
            assert!(result.notes.is_empty());
        }
        let keys_only = read("{\"kvs\":[{\"key\":\"YQ==\"}]}");
        assert!(keys_only.notes[0].contains("--keys-only"), "{:?}", keys_only.notes);
    }

    #[test]
    fn invalid_pairs_are_rejected_with_a_reason() {
        let pairs = [
            r#"{"key":"/w=="}"#,
            r#"{"key":"*"}"#,
            r#"{"key":"YSNi"}"#,
            r#"{"value":""}"#,
            r#"{"key":7}"#,
            r#"{"key":"Yg==","value":"*"}"#,
            r#"{"key":"Yw==","value":{}}"#,
            r#"{"key":"ZA==","lease":"7"}"#,
            r#"{"key":"ZQ==","value":"MTIzNDU2"}"#,
            &format!("{{\"key\":\"Zg==\",\"value\":\"{}\"}}", "A".repeat(40_000)),
        ];
        let result = read(&format!("{{\"kvs\":[{}]}}", pairs.join(",")));
        assert_eq!((result.error, result.lines.as_str()), (None, ""));
        let expected = [
            "key \"\u{fffd}\": key must be UTF-8 (it is \"/w==\" in base64)",
            "key \"*\": key must be base64",
            "key \"a#b\": key must not contain '#'",
            "key \"\": key is required and must be a string",
            "key \"\": key must be a string",
            "key \"b\": value must be base64",
            "key \"c\": value must be a string",
            "key \"d\": lease must be a whole number",
            "key \"e\": value must be at most 5 bytes (see --max-value)",
            "key \"f\": item must be at most 32776 bytes of JSON: value must be at most 5 bytes \
             (see --max-value)",
        ];
        for (nth, (rejected, expected)) in result.rejected.iter().zip(expected).enumerate() {
            assert_eq!(*rejected, format!("item {}, line 1, {expected}", nth + 1));
        }
        assert_eq!(result.rejected.len(), expected.len());
    }

    #[test]
    fn malformed_objects_are_refused_with_a_position() {
        let long = "A".repeat(70_000);
        for (text, reason) in [
            ("[]".into(), "line 1, column 1: expected '{'"),
            ("{}".into(), "neither a member \"header\" nor \"kvs\""),
            ("{\"count\":1}".into(), "neither a member \"header\" nor \"kvs\""),
            (format!("{{{HEADER},"), "expected the name of a member, but the input ends"),
            (format!("{{{HEADER},\"kvs\":{{}}}}"), "expected '['"),
            ("{\"kvs\":[],\"kvs\":[]}".into(), "column 11: duplicate member \"kvs\""),
            ("{\"kvs\":[]}}".into(), "column 11: unexpected text after the end"),
            ("{\"kvs\":[]".into(), "expected '}', but the input ends"),
            ("{\"kvs\":[],}".into(), "column 11: expected the name of a member"),
            ("{\"kvs\":[],\"a\":trux}".into(), "expected ident"),
            ("{\"kvs\" []}".into(), "expected ':'"),
            (format!("{{\"a\":\"{long}\"}}"), "a member must be at most 65536 bytes"),
        ] {
            let error = read(&text).error.unwrap();
            assert!(error.contains(reason), "{text:.80}: {error}");
        }
    }
}
