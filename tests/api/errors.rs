//! Refusals: their shapes, and what each route allows.

use crate::support::{Response, TOKEN};
use crate::{Case, NO_STORE, STORES, accepted, gone, status_line};

const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS", "TRACE"];

/// Checks a refusal to the byte.
fn problem(answer: &Response, line: &str, title: &str, detail: &str) {
    assert_eq!(status_line(answer), format!("HTTP/1.1 {line}"), "{}", answer.text());
    let status = answer.status;
    let text = format!(
        "{{\"msg\":\"{title}\",\"title\":\"{title}\",\"detail\":\"{detail}\",\"status\":{status}}}"
    );
    assert_eq!(answer.text(), text);
    let fields = [
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("Pragma", "no-cache"),
    ];
    for (name, value) in fields {
        assert_eq!(answer.header(name), value);
    }
    assert!(!answer.text().contains("errors"), "old clients take an empty list for the errors");
}

/// Sends a request without the token.
fn bare(case: &Case, request: &str, lines: &str) -> Response {
    let mut client = case.server.connect();
    client.send(format!("{request} HTTP/1.1\r\nHost: t\r\n{lines}\r\n")).unwrap();
    client.read_response(request.starts_with("HEAD")).unwrap()
}

#[test]
fn every_refusal_has_the_one_shape_to_the_byte() {
    let case = Case::with(&["--max-value", "10"]);
    case.stored("k", &[], b"v");
    let ask = |request: String| case.server.request(&request, &[], b"");
    let not_found = ("404 Not Found", "Record not found");
    problem(&case.get("none"), not_found.0, not_found.1, "no item with that key");
    problem(&case.delete("none", &[]), not_found.0, not_found.1, "no item with that key");
    for at in ["", "/keys", "/keys/k"] {
        let answer = ask(format!("GET {STORES}/{NO_STORE}{at}"));
        problem(&answer, not_found.0, not_found.1, "no store with that id");
    }
    problem(&ask("GET /nowhere".into()), not_found.0, not_found.1, "no such path");
    let bad = ("400 Bad Request", "Bad request");
    problem(&case.get(".."), bad.0, bad.1, "key must not be . or ..");
    problem(&case.put("k?add", &[], b""), bad.0, bad.1, "add must be true or false");
    let limit = "limit must be a whole number from 1 to 1000";
    problem(&case.list("?limit=0"), bad.0, bad.1, limit);
    let large = case.put("k", &[], &[0; 11]);
    problem(
        &large,
        "413 Content Too Large",
        "Payload too large",
        "value must have at most 10 bytes",
    );
    let full = ask(format!("DELETE {}", case.at()));
    let detail = "the store is not empty; delete its items first";
    problem(&full, "409 Conflict", "Conflict", detail);
    let range =
        case.server.request(&format!("GET {}", case.path("k")), &[("Range", "bytes=1-")], b"");
    let title = "Range not satisfiable";
    problem(&range, "416 Range Not Satisfiable", title, "the value has 1 bytes");
}

#[test]
fn a_missing_or_wrong_token_is_401_on_every_route_and_changes_nothing() {
    let case = Case::new();
    case.stored("k", &[], b"v");
    let words = "Provided credentials are missing or invalid";
    let id = &case.id;
    let paths = [
        STORES.to_owned(),
        format!("{STORES}/{id}"),
        format!("{STORES}/{id}/"),
        format!("{STORES}/{id}/keys"),
        format!("{STORES}/{id}/keys/k"),
        format!("{STORES}/{id}/keys/%ff?add=x"),
        format!("{STORES}/{id}/batch"),
        format!("{STORES}/{NO_STORE}/keys/k"),
        "/verify".into(),
        "/_/v1/tokens".into(),
        "/tokens/self".into(),
        "/current_user".into(),
        "/enabled-products/v1/kv_store".into(),
        "/nowhere".into(),
        "/".into(),
    ];
    let wrong = [
        String::new(),
        "Fastly-Key: \r\n".into(),
        "Fastly-Key: x\r\n".into(),
        format!("Fastly-Key: {TOKEN}x\r\n"),
        format!("Fastly-Key: {}\r\n", &TOKEN[1..]),
        format!("Fastly-Key: {}\r\n", TOKEN.to_uppercase()),
        format!("Fastly-Key: {TOKEN}\r\nFastly-Key: {TOKEN}\r\n"),
        format!("Fastly-Key: x\r\nFastly-Key: {TOKEN}\r\n"),
        format!("Authorization: Bearer {TOKEN}\r\n"),
        format!("X-Fastly-Key: {TOKEN}\r\n"),
    ];
    for path in &paths {
        for (at, lines) in wrong.iter().enumerate() {
            // Every method without a token, and one with each wrong token.
            let methods = if at == 0 { &METHODS[..] } else { &["DELETE"] };
            for method in methods {
                let answer = bare(&case, &format!("{method} {path}"), lines);
                assert_eq!(answer.status, 401, "{method} {path} {lines}");
                if *method != "HEAD" {
                    problem(&answer, "401 Unauthorized", words, words);
                }
            }
        }
    }
    assert_eq!(case.value("k"), b"v");
}

#[test]
fn the_name_of_the_token_field_has_no_letter_case() {
    let case = Case::new();
    for name in ["fastly-key", "Fastly-Key", "FASTLY-KEY"] {
        let answer = bare(&case, &format!("GET {STORES}"), &format!("{name}:{TOKEN}\r\n"));
        assert_eq!(answer.status, 200, "{name}");
    }
}

#[test]
fn every_route_refuses_other_methods_with_405_and_names_its_own() {
    let case = Case::new();
    case.stored("k", &[], b"v");
    let id = &case.id;
    for (path, allowed) in [
        (STORES.to_owned(), "GET, HEAD, POST"),
        (format!("{STORES}/{id}"), "GET, HEAD, PUT, DELETE"),
        (format!("{STORES}/{NO_STORE}"), "GET, HEAD, PUT, DELETE"),
        (format!("{STORES}/{id}/keys"), "GET, HEAD"),
        (format!("{STORES}/{id}/keys/k"), "GET, HEAD, PUT, DELETE"),
        (format!("{STORES}/{id}/batch"), "PUT"),
        ("/verify".into(), "GET, HEAD"),
        ("/_/v1/tokens".into(), "GET, HEAD, POST"),
        (format!("/_/v1/tokens/{NO_STORE}"), "DELETE"),
        ("/tokens/self".into(), "GET, HEAD, DELETE"),
        ("/current_user".into(), "GET, HEAD"),
        ("/enabled-products/v1/kv_store".into(), "GET, HEAD, PUT, DELETE"),
        ("/realms/fastly/.well-known/openid-configuration".into(), "GET, HEAD"),
        ("/_/openapi.json".into(), "GET, HEAD"),
        ("/healthz".into(), "GET, HEAD"),
        ("/readyz".into(), "GET, HEAD"),
        ("/metrics".into(), "GET, HEAD"),
    ] {
        let own: Vec<&str> = allowed.split(", ").collect();
        for method in METHODS.iter().chain(&["get", "Put", "FROB"]) {
            if own.contains(method) {
                continue;
            }
            let answer = case.server.request(&format!("{method} {path}"), &[], b"");
            assert_eq!(answer.header("Allow"), allowed, "{method} {path}");
            if *method == "HEAD" {
                assert_eq!(answer.status, 405, "{path}");
                continue;
            }
            let detail = format!("this path allows {allowed}");
            problem(&answer, "405 Method Not Allowed", "Method not allowed", &detail);
        }
    }
    assert_eq!(case.value("k"), b"v");
}

#[test]
fn a_head_answers_as_a_get_on_every_route() {
    let case = Case::new();
    case.stored("k", &[("metadata", "m")], b"value");
    let id = &case.id;
    for path in [
        STORES.to_owned(),
        format!("{STORES}?limit=0"),
        format!("{STORES}/{id}"),
        format!("{STORES}/{NO_STORE}"),
        format!("{STORES}/{id}/keys"),
        format!("{STORES}/{NO_STORE}/keys"),
        format!("{STORES}/{id}/keys/k"),
        format!("{STORES}/{id}/keys/none"),
        format!("{STORES}/{id}/keys/.."),
        format!("{STORES}/{id}/keys/"),
        "/verify".into(),
        "/_/v1/tokens".into(),
        "/tokens/self".into(),
        "/current_user".into(),
        "/enabled-products/v1/kv_store".into(),
        "/realms/fastly/.well-known/openid-configuration".into(),
        "/_/openapi.json".into(),
        "/healthz".into(),
        "/readyz".into(),
        "/nowhere".into(),
    ] {
        let mut client = case.server.connect();
        let head = client.request(&format!("HEAD {path}"), &[], b"").unwrap();
        // The next answer on the connection is read from where a body would stand.
        let get = client.request(&format!("GET {path}"), &[], b"").unwrap();
        let undated = |answer: &Response| answer.head.replace(answer.header("Date"), "");
        assert_eq!(undated(&head), undated(&get), "{path}");
        assert_eq!(head.header("Content-Length"), get.body.len().to_string(), "{path}");
    }
}

#[test]
fn health_and_discovery_need_no_token() {
    let case = Case::new();
    let openid = bare(&case, "GET /realms/fastly/.well-known/openid-configuration", "");
    assert_eq!((status_line(&openid), openid.text().as_str()), ("HTTP/1.1 200 OK", "{}"));
    assert_eq!(openid.header("Content-Type"), "application/json");
    for path in ["/healthz", "/readyz", "/_/openapi.json"] {
        assert_eq!(bare(&case, &format!("GET {path}"), "").status, 200, "{path}");
    }
}

#[test]
fn the_small_endpoints_have_the_fields_that_clients_decode() {
    let case = Case::new();
    let get = |path: &str| {
        let answer = case.server.request(&format!("GET {path}"), &[], b"");
        assert_eq!(answer.status, 200, "{path}");
        answer.json()
    };
    let verify = get("/verify");
    for at in [
        "/customer/id",
        "/customer/name",
        "/user/id",
        "/user/name",
        "/user/login",
        "/token/id",
        "/token/name",
        "/token/created_at",
        "/token/scope",
    ] {
        assert!(verify.pointer(at).is_some_and(serde_json::Value::is_string), "{at} in {verify}");
    }
    assert!(verify["services"].is_object() && verify["token"].get("expires_at").is_some());
    let token = get("/tokens/self");
    for name in ["id", "user_id", "customer_id", "name", "last_used_at", "created_at", "ip"] {
        assert!(token[name].is_string(), "{name} in {token}");
    }
    assert_eq!(token["scopes"], serde_json::json!(["global"]));
    assert_eq!((&token["scope"], &token["services"]), (&"global".into(), &serde_json::json!([])));
    assert!(token["expires_at"].is_null() && !token.to_string().contains(TOKEN));
    let user = get("/current_user");
    for name in ["id", "login", "name", "customer_id"] {
        assert!(user[name].is_string(), "{name} in {user}");
    }
    let path = "/enabled-products/v1/kv_store";
    let product = get(path);
    for at in ["/product/id", "/product/object", "/customer/id", "/customer/object", "/_links/self"]
    {
        assert!(product.pointer(at).is_some_and(serde_json::Value::is_string), "{at} in {product}");
    }
    assert_eq!(case.server.request(&format!("PUT {path}"), &[], b"").json(), product);
    gone(&case.server.request(&format!("DELETE {path}"), &[], b""));
    case.server.request("DELETE /tokens/self", &[], b"").expect_error(403);
}

#[test]
fn a_connection_goes_on_after_refusals_whose_body_was_small() {
    let case = Case::new();
    let mut client = case.server.connect();
    let value = vec![b'x'; 100_000];
    for (request, status) in [
        (format!("PUT {}", case.path("..")), 400),
        (format!("PUT {STORES}/{NO_STORE}/keys/k"), 404),
        (format!("PUT {}/keys", case.at()), 405),
        ("PUT /nowhere".to_owned(), 404),
    ] {
        let answer = client.request(&request, &[], &value).unwrap();
        answer.expect_error(status);
        assert!(!answer.has_header("Connection"), "{request}");
    }
    accepted(&client.request(&format!("PUT {}", case.path("k")), &[], b"v").unwrap());
    assert_eq!(case.value("k"), b"v");
}
