//! The same against a server that has the hosted API alone.

use crate::between::{Ways, between};
use crate::support::Server;
use crate::{exported, fed, line, run, value};

#[test]
fn all_goes_in_and_out_where_the_hosted_api_alone_is_there() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    let store = server.store("s");
    let ways = Ways { hosted: true, busy: 3, lost: 5, ..Ways::default() };
    let port = between(server.port, &ways);
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
    let told = fed(port, dir.path(), &["import", "s", "-"], items.concat().as_bytes()).ends(1);
    assert!(told.err.contains("line 2, key \"bad#\""), "{}", told.err);
    assert!(told.err.contains("2504 written, 1 skipped, 1 failed"), "{}", told.err);
    let all = exported(&server, "s");
    let seconds = all.lines().next().unwrap().split("\"expires\":\"").nth(1).unwrap();
    assert!(seconds.starts_with("2101-01-01T00:00:0"), "{seconds}");
    assert_eq!(value(&server, &store, "large").unwrap(), large);

    // Out again: without the times of expiry, else the same.
    let told = run(port, dir.path(), &["export", "s"]).ends(0);
    assert!(told.err.contains("does not tell when items expire"));
    let bare = |text: &str| -> Vec<String> {
        let field = |line: &str, name: &str| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            json[name].to_string()
        };
        let names = ["key", "value", "metadata", "metadata_base64", "generation"];
        text.lines().map(|line| names.map(|name| field(line, name)).join(" ")).collect()
    };
    assert!(bare(&told.out) == bare(&all), "the same items");
    assert!(told.out.contains("000000Z\"}\n") && !told.out.contains("expires"));
    let part = run(port, dir.path(), &["export", "s", "--prefix", "t0000"]).ends(0);
    assert_eq!(part.out.lines().count(), 10);
}

#[test]
fn items_that_are_there_are_heeded_one_by_one() {
    let server = Server::memory(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.store("s");
    let hosted = between(server.port, &Ways { hosted: true, ..Ways::default() });
    let items: String = (0..50).map(|nth| line(&format!("k{nth}"), b"v", "")).collect();
    let import = |port: u16, what: &str, lines: &str| {
        fed(port, dir.path(), &["import", "s", "-", "--if-exists", what], lines.as_bytes())
    };
    // An answer that is lost does not make a failure of what was written.
    let lossy = between(server.port, &Ways { hosted: true, lost: 7, ..Ways::default() });
    import(lossy, "fail", &items).ends(0);
    let more = format!("{items}{}", line("new", b"v", ""));
    let told = import(hosted, "skip", &more).ends(0);
    assert!(told.err.contains("1 written, 50 skipped, 0 failed"), "{}", told.err);
    let told = import(hosted, "fail", &items).ends(4);
    assert!(told.err.contains("50 failed") && told.err.contains("the item exists"), "{}", told.err);
}
