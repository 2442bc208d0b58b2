//! Tests of the extensions to the hosted API: detailed lists, deletion by prefix, export and
//! import.

use super::support::Response;
use super::{Case, TOKEN, UNKNOWN_STORE};
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

impl Case {
    fn extension(&self, method: &str, rest: &str, body: &[u8]) -> Response {
        self.server.request(&format!("{method} /_/v1/stores/{}/{rest}", self.id), &[], body)
    }

    fn export(&self) -> String {
        let response = self.extension("GET", "export", b"");
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("Content-Type"), "application/x-ndjson");
        response.text()
    }

    /// Imports lines. Returns the status, the counts (written, skipped, failed), and the key, index
    /// and code of each error.
    fn import(&self, query: &str, lines: &str) -> (u16, [u64; 3], Vec<(String, u64, String)>) {
        let response = self.extension("PUT", &format!("import{query}"), lines.as_bytes());
        let json = response.json();
        let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{json}"));
        let errors = json["errors"].as_array().unwrap().iter().map(|e| {
            let text = |name: &str| e[name].as_str().unwrap().to_owned();
            assert!(!text("reason").is_empty());
            (text("key"), e["index"].as_u64().unwrap(), text("code"))
        });
        let numbers = [number("written"), number("skipped"), number("failed")];
        (response.status, numbers, errors.collect())
    }
}

#[test]
fn the_extensions_endpoint_reports_name_and_version() {
    let case = Case::new();
    let about = case.server.get("/_/v1");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(about.text(), format!("{{\"name\":\"steadfast\",\"version\":\"{version}\"}}"));
    for path in ["/_/v1/", "/_/v2", "/_", "/_/v1/stores", "/_/v1/stores/x/nothing"] {
        case.server.get(path).expect_error(404);
    }
    assert_eq!(case.extension("POST", "items", b"").header("Allow"), "GET, HEAD, DELETE");
    assert_eq!(case.extension("PUT", "export", b"").header("Allow"), "GET, HEAD");
    assert_eq!(case.extension("GET", "import", b"").header("Allow"), "PUT");
}

#[test]
fn a_detailed_list_contains_everything_except_the_values() {
    let case = Case::new();
    let first = case.put("a", &[("metadata", "m\u{e9}")], b"12345").generation();
    let second = case.put("b", &[("time_to_live_sec", "100")], b"").generation();
    case.put("x", &[("time_to_live_sec", "1")], b"gone soon");
    let page = case.extension("GET", "items?limit=1", b"").json();
    assert_eq!(page["data"][0]["key"], "a");
    assert_eq!(page["data"][0]["size"], 5);
    assert_eq!(page["data"][0]["generation"], first);
    assert_eq!(page["data"][0]["metadata_base64"], "bek=");
    assert!(page["data"][0].get("metadata").is_none());
    assert_eq!(page["data"][0]["expires"], serde_json::Value::Null);
    let modified = page["data"][0]["modified"].as_str().unwrap();
    assert_eq!((modified.len(), modified.ends_with('Z')), (27, true), "{modified}");
    std::thread::sleep(Duration::from_millis(1100));
    let cursor = page["meta"]["next_cursor"].as_str().unwrap().replace('=', "%3D");
    let rest = case.extension("GET", &format!("items?cursor={cursor}"), b"").json();
    assert_eq!(rest["data"].as_array().unwrap().len(), 1, "expired items were listed: {rest}");
    assert_eq!((&rest["data"][0]["key"], &rest["data"][0]["metadata"]), (&"b".into(), &"".into()));
    assert_eq!(rest["data"][0]["generation"], second);
    assert!(rest["data"][0]["expires"].as_str().unwrap() > modified);
    assert_eq!(rest["meta"], serde_json::json!({"limit": 1000}));
    case.extension("GET", "items?limit=0", b"").expect_error(400);
    let none = format!("GET /_/v1/stores/{UNKNOWN_STORE}/items");
    case.server.request(&none, &[], b"").expect_error(404);
}

#[test]
fn delete_by_prefix_deletes_only_matching_items() {
    let case = Case::new();
    let lines: String = (0..1203)
        .map(|n| {
            format!(
                "{{\"key\":\"p/{n:04}\",\"value\":\"\"}}\n{{\"key\":\"q{n}\",\"value\":\"\"}}\n"
            )
        })
        .collect();
    case.server.request(&format!("PUT {}/batch", case.store_path()), &[], lines.as_bytes());
    let delete_items = |query: &str| case.extension("DELETE", &format!("items?{query}"), b"");
    assert_eq!(delete_items("prefix=p/&dry_run=true").text(), "{\"matched\":1203}");
    assert_eq!(delete_items("prefix=p/&limit=3").text(), "{\"deleted\":3,\"more\":true}");
    assert_eq!(case.get("p/0002").status, 404);
    assert_eq!(case.get("p/0003").status, 200);
    assert_eq!(delete_items("prefix=p/").text(), "{\"deleted\":1200,\"more\":false}");
    assert_eq!(delete_items("prefix=p/").text(), "{\"deleted\":0,\"more\":false}");
    assert_eq!(delete_items("all=true&dry_run=true").text(), "{\"matched\":1203}");
    for invalid in ["", "prefix=", "all=false", "prefix=a&all=true", "all=true&limit=0"] {
        delete_items(invalid).expect_error(400);
    }
    assert_eq!(delete_items("all=true&limit=1203").text(), "{\"deleted\":1203,\"more\":false}");
    assert_eq!(case.export(), "");
    let none = format!("DELETE /_/v1/stores/{UNKNOWN_STORE}/items?all=true");
    case.server.request(&none, &[], b"").expect_error(404);
}

#[test]
fn an_export_imported_into_another_store_exports_the_same_bytes() {
    let case = Case::new();
    let all: String = (0x20..=0xff_u8).filter(|b| *b != 0x7f).map(char::from).collect();
    let metadata = format!("x{all}\tx");
    case.put("%C3%BC%20%22%2F%2B%25", &[("metadata", &metadata)], &[0xff; 1000]);
    case.put("empty", &[("metadata", "plain \"text\"")], b"");
    case.put("large", &[], &vec![7; 1_000_001]);
    case.put("larger", &[("time_to_live_sec", "4000000000")], &vec![8; (25 << 20) - 1]);
    case.put("last", &[("time_to_live_sec", "900")], b"v");
    let exported = case.export();
    assert_eq!(exported.lines().count(), 5);
    for line in exported.lines() {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(json["value"].is_string() && json["generation"].is_u64(), "{}", &line[..80]);
    }
    let other = case.server.create_store("other");
    let other = Case { server: case.server, id: other };
    assert_eq!(other.import("", &exported), (200, [5, 0, 0], vec![]));
    assert!(other.export() == exported, "the exports differ");
    let moved = other.get("last");
    let line = exported.lines().find(|line| line.starts_with("{\"key\":\"last\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(moved.generation(), line["generation"].as_u64().unwrap());
    // Conditions must use the imported generation, and the next generation must be greater.
    let if_other = [("if-generation-match", "17")];
    assert_eq!(other.put("last", &if_other, b"w").status, 412);
    let generation = moved.generation().to_string();
    let put = other.put("last", &[("if-generation-match", &generation)], b"w");
    assert_eq!(put.status, 200);
    assert!(put.generation() > moved.generation());
    // A batch must accept the same lines and ignore unknown fields.
    let batch = other.server.request(
        &format!("PUT {}/batch", other.store_path()),
        &[],
        exported.as_bytes(),
    );
    assert_eq!(batch.status, 200, "{}", batch.text());
}

#[test]
fn an_export_of_a_prefix_contains_only_matching_items() {
    let case = Case::new();
    for key in ["a", "b%2F1", "b%2F2", "c"] {
        case.put(key, &[], b"v");
    }
    let some = case.extension("GET", "export?prefix=b/", b"").text();
    let keys: Vec<String> = some
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].to_string())
        .collect();
    assert_eq!(keys, ["\"b/1\"", "\"b/2\""]);
    let none = format!("GET /_/v1/stores/{UNKNOWN_STORE}/export");
    case.server.request(&none, &[], b"").expect_error(404);
    let head = case.extension("HEAD", "export", b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn an_http_1_0_export_ends_when_the_connection_closes() {
    let case = Case::new();
    case.put("a", &[], &vec![b'x'; 300_000]);
    let mut stream = TcpStream::connect(("127.0.0.1", case.server.port)).unwrap();
    let request = format!(
        "GET /_/v1/stores/{}/export HTTP/1.0\r\nFastly-Key: {TOKEN}\r\n\
         Connection: keep-alive\r\n\r\n",
        case.id
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let text = String::from_utf8(all).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("Transfer-Encoding") && head.contains("Connection: close"), "{head}");
    assert_eq!(body, case.export());
}

#[test]
fn import_if_exists_overwrites_skips_or_fails() {
    let case = Case::new();
    case.put("there", &[], b"old");
    let line = |key: &str, rest: &str| format!("{{\"key\":\"{key}\",\"value\":\"bmV3\"{rest}}}\n");
    let lines =
        [line("there", ""), line("fresh", ""), line("fresh", ",\"metadata\":\"2\"")].concat();
    assert_eq!(case.import("?if_exists=skip", &lines), (200, [1, 2, 0], vec![]));
    assert_eq!(
        (case.get_value("there"), case.get_value("fresh")),
        (b"old".to_vec(), b"new".to_vec())
    );
    assert_eq!(case.get("fresh").header("Metadata"), "", "the first line with a key must win");
    let taken = vec![
        ("there".to_owned(), 0, "412".to_owned()),
        ("fresh".to_owned(), 1, "412".to_owned()),
        ("fresh".to_owned(), 2, "412".to_owned()),
    ];
    assert_eq!(case.import("?if_exists=fail", &lines), (400, [0, 0, 3], taken));
    assert_eq!(case.import("?if_exists=overwrite", &lines), (200, [3, 0, 0], vec![]));
    assert_eq!(case.get("fresh").header("Metadata"), "2", "the last line with a key must win");
    assert_eq!(case.get_value("there"), b"new");
    for invalid in ["if_exists=maybe", "if_exists=", "if_exists"] {
        let response = case.extension("PUT", &format!("import?{invalid}"), lines.as_bytes());
        assert_eq!(
            response.text(),
            "{\"msg\":\"Bad request\",\"title\":\"Bad request\",\"detail\":\"if_exists must be \
             overwrite, skip or fail\",\"status\":400}"
        );
    }
    let none = format!("PUT /_/v1/stores/{UNKNOWN_STORE}/import");
    case.server.request(&none, &[], b"").expect_error(404);
    // Blank lines must be ignored, and the last line may have no line break.
    let expired = line("gone", ",\"expires\":\"2001-01-01T00:00:00Z\"");
    let spaced = format!("\n  {expired}\n{}", line("late", ",\"time_to_live_sec\":1").trim_end());
    assert_eq!(case.import("", &spaced), (200, [1, 1, 0], vec![]));
    assert_eq!(case.get("gone").status, 404);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(case.get("late").status, 404);
}

#[test]
fn an_invalid_import_line_is_reported_and_the_others_are_written() {
    let case = Case::new();
    let invalid = [
        ("expires", "\"soon\""),
        ("expires", "5"),
        ("expires", "\"2099-01-01T00:00:00Z\",\"time_to_live_sec\":5"),
        ("generation", "0"),
        ("generation", "9007199254740991"),
        ("generation", "9007199254740992"),
        ("generation", "-1"),
        ("modified", "\"1969-12-31T23:59:59Z\""),
        ("modified", "\"1970-01-01T00:30:00+01:00\""),
        ("modified", "\"9999-12-31T23:59:59-01:00\""),
        ("expires", "\"9999-12-31T23:59:59-01:00\""),
        ("metadata_base64", "\"%\""),
        ("metadata_base64", "\"AA==\""),
        ("metadata_base64", "\"YQ==\",\"metadata\":\"a\""),
        ("metadata", "5"),
        ("time_to_live_sec", "0"),
    ];
    for (field, value) in invalid {
        let bad = format!("{{\"key\":\"bad\",\"value\":\"\",\"{field}\":{value}}}\n");
        let good = "{\"key\":\"good\",\"value\":\"\",\"generation\":5,\"unknown\":[1]}\n";
        let response = case.extension("PUT", "import", format!("{bad}{good}").as_bytes());
        assert_eq!(response.status, 400, "{bad}");
        let json = response.json();
        let reason = json["errors"][0]["reason"].as_str().unwrap();
        let named = if value.contains("AA==") { "metadata" } else { field };
        assert!(reason.starts_with(named), "{bad}: {reason}");
        assert_eq!(
            (&json["errors"][0]["key"], &json["errors"][0]["index"]),
            (&"bad".into(), &0.into())
        );
        assert_eq!((&json["written"], &json["failed"]), (&1.into(), &1.into()));
        assert_eq!(case.get("bad").status, 404);
        assert_eq!(case.get("good").generation(), 5);
    }
}

#[test]
fn an_imported_generation_is_at_most_a_day_ahead_of_the_clock() {
    let case = Case::new();
    let now = case.put("now", &[], b"").generation();
    let hours = 3_600_000_000;
    let line = |generation| format!("{{\"key\":\"k\",\"value\":\"\",\"generation\":{generation}}}");
    let ahead = case.extension("PUT", "import", line(now + 25 * hours).as_bytes());
    assert_eq!((ahead.status, &ahead.json()["failed"]), (400, &1.into()));
    assert!(ahead.text().contains("a day ahead of the server's clock"), "{}", ahead.text());
    assert_eq!(case.import("", &line(now + 23 * hours)).0, 200);
    assert!(case.put("k", &[], b"").generation() < now + 24 * hours);
}

#[test]
fn the_server_and_the_command_return_the_same_openapi_document() {
    let case = Case::new();
    let mut client = case.server.connect();
    client.send("GET /_/openapi.json HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let served = client.read_response(false).unwrap();
    assert_eq!((served.status, served.header("Content-Type")), (200, "application/json"));
    let document = served.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let printed = std::process::Command::new(super::support::binary()).arg("openapi").output();
    let printed = printed.unwrap();
    assert!(printed.status.success() && printed.stderr.is_empty());
    assert_eq!(printed.stdout, served.body);
}
