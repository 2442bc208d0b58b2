//! `steadfast key put`, `get` and `head`.

use crate::{Site, feed, of};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn values_come_from_an_argument_a_file_or_the_standard_input_byte_for_byte() {
    let site = Site::with_store();
    site.ok(&["key", "put", "site", "a", "Hello"]);
    assert_eq!(site.ok(&["key", "get", "site", "a"]), "Hello");
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let file = site.file("binary", &binary);
    site.ok(&["key", "put", "site", "b", "--file", &file]);
    assert_eq!(site.run(&["key", "get", "site", "b"]).out, binary);
    for args in [&["key", "put", "site", "c", "-"][..], &["key", "put", "site", "d", "--file", "-"]]
    {
        let fed = site.feed(args, &binary);
        assert_eq!(fed.code, 0, "{}", fed.err);
        assert_eq!(site.run(&["key", "get", "site", args[3]]).out, binary);
    }
    for (key, args) in [("e", &[""][..]), ("f", &["--file", "/dev/null"])] {
        site.ok(&[&["key", "put", "site", key], args].concat());
        assert_eq!(site.ok(&["key", "get", "site", key]), "", "an empty value is a value");
    }
    let mut raw = site.command(&["key", "put", "site", "g"]);
    raw.arg(OsStr::from_bytes(b"\xff\xfe"));
    assert_eq!(of(raw.output().unwrap()).code, 0);
    assert_eq!(site.run(&["key", "get", "site", "g"]).out, b"\xff\xfe");
    site.ok(&["key", "put", "site", "h", "--", "-5"]);
    assert_eq!(site.ok(&["key", "get", "site", "h"]), "-5");
}

#[test]
fn a_value_of_25_mb_goes_in_and_out_by_pipe_and_by_file() {
    let site = Site::with_store();
    let large: Vec<u8> = (0u32..25 << 18).flat_map(u32::to_le_bytes).collect();
    assert_eq!(large.len(), 25 << 20);
    let fed = site.feed(&["key", "put", "site", "large", "-"], &large);
    assert_eq!(fed.code, 0, "{}", fed.err);
    assert!(site.run(&["key", "get", "site", "large"]).out == large);
    let path = site.dir.path().join("out");
    site.ok(&["key", "get", "site", "large", "-o", path.to_str().unwrap()]);
    assert!(std::fs::read(&path).unwrap() == large);
    site.ok(&["key", "put", "site", "again", "--file", path.to_str().unwrap()]);
    assert!(site.run(&["key", "get", "site", "again"]).out == large);
    let more = [&large[..], b"x"].concat();
    let refused = site.feed(&["key", "put", "site", "larger", "-"], &more);
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("413"), "{}", refused.err);
    site.fails(3, &["key", "get", "site", "larger"]);
}

#[test]
fn odd_keys_arrive_as_they_are() {
    let site = Site::with_store();
    let keys =
        ["a/b", "50%", "a+b", "a b", "ü", "..x", "%2F", "x//y", "a&b=c", "\"q\"", "*[a]", "🐘"];
    for key in keys {
        site.ok(&["key", "put", "site", key, key]);
        assert_eq!(site.ok(&["key", "get", "site", key]), key);
        assert_eq!(site.json(&["key", "head", "site", key])[0]["key"], key);
    }
    let listed = site.ok(&["key", "list", "site"]);
    let mut sorted = keys;
    sorted.sort_unstable();
    assert_eq!(listed.lines().collect::<Vec<_>>(), sorted);
    for key in keys {
        site.ok(&["key", "delete", "site", key, "--yes"]);
    }
    assert_eq!(site.ok(&["key", "list", "site"]), "");
    for bad in [".", "..", "", "a?b", "a#b", "./x", "x/.."] {
        let refused = site.fails(2, &["key", "put", "site", bad, "v"]);
        assert!(!refused.is_empty());
    }
    assert_eq!(site.ok(&["store", "list"]).lines().count(), 1, "the store is still there");
}

#[test]
fn metadata_is_bytes_and_times_to_live_are_as_people_write_them() {
    let site = Site::with_store();
    site.ok(&["key", "put", "site", "a", "v", "--metadata", "text/plain; ü", "--ttl", "2h"]);
    let head = site.json(&["key", "head", "site", "a"]).remove(0);
    let fields: Vec<_> = head.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["expires", "generation", "key", "metadata", "modified", "size"]);
    assert_eq!((&head["metadata"], &head["size"]), (&json!("text/plain; ü"), &json!(1)));
    let (modified, expires) =
        (head["modified"].as_str().unwrap(), head["expires"].as_str().unwrap());
    assert!(modified < expires && modified.len() == 27 && expires.len() == 27, "{head}");
    let file = site.file("metadata", b"\xe9 \xff bytes\n");
    site.ok(&["key", "put", "site", "b", "v", "--metadata-file", &file]);
    let stored = site.server.ask(&format!("GET {}/keys/b", path(&site)), &[], b"");
    assert_eq!(stored.field("Metadata"), "\u{e9} \u{ff} bytes");
    let head = site.json(&["key", "head", "site", "b"]).remove(0);
    assert_eq!(head["metadata_base64"], BASE64_STANDARD.encode(b"\xe9 \xff bytes"));
    assert_eq!((&head["expires"], head.get("metadata")), (&json!(null), None));
    let shown = site.ok(&["key", "head", "site", "a"]);
    assert!(shown.contains("metadata    text/plain; ü\n") && shown.contains("size        1\n"));
    let file = site.file("lines", b"a\nb\n");
    let refused = site.fails(2, &["key", "put", "site", "c", "v", "--metadata-file", &file]);
    assert!(refused.contains("control characters"), "{refused}");
    site.fails(2, &["key", "put", "site", "c", "v", "--ttl", "soon"]);
    site.fails(2, &["key", "put", "site", "c", "v", "--metadata", &"x".repeat(2001)]);
    site.fails(3, &["key", "head", "site", "c"]);
}

/// The path of the store `site`.
fn path(site: &Site) -> String {
    let id = site.json(&["store", "describe", "site"])[0]["id"].as_str().unwrap().to_owned();
    format!("/resources/stores/kv/{id}")
}

#[test]
fn conditions_are_kept_and_unmet_ones_end_with_4() {
    let site = Site::with_store();
    site.ok(&["key", "put", "site", "a", "b", "--add"]);
    let exists = site.fails(4, &["key", "put", "site", "a", "x", "--add"]);
    assert!(exists.contains("item \"a\" of store \"site\""), "{exists}");
    site.ok(&["key", "put", "site", "a", "c", "--append"]);
    site.ok(&["key", "put", "site", "a", "a", "--prepend"]);
    assert_eq!(site.ok(&["key", "get", "site", "a"]), "abc");
    let generation = site.json(&["key", "head", "site", "a"])[0]["generation"].to_string();
    let matching = ["--if-generation-match", &generation];
    site.ok(&[&["key", "put", "site", "a", "new"], &matching[..]].concat());
    site.fails(4, &[&["key", "put", "site", "a", "newer"], &matching[..]].concat());
    site.fails(4, &["key", "put", "site", "a", "x", "--if-generation-match", "0"]);
    site.fails(4, &[&["key", "delete", "site", "a", "--yes"], &matching[..]].concat());
    assert_eq!(site.ok(&["key", "get", "site", "a"]), "new");
    site.fails(2, &["key", "put", "site", "a", "x", "--add", "--append"]);
    site.fails(2, &["key", "put", "site", "a"]);
    site.fails(2, &["key", "put", "site", "a", "x", "--file", "y"]);
}

#[test]
fn what_is_not_there_ends_with_3_and_says_what() {
    let site = Site::with_store();
    for command in ["get", "head"] {
        let missing = site.fails(3, &["key", command, "site", "nothing"]);
        assert!(missing.contains("item \"nothing\" of store \"site\""), "{missing}");
        let missing = site.fails(3, &["key", command, "nowhere", "a"]);
        assert!(missing.contains("\"nowhere\""), "{missing}");
    }
    let out = site.dir.path().join("out");
    site.fails(3, &["key", "get", "site", "nothing", "-o", out.to_str().unwrap()]);
    assert_eq!(std::fs::read_dir(site.dir.path()).unwrap().count(), 0, "no file is left behind");
    let missing = site.fails(1, &["key", "put", "site", "a", "--file", "/no/such/file"]);
    assert!(missing.contains("/no/such/file"), "{missing}");
}

#[test]
fn a_value_in_json_is_base64_beside_what_is_known_of_it() {
    let site = Site::with_store();
    for size in [0, 1, 2, 3, 100_001] {
        let value: Vec<u8> = (0..=255).rev().cycle().take(size).collect();
        let put = site.feed(&["key", "put", "site", "k", "-", "--metadata", "}"], &value);
        assert_eq!(put.code, 0, "{}", put.err);
        let got = site.json(&["key", "get", "site", "k"]).remove(0);
        assert_eq!(got["value"], BASE64_STANDARD.encode(&value));
        assert_eq!((&got["size"], &got["metadata"]), (&json!(size), &json!("}")));
        assert!(got["generation"].is_u64() && got["modified"].is_string(), "{got}");
    }
    let put = site.json(&["key", "put", "site", "k", "v"]).remove(0);
    assert_eq!((&put["store"], &put["key"]), (&json!("site"), &json!("k")));
}

#[test]
fn what_is_no_file_is_written_to_and_not_replaced() {
    let site = Site::with_store();
    site.ok(&["key", "put", "site", "a", "Hello"]);
    site.ok(&["key", "get", "site", "a", "-o", "/dev/null"]);
    assert!(!std::path::Path::new("/dev/null").is_file());
    assert_eq!(site.ok(&["key", "get", "site", "a", "-o", "-"]), "Hello");
}

#[test]
fn an_input_that_cannot_be_read_or_has_no_store_writes_nothing() {
    let site = Site::with_store();
    let mut refused = site.command(&["key", "put", "site", "a", "--file", "/"]);
    assert_eq!(of(refused.output().unwrap()).code, 1);
    let fed = feed(site.command(&["key", "put", "nowhere", "a", "-"]), &[0; 1 << 20]);
    assert_eq!(fed.code, 3, "{}", fed.err);
    assert_eq!(site.ok(&["key", "list", "site"]), "");
}
