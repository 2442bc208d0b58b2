//! Tests of authentication: every route except health and discovery requires the token, and no
//! response or log contains the token.

use crate::support::{DiskServer, Response, Server, TOKEN};

const KV: &str = "/resources/stores/kv";

/// Sends a request with the given headers, each of which ends with CR LF, and reads the response.
fn send(server: &Server, request: &str, headers: impl AsRef<[u8]>, body: &str) -> Response {
    let mut head = format!("{request} HTTP/1.1\r\nHost: h\r\n").into_bytes();
    head.extend_from_slice(headers.as_ref());
    head.extend_from_slice(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let mut client = server.connect();
    client.send(head).unwrap();
    client.read_response(request.starts_with("HEAD")).unwrap()
}

/// Returns requests to every route with each of its methods, and to paths without a route.
fn all_requests(store: &str) -> Vec<(String, &'static str)> {
    let one = format!("{KV}/{store}");
    let line = r#"{"key":"b","value":"dg=="}"#;
    let name = r#"{"name":"changed"}"#;
    let mut requests = vec![
        (format!("POST {KV}"), name),
        (format!("PUT {one}"), name),
        (format!("DELETE {one}"), ""),
        (format!("PUT {one}/batch"), line),
        (format!("PUT {one}/keys/k"), "changed"),
        (format!("PUT {one}/keys/k?append=true"), "changed"),
        (format!("DELETE {one}/keys/k"), ""),
        (format!("DELETE {one}/keys/k?force=true"), ""),
        ("POST /_/v1/tokens".to_owned(), r#"{"name":"n","scope":"global"}"#),
        ("DELETE /_/v1/tokens/0000000000000000000000".to_owned(), ""),
        ("DELETE /tokens/self".to_owned(), ""),
        ("PUT /enabled-products/v1/kv_store".to_owned(), ""),
        ("DELETE /enabled-products/v1/kv_store".to_owned(), ""),
        (format!("PATCH {one}/keys/k"), "changed"),
        ("POST /no/such/path".to_owned(), ""),
        ("PUT /resources/stores/object/x/keys/k".to_owned(), "changed"),
    ];
    let list = format!("{one}/keys");
    let item = format!("{one}/keys/k");
    let old = format!("/resources/stores/object/{store}/keys/k");
    for path in [
        KV, &one, &list, &item, &old, "/verify", "/current_user", "/_/v1/tokens", "/_/v1/tokens/",
        "/tokens/self", "/enabled-products/v1/kv_store", "/metrics", "/no/such/path", "/", "*",
    ] {
        requests.push((format!("GET {path}"), ""));
        requests.push((format!("HEAD {path}"), ""));
    }
    requests
}

/// Returns the server state that is visible to clients.
fn visible_state(server: &Server, store: &str) -> Vec<String> {
    let item = server.get(&format!("{KV}/{store}/keys/k"));
    vec![
        server.get(KV).text(),
        server.get(&format!("{KV}/{store}/keys")).text(),
        item.header("Generation").to_owned(),
        item.text(),
    ]
}

#[test]
fn every_route_without_the_token_returns_401_and_changes_nothing() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    server.request(&format!("PUT {KV}/{store}/keys/k"), &[], b"v");
    let before = visible_state(&server, &store);
    let text = "\"Provided credentials are missing or invalid\"";
    let shape = format!("{{\"msg\":{text},\"title\":{text},\"detail\":{text},\"status\":401}}");
    for (request, body) in all_requests(&store) {
        for headers in ["", "Fastly-Key: wrong-token-0123456789\r\n"] {
            let response = send(&server, &request, headers, body);
            assert_eq!(response.status, 401, "{request} {headers:?}");
            let scheme = if request.ends_with("/metrics") { "Bearer" } else { "Fastly-Key" };
            let challenge = format!("{scheme} realm=\"steadfast\"");
            assert_eq!(response.header("WWW-Authenticate"), challenge, "{request}");
            if !request.starts_with("HEAD") {
                response.expect_error(401);
                assert_eq!(response.text(), shape, "{request}");
            }
        }
    }
    assert_eq!(visible_state(&server, &store), before);
}

#[test]
fn only_health_and_discovery_need_no_token() {
    let server = Server::memory(&[]);
    for path in ["/healthz", "/readyz", "/_/v1", "/realms/fastly/.well-known/openid-configuration"]
    {
        for headers in ["", "Fastly-Key: wrong-token-0123456789\r\n"] {
            assert_eq!(send(&server, &format!("GET {path}"), headers, "").status, 200, "{path}");
        }
        for close in ["/", "x", "/../verify", "%2e"] {
            assert_eq!(send(&server, &format!("GET {path}{close}"), "", "").status, 401);
        }
    }
    assert_eq!(send(&server, "GET /healthz/../resources/stores/kv", "", "").status, 401);
}

#[test]
fn only_the_exact_token_given_once_is_accepted() {
    let server = Server::memory(&[]);
    let status = |headers: &[u8]| send(&server, &format!("GET {KV}"), headers, "").status;
    let key = |token: &str| format!("Fastly-Key: {token}\r\n");
    assert_eq!(status(key(TOKEN).as_bytes()), 200);
    assert_eq!(
        status(key(TOKEN).to_lowercase().as_bytes()),
        200,
        "header names are case-insensitive"
    );
    assert_eq!(status(format!("Fastly-Key: \t{TOKEN} \r\n").as_bytes()), 200);
    for length in 0..TOKEN.len() {
        assert_eq!(status(key(&TOKEN[..length]).as_bytes()), 401, "only the first {length} bytes");
        assert_eq!(
            status(key(&TOKEN[length + 1..]).as_bytes()),
            401,
            "without the first {} bytes",
            length + 1
        );
    }
    let other = TOKEN.replace('9', "8");
    for invalid in [
        key(&format!("{TOKEN}0")),
        key(&format!("{TOKEN} {TOKEN}")),
        key(&format!("{TOKEN},{TOKEN}")),
        key(&format!("\"{TOKEN}\"")),
        key(&format!("Bearer {TOKEN}")),
        key(&TOKEN.to_uppercase()),
        key(&other),
        key(&"x".repeat(10_000)),
        format!("{}{}", key(TOKEN), key(TOKEN)),
        format!("{}{}", key(TOKEN), key("x")),
        format!("{}{}", key("x"), key(TOKEN)),
        format!("{}{}", key(TOKEN), key("")),
        format!("Fastly_Key: {TOKEN}\r\n"),
        format!("X-Fastly-Key: {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("Cookie: Fastly-Key={TOKEN}\r\n"),
    ] {
        assert_eq!(status(invalid.as_bytes()), 401, "{invalid}");
    }
    for bytes in [&b"\xff\xfe"[..], b"t\xc3\xb6ken", b"\x80"] {
        assert_eq!(status(&[b"Fastly-Key: ", bytes, b"\r\n"].concat()), 401);
        let longer = [b"Fastly-Key: ", TOKEN.as_bytes(), bytes, b"\r\n"].concat();
        assert_eq!(status(&longer), 401);
    }
    assert_eq!(send(&server, &format!("GET {KV}?Fastly-Key={TOKEN}"), "", "").status, 401);
}

#[test]
fn bearer_authentication_is_accepted_for_metrics_only() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for scheme in ["Bearer ", "bearer ", "BEARER   "] {
        let bearer = format!("Authorization: {scheme}{TOKEN}\r\n");
        assert_eq!(send(&server, "GET /metrics", &bearer, "").status, 200, "{scheme}");
    }
    assert_eq!(send(&server, "GET /metrics", format!("Fastly-Key: {TOKEN}\r\n"), "").status, 200);
    for invalid in [
        format!("Authorization: Bearer {TOKEN}0\r\n"),
        format!("Authorization: Bearer  {TOKEN}x\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        "Authorization: Bearer\r\n".to_owned(),
        format!("Fastly-Key: x\r\n{bearer}"),
    ] {
        assert_eq!(send(&server, "GET /metrics", &invalid, "").status, 401, "{invalid}");
    }
    for (request, body) in all_requests(&store) {
        if !request.ends_with("/metrics") {
            assert_eq!(send(&server, &request, &bearer, body).status, 401, "{request}");
        }
    }
}

#[test]
fn cross_origin_requests_get_no_cors_headers_and_no_access() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let origin = "Origin: https://elsewhere.example\r\nSec-Fetch-Site: cross-site\r\n";
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    for (request, body) in all_requests(&store) {
        for headers in [origin.to_owned(), format!("{origin}{key}")] {
            // Skip deletes that would succeed, because later requests need the store.
            if request.starts_with("DELETE") && headers.contains(TOKEN) {
                continue;
            }
            let response = send(&server, &request, &headers, body);
            let head = response.head.to_lowercase();
            assert!(!head.contains("access-control"), "{request}: {head}");
            assert!(!(300..400).contains(&response.status), "{request}: {head}");
        }
    }
    // Send a preflight request as a browser does.
    let preflight = "Access-Control-Request-Method: PUT\r\n\
                     Access-Control-Request-Headers: fastly-key\r\n";
    for path in [KV, "/healthz", "/verify", &format!("{KV}/{store}/keys/k")] {
        let headers = format!("{origin}{preflight}");
        let status = send(&server, &format!("OPTIONS {path}"), &headers, "").status;
        assert!([401, 405].contains(&status), "{path}: {status}");
        let allowed = send(&server, &format!("OPTIONS {path}"), format!("{headers}{key}"), "");
        assert!(allowed.status == 405 && !allowed.head.to_lowercase().contains("access-control"));
    }
    // Send requests that an HTML form can send without a preflight request.
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"] {
        let headers = format!("{origin}Content-Type: {kind}\r\nCookie: a=b\r\n");
        send(&server, &format!("POST {KV}"), headers, r#"{"name":"forged"}"#).expect_error(401);
    }
}

/// Sends requests of all kinds. The tokens, names, keys, metadata and values in these requests must
/// not be logged.
fn send_requests_with_secrets(server: &Server) {
    let store = server.create_store("secretname");
    let item = format!("{KV}/{store}/keys/secretkey");
    let large = "secretvalue".repeat(60_000);
    let meta = [("metadata", "secretmetadata")];
    assert_eq!(server.request(&format!("PUT {item}"), &meta, b"secretvalue").status, 200);
    assert_eq!(server.request(&format!("PUT {item}2"), &meta, large.as_bytes()).status, 200);
    for request in ["GET", "HEAD", "DELETE", "PATCH"] {
        for path in [format!("{item}2"), format!("{item}-none"), format!("{item}/%zz")] {
            let mut client = server.connect();
            let headers = format!("Host: h\r\nFastly-Key: {TOKEN}\r\n");
            client.send(format!("{request} {path} HTTP/1.1\r\n{headers}\r\n")).unwrap();
            client.read_response(request == "HEAD").unwrap();
        }
    }
    let line = r#"{"key":"secretkey3","value":"c2VjcmV0","metadata":"secretmetadata"}"#;
    let lines = format!("{line}\nsecretline");
    server.request(&format!("PUT {KV}/{store}/batch"), &[], lines.as_bytes());
    server.get(&format!("{KV}/{store}/keys?prefix=secret&limit=secret"));
    server.request(&format!("PUT {item}"), &[("if-generation-match", "secretnumber")], b"");
    server.request(&format!("PUT {item}"), &[("if-generation-match", "7")], b"secretvalue");
    send(server, &format!("PUT {item}"), "Fastly-Key: secretwrong\r\n", "secretvalue");
    send(server, &format!("GET {KV}"), format!("Fastly-Key: {TOKEN}secret\r\n"), "");
    send(server, &format!("GET {KV}"), format!("Fastly-Key : {TOKEN}\r\n"), "").expect_error(400);
    send(server, "secretmethod /secretpath", format!("Fastly-Key: {TOKEN}\r\n"), "");
    send(server, "GET /\0secret", format!("Fastly-Key: {TOKEN}\r\n"), "").expect_error(400);
    send(server, &format!("GET {KV}"), format!("Transfer-Encoding: {TOKEN}\r\n"), "")
        .expect_error(501);
}

#[test]
fn logs_never_contain_the_token_or_stored_data() {
    for format in ["text", "json"] {
        let logged = DiskServer::logged(&["--log", "trace", "--log-format", format]);
        send_requests_with_secrets(&logged.server);
        let log = logged.stop_and_read_log();
        assert!(log.lines().count() > 20, "there are too few log lines: {log}");
        assert!(log.contains("/resources/stores/kv/{store_id}/keys/{key}"), "{log}");
        assert!(!log.contains(TOKEN), "the log contains the token");
        for line in log.lines() {
            assert!(!line.contains("secret") && !line.contains("c2VjcmV0"), "{line}");
        }
    }
}

#[test]
fn error_responses_never_contain_the_token() {
    let server = Server::memory(&[]);
    let store = server.create_store("s");
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    let responses = [
        send(&server, "GET /nowhere", &key, ""),
        send(&server, "PATCH /verify", &key, ""),
        send(&server, &format!("PUT {KV}/{store}/keys/k"), format!("{key}{key}"), ""),
        send(&server, &format!("PUT {KV}/{store}/keys/.."), &key, ""),
        send(&server, &format!("GET {KV}/{store}/keys?limit=x"), &key, ""),
        send(&server, "GET /", format!("{key}Expect: {TOKEN}\r\n"), ""),
        send(&server, "GET /", format!("{key}Content-Length: {TOKEN}\r\n"), ""),
        send(&server, "GET /", format!("Fastly-Key : {TOKEN}\r\n"), ""),
        send(&server, "GET /", format!("Fastly-Key: {TOKEN}\0\r\n"), ""),
        send(&server, "DELETE /tokens/self", &key, ""),
    ];
    for response in responses {
        assert!((400..500).contains(&response.status), "{}", response.head);
        assert!(!response.head.contains(TOKEN) && !response.text().contains(TOKEN));
    }
}
