//! Tests of the account endpoints that clients use (docs/contract.md section 6).

use crate::support::{Server, TOKEN};
use serde_json::{Value, json};

#[test]
fn discovery_needs_no_token_and_returns_json() {
    let server = Server::memory(&[]);
    let mut client = server.connect();
    let path = "/realms/fastly/.well-known/openid-configuration";
    let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\nUser-Agent: Go-http-client/1.1\r\n\r\n");
    client.send(head).unwrap();
    let response = client.read_response(false).unwrap();
    assert_eq!((response.status, response.json()), (200, json!({})));
}

fn get(server: &Server, path: &str) -> Value {
    let response = server.get(path);
    assert_eq!(response.status, 200, "{path}");
    assert_eq!(response.header("Cache-Control"), "no-store");
    assert!(!response.text().contains(TOKEN), "the response to {path} contains the token");
    response.json()
}

/// Returns the field names of a JSON object in the order in which `Value` stores them.
fn field_names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

fn sorted<'n>(field_names: &[&'n str]) -> Vec<&'n str> {
    let mut field_names = field_names.to_vec();
    field_names.sort_unstable();
    field_names
}

#[test]
fn verify_returns_customer_user_services_and_token() {
    let server = Server::memory(&[]);
    let json = get(&server, "/verify");
    assert_eq!(field_names(&json), sorted(&["customer", "user", "services", "token"]));
    assert_eq!(field_names(&json["customer"]), ["id", "name"]);
    assert_eq!(field_names(&json["user"]), sorted(&["id", "name", "login"]));
    assert_eq!(json["services"], json!({}));
    let token = sorted(&["id", "name", "created_at", "expires_at", "scope"]);
    assert_eq!(field_names(&json["token"]), token);
    for text in ["id", "name", "created_at", "scope"] {
        assert!(json["token"][text].is_string(), "{text} is not a string in {json}");
    }
}

#[test]
fn token_and_user_have_the_fields_that_clients_decode() {
    let server = Server::memory(&[]);
    let token = get(&server, "/tokens/self");
    let expected = sorted(&[
        "id", "user_id", "customer_id", "name", "last_used_at", "created_at", "expires_at", "ip",
        "scopes", "scope", "services",
    ]);
    assert_eq!(field_names(&token), expected);
    assert_eq!((&token["scope"], &token["scopes"]), (&json!("global"), &json!(["global"])));
    assert_eq!((&token["expires_at"], &token["services"]), (&json!(null), &json!([])));
    let user = get(&server, "/current_user");
    assert_eq!(field_names(&user), sorted(&["id", "login", "name", "customer_id"]));
    let verified = get(&server, "/verify");
    assert_eq!(user["id"], token["user_id"]);
    assert_eq!(user["id"], verified["user"]["id"]);
    assert_eq!(user["login"], verified["user"]["login"]);
    assert_eq!(user["customer_id"], token["customer_id"]);
    assert_eq!(user["customer_id"], verified["customer"]["id"]);
    assert_eq!(token["id"], verified["token"]["id"]);
    // The Go client parses the time as RFC 3339.
    let created = token["created_at"].as_str().unwrap();
    assert!(created.len() == 20 && created.ends_with('Z') && &created[10..11] == "T");
}

#[test]
fn the_root_token_cannot_be_revoked_by_a_request() {
    let server = Server::memory(&[]);
    let message = server.request("DELETE /tokens/self", &[], b"").expect_error(403);
    assert!(message.contains("root token"), "{message}");
    assert_eq!(server.get("/tokens/self").status, 200);
}

#[test]
fn the_kv_store_product_is_always_enabled() {
    let server = Server::memory(&[]);
    let path = "/enabled-products/v1/kv_store";
    let expected = json!({
        "product": {"id": "kv_store", "object": "product"},
        "customer": {"id": "steadfast", "object": "customer"},
        "_links": {"self": path},
    });
    assert_eq!(get(&server, path), expected);
    let put = server.request(&format!("PUT {path}"), &[], b"");
    assert_eq!((put.status, put.json()), (200, expected.clone()));
    let delete = server.request(&format!("DELETE {path}"), &[], b"");
    assert_eq!((delete.status, delete.has_header("Content-Length")), (204, false));
    assert_eq!(get(&server, path), expected);
    server.get("/enabled-products/v1/other").expect_error(404);
}

#[test]
fn account_endpoints_list_their_methods_in_the_allow_header() {
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
        let response = server.request(&format!("POST {path}"), &[], b"");
        response.expect_error(405);
        assert_eq!(response.header("Allow"), methods, "{path}");
    }
}
