//! Tests that an export of an imported file has the same bytes as the file.

use crate::support::{DiskServer, Server};
use crate::{export, line, numbered_lines, pipe, run, stamp};
use std::fs;

/// Returns an export line for every kind of item, in key order.
fn every_kind_of_item() -> String {
    let far = ",\"expires\":\"2101-02-03T04:05:06.789012Z\"";
    let raw: Vec<u8> = [b'x', b'\t']
        .into_iter()
        .chain((0x20..=0xff).filter(|b| *b != 0x7f))
        .chain([b'x'])
        .collect();
    let compressed = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, raw);
    let large: Vec<u8> = (0..25_u32 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let long = "l".repeat(1024);
    let mut lines = vec![
        line("//", b"slashes", &stamp(1)),
        line("a b+c%2F&=\"\\'", b"\x00\xff", &format!(",\"metadata\":\"m \\\" é\"{}", stamp(2))),
        line("empty", b"", &stamp(3)),
        line("expiring", b"v", &format!("{far}{}", stamp(4))),
        line("raw", b"v", &format!(",\"metadata_base64\":\"{compressed}\"{far}{}", stamp(5))),
        line("size-25M", &large, &stamp(6)),
        line("size-300K", &vec![7; 300 << 10], &stamp(7)),
        line(&long, b"long", &stamp(8)),
        line("tab\tnew\u{2028}", b"v", &stamp(9)),
        line("ü\u{10ffff}", b"v", &stamp(10)),
    ];
    let key = |line: &String| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["key"].as_str().unwrap().to_owned()
    };
    lines.extend(numbered_lines(20_000, 10).split_inclusive('\n').map(str::to_owned));
    lines.sort_by_cached_key(key);
    lines.concat()
}

#[test]
fn an_export_of_an_import_has_the_same_bytes() {
    let disk = DiskServer::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| run(disk.server.port, dir.path(), args).expect_exit(0);
    let text = every_kind_of_item();
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    let output = at(&["import", "one", "in.ndjson", "--create"]);
    output.assert_err("imported 20010 items, 0 skipped, 0 failed");
    assert!(!dir.path().join("in.ndjson.resume").exists());
    at(&["export", "one", "-o", "one.ndjson"]);
    let one = fs::read(dir.path().join("one.ndjson")).unwrap();
    assert!(one == text.as_bytes(), "the export differs from the input");
    // Export to a compressed file, and import it into another server.
    at(&["export", "one", "-o", "one.ndjson.zst"]);
    let compressed = fs::metadata(dir.path().join("one.ndjson.zst")).unwrap().len();
    assert!(compressed < text.len() as u64 / 2, "{compressed}");
    let other = Server::memory(&[]);
    run(other.port, dir.path(), &["import", "two", "one.ndjson.zst", "--create"]).expect_exit(0);
    assert!(export(&other, "two") == text, "the second export differs");
    // Export the items with one key prefix through a pipe.
    let part = at(&["export", "one", "--prefix", "key-0001"]).text();
    assert_eq!(part.lines().count(), 10_000);
    let output =
        pipe(other.port, dir.path(), &["import", "three", "-", "--create"], part.as_bytes());
    assert!(output.expect_exit(0).err.contains("imported 10000 items"));
    assert!(export(&other, "three") == part);
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files.len(), 3, "unexpected files: {files:?}");
}

#[test]
fn the_last_line_with_a_key_wins_even_if_uploads_run_in_parallel() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let round = |nth: u8| -> String {
        let value = vec![nth; 5000];
        (0..1000).map(|key| line(&format!("k{key:04}"), &value, "")).collect()
    };
    let text: String = (0..8).map(round).collect();
    fs::write(dir.path().join("in.ndjson"), text).unwrap();
    run(server.port, dir.path(), &["import", "s", "in.ndjson", "--create", "-j", "16"])
        .expect_exit(0);
    let last = line("", &[7; 5000], "");
    let value = last.split("\"value\"").nth(1).unwrap().trim_end().trim_end_matches('}');
    let all = export(&server, "s");
    assert_eq!(all.lines().count(), 1000);
    assert!(all.lines().all(|line| line.contains(value)), "an earlier line replaced the last one");
}
