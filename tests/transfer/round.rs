//! Out and in again: the same bytes.

use crate::support::{Home, Server};
use crate::{exported, fed, line, many, run, stamp};
use std::fs;

/// Lines of all kinds of items, in the order of their keys.
fn odd() -> String {
    let far = ",\"expires\":\"2101-02-03T04:05:06.789012Z\"";
    let raw: Vec<u8> = [b'x', b'\t']
        .into_iter()
        .chain((0x20..=0xff).filter(|b| *b != 0x7f))
        .chain([b'x'])
        .collect();
    let packed = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, raw);
    let large: Vec<u8> = (0..25_u32 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let long = "l".repeat(1024);
    let mut lines = vec![
        line("//", b"slashes", &stamp(1)),
        line("a b+c%2F&=\"\\'", b"\x00\xff", &format!(",\"metadata\":\"m \\\" é\"{}", stamp(2))),
        line("empty", b"", &stamp(3)),
        line("mortal", b"v", &format!("{far}{}", stamp(4))),
        line("raw", b"v", &format!(",\"metadata_base64\":\"{packed}\"{far}{}", stamp(5))),
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
    lines.extend(many(20_000, 10).split_inclusive('\n').map(str::to_owned));
    lines.sort_by_cached_key(key);
    lines.concat()
}

#[test]
fn what_goes_out_and_in_again_has_the_same_bytes() {
    let home = Home::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| run(home.server.port, dir.path(), args).ends(0);
    let text = odd();
    fs::write(dir.path().join("in.ndjson"), &text).unwrap();
    let told = at(&["import", "one", "in.ndjson", "--create"]);
    assert!(told.err.contains("20010 written, 0 skipped, 0 failed"), "{}", told.err);
    assert!(!dir.path().join("in.ndjson.resume").exists());
    at(&["export", "one", "-o", "one.ndjson"]);
    let one = fs::read(dir.path().join("one.ndjson")).unwrap();
    assert!(one == text.as_bytes(), "the export has what was imported");
    // Once more, compressed, into another server.
    at(&["export", "one", "-o", "one.ndjson.zst"]);
    let packed = fs::metadata(dir.path().join("one.ndjson.zst")).unwrap().len();
    assert!(packed < text.len() as u64 / 2, "{packed}");
    let other = Server::memory(&[]);
    run(other.port, dir.path(), &["import", "two", "one.ndjson.zst", "--create"]).ends(0);
    assert!(exported(&other, "two") == text, "the second export has the same bytes");
    // A part of it, by a pipe.
    let part = at(&["export", "one", "--prefix", "key-0001"]).out;
    assert_eq!(part.lines().count(), 10_000);
    let told = fed(other.port, dir.path(), &["import", "three", "-", "--create"], part.as_bytes());
    assert!(told.ends(0).err.contains("10000 written"));
    assert!(exported(&other, "three") == part);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing else is left: {left:?}");
}

#[test]
fn the_last_line_of_a_key_stays_however_many_are_sent_at_once() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let round = |nth: u8| -> String {
        let value = vec![nth; 5000];
        (0..1000).map(|key| line(&format!("k{key:04}"), &value, "")).collect()
    };
    let text: String = (0..8).map(round).collect();
    fs::write(dir.path().join("in.ndjson"), text).unwrap();
    run(server.port, dir.path(), &["import", "s", "in.ndjson", "--create", "-j", "16"]).ends(0);
    let last = line("", &[7; 5000], "");
    let value = last.split("\"value\"").nth(1).unwrap().trim_end().trim_end_matches('}');
    let all = exported(&server, "s");
    assert_eq!(all.lines().count(), 1000);
    assert!(all.lines().all(|line| line.contains(value)), "the last round stays");
}
