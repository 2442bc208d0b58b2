//! Limited tokens: who may do what, on every route; how they are made, listed and revoked.

use super::{NO_STORE, STORES};
use crate::support::{Answer, Server};
use serde_json::{Value, json};
use std::time::Duration;

const TOKENS: &str = "/_/v1/tokens";
/// A secret of the right form that was never given out.
const NO_SECRET: &str = "sf_0000000000000000000000000000000000000000000";

/// One request with this token.
fn ask(server: &Server, secret: &str, request: &str, body: &str) -> Answer {
    let head = format!("{request} HTTP/1.1\r\nHost: h\r\nFastly-Key: {secret}\r\n");
    let mut client = server.connect();
    client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).unwrap();
    client.answer(request.starts_with("HEAD")).unwrap()
}

/// Makes a token; its id and its secret.
fn made(server: &Server, body: &Value) -> (String, String) {
    let answer = server.ask(&format!("POST {TOKENS}"), &[], body.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{body}: {}", answer.text());
    let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
    (text("id"), text("access_token"))
}

fn made_for(server: &Server, scope: &str, stores: &[&str], prefix: &str) -> String {
    let body = json!({"name": "n", "scope": scope, "stores": stores, "prefix": prefix});
    made(server, &body).1
}

/// Soon, by RFC 3339.
#[allow(clippy::disallowed_methods, reason = "the server's clock is this one")]
fn in_one_second() -> String {
    let at = std::time::SystemTime::now() + Duration::from_millis(1000);
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
    steadfast::wire::rfc3339(u64::try_from(since.as_micros()).unwrap())
}

/// Requests and their statuses for the root token and tokens that are: global; global:read; global
/// for one store; global with a prefix; global:read with a prefix. What stands in braces is filled
/// in: `mine` is the store of the fourth, `fresh` and `token` are made for each request.
type Row = (&'static str, &'static str, [u16; 6]);

const ROWS: &[Row] = &[
    ("GET /verify", "", [200; 6]),
    ("HEAD /verify", "", [200; 6]),
    ("GET /current_user", "", [200; 6]),
    ("HEAD /current_user", "", [200; 6]),
    ("GET /tokens/self", "", [200; 6]),
    ("HEAD /tokens/self", "", [200; 6]),
    ("POST /tokens/self", "", [405; 6]),
    ("GET /enabled-products/v1/kv_store", "", [200; 6]),
    ("HEAD /enabled-products/v1/kv_store", "", [200; 6]),
    ("PUT /enabled-products/v1/kv_store", "", [200, 200, 403, 200, 200, 403]),
    ("DELETE /enabled-products/v1/kv_store", "", [204, 204, 403, 204, 204, 403]),
    ("GET /metrics", "", [200, 200, 200, 403, 403, 403]),
    ("HEAD /metrics", "", [200, 200, 200, 403, 403, 403]),
    ("GET /_/v1/tokens", "", [200, 403, 403, 403, 403, 403]),
    ("HEAD /_/v1/tokens", "", [200, 403, 403, 403, 403, 403]),
    ("POST /_/v1/tokens", r#"{"name":"n","scope":"global"}"#, [201, 403, 403, 403, 403, 403]),
    ("DELETE /_/v1/tokens/{token}", "", [204, 403, 403, 403, 403, 403]),
    ("DELETE /_/v1/tokens/x", "", [404, 403, 403, 403, 403, 403]),
    ("GET /resources/stores/kv", "", [200; 6]),
    ("HEAD /resources/stores/kv", "", [200; 6]),
    ("POST /resources/stores/kv", r#"{"name":"{n}"}"#, [201, 201, 403, 403, 403, 403]),
    ("GET /resources/stores/kv/{mine}", "", [200; 6]),
    ("HEAD /resources/stores/kv/{mine}", "", [200; 6]),
    ("GET /resources/stores/kv/{other}", "", [200, 200, 200, 403, 200, 200]),
    ("GET /resources/stores/kv/x", "", [404, 404, 404, 403, 404, 404]),
    ("PUT /resources/stores/kv/{mine}", r#"{"name":"{n}"}"#, [200, 200, 403, 403, 403, 403]),
    ("PUT /resources/stores/kv/{other}", r#"{"name":"{n}"}"#, [200, 200, 403, 403, 403, 403]),
    ("DELETE /resources/stores/kv/{mine}", "", [409, 409, 403, 403, 403, 403]),
    ("DELETE /resources/stores/kv/{fresh}", "", [204, 204, 403, 403, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys", "", [200, 200, 200, 200, 403, 403]),
    ("HEAD /resources/stores/kv/{mine}/keys", "", [200, 200, 200, 200, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys?prefix=in/", "", [200; 6]),
    ("GET /resources/stores/kv/{mine}/keys?prefix=in%2Fk&limit=1", "", [200; 6]),
    ("GET /resources/stores/kv/{mine}/keys?prefix=in", "", [200, 200, 200, 200, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys?prefix=", "", [200, 200, 200, 200, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys?prefix=in/&prefix=", "", [400; 6]),
    ("GET /resources/stores/kv/{other}/keys?prefix=in/", "", [200, 200, 200, 403, 200, 200]),
    ("PUT /resources/stores/kv/{mine}/keys", "", [405, 405, 403, 405, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys/in%2Fk", "", [200; 6]),
    ("GET /resources/stores/kv/{mine}/keys/i%6e/k", "", [200; 6]),
    ("GET /resources/stores/kv/{mine}/keys/in", "", [404, 404, 404, 404, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys/in%252Fk", "", [404, 404, 404, 404, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys/%zz", "", [400, 400, 400, 400, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys/in/%zz", "", [400, 400, 400, 400, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys/in/../out", "", [400; 6]),
    ("GET /resources/stores/kv/{mine}/keys/out", "", [200, 200, 200, 200, 403, 403]),
    ("HEAD /resources/stores/kv/{mine}/keys/out", "", [200, 200, 200, 200, 403, 403]),
    ("GET /resources/stores/kv/{mine}/keys/out?prefix=in/", "", [200, 200, 200, 200, 403, 403]),
    ("GET /resources/stores/kv/{other}/keys/in/k", "", [200, 200, 200, 403, 200, 200]),
    ("GET /resources/stores/object/{other}/keys/out", "", [200, 200, 200, 403, 403, 403]),
    ("PUT /resources/stores/kv/{mine}/keys/in/k", "v", [200, 200, 403, 200, 200, 403]),
    ("PUT /resources/stores/kv/{mine}/keys/out", "v", [200, 200, 403, 200, 403, 403]),
    ("PUT /resources/stores/kv/{other}/keys/in/k", "v", [200, 200, 403, 403, 200, 403]),
    ("PUT /resources/stores/object/{other}/keys/out", "v", [200, 200, 403, 403, 403, 403]),
    ("DELETE /resources/stores/kv/{mine}/keys/in/0?force=true", "", [204, 204, 403, 204, 204, 403]),
    ("DELETE /resources/stores/kv/{mine}/keys/0?force=true", "", [204, 204, 403, 204, 403, 403]),
    (
        "DELETE /resources/stores/kv/{other}/keys/in/0?force=true",
        "",
        [204, 204, 403, 403, 204, 403],
    ),
    ("PUT /resources/stores/kv/{mine}/batch", IN_LINE, [200, 200, 403, 200, 200, 403]),
    ("PUT /resources/stores/kv/{mine}/batch", OUT_LINE, [200, 200, 403, 200, 400, 403]),
    ("PUT /resources/stores/kv/{other}/batch", IN_LINE, [200, 200, 403, 403, 200, 403]),
    ("GET /resources/stores/kv/{mine}/batch", "", [405; 6]),
    ("GET /_/v1", "", [200; 6]),
    ("HEAD /_/v1", "", [200; 6]),
    ("GET /_/v1/backup", "", [200, 403, 403, 403, 403, 403]),
    ("HEAD /_/v1/backup", "", [200, 403, 403, 403, 403, 403]),
    ("GET /_/v1/stores/{mine}/items", "", [200, 200, 200, 200, 403, 403]),
    ("HEAD /_/v1/stores/{mine}/items?prefix=in/", "", [200; 6]),
    ("GET /_/v1/stores/{mine}/items?prefix=in/", "", [200; 6]),
    ("GET /_/v1/stores/{other}/items?prefix=in/", "", [200, 200, 200, 403, 200, 200]),
    ("GET /_/v1/stores/{mine}/export", "", [200, 200, 200, 200, 403, 403]),
    ("HEAD /_/v1/stores/{mine}/export?prefix=in/", "", [200; 6]),
    ("GET /_/v1/stores/{mine}/export?prefix=in/", "", [200; 6]),
    ("GET /_/v1/stores/{other}/export?prefix=in/", "", [200, 200, 200, 403, 200, 200]),
    ("PUT /_/v1/stores/{mine}/import", IN_LINE, [200, 200, 403, 200, 200, 403]),
    ("PUT /_/v1/stores/{mine}/import?prefix=in/", OUT_LINE, [200, 200, 403, 200, 400, 403]),
    ("PUT /_/v1/stores/{other}/import", IN_LINE, [200, 200, 403, 403, 200, 403]),
    ("DELETE /_/v1/stores/{mine}/items?prefix=in/0", "", [200, 200, 403, 200, 200, 403]),
    ("DELETE /_/v1/stores/{other}/items?prefix=in/0", "", [200, 200, 403, 403, 200, 403]),
    ("DELETE /_/v1/stores/{mine}/items?prefix=o0", "", [200, 200, 403, 200, 403, 403]),
    ("DELETE /_/v1/stores/{mine}/items?all=true&dry_run=true", "", [200, 200, 403, 200, 403, 403]),
    ("DELETE /_/v1/stores/{mine}/items?all=true&prefix=in/", "", [400, 400, 403, 400, 400, 403]),
    ("GET /nowhere", "", [404; 6]),
    ("POST /nowhere", "", [404, 404, 403, 404, 404, 403]),
];

const IN_LINE: &str = r#"{"key":"in/k","value":"dg=="}"#;
const OUT_LINE: &str = r#"{"key":"out","value":"dg=="}"#;
const OPEN: [&str; 4] =
    ["/_/openapi.json", "/healthz", "/readyz", "/realms/fastly/.well-known/openid-configuration"];

/// A server with two stores, and tokens of each kind.
struct Case {
    server: Server,
    mine: String,
    other: String,
    /// In the order of the columns of [`ROWS`].
    known: Vec<String>,
    expired: String,
    revoked: String,
}

impl Case {
    fn new() -> Case {
        let server = Server::memory(&[]);
        let [mine, other] = ["mine", "other"].map(|name| server.store(name));
        for store in [&mine, &other] {
            for key in ["in/k", "out"] {
                let put = server.ask(&format!("PUT {STORES}/{store}/keys/{key}"), &[], b"v");
                assert_eq!(put.status, 200);
            }
        }
        let body = json!({"name": "e", "scope": "global", "expires_at": in_one_second()});
        let expired = made(&server, &body).1;
        let (id, revoked) = made(&server, &json!({"name": "r", "scope": "global"}));
        assert_eq!(server.ask(&format!("DELETE {TOKENS}/{id}"), &[], b"").status, 204);
        let known = vec![
            crate::support::TOKEN.to_owned(),
            made_for(&server, "global", &[], ""),
            made_for(&server, "global:read", &[], ""),
            made_for(&server, "global", &[&mine], ""),
            made_for(&server, "global", &[], "in/"),
            made_for(&server, "global:read", &[], "in/"),
        ];
        assert_eq!(ask(&server, &expired, "GET /verify", "").status, 200, "it lives at first");
        std::thread::sleep(Duration::from_millis(1100));
        Case { server, mine, other, known, expired, revoked }
    }

    fn filled(&self, text: &str, count: u32) -> String {
        let mut text = text.replace("{mine}", &self.mine).replace("{other}", &self.other);
        text = text.replace("{n}", &format!("n{count}"));
        if text.contains("{fresh}") {
            text = text.replace("{fresh}", &self.server.store(&format!("fresh{count}")));
        }
        if text.contains("{token}") {
            let id = made(&self.server, &json!({"name": "t", "scope": "global"})).0;
            text = text.replace("{token}", &id);
        }
        text
    }

    /// All that a refused request could have changed.
    fn state(&self) -> Vec<String> {
        let get = |path: &str| self.server.ask(&format!("GET {path}"), &[], b"");
        let mut state = vec![get(STORES).text(), get(TOKENS).text()];
        for store in [&self.mine, &self.other] {
            state.push(get(&format!("{STORES}/{store}/keys")).text());
            for key in ["in/k", "out"] {
                let item = get(&format!("{STORES}/{store}/keys/{key}"));
                state.push(item.field("Generation").to_owned());
            }
        }
        state
    }
}

#[test]
fn every_token_may_do_on_every_route_what_it_is_for_and_nothing_else() {
    let case = Case::new();
    let mut count = 0;
    for (request, body, statuses) in ROWS {
        let unknown =
            [&case.expired, &case.revoked, &NO_SECRET.to_owned()].map(|s| (s.clone(), 401));
        let known = case.known.iter().cloned().zip(*statuses);
        for (secret, status) in known.chain(unknown) {
            count += 1;
            let (request, body) = (case.filled(request, count), case.filled(body, count));
            let before = if status == 401 || status == 403 { case.state() } else { Vec::new() };
            let answer = ask(&case.server, &secret, &request, &body);
            assert_eq!(answer.status, status, "{request} {secret}: {:?}", answer.head);
            if !before.is_empty() {
                assert_eq!(case.state(), before, "{request} {secret}");
            }
            if status == 403 && !request.starts_with("HEAD") {
                let said = answer.refused(403);
                assert!(said.starts_with("this token") && said.contains("may"), "{said}");
            }
            assert!(!String::from_utf8_lossy(&answer.body).contains(&secret), "{request}");
        }
    }
    for path in OPEN {
        for secret in [&case.known[2], &case.known[4], &case.expired, NO_SECRET] {
            for method in ["GET", "HEAD"] {
                assert_eq!(ask(&case.server, secret, &format!("{method} {path}"), "").status, 200);
            }
        }
    }
    every_route_was_asked(&case.server);
}

/// Every route and method that the router describes has a row above: the metrics tell which were
/// asked.
fn every_route_was_asked(server: &Server) {
    // The one request that ends its own token is asked elsewhere.
    ask(server, NO_SECRET, "DELETE /tokens/self", "");
    let metrics = server.ask("GET /metrics", &[], b"").text();
    let router = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/router.rs");
    let router = std::fs::read_to_string(router).unwrap();
    let described = router.split("(\"/").skip(1).filter_map(|rest| {
        let (template, rest) = rest.split_once("\", \"")?;
        let methods = rest.split_once("\")")?.0;
        methods.starts_with(char::is_uppercase).then(|| (format!("/{template}"), methods))
    });
    let mut routes = 0;
    for (template, methods) in described {
        routes += 1;
        for method in methods.split(", ") {
            let labels = [format!("route=\"{template}\""), format!("method=\"{method}\"")];
            let asked = |line: &str| labels.iter().all(|label| line.contains(label.as_str()));
            assert!(metrics.lines().any(asked), "no row asks {method} {template}");
        }
    }
    assert!(routes > 14, "the routes are read");
}

#[test]
fn a_token_is_shown_as_it_was_made_and_its_secret_once() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let body = json!({
        "name": "ci ö", "scope": "global:read", "stores": [store, store], "prefix": "a/ö",
        "expires_at": "2199-06-23T21:41:15.0099991+02:00",
    });
    let answer = server.ask(&format!("POST {TOKENS}"), &[], body.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.field("Cache-Control"), "no-store");
    let token = answer.json();
    let text = |name: &str| token[name].as_str().unwrap();
    let (id, secret, created) = (text("id"), text("access_token"), text("created_at"));
    let shown = format!(
        "{{\"id\":\"{id}\",\"name\":\"ci ö\",\"scope\":\"global:read\",\"stores\":[\"{store}\"],\
         \"prefix\":\"a/ö\",\"created_at\":\"{created}\",\
         \"expires_at\":\"2199-06-23T19:41:15.009999Z\"}}"
    );
    let with_secret =
        shown.replace("15.009999Z\"", &format!("15.009999Z\",\"access_token\":\"{secret}\""));
    assert_eq!(answer.text(), with_secret);
    assert_eq!((id.len(), secret.len(), &secret[..3], created.len()), (22, 46, "sf_", 27));
    let list = server.ask(&format!("GET {TOKENS}"), &[], b"").text();
    assert_eq!(list, format!("{{\"data\":[{shown}]}}"));
    // What the token tells of itself.
    let own = |path: &str| ask(&server, secret, &format!("GET {path}"), "").json();
    let (verify, me, user) = (own("/verify"), own("/tokens/self"), own("/current_user"));
    for told in [&verify["token"], &me] {
        for field in ["id", "name", "scope", "created_at", "expires_at"] {
            assert_eq!(
                told[field],
                serde_json::from_str::<Value>(&shown).unwrap()[field],
                "{field}"
            );
        }
    }
    assert_eq!(me["scopes"], json!(["global:read"]));
    assert_eq!((&user["id"], &user["name"]), (&json!(id), &json!("ci ö")));
    assert_eq!((&me["user_id"], &verify["user"]["id"]), (&user["id"], &user["id"]));
    // The oldest comes first.
    let second = made(&server, &json!({"name": "z", "scope": "global"})).0;
    let list = server.ask(&format!("GET {TOKENS}"), &[], b"").json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|t| &t["id"]).collect();
    assert_eq!(ids, [id, &second]);
    assert_eq!(list["data"][1]["expires_at"], Value::Null);
}

#[test]
fn a_wrong_token_is_400_by_its_field_and_makes_none() {
    let server = Server::memory(&[]);
    let many: Vec<_> = (0..101).map(|n| server.store(&format!("s{n}"))).collect();
    let good = || json!({"name": "n", "scope": "global"});
    let with = |field: &str, value: Value| {
        let mut body = good();
        body[field] = value;
        body.to_string()
    };
    for (body, word) in [
        (String::new(), "the"),
        ("[]".into(), "the"),
        ("{\"scope\":\"global\"}".into(), "the"),
        (format!("{}{}", good(), " ".repeat(64 * 1024)), "the"),
        ("{\"name\":\"n\"}".into(), "scope"),
        (with("scope", json!("purge_all")), "scope"),
        (with("name", json!("")), "name"),
        (with("name", json!("n".repeat(256))), "name"),
        (with("name", json!("a\u{7}")), "name"),
        (with("store", json!(many[0])), "store"),
        (with("access_token", json!("mine")), "access_token"),
        (with("stores", json!(many)), "stores"),
        (with("stores", json!([NO_STORE])), "stores"),
        (with("stores", json!(["x"])), "stores"),
        (with("prefix", json!("p".repeat(1025))), "prefix"),
        (with("prefix", json!(["p"])), "prefix"),
        (with("expires_at", json!("2020-01-01T00:00:00Z")), "expires_at"),
        (with("expires_at", json!("tomorrow")), "expires_at"),
        (with("expires_at", json!(1)), "expires_at"),
    ] {
        let answer = server.ask(&format!("POST {TOKENS}"), &[], body.as_bytes());
        super::refused_for(&answer, 400, word);
    }
    assert_eq!(server.ask(&format!("GET {TOKENS}"), &[], b"").text(), "{\"data\":[]}");
    let body = json!({
        "name": "ö".repeat(255), "scope": "global", "stores": many[1..], "prefix": "p".repeat(1024),
    });
    let most = made(&server, &body).1;
    let page = ask(&server, &most, &format!("GET {STORES}"), "").json();
    assert_eq!(page["meta"]["total"], 100);
}

#[test]
fn there_are_at_most_a_thousand_tokens() {
    let server = Server::memory(&[]);
    let mut client = server.connect();
    let request = format!("POST {TOKENS}");
    let body = b"{\"name\":\"n\",\"scope\":\"global\"}";
    let mut last = String::new();
    for n in 0..1000 {
        let answer = client.ask(&request, &[], body).unwrap();
        assert_eq!(answer.status, 201, "{n}");
        last = answer.json()["id"].as_str().unwrap().to_owned();
    }
    let said = client.ask(&request, &[], body).unwrap().refused(400);
    assert!(said.contains("1000"), "{said}");
    assert_eq!(client.ask(&format!("DELETE {TOKENS}/{last}"), &[], b"").unwrap().status, 204);
    assert_eq!(client.ask(&request, &[], body).unwrap().status, 201);
}

#[test]
fn a_revoked_token_is_refused_at_once_even_on_an_open_connection() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let list = format!("GET {STORES}/{store}/keys");
    for own in [true, false] {
        for scope in ["global", "global:read"] {
            let body = json!({"name": "n", "scope": scope, "stores": [store], "prefix": ""});
            let (id, secret) = made(&server, &body);
            let head = format!("{list} HTTP/1.1\r\nHost: h\r\nFastly-Key: {secret}\r\n\r\n");
            let mut client = server.connect();
            client.send(&head).unwrap();
            assert_eq!(client.answer(false).unwrap().status, 200);
            let end = match own {
                true => ask(&server, &secret, "DELETE /tokens/self", ""),
                false => server.ask(&format!("DELETE {TOKENS}/{id}"), &[], b""),
            };
            super::gone(&end);
            client.send(&head).unwrap();
            client.answer(false).unwrap().refused(401);
            ask(&server, &secret, "DELETE /tokens/self", "").refused(401);
            let again = server.ask(&format!("DELETE {TOKENS}/{id}"), &[], b"");
            assert_eq!(again.refused(404), "no token with that id");
        }
    }
    assert_eq!(server.ask(&format!("GET {TOKENS}"), &[], b"").text(), "{\"data\":[]}");
}

#[test]
fn a_batch_keeps_the_lines_that_a_token_may_write_and_tells_the_others() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let secret = made_for(&server, "global", &[&store], "in/");
    let keys = ["in/a", "out", "in", "in/b", "IN/c"];
    let lines = keys.map(|key| format!("{{\"key\":\"{key}\",\"value\":\"dg==\"}}\n")).concat();
    let answer = ask(&server, &secret, &format!("PUT {STORES}/{store}/batch"), &lines);
    let report = answer.json();
    assert_eq!((answer.status, &report["type"]), (400, &json!("bad_request")));
    let errors = report["errors"].as_array().unwrap();
    let told: Vec<_> = errors.iter().map(|e| (&e["key"], &e["index"], &e["code"])).collect();
    let code = json!("403");
    let expected = [("out", 1), ("in", 2), ("IN/c", 4)].map(|(key, at)| (json!(key), json!(at)));
    assert_eq!(told, expected.iter().map(|(key, at)| (key, at, &code)).collect::<Vec<_>>());
    assert!(errors[0]["reason"].as_str().unwrap().starts_with("this token may not"));
    let kept = server.ask(&format!("GET {STORES}/{store}/keys"), &[], b"").json();
    assert_eq!(kept["data"], json!(["in/a", "in/b"]));
}

#[test]
fn a_token_for_some_stores_sees_them_alone_in_the_list_of_stores() {
    let server = Server::memory(&[]);
    let ids = ["b", "a", "D", "c", "e"].map(|name| server.store(name));
    let secret = made_for(&server, "global:read", &[&ids[0], &ids[2], &ids[3], &ids[4]], "");
    let list = |query: &str| ask(&server, &secret, &format!("GET {STORES}{query}"), "").json();
    let names = |page: &Value| {
        let names = page["data"].as_array().unwrap().iter();
        names.map(|store| store["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&list("")), ["b", "c", "D", "e"]);
    assert_eq!(list("")["meta"], json!({"limit": 1000, "total": 4}));
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("?limit=3&cursor={cursor}"));
        assert_eq!(page["meta"]["total"], 4);
        seen.extend(names(&page));
        match page["meta"].get("next_cursor") {
            Some(next) => cursor = next.as_str().unwrap().replace('=', "%3D"),
            None => break,
        }
    }
    assert_eq!(seen, ["b", "c", "D", "e"]);
    assert_eq!(
        (names(&list("?name=c")), &list("?name=c")["meta"]["total"]),
        (vec!["c".into()], &json!(1))
    );
    assert_eq!(list("?name=a"), json!({"data": [], "meta": {"limit": 1000, "total": 0}}));
    // A store that is gone is counted no more.
    assert_eq!(server.ask(&format!("DELETE {STORES}/{}", ids[3]), &[], b"").status, 204);
    assert_eq!(
        (names(&list("")), &list("")["meta"]["total"]),
        (vec!["b".into(), "D".into(), "e".into()], &json!(3))
    );
}
