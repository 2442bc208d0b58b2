//! Tests of stores: create, list, describe, rename and delete.

use super::support::{Response, Server};
use super::{
    Case, STORES, TestServer, UNKNOWN_STORE, assert_204, assert_error, assert_put_ok,
    escape_cursor, status_line,
};
use serde_json::{Value, json};
use std::time::Duration;

fn create(server: &Server, body: impl AsRef<[u8]>) -> Response {
    server.request(&format!("POST {STORES}"), &[], body.as_ref())
}

fn list(server: &Server, query: &str) -> Value {
    let response = server.get(&format!("{STORES}{query}"));
    assert_eq!(response.status, 200, "{query}: {response:?}");
    response.json()
}

fn names(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|store| store["name"].as_str().unwrap()).collect()
}

/// Returns whether a text has the format `YYYY-MM-DD HH:MM:SS`.
fn is_time(text: &str) -> bool {
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.chars().map(digits).collect::<String>() == "0000-00-00 00:00:00"
}

#[test]
fn creating_a_store_returns_the_recorded_response() {
    let server = TestServer::start(&[]);
    for name in ["My Störe", "a", "A \\\"quoted\\\" one", "~"] {
        let response = create(&server, format!("{{\"name\":\"a{name}\"}}"));
        assert_eq!(status_line(&response), "HTTP/1.1 201 Created");
        assert_eq!(
            (response.header("Cache-Control"), response.header("Pragma")),
            ("no-store", "no-cache")
        );
        let store = response.json();
        let text = |field: &str| store[field].as_str().unwrap();
        let (id, created) = (text("id"), text("created_at"));
        let body = format!(
            "{{\"id\":\"{id}\",\"name\":\"a{name}\",\"created_at\":\"{created}\",\
             \"updated_at\":\"{created}\"}}"
        );
        assert_eq!(response.text(), body);
        assert_eq!(id.len(), 22);
        assert!(id.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()), "{id}");
        assert!(is_time(created), "{created}");
        let described = server.get(&format!("{STORES}/{id}"));
        assert_eq!(status_line(&described), "HTTP/1.1 200 OK");
        assert_eq!(described.text(), body);
    }
    // Send the name in the form in which the Python client serializes it.
    let response = create(&server, "{\"name\": \"My St\\u00f6re\", \"other\": [1]}");
    assert_eq!(response.json()["name"], "My Störe");
}

#[test]
fn store_names_have_1_to_255_characters_and_no_control_characters() {
    let server = TestServer::start(&[]);
    let longest = format!("a{}", "ö".repeat(254));
    let widest = format!("a{}", "🎈".repeat(254));
    let strange = "a~`!@#$%^&*()=+[]{};:'\"<>,./?";
    for name in [
        "a", "Z", "a b", "A-b_c.1", strange, "a/..", &longest, &widest, "a ", "1a", "2024-site",
        "_x", "-a", " a", "Ünï", "\u{1d41a}", "0c5m1x2v7q9r4t8k3h6j1a", "\"", "{", "..",
    ] {
        let response = create(&server, json!({ "name": name }).to_string());
        assert_eq!(response.status, 201, "{name}: {response:?}");
        assert_eq!(response.json()["name"], name);
    }
    let total = list(&server, "")["meta"]["total"].clone();
    for name in [
        "",
        "\ta",
        "\u{85}a",
        "a\tb",
        "a\nb",
        "a\u{0}",
        "a\u{1f}",
        "a\u{7f}",
        "a\u{80}",
        &format!("{longest}ö"),
        &"a".repeat(256),
    ] {
        assert_error(&create(&server, json!({ "name": name }).to_string()), 400, "name");
    }
    assert_eq!(list(&server, "")["meta"]["total"], total);
}

#[test]
fn a_body_without_a_store_name_returns_400_and_creates_nothing() {
    let server = TestServer::start(&[]);
    for body in [
        "", "x", "{", "null", "[]", "\"a\"", "1", "{}", "{\"Name\":\"a\"}", "[{\"name\":\"a\"}]",
        "{\"name\":\"a\"}}", "{\"name\":\"a\"", "{'name':'a'}", "name=a",
        "\u{feff}{\"name\":\"a\"}",
    ] {
        assert_error(&create(&server, body), 400, "the");
    }
    for body in ["1", "null", "{}", "[\"a\"]", "true"] {
        let response = create(&server, format!("{{\"name\":{body}}}"));
        assert_eq!(response.expect_error(400), "name must be a string");
    }
    assert_error(&create(&server, b"{\"name\":\"a\xff\"}"), 400, "the");
    let large = format!("{{\"name\":\"a\",\"x\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(create(&server, large).expect_error(400), "the body must be at most 65536 bytes");
    let endless = format!("{{\"name\":\"a\",\"x\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    assert_error(&create(&server, endless), 400, "the");
    // Send the body that the Python client sends if it is called without a model.
    let headers = [("Content-Type", "application/json")];
    server.request(&format!("POST {STORES}"), &headers, b"").expect_error(400);
    assert_eq!(list(&server, ""), json!({"data": [], "meta": {"limit": 1000, "total": 0}}));
}

#[test]
fn a_store_can_be_created_with_any_content_type_and_a_chunked_body() {
    let case = Case::new();
    for (name, kind) in [("a", "application/json"), ("b", "text/plain"), ("c", "")] {
        let body = json!({ "name": name }).to_string();
        let headers = [("Content-Type", kind), ("Accept", "text/html")];
        let response = case.server.request(&format!("POST {STORES}"), &headers, body.as_bytes());
        assert_eq!(response.status, 201, "{kind}");
        assert_eq!(response.header("Content-Type"), "application/json");
    }
    let mut client = case.send_head(&format!("POST {STORES}"), "Transfer-Encoding: chunked\r\n");
    client.send("8\r\n{\"name\":\r\n4\r\n\"d\"}\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.read_response(false).unwrap().json()["name"], "d");
    let mut client = case.send_head(&format!("POST {STORES}"), "Content-Length: 20\r\n");
    client.send("{\"name\":\"cut\"}").unwrap();
    client.shutdown_write();
    client.read_response(false).unwrap().expect_error(400);
    assert_eq!(names(&list(&case.server, "")), ["a", "b", "c", "d", "main"]);
}

#[test]
fn location_accepts_only_known_values_and_is_not_returned() {
    let server = TestServer::start(&[]);
    for (at, location) in ["US", "EU", "ASIA", "AUS", ""].iter().enumerate() {
        let request = format!("POST {STORES}?location={location}");
        let response = server.request(&request, &[], format!("{{\"name\":\"s{at}\"}}").as_bytes());
        assert_eq!(response.status, 201, "{location}");
        assert_eq!(response.json().as_object().unwrap().len(), 4);
    }
    for wrong in ["us", "UK", "US,EU", "%20US", "US&location=US", "1"] {
        let request = format!("POST {STORES}?location={wrong}");
        assert_error(&server.request(&request, &[], b"{\"name\":\"x\"}"), 400, "location");
    }
    assert_eq!(list(&server, "")["meta"]["total"], 5);
}

#[test]
fn a_duplicate_store_name_returns_400_with_the_recorded_message() {
    let server = TestServer::start(&[]);
    let first = create(&server, "{\"name\":\"my-store\"}").json();
    let response = create(&server, "{\"name\":\"my-store\"}");
    assert_eq!(status_line(&response), "HTTP/1.1 400 Bad Request");
    let body = "{\"msg\":\"Bad request\",\"title\":\"Bad request\",\
                \"detail\":\"store with name 'my-store' already exists\",\"status\":400}";
    assert_eq!(response.text(), body);
    for other in ["My-store", "my-store ", "my_store", "my-stor", "my-store\\u0301"] {
        assert_eq!(create(&server, format!("{{\"name\":\"{other}\"}}")).status, 201, "{other}");
    }
    // The name of a deleted store can be used again.
    let id = first["id"].as_str().unwrap();
    assert_204(&server.request(&format!("DELETE {STORES}/{id}"), &[], b""));
    let second = create(&server, "{\"name\":\"my-store\"}");
    assert_eq!(second.status, 201);
    assert_ne!(second.json()["id"], first["id"]);
}

#[test]
fn stores_are_sorted_by_their_names_in_ascii_upper_case() {
    let server = TestServer::start(&[]);
    assert_eq!(server.get(STORES).text(), "{\"data\":[],\"meta\":{\"limit\":1000,\"total\":0}}");
    let order = [
        "a", "a b", "a1", "aB", "Ab", "b", "TEST", "Test", "test", "test-store", "TestStoreA",
        "test_store", "zz", "zé",
    ];
    let mut expected = order;
    expected.sort_by_key(|name| (name.to_ascii_uppercase(), (*name).to_owned()));
    assert_eq!(
        expected[8..12],
        ["test", "test-store", "TestStoreA", "test_store"],
        "the order must match the recording"
    );
    for at in [5, 0, 13, 7, 2, 9, 4, 11, 1, 12, 3, 6, 8, 10] {
        server.create_store(order[at]);
    }
    let all = list(&server, "");
    assert_eq!(names(&all), expected);
    assert_eq!(all["meta"], json!({"limit": 1000, "total": 14}));
    for limit in [1, 2, 3, 5, 13, 14] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = list(&server, &format!("?limit={limit}&cursor={cursor}"));
            assert_eq!(
                (&page["meta"]["limit"], &page["meta"]["total"]),
                (&json!(limit), &json!(14))
            );
            seen.extend(names(&page).into_iter().map(str::to_owned));
            match page["meta"].get("next_cursor") {
                None => break,
                Some(next) => {
                    assert_eq!(names(&page).len(), limit, "a page with a cursor must be full");
                    cursor = escape_cursor(next.as_str().unwrap());
                }
            }
        }
        assert_eq!(seen, expected, "{limit}");
    }
}

#[test]
fn a_page_of_stores_has_a_cursor_for_the_next_page() {
    let server = TestServer::start(&[]);
    let [a, b] = ["a", "b"].map(|name| create(&server, json!({ "name": name }).to_string()).text());
    let text = |query: &str| server.get(&format!("{STORES}{query}")).text();
    let first =
        format!("{{\"data\":[{a}],\"meta\":{{\"limit\":1,\"total\":2,\"next_cursor\":\"CgFh\"}}}}");
    assert_eq!(text("?limit=1"), first);
    assert_eq!(
        text("?limit=2"),
        format!("{{\"data\":[{a},{b}],\"meta\":{{\"limit\":2,\"total\":2}}}}")
    );
    let rest = format!("{{\"data\":[{b}],\"meta\":{{\"limit\":1000,\"total\":2}}}}");
    assert_eq!(text("?cursor=CgFh"), rest);
    assert_eq!(text("?limit=5000&cursor=CgFh&name="), rest);
    // The cursor must stay valid when the store it refers to is renamed or deleted.
    let id = serde_json::from_str::<Value>(&a).unwrap()["id"].as_str().unwrap().to_owned();
    server.request(&format!("PUT {STORES}/{id}"), &[], b"{\"name\":\"zz\"}");
    assert_eq!(names(&list(&server, "?cursor=CgFh")), ["b", "zz"]);
    assert_204(&server.request(&format!("DELETE {STORES}/{id}"), &[], b""));
    let rest = rest.replace("\"total\":2", "\"total\":1");
    assert_eq!(text("?cursor=CgFh"), rest);
    for wrong in ["!", "CgFh%3D", "apple", "Ev8%3D"] {
        assert_error(&server.get(&format!("{STORES}?cursor={wrong}")), 400, "cursor");
    }
    for wrong in ["", "=", "=0", "=-1", "=x", "=1&limit=1"] {
        assert_error(&server.get(&format!("{STORES}?limit{wrong}")), 400, "limit");
    }
    assert_error(&server.get(&format!("{STORES}?name=a&name=a")), 400, "name");
}

#[test]
fn the_name_filter_is_exact_and_combines_with_limit_and_cursor() {
    let server = TestServer::start(&[]);
    for name in ["a b", "A b", "a+b", "c"] {
        server.create_store(name);
    }
    for (query, found, total) in [
        ("?name=a+b", &["a b"][..], 1),
        ("?name=a%20b", &["a b"], 1),
        ("?name=A+b", &["A b"], 1),
        ("?name=a%2Bb&limit=1", &["a+b"], 1),
        ("?name=a", &[], 0),
        ("?name=C", &[], 0),
        ("?name=1", &[], 0),
        ("?name=c&cursor=CgFi", &["c"], 1),
        ("?name=c&cursor=CgFj", &[], 1),
        ("?name=a+b&cursor=CgFj", &[], 1),
    ] {
        let page = list(&server, query);
        assert_eq!(names(&page), found, "{query}");
        assert_eq!(page["meta"]["total"], total, "{query}");
        assert!(page["meta"].get("next_cursor").is_none(), "{query}");
    }
    assert_eq!(names(&list(&server, "?name=")).len(), 4, "an empty name must be ignored");
}

#[test]
fn an_unknown_or_malformed_store_id_returns_404() {
    let case = Case::new();
    let upper = case.id.to_ascii_uppercase();
    let (short, long) = (&case.id[1..], format!("{}0", case.id));
    for id in [UNKNOWN_STORE, "x", "..", "%00", "%ff", "%", "a%2Fb", short, &long, &upper, "*"] {
        for (method, body) in [("GET", ""), ("PUT", "{\"name\":\"n\"}"), ("DELETE", "")] {
            let response =
                case.server.request(&format!("{method} {STORES}/{id}"), &[], body.as_bytes());
            assert_eq!(response.expect_error(404), "no store with that id", "{method} {id}");
        }
        assert_eq!(case.server.request(&format!("HEAD {STORES}/{id}"), &[], b"").status, 404);
        // An unknown store must be reported before an invalid name.
        case.server.request(&format!("PUT {STORES}/{id}"), &[], b"x").expect_error(404);
        case.server.get(&format!("{STORES}/{id}/keys")).expect_error(404);
    }
    assert_eq!(names(&list(&case.server, "")), ["main"]);
}

#[test]
fn a_rename_returns_an_empty_200_and_moves_the_store_in_the_list() {
    let case = Case::new();
    case.put_ok("k", &[("metadata", "m")], b"v");
    case.server.create_store("b");
    let describe = || case.server.get(&case.store_path()).json();
    let before = describe();
    std::thread::sleep(Duration::from_millis(1100));
    let rename = |body: &str| {
        case.server.request(&format!("PUT {}", case.store_path()), &[], body.as_bytes())
    };
    assert_put_ok(&rename("{\"name\":\"main\"}"));
    assert_eq!(describe(), before, "renaming to the same name must change nothing");
    assert_put_ok(&rename("{\"name\":\"a\"}"));
    let after = describe();
    assert_eq!((&after["id"], &after["created_at"]), (&before["id"], &before["created_at"]));
    assert_eq!(after["name"], "a");
    let times = [&before, &after].map(|store| store["updated_at"].as_str().unwrap().to_owned());
    assert!(times[0] < times[1] && is_time(&times[1]), "{times:?}");
    assert_eq!(names(&list(&case.server, "")), ["a", "b"]);
    assert_eq!(list(&case.server, "?name=main")["meta"]["total"], 0);
    assert_eq!(case.get("k").header("Metadata"), "m");
    assert_put_ok(&rename("{\"name\":\"c\"}"));
    assert_put_ok(&rename("{\"name\":\"C\"}"));
    assert_eq!(names(&list(&case.server, "")), ["b", "C"]);
    case.server.create_store("main");
}

#[test]
fn an_invalid_rename_returns_400_and_changes_nothing() {
    let case = Case::new();
    case.server.create_store("taken");
    let before = list(&case.server, "");
    let rename = |body: &str| {
        case.server.request(&format!("PUT {}", case.store_path()), &[], body.as_bytes())
    };
    assert_eq!(
        rename("{\"name\":\"taken\"}").expect_error(400),
        "store with name 'taken' already exists"
    );
    for name in ["", "\\t", "a\\n", &"a".repeat(256)] {
        assert_error(&rename(&format!("{{\"name\":\"{name}\"}}")), 400, "name");
    }
    for body in ["", "x", "{}", "[]"] {
        assert_error(&rename(body), 400, "the");
    }
    assert_eq!(list(&case.server, ""), before);
}

#[test]
fn a_store_with_items_is_not_deleted() {
    let case = Case::new();
    let delete = |query: &str| {
        case.server.request(&format!("DELETE {}{query}", case.store_path()), &[], b"")
    };
    case.put_ok("k", &[], b"v");
    for query in ["", "?force=true", "?force=maybe"] {
        let response = delete(query);
        assert_eq!(status_line(&response), "HTTP/1.1 409 Conflict");
        response.expect_error(409);
    }
    assert_eq!(case.get_value("k"), b"v", "the store must be unchanged");
    case.put_ok("l", &[], b"");
    for key in ["k", "l"] {
        assert_204(&case.delete(key, &[]));
    }
    assert_204(&delete(""));
    assert_eq!(delete("").expect_error(404), "no store with that id");
    for response in [case.get("k"), case.put("k", &[], b"v"), case.list(""), case.delete("k", &[])]
    {
        assert_eq!(response.expect_error(404), "no store with that id");
    }
    assert_eq!(list(&case.server, "")["meta"]["total"], 0);
    // A new store with the same name must be empty.
    let id = case.server.create_store("main");
    let keys = case.server.get(&format!("{STORES}/{id}/keys"));
    assert_eq!(keys.text(), "{\"data\":[],\"meta\":{\"limit\":1000}}");
}

#[test]
fn an_empty_store_is_deleted_with_any_force_parameter() {
    let server = TestServer::start(&[]);
    for query in ["", "?force=true", "?force=false", "?force=maybe", "?force"] {
        let id = server.create_store("s");
        assert_204(&server.request(&format!("DELETE {STORES}/{id}{query}"), &[], b""));
    }
}
