//! Every format that items come in, and the one that the local emulator reads.

use crate::support::Server;
use crate::{exported, fed, line, run, value};
use std::fs;

#[test]
fn a_folder_is_taken_file_by_file_as_it_is() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("site/blog")).unwrap();
    let page: &[u8] = b"\xef\xbb\xbf<p>\r\n\xff";
    fs::write(dir.path().join("site/blog/index.html"), page).unwrap();
    fs::write(dir.path().join("site/empty"), "").unwrap();
    fs::write(dir.path().join("site/bad#name"), "x").unwrap();
    let told = run(server.port, dir.path(), &["import", "site", "site/", "--create"]).ends(1);
    assert!(told.err.contains("key \"bad#name\": key must not contain '#'"), "{}", told.err);
    assert!(told.err.contains("2 written, 0 skipped, 1 failed"), "{}", told.err);
    let keys = exported(&server, "site");
    assert!(keys.contains("\"blog/index.html\"") && keys.contains("\"empty\""), "{keys}");
    let all = run(server.port, dir.path(), &["key", "get", "site", "blog/index.html", "-o", "got"]);
    all.ends(0);
    assert_eq!(fs::read(dir.path().join("got")).unwrap(), page);
    // From within it.
    let at = dir.path().join("site");
    fs::remove_file(at.join("bad#name")).unwrap();
    run(server.port, &at, &["import", "site", ".", "--if-exists", "skip"]).ends(0);
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "nothing was put into it");
}

#[test]
fn tables_and_lines_come_from_files_and_pipes_compressed_or_not() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.store("s");
    let table = "key,value,metadata,time_to_live_sec\na,\"1,\n2\",m,1000\nb,,,\n";
    fs::write(dir.path().join("t.csv"), table).unwrap();
    run(server.port, dir.path(), &["import", "s", "t.csv"]).ends(0);
    assert_eq!(value(&server, &store, "a").unwrap(), b"1,\n2");
    let all = exported(&server, "s");
    assert!(all.contains("\"metadata\":\"m\",\"expires\":\""), "{all}");
    let packed = zstd::encode_all(line("z", b"packed", "").as_bytes(), 1).unwrap();
    fed(server.port, dir.path(), &["import", "s", "-"], &packed).ends(0);
    assert_eq!(value(&server, &store, "z").unwrap(), b"packed");
    let args = ["import", "s", "-", "--format", "csv"];
    fed(server.port, dir.path(), &args, b"p,piped").ends(0);
    assert_eq!(value(&server, &store, "p").unwrap(), b"piped");
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
fn a_manifest_fills_the_stores_that_it_names() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("fastly.toml"), MANIFEST).unwrap();
    let told = run(server.port, dir.path(), &["import", "fastly.toml"]).ends(1);
    assert!(told.err.contains("kv.json"), "{}", told.err);
    assert_eq!(run(server.port, dir.path(), &["store", "list"]).out, "", "nothing was made");
    let json = r#"{"x":"text","y":{"file":"value","metadata":"n"}}"#;
    fs::write(dir.path().join("kv.json"), json).unwrap();
    fs::write(dir.path().join("value"), b"\x00file").unwrap();
    let tried = run(server.port, dir.path(), &["import", "fastly.toml", "--dry-run"]).ends(0);
    assert_eq!(tried.err.matches("to be made").count(), 4, "{}", tried.err);
    let done = run(server.port, dir.path(), &["import", "fastly.toml", "--json"]).ends(0);
    let stores: Vec<serde_json::Value> =
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names = stores
        .iter()
        .map(|s| (s["store"]["name"].as_str().unwrap(), s["written"].as_u64().unwrap()));
    assert_eq!(names.collect::<Vec<_>>(), [("bare", 0), ("first", 1), ("more", 2), ("pages", 2)]);
    assert!(exported(&server, "pages").contains(&line("a", b"local", ",\"metadata\":\"m\"")[..40]));
    assert!(exported(&server, "more").contains("\"AGZpbGU=\",\"metadata\":\"n\""));
    // One of them alone, into the store of that name.
    run(server.port, dir.path(), &["import", "pages", "fastly.toml"]).ends(0);
    let told = run(server.port, dir.path(), &["import", "none", "fastly.toml"]).ends(1);
    assert!(told.err.contains("names no store \"none\""), "{}", told.err);
}

#[test]
fn what_is_written_for_the_emulator_is_taken_again() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let items: String = [
        line("A", b"upper", ""),
        line("a", b"\x00lower", ",\"metadata\":\"m\\\"\""),
        line("dir/../../x".replace("../", "..").as_str(), b"", ""),
        line(&"k".repeat(1024), b"long", ""),
    ]
    .concat();
    fed(server.port, dir.path(), &["import", "My site", "-", "--create"], items.as_bytes()).ends(0);
    let told = run(server.port, dir.path(), &["export", "My site", "--to", "viceroy", "out"]);
    fs::write(dir.path().join("fastly.toml"), told.ends(0).out).unwrap();
    let other = Server::memory(&[]);
    run(other.port, dir.path(), &["import", "fastly.toml"]).ends(0);
    let plain = |server: &Server| -> Vec<String> {
        let all = exported(server, "My site");
        all.lines().map(|line| line.split(",\"generation\"").next().unwrap().to_owned()).collect()
    };
    assert_eq!(plain(&other), plain(&server));
    assert_eq!(plain(&other).len(), 4);
    // Again, over what was written before; and what has no place there is told.
    let odd = line("raw", b"", ",\"metadata_base64\":\"/w==\"");
    fed(server.port, dir.path(), &["import", "My site", "-"], odd.as_bytes()).ends(0);
    let args = ["export", "My site", "--to", "viceroy", "out", "--force", "--json"];
    let told = run(server.port, dir.path(), &args).ends(1);
    assert!(told.err.contains("\"raw\"") && told.out.contains("\"left_out\":1"), "{}", told.err);
}
