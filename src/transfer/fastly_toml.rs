//! Reads the stores and items that a `fastly.toml` declares in `[local_server.kv_stores]` (formerly
//! `object_stores` or `object_store`) and `[setup.kv_stores]`. Paths are relative to the working
//! directory, as in the Fastly CLI.

use super::SourceError;
use super::kv_json::{self, DeclaredItem, DeclaredValue};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::Path;

/// The declarations of items, by store name.
pub type DeclaredStores = BTreeMap<String, Vec<DeclaredItems>>;

/// A declaration of some of a store's items.
#[derive(Clone, Debug, PartialEq)]
pub enum DeclaredItems {
    /// A list of items.
    Items(Vec<Json>),
    /// The path of a `kv.json`, and the argument `any_json` of [`kv_json::parse`].
    File(String, bool),
    /// Items by key, from the `setup` section.
    Setup(Map<String, Json>),
}

impl DeclaredItems {
    /// Returns the path of the `kv.json`, if the declaration names one.
    pub fn file(&self) -> Option<&Path> {
        if let DeclaredItems::File(file, _) = self { Some(Path::new(file)) } else { None }
    }
}

/// Parses a `fastly.toml`.
///
/// # Errors
/// Returns a [`SourceError`] if the text is not TOML or the declaration of a store is invalid.
pub fn parse(text: &str) -> Result<DeclaredStores, SourceError> {
    let all: Json = toml::from_str(text).map_err(|e| SourceError(format!("must be TOML: {e}")))?;
    let mut stores = DeclaredStores::new();
    // Later declarations take precedence, so `local_server` overrides `setup`.
    for (name, table) in tables(&all, "setup", &["kv_stores", "object_stores"])? {
        stores.entry(name.clone()).or_default().extend(setup_entries(&name, table)?);
    }
    let names = ["object_store", "object_stores", "kv_stores"];
    for (name, value) in tables(&all, "local_server", &names)? {
        stores.entry(name.clone()).or_default().push(local_entry(&name, value)?);
    }
    Ok(stores)
}

/// Returns the members of the tables with these names in a section.
fn tables(all: &Json, section: &str, names: &[&str]) -> Result<Vec<(String, Json)>, SourceError> {
    let mut found = Vec::new();
    for name in names {
        match all.get(section).and_then(|section| section.get(name)) {
            None => {}
            Some(Json::Object(members)) => {
                found.extend(members.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            Some(_) => return Err(SourceError(format!("{section}.{name} must be a table"))),
        }
    }
    Ok(found)
}

fn local_entry(store: &str, value: Json) -> Result<DeclaredItems, SourceError> {
    let invalid = |rule: &str| SourceError(format!("local_server.kv_stores.{store} {rule}"));
    match value {
        Json::Array(items) => Ok(DeclaredItems::Items(items)),
        Json::Object(fields) => match (fields.get("file"), fields.get("format")) {
            (Some(Json::String(file)), Some(Json::String(format))) if format == "json" => {
                Ok(DeclaredItems::File(file.clone(), false))
            }
            (Some(Json::String(_)), _) => Err(invalid("must have format = \"json\"")),
            _ => Err(invalid("must have a file, and file must be a string")),
        },
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {
            Err(invalid("must be an array of items, or a table with file and format"))
        }
    }
}

fn setup_entries(store: &str, value: Json) -> Result<Vec<DeclaredItems>, SourceError> {
    let invalid = |rule: &str| SourceError(format!("setup.kv_stores.{store}{rule}"));
    let Json::Object(mut fields) = value else { return Err(invalid(" must be a table")) };
    let mut entries = Vec::new();
    match fields.remove("file") {
        None => {}
        Some(Json::String(file)) => entries.push(DeclaredItems::File(file, true)),
        Some(_) => return Err(invalid(".file must be a string")),
    }
    match fields.remove("items") {
        None => {}
        Some(Json::Object(items)) => entries.push(DeclaredItems::Setup(items)),
        Some(_) => return Err(invalid(".items must be a table of keys")),
    }
    Ok(entries)
}

/// Reads the items of a store. If several items have the same key, the last one takes precedence.
///
/// # Errors
/// Returns a [`SourceError`] if a `kv.json` cannot be read.
pub fn items(
    entries: Vec<DeclaredItems>,
    value_bytes_max: u64,
) -> Result<Vec<DeclaredItem>, SourceError> {
    // Items without a key are invalid. All of them are kept, because each one is reported.
    let (mut by_key, mut without_key) = (BTreeMap::new(), Vec::new());
    for entry in entries {
        let items = match entry {
            DeclaredItems::File(file, any_json) => {
                let text = super::detect::read_text(Path::new(&file));
                let text = text.map_err(|e| {
                    let hint = "paths are relative to the working directory";
                    SourceError(format!("{file}: {e} ({hint})"))
                })?;
                kv_json::parse(&text, any_json, value_bytes_max)
                    .map_err(|e| SourceError(format!("{file}: {e}")))?
            }
            DeclaredItems::Items(items) => {
                items.iter().map(|item| local_item(item, value_bytes_max)).collect()
            }
            DeclaredItems::Setup(items) => items
                .into_iter()
                .map(|(key, item)| setup_item(key, &item, value_bytes_max))
                .collect(),
        };
        for item in items {
            if item.key.is_empty() {
                without_key.push(item);
            } else {
                by_key.insert(item.key.clone(), item);
            }
        }
    }
    Ok(without_key.into_iter().chain(by_key.into_values()).collect())
}

fn local_item(item: &Json, value_bytes_max: u64) -> DeclaredItem {
    let (key, (value, metadata)) = match item.get("key").and_then(Json::as_str) {
        Some(key) => (key.to_owned(), kv_json::parse_fields(&|name| item.get(name).cloned())),
        None => {
            let reason = "item without a key: key is required and must be a string";
            (String::new(), (DeclaredValue::Invalid(reason.into()), String::new()))
        }
    };
    DeclaredItem { key, value, metadata, value_bytes_max }
}

fn setup_item(key: String, item: &Json, value_bytes_max: u64) -> DeclaredItem {
    // The fields are those of the `local_server` section, except that `data` is called `value`.
    let (value, metadata) = kv_json::parse_fields(&|name| match name {
        "data" => item.get("value").cloned(),
        "path" => None,
        _ => item.get(name).cloned(),
    });
    let value = match value {
        DeclaredValue::Invalid(reason) => DeclaredValue::Invalid(reason.replace("data", "value")),
        DeclaredValue::Inline(_) | DeclaredValue::File(_) => value,
    };
    DeclaredItem { key, value, metadata, value_bytes_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        manifest_version = 3
        [local_server.kv_stores]
        one = [
            { key = "a", data = "local", metadata = "m" },
            { key = "b", file = "f" },
            { data = "x" },
        ]
        empty = []
        [local_server.object_store]
        old = [{ key = "k", path = "p" }]
        [[local_server.object_stores.older]]
        key = "k"
        data = ""
        [setup.kv_stores.one]
        description = "d"
        [setup.kv_stores.one.items.a]
        value = "setup"
        [setup.kv_stores.one.items.c]
        value = "c"
        description = "d"
        [setup.kv_stores.one.items.d]
        [setup.kv_stores.bare]
    "#;

    #[test]
    fn both_sections_are_read_and_the_local_server_takes_precedence() {
        let mut stores = parse(TEXT).unwrap();
        let names: Vec<_> = stores.keys().cloned().collect();
        assert_eq!(names, ["bare", "empty", "old", "older", "one"]);
        let one = items(stores.remove("one").unwrap(), 100).unwrap();
        let keys: Vec<_> = one.iter().map(|item| item.key.as_str()).collect();
        assert_eq!(keys, ["", "a", "b", "c", "d"]);
        assert_eq!(one[1].value, DeclaredValue::Inline(b"local".to_vec()));
        assert_eq!(one[1].metadata, "m");
        assert_eq!(one[4].value, DeclaredValue::Invalid("must have value or file".into()));
        let old = items(stores.remove("old").unwrap(), 100).unwrap();
        assert_eq!(old[0].value, DeclaredValue::File("p".into()));
        assert_eq!(items(stores.remove("bare").unwrap(), 100).unwrap(), []);
    }

    #[test]
    fn invalid_declarations_are_refused_with_a_reason() {
        for (text, word) in [
            ("[", "TOML"),
            ("[local_server]\nkv_stores = 1", "local_server.kv_stores must be a table"),
            ("[local_server.kv_stores]\na = 1", "a must be an array"),
            ("[local_server.kv_stores]\na = { file = \"x\" }", "format"),
            ("[setup.kv_stores]\na = 1", "setup.kv_stores.a must be a table"),
            ("[setup.kv_stores.a]\nitems = 1", "items must be a table"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let missing =
            items(vec![DeclaredItems::File("/no/such/file".into(), false)], 1).unwrap_err();
        assert!(missing.to_string().contains("/no/such/file"));
    }
}
