//! `steadfast key list`.

use crate::Site;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// 2,500 items by batch: k0000 to k2499, every third with metadata.
fn fill(site: &Site) {
    let mut lines = String::new();
    for nth in 0..2500 {
        let metadata = if nth % 3 == 0 { ",\"metadata\":\"m m\"" } else { "" };
        lines.push_str(&format!("{{\"key\":\"k{nth:04}\",\"value\":\"QUJD\"{metadata}}}\n"));
    }
    let id = site.json(&["store", "describe", "site"])[0]["id"].as_str().unwrap().to_owned();
    let path = format!("PUT /resources/stores/kv/{id}/batch");
    assert_eq!(site.server.ask(&path, &[], lines.as_bytes()).status, 200);
}

#[test]
fn all_pages_are_listed_in_order_as_text_and_as_json() {
    let site = Site::with_store();
    assert_eq!(site.ok(&["key", "list", "site"]), "");
    fill(&site);
    let keys = |args: &[&str]| site.ok(&[&["key", "list", "site"], args].concat());
    let all = keys(&[]);
    let expected: Vec<_> = (0..2500).map(|nth| format!("k{nth:04}")).collect();
    assert_eq!(all.lines().collect::<Vec<_>>(), expected);
    assert_eq!(keys(&["--prefix", "k24"]).lines().count(), 100);
    assert_eq!(keys(&["--prefix", "none"]), "");
    assert_eq!(keys(&["--limit", "3"]), "k0000\nk0001\nk0002\n");
    assert_eq!(keys(&["--limit", "1001"]).lines().count(), 1001);
    assert_eq!(keys(&["--limit", "9999", "--prefix", "k1"]).lines().count(), 1000);
    let listed = site.json(&["key", "list", "site", "--limit", "2"]);
    assert_eq!(listed, [json!({ "key": "k0000" }), json!({ "key": "k0001" })]);
    site.fails(2, &["key", "list", "site", "--limit", "0"]);
    site.fails(3, &["key", "list", "nowhere"]);
}

#[test]
fn a_long_list_shows_all_but_the_values() {
    let site = Site::with_store();
    fill(&site);
    site.ok(&["key", "put", "site", "a/ü", "12345", "--ttl", "1d", "--metadata", "text"]);
    let listed = site.json(&["key", "list", "site", "--long"]);
    assert_eq!(listed.len(), 2501);
    let head = site.json(&["key", "head", "site", "a/ü"]).remove(0);
    assert_eq!(listed[0], head);
    assert_eq!((&head["size"], &head["metadata"]), (&json!(5), &json!("text")));
    assert_eq!((&listed[1]["metadata"], &listed[1]["expires"]), (&json!("m m"), &json!(null)));
    let text = site.ok(&["key", "list", "site", "--long", "--limit", "2"]);
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
fn a_reader_that_goes_away_is_no_failure() {
    let site = Site::with_store();
    fill(&site);
    for args in [&["key", "list", "site"][..], &["key", "list", "site", "--long"]] {
        let mut command = site.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(first.contains("k0000"));
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    }
    site.ok(&["key", "put", "site", "large", &"x".repeat(100_000)]);
    let mut get = site.command(&["key", "get", "site", "large"]);
    let mut child = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}
