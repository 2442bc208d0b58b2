//! What the local emulator reads: `kv.json`, one object whose members are items.

use super::record::{self, take};
use super::{Broken, Next, Wrong};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// A file of items that is held in memory may have so many bytes.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Where an item's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Here.
    Here(Vec<u8>),
    /// In this file, relative to the working directory.
    File(PathBuf),
    /// Nowhere: what is wrong.
    Wrong(String),
}

/// An item of a file that is held in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place among the items, from 1.
    pub number: u64,
    /// Its key.
    pub key: String,
    /// Its value.
    pub content: Content,
    /// Its metadata, empty for none.
    pub metadata: String,
    /// Values of more bytes are refused.
    pub value_bytes_max: u64,
}

impl Item {
    /// Reads the value, and writes the item as a line.
    pub(super) fn write(self, out: &mut Vec<u8>) -> Next {
        let (number, max) = (self.number, self.value_bytes_max);
        let value = match self.content {
            Content::Here(value) if value.len() as u64 > max => Err(record::too_large(max)),
            Content::Here(value) => Ok(value),
            Content::File(path) => super::directory::read(&path, max).map_err(|e| {
                format!("{}: {e} (paths begin where the command runs)", path.display())
            }),
            Content::Wrong(reason) => Err(reason),
        };
        match value {
            Ok(value) => {
                let metadata = self.metadata.as_bytes();
                let item =
                    record::Item { key: &self.key, value: &value, metadata, ..Default::default() };
                take(number, &item, out)
            }
            Err(reason) => Next::Wrong(Wrong { number, key: self.key, reason }),
        }
    }
}

/// Reads a `kv.json`. With `loose`, a value that is neither text nor an item is its JSON text, as
/// in the files of a manifest's set-up.
///
/// # Errors
/// When it is no object of JSON.
pub fn parse(text: &[u8], loose: bool, value_bytes_max: u64) -> Result<Vec<Item>, Broken> {
    let parsed = serde_json::from_slice(text).map_err(|e| Broken(format!("must be JSON: {e}")))?;
    let Json::Object(members) = parsed else {
        return Err(Broken("must be a JSON object of keys and their values".into()));
    };
    let items = members.into_iter().zip(1..).map(|((key, value), number)| {
        let (content, metadata) = match value {
            Json::String(text) => (Content::Here(text.into_bytes()), String::new()),
            other if loose => (Content::Here(other.to_string().into_bytes()), String::new()),
            Json::Object(fields) => {
                let field = |name: &str| fields.get(name).cloned();
                content(&field)
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) => {
                let reason = "must be a string, or an object with data or file";
                (Content::Wrong(reason.into()), String::new())
            }
        };
        Item { number, key, content, metadata, value_bytes_max }
    });
    Ok(items.collect())
}

/// What the fields of an item say of its value and metadata; `path` is the old name of `file`.
pub(super) fn content(field: &dyn Fn(&str) -> Option<Json>) -> (Content, String) {
    let wrong = |reason: &str| (Content::Wrong(reason.into()), String::new());
    let metadata = match field("metadata") {
        None => String::new(),
        Some(Json::String(text)) => text,
        Some(_) => return wrong("metadata must be a string"),
    };
    let file = field("file").or_else(|| field("path"));
    match (field("data"), file) {
        (Some(Json::String(data)), None) => (Content::Here(data.into_bytes()), metadata),
        (None, Some(Json::String(file))) => (Content::File(file.into()), metadata),
        (None, None) => wrong("must have data or file"),
        (Some(_), Some(_)) => wrong("must have data or file, not both"),
        (Some(_), None) => wrong("data must be a string"),
        (None, Some(_)) => wrong("file must be a string"),
    }
}

/// A name for a file or a folder that every file system takes, and that no other text gets: bytes
/// other than letters, digits, `-`, `_` and inner dots are percent-encoded. Where that is long,
/// or letters could be confused with their other case, a hash of the text ends it.
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
        let hash = super::hex(&Sha256::digest(text));
        let _ = write!(name, "~{}", hash.get(..32).unwrap_or_default());
    }
    name
}

/// File names stay well below the 255 bytes that file systems allow.
const NAME_BYTES: usize = 160;

/// The files that the emulator reads, for one store: its `kv.json` and one file for each value.
pub struct Writer {
    folder: PathBuf,
    json: Vec<u8>,
    items: u64,
}

impl Writer {
    /// Where the files of a store go below a folder; nothing is written yet.
    pub fn new(below: &Path, store: &str) -> Writer {
        Writer { folder: below.join(file_name(store)), json: b"{".to_vec(), items: 0 }
    }

    /// The store's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of the file of a key's value, within the store's folder.
    pub fn value_file(key: &str) -> String {
        format!("values/{}", file_name(key))
    }

    /// Adds an item; answers what is to be appended to the `kv.json`.
    ///
    /// # Errors
    /// When the path of the folder is not UTF-8, or the metadata is not.
    pub fn item(&mut self, key: &str, metadata: &[u8]) -> Result<Vec<u8>, String> {
        let path = self.folder.join(Writer::value_file(key));
        let path = path.to_str().ok_or("the folder's path must be UTF-8")?;
        let metadata = std::str::from_utf8(metadata);
        let metadata = metadata.map_err(|_| "metadata that is not UTF-8 has no place there")?;
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

    /// What ends the `kv.json`.
    pub fn end(&mut self) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.json);
        text.extend_from_slice(b"\n}\n");
        text
    }

    /// The lines of a `fastly.toml` that name the store.
    pub fn manifest(&self, store: &str) -> String {
        let quoted = |text: &str| Json::from(text).to_string();
        let file = self.folder.join("kv.json");
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
    fn the_emulators_file_is_read() {
        let text = br#"{"b":"text","a":{"data":"d","metadata":"m"},"c":{"file":"x/y"},
            "d":{"data":"1","file":"2"},"e":7,"f":{},"g":{"data":1},"h":{"path":"old"}}"#;
        let items = parse(text, false, 100).unwrap();
        let of = |key: &str| items.iter().find(|item| item.key == key).unwrap();
        assert_eq!(of("b").content, Content::Here(b"text".to_vec()));
        assert_eq!((of("a").metadata.as_str(), of("a").number), ("m", 1));
        assert_eq!(of("c").content, Content::File("x/y".into()));
        assert_eq!(of("h").content, Content::File("old".into()));
        for key in ["d", "e", "f", "g"] {
            assert!(matches!(of(key).content, Content::Wrong(_)), "{key}");
        }
        assert!(parse(b"[]", false, 1).is_err() && parse(b"{", false, 1).is_err());
        let loose = parse(br#"{"a":{"x": 1},"b":"t"}"#, true, 100).unwrap();
        assert_eq!(loose[0].content, Content::Here(br#"{"x":1}"#.to_vec()));
    }

    #[test]
    fn file_names_are_plain_short_and_apart() {
        assert_eq!(file_name("a/b c"), "a%2fb%20c");
        assert_eq!(file_name("index.html"), "index.html");
        assert_eq!(file_name(".hidden"), "%2ehidden");
        let long = ["ü".repeat(500), format!("{}x", "ü".repeat(500))];
        let names = ["A", "a", "A%", "%", long[0].as_str(), long[1].as_str()].map(file_name);
        for (at, name) in names.iter().enumerate() {
            assert!(name.len() < 255 && !name.starts_with('.'), "{name}");
            let folded = |name: &String| name.to_ascii_lowercase();
            assert!(!names[..at].iter().any(|other| folded(other) == folded(name)), "{name}");
        }
    }

    #[test]
    fn what_is_written_for_the_emulator_is_read_again() {
        let mut writer = Writer::new(Path::new("out"), "My store");
        let mut text = writer.item("a/b", b"m").unwrap();
        text.extend(writer.item("c\"", b"").unwrap());
        assert!(writer.item("d", b"\xff").is_err());
        text.extend(writer.end());
        let items = parse(&text, false, 10).unwrap();
        assert_eq!(items.len(), 2);
        let folder = format!("out/{}", file_name("My store"));
        assert_eq!(items[0].content, Content::File(format!("{folder}/values/a%2fb").into()));
        assert_eq!(items[0].metadata, "m");
        let manifest = super::super::fastly_toml::parse(&writer.manifest("My store")).unwrap();
        assert_eq!(manifest.len(), 1);
    }
}
