//! Tests of the output files of imports and exports. An output file never replaces an input or
//! another file of the user. A dry run writes no files. An export directory is replaced as a whole.

use crate::support::Server;
use crate::{export, line, pipe, run};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Starts a server with a store `s`, and creates a temporary directory.
fn server_and_directory() -> (Server, tempfile::TempDir) {
    let server = Server::memory(&[]);
    server.create_store("s");
    (server, tempfile::tempdir().unwrap())
}

/// Returns the sorted names of the entries in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_import_never_overwrites_its_input() {
    let (server, dir) = server_and_directory();
    let text = line("k", b"v", "");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("in.ndjson"), &text).unwrap();
    symlink("in.ndjson", at("link")).unwrap();
    fs::hard_link(at("in.ndjson"), at("hard")).unwrap();
    fs::create_dir(at("site")).unwrap();
    fs::write(at("site/page"), "p").unwrap();
    for output in ["in.ndjson", "./in.ndjson", "link", "hard"] {
        for flag in ["--report", "--state"] {
            let output = run(server.port, dir.path(), &["import", "s", "in.ndjson", flag, output]);
            output.expect_exit(2).assert_err(flag);
        }
        let args = ["import", "s", "in.ndjson", "--dry-run", "--report", output];
        run(server.port, dir.path(), &args).expect_exit(0);
    }
    for flag in ["--report", "--state"] {
        let args = ["import", "s", "site", flag, "site/output"];
        run(server.port, dir.path(), &args).expect_exit(2).assert_err("in the input directory");
    }
    let mut from_stdin = crate::command(server.port, dir.path(), &["import", "s", "-"]);
    from_stdin.args(["--report", "link"]).stdin(fs::File::open(at("in.ndjson")).unwrap());
    crate::support::run(&mut from_stdin).expect_exit(2).assert_err("--report");
    assert_eq!(fs::read_to_string(at("in.ndjson")).unwrap(), text);
    assert_eq!(names(dir.path()), ["hard", "in.ndjson", "link", "site"]);
    assert_eq!(names(&at("site")), ["page"]);
    assert_eq!(export(&server, "s"), "");
}

#[test]
fn a_report_never_replaces_a_file_that_the_input_refers_to() {
    let (server, dir) = server_and_directory();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    // A report may replace an empty file, unless the input refers to it.
    for name in ["value", "other"] {
        write(name, "");
    }
    write("kv.json", r#"{"a":{"file":"value"}}"#);
    let manifest = "[local_server.kv_stores]\ns = [{ key = \"b\", file = \"other\" }]\n\
                    t = { file = \"kv.json\", format = \"json\" }\n";
    write("fastly.toml", manifest);
    for (input, report) in [
        (&["s", "kv.json"][..], "value"),
        (&["fastly.toml"], "other"),
        (&["fastly.toml"], "value"),
        (&["fastly.toml"], "kv.json"),
        (&["fastly.toml"], "fastly.toml"),
    ] {
        let args = [&["import"], input, &["--report", report]].concat();
        run(server.port, dir.path(), &args).expect_exit(2).assert_err("is an input");
    }
    assert_eq!(fs::read_to_string(dir.path().join("fastly.toml")).unwrap(), manifest);
    assert_eq!(run(server.port, dir.path(), &["store", "list"]).text().lines().count(), 1);
}

#[test]
fn only_reports_and_resume_files_are_replaced_or_removed() {
    let (server, dir) = server_and_directory();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("in.ndjson"), [line("k", b"v", ""), "bad\n".into()].concat()).unwrap();
    fs::write(at("john"), line("j", b"v", "")).unwrap();
    for name in ["john.resume", "precious", "other.ndjson"] {
        fs::write(at(name), "precious").unwrap();
    }
    fs::write(at("other.ndjson"), line("k", b"v", ",\"reason\":\"r\"")).unwrap();

    // The file with the default name is not a resume file, so the import saves no progress.
    let args = ["import", "s", "john", "--format", "ndjson"];
    run(server.port, dir.path(), &args).expect_exit(0).assert_err("cannot be resumed");
    let args = ["import", "s", "in.ndjson", "--state", "precious"];
    run(server.port, dir.path(), &args).expect_exit(1).assert_err("is not a resume file");
    for report in ["precious", "other.ndjson", "john.resume"] {
        let args = ["import", "s", "in.ndjson", "--report", report];
        run(server.port, dir.path(), &args).expect_exit(1).assert_err("is not a report");
    }
    let args = ["import", "s", "in.ndjson", "--report", "new", "--state", "new"];
    run(server.port, dir.path(), &args).expect_exit(2).assert_err("--state");
    for name in ["john.resume", "precious"] {
        assert_eq!(fs::read(at(name)).unwrap(), b"precious", "{name}");
    }
    assert!(
        !export(&server, "s").contains("\"k\""),
        "an item was imported before the command was refused"
    );

    // A report replaces an empty file or an earlier report.
    fs::write(at("report"), "").unwrap();
    for _ in 0..2 {
        let args = ["import", "s", "in.ndjson", "--report", "report"];
        run(server.port, dir.path(), &args).expect_exit(1);
        let report = fs::read_to_string(at("report")).unwrap();
        assert_eq!((report.lines().count(), report.contains("\"line\":2")), (1, true), "{report}");
    }
    let args = ["import", "s", "in.ndjson", "--resume", "--report", "report"];
    run(server.port, dir.path(), &args).expect_exit(1);
    assert_eq!(
        fs::read_to_string(at("report")).unwrap().lines().count(),
        2,
        "the resumed import did not append to the report"
    );
}

#[test]
fn a_dry_run_writes_no_files() {
    let (server, dir) = server_and_directory();
    fs::write(dir.path().join("in.ndjson"), [line("k", b"v", ""), "bad\n".into()].concat())
        .unwrap();
    let args = ["import", "s", "in.ndjson", "--dry-run", "--report", "r", "--state", "st"];
    let output = run(server.port, dir.path(), &args).expect_exit(1);
    output.assert_err("line 2: ");
    assert_eq!(names(dir.path()), ["in.ndjson"]);
}

#[test]
fn an_export_directory_is_replaced_as_a_whole_or_not_at_all() {
    let (server, dir) = server_and_directory();
    let at = |name: &str| dir.path().join(name);
    let import = |key: &str| {
        let text = line(key, b"v", "");
        pipe(server.port, dir.path(), &["import", "s", "-"], text.as_bytes()).expect_exit(0);
    };
    let export = |more: &[&str]| {
        let args = [&["export", "s", "--to", "viceroy", "out"], more].concat();
        run(server.port, dir.path(), &args)
    };
    import("one");
    export(&[]).expect_exit(0);
    fs::set_permissions(at("out/s"), std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
    import("two");
    export(&["--force"]).expect_exit(0);
    assert_eq!(names(&at("out/s/values")), ["one", "two"]);
    assert_eq!(names(&at("out")), ["s"], "a temporary directory was left behind");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(at("out/s")).unwrap()) & 0o777;
    assert_eq!(mode, 0o750);

    // A directory that contains other files is not replaced.
    for other in ["out/s/notes", "out/s/values/sub"] {
        fs::create_dir(at(other)).unwrap();
        export(&["--force"]).expect_exit(1).assert_err("contains other files");
        assert!(at(other).is_dir() && at("out/s/values/two").is_file());
        fs::remove_dir(at(other)).unwrap();
    }
    // A symbolic link is followed.
    fs::rename(at("out/s"), at("moved")).unwrap();
    symlink("../moved", at("out/s")).unwrap();
    import("three");
    export(&["--force"]).expect_exit(0);
    assert_eq!(names(&at("moved/values")), ["one", "three", "two"]);
    assert_eq!(fs::read_link(at("out/s")).unwrap(), Path::new("../moved"));
}
