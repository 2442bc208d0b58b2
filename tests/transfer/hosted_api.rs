//! Tests of import and export through the hosted API alone, without the extensions.

use crate::proxy::{self, Faults};
use crate::support::Server;
use crate::{export, line, pipe, run, value};

#[test]
fn import_and_export_work_through_the_hosted_api_alone() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.create_store("s");
    let faults = Faults {
        hosted_api_only: true,
        reject_every: 3,
        drop_response_every: 5,
        ..Faults::default()
    };
    let port = proxy::start(server.port, &faults);
    let large = vec![b'l'; 3 << 20];
    let mut items = vec![
        line("a", b"1", ",\"metadata\":\"m\",\"expires\":\"2101-01-01T00:00:00.000000Z\""),
        line("bad#", b"", ""),
        line("large", &large, ""),
        line("over", b"", ",\"expires\":\"2001-01-01T00:00:00.000000Z\""),
        line("raw", b"", ",\"metadata_base64\":\"eP94\""),
        line("short", b"", ",\"time_to_live_sec\":1000"),
    ];
    items.extend((0..2500).map(|nth| line(&format!("t{nth:05}"), b"v", "")));
    let output =
        pipe(port, dir.path(), &["import", "s", "-"], items.concat().as_bytes()).expect_exit(1);
    output.assert_err("line 2, key \"bad#\"");
    output.assert_err("imported 2504 items, 1 skipped, 1 failed");
    let all = export(&server, "s");
    let seconds = all.lines().next().unwrap().split("\"expires\":\"").nth(1).unwrap();
    assert!(seconds.starts_with("2101-01-01T00:00:0"), "{seconds}");
    assert_eq!(value(&server, &store, "large").unwrap(), large);

    // The hosted API does not return expiry times. All other properties are exported.
    let output = run(port, dir.path(), &["export", "s"]).expect_exit(0);
    output.assert_err("does not return expiry times");
    let comparable = |text: &str| -> Vec<String> {
        let field = |line: &str, name: &str| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            json[name].to_string()
        };
        let names = ["key", "value", "metadata", "metadata_base64", "generation"];
        text.lines().map(|line| names.map(|name| field(line, name)).join(" ")).collect()
    };
    assert!(comparable(&output.text()) == comparable(&all), "the exported items differ");
    assert!(output.text().contains("000000Z\"}\n") && !output.text().contains("expires"));
    let part = run(port, dir.path(), &["export", "s", "--prefix", "t0000"]).expect_exit(0);
    assert_eq!(part.text().lines().count(), 10);
}

#[test]
fn existing_items_are_skipped_or_refused_through_the_hosted_api() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.create_store("s");
    let hosted_port =
        proxy::start(server.port, &Faults { hosted_api_only: true, ..Faults::default() });
    let items: String = (0..50).map(|nth| line(&format!("k{nth}"), b"v", "")).collect();
    let import = |port: u16, what: &str, lines: &str| {
        pipe(port, dir.path(), &["import", "s", "-", "--if-exists", what], lines.as_bytes())
    };
    // After a lost response, the command retries the request. It must not report an item that its
    // first attempt wrote as an existing item.
    let lossy_port = proxy::start(
        server.port,
        &Faults { hosted_api_only: true, drop_response_every: 7, ..Faults::default() },
    );
    import(lossy_port, "fail", &items).expect_exit(0);
    let more = format!("{items}{}", line("new", b"v", ""));
    let output = import(hosted_port, "skip", &more).expect_exit(0);
    output.assert_err("imported 1 item, 50 skipped, 0 failed");
    let output = import(hosted_port, "fail", &items).expect_exit(4);
    output.assert_err("50 failed");
    output.assert_err("the item exists");
}
