//! Tests of failures of import, export and sync. Rejected lines are reported by number and key
//! while the other lines are imported, and each kind of error has its own exit status.

use crate::proxy::{self, Faults};
use crate::support::Server;
use crate::{command, export, line, pipe, run, value};
use std::fs;

/// Returns an input with valid and invalid lines.
fn valid_and_invalid_lines() -> String {
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

/// Returns the line numbers reported on standard error, in ascending order.
fn reported_lines(output: &str) -> Vec<u64> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("line "));
    let mut reported_lines: Vec<u64> =
        lines.map(|line| line.split([',', ':']).next().unwrap().parse().unwrap()).collect();
    reported_lines.sort_unstable();
    reported_lines
}

#[test]
fn invalid_lines_are_reported_and_valid_lines_are_written() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), valid_and_invalid_lines()).unwrap();
    let invalid = [3, 4, 5, 7, 8, 9, 10];

    let dry_run = run(server.port, dir.path(), &["import", "s", "in", "--create", "--dry-run"]);
    let dry_run = dry_run.expect_exit(1);
    assert_eq!(reported_lines(&dry_run.err), invalid, "{}", dry_run.err);
    dry_run.assert_err("would import 3 items, 1 expired, 7 invalid");
    dry_run.assert_err("to be created");
    run(server.port, dir.path(), &["import", "s", "in", "--dry-run"]).expect_exit(3);

    let done = run(server.port, dir.path(), &["import", "s", "in", "--create"]).expect_exit(1);
    assert_eq!(reported_lines(&done.err), invalid, "{}", done.err);
    done.assert_err("imported 3 items, 1 skipped, 7 failed");
    done.assert_err("line 4, key \"a#b\": key must not contain '#'");
    assert!(!dir.path().join("in.resume").exists(), "a complete import left its resume file");

    let args = ["import", "s", "in", "--report", "report", "--json"];
    let done = run(server.port, dir.path(), &args).expect_exit(1);
    assert!(reported_lines(&done.err).is_empty(), "{}", done.err);
    let summary: serde_json::Value = serde_json::from_str(&done.text()).unwrap();
    assert_eq!((&summary["written"], &summary["failed"]), (&3.into(), &7.into()), "{summary}");
    let report = fs::read_to_string(dir.path().join("report")).unwrap();
    let mut lines: Vec<u64> = report
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["line"].as_u64())
        .map(Option::unwrap)
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, invalid);
    assert_eq!(export(&server, "s").lines().count(), 3);
}

#[test]
fn if_exists_determines_the_treatment_of_existing_items() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.create_store("s");
    let import = |mode: &str, value: &[u8]| {
        let lines = [line("a", value, ""), line(mode, value, ""), line("c", value, "")].concat();
        pipe(server.port, dir.path(), &["import", "s", "-", "--if-exists", mode], lines.as_bytes())
    };
    assert!(import("fail", b"1").expect_exit(0).err.contains("imported 3 items"));
    let output = import("skip", b"2").expect_exit(0);
    output.assert_err("imported 1 item, 2 skipped, 0 failed");
    let output = import("fail", b"3").expect_exit(4);
    output.assert_err("imported 0 items, 0 skipped, 3 failed");
    output.assert_err("line 3, key \"c\": the item exists");
    assert_eq!(value(&server, &store, "a").unwrap(), b"1");
    import("overwrite", b"4").expect_exit(0);
    assert_eq!(value(&server, &store, "a").unwrap(), b"4");
    assert_eq!(value(&server, &store, "skip").unwrap(), b"2");
    // For the exit status, an invalid line takes precedence over an existing item.
    let lines = [line("a", b"", ""), "?\n".into()].concat();
    let args = ["import", "s", "-", "--if-exists", "fail", "--format", "ndjson"];
    pipe(server.port, dir.path(), &args, lines.as_bytes()).expect_exit(1);
}

#[test]
fn each_kind_of_error_has_its_own_exit_status_and_writes_nothing() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    fs::write(dir.path().join("in.ndjson"), line("k", b"v", "")).unwrap();
    fs::write(dir.path().join("there"), "precious").unwrap();
    fs::write(dir.path().join("bad.zst"), "precious").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::create_dir_all(dir.path().join("out/s/precious")).unwrap();
    for (args, code, word) in [
        (&["import", "s"][..], 2, "STORE is required"),
        (&["import", "s", "none"], 1, "none: "),
        (&["import", "none", "in.ndjson"], 3, "no store with name or id"),
        (&["import", "s", "-", "--resume"], 2, "--resume"),
        (&["import", "s", "-", "--state", "x"], 2, "--state"),
        (&["import", "s", "there"], 1, "--format"),
        (&["import", "s", "bad.zst"], 1, "cannot be read"),
        (&["import", "s", "folder", "--format", "csv"], 1, "is a directory"),
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
        (&["export", "s", "--to", "viceroy", "out", "--force"], 1, "not an export"),
        (&["sync", "s", "s"], 2, "the same store"),
        (&["sync", "s", "none"], 3, "no store"),
        (&["sync", "s", "s@https://kv.example.com"], 5, "--to-token-file"),
        (&["sync", "s@http://127.0.0.1:1", "s"], 5, "--from-token-file"),
    ] {
        let output = run(server.port, dir.path(), args);
        assert_eq!(output.code, code, "{args:?}: {}", output.err);
        assert!(output.err.contains(word), "{args:?}: {}", output.err);
    }
    for args in [&["import", "s", "in.ndjson"][..], &["export", "s"], &["sync", "s", "t"]] {
        let mut without_token = command(server.port, dir.path(), args);
        assert_eq!(without_token.env_remove("FASTLY_API_TOKEN").status().unwrap().code(), Some(5));
        let mut wrong_token = command(server.port, dir.path(), args);
        wrong_token.env("FASTLY_API_TOKEN", "a-token-nobody-knows");
        assert_eq!(wrong_token.status().unwrap().code(), Some(5));
        assert_eq!(run(1, dir.path(), args).code, 6);
    }
    assert_eq!(export(&server, "s"), "");
    assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"precious");
    assert!(dir.path().join("out/s/precious").exists());
    run(server.port, dir.path(), &["export", "s", "-o", "there", "--force"]).expect_exit(0);
    assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"");
}

#[test]
fn permanent_errors_do_not_suggest_resuming() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    let lines: String = (0..20_000).map(|nth| line(&format!("k{nth}"), b"", "")).collect();
    let broken = [zstd::encode_all(lines.as_bytes(), 1).unwrap(), b"garbage".to_vec()].concat();
    fs::write(dir.path().join("in.ndjson.zst"), broken).unwrap();
    let output = run(server.port, dir.path(), &["import", "s", "in.ndjson.zst"]).expect_exit(1);
    output.assert_err("import incomplete: correct the error, and start over without --resume");
    run(1, dir.path(), &["import", "s", "in.ndjson.zst"]).expect_exit(6);
}

#[test]
fn line_numbers_are_reported_only_for_line_based_formats() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    fs::create_dir(dir.path().join("site")).unwrap();
    fs::write(dir.path().join("site/a#b"), "").unwrap();
    fs::write(dir.path().join("kv.json"), "{\"a#b\":\"v\"}").unwrap();
    fs::write(
        dir.path().join("fastly.toml"),
        "[local_server.kv_stores]\ns = [{ key = \"a#b\", data = \"v\" }, { data = \"v\" }]\n",
    )
    .unwrap();
    for input in [&["s", "site"][..], &["s", "kv.json"], &["fastly.toml"]] {
        for more in [&[][..], &["--dry-run"], &["--report", "report"]] {
            let args = [&["import"], input, more].concat();
            let output = run(server.port, dir.path(), &args).expect_exit(1);
            assert!(!output.err.contains("line "), "{args:?}: {}", output.err);
            let reported = more.first() == Some(&"--report");
            assert_eq!(output.err.contains("key \"a#b\": key must not"), !reported, "{args:?}");
            let without_key = input == ["fastly.toml"] && !reported;
            assert_eq!(output.err.contains("item without a key"), without_key, "{args:?}");
        }
        let report = fs::read_to_string(dir.path().join("report")).unwrap();
        assert!(report.contains("a#b") && !report.contains("\"line\""), "{report}");
    }
    // The position within a line is reported as a column.
    let args = ["import", "s", "-", "--format", "ndjson"];
    let output = pipe(server.port, dir.path(), &args, b"{\"key\":}\n").expect_exit(1);
    output.assert_err("line 1: line must be a JSON object: expected value at column 8");
    let output = pipe(server.port, dir.path(), &args, b"[1]\n").expect_exit(1);
    output.assert_err("line 1: line must be a JSON object (400)");
}

#[test]
fn times_after_the_year_9999_in_utc_are_refused() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.create_store("s");
    for field in ["modified", "expires"] {
        for time in ["9999-12-31T23:59:59-01:00", "9999-12-31T00:01:00-23:59"] {
            let text = line("k", b"v", &format!(",\"{field}\":\"{time}\""));
            for more in [&["--dry-run"][..], &[]] {
                let args = [&["import", "s", "-"], more].concat();
                let output = pipe(server.port, dir.path(), &args, text.as_bytes()).expect_exit(1);
                output.assert_err("RFC 3339");
            }
            assert_eq!(value(&server, &store, "k"), None);
        }
        let text = line("k", b"v", &format!(",\"{field}\":\"9999-12-31T22:59:59.9-01:00\""));
        pipe(server.port, dir.path(), &["import", "s", "-"], text.as_bytes()).expect_exit(0);
        assert_eq!(value(&server, &store, "k").unwrap(), b"v");
        run(server.port, dir.path(), &["key", "delete", "s", "k", "--yes"]).expect_exit(0);
    }
}

#[test]
fn a_dry_run_rejects_the_generations_that_an_import_rejects() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    let generation = |generation: u64| format!(",\"generation\":{generation}");
    let lines = [
        line("zero", b"", &generation(0)),
        line("kept", b"", &generation(5)),
        line("ahead", b"", &generation((1 << 53) - 1)),
    ];
    let import = |port: u16, args: &[&str]| {
        let args = [&["import", "s", "-"][..], args].concat();
        pipe(port, dir.path(), &args, lines.concat().as_bytes())
    };
    for (args, summary) in [
        (&["--dry-run"][..], "would import 1 item, 0 expired, 2 invalid"),
        (&[], "imported 1 item, 0 skipped, 2 failed"),
    ] {
        let output = import(server.port, args).expect_exit(1);
        output.assert_err(summary);
        output.assert_err("line 1, key \"zero\": generation must be a whole number from 1");
        output.assert_err("line 3, key \"ahead\": generation must be a whole number from 1");
    }
    // The hosted API ignores the generations and assigns its own.
    let hosted = Faults { hosted_api_only: true, ..Faults::default() };
    let port = proxy::start(server.port, &hosted);
    import(port, &["--dry-run"]).expect_exit(0).assert_err("would import 3 items");
    import(port, &[]).expect_exit(0).assert_err("imported 3 items");
}
