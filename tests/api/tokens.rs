//! Tests of limited tokens: the permissions of each kind of token on every route, and the creation,
//! listing and revocation of tokens.

use super::support::Server;
use super::{STORES, TestServer, UNKNOWN_STORE};
use serde_json::{Value, json};
use std::time::Duration;

const TOKENS: &str = "/_/v1/tokens";
/// A well-formed secret that no token has.
const UNKNOWN_SECRET: &str = "sf_0000000000000000000000000000000000000000000";

/// Creates a token. Returns the id and the secret.
fn create_token(server: &Server, body: &Value) -> (String, String) {
    let response = server.request(&format!("POST {TOKENS}"), &[], body.to_string().as_bytes());
    assert_eq!(response.status, 201, "{body}: {}", response.text());
    let text = |name: &str| response.json()[name].as_str().unwrap().to_owned();
    (text("id"), text("access_token"))
}

fn create_secret(server: &Server, scope: &str, stores: &[&str], prefix: &str) -> String {
    let mut body = json!({"name": "n", "scope": scope});
    if !stores.is_empty() {
        body["stores"] = json!(stores);
    }
    if !prefix.is_empty() {
        body["prefix"] = json!(prefix);
    }
    create_token(server, &body).1
}

/// Returns the time one second from now in RFC 3339 format.
#[allow(clippy::disallowed_methods, reason = "the server uses the same clock")]
fn in_one_second() -> String {
    let at = std::time::SystemTime::now() + Duration::from_millis(1000);
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
    steadfast::wire::rfc3339(u64::try_from(since.as_micros()).unwrap())
}

/// A request, its body, and the expected statuses for the root token and for tokens with these
/// permissions: global; global:read; global for one store; global with a prefix; global:read with a
/// prefix. In the placeholders, `mine` is the store of the token for one store, and `other` is
/// another store. The store `fresh` and the token `token` are created for each request.
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
    ("PUT /resources/stores/kv/{mine}/batch", LINE_INSIDE, [200, 200, 403, 200, 200, 403]),
    ("PUT /resources/stores/kv/{mine}/batch", LINE_OUTSIDE, [200, 200, 403, 200, 400, 403]),
    ("PUT /resources/stores/kv/{other}/batch", LINE_INSIDE, [200, 200, 403, 403, 200, 403]),
    ("GET /resources/stores/kv/{mine}/batch", "", [405; 6]),
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
    ("PUT /_/v1/stores/{mine}/import", LINE_INSIDE, [200, 200, 403, 200, 200, 403]),
    ("PUT /_/v1/stores/{mine}/import?prefix=in/", LINE_OUTSIDE, [200, 200, 403, 200, 400, 403]),
    ("PUT /_/v1/stores/{other}/import", LINE_INSIDE, [200, 200, 403, 403, 200, 403]),
    ("DELETE /_/v1/stores/{mine}/items?prefix=in/0", "", [200, 200, 403, 200, 200, 403]),
    ("DELETE /_/v1/stores/{other}/items?prefix=in/0", "", [200, 200, 403, 403, 200, 403]),
    ("DELETE /_/v1/stores/{mine}/items?prefix=o0", "", [200, 200, 403, 200, 403, 403]),
    ("DELETE /_/v1/stores/{mine}/items?all=true&dry_run=true", "", [200, 200, 403, 200, 403, 403]),
    ("DELETE /_/v1/stores/{mine}/items?all=true&prefix=in/", "", [400, 400, 403, 400, 400, 403]),
    ("GET /nowhere", "", [404; 6]),
    ("POST /nowhere", "", [404, 404, 403, 404, 404, 403]),
];

const LINE_INSIDE: &str = r#"{"key":"in/k","value":"dg=="}"#;
const LINE_OUTSIDE: &str = r#"{"key":"out","value":"dg=="}"#;
const OPEN_PATHS: [&str; 5] = [
    "/_/openapi.json", "/_/v1", "/healthz", "/readyz",
    "/realms/fastly/.well-known/openid-configuration",
];

/// A server with two stores and a token of each kind.
struct TokenFixture {
    server: TestServer,
    mine: String,
    other: String,
    /// The tokens in the order of the columns of [`ROWS`].
    valid: Vec<String>,
    expired: String,
    revoked: String,
}

impl TokenFixture {
    fn new() -> TokenFixture {
        let server = TestServer::start(&[]);
        let [mine, other] = ["mine", "other"].map(|name| server.create_store(name));
        for store in [&mine, &other] {
            for key in ["in/k", "out"] {
                let put = server.request(&format!("PUT {STORES}/{store}/keys/{key}"), &[], b"v");
                assert_eq!(put.status, 200);
            }
        }
        let body = json!({"name": "e", "scope": "global", "expires_at": in_one_second()});
        let expired = create_token(&server, &body).1;
        let (id, revoked) = create_token(&server, &json!({"name": "r", "scope": "global"}));
        assert_eq!(server.request(&format!("DELETE {TOKENS}/{id}"), &[], b"").status, 204);
        let valid = vec![
            super::support::TOKEN.to_owned(),
            create_secret(&server, "global", &[], ""),
            create_secret(&server, "global:read", &[], ""),
            create_secret(&server, "global", &[&mine], ""),
            create_secret(&server, "global", &[], "in/"),
            create_secret(&server, "global:read", &[], "in/"),
        ];
        assert_eq!(
            server.request_as(&expired, "GET /verify", "").status,
            200,
            "the token must be valid before it expires"
        );
        std::thread::sleep(Duration::from_millis(1100));
        TokenFixture { server, mine, other, valid, expired, revoked }
    }

    fn fill(&self, text: &str, count: u32) -> String {
        let mut text = text.replace("{mine}", &self.mine).replace("{other}", &self.other);
        text = text.replace("{n}", &format!("n{count}"));
        if text.contains("{fresh}") {
            text = text.replace("{fresh}", &self.server.create_store(&format!("fresh{count}")));
        }
        if text.contains("{token}") {
            let id = create_token(&self.server, &json!({"name": "t", "scope": "global"})).0;
            text = text.replace("{token}", &id);
        }
        text
    }

    /// Returns the server state that a rejected request must not change.
    fn state(&self) -> Vec<String> {
        let get = |path: &str| self.server.get(path);
        let mut state = vec![get(STORES).text(), get(TOKENS).text()];
        for store in [&self.mine, &self.other] {
            state.push(get(&format!("{STORES}/{store}/keys")).text());
            for key in ["in/k", "out"] {
                let item = get(&format!("{STORES}/{store}/keys/{key}"));
                state.push(item.header("Generation").to_owned());
            }
        }
        state
    }
}

#[test]
fn every_token_grants_exactly_its_permissions_on_every_route() {
    let case = TokenFixture::new();
    let mut count = 0;
    for (request, body, statuses) in ROWS {
        let unknown =
            [&case.expired, &case.revoked, &UNKNOWN_SECRET.to_owned()].map(|s| (s.clone(), 401));
        let valid = case.valid.iter().cloned().zip(*statuses);
        for (secret, status) in valid.chain(unknown) {
            count += 1;
            let (request, body) = (case.fill(request, count), case.fill(body, count));
            let before = if status == 401 || status == 403 { case.state() } else { Vec::new() };
            let response = case.server.request_as(&secret, &request, &body);
            assert_eq!(response.status, status, "{request} {secret}: {:?}", response.head);
            if !before.is_empty() {
                assert_eq!(case.state(), before, "{request} {secret}");
            }
            if status == 403 && !request.starts_with("HEAD") {
                let message = response.expect_error(403);
                assert!(message.starts_with("this token") && message.contains("may"), "{message}");
            }
            assert!(!String::from_utf8_lossy(&response.body).contains(&secret), "{request}");
        }
    }
    for path in OPEN_PATHS {
        for secret in [&case.valid[2], &case.valid[4], &case.expired, UNKNOWN_SECRET] {
            for method in ["GET", "HEAD"] {
                assert_eq!(
                    case.server.request_as(secret, &format!("{method} {path}"), "").status,
                    200
                );
            }
        }
    }
    assert_every_route_was_requested(&case.server);
}

/// Uses the metrics to check that [`ROWS`] has a request for every route and method of the router.
fn assert_every_route_was_requested(server: &Server) {
    // This route revokes the token of the request, so use an unknown token. Another test uses the
    // route to revoke a token.
    server.request_as(UNKNOWN_SECRET, "DELETE /tokens/self", "");
    let metrics = server.get("/metrics").text();
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
            let requested = |line: &str| labels.iter().all(|label| line.contains(label.as_str()));
            assert!(metrics.lines().any(requested), "there is no row for {method} {template}");
        }
    }
    assert!(routes > 14, "too few routes were found in the router");
}

#[test]
fn a_created_token_is_listed_and_its_secret_is_shown_only_once() {
    let server = TestServer::start(&[]);
    let store = server.create_store("s");
    let body = json!({
        "name": "ci ö", "scope": "global:read", "stores": [store, store], "prefix": "a/ö",
        "expires_at": "2199-06-23T21:41:15.0099991+02:00",
    });
    let response = server.request(&format!("POST {TOKENS}"), &[], body.to_string().as_bytes());
    assert_eq!(response.status, 201, "{}", response.text());
    assert_eq!(response.header("Cache-Control"), "no-store");
    let token = response.json();
    let text = |name: &str| token[name].as_str().unwrap();
    let (id, secret, created) = (text("id"), text("access_token"), text("created_at"));
    let shown = format!(
        "{{\"id\":\"{id}\",\"name\":\"ci ö\",\"scope\":\"global:read\",\"stores\":[\"{store}\"],\
         \"prefix\":\"a/ö\",\"created_at\":\"{created}\",\
         \"expires_at\":\"2199-06-23T19:41:15.009999Z\"}}"
    );
    let with_secret =
        shown.replace("15.009999Z\"", &format!("15.009999Z\",\"access_token\":\"{secret}\""));
    assert_eq!(response.text(), with_secret);
    assert_eq!((id.len(), secret.len(), &secret[..3], created.len()), (22, 46, "sf_", 27));
    let list = server.get(TOKENS).text();
    assert_eq!(list, format!("{{\"data\":[{shown}]}}"));
    // Check the fields of the token that its holder can read.
    let own = |path: &str| server.request_as(secret, &format!("GET {path}"), "").json();
    let (verify, me, user) = (own("/verify"), own("/tokens/self"), own("/current_user"));
    for fields in [&verify["token"], &me] {
        for field in ["id", "name", "scope", "created_at", "expires_at"] {
            assert_eq!(
                fields[field],
                serde_json::from_str::<Value>(&shown).unwrap()[field],
                "{field}"
            );
        }
    }
    assert_eq!(me["scopes"], json!(["global:read"]));
    assert_eq!((&user["id"], &user["name"]), (&json!(id), &json!("ci ö")));
    assert_eq!((&me["user_id"], &verify["user"]["id"]), (&user["id"], &user["id"]));
    // Tokens must be listed in order of creation.
    let second = create_token(&server, &json!({"name": "z", "scope": "global"})).0;
    let list = server.get(TOKENS).json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|t| &t["id"]).collect();
    assert_eq!(ids, [id, &second]);
    assert_eq!(list["data"][1]["expires_at"], Value::Null);
}

#[test]
fn an_invalid_token_request_returns_400_and_creates_no_token() {
    let server = TestServer::start(&[]);
    let many: Vec<_> = (0..101).map(|n| server.create_store(&format!("s{n}"))).collect();
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
        (with("stores", json!([UNKNOWN_STORE])), "stores"),
        (with("stores", json!(["x"])), "stores"),
        (with("prefix", json!("p".repeat(1025))), "prefix"),
        (with("prefix", json!(["p"])), "prefix"),
        (with("prefix", json!("")), "prefix"),
        (with("stores", json!([])), "stores"),
        (with("stores", json!([""])), "stores"),
        (with("expires_at", json!("2020-01-01T00:00:00Z")), "expires_at"),
        (with("expires_at", json!("tomorrow")), "expires_at"),
        (with("expires_at", json!("9999-12-31T23:59:59-01:00")), "expires_at"),
        (with("expires_at", json!("10000-01-01T00:00:00Z")), "expires_at"),
        (with("expires_at", json!(1)), "expires_at"),
    ] {
        let response = server.request(&format!("POST {TOKENS}"), &[], body.as_bytes());
        super::assert_error(&response, 400, word);
    }
    assert_eq!(server.get(TOKENS).text(), "{\"data\":[]}");
    let body = json!({
        "name": "ö".repeat(255), "scope": "global", "stores": many[1..],
        "prefix": "p".repeat(1024),
    });
    let most = create_token(&server, &body).1;
    let page = server.request_as(&most, &format!("GET {STORES}"), "").json();
    assert_eq!(page["meta"]["total"], 100);
}

#[test]
fn at_most_1000_tokens_can_be_created() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    let request = format!("POST {TOKENS}");
    let body = b"{\"name\":\"n\",\"scope\":\"global\"}";
    let mut last = String::new();
    for n in 0..1000 {
        let response = client.request(&request, &[], body).unwrap();
        assert_eq!(response.status, 201, "{n}");
        last = response.json()["id"].as_str().unwrap().to_owned();
    }
    let message = client.request(&request, &[], body).unwrap().expect_error(400);
    assert!(message.contains("1000"), "{message}");
    assert_eq!(client.request(&format!("DELETE {TOKENS}/{last}"), &[], b"").unwrap().status, 204);
    assert_eq!(client.request(&request, &[], body).unwrap().status, 201);
}

#[test]
fn a_revoked_token_is_rejected_at_once_even_on_an_open_connection() {
    let server = TestServer::start(&[]);
    let store = server.create_store("s");
    let list = format!("GET {STORES}/{store}/keys");
    for own in [true, false] {
        for scope in ["global", "global:read"] {
            let body = json!({"name": "n", "scope": scope, "stores": [store]});
            let (id, secret) = create_token(&server, &body);
            let head = format!("{list} HTTP/1.1\r\nHost: h\r\nFastly-Key: {secret}\r\n\r\n");
            let mut client = server.connect();
            client.send(&head).unwrap();
            assert_eq!(client.read_response(false).unwrap().status, 200);
            let end = match own {
                true => server.request_as(&secret, "DELETE /tokens/self", ""),
                false => server.request(&format!("DELETE {TOKENS}/{id}"), &[], b""),
            };
            super::assert_204(&end);
            client.send(&head).unwrap();
            client.read_response(false).unwrap().expect_error(401);
            server.request_as(&secret, "DELETE /tokens/self", "").expect_error(401);
            let again = server.request(&format!("DELETE {TOKENS}/{id}"), &[], b"");
            assert_eq!(again.expect_error(404), "no token with that id");
        }
    }
    assert_eq!(server.get(TOKENS).text(), "{\"data\":[]}");
}

#[test]
fn a_batch_writes_the_permitted_lines_and_reports_the_others() {
    let server = TestServer::start(&[]);
    let store = server.create_store("s");
    let secret = create_secret(&server, "global", &[&store], "in/");
    let keys = ["in/a", "out", "in", "in/b", "IN/c"];
    let lines = keys.map(|key| format!("{{\"key\":\"{key}\",\"value\":\"dg==\"}}\n")).concat();
    let response = server.request_as(&secret, &format!("PUT {STORES}/{store}/batch"), &lines);
    let report = response.json();
    assert_eq!((response.status, &report["type"]), (400, &json!("bad_request")));
    let errors = report["errors"].as_array().unwrap();
    let fields: Vec<_> = errors.iter().map(|e| (&e["key"], &e["index"], &e["code"])).collect();
    let code = json!("403");
    let expected = [("out", 1), ("in", 2), ("IN/c", 4)].map(|(key, at)| (json!(key), json!(at)));
    assert_eq!(fields, expected.iter().map(|(key, at)| (key, at, &code)).collect::<Vec<_>>());
    assert!(errors[0]["reason"].as_str().unwrap().starts_with("this token may not"));
    let keys = server.get(&format!("{STORES}/{store}/keys")).json();
    assert_eq!(keys["data"], json!(["in/a", "in/b"]));
}

#[test]
fn a_token_limited_to_stores_lists_only_those_stores() {
    let server = TestServer::start(&[]);
    let ids = ["b", "a", "D", "c", "e"].map(|name| server.create_store(name));
    let secret = create_secret(&server, "global:read", &[&ids[0], &ids[2], &ids[3], &ids[4]], "");
    let list = |query: &str| server.request_as(&secret, &format!("GET {STORES}{query}"), "").json();
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
    // A deleted store must not be counted.
    assert_eq!(server.request(&format!("DELETE {STORES}/{}", ids[3]), &[], b"").status, 204);
    assert_eq!(
        (names(&list("")), &list("")["meta"]["total"]),
        (vec!["b".into(), "D".into(), "e".into()], &json!(3))
    );
}
