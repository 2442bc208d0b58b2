//! Reads and writes `kv.json`, the file format of the local emulator. A `kv.json` is a JSON object
//! whose members are items.

use super::checked_item::{too_large, write_checked};
use super::{ItemPosition, NextItem, RejectedItem, SourceError};
use crate::wire::hex;
use crate::wire::item_line::ItemLine;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// The maximum size in bytes of a `kv.json` or `fastly.toml`, which is read into memory.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// The value of a declared item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclaredValue {
    /// The value itself.
    Inline(Vec<u8>),
    /// A file that contains the value, relative to the working directory.
    File(PathBuf),
    /// The item has no value, because it is invalid. Contains the reason.
    Invalid(String),
}

impl DeclaredValue {
    /// Returns the file that contains the value, if any.
    pub fn file(&self) -> Option<&Path> {
        if let DeclaredValue::File(file) = self { Some(file) } else { None }
    }
}

/// An item that a `kv.json` or `fastly.toml` declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredItem {
    /// Key.
    pub key: String,
    /// Value.
    pub value: DeclaredValue,
    /// Metadata; empty if the item has none.
    pub metadata: String,
    /// Maximum size of the value in bytes.
    pub value_bytes_max: u64,
}

impl DeclaredItem {
    /// Reads the value and writes the item as a line.
    pub(super) fn write(self, out: &mut Vec<u8>) -> NextItem {
        let max = self.value_bytes_max;
        let value = match self.value {
            DeclaredValue::Inline(value) if value.len() as u64 > max => Err(too_large(max)),
            DeclaredValue::Inline(value) => Ok(value),
            DeclaredValue::File(path) => super::directory::read_file(&path, max).map_err(|e| {
                format!("{}: {e} (paths are relative to the working directory)", path.display())
            }),
            DeclaredValue::Invalid(reason) => Err(reason),
        };
        match value {
            Ok(value) => {
                let (key, metadata) = (self.key.as_str(), self.metadata.as_bytes());
                let item = ItemLine { key, value: &value, metadata, ..ItemLine::default() };
                write_checked(ItemPosition::NONE, &item, out)
            }
            Err(reason) => {
                let (position, key) = (ItemPosition::NONE, self.key);
                NextItem::Rejected(RejectedItem { position, key, reason })
            }
        }
    }
}

/// Parses a `kv.json`. If `any_json` is set, as it is for the `setup` section of a `fastly.toml`, a
/// member that is not a string becomes an item whose value is the JSON text of the member.
///
/// # Errors
/// Returns a [`SourceError`] if the text is not a JSON object.
pub fn parse(
    text: &[u8],
    any_json: bool,
    value_bytes_max: u64,
) -> Result<Vec<DeclaredItem>, SourceError> {
    let parsed =
        serde_json::from_slice(text).map_err(|e| SourceError(format!("must be JSON: {e}")))?;
    let Json::Object(members) = parsed else {
        return Err(SourceError("must be a JSON object that maps keys to values".into()));
    };
    let items = members.into_iter().map(|(key, member)| {
        let inline = |text: String| (DeclaredValue::Inline(text.into_bytes()), String::new());
        let (value, metadata) = match member {
            Json::String(text) => inline(text),
            other if any_json => inline(other.to_string()),
            Json::Object(fields) => parse_fields(&|name| fields.get(name).cloned()),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) => {
                let reason = "must be a string, or an object with data or file";
                (DeclaredValue::Invalid(reason.into()), String::new())
            }
        };
        DeclaredItem { key, value, metadata, value_bytes_max }
    });
    Ok(items.collect())
}

/// Parses the value and the metadata of an item. Also accepts `path`, the former name of the field
/// `file`.
pub(super) fn parse_fields(field: &dyn Fn(&str) -> Option<Json>) -> (DeclaredValue, String) {
    let invalid = |reason: &str| (DeclaredValue::Invalid(reason.into()), String::new());
    let metadata = match field("metadata") {
        None => String::new(),
        Some(Json::String(text)) => text,
        Some(_) => return invalid("metadata must be a string"),
    };
    let file = field("file").or_else(|| field("path"));
    match (field("data"), file) {
        (Some(Json::String(data)), None) => (DeclaredValue::Inline(data.into_bytes()), metadata),
        (None, Some(Json::String(file))) => (DeclaredValue::File(file.into()), metadata),
        (None, None) => invalid("must have data or file"),
        (Some(_), Some(_)) => invalid("must have data or file, not both"),
        (Some(_), None) => invalid("data must be a string"),
        (None, Some(_)) => invalid("file must be a string"),
    }
}

/// Returns a file name for a key or a store name. It is unique and valid on every file system.
///
/// Bytes other than ASCII letters, digits, `-`, `_` and inner dots are percent-encoded in lower
/// case. A hash is appended to long names and to names with upper-case letters, since some file
/// systems ignore case.
pub fn file_name(text: &str) -> String {
    use std::fmt::Write as _;
    let (mut name, mut hashed) = (String::new(), false);
    for (at, byte) in text.bytes().enumerate() {
        if name.len() > NAME_BYTES {
            hashed = true;
            break;
        }
        let dot = byte == b'.' && at > 0 && at + 1 < text.len();
        hashed |= byte.is_ascii_uppercase();
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || dot {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02x}");
        }
    }
    if hashed {
        use sha2::{Digest, Sha256};
        let hash = hex(&Sha256::digest(text));
        let _ = write!(name, "~{}", hash.get(..32).unwrap_or_default());
    }
    name
}

/// The length in bytes above which a file name is truncated and gets a hash. File systems allow
/// 255.
const NAME_BYTES: usize = 160;

/// Builds the `kv.json` of a store whose values are in separate files.
pub struct KvJsonWriter {
    directory: PathBuf,
    json: Vec<u8>,
    items: u64,
}

impl KvJsonWriter {
    /// Creates a writer for the store's directory within `parent`. Does not create the directory.
    pub fn new(parent: &Path, store: &str) -> KvJsonWriter {
        KvJsonWriter { directory: parent.join(file_name(store)), json: b"{".to_vec(), items: 0 }
    }

    /// Returns the store's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the path of the file that contains an item's value, relative to the store's
    /// directory.
    pub fn value_file(key: &str) -> String {
        format!("values/{}", file_name(key))
    }

    /// Adds an item and returns the text to append to the `kv.json`.
    ///
    /// # Errors
    /// Returns a message if the path of the directory or the metadata is not UTF-8.
    pub fn item(&mut self, key: &str, metadata: &[u8]) -> Result<Vec<u8>, String> {
        let path = self.directory.join(KvJsonWriter::value_file(key));
        let path = path.to_str().ok_or("the directory's path must be UTF-8")?;
        let metadata = std::str::from_utf8(metadata);
        let metadata = metadata.map_err(|_| "the format requires metadata to be UTF-8")?;
        let mut fields = serde_json::Map::new();
        fields.insert("file".into(), path.into());
        if !metadata.is_empty() {
            fields.insert("metadata".into(), metadata.into());
        }
        let mut text = std::mem::take(&mut self.json);
        if self.items > 0 {
            text.push(b',');
        }
        self.items += 1;
        text.extend_from_slice(b"\n  ");
        text.extend_from_slice(Json::from(key).to_string().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(Json::Object(fields).to_string().as_bytes());
        Ok(text)
    }

    /// Returns the text that ends the `kv.json`.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.json);
        text.extend_from_slice(b"\n}\n");
        text
    }

    /// Returns the section of a `fastly.toml` that declares the store.
    pub fn fastly_toml(&self, store: &str) -> String {
        let quoted = |text: &str| Json::from(text).to_string();
        let file = self.directory.join("kv.json");
        format!(
            "[local_server.kv_stores.{}]\nfile = {}\nformat = \"json\"\n",
            quoted(store),
            quoted(&file.to_string_lossy())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kv_json_items_are_parsed() {
        let text = br#"{"b":"text","a":{"data":"d","metadata":"m"},"c":{"file":"x/y"},
            "d":{"data":"1","file":"2"},"e":7,"f":{},"g":{"data":1},"h":{"path":"old"}}"#;
        let items = parse(text, false, 100).unwrap();
        let of = |key: &str| items.iter().find(|item| item.key == key).unwrap();
        assert_eq!(of("b").value, DeclaredValue::Inline(b"text".to_vec()));
        assert_eq!(of("a").metadata, "m");
        assert_eq!(of("c").value, DeclaredValue::File("x/y".into()));
        assert_eq!(of("h").value, DeclaredValue::File("old".into()));
        for key in ["d", "e", "f", "g"] {
            assert!(matches!(of(key).value, DeclaredValue::Invalid(_)), "{key}");
        }
        assert!(parse(b"[]", false, 1).is_err() && parse(b"{", false, 1).is_err());
        let any = parse(br#"{"a":{"x": 1},"b":"t"}"#, true, 100).unwrap();
        assert_eq!(any[0].value, DeclaredValue::Inline(br#"{"x":1}"#.to_vec()));
    }

    #[test]
    fn file_names_are_portable_short_and_unique() {
        assert_eq!(file_name("a/b c"), "a%2fb%20c");
        assert_eq!(file_name("index.html"), "index.html");
        assert_eq!(file_name(".hidden"), "%2ehidden");
        let long = ["ü".repeat(500), format!("{}x", "ü".repeat(500))];
        let names = ["A", "a", "A%", "%", long[0].as_str(), long[1].as_str()].map(file_name);
        for (at, name) in names.iter().enumerate() {
            assert!(name.len() < 255 && !name.starts_with('.'), "{name}");
            let lower = |name: &String| name.to_ascii_lowercase();
            assert!(!names[..at].iter().any(|other| lower(other) == lower(name)), "{name}");
        }
    }

    #[test]
    fn a_written_kv_json_parses_to_the_same_items() {
        let mut writer = KvJsonWriter::new(Path::new("out"), "My store");
        let mut text = writer.item("a/b", b"m").unwrap();
        text.extend(writer.item("c\"", b"").unwrap());
        assert!(writer.item("d", b"\xff").is_err());
        text.extend(writer.finish());
        let items = parse(&text, false, 10).unwrap();
        assert_eq!(items.len(), 2);
        let directory = format!("out/{}", file_name("My store"));
        assert_eq!(items[0].value, DeclaredValue::File(format!("{directory}/values/a%2fb").into()));
        assert_eq!(items[0].metadata, "m");
        let declared = super::super::fastly_toml::parse(&writer.fastly_toml("My store")).unwrap();
        assert_eq!(declared.len(), 1);
    }
}
