//! Tests of `steadfast key put`, `key get` and `key head`.

use crate::{Cli, run, run_with_input};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn key_put_reads_the_value_from_an_argument_a_file_or_stdin() {
    let cli = Cli::with_store();
    cli.ok(&["key", "put", "site", "a", "Hello"]);
    assert_eq!(cli.ok(&["key", "get", "site", "a"]), "Hello");
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let file = cli.write_file("binary", &binary);
    cli.ok(&["key", "put", "site", "b", "--file", &file]);
    assert_eq!(cli.run(&["key", "get", "site", "b"]).out, binary);
    for args in [&["key", "put", "site", "c", "-"][..], &["key", "put", "site", "d", "--file", "-"]]
    {
        let output = cli.run_with_input(args, &binary);
        assert_eq!(output.code, 0, "{}", output.err);
        assert_eq!(cli.run(&["key", "get", "site", args[3]]).out, binary);
    }
    for (key, args) in [("e", &[""][..]), ("f", &["--file", "/dev/null"])] {
        cli.ok(&[&["key", "put", "site", key], args].concat());
        assert_eq!(cli.ok(&["key", "get", "site", key]), "", "the value is not empty");
    }
    let mut raw = cli.command(&["key", "put", "site", "g"]);
    raw.arg(OsStr::from_bytes(b"\xff\xfe"));
    assert_eq!(run(&mut raw).code, 0);
    assert_eq!(cli.run(&["key", "get", "site", "g"]).out, b"\xff\xfe");
    cli.ok(&["key", "put", "site", "h", "--", "-5"]);
    assert_eq!(cli.ok(&["key", "get", "site", "h"]), "-5");
}

#[test]
fn a_25_mib_value_can_be_written_and_read_through_pipes_and_files() {
    let cli = Cli::with_store();
    let large: Vec<u8> = (0u32..25 << 18).flat_map(u32::to_le_bytes).collect();
    assert_eq!(large.len(), 25 << 20);
    let output = cli.run_with_input(&["key", "put", "site", "large", "-"], &large);
    assert_eq!(output.code, 0, "{}", output.err);
    assert!(cli.run(&["key", "get", "site", "large"]).out == large);
    let path = cli.dir.path().join("out");
    cli.ok(&["key", "get", "site", "large", "-o", path.to_str().unwrap()]);
    assert!(std::fs::read(&path).unwrap() == large);
    cli.ok(&["key", "put", "site", "again", "--file", path.to_str().unwrap()]);
    assert!(cli.run(&["key", "get", "site", "again"]).out == large);
    let more = [&large[..], b"x"].concat();
    let refused = cli.run_with_input(&["key", "put", "site", "larger", "-"], &more);
    assert_eq!(refused.code, 1, "{}", refused.err);
    refused.assert_err("413");
    cli.fails(3, &["key", "get", "site", "larger"]);
}

#[test]
fn unusual_keys_are_stored_unchanged() {
    let cli = Cli::with_store();
    let keys =
        ["a/b", "50%", "a+b", "a b", "ü", "..x", "%2F", "x//y", "a&b=c", "\"q\"", "*[a]", "🐘"];
    for key in keys {
        cli.ok(&["key", "put", "site", key, key]);
        assert_eq!(cli.ok(&["key", "get", "site", key]), key);
        assert_eq!(cli.json(&["key", "head", "site", key])[0]["key"], key);
    }
    let listed = cli.ok(&["key", "list", "site"]);
    let mut sorted = keys;
    sorted.sort_unstable();
    assert_eq!(listed.lines().collect::<Vec<_>>(), sorted);
    for key in keys {
        cli.ok(&["key", "delete", "site", key, "--yes"]);
    }
    assert_eq!(cli.ok(&["key", "list", "site"]), "");
    for bad in [".", "..", "", "a?b", "a#b", "./x", "x/.."] {
        let refused = cli.fails(2, &["key", "put", "site", bad, "v"]);
        assert!(!refused.is_empty());
    }
    assert_eq!(cli.ok(&["store", "list"]).lines().count(), 1, "the store no longer exists");
}

#[test]
fn key_put_accepts_binary_metadata_and_durations() {
    let cli = Cli::with_store();
    cli.ok(&["key", "put", "site", "a", "v", "--metadata", "text/plain; ü", "--ttl", "2h"]);
    let head = cli.json(&["key", "head", "site", "a"]).remove(0);
    let fields: Vec<_> = head.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["expires", "generation", "key", "metadata", "modified", "size"]);
    assert_eq!((&head["metadata"], &head["size"]), (&json!("text/plain; ü"), &json!(1)));
    let (modified, expires) =
        (head["modified"].as_str().unwrap(), head["expires"].as_str().unwrap());
    assert!(modified < expires && modified.len() == 27 && expires.len() == 27, "{head}");
    let file = cli.write_file("metadata", b"\xe9 \xff bytes\n");
    cli.ok(&["key", "put", "site", "b", "v", "--metadata-file", &file]);
    let stored = cli.server.get(&format!("{}/keys/b", store_path(&cli)));
    assert_eq!(stored.header("Metadata"), "\u{e9} \u{ff} bytes");
    let head = cli.json(&["key", "head", "site", "b"]).remove(0);
    assert_eq!(head["metadata_base64"], BASE64_STANDARD.encode(b"\xe9 \xff bytes"));
    assert_eq!((&head["expires"], head.get("metadata")), (&json!(null), None));
    let text = cli.ok(&["key", "head", "site", "a"]);
    assert!(text.contains("metadata    text/plain; ü\n") && text.contains("size        1\n"));
    let file = cli.write_file("lines", b"a\nb\n");
    let refused = cli.fails(2, &["key", "put", "site", "c", "v", "--metadata-file", &file]);
    assert!(refused.contains("control characters"), "{refused}");
    cli.fails(2, &["key", "put", "site", "c", "v", "--ttl", "soon"]);
    cli.fails(2, &["key", "put", "site", "c", "v", "--metadata", &"x".repeat(2001)]);
    cli.fails(3, &["key", "head", "site", "c"]);
}

/// Returns the path of the store `site` in the API.
fn store_path(cli: &Cli) -> String {
    let id = cli.json(&["store", "describe", "site"])[0]["id"].as_str().unwrap().to_owned();
    format!("/resources/stores/kv/{id}")
}

#[test]
fn a_failed_precondition_exits_with_4() {
    let cli = Cli::with_store();
    cli.ok(&["key", "put", "site", "a", "b", "--add"]);
    let exists = cli.fails(4, &["key", "put", "site", "a", "x", "--add"]);
    assert!(exists.contains("item \"a\" of store \"site\""), "{exists}");
    cli.ok(&["key", "put", "site", "a", "c", "--append"]);
    cli.ok(&["key", "put", "site", "a", "a", "--prepend"]);
    assert_eq!(cli.ok(&["key", "get", "site", "a"]), "abc");
    let generation = cli.json(&["key", "head", "site", "a"])[0]["generation"].to_string();
    let matching = ["--if-generation-match", &generation];
    cli.ok(&[&["key", "put", "site", "a", "new"], &matching[..]].concat());
    cli.fails(4, &[&["key", "put", "site", "a", "newer"], &matching[..]].concat());
    cli.fails(4, &["key", "put", "site", "a", "x", "--if-generation-match", "0"]);
    cli.fails(4, &[&["key", "delete", "site", "a", "--yes"], &matching[..]].concat());
    assert_eq!(cli.ok(&["key", "get", "site", "a"]), "new");
    cli.fails(2, &["key", "put", "site", "a", "x", "--add", "--append"]);
    cli.fails(2, &["key", "put", "site", "a"]);
    cli.fails(2, &["key", "put", "site", "a", "x", "--file", "y"]);
}

#[test]
fn a_missing_item_or_store_is_named_in_the_error_and_exits_with_3() {
    let cli = Cli::with_store();
    for command in ["get", "head"] {
        let missing = cli.fails(3, &["key", command, "site", "nothing"]);
        assert!(missing.contains("item \"nothing\" of store \"site\""), "{missing}");
        let missing = cli.fails(3, &["key", command, "nowhere", "a"]);
        assert!(missing.contains("\"nowhere\""), "{missing}");
    }
    let out = cli.dir.path().join("out");
    cli.fails(3, &["key", "get", "site", "nothing", "-o", out.to_str().unwrap()]);
    assert_eq!(std::fs::read_dir(cli.dir.path()).unwrap().count(), 0, "a failed get left a file");
    let missing = cli.fails(1, &["key", "put", "site", "a", "--file", "/no/such/file"]);
    assert!(missing.contains("/no/such/file"), "{missing}");
}

#[test]
fn key_get_json_prints_the_value_in_base64_and_the_properties() {
    let cli = Cli::with_store();
    for size in [0, 1, 2, 3, 100_001] {
        let value: Vec<u8> = (0..=255).rev().cycle().take(size).collect();
        let put = cli.run_with_input(&["key", "put", "site", "k", "-", "--metadata", "}"], &value);
        assert_eq!(put.code, 0, "{}", put.err);
        let got = cli.json(&["key", "get", "site", "k"]).remove(0);
        assert_eq!(got["value"], BASE64_STANDARD.encode(&value));
        assert_eq!((&got["size"], &got["metadata"]), (&json!(size), &json!("}")));
        assert!(got["generation"].is_u64() && got["modified"].is_string(), "{got}");
    }
    let put = cli.json(&["key", "put", "site", "k", "v"]).remove(0);
    assert_eq!((&put["store"], &put["key"]), (&json!("site"), &json!("k")));
}

#[test]
fn key_get_writes_to_devices_without_replacing_them() {
    let cli = Cli::with_store();
    cli.ok(&["key", "put", "site", "a", "Hello"]);
    cli.ok(&["key", "get", "site", "a", "-o", "/dev/null"]);
    assert!(!std::path::Path::new("/dev/null").is_file());
    assert_eq!(cli.ok(&["key", "get", "site", "a", "-o", "-"]), "Hello");
}

#[test]
fn key_put_writes_nothing_if_the_input_is_unreadable_or_the_store_is_missing() {
    let cli = Cli::with_store();
    let mut refused = cli.command(&["key", "put", "site", "a", "--file", "/"]);
    assert_eq!(run(&mut refused).code, 1);
    let output = run_with_input(cli.command(&["key", "put", "nowhere", "a", "-"]), &[0; 1 << 20]);
    assert_eq!(output.code, 3, "{}", output.err);
    assert_eq!(cli.ok(&["key", "list", "site"]), "");
}

#[test]
fn files_that_report_a_wrong_size_are_written_completely() {
    let cli = Cli::with_store();
    // Files report a size of 0 in /proc and of 4096 in /sys.
    let sys = ["/sys/devices/system/cpu/possible", "/sys/kernel/mm/transparent_hugepage/enabled"];
    let sys = sys.into_iter().find(|file| std::path::Path::new(file).is_file());
    for file in ["/proc/version", "/proc/filesystems"].into_iter().chain(sys) {
        cli.ok(&["key", "put", "site", "a", "--file", file]);
        let read = std::fs::read(file).unwrap();
        assert!(!read.is_empty() && cli.run(&["key", "get", "site", "a"]).out == read, "{file}");
    }
    for size in [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let value: Vec<u8> = (0..=255).cycle().take(size).collect();
        let file = cli.write_file("value", &value);
        cli.ok(&["key", "put", "site", "a", "--file", &file]);
        assert!(cli.run(&["key", "get", "site", "a"]).out == value, "{size}");
        cli.run_with_input(&["key", "put", "site", "b", "-"], &value);
        assert!(cli.run(&["key", "get", "site", "b"]).out == value, "{size} from a pipe");
    }
}
