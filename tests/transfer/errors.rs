//! What is wrong is told, by line and key, with the exit status that means it; the rest goes on.

use crate::support::Server;
use crate::{command, exported, fed, line, run, value};
use std::fs;

/// Good lines among bad ones.
fn mixed() -> String {
    let good = |key: &str| line(key, key.as_bytes(), "");
    let long = format!("{{\"key\":\"long\",\"value\":\"{}\"}}\n", "A".repeat(40 << 20));
    [
        good("one"),
        "\n".into(),
        "not JSON\n".into(),
        line("a#b", b"", ""),
        "{\"key\":\"half\",\"value\":\"*\"}\n".into(),
        good("two"),
        line("control", b"", ",\"metadata\":\"a\\nb\""),
        long,
        "{\"key\":\"no value\"}\n".into(),
        line("never", b"", ",\"time_to_live_sec\":0"),
        line("over", b"", ",\"expires\":\"2001-01-01T00:00:00.000000Z\""),
        good("three").trim_end().to_owned(),
    ]
    .concat()
}

/// The numbers of the lines of which the standard error tells.
fn numbers(told: &str) -> Vec<u64> {
    let lines = told.lines().filter_map(|line| line.strip_prefix("line "));
    let mut numbers: Vec<u64> =
        lines.map(|line| line.split([',', ':']).next().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn wrong_lines_are_told_by_number_and_key_and_the_others_are_written() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), mixed()).unwrap();
    let wrong = [3, 4, 5, 7, 8, 9, 10];

    let tried = run(server.port, dir.path(), &["import", "s", "in", "--create", "--dry-run"]);
    let tried = tried.ends(1);
    assert_eq!(numbers(&tried.err), wrong, "{}", tried.err);
    assert!(tried.err.contains("3 items of in could be written, 1 are over, 7 are wrong"));
    assert!(tried.err.contains("to be made"), "{}", tried.err);
    run(server.port, dir.path(), &["import", "s", "in", "--dry-run"]).ends(3);

    let done = run(server.port, dir.path(), &["import", "s", "in", "--create"]).ends(1);
    assert_eq!(numbers(&done.err), wrong, "{}", done.err);
    assert!(done.err.contains("3 written, 1 skipped, 7 failed"), "{}", done.err);
    assert!(done.err.contains("line 4, key \"a#b\": key must not contain '#'"), "{}", done.err);
    assert!(!dir.path().join("in.resume").exists(), "there is nothing to go on with");

    let args = ["import", "s", "in", "--report", "report", "--json"];
    let done = run(server.port, dir.path(), &args).ends(1);
    assert!(numbers(&done.err).is_empty(), "{}", done.err);
    let told: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((told["written"].as_u64(), told["failed"].as_u64()), (Some(3), Some(7)), "{told}");
    let report = fs::read_to_string(dir.path().join("report")).unwrap();
    let mut told: Vec<u64> = report
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["line"].as_u64())
        .map(Option::unwrap)
        .collect();
    told.sort_unstable();
    assert_eq!(told, wrong);
    assert_eq!(exported(&server, "s").lines().count(), 3);
}

#[test]
fn items_that_are_there_are_skipped_replaced_or_told() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.store("s");
    let import = |what: &str, value: &[u8]| {
        let lines = [line("a", value, ""), line(what, value, ""), line("c", value, "")].concat();
        fed(server.port, dir.path(), &["import", "s", "-", "--if-exists", what], lines.as_bytes())
    };
    assert!(import("fail", b"1").ends(0).err.contains("3 written"));
    let told = import("skip", b"2").ends(0);
    assert!(told.err.contains("1 written, 2 skipped, 0 failed"), "{}", told.err);
    let told = import("fail", b"3").ends(4);
    assert!(told.err.contains("0 written, 0 skipped, 3 failed"), "{}", told.err);
    assert!(told.err.contains("line 3, key \"c\": the item exists"), "{}", told.err);
    assert_eq!(value(&server, &store, "a").unwrap(), b"1");
    import("overwrite", b"4").ends(0);
    assert_eq!(value(&server, &store, "a").unwrap(), b"4");
    assert_eq!(value(&server, &store, "skip").unwrap(), b"2");
    // A bad line beside one that is there is a failure of the other kind.
    let lines = [line("a", b"", ""), "?\n".into()].concat();
    let args = ["import", "s", "-", "--if-exists", "fail", "--format", "ndjson"];
    fed(server.port, dir.path(), &args, lines.as_bytes()).ends(1);
}

#[test]
fn each_mistake_has_its_exit_status_and_changes_nothing() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.store("s");
    fs::write(dir.path().join("in.ndjson"), line("k", b"v", "")).unwrap();
    fs::write(dir.path().join("there"), "precious").unwrap();
    fs::write(dir.path().join("bad.zst"), "precious").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::create_dir_all(dir.path().join("out/s/precious")).unwrap();
    for (args, code, word) in [
        (&["import", "s"][..], 2, "only a fastly.toml names its stores"),
        (&["import", "s", "none"], 1, "none: "),
        (&["import", "none", "in.ndjson"], 3, "no store has the name or id"),
        (&["import", "s", "-", "--resume"], 2, "--resume"),
        (&["import", "s", "-", "--state", "x"], 2, "--state"),
        (&["import", "s", "there"], 1, "--format"),
        (&["import", "s", "bad.zst"], 1, "cannot be read"),
        (&["import", "s", "folder", "--format", "csv"], 1, "is a folder"),
        (&["import", "s", "in.ndjson", "--state", "no/such"], 1, "no/such"),
        (&["import", "none.toml"], 1, "none.toml"),
        (&["export", "none"], 3, "no store"),
        (&["export", "s", "-o", "there"], 4, "--force"),
        (&["export", "s", "-o", "no/such/file"], 1, "no/such/file"),
        (&["export", "s", "-o", "folder", "--force"], 2, "folder"),
        (&["export", "s", "folder"], 2, "--to viceroy"),
        (&["export", "s", "--json"], 2, "-o FILE"),
        (&["export", "s", "--to", "viceroy"], 2, "DIR"),
        (&["export", "s", "--to", "viceroy", "out"], 4, "--force"),
        (&["export", "s", "--to", "viceroy", "out", "--force"], 1, "no export"),
        (&["sync", "s", "s"], 2, "the same store"),
        (&["sync", "s", "none"], 3, "no store"),
        (&["sync", "s", "s@https://kv.example.com"], 5, "--to-token-file"),
        (&["sync", "s@http://127.0.0.1:1", "s"], 5, "--from-token-file"),
    ] {
        let told = run(server.port, dir.path(), args);
        assert_eq!(told.code, code, "{args:?}: {}", told.err);
        assert!(told.err.contains(word), "{args:?}: {}", told.err);
    }
    for args in [&["import", "s", "in.ndjson"][..], &["export", "s"], &["sync", "s", "t"]] {
        let mut alone = command(server.port, dir.path(), args);
        assert_eq!(alone.env_remove("FASTLY_API_TOKEN").status().unwrap().code(), Some(5));
        let mut other = command(server.port, dir.path(), args);
        other.env("FASTLY_API_TOKEN", "a-token-nobody-knows");
        assert_eq!(other.status().unwrap().code(), Some(5));
        assert_eq!(run(1, dir.path(), args).code, 6);
    }
    assert_eq!(exported(&server, "s"), "");
    assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"precious");
    assert!(dir.path().join("out/s/precious").exists());
    run(server.port, dir.path(), &["export", "s", "-o", "there", "--force"]).ends(0);
    assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"");
}
