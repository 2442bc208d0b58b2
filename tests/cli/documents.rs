//! Help, completions and manual pages.

use crate::{Site, feed};
use std::process::{Command, Stdio};

#[test]
fn completions_are_what_the_shells_take() {
    let site = Site::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = site.ok(&["completions", shell]);
        assert!(text.contains("steadfast") && text.contains("if-generation-match"), "{shell}");
    }
    let mut bash = Command::new("bash");
    bash.args(["-n"]);
    let checked = feed(bash, site.ok(&["completions", "bash"]).as_bytes());
    assert_eq!((checked.code, checked.err.as_str()), (0, ""));
    site.fails(2, &["completions", "tcsh"]);
}

#[test]
fn every_command_has_a_page_of_the_manual() {
    let site = Site::new();
    let page = site.ok(&["man"]);
    assert!(page.contains(".TH steadfast 1"), "{page}");
    let dir = site.dir.path().join("man/man1");
    site.ok(&["man", dir.to_str().unwrap()]);
    for name in ["steadfast", "steadfast-key-put", "steadfast-store-delete", "steadfast-env"] {
        let page = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        assert!(page.contains("Exit status") || name == "steadfast", "{name}");
    }
    let file = site.file("file", b"");
    site.fails(1, &["man", &format!("{file}/man1")]);
}

#[test]
fn help_is_for_people_and_mistakes_end_with_2() {
    let site = Site::new();
    let help = site.ok(&["key", "put", "--help"]);
    assert!(help.contains("Examples:") && help.contains("Exit status:"), "{help}");
    assert!(!help.contains("fastly-api-token") && help.contains("FASTLY_API_ENDPOINT"), "{help}");
    assert!(!help.contains(crate::support::TOKEN));
    site.fails(2, &["key", "frobnicate"]);
    site.fails(2, &["key"]);
    let mut help = site.command(&["key", "put", "--help"]);
    let mut child = help.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}
