//! Checks of the documents: the configuration reference matches the `--help` output of every
//! command, the table of contents lists every page, and relative links and anchors resolve.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

const REFERENCE: &str = "docs/operate/configuration.md";

/// Variables that `--help` does not print. They have no flag, contain a secret or belong to other
/// programs.
const HIDDEN_VARIABLES: [&str; 6] =
    ["FASTLY_API_TOKEN", "NODE_OPTIONS", "NO_COLOR", "SSL_CERT_FILE", "STEADFAST_TOKEN", "TERM"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

// --- the configuration reference ---

/// A flag as `--help` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Flag {
    variables: BTreeSet<String>,
    defaults: BTreeSet<String>,
}

type Flags = BTreeMap<String, Flag>;

/// Returns the output of `steadfast PATH --help`.
fn help(path: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    command.args(path).arg("--help").env_clear();
    let output = command.output().unwrap();
    assert!(output.status.success(), "steadfast {path:?} --help failed");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // Skip continuation lines, which have a deeper indent.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Returns the names of all `--long` flags in a text, without the dashes.
fn long_flags(text: &str) -> Vec<&str> {
    let parts = text.split(|c: char| c.is_whitespace() || ",`|/()".contains(c));
    let flags = parts.filter_map(|part| part.strip_prefix("--"));
    flags.filter(|flag| flag.starts_with(|c: char| c.is_ascii_lowercase())).collect()
}

/// Returns the values of all `[NAME: VALUE]` annotations in a help text.
fn bracketed(text: &str, name: &str) -> BTreeSet<String> {
    let open = format!("[{name}: ");
    let found = text.split(open.as_str()).skip(1).filter_map(|rest| rest.split(']').next());
    found.map(|found| found.trim_end_matches('=').to_owned()).collect()
}

/// Maximum indent of a flag, in columns. A dash further to the right may belong to a description.
const FLAG_INDENT: usize = 6;

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Returns the flags in the option sections of a help text.
fn flags_of(help: &str) -> Flags {
    let mut flags = Flags::new();
    let mut entries: Vec<String> = Vec::new();
    let mut within = false;
    for line in help.lines() {
        if !line.starts_with(' ') && !line.is_empty() {
            within = line == "Options:" || line == "Server and output:";
        } else if within && line.trim_start().starts_with('-') && indent(line) <= FLAG_INDENT {
            entries.push(line.trim().to_owned());
        } else if let (true, Some(entry)) = (within, entries.last_mut()) {
            entry.push(' ');
            entry.push_str(line.trim());
        }
    }
    for entry in entries {
        let name = long_flags(&entry).first().map(|name| (*name).to_owned());
        let name = name.unwrap_or_else(|| panic!("there is no long flag in {entry}"));
        if ["help", "version"].contains(&name.as_str()) {
            continue;
        }
        let variables = bracketed(&entry, "env");
        let defaults = bracketed(&entry, "default");
        flags.insert(name, Flag { variables, defaults });
    }
    flags
}

/// Returns the flags of every command without subcommands, by full command name.
fn commands() -> BTreeMap<String, Flags> {
    let mut found = BTreeMap::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let text = help(&path);
        let subcommands = subcommands(&text);
        if subcommands.is_empty() {
            found.insert(format!("steadfast {}", path.join(" ")), flags_of(&text));
        }
        for name in subcommands {
            open.push(path.iter().cloned().chain([name]).collect());
        }
    }
    found
}

/// Returns the table rows of each section of the reference, by heading. A row is a list of cells.
fn sections(text: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut found: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    let mut at = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            at = heading.to_owned();
            found.entry(at.clone()).or_default();
        } else if line.starts_with("| `") || line.starts_with("| | `") {
            let line = line.trim_start_matches('|').trim_end_matches('|');
            let cells = line.split('|').map(|cell| cell.trim().to_owned()).collect();
            found.entry(at.clone()).or_default().push(cells);
        }
    }
    found
}

/// Returns the texts between backquotes in a table cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Compares a row of the reference with the flag that `--help` prints.
fn compare(command: &str, row: &[String], printed: &Flag, wrong: &mut Vec<String>) {
    let [flag, variable, default, ..] = row else {
        wrong.push(format!("{command}: the row {row:?} has too few columns"));
        return;
    };
    let variables: BTreeSet<String> = quoted(variable).into_iter().map(str::to_owned).collect();
    if variables != printed.variables {
        wrong.push(format!("{command} {flag}: --help has the variables {:?}", printed.variables));
    }
    for value in &printed.defaults {
        // The table may describe a default in words. Such a description is not in backquotes, and
        // it may be shorter than the one in the help text.
        let in_words = default == value || value.contains(' ') && !default.is_empty();
        if !in_words && !quoted(default).contains(&value.as_str()) {
            wrong.push(format!("{command} {flag}: --help has the default {value}"));
        }
    }
}

#[test]
fn configuration_reference_matches_help() {
    let sections = sections(&read(REFERENCE));
    let shared = sections.get("Server and output").unwrap();
    let commands = commands();
    assert!(commands.len() > 20, "only {} commands were found in the help", commands.len());
    let mut wrong = Vec::new();
    for (command, flags) in &commands {
        let Some(own) = sections.get(command) else {
            wrong.push(format!("there is no section for {command}"));
            continue;
        };
        // Only commands that connect to a server have the shared flags.
        let talks = flags.contains_key("endpoint");
        let mut described = BTreeSet::new();
        for row in own.iter().chain(shared.iter().filter(|_| talks)) {
            let Some(name) = long_flags(&row[0]).first().map(|name| (*name).to_owned()) else {
                continue;
            };
            match flags.get(&name) {
                Some(printed) => compare(command, row, printed, &mut wrong),
                None => wrong.push(format!("{command} has no flag --{name}")),
            }
            described.insert(name);
        }
        for name in flags.keys().filter(|name| !described.contains(*name)) {
            wrong.push(format!("{command} --{name} is not in the reference"));
        }
    }
    for heading in sections.keys().filter(|heading| heading.starts_with("steadfast ")) {
        if !commands.contains_key(heading) {
            wrong.push(format!("there is no command {heading}"));
        }
    }
    assert!(wrong.is_empty(), "{REFERENCE} differs from --help: {wrong:#?}");
}

#[test]
fn the_configuration_reference_names_exactly_the_existing_variables() {
    let mut known: BTreeSet<String> = HIDDEN_VARIABLES.map(str::to_owned).into();
    for flags in commands().values() {
        known.extend(flags.values().flat_map(|flag| flag.variables.iter().cloned()));
    }
    let named: BTreeSet<String> = sections(&read(REFERENCE))
        .values()
        .flatten()
        .flat_map(|row| quoted(&row[1]).into_iter().map(str::to_owned))
        .collect();
    assert_eq!(named, known);
}

// --- pages and links ---

/// Returns the pages below a directory, relative to the root.
fn pages(at: &str) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![root().join(at)]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.insert(path.strip_prefix(root()).unwrap().display().to_string());
        }
    }
    found
}

/// Returns the lines of a document outside code blocks, without code spans.
fn prose(text: &str) -> String {
    let (mut out, mut code) = (String::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code && !line.starts_with("    ") {
            let spans = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
            out.push_str(&spans);
            out.push('\n');
        }
    }
    out
}

/// Returns the targets of the links and images in a document.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

/// Returns the anchors of the headings in a document, as GitHub and mdBook generate them.
fn anchors(text: &str) -> BTreeSet<String> {
    let (mut found, mut code) = (BTreeSet::new(), false);
    for line in text.lines() {
        code ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if code || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let slug = title.trim().to_lowercase().replace(' ', "-");
        let kept = |c: &char| c.is_alphanumeric() || *c == '-' || *c == '_';
        found.insert(slug.chars().filter(kept).collect());
    }
    found
}

/// Resolves `.` and `..` in a relative path.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(out.pop(), "{path:?} leaves the repository"),
            Component::CurDir => {}
            Component::Normal(_) => out.push(part),
            Component::Prefix(_) | Component::RootDir => panic!("{path:?} is absolute"),
        }
    }
    out
}

#[test]
fn table_of_contents_lists_every_page_once() {
    let mut listed = BTreeSet::new();
    for target in links(&read("docs/SUMMARY.md")) {
        let page = format!("docs/{target}");
        assert!(root().join(&page).is_file(), "SUMMARY.md lists {page}, which does not exist");
        assert!(listed.insert(page.clone()), "SUMMARY.md lists {page} twice");
    }
    let mut pages = pages("docs");
    pages.remove("docs/SUMMARY.md");
    assert_eq!(pages, listed);
}

#[test]
fn relative_links_and_anchors_resolve() {
    let mut documents = pages("docs");
    let others =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "clients/README.md"];
    documents.extend(others.map(str::to_owned));
    documents.insert("bench/METHOD.md".into());
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for document in &documents {
        let text = read(document);
        for target in links(&text).into_iter().filter(|target| !target.contains("://")) {
            checked += 1;
            let (path, anchor) = match target.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor)),
                None => (target.as_str(), None),
            };
            let dir = Path::new(document).parent().unwrap();
            let file = match path {
                "" => PathBuf::from(document),
                path => normal(&dir.join(path)),
            };
            if !root().join(&file).exists() {
                wrong.push(format!("{document} links to {target}"));
            } else if let Some(anchor) = anchor {
                let headings = anchors(&read(&file.display().to_string()));
                if !headings.contains(anchor) {
                    wrong.push(format!(
                        "{document} links to {target}, but there is no such heading"
                    ));
                }
            }
        }
    }
    assert!(checked > 50, "only {checked} links were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
