//! Parses the elements of `consul kv export`.

use super::ItemPosition;
use super::element::{Element, ElementItem, ElementValue, required_string};
use super::source_notes::SourceNotes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A key-value pair. An export also contains directories, which are pairs whose key ends in a slash
/// and whose value is empty.
#[derive(Deserialize)]
pub(super) struct Pair<'e> {
    #[serde(borrow)]
    key: Option<&'e RawValue>,
    #[serde(borrow)]
    flags: Option<&'e RawValue>,
    #[serde(borrow)]
    value: Option<&'e RawValue>,
}

impl<'e> Element<'e> for Pair<'e> {
    fn key(&self) -> Result<Cow<'e, str>, (String, String)> {
        required_string("key", self.key).map_err(|reason| (String::new(), reason))
    }

    fn item(&self, _: ItemPosition, _: &str, _: &SourceNotes) -> Result<ElementItem<'e>, String> {
        let flags = match self.flags.map(|flags| flags.get().parse::<u64>()) {
            None => 0,
            Some(Ok(flags)) => flags,
            Some(Err(_)) => return Err(format!("flags must be a whole number up to {}", u64::MAX)),
        };
        let value = ElementValue::Base64(required_string("value", self.value)?);
        let metadata = if flags == 0 { String::new() } else { format!("{{\"flags\":{flags}}}") };
        Ok(ElementItem { metadata, ..ElementItem::new(value) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::json_array::ArrayFormat;
    use super::super::json_array::tests::read_all;

    fn read(elements: &str) -> (String, Vec<String>) {
        let text = format!("[\n\t{elements}\n]\n");
        let read = read_all(ArrayFormat::Consul, text.as_bytes(), 5, 16);
        assert_eq!(read.error, None);
        (read.lines, read.rejected)
    }

    #[test]
    fn flags_are_kept_as_metadata_and_directories_are_items() {
        let (lines, rejected) = read(
            r#"{ "key": "app/", "flags": 0, "value": "" },
            { "key": "app/a", "flags": 18446744073709551615, "value": "aGVsbG8=" },
            { "key": "app/b", "value": "aGk", "namespace": "default", "partition": "p" }"#,
        );
        let expected = [
            r#"{"key":"app/","value":""}"#,
            r#"{"key":"app/a","value":"aGVsbG8=","metadata":"{\"flags\":18446744073709551615}"}"#,
            r#"{"key":"app/b","value":"aGk="}"#,
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
        assert_eq!(rejected, [""; 0]);
    }

    #[test]
    fn invalid_pairs_are_rejected_with_a_reason() {
        let (lines, rejected) = read(
            r#"{ "key": "a", "flags": -1, "value": "" }, { "key": "b", "flags": "1", "value": "" },
            { "key": "c", "flags": 18446744073709551616, "value": "" }, { "key": "d", "flags": 0 },
            { "key": "e", "flags": 0, "value": "*" }, { "key": "f", "flags": 0, "value": "A" },
            { "key": "g", "flags": 0, "value": "MTIzNDU2" }, { "flags": 0, "value": "" },
            { "key": "h", "flags": 0, "value": null }, { "key": "..", "flags": 0, "value": "" }"#,
        );
        assert_eq!(lines, "");
        for (rejected, reason) in rejected.iter().zip([
            "\"a\": flags must be a whole number",
            "\"b\": flags must be a whole number",
            "\"c\": flags must be a whole number up to 18446744073709551615",
            "\"d\": value is required",
            "\"e\": value must be base64",
            "\"f\": value must be base64",
            "\"g\": value must be at most 5 bytes",
            "\"\": key is required",
            "\"h\": value is required",
            "\"..\": key must not be . or ..",
        ]) {
            assert!(rejected.contains(reason), "{rejected}");
        }
        assert_eq!(rejected.len(), 10);
    }
}
