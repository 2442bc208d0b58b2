//! Tests of `steadfast sync`, which makes one store equal to another: on the same server, between
//! servers, and to and from the hosted API.

use crate::proxy::{self, Faults};
use crate::support::{Server, TOKEN};
use crate::{command, export, line, numbered_lines, pipe, run, stamp};
use std::fs;
use std::path::Path;

/// Returns the items of a store without their generations, which sync does not copy.
fn items(server: &Server, store: &str) -> Vec<String> {
    let without = |line: &str| {
        let mut json: serde_json::Value = serde_json::from_str(line).unwrap();
        json.as_object_mut().unwrap().remove("generation");
        json.to_string()
    };
    export(server, store).lines().map(without).collect()
}

fn import(server: &Server, store: &str, lines: &str) {
    let args = ["import", store, "-", "--create"];
    pipe(server.port, Path::new("."), &args, lines.as_bytes()).expect_exit(0);
}

#[test]
fn sync_reports_and_copies_differences_and_deletes_extra_items() {
    let (blue, green) = (Server::memory(&[]), Server::memory(&[]));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), TOKEN).unwrap();
    let expires = ",\"expires\":\"2101-01-01T00:00:00.000000Z\"";
    let base = numbered_lines(1500, 100);
    let source = [
        base.clone(),
        line("changed", b"new", &stamp(1)),
        line("life", b"v", &format!("{expires}{}", stamp(2))),
        line("meta", b"v", &format!(",\"metadata_base64\":\"eP94\"{}", stamp(3))),
        line("new", &vec![1; 3 << 20], &stamp(4)),
    ];
    import(&blue, "s", &source.concat());
    let target = [
        base,
        line("changed", b"old", &stamp(1)),
        line("gone", b"v", ""),
        line("life", b"v", &stamp(2)),
        line("meta", b"v", &stamp(3)),
    ];
    import(&green, "s", &target.concat());
    let destination = format!("s@http://127.0.0.1:{}", green.port);
    let sync = |more: &[&str]| {
        let args = [&["sync", "s", &destination, "--to-token-file", "token"][..], more].concat();
        run(blue.port, dir.path(), &args)
    };
    let before = export(&green, "s");
    let plan = "~ changed\n- gone\n~ life\n~ meta\n+ new\n";
    let output = sync(&["--dry-run", "--delete"]).expect_exit(0);
    assert_eq!(output.text(), plan);
    let line = "1 new, 3 changed, 1 to delete, 1500 unchanged, 0 failed";
    assert!(output.err.contains(line), "{}", output.err);
    for port in [blue.port, green.port] {
        output.assert_err(&format!(") at http://127.0.0.1:{port}"));
    }
    assert_eq!(export(&green, "s"), before, "a dry run wrote items");

    let output = sync(&[]).expect_exit(0);
    output.assert_err("1 new, 3 changed, 1 only in destination");
    assert_eq!(items(&green, "s").len(), items(&blue, "s").len() + 1);
    // A deletion requires confirmation.
    assert!(sync(&["--delete"]).expect_exit(2).err.contains("delete 1 item found only in"));
    let output = sync(&["--delete", "--yes", "--json"]).expect_exit(0);
    assert_eq!(output.text().lines().next(), Some("{\"change\":\"deleted\",\"key\":\"gone\"}"));
    assert!(
        output.text().contains("\"deleted\":1") && output.text().contains("\"same\":1504"),
        "{}",
        output.text()
    );
    assert_eq!(items(&green, "s"), items(&blue, "s"));
    assert!(
        sync(&["--quick"])
            .expect_exit(0)
            .err
            .contains("0 new, 0 changed, 0 only in destination, 1504")
    );

    // Sync in the other direction, into a store that --create creates.
    let args = ["sync", &destination, "back", "--create", "--from-token-file", "token"];
    assert!(run(blue.port, dir.path(), &args).expect_exit(0).err.contains("1504 new"));
    assert_eq!(items(&blue, "back"), items(&green, "s"));
}

#[test]
fn sync_works_to_and_from_the_hosted_api() {
    let (local, remote) = (Server::memory(&[]), Server::memory(&[]));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), TOKEN).unwrap();
    let hosted = proxy::start(remote.port, &Faults { hosted_api_only: true, ..Faults::default() });
    let destination = format!("s@http://127.0.0.1:{hosted}");
    remote.create_store("s");
    let lines = [numbered_lines(1200, 50), line("m", b"v", ",\"metadata\":\"m\"")].concat();
    import(&local, "s", &lines);
    let out = ["sync", "s", &destination, "--to-token-file", "token"];
    assert!(run(local.port, dir.path(), &out).expect_exit(0).err.contains("1201 new"));
    let again = run(local.port, dir.path(), &out).expect_exit(0);
    again.assert_err("0 new, 0 changed, 0 only in destination, 1201");
    let refused = run(local.port, dir.path(), &[&out[..], &["--quick"]].concat()).expect_exit(2);
    refused.assert_err("--quick");
    import(&remote, "s", &[line("m", b"v", ",\"metadata\":\"n\""), line("x", b"v", "")].concat());
    // The token file can also come from the environment.
    let mut back =
        command(local.port, dir.path(), &["sync", &destination, "s", "--delete", "--yes"]);
    let done = back.env("STEADFAST_FROM_TOKEN_FILE", "token").output().unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "~ m\n+ x\n");
    let value = |server: &Server| -> Vec<String> {
        let all = export(server, "s");
        all.lines().map(|line| line.split(",\"generation\"").next().unwrap().to_owned()).collect()
    };
    assert_eq!(value(&local), value(&remote));
}

#[test]
fn nothing_is_deleted_if_a_server_lists_keys_out_of_order() {
    let server = Server::memory(&[]);
    for store in ["blue", "green"] {
        server.create_store(store);
        import(&server, store, &numbered_lines(10, 1));
    }
    import(&server, "green", &line("zz-only-in-green", b"v", ""));
    let before = export(&server, "green");
    let faults = Faults { hosted_api_only: true, reverse_keys: true, ..Faults::default() };
    let url = format!("@http://127.0.0.1:{}", proxy::start(server.port, &faults));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), TOKEN).unwrap();
    for (from, to) in
        [(format!("blue{url}"), "green".into()), ("blue".into(), format!("green{url}"))]
    {
        let flag = if from.contains('@') { "--from-token-file" } else { "--to-token-file" };
        let args = ["sync", &from, &to, flag, "token", "--delete", "--yes"];
        run(server.port, dir.path(), &args).expect_exit(1).assert_err("keys must ascend");
        assert_eq!(export(&server, "green"), before);
    }
    let args = ["sync", "blue", "green", "--delete", "--yes", "--prefix", ""];
    run(server.port, dir.path(), &args).expect_exit(2).assert_err("--prefix");
    assert_eq!(export(&server, "green"), before);
}
