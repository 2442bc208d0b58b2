//! Tests of error responses, authentication and the methods of each route.

use super::support::{Response, TOKEN};
use super::{Case, STORES, UNKNOWN_STORE, assert_204, assert_put_ok, status_line};

const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS", "TRACE"];

/// Checks an error response byte for byte.
fn assert_error_body(response: &Response, line: &str, title: &str, detail: &str) {
    assert_eq!(status_line(response), format!("HTTP/1.1 {line}"), "{}", response.text());
    let status = response.status;
    let text = format!(
        "{{\"msg\":\"{title}\",\"title\":\"{title}\",\"detail\":\"{detail}\",\"status\":{status}}}"
    );
    assert_eq!(response.text(), text);
    let headers = [
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("Pragma", "no-cache"),
    ];
    for (name, value) in headers {
        assert_eq!(response.header(name), value);
    }
    assert!(!response.text().contains("errors"), "old clients misinterpret a field named errors");
}

/// Sends a request without the token.
fn without_token(case: &Case, request: &str, lines: &str) -> Response {
    let mut client = case.server.connect();
    client.send(format!("{request} HTTP/1.1\r\nHost: t\r\n{lines}\r\n")).unwrap();
    client.read_response(request.starts_with("HEAD")).unwrap()
}

#[test]
fn every_error_has_the_documented_format() {
    let case = Case::with(&["--max-value", "10"]);
    case.put_ok("k", &[], b"v");
    let send = |request: String| case.server.request(&request, &[], b"");
    let not_found = ("404 Not Found", "Record not found");
    assert_error_body(&case.get("none"), not_found.0, not_found.1, "no item with that key");
    assert_error_body(&case.delete("none", &[]), not_found.0, not_found.1, "no item with that key");
    for at in ["", "/keys", "/keys/k"] {
        let response = send(format!("GET {STORES}/{UNKNOWN_STORE}{at}"));
        assert_error_body(&response, not_found.0, not_found.1, "no store with that id");
    }
    assert_error_body(&send("GET /nowhere".into()), not_found.0, not_found.1, "no such path");
    let bad = ("400 Bad Request", "Bad request");
    assert_error_body(&case.get(".."), bad.0, bad.1, "key must not be . or ..");
    assert_error_body(&case.put("k?add", &[], b""), bad.0, bad.1, "add must be true or false");
    let limit = "limit must be a whole number from 1 to 1000";
    assert_error_body(&case.list("?limit=0"), bad.0, bad.1, limit);
    let large = case.put("k", &[], &[0; 11]);
    assert_error_body(
        &large, "413 Content Too Large", "Payload too large", "value must be at most 10 bytes",
    );
    let full = send(format!("DELETE {}", case.store_path()));
    let detail = "the store is not empty; delete its items first";
    assert_error_body(&full, "409 Conflict", "Conflict", detail);
    let range =
        case.server.request(&format!("GET {}", case.item_path("k")), &[("Range", "bytes=1-")], b"");
    let title = "Range not satisfiable";
    assert_error_body(
        &range, "416 Range Not Satisfiable", title,
        "the range is outside the value, which has 1 bytes",
    );
}

#[test]
fn a_missing_or_wrong_token_returns_401_on_every_route_and_changes_nothing() {
    let case = Case::new();
    case.put_ok("k", &[], b"v");
    let message = "Provided credentials are missing or invalid";
    let id = &case.id;
    let paths = [
        STORES.to_owned(),
        format!("{STORES}/{id}"),
        format!("{STORES}/{id}/"),
        format!("{STORES}/{id}/keys"),
        format!("{STORES}/{id}/keys/k"),
        format!("{STORES}/{id}/keys/%ff?add=x"),
        format!("{STORES}/{id}/batch"),
        format!("{STORES}/{UNKNOWN_STORE}/keys/k"),
        "/verify".into(),
        "/_/v1/tokens".into(),
        "/tokens/self".into(),
        "/current_user".into(),
        "/enabled-products/v1/kv_store".into(),
        "/nowhere".into(),
        "/".into(),
    ];
    let invalid = [
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
        for (at, lines) in invalid.iter().enumerate() {
            // Send every method without a token, and one method with each invalid token.
            let methods = if at == 0 { &METHODS[..] } else { &["DELETE"] };
            for method in methods {
                let response = without_token(&case, &format!("{method} {path}"), lines);
                assert_eq!(response.status, 401, "{method} {path} {lines}");
                if *method != "HEAD" {
                    assert_error_body(&response, "401 Unauthorized", message, message);
                }
            }
        }
    }
    assert_eq!(case.get_value("k"), b"v");
}

#[test]
fn the_token_header_name_is_case_insensitive() {
    let case = Case::new();
    for name in ["fastly-key", "Fastly-Key", "FASTLY-KEY"] {
        let response =
            without_token(&case, &format!("GET {STORES}"), &format!("{name}:{TOKEN}\r\n"));
        assert_eq!(response.status, 200, "{name}");
    }
}

#[test]
fn other_methods_return_405_and_allow_lists_the_methods_of_the_route() {
    let case = Case::new();
    case.put_ok("k", &[], b"v");
    let id = &case.id;
    for (path, allowed) in [
        (STORES.to_owned(), "GET, HEAD, POST"),
        (format!("{STORES}/{id}"), "GET, HEAD, PUT, DELETE"),
        (format!("{STORES}/{UNKNOWN_STORE}"), "GET, HEAD, PUT, DELETE"),
        (format!("{STORES}/{id}/keys"), "GET, HEAD"),
        (format!("{STORES}/{id}/keys/k"), "GET, HEAD, PUT, DELETE"),
        (format!("{STORES}/{id}/batch"), "PUT"),
        ("/verify".into(), "GET, HEAD"),
        ("/_/v1/tokens".into(), "GET, HEAD, POST"),
        (format!("/_/v1/tokens/{UNKNOWN_STORE}"), "DELETE"),
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
            let response = case.server.request(&format!("{method} {path}"), &[], b"");
            assert_eq!(response.header("Allow"), allowed, "{method} {path}");
            if *method == "HEAD" {
                assert_eq!(response.status, 405, "{path}");
                continue;
            }
            let detail = format!("this path allows {allowed}");
            assert_error_body(&response, "405 Method Not Allowed", "Method not allowed", &detail);
        }
    }
    assert_eq!(case.get_value("k"), b"v");
}

#[test]
fn head_matches_get_on_every_route() {
    let case = Case::new();
    case.put_ok("k", &[("metadata", "m")], b"value");
    let id = &case.id;
    for path in [
        STORES.to_owned(),
        format!("{STORES}?limit=0"),
        format!("{STORES}/{id}"),
        format!("{STORES}/{UNKNOWN_STORE}"),
        format!("{STORES}/{id}/keys"),
        format!("{STORES}/{UNKNOWN_STORE}/keys"),
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
        // If HEAD had a body, the client would read it as the next response.
        let get = client.get(&path).unwrap();
        let without_date = |response: &Response| response.head.replace(response.header("Date"), "");
        assert_eq!(without_date(&head), without_date(&get), "{path}");
        assert_eq!(head.header("Content-Length"), get.body.len().to_string(), "{path}");
    }
}

#[test]
fn health_and_discovery_need_no_token() {
    let case = Case::new();
    let openid = without_token(&case, "GET /realms/fastly/.well-known/openid-configuration", "");
    assert_eq!((status_line(&openid), openid.text().as_str()), ("HTTP/1.1 200 OK", "{}"));
    assert_eq!(openid.header("Content-Type"), "application/json");
    for path in ["/healthz", "/readyz", "/_/openapi.json"] {
        assert_eq!(without_token(&case, &format!("GET {path}"), "").status, 200, "{path}");
    }
}

#[test]
fn account_endpoints_have_the_fields_that_clients_decode() {
    let case = Case::new();
    let get = |path: &str| {
        let response = case.server.get(path);
        assert_eq!(response.status, 200, "{path}");
        response.json()
    };
    let verify = get("/verify");
    for at in [
        "/customer/id", "/customer/name", "/user/id", "/user/name", "/user/login", "/token/id",
        "/token/name", "/token/created_at", "/token/scope",
    ] {
        assert!(
            verify.pointer(at).is_some_and(serde_json::Value::is_string),
            "{at} is not a string in {verify}"
        );
    }
    assert!(verify["services"].is_object() && verify["token"].get("expires_at").is_some());
    let token = get("/tokens/self");
    for name in ["id", "user_id", "customer_id", "name", "last_used_at", "created_at", "ip"] {
        assert!(token[name].is_string(), "{name} is not a string in {token}");
    }
    assert_eq!(token["scopes"], serde_json::json!(["global"]));
    assert_eq!((&token["scope"], &token["services"]), (&"global".into(), &serde_json::json!([])));
    assert!(token["expires_at"].is_null() && !token.to_string().contains(TOKEN));
    let user = get("/current_user");
    for name in ["id", "login", "name", "customer_id"] {
        assert!(user[name].is_string(), "{name} is not a string in {user}");
    }
    let path = "/enabled-products/v1/kv_store";
    let product = get(path);
    for at in ["/product/id", "/product/object", "/customer/id", "/customer/object", "/_links/self"]
    {
        assert!(
            product.pointer(at).is_some_and(serde_json::Value::is_string),
            "{at} is not a string in {product}"
        );
    }
    assert_eq!(case.server.request(&format!("PUT {path}"), &[], b"").json(), product);
    assert_204(&case.server.request(&format!("DELETE {path}"), &[], b""));
    case.server.request("DELETE /tokens/self", &[], b"").expect_error(403);
}

#[test]
fn a_connection_stays_open_after_an_error_with_a_small_body() {
    let case = Case::new();
    let mut client = case.server.connect();
    let value = vec![b'x'; 100_000];
    for (request, status) in [
        (format!("PUT {}", case.item_path("..")), 400),
        (format!("PUT {STORES}/{UNKNOWN_STORE}/keys/k"), 404),
        (format!("PUT {}/keys", case.store_path()), 405),
        ("PUT /nowhere".to_owned(), 404),
    ] {
        let response = client.request(&request, &[], &value).unwrap();
        response.expect_error(status);
        assert!(!response.has_header("Connection"), "{request}");
    }
    assert_put_ok(&client.request(&format!("PUT {}", case.item_path("k")), &[], b"v").unwrap());
    assert_eq!(case.get_value("k"), b"v");
}
