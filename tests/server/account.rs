//! The small endpoints that clients touch beside the store (contract.md, section 6): to the byte.

use crate::support::{Server, TOKEN};
use serde_json::{Value, json};

#[test]
fn discovery_needs_no_token_and_is_json() {
    let server = Server::memory(&[]);
    let mut client = server.connect();
    let path = "/realms/fastly/.well-known/openid-configuration";
    let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\nUser-Agent: Go-http-client/1.1\r\n\r\n");
    client.send(head).unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, answer.json()), (200, json!({})));
}

fn get(server: &Server, path: &str) -> Value {
    let answer = server.ask(&format!("GET {path}"), &[], b"");
    assert_eq!(answer.status, 200, "{path}");
    assert_eq!(answer.field("Cache-Control"), "no-store");
    assert!(!answer.text().contains(TOKEN), "{path} shows the token");
    answer.json()
}

/// The names in a JSON object, in order.
fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

fn sorted<'n>(names: &[&'n str]) -> Vec<&'n str> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

#[test]
fn verify_tells_customer_user_services_and_token() {
    let server = Server::memory(&[]);
    let json = get(&server, "/verify");
    assert_eq!(names(&json), sorted(&["customer", "user", "services", "token"]));
    assert_eq!(names(&json["customer"]), ["id", "name"]);
    assert_eq!(names(&json["user"]), sorted(&["id", "name", "login"]));
    assert_eq!(json["services"], json!({}));
    let token = sorted(&["id", "name", "created_at", "expires_at", "scope"]);
    assert_eq!(names(&json["token"]), token);
    for text in ["id", "name", "created_at", "scope"] {
        assert!(json["token"][text].is_string(), "{text} in {json}");
    }
}

#[test]
fn the_token_and_the_user_are_the_ones_that_clients_decode() {
    let server = Server::memory(&[]);
    let token = get(&server, "/tokens/self");
    let expected = sorted(&[
        "id",
        "user_id",
        "customer_id",
        "name",
        "last_used_at",
        "created_at",
        "expires_at",
        "ip",
        "scopes",
        "scope",
        "services",
    ]);
    assert_eq!(names(&token), expected);
    assert_eq!((&token["scope"], &token["scopes"]), (&json!("global"), &json!(["global"])));
    assert_eq!((&token["expires_at"], &token["services"]), (&json!(null), &json!([])));
    let user = get(&server, "/current_user");
    assert_eq!(names(&user), sorted(&["id", "login", "name", "customer_id"]));
    let verified = get(&server, "/verify");
    assert_eq!(user["id"], token["user_id"]);
    assert_eq!(user["id"], verified["user"]["id"]);
    assert_eq!(user["login"], verified["user"]["login"]);
    assert_eq!(user["customer_id"], token["customer_id"]);
    assert_eq!(user["customer_id"], verified["customer"]["id"]);
    assert_eq!(token["id"], verified["token"]["id"]);
    // Go reads it as a time, with its zone.
    let created = token["created_at"].as_str().unwrap();
    assert!(created.len() == 20 && created.ends_with('Z') && &created[10..11] == "T");
}

#[test]
fn the_root_token_cannot_be_revoked_over_the_network() {
    let server = Server::memory(&[]);
    let said = server.ask("DELETE /tokens/self", &[], b"").refused(403);
    assert!(said.contains("root token"), "{said}");
    assert_eq!(server.ask("GET /tokens/self", &[], b"").status, 200);
}

#[test]
fn the_product_is_always_enabled() {
    let server = Server::memory(&[]);
    let path = "/enabled-products/v1/kv_store";
    let expected = json!({
        "product": {"id": "kv_store", "object": "product"},
        "customer": {"id": "steadfast", "object": "customer"},
        "_links": {"self": path},
    });
    assert_eq!(get(&server, path), expected);
    let put = server.ask(&format!("PUT {path}"), &[], b"");
    assert_eq!((put.status, put.json()), (200, expected.clone()));
    let delete = server.ask(&format!("DELETE {path}"), &[], b"");
    assert_eq!((delete.status, delete.has("Content-Length")), (204, false));
    assert_eq!(get(&server, path), expected);
    server.ask("GET /enabled-products/v1/other", &[], b"").refused(404);
}

#[test]
fn each_has_its_methods_and_says_them() {
    let server = Server::memory(&[]);
    for (path, methods) in [
        ("/verify", "GET, HEAD"),
        ("/current_user", "GET, HEAD"),
        ("/tokens/self", "GET, HEAD, DELETE"),
        ("/enabled-products/v1/kv_store", "GET, HEAD, PUT, DELETE"),
        ("/realms/fastly/.well-known/openid-configuration", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
    ] {
        let answer = server.ask(&format!("POST {path}"), &[], b"");
        answer.refused(405);
        assert_eq!(answer.field("Allow"), methods, "{path}");
    }
}
