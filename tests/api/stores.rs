//! Stores.

use crate::support::{Response, Server};
use crate::{Case, NO_STORE, STORES, accepted, gone, refused_for, status_line};
use serde_json::{Value, json};
use std::time::Duration;

fn create(server: &Server, body: impl AsRef<[u8]>) -> Response {
    server.request(&format!("POST {STORES}"), &[], body.as_ref())
}

fn list(server: &Server, query: &str) -> Value {
    let answer = server.request(&format!("GET {STORES}{query}"), &[], b"");
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()
}

fn names(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|store| store["name"].as_str().unwrap()).collect()
}

/// Checks `YYYY-MM-DD HH:MM:SS`.
fn is_time(text: &str) -> bool {
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.chars().map(digits).collect::<String>() == "0000-00-00 00:00:00"
}

fn form(cursor: &Value) -> String {
    cursor.as_str().unwrap().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

#[test]
fn a_created_store_is_answered_as_recorded_to_the_byte() {
    let server = Server::memory(&[]);
    for name in ["My Störe", "a", "A \\\"quoted\\\" one", "~"] {
        let answer = create(&server, format!("{{\"name\":\"a{name}\"}}"));
        assert_eq!(status_line(&answer), "HTTP/1.1 201 Created");
        assert_eq!(
            (answer.header("Cache-Control"), answer.header("Pragma")),
            ("no-store", "no-cache")
        );
        let store = answer.json();
        let text = |field: &str| store[field].as_str().unwrap();
        let (id, created) = (text("id"), text("created_at"));
        let body = format!(
            "{{\"id\":\"{id}\",\"name\":\"a{name}\",\"created_at\":\"{created}\",\
             \"updated_at\":\"{created}\"}}"
        );
        assert_eq!(answer.text(), body);
        assert_eq!(id.len(), 22);
        assert!(id.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()), "{id}");
        assert!(is_time(created), "{created}");
        let described = server.request(&format!("GET {STORES}/{id}"), &[], b"");
        assert_eq!(status_line(&described), "HTTP/1.1 200 OK");
        assert_eq!(described.text(), body);
    }
    // As Python writes it.
    let answer = create(&server, "{\"name\": \"My St\\u00f6re\", \"other\": [1]}");
    assert_eq!(answer.json()["name"], "My Störe");
}

#[test]
fn names_of_1_to_255_characters_that_begin_with_a_letter_are_taken() {
    let server = Server::memory(&[]);
    let longest = format!("a{}", "ö".repeat(254));
    let widest = format!("a{}", "🎈".repeat(254));
    let strange = "a~`!@#$%^&*()=+[]{};:'\"<>,./?";
    for name in ["a", "Z", "a b", "A-b_c.1", strange, "a/..", &longest, &widest, "a "] {
        let answer = create(&server, json!({ "name": name }).to_string());
        assert_eq!(answer.status, 201, "{name}: {answer:?}");
        assert_eq!(answer.json()["name"], name);
    }
    let total = list(&server, "")["meta"]["total"].clone();
    for name in [
        "",
        "1a",
        " a",
        "-a",
        "_",
        "öa",
        "\u{1d41a}",
        "a\tb",
        "a\nb",
        "a\u{0}",
        "a\u{1f}",
        "a\u{7f}",
        "a\u{80}",
        &format!("{longest}ö"),
        &"a".repeat(256),
    ] {
        refused_for(&create(&server, json!({ "name": name }).to_string()), 400, "name");
    }
    assert_eq!(list(&server, "")["meta"]["total"], total);
}

#[test]
fn a_body_that_names_nothing_is_400_and_creates_nothing() {
    let server = Server::memory(&[]);
    for body in [
        "",
        "x",
        "{",
        "null",
        "[]",
        "\"a\"",
        "1",
        "{}",
        "{\"Name\":\"a\"}",
        "[{\"name\":\"a\"}]",
        "{\"name\":\"a\"}}",
        "{\"name\":\"a\"",
        "{'name':'a'}",
        "name=a",
        "\u{feff}{\"name\":\"a\"}",
    ] {
        refused_for(&create(&server, body), 400, "the");
    }
    for body in ["1", "null", "{}", "[\"a\"]", "true"] {
        let answer = create(&server, format!("{{\"name\":{body}}}"));
        assert_eq!(answer.expect_error(400), "name must be a string");
    }
    refused_for(&create(&server, b"{\"name\":\"a\xff\"}"), 400, "the");
    let large = format!("{{\"name\":\"a\",\"x\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(create(&server, large).expect_error(400), "the body must have at most 65536 bytes");
    let endless = format!("{{\"name\":\"a\",\"x\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    refused_for(&create(&server, endless), 400, "the");
    // As Python sends it without a model.
    let fields = [("Content-Type", "application/json")];
    server.request(&format!("POST {STORES}"), &fields, b"").expect_error(400);
    assert_eq!(list(&server, ""), json!({"data": [], "meta": {"limit": 1000, "total": 0}}));
}

#[test]
fn any_content_type_and_a_chunked_body_create_a_store() {
    let case = Case::new();
    for (name, kind) in [("a", "application/json"), ("b", "text/plain"), ("c", "")] {
        let body = json!({ "name": name }).to_string();
        let fields = [("Content-Type", kind), ("Accept", "text/html")];
        let answer = case.server.request(&format!("POST {STORES}"), &fields, body.as_bytes());
        assert_eq!(answer.status, 201, "{kind}");
        assert_eq!(answer.header("Content-Type"), "application/json");
    }
    let mut client = case.begin(&format!("POST {STORES}"), "Transfer-Encoding: chunked\r\n");
    client.send("8\r\n{\"name\":\r\n4\r\n\"d\"}\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.read_response(false).unwrap().json()["name"], "d");
    let mut client = case.begin(&format!("POST {STORES}"), "Content-Length: 20\r\n");
    client.send("{\"name\":\"cut\"}").unwrap();
    client.shutdown_write();
    client.read_response(false).unwrap().expect_error(400);
    assert_eq!(names(&list(&case.server, "")), ["a", "b", "c", "d", "main"]);
}

#[test]
fn a_location_is_one_of_four_and_not_echoed() {
    let server = Server::memory(&[]);
    for (at, location) in ["US", "EU", "ASIA", "AUS", ""].iter().enumerate() {
        let request = format!("POST {STORES}?location={location}");
        let answer = server.request(&request, &[], format!("{{\"name\":\"s{at}\"}}").as_bytes());
        assert_eq!(answer.status, 201, "{location}");
        assert_eq!(answer.json().as_object().unwrap().len(), 4);
    }
    for wrong in ["us", "UK", "US,EU", "%20US", "US&location=US", "1"] {
        let request = format!("POST {STORES}?location={wrong}");
        refused_for(&server.request(&request, &[], b"{\"name\":\"x\"}"), 400, "location");
    }
    assert_eq!(list(&server, "")["meta"]["total"], 5);
}

#[test]
fn a_taken_name_is_400_by_the_words_that_clients_know() {
    let server = Server::memory(&[]);
    let first = create(&server, "{\"name\":\"my-store\"}").json();
    let answer = create(&server, "{\"name\":\"my-store\"}");
    assert_eq!(status_line(&answer), "HTTP/1.1 400 Bad Request");
    let body = "{\"msg\":\"Bad request\",\"title\":\"Bad request\",\
                \"detail\":\"store with name 'my-store' already exists\",\"status\":400}";
    assert_eq!(answer.text(), body);
    for other in ["My-store", "my-store ", "my_store", "my-stor", "my-store\\u0301"] {
        assert_eq!(create(&server, format!("{{\"name\":\"{other}\"}}")).status, 201, "{other}");
    }
    // A name is free again when its store is gone.
    let id = first["id"].as_str().unwrap();
    gone(&server.request(&format!("DELETE {STORES}/{id}"), &[], b""));
    let second = create(&server, "{\"name\":\"my-store\"}");
    assert_eq!(second.status, 201);
    assert_ne!(second.json()["id"], first["id"]);
}

#[test]
fn stores_are_listed_by_name_with_letters_folded_to_upper_case() {
    let server = Server::memory(&[]);
    assert_eq!(
        server.request(&format!("GET {STORES}"), &[], b"").text(),
        "{\"data\":[],\"meta\":{\"limit\":1000,\"total\":0}}"
    );
    let order = [
        "a",
        "a b",
        "a1",
        "aB",
        "Ab",
        "b",
        "TEST",
        "Test",
        "test",
        "test-store",
        "TestStoreA",
        "test_store",
        "zz",
        "zé",
    ];
    let mut expected = order;
    expected.sort_by_key(|name| (name.to_ascii_uppercase(), (*name).to_owned()));
    assert_eq!(expected[8..12], ["test", "test-store", "TestStoreA", "test_store"], "as recorded");
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
                    assert_eq!(names(&page).len(), limit, "full while more follow");
                    cursor = form(next);
                }
            }
        }
        assert_eq!(seen, expected, "{limit}");
    }
}

#[test]
fn a_page_of_stores_says_where_the_next_begins() {
    let server = Server::memory(&[]);
    let [a, b] = ["a", "b"].map(|name| create(&server, json!({ "name": name }).to_string()).text());
    let text = |query: &str| server.request(&format!("GET {STORES}{query}"), &[], b"").text();
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
    // The cursor holds when its store is gone or has another name.
    let id = serde_json::from_str::<Value>(&a).unwrap()["id"].as_str().unwrap().to_owned();
    server.request(&format!("PUT {STORES}/{id}"), &[], b"{\"name\":\"zz\"}");
    assert_eq!(names(&list(&server, "?cursor=CgFh")), ["b", "zz"]);
    gone(&server.request(&format!("DELETE {STORES}/{id}"), &[], b""));
    let rest = rest.replace("\"total\":2", "\"total\":1");
    assert_eq!(text("?cursor=CgFh"), rest);
    for wrong in ["!", "CgFh%3D", "apple", "Ev8%3D"] {
        refused_for(
            &server.request(&format!("GET {STORES}?cursor={wrong}"), &[], b""),
            400,
            "cursor",
        );
    }
    for wrong in ["", "=", "=0", "=-1", "=x", "=1&limit=1"] {
        refused_for(&server.request(&format!("GET {STORES}?limit{wrong}"), &[], b""), 400, "limit");
    }
    refused_for(&server.request(&format!("GET {STORES}?name=a&name=a"), &[], b""), 400, "name");
}

#[test]
fn a_name_filters_the_list_exactly_and_goes_with_limit_and_cursor() {
    let server = Server::memory(&[]);
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
    assert_eq!(names(&list(&server, "?name=")).len(), 4, "an empty name is none");
}

#[test]
fn an_unknown_or_malformed_id_is_404() {
    let case = Case::new();
    let upper = case.id.to_ascii_uppercase();
    let (short, long) = (&case.id[1..], format!("{}0", case.id));
    for id in [NO_STORE, "x", "..", "%00", "%ff", "%", "a%2Fb", short, &long, &upper, "*"] {
        for (method, body) in [("GET", ""), ("PUT", "{\"name\":\"n\"}"), ("DELETE", "")] {
            let answer =
                case.server.request(&format!("{method} {STORES}/{id}"), &[], body.as_bytes());
            assert_eq!(answer.expect_error(404), "no store with that id", "{method} {id}");
        }
        assert_eq!(case.server.request(&format!("HEAD {STORES}/{id}"), &[], b"").status, 404);
        // That the store is not there is said before its new name is judged.
        case.server.request(&format!("PUT {STORES}/{id}"), &[], b"x").expect_error(404);
        case.server.request(&format!("GET {STORES}/{id}/keys"), &[], b"").expect_error(404);
    }
    assert_eq!(names(&list(&case.server, "")), ["main"]);
}

#[test]
fn a_rename_answers_an_empty_200_and_moves_the_store() {
    let case = Case::new();
    case.stored("k", &[("metadata", "m")], b"v");
    case.server.create_store("b");
    let describe = || case.server.request(&format!("GET {}", case.at()), &[], b"").json();
    let before = describe();
    std::thread::sleep(Duration::from_millis(1100));
    let rename =
        |body: &str| case.server.request(&format!("PUT {}", case.at()), &[], body.as_bytes());
    accepted(&rename("{\"name\":\"main\"}"));
    assert_eq!(describe(), before, "the same name is no change");
    accepted(&rename("{\"name\":\"a\"}"));
    let after = describe();
    assert_eq!((&after["id"], &after["created_at"]), (&before["id"], &before["created_at"]));
    assert_eq!(after["name"], "a");
    let times = [&before, &after].map(|store| store["updated_at"].as_str().unwrap().to_owned());
    assert!(times[0] < times[1] && is_time(&times[1]), "{times:?}");
    assert_eq!(names(&list(&case.server, "")), ["a", "b"]);
    assert_eq!(list(&case.server, "?name=main")["meta"]["total"], 0);
    assert_eq!(case.get("k").header("Metadata"), "m");
    accepted(&rename("{\"name\":\"c\"}"));
    accepted(&rename("{\"name\":\"C\"}"));
    assert_eq!(names(&list(&case.server, "")), ["b", "C"]);
    case.server.create_store("main");
}

#[test]
fn a_wrong_rename_is_400_and_changes_nothing() {
    let case = Case::new();
    case.server.create_store("taken");
    let before = list(&case.server, "");
    let rename =
        |body: &str| case.server.request(&format!("PUT {}", case.at()), &[], body.as_bytes());
    assert_eq!(
        rename("{\"name\":\"taken\"}").expect_error(400),
        "store with name 'taken' already exists"
    );
    for name in ["", "1", "a\\n", &"a".repeat(256)] {
        refused_for(&rename(&format!("{{\"name\":\"{name}\"}}")), 400, "name");
    }
    for body in ["", "x", "{}", "[]"] {
        refused_for(&rename(body), 400, "the");
    }
    assert_eq!(list(&case.server, ""), before);
}

#[test]
fn a_store_with_items_is_not_deleted_but_an_emptied_one_is() {
    let case = Case::new();
    let delete =
        |query: &str| case.server.request(&format!("DELETE {}{query}", case.at()), &[], b"");
    case.stored("k", &[], b"v");
    for query in ["", "?force=true", "?force=maybe"] {
        let answer = delete(query);
        assert_eq!(status_line(&answer), "HTTP/1.1 409 Conflict");
        answer.expect_error(409);
    }
    assert_eq!(case.value("k"), b"v", "it can be written to as before");
    case.stored("l", &[], b"");
    for key in ["k", "l"] {
        gone(&case.delete(key, &[]));
    }
    gone(&delete(""));
    assert_eq!(delete("").expect_error(404), "no store with that id");
    for answer in [case.get("k"), case.put("k", &[], b"v"), case.list(""), case.delete("k", &[])] {
        assert_eq!(answer.expect_error(404), "no store with that id");
    }
    assert_eq!(list(&case.server, "")["meta"]["total"], 0);
    // A new store of that name has nothing of the old one.
    let id = case.server.create_store("main");
    let keys = case.server.request(&format!("GET {STORES}/{id}/keys"), &[], b"");
    assert_eq!(keys.text(), "{\"data\":[],\"meta\":{\"limit\":1000}}");
}

#[test]
fn an_empty_store_is_deleted_whatever_force_says() {
    let server = Server::memory(&[]);
    for query in ["", "?force=true", "?force=false", "?force=maybe", "?force"] {
        let id = server.create_store("s");
        gone(&server.request(&format!("DELETE {STORES}/{id}{query}"), &[], b""));
    }
}
