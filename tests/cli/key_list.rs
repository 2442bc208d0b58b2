//! Tests of `steadfast key list`: pages, prefixes, limits, and properties with `--long`.

use crate::Cli;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Writes 2,500 items in a batch: k0000 to k2499. Every third item has metadata.
fn fill(cli: &Cli) {
    let mut lines = String::new();
    for nth in 0..2500 {
        let metadata = if nth % 3 == 0 { ",\"metadata\":\"m m\"" } else { "" };
        lines.push_str(&format!("{{\"key\":\"k{nth:04}\",\"value\":\"QUJD\"{metadata}}}\n"));
    }
    let id = cli.json(&["store", "describe", "site"])[0]["id"].as_str().unwrap().to_owned();
    let path = format!("PUT /resources/stores/kv/{id}/batch");
    assert_eq!(cli.server.request(&path, &[], lines.as_bytes()).status, 200);
}

#[test]
fn key_list_reads_all_pages_in_order() {
    let cli = Cli::with_store();
    assert_eq!(cli.ok(&["key", "list", "site"]), "");
    fill(&cli);
    let keys = |args: &[&str]| cli.ok(&[&["key", "list", "site"], args].concat());
    let all = keys(&[]);
    let expected: Vec<_> = (0..2500).map(|nth| format!("k{nth:04}")).collect();
    assert_eq!(all.lines().collect::<Vec<_>>(), expected);
    assert_eq!(keys(&["--prefix", "k24"]).lines().count(), 100);
    assert_eq!(keys(&["--prefix", "none"]), "");
    assert_eq!(keys(&["--limit", "3"]), "k0000\nk0001\nk0002\n");
    assert_eq!(keys(&["--limit", "1001"]).lines().count(), 1001);
    assert_eq!(keys(&["--limit", "9999", "--prefix", "k1"]).lines().count(), 1000);
    let listed = cli.json(&["key", "list", "site", "--limit", "2"]);
    assert_eq!(listed, [json!({ "key": "k0000" }), json!({ "key": "k0001" })]);
    cli.fails(2, &["key", "list", "site", "--limit", "0"]);
    cli.fails(3, &["key", "list", "nowhere"]);
}

#[test]
fn key_list_long_shows_all_properties_except_the_values() {
    let cli = Cli::with_store();
    fill(&cli);
    cli.ok(&["key", "put", "site", "a/ü", "12345", "--ttl", "1d", "--metadata", "text"]);
    let listed = cli.json(&["key", "list", "site", "--long"]);
    assert_eq!(listed.len(), 2501);
    let head = cli.json(&["key", "head", "site", "a/ü"]).remove(0);
    assert_eq!(listed[0], head);
    assert_eq!((&head["size"], &head["metadata"]), (&json!(5), &json!("text")));
    assert_eq!((&listed[1]["metadata"], &listed[1]["expires"]), (&json!("m m"), &json!(null)));
    let text = cli.ok(&["key", "list", "site", "--long", "--limit", "2"]);
    let lines: Vec<_> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0][0], "5");
    assert_eq!(lines[0][1], head["generation"].to_string());
    assert_eq!(
        (lines[0][2], lines[0][3]),
        (head["modified"].as_str().unwrap(), head["expires"].as_str().unwrap())
    );
    assert_eq!(lines[0][4..], ["a/ü", "text"]);
    assert_eq!((lines[1][0], lines[1][3]), ("3", "-"));
    assert_eq!(lines[1][4..], ["k0000", "m", "m"]);
}

#[test]
fn a_closed_output_pipe_is_not_an_error() {
    let cli = Cli::with_store();
    fill(&cli);
    for args in [&["key", "list", "site"][..], &["key", "list", "site", "--long"]] {
        let mut command = cli.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(first.contains("k0000"));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
    cli.ok(&["key", "put", "site", "large", &"x".repeat(100_000)]);
    let mut get = cli.command(&["key", "get", "site", "large"]);
    let mut child = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
