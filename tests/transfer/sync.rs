//! One store made like another, both ways.

use crate::between::{Ways, between};
use crate::support::{Server, TOKEN};
use crate::{command, exported, fed, line, many, run, stamp};
use std::fs;
use std::path::Path;

/// What of a store's items is copied.
fn copied(server: &Server, store: &str) -> Vec<String> {
    let without = |line: &str| {
        let mut json: serde_json::Value = serde_json::from_str(line).unwrap();
        json.as_object_mut().unwrap().remove("generation");
        json.to_string()
    };
    exported(server, store).lines().map(without).collect()
}

fn put(server: &Server, store: &str, lines: &str) {
    let args = ["import", store, "-", "--create"];
    fed(server.port, Path::new("."), &args, lines.as_bytes()).ends(0);
}

#[test]
fn what_differs_is_told_copied_and_deleted_both_ways() {
    let (blue, green) = (Server::memory(&[]), Server::memory(&[]));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), TOKEN).unwrap();
    let far = ",\"expires\":\"2101-01-01T00:00:00.000000Z\"";
    let base = many(1500, 100);
    put(
        &blue,
        "s",
        &format!(
            "{base}{}",
            [
                line("changed", b"new", &stamp(1)),
                line("life", b"v", &format!("{far}{}", stamp(2))),
                line("meta", b"v", &format!(",\"metadata_base64\":\"eP94\"{}", stamp(3))),
                line("new", &vec![1; 3 << 20], &stamp(4)),
            ]
            .concat()
        ),
    );
    put(
        &green,
        "s",
        &format!(
            "{base}{}",
            [
                line("changed", b"old", &stamp(1)),
                line("gone", b"v", ""),
                line("life", b"v", &stamp(2)),
                line("meta", b"v", &stamp(3)),
            ]
            .concat()
        ),
    );
    let there = format!("s@http://127.0.0.1:{}", green.port);
    let sync = |more: &[&str]| {
        let args = [&["sync", "s", &there, "--to-token-file", "token"][..], more].concat();
        run(blue.port, dir.path(), &args)
    };
    let before = exported(&green, "s");
    let plan = "~ changed\n- gone\n~ life\n~ meta\n+ new\n";
    let told = sync(&["--dry-run", "--delete"]).ends(0);
    assert_eq!(told.out, plan);
    let line = "1 new, 3 changed, 1 to delete, 1500 the same, 0 failed";
    assert!(told.err.contains(line), "{}", told.err);
    for port in [blue.port, green.port] {
        assert!(told.err.contains(&format!(") at http://127.0.0.1:{port}")), "{}", told.err);
    }
    assert_eq!(exported(&green, "s"), before, "nothing was done");

    let told = sync(&[]).ends(0);
    assert!(told.err.contains("1 new, 3 changed, 1 that FROM has not"), "{}", told.err);
    assert_eq!(copied(&green, "s").len(), copied(&blue, "s").len() + 1);
    // To delete it must be told to.
    assert!(sync(&["--delete"]).ends(2).err.contains("delete 1 items that FROM has not"));
    let told = sync(&["--delete", "--yes", "--json"]).ends(0);
    assert_eq!(told.out.lines().next(), Some("{\"change\":\"deleted\",\"key\":\"gone\"}"));
    assert!(
        told.out.contains("\"deleted\":1") && told.out.contains("\"same\":1504"),
        "{}",
        told.out
    );
    assert_eq!(copied(&green, "s"), copied(&blue, "s"));
    assert!(sync(&["--quick"]).ends(0).err.contains("0 new, 0 changed, 0 that FROM has not, 1504"));

    // And back, into a store that is made for it.
    let args = ["sync", &there, "back", "--create", "--from-token-file", "token"];
    assert!(run(blue.port, dir.path(), &args).ends(0).err.contains("1504 new"));
    assert_eq!(copied(&blue, "back"), copied(&green, "s"));
}

#[test]
fn the_hosted_api_is_a_way_in_and_out() {
    let (own, far) = (Server::memory(&[]), Server::memory(&[]));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), TOKEN).unwrap();
    let hosted = between(far.port, &Ways { hosted: true, ..Ways::default() });
    let there = format!("s@http://127.0.0.1:{hosted}");
    far.store("s");
    put(&own, "s", &[many(1200, 50), line("m", b"v", ",\"metadata\":\"m\"")].concat());
    let out = ["sync", "s", &there, "--to-token-file", "token"];
    assert!(run(own.port, dir.path(), &out).ends(0).err.contains("1201 new"));
    let again = run(own.port, dir.path(), &out).ends(0);
    assert!(again.err.contains("0 new, 0 changed, 0 that FROM has not, 1201"), "{}", again.err);
    let refused = run(own.port, dir.path(), &[&out[..], &["--quick"]].concat()).ends(2);
    assert!(refused.err.contains("--quick"), "{}", refused.err);
    put(&far, "s", &[line("m", b"v", ",\"metadata\":\"n\""), line("x", b"v", "")].concat());
    // The environment may name the token file too.
    let mut back = command(own.port, dir.path(), &["sync", &there, "s", "--delete", "--yes"]);
    let done = back.env("STEADFAST_FROM_TOKEN_FILE", "token").output().unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "~ m\n+ x\n");
    let value = |server: &Server| -> Vec<String> {
        let all = exported(server, "s");
        all.lines().map(|line| line.split(",\"generation\"").next().unwrap().to_owned()).collect()
    };
    assert_eq!(value(&own), value(&far));
}
