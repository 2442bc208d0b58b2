//! Tests of imports from Cloudflare KV, Consul and etcd. The inputs are written exactly as the
//! tools of these products write them.

use crate::proxy::{self, Faults};
use crate::support::{CommandOutput, Server};
use crate::{command, export, line, pipe, run, value};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Input of `wrangler kv bulk put`.
const CLOUDFLARE: &str = r#"[
  {
    "key": "greeting",
    "value": "hello, wörld\n",
    "metadata": {
      "type": "text/plain",
      "tags": [ 1, "a b" ]
    }
  },
  {
    "key": "logo",
    "value": "iVBORw0KGgo=",
    "base64": true
  },
  {
    "key": "session",
    "value": "",
    "expiration_ttl": 3600
  },
  {
    "key": "sale",
    "value": "50%",
    "expiration": 4102444800
  },
  {
    "key": "old",
    "value": "gone",
    "expiration": 1577836800
  }
]
"#;

/// Output of `consul kv export`.
const CONSUL: &str = "[
\t{
\t\t\"key\": \"app/\",
\t\t\"flags\": 0,
\t\t\"value\": \"\"
\t},
\t{
\t\t\"key\": \"app/color\",
\t\t\"flags\": 0,
\t\t\"value\": \"Ymx1ZQ==\"
\t},
\t{
\t\t\"key\": \"app/lock\",
\t\t\"flags\": 3304740253564472344,
\t\t\"value\": \"AP8B\"
\t}
]
";

/// Output of `etcdctl get --prefix "" -w json` (etcdctl 3.4.23).
const ETCD: &str = concat!(
    r#"{"header":{"cluster_id":15118495548433857066,"member_id":13668033151171901709,"#,
    r#""revision":7,"raft_term":2},"kvs":[{"key":"YmFkI2tleQ==","create_revision":6,"#,
    r#""mod_revision":6,"version":1,"value":"eA=="},{"key":"Y29uZmlnL2JpbmFyeQ==","#,
    r#""create_revision":4,"mod_revision":4,"version":1,"value":"AP8B"},"#,
    r#"{"key":"Y29uZmlnL2NvbG9y","create_revision":2,"mod_revision":2,"version":1,"#,
    r#""value":"Ymx1ZQ=="},{"key":"Y29uZmlnL2VtcHR5","create_revision":3,"mod_revision":3,"#,
    r#""version":1},{"key":"a/8=","create_revision":7,"mod_revision":7,"version":1,"#,
    r#""value":"eQ=="},{"key":"c2Vzc2lvbi8x","create_revision":5,"mod_revision":5,"version":1,"#,
    r#""value":"YWxpY2U=","lease":4111120355962708744}],"count":6}"#,
    "\n"
);

/// Returns the items of a store, without the properties that differ from run to run.
fn items(server: &Server, store: &str) -> Vec<Value> {
    let all = export(server, store);
    let mut items: Vec<Value> =
        all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for item in &mut items {
        let item = item.as_object_mut().unwrap();
        item.remove("generation");
        item.remove("modified");
    }
    items
}

#[test]
fn cloudflare_bulk_json_is_imported() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.create_store("s");
    fs::write(dir.path().join("bulk.json"), CLOUDFLARE).unwrap();
    let args = ["import", "s", "bulk.json", "--dry-run"];
    let output = run(server.port, dir.path(), &args).expect_exit(0);
    output.assert_err("dry run: would import 4 items, 1 expired, 0 invalid");
    let output = run(server.port, dir.path(), &["import", "s", "bulk.json"]).expect_exit(0);
    output.assert_err("importing bulk.json (cloudflare)");
    output.assert_err("imported 4 items, 1 skipped, 0 failed");
    assert_eq!(value(&server, &store, "greeting").unwrap(), "hello, wörld\n".as_bytes());
    assert_eq!(value(&server, &store, "logo").unwrap(), b"\x89PNG\r\n\x1a\n");
    let items = items(&server, "s");
    let metadata = r#"{"type":"text/plain","tags":[1,"a b"]}"#;
    assert_eq!(items[0]["metadata"], metadata);
    assert_eq!(items[2]["expires"], "2100-01-01T00:00:00.000000Z");
    assert!(items[1].get("expires").is_none() && items[3].get("expires").is_some());
    assert_eq!(items.len(), 4);
}

#[test]
fn a_consul_export_is_imported() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("kv.json"), CONSUL).unwrap();
    let args = ["import", "s", "kv.json", "--create"];
    let output = run(server.port, dir.path(), &args).expect_exit(0);
    output.assert_err("importing kv.json (consul)");
    let expected = [
        json!({ "key": "app/", "value": "" }),
        json!({ "key": "app/color", "value": "Ymx1ZQ==" }),
        json!({
            "key": "app/lock", "value": "AP8B", "metadata": "{\"flags\":3304740253564472344}",
        }),
    ];
    assert_eq!(items(&server, "s"), expected);
}

#[test]
fn an_etcd_export_is_imported_and_its_leases_are_noted() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("etcd.json"), ETCD).unwrap();
    server.create_store("s");
    for more in [&["--dry-run"][..], &[]] {
        let args = [&["import", "s", "etcd.json"][..], more].concat();
        let output = run(server.port, dir.path(), &args).expect_exit(1);
        output.assert_err("item 1, line 1, key \"bad#key\": key must not contain '#'");
        output.assert_err("item 5, line 1, key \"k\u{fffd}\": key must be UTF-8");
        output.assert_err("note: 1 item has a lease, so it never expires in the store");
        output.assert_err("(first: item 6, line 1, key \"session/1\")");
    }
    let expected = [
        json!({ "key": "config/binary", "value": "AP8B" }),
        json!({ "key": "config/color", "value": "Ymx1ZQ==" }),
        json!({ "key": "config/empty", "value": "" }),
        json!({ "key": "session/1", "value": "YWxpY2U=" }),
    ];
    assert_eq!(items(&server, "s"), expected);
    let limited = ETCD.replace("\"count\":6", "\"more\":true,\"count\":9");
    let output = pipe(server.port, dir.path(), &["import", "s", "-"], limited.as_bytes());
    output.expect_exit(1).assert_err("note: the export is incomplete");
}

#[test]
fn formats_of_other_products_are_detected_by_content() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    for (text, format) in [(CLOUDFLARE, "cloudflare"), (CONSUL, "consul"), (ETCD, "etcd")] {
        let expected = format!(" ({format}): store");
        let with_bom = format!("\u{feff}{text}");
        for (name, text) in [
            ("a.json", text.as_bytes().to_vec()),
            ("b", text.as_bytes().to_vec()),
            ("c", with_bom.into_bytes()),
            ("d", zstd::encode_all(text.as_bytes(), 1).unwrap()),
            ("e.json.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
        ] {
            fs::write(dir.path().join(name), &text).unwrap();
            run(server.port, dir.path(), &["import", "s", name]).assert_err(&expected);
            pipe(server.port, dir.path(), &["import", "s", "-"], &text).assert_err(&expected);
        }
        // The option overrides the detection.
        fs::write(dir.path().join("f.csv"), text).unwrap();
        let args = ["import", "s", "f.csv", "--format", format];
        run(server.port, dir.path(), &args).assert_err(&expected);
    }
    // Other JSON files are not mistaken for these formats.
    fs::write(dir.path().join("kv.json"), "{\"header\":{\"data\":\"v\"},\"kvs\":\"v\"}").unwrap();
    let output = run(server.port, dir.path(), &["import", "s", "kv.json"]).expect_exit(0);
    output.assert_err("(viceroy)");
    fs::write(dir.path().join("keys.json"), "[{\"name\":\"a\"}]").unwrap();
    let output = run(server.port, dir.path(), &["import", "s", "keys.json"]).expect_exit(1);
    output.assert_err("must be a JSON object that maps keys to values");
    fs::write(dir.path().join("get.json"), "{\"a\":{\"value\":\"1\"}}").unwrap();
    let args = ["import", "s", "get.json", "--format", "cloudflare"];
    let output = run(server.port, dir.path(), &args).expect_exit(1);
    output.assert_err("the input must be a JSON array of items, not an object");
}

#[test]
fn failed_elements_are_reported_with_number_line_and_key() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.create_store("s");
    let text = "[\n{\"key\":\"a\",\"value\":\"1\"},\n{\"key\":\"a\",\"value\":\"2\"},\n\
                {\"key\":\"b\",\"value\":\"\",\"expiration_ttl\":0},\n7,\n\
                {\"key\":\"c\",\"value\":\"12345678\"}\n]";
    fs::write(dir.path().join("in"), text).unwrap();
    let args = ["import", "s", "in", "--max-value", "7"];
    for more in [&["--dry-run"][..], &[]] {
        let output = run(server.port, dir.path(), &[&args[..], more].concat()).expect_exit(1);
        output.assert_err("item 3, line 4, key \"b\": expiration_ttl must be at least 1");
        output.assert_err("item 4, line 5: must be a JSON object");
        output.assert_err("item 5, line 6, key \"c\": value must be at most 7 bytes");
    }
    // The last of several items with the same key takes effect.
    assert_eq!(value(&server, &store, "a").unwrap(), b"2");
    let report = [&args[..], &["--report", "report", "--json"]].concat();
    let output = run(server.port, dir.path(), &report).expect_exit(1);
    let summary: Value = serde_json::from_str(&output.text()).unwrap();
    assert_eq!((&summary["written"], &summary["failed"]), (&json!(2), &json!(3)), "{summary}");
    let report = fs::read_to_string(dir.path().join("report")).unwrap();
    let first: Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
    let reason = "expiration_ttl must be at least 1";
    assert_eq!(first, json!({ "key": "b", "item": 3, "line": 4, "reason": reason }));
    // Errors from the server have the same position.
    fs::write(
        dir.path().join("in"),
        "[{\"key\":\"new\",\"value\":\"\"},\n{\"key\":\"a\",\"value\":\"\"}]",
    )
    .unwrap();
    let args = ["import", "s", "in", "--if-exists", "fail"];
    let output = run(server.port, dir.path(), &args).expect_exit(4);
    output.assert_err("item 2, line 2, key \"a\": the item exists");
}

#[test]
fn malformed_json_ends_the_import_with_a_position() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.create_store("s");
    for (text, position) in [
        ("[{\"key\":\"a\",\"value\":\"1\"}", "line 1, column 25: expected ',' or ']'"),
        (
            "[{\"key\":\"a\",\"value\":\"1\"},\n{\"key",
            "line 2, column 1: the value that starts here",
        ),
        ("[{\"key\":\"a\",\"value\":\"1\"}]\n[]", "line 2, column 1: unexpected text"),
        (
            "[{\"key\":\"a\",\"value\":\"1\"},\n{\"key\" 1}]",
            "line 2, column 8: expected `:` (item 2)",
        ),
    ] {
        fs::write(dir.path().join("in.json"), text).unwrap();
        for more in [&["--dry-run"][..], &[]] {
            let args = [&["import", "s", "in.json"][..], more].concat();
            let output = run(server.port, dir.path(), &args).expect_exit(1);
            output.assert_err("is not valid JSON at line");
            output.assert_err(position);
            assert!(!output.err.contains("--resume (progress"), "{}", output.err);
        }
    }
    assert!(value(&server, &store, "key").is_none());
}

#[test]
fn an_interrupted_import_of_an_array_can_be_resumed() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    let filler = "x".repeat(1000);
    let elements: Vec<_> = (0..8000)
        .map(|nth| format!("{{\"key\":\"key-{nth:08}\",\"value\":\"{nth} {filler}\"}}"))
        .collect();
    fs::write(dir.path().join("in.json"), format!("[{}]", elements.join(",\n"))).unwrap();
    let faults = Faults { write_delay: Duration::from_millis(100), ..Faults::default() };
    let port = proxy::start(server.port, &faults);
    let args = ["import", "s", "in.json", "--jobs", "1"];
    let mut import = command(port, dir.path(), &args);
    let import = import.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let state = dir.path().join("in.json.resume");
    while export(&server, "s").is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = import.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    CommandOutput::from(import.wait_with_output().unwrap()).expect_exit(130);
    assert!(state.exists() && export(&server, "s").lines().count() < 8000);
    let args = [&args[..], &["--resume"]].concat();
    let output = run(port, dir.path(), &args).expect_exit(0);
    output.assert_err("resuming after ");
    output.assert_err("imported 8000 items, 0 skipped, 0 failed");
    let all = export(&server, "s");
    assert_eq!(all.lines().count(), 8000);
    let first = line("key-00007999", format!("7999 {filler}").as_bytes(), "");
    assert!(all.contains(first.trim_end_matches("}\n")), "an item is missing");
}
