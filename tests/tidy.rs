//! The walls and habits of the tree, held by a test: who may use whom, how long files and lines
//! are, that nothing is left undone, and that the documents name tests that exist.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer and the modules of this crate that it may use besides itself.
const WALLS: [(&str, &[&str]); 14] = [
    ("src/engine", &[]),
    ("src/kv", &["engine", "wire"]),
    ("src/http", &[]),
    ("src/wire", &[]),
    ("src/atomic_file.rs", &[]),
    ("src/metrics.rs", &["kv"]),
    ("src/api", &["http", "kv", "metrics", "wire"]),
    ("src/transfer", &["config", "kv", "wire"]),
    ("src/config", &["wire"]),
    ("src/client", &["wire"]),
    ("src/storage", &["config", "engine", "kv"]),
    ("src/server", &SERVER),
    ("src/admin", &["config", "engine", "kv", "storage"]),
    ("src/cli", &CLI),
];

/// The composition root.
const SERVER: [&str; 9] =
    ["api", "atomic_file", "config", "engine", "http", "kv", "metrics", "storage", "wire"];
/// The commands.
const CLI: [&str; 8] =
    ["admin", "atomic_file", "client", "config", "server", "storage", "transfer", "wire"];

/// Words that a layer must not hold, because they belong to another.
const FOREIGN: [(&str, &[&str]); 5] = [
    ("src/engine", &["SystemTime", "serde_json", "httparse", "Generation:", "std::env"]),
    ("src/kv", &["rusqlite", "httparse", "serde_json", "std::fs", "std::net", "std::env"]),
    ("src/http", &["rusqlite", "serde_json", "std::fs", "std::env"]),
    ("src/api", &["rusqlite", "std::fs", "std::env", "SystemTime"]),
    ("src/transfer", &["reqwest", "rusqlite", "std::net", "std::env"]),
];

const FILE_LINES_MAX: usize = 600;
const LINE_CHARS_MAX: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder, or the file itself, that end as wanted; what tools make is left out.
fn files(at: &str, endings: &[&str]) -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![root().join(at)]);
    while let Some(path) = open.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let made = ["target", "node_modules", ".git", "steadfast-data", "corpus", "artifacts"];
            if !made.contains(&name.as_str()) {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = fs::read_to_string(&path).unwrap();
            found.push((relative(&path), text));
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The code of a file without its comments and its inline tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let bare = |line: &str| !line.trim_start().starts_with("//");
    code.lines().filter(|line| bare(line)).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a piece of code names: `crate::MODULE`.
fn uses(code: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        named.push(&rest[..end.unwrap_or(rest.len())]);
    }
    named
}

#[test]
fn every_layer_uses_only_what_it_may() {
    let mut broken = Vec::new();
    for (layer, allowed) in WALLS {
        let own = layer.trim_start_matches("src/").trim_end_matches(".rs");
        for (file, text) in files(layer, &[".rs"]) {
            for module in uses(&code(&text)) {
                if module != own && !allowed.contains(&module) {
                    broken.push(format!("{file} uses crate::{module}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "walls are broken: {broken:#?}");
}

#[test]
fn only_the_commands_that_own_data_call_the_server() {
    for (file, text) in files("src/cli", &[".rs"]) {
        let code = code(&text);
        let calls = uses(&code).iter().any(|used| ["admin", "server", "storage"].contains(used));
        let owners = ["backup", "check", "copy", "serve"];
        let may = owners.iter().any(|owner| file == format!("src/cli/{owner}.rs"));
        assert!(!calls || may, "{file} calls the server");
    }
}

#[test]
fn every_source_file_stands_behind_a_wall() {
    let free = ["src/lib.rs", "src/main.rs"];
    for (file, _) in files("src", &[".rs"]) {
        let walled = WALLS.iter().any(|(layer, _)| file.starts_with(layer));
        assert!(walled || free.contains(&file.as_str()), "{file} belongs to no layer");
    }
}

#[test]
fn no_layer_speaks_the_words_of_another() {
    let mut broken = Vec::new();
    for (layer, words) in FOREIGN {
        for (file, text) in files(layer, &[".rs"]) {
            let code = code(&text);
            let clock = file == "src/kv/clock.rs";
            for word in words.iter().filter(|word| code.contains(**word)) {
                if !(clock && *word == "SystemTime") {
                    broken.push(format!("{file} says {word}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn only_the_clock_and_the_date_line_ask_for_the_time() {
    for (file, text) in files("src", &[".rs"]) {
        let asks = code(&text).contains("SystemTime::now");
        let may = ["src/kv/clock.rs", "src/http/response.rs"].contains(&file.as_str());
        assert!(!asks || may, "{file} asks for the time");
    }
}

#[test]
fn files_and_lines_are_short_and_nothing_is_left_undone() {
    let mut broken = Vec::new();
    // Put together here, so that this file does not hold them.
    let undone = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")].map(|(a, b)| format!("{a}{b}"));
    for (file, text) in files(".", &[".rs", ".py", ".mjs", ".js", ".sh"]) {
        if text.lines().count() > FILE_LINES_MAX {
            broken.push(format!("{file} has more than {FILE_LINES_MAX} lines"));
        }
        for (number, line) in text.lines().enumerate() {
            let at = number + 1;
            if file.ends_with(".rs") && line.chars().count() > LINE_CHARS_MAX {
                broken.push(format!("{file}:{at} is longer than {LINE_CHARS_MAX} characters"));
            }
            if undone.iter().any(|word| line.contains(word.as_str())) {
                broken.push(format!("{file}:{at} is undone"));
            }
            if file.ends_with(".rs") && line.ends_with(' ') {
                broken.push(format!("{file}:{at} ends with a space"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Every row of a table whose last column names tests, as (row, name).
fn named_tests(document: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let rows = document.lines().filter(|line| line.starts_with('|') && !line.starts_with("|-"));
    for row in rows.filter(|row| !row.contains("| test |")) {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let tests: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test in the row {row}");
        named.extend(tests.into_iter().map(|test| (row.to_owned(), test.to_owned())));
    }
    named
}

#[test]
fn every_row_of_the_compatibility_table_names_a_test_that_exists() {
    let document = fs::read_to_string(root().join("docs/compatibility.md")).unwrap();
    let rust: String =
        ["tests", "src"].iter().flat_map(|at| files(at, &[".rs"])).map(|(_, text)| text).collect();
    let named = named_tests(&document);
    assert!(named.len() > 50, "the table is read");
    for (row, test) in named {
        let exists = match test.strip_prefix("clients/") {
            Some(_) => root().join(&test).exists(),
            None => rust.contains(&format!("fn {test}(")),
        };
        assert!(exists, "{test} of the row {row} does not exist");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (file, text) in files(".", &[".md"]) {
        let folder = root().join(&file).parent().map(PathBuf::from).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.contains("::") || path.is_empty();
            // Links of rustdoc name items, not files.
            if outside || !path.contains('.') && !path.contains('/') {
                continue;
            }
            assert!(folder.join(path).exists(), "{file} links to {target}");
        }
    }
}
