//! The stores and items that a `fastly.toml` names: for the local server
//! (`[local_server.kv_stores]`, by older names `object_stores` and `object_store`), and for a first
//! deployment (`[setup.kv_stores]`). Paths begin where the command runs, as for the stock tools.

use super::Broken;
use super::kv_json::{self, Content, FILE_BYTES_MAX, Item};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::Path;

/// Stores by name, each with what the file says of its items.
pub type Manifest = BTreeMap<String, Vec<Said>>;

/// What a file says of a store's items, in one place.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// These are its items.
    Items(Vec<Json>),
    /// This file holds them; whether it may hold values other than text.
    File(String, bool),
    /// These are its items, by key, for a first deployment.
    Setup(Map<String, Json>),
}

/// Reads the text of a `fastly.toml`.
///
/// # Errors
/// When it is none, or says of its stores what cannot be.
pub fn parse(text: &str) -> Result<Manifest, Broken> {
    let all: Json = toml::from_str(text).map_err(|e| Broken(format!("must be TOML: {e}")))?;
    let mut stores = Manifest::new();
    // What is said of the local server comes last, and so wins.
    for (name, said) in tables(&all, "setup", &["kv_stores", "object_stores"])? {
        stores.entry(name.clone()).or_default().extend(setup(&name, said)?);
    }
    let names = ["object_store", "object_stores", "kv_stores"];
    for (name, said) in tables(&all, "local_server", &names)? {
        stores.entry(name.clone()).or_default().push(local(&name, said)?);
    }
    Ok(stores)
}

/// The members of the tables of a section.
fn tables(all: &Json, section: &str, names: &[&str]) -> Result<Vec<(String, Json)>, Broken> {
    let mut found = Vec::new();
    for name in names {
        match all.get(section).and_then(|section| section.get(name)) {
            None => {}
            Some(Json::Object(members)) => {
                found.extend(members.iter().map(|(name, said)| (name.clone(), said.clone())));
            }
            Some(_) => return Err(Broken(format!("{section}.{name} must be a table"))),
        }
    }
    Ok(found)
}

fn local(store: &str, said: Json) -> Result<Said, Broken> {
    let wrong = |what: &str| Broken(format!("local_server.kv_stores.{store} {what}"));
    match said {
        Json::Array(items) => Ok(Said::Items(items)),
        Json::Object(fields) => match (fields.get("file"), fields.get("format")) {
            (Some(Json::String(file)), Some(Json::String(format))) if format == "json" => {
                Ok(Said::File(file.clone(), false))
            }
            (Some(Json::String(_)), _) => Err(wrong("must have format = \"json\"")),
            _ => Err(wrong("must have a file, as a string")),
        },
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {
            Err(wrong("must be an array of items, or a table with file and format"))
        }
    }
}

fn setup(store: &str, said: Json) -> Result<Vec<Said>, Broken> {
    let wrong = |what: &str| Broken(format!("setup.kv_stores.{store}{what}"));
    let Json::Object(mut fields) = said else { return Err(wrong(" must be a table")) };
    let mut found = Vec::new();
    match fields.remove("file") {
        None => {}
        Some(Json::String(file)) => found.push(Said::File(file, true)),
        Some(_) => return Err(wrong(".file must be a string")),
    }
    match fields.remove("items") {
        None => {}
        Some(Json::Object(items)) => found.push(Said::Setup(items)),
        Some(_) => return Err(wrong(".items must be a table of keys")),
    }
    Ok(found)
}

/// The items of a store, each key once: what is said last of it. Reads the files of items.
///
/// # Errors
/// When such a file cannot be read.
pub fn items(said: Vec<Said>, value_bytes_max: u64) -> Result<Vec<Item>, Broken> {
    // Items without a key cannot be told apart, and are told each.
    let (mut by_key, mut nameless) = (BTreeMap::new(), Vec::new());
    for said in said {
        let found = match said {
            Said::File(file, loose) => {
                let max = FILE_BYTES_MAX;
                let text = super::directory::read(Path::new(&file), max).map_err(|e| {
                    Broken(format!("{file}: {e} (paths begin where the command runs)"))
                })?;
                kv_json::parse(&text, loose, value_bytes_max)
                    .map_err(|e| Broken(format!("{file}: {e}")))?
            }
            Said::Items(items) => {
                items.iter().map(|said| local_item(said, value_bytes_max)).collect()
            }
            Said::Setup(items) => items
                .into_iter()
                .map(|(key, said)| setup_item(key, &said, value_bytes_max))
                .collect(),
        };
        for item in found {
            if item.key.is_empty() {
                nameless.push(item);
            } else {
                by_key.insert(item.key.clone(), item);
            }
        }
    }
    let mut items: Vec<Item> = nameless.into_iter().chain(by_key.into_values()).collect();
    items.iter_mut().zip(1..).for_each(|(item, number)| item.number = number);
    Ok(items)
}

fn local_item(said: &Json, value_bytes_max: u64) -> Item {
    let (key, (content, metadata)) = match said.get("key").and_then(Json::as_str) {
        Some(key) => (key.to_owned(), kv_json::content(&|name| said.get(name).cloned())),
        None => {
            (String::new(), (Content::Wrong("key must be there and a string".into()), "".into()))
        }
    };
    Item { number: 0, key, content, metadata, value_bytes_max }
}

fn setup_item(key: String, said: &Json, value_bytes_max: u64) -> Item {
    // The same as in the other place, but for the name of the value.
    let (content, metadata) = kv_json::content(&|name| match name {
        "data" => said.get("value").cloned(),
        "path" => None,
        _ => said.get(name).cloned(),
    });
    let content = match content {
        Content::Wrong(reason) => Content::Wrong(reason.replace("data", "value")),
        Content::Here(_) | Content::File(_) => content,
    };
    Item { number: 0, key, content, metadata, value_bytes_max }
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
        description = "said"
        [setup.kv_stores.one.items.d]
        [setup.kv_stores.bare]
    "#;

    #[test]
    fn both_sections_and_their_old_names_are_read_and_the_local_one_wins() {
        let mut stores = parse(TEXT).unwrap();
        let names: Vec<_> = stores.keys().cloned().collect();
        assert_eq!(names, ["bare", "empty", "old", "older", "one"]);
        let one = items(stores.remove("one").unwrap(), 100).unwrap();
        let keys: Vec<_> = one.iter().map(|item| (item.number, item.key.as_str())).collect();
        assert_eq!(keys, [(1, ""), (2, "a"), (3, "b"), (4, "c"), (5, "d")]);
        assert_eq!(one[1].content, Content::Here(b"local".to_vec()));
        assert_eq!(one[1].metadata, "m");
        assert_eq!(one[4].content, Content::Wrong("must have value or file".into()));
        let old = items(stores.remove("old").unwrap(), 100).unwrap();
        assert_eq!(old[0].content, Content::File("p".into()));
        assert_eq!(items(stores.remove("bare").unwrap(), 100).unwrap(), []);
    }

    #[test]
    fn what_a_manifest_must_not_say_is_told() {
        for (text, word) in [
            ("[", "TOML"),
            ("[local_server]\nkv_stores = 1", "local_server.kv_stores must be a table"),
            ("[local_server.kv_stores]\na = 1", "a must be an array"),
            ("[local_server.kv_stores]\na = { file = \"x\" }", "format"),
            ("[setup.kv_stores]\na = 1", "setup.kv_stores.a must be a table"),
            ("[setup.kv_stores.a]\nitems = 1", "items must be a table"),
        ] {
            let told = parse(text).unwrap_err().to_string();
            assert!(told.contains(word), "{text}: {told}");
        }
        let missing = items(vec![Said::File("/no/such/file".into(), false)], 1).unwrap_err();
        assert!(missing.to_string().contains("/no/such/file"));
    }
}
