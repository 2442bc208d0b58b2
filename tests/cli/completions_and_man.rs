//! Tests of `steadfast completions`, `steadfast man` and `--help`.

use crate::{Cli, run_with_input};
use std::process::{Command, Stdio};

#[test]
fn completions_are_generated_for_every_shell() {
    let cli = Cli::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = cli.ok(&["completions", shell]);
        assert!(text.contains("steadfast") && text.contains("if-generation-match"), "{shell}");
    }
    let mut bash = Command::new("bash");
    bash.args(["-n"]);
    let checked = run_with_input(bash, cli.ok(&["completions", "bash"]).as_bytes());
    assert_eq!((checked.code, checked.err.as_str()), (0, ""));
    cli.fails(2, &["completions", "tcsh"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let cli = Cli::new();
    let page = cli.ok(&["man"]);
    assert!(page.contains(".TH steadfast 1"), "{page}");
    let dir = cli.dir.path().join("man/man1");
    cli.ok(&["man", dir.to_str().unwrap()]);
    for name in ["steadfast", "steadfast-key-put", "steadfast-store-delete", "steadfast-env"] {
        let page = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        assert!(page.contains("Exit status") || name == "steadfast", "{name}");
    }
    let file = cli.write_file("file", b"");
    cli.fails(1, &["man", &format!("{file}/man1")]);
}

#[test]
fn help_shows_examples_and_usage_errors_exit_with_2() {
    let cli = Cli::new();
    let help = cli.ok(&["key", "put", "--help"]);
    assert!(help.contains("Examples:") && help.contains("Exit status:"), "{help}");
    assert!(!help.contains("fastly-api-token") && help.contains("FASTLY_API_ENDPOINT"), "{help}");
    assert!(!help.contains(crate::support::TOKEN));
    cli.fails(2, &["key", "frobnicate"]);
    cli.fails(2, &["key"]);
    let mut help = cli.command(&["key", "put", "--help"]);
    let mut child = help.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
