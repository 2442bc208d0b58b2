//! Checks of the source tree: dependencies between layers, retired words, lengths of files and
//! lines, unfinished work, and references from documents to tests and files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer, and the other modules of this crate that it may use.
const WALLS: [(&str, &[&str]); 18] = [
    ("src/engine", &[]),
    ("src/kv", &["engine", "wire"]),
    ("src/http", &[]),
    ("src/wire", &[]),
    ("src/atomic_file.rs", &[]),
    ("src/small_file.rs", &[]),
    ("src/address_file.rs", &["atomic_file", "engine", "small_file", "wire"]),
    ("src/logging.rs", &["config"]),
    ("src/metrics.rs", &["kv", "logging"]),
    ("src/simulation", &[]),
    ("src/api", &["http", "kv", "metrics", "simulation", "wire"]),
    ("src/transfer", &["atomic_file", "config", "kv", "small_file", "wire"]),
    ("src/config", &["address_file", "simulation", "small_file", "wire"]),
    ("src/client", &["small_file", "wire"]),
    ("src/storage", &["config", "engine", "kv", "logging"]),
    ("src/server", &SERVER),
    ("src/admin", &["config", "engine", "kv", "storage"]),
    ("src/cli", &CLI),
];

/// The modules that the composition root, `server`, may use.
const SERVER: [&str; 12] = [
    "address_file", "api", "atomic_file", "config", "engine", "http", "kv", "metrics",
    "simulation", "small_file", "storage", "wire",
];
/// The modules that the commands may use.
const CLI: [&str; 11] = [
    "address_file", "admin", "atomic_file", "client", "config", "logging", "server", "small_file",
    "storage", "transfer", "wire",
];

/// Names that must not occur in a layer because they belong to another layer.
const FOREIGN: [(&str, &[&str]); 6] = [
    ("src/engine", &["SystemTime", "serde_json", "httparse", "Generation:", "std::env"]),
    ("src/kv", &["rusqlite", "httparse", "serde_json", "std::fs", "std::net", "std::env"]),
    ("src/http", &["rusqlite", "serde_json", "std::fs", "std::env"]),
    ("src/api", &["rusqlite", "std::fs", "std::env", "SystemTime"]),
    ("src/simulation", &["tokio", "bytes::", "std::net", "std::env", "Instant::now"]),
    ("src/transfer", &["reqwest", "rusqlite", "std::net", "std::env"]),
];

/// Retired words and their replacements. Identifiers and file names in the Rust code must not
/// contain a retired word: `tell_end`, `Told` and `told.rs` are all rejected.
const RETIRED: [(&str, &str); 31] = [
    ("admission", "limiter"),
    ("arrival", "ImportItem"),
    ("arrived", "ImportOutcome"),
    ("beyond", "extensions"),
    ("boundary", "position"),
    ("brought", "imported"),
    ("chore", "task"),
    ("face", "interface"),
    ("fold", "checkpoint"),
    ("folder", "directory"),
    ("ground", "testbed"),
    ("hostile", "abuse"),
    ("judge", "authorize, compare or check"),
    ("judged", "authorized, compared or checked"),
    ("keeper", "maintenance"),
    ("linear", "linearizability"),
    ("mortal", "expiring"),
    ("moving", "transfer"),
    ("overlay", "memtable"),
    ("pace", "scheduler"),
    ("patience", "backoff or timeout"),
    ("pressure", "backpressure"),
    ("refusal", "error or rejection"),
    ("renewed", "refreshed"),
    ("said", "output or message"),
    ("spoil", "damage or corrupt"),
    ("talk", "console"),
    ("tell", "report or print"),
    ("tend", "maintenance"),
    ("told", "reported"),
    ("torture", "crash"),
];

/// Standard library names that contain a retired word.
const RETIRED_EXCEPT: [&str; 1] = ["fold"];

const FILE_LINES_MAX: usize = 600;
const LINE_CHARS_MAX: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the paths and texts of the files below `at` with one of the extensions. Skips build
/// output.
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

/// Returns the source code of a file without comments and unit tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let bare = |line: &str| !line.trim_start().starts_with("//");
    code.lines().filter(|line| bare(line)).collect::<Vec<_>>().join("\n")
}

/// Returns the modules of this crate that the code names, as in `crate::MODULE`.
fn uses(code: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        named.push(&rest[..end.unwrap_or(rest.len())]);
    }
    named
}

#[test]
fn layers_use_only_allowed_modules() {
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
    assert!(broken.is_empty(), "layer violations: {broken:#?}");
}

#[test]
fn only_server_and_offline_commands_use_the_server_modules() {
    for (file, text) in files("src/cli", &[".rs"]) {
        let code = code(&text);
        let calls = uses(&code).iter().any(|used| ["admin", "server", "storage"].contains(used));
        let owners = ["backup", "check", "copy", "serve"];
        let may = owners.iter().any(|owner| file == format!("src/cli/{owner}.rs"));
        assert!(
            !calls || may,
            "{file} uses a server module, but is not listed as an offline command"
        );
    }
}

#[test]
fn every_source_file_belongs_to_a_layer() {
    let free = ["src/lib.rs", "src/main.rs"];
    for (file, _) in files("src", &[".rs"]) {
        let walled = WALLS.iter().any(|(layer, _)| file.starts_with(layer));
        assert!(walled || free.contains(&file.as_str()), "{file} does not belong to a layer");
    }
}

#[test]
fn layers_do_not_use_names_of_other_layers() {
    let mut broken = Vec::new();
    for (layer, words) in FOREIGN {
        for (file, text) in files(layer, &[".rs"]) {
            let code = code(&text);
            let clock = file == "src/kv/clock.rs";
            for word in words.iter().filter(|word| code.contains(**word)) {
                if !(clock && *word == "SystemTime") {
                    broken.push(format!("{file} contains {word}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn only_the_clock_and_the_date_header_read_the_system_time() {
    for (file, text) in files("src", &[".rs"]) {
        let asks = code(&text).contains("SystemTime::now");
        let may = ["src/kv/clock.rs", "src/http/response.rs"].contains(&file.as_str());
        assert!(!asks || may, "{file} reads the system time, but must use the clock");
    }
}

/// Returns each identifier in the code together with its words in lower case. The words of
/// `HttpBody` are `http` and `body`.
fn identifiers(code: &str) -> impl Iterator<Item = (&str, Vec<String>)> {
    let names = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    names.filter(|name| name.starts_with(|c: char| !c.is_ascii_digit())).map(|name| {
        let mut words = vec![String::new()];
        for c in name.chars() {
            let starts_word = c.is_ascii_uppercase() && name.contains(|c: char| c.is_lowercase());
            if (c == '_' || starts_word) && !words.last().unwrap().is_empty() {
                words.push(String::new());
            }
            if c != '_' {
                words.last_mut().unwrap().push(c.to_ascii_lowercase());
            }
        }
        (name, words)
    })
}

/// Removes line comments and string literals from the code.
fn without_text(code: &str) -> String {
    let code = code.replace("'\"'", "").replace("\\\\", "").replace("\\\"", "");
    let (mut kept, mut in_string, mut in_comment) = (String::new(), false, false);
    for (at, c) in code.char_indices() {
        in_comment |= !in_string && code[at..].starts_with("//");
        in_comment &= c != '\n';
        in_string ^= !in_comment && c == '"';
        if !in_string && !in_comment {
            kept.push(c);
        }
    }
    kept
}

#[test]
fn identifiers_and_file_names_avoid_retired_words() {
    let mut broken = Vec::new();
    for root in ["src", "tests", "bench", "fuzz", "clients/rust"] {
        for (file, text) in files(root, &[".rs"]) {
            let code = without_text(&text);
            for (name, words) in identifiers(&file).chain(identifiers(&code)) {
                for (word, instead) in RETIRED {
                    if words.iter().any(|part| part == word) && !RETIRED_EXCEPT.contains(&name) {
                        broken.push(format!("{file}: {name}: use {instead}"));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn identifiers_are_split_into_words() {
    let code = "let one_two = \"a://b\"; struct ThreeFour; const FIVE_SIX: u8 = 0; // seven";
    let code = without_text(code);
    let words: Vec<_> = identifiers(&code).flat_map(|(_, words)| words).collect();
    let expected = "let one two struct three four const five six u8";
    assert_eq!(words.join(" "), expected);
}

#[test]
fn files_and_lines_are_short_and_contain_no_unfinished_work() {
    let mut broken = Vec::new();
    // These markers are assembled from parts so that this file does not contain them.
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
                broken.push(format!("{file}:{at} contains a marker of unfinished work"));
            }
            if file.ends_with(".rs") && line.ends_with(' ') {
                broken.push(format!("{file}:{at} ends with a space"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Returns a pair of the row and the name for each test named in the last column of a table.
fn named_tests(document: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let rows = document.lines().filter(|line| line.starts_with('|') && !line.starts_with("|-"));
    for row in rows.filter(|row| !row.contains("| test |")) {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let tests: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "the row names no test: {row}");
        named.extend(tests.into_iter().map(|test| (row.to_owned(), test.to_owned())));
    }
    named
}

#[test]
fn compatibility_table_names_existing_tests() {
    let document = fs::read_to_string(root().join("docs/compatibility.md")).unwrap();
    let rust: String =
        ["tests", "src"].iter().flat_map(|at| files(at, &[".rs"])).map(|(_, text)| text).collect();
    let named = named_tests(&document);
    assert!(named.len() > 50, "only {} tests were found in the table", named.len());
    for (row, test) in named {
        let exists = match test.strip_prefix("clients/") {
            Some(_) => root().join(&test).exists(),
            None => rust.contains(&format!("fn {test}(")),
        };
        assert!(exists, "the test {test} does not exist; it is named in the row {row}");
    }
}

#[test]
fn links_in_documents_resolve() {
    for (file, text) in files(".", &[".md"]) {
        let directory = root().join(&file).parent().map(PathBuf::from).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.contains("::") || path.is_empty();
            // Skip rustdoc links, which refer to items instead of files.
            if outside || !path.contains('.') && !path.contains('/') {
                continue;
            }
            assert!(
                directory.join(path).exists(),
                "{file} links to {target}, which does not exist"
            );
        }
    }
}
