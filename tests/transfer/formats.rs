//! Tests of the input formats (directories, CSV, NDJSON, compressed input and `fastly.toml`), and
//! of the export for the local emulator.

use crate::support::Server;
use crate::{export, line, pipe, run, value};
use std::fs;

#[test]
fn a_directory_is_imported_file_by_file() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("site/blog")).unwrap();
    let page: &[u8] = b"\xef\xbb\xbf<p>\r\n\xff";
    fs::write(dir.path().join("site/blog/index.html"), page).unwrap();
    fs::write(dir.path().join("site/empty"), "").unwrap();
    fs::write(dir.path().join("site/bad#name"), "x").unwrap();
    let output =
        run(server.port, dir.path(), &["import", "site", "site/", "--create"]).expect_exit(1);
    output.assert_err("key \"bad#name\": key must not contain '#'");
    output.assert_err("imported 2 items, 0 skipped, 1 failed");
    let keys = export(&server, "site");
    assert!(keys.contains("\"blog/index.html\"") && keys.contains("\"empty\""), "{keys}");
    let all = run(server.port, dir.path(), &["key", "get", "site", "blog/index.html", "-o", "got"]);
    all.expect_exit(0);
    assert_eq!(fs::read(dir.path().join("got")).unwrap(), page);
    // Import the working directory.
    let at = dir.path().join("site");
    fs::remove_file(at.join("bad#name")).unwrap();
    run(server.port, &at, &["import", "site", ".", "--if-exists", "skip"]).expect_exit(0);
    assert_eq!(
        fs::read_dir(&at).unwrap().count(),
        2,
        "the import wrote a file into its source directory"
    );
}

#[test]
fn csv_and_ndjson_are_read_from_files_and_pipes() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.create_store("s");
    let table = "key,value,metadata,time_to_live_sec\na,\"1,\n2\",m,1000\nb,,,\n";
    fs::write(dir.path().join("t.csv"), table).unwrap();
    run(server.port, dir.path(), &["import", "s", "t.csv"]).expect_exit(0);
    assert_eq!(value(&server, &store, "a").unwrap(), b"1,\n2");
    let all = export(&server, "s");
    assert!(all.contains("\"metadata\":\"m\",\"expires\":\""), "{all}");
    let packed = zstd::encode_all(line("z", b"packed", "").as_bytes(), 1).unwrap();
    pipe(server.port, dir.path(), &["import", "s", "-"], &packed).expect_exit(0);
    assert_eq!(value(&server, &store, "z").unwrap(), b"packed");
    let args = ["import", "s", "-", "--format", "csv"];
    pipe(server.port, dir.path(), &args, b"p,piped").expect_exit(0);
    assert_eq!(value(&server, &store, "p").unwrap(), b"piped");
}

#[test]
fn errors_in_csv_input_are_reported_with_line_and_column() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    let rows = |count: u32| (0..count).map(|nth| format!("k{nth},v\n")).collect::<String>();
    for (text, position) in [
        ("a,1\nb,\"2\nc,3\n".into(), "line 2, column 3"),
        ([rows(100_000), "x,\"y\n".into(), rows(100_000)].concat(), "line 100001, column 3"),
        ("a,\"1\"2\nb,2\n".into(), "line 1, column 6"),
        ("a,1\nb,say \"hi\"\n".into(), "line 2, column 7"),
        ("key,metadata\na,m\n".into(), "line 1, column 1"),
        ("sep=,\nkey,value\na,1\n".into(), "line 1, column 1"),
    ] {
        fs::write(dir.path().join("in.csv"), &text).unwrap();
        for more in [&["--dry-run"][..], &[]] {
            let args = [&["import", "s", "in.csv"], more].concat();
            let output = run(server.port, dir.path(), &args).expect_exit(1);
            output.assert_err(position);
            assert!(!output.err.contains("--resume (progress"), "{}", output.err);
        }
    }
    let stored = export(&server, "s");
    assert!(!stored.contains("\"x\"") && !stored.contains("\"key\":\"key\""));
}

#[test]
fn unsupported_encodings_and_compression_formats_are_named_in_the_error() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let text = "{\"key\":\"a\",\"value\":\"\"}\n";
    let with_bom = utf_16(&format!("\u{feff}{text}"));
    for (name, bytes, word) in [
        ("a.ndjson", with_bom.as_slice(), "UTF-16"),
        ("a.csv", &utf_16("key,value\na,1\n"), "UTF-16"),
        ("a.json", &utf_16("{\"a\":\"b\"}"), "UTF-16"),
        ("fastly.toml", &utf_16("[local_server]"), "UTF-16"),
        ("b", b"\xfe\xff\0{", "UTF-16"),
        ("c.ndjson.gz", b"\x1f\x8b\x08\0\0", "gzip"),
        ("c.csv", b"\x1f\x8b\x08\0\0", "gzip"),
        ("d", b"\xfd7zXZ\0\0", "xz"),
        ("e.bz2", b"BZh91AY&SY\0", "bzip2"),
        ("f.zip", b"PK\x03\x04\0", "zip"),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
        let output = run(server.port, dir.path(), &["import", "s", name]).expect_exit(1);
        output.assert_err(word);
        output.assert_err("convert it first");
    }
    // A CSV key can start with the magic bytes of a compressed format.
    fs::write(dir.path().join("g.csv"), "BZh9,1\nPK,2\n").unwrap();
    run(server.port, dir.path(), &["import", "s", "g.csv"]).expect_exit(0);
}

#[test]
fn a_byte_order_mark_is_skipped_in_every_text_format() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(name), format!("\u{feff}{text}")).unwrap();
    };
    write("a.ndjson", &line("ndjson", b"v", ""));
    write("b.csv", "key,value\ncsv,v\n");
    write("c.json", r#"{"json":"v"}"#);
    write("kv.json", r#"{"file":"v"}"#);
    let manifest = "[local_server.kv_stores]\ns = { file = \"kv.json\", format = \"json\" }\n";
    write("fastly.toml", manifest);
    let compressed = zstd::encode_all(fs::File::open(dir.path().join("fastly.toml")).unwrap(), 1);
    fs::write(dir.path().join("fastly.toml.zst"), compressed.unwrap()).unwrap();
    for args in [
        &["import", "s", "a.ndjson", "--create"][..],
        &["import", "s", "b.csv"],
        &["import", "s", "c.json"],
        &["import", "fastly.toml"],
        &["import", "fastly.toml.zst"],
    ] {
        run(server.port, dir.path(), args).expect_exit(0);
    }
    let keys: Vec<String> = export(&server, "s")
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].to_string())
        .collect();
    assert_eq!(keys, ["\"csv\"", "\"file\"", "\"json\"", "\"ndjson\""]);
}

const MANIFEST: &str = r#"
[local_server.kv_stores]
pages = [{ key = "a", data = "local", metadata = "m" }, { key = "f", file = "value" }]
bare = []
[local_server.kv_stores.more]
file = "kv.json"
format = "json"
[setup.kv_stores.first.items.k]
value = "set up"
"#;

#[test]
fn a_fastly_toml_is_imported_into_the_stores_it_declares() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("fastly.toml"), MANIFEST).unwrap();
    let output = run(server.port, dir.path(), &["import", "fastly.toml"]).expect_exit(1);
    output.assert_err("kv.json");
    assert_eq!(
        run(server.port, dir.path(), &["store", "list"]).text(),
        "",
        "the failed import created stores"
    );
    let json = r#"{"x":"text","y":{"file":"value","metadata":"n"}}"#;
    fs::write(dir.path().join("kv.json"), json).unwrap();
    fs::write(dir.path().join("value"), b"\x00file").unwrap();
    let dry_run =
        run(server.port, dir.path(), &["import", "fastly.toml", "--dry-run"]).expect_exit(0);
    assert_eq!(dry_run.err.matches("to be created").count(), 4, "{}", dry_run.err);
    let done = run(server.port, dir.path(), &["import", "fastly.toml", "--json"]).expect_exit(0);
    let done_text = done.text();
    let stores: Vec<serde_json::Value> =
        done_text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names = stores
        .iter()
        .map(|s| (s["store"]["name"].as_str().unwrap(), s["written"].as_u64().unwrap()));
    assert_eq!(names.collect::<Vec<_>>(), [("bare", 0), ("first", 1), ("more", 2), ("pages", 2)]);
    assert!(export(&server, "pages").contains(&line("a", b"local", ",\"metadata\":\"m\"")[..40]));
    assert!(export(&server, "more").contains("\"AGZpbGU=\",\"metadata\":\"n\""));
    // Import only the store with this name.
    run(server.port, dir.path(), &["import", "pages", "fastly.toml"]).expect_exit(0);
    let output = run(server.port, dir.path(), &["import", "none", "fastly.toml"]).expect_exit(1);
    output.assert_err("declares no store \"none\"");
}

#[test]
fn an_export_for_the_emulator_can_be_imported() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let items: String = [
        line("A", b"upper", ""),
        line("a", b"\x00lower", ",\"metadata\":\"m\\\"\""),
        line("dir/../../x".replace("../", "..").as_str(), b"", ""),
        line(&"k".repeat(1024), b"long", ""),
    ]
    .concat();
    pipe(server.port, dir.path(), &["import", "My site", "-", "--create"], items.as_bytes())
        .expect_exit(0);
    let output = run(server.port, dir.path(), &["export", "My site", "--to", "viceroy", "out"]);
    fs::write(dir.path().join("fastly.toml"), output.expect_exit(0).text()).unwrap();
    let other = Server::memory(&[]);
    run(other.port, dir.path(), &["import", "fastly.toml"]).expect_exit(0);
    let plain = |server: &Server| -> Vec<String> {
        let all = export(server, "My site");
        all.lines().map(|line| line.split(",\"generation\"").next().unwrap().to_owned()).collect()
    };
    assert_eq!(plain(&other), plain(&server));
    assert_eq!(plain(&other).len(), 4);
    // Replace the earlier export. Items that the format cannot represent are reported.
    let binary = line("raw", b"", ",\"metadata_base64\":\"/w==\"");
    pipe(server.port, dir.path(), &["import", "My site", "-"], binary.as_bytes()).expect_exit(0);
    let args = ["export", "My site", "--to", "viceroy", "out", "--force", "--json"];
    let output = run(server.port, dir.path(), &args).expect_exit(1);
    output.assert_err("\"raw\"");
    assert!(output.text().contains("\"left_out\":1"), "{}", output.text());
}
