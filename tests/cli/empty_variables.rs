//! Tests that every environment variable listed in `--help` counts as unset if it is empty.

use crate::support::{CommandOutput, Server, TOKEN, binary};
use crate::{Cli, run};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Command, Stdio};

/// Variables that `--help` does not list, because they have no flag.
const HIDDEN: [&str; 4] =
    ["FASTLY_API_TOKEN", "STEADFAST_TOKEN", "STEADFAST_TOKEN_FILE", "NODE_OPTIONS"];

/// The commands that read variables, with the arguments they require.
const COMMANDS: [&[&str]; 23] = [
    &["backup", "-o", "out"],
    &["check"],
    &["copy", "--to", "b"],
    &["copy", "--from", "steadfast-data"],
    &["env"],
    &["env", "--", "sh", "-c", "echo \"$FASTLY_API_URL\""],
    &["export", "s"],
    &["import", "s", "in"],
    &["key", "put", "s", "k", "v"],
    &["key", "get", "s", "k"],
    &["key", "head", "s", "k"],
    &["key", "list", "s"],
    &["key", "delete", "s", "k", "--yes"],
    &["restore", "in"],
    &["serve"],
    &["store", "create", "s"],
    &["store", "describe", "s"],
    &["store", "delete", "s", "--yes"],
    &["store", "list"],
    &["store", "rename", "s", "t"],
    &["sync", "s", "t"],
    &["token", "create", "t"],
    &["token", "list"],
];

/// Returns the variables that a help text lists.
fn listed_variables(help: &str) -> BTreeSet<String> {
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = help.split("[env: ").skip(1);
    parts.map(|part| part.split(['=', ']']).next().unwrap().to_owned()).collect()
}

/// Returns the names of the subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// Collects all commands whose help texts list variables.
fn collect(cli: &Cli, command: &[String], into: &mut Vec<(Vec<String>, BTreeSet<String>)>) {
    let help = run(cli.bare_command(&[]).args(command).arg("--help")).text();
    let names = subcommands(&help);
    if names.is_empty() && !listed_variables(&help).is_empty() {
        into.push((command.to_vec(), listed_variables(&help)));
    }
    for name in names {
        collect(cli, &[command, &[name]].concat(), into);
    }
}

#[test]
fn every_listed_variable_counts_as_unset_if_it_is_empty() {
    let cli = Cli::new();
    // This file takes the place of the data directory, so no server can start and commands find no
    // local server or token.
    cli.write_file("steadfast-data", b"not a directory");
    cli.write_file("in", b"");
    let mut all = Vec::new();
    collect(&cli, &[], &mut all);
    assert!(all.len() > 15, "{all:?}");
    let outcome = |args: &[&str], empty: Option<&str>| {
        let mut command = cli.bare_command(args);
        // Use a port on which no server listens, unless the endpoint is under test.
        if empty != Some("FASTLY_API_ENDPOINT") {
            command.env("FASTLY_API_ENDPOINT", "http://127.0.0.1:1");
        }
        command.envs(empty.map(|name| (name, "")));
        let CommandOutput { code, out, err } = run(&mut command);
        let errors: Vec<_> = err.lines().filter(|line| line.starts_with("error")).collect();
        (code, out, errors.join("\n"))
    };
    let mut tested = BTreeSet::new();
    for (command, listed) in &all {
        let of_command =
            COMMANDS.iter().filter(|args| args.iter().zip(command).all(|(a, b)| a == b));
        let mut found = false;
        for args in of_command {
            found = true;
            for name in listed.iter().map(String::as_str).chain(HIDDEN) {
                if name == "FASTLY_API_ENDPOINT" {
                    continue;
                }
                assert_eq!(
                    outcome(args, Some(name)),
                    outcome(args, None),
                    "{args:?}: the results with an empty and an unset {name} differ"
                );
                tested.insert(name.to_owned());
            }
        }
        assert!(found || command == &["token", "revoke"], "{command:?} is not tested");
    }
    assert!(tested.len() > 15, "{tested:?}");
}

#[test]
fn an_empty_endpoint_variable_selects_the_default_endpoint() {
    let cli = Cli::new();
    let mut command = cli.bare_command(&["env"]);
    command.env("FASTLY_API_ENDPOINT", "").env("FASTLY_API_TOKEN", TOKEN);
    let output = run(&mut command);
    assert_eq!(output.code, 0, "{}", output.err);
    assert!(output.text().contains("FASTLY_API_URL=http://127.0.0.1:7678\n"), "{}", output.text());
}

#[test]
fn a_server_with_empty_variables_uses_the_defaults_and_writes_a_log() {
    let cli = Cli::new();
    let log = cli.dir.path().join("log");
    let mut command = Command::new(binary());
    command.args(["serve", "--listen", "127.0.0.1:0"]).current_dir(cli.dir.path());
    command.stdin(Stdio::null()).stderr(File::create(&log).unwrap());
    let help = run(cli.bare_command(&["serve", "--help"]).stdin(Stdio::null())).text();
    let listed = listed_variables(&help);
    assert!(listed.contains("STEADFAST_LOG") && listed.contains("STEADFAST_CACHE"), "{listed:?}");
    command.envs(listed.iter().map(|name| (name.as_str(), "")));
    command.envs(HIDDEN.map(|name| (name, "")));
    Server::spawn(command).stop();
    assert!(cli.dir.path().join("steadfast-data/token").is_file());
    assert!(!fs::read_to_string(&log).unwrap().is_empty(), "an empty filter silenced the log");
}
