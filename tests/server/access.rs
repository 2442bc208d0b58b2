//! Who may ask: every route but those for health and discovery wants the token, and shows and
//! logs nothing of it.

use crate::logged::Logged;
use crate::support::{Answer, Server, TOKEN};

const KV: &str = "/resources/stores/kv";

/// A request with these fields alone, each of which ends in CR LF.
fn ask(server: &Server, request: &str, fields: impl AsRef<[u8]>, body: &str) -> Answer {
    let mut head = format!("{request} HTTP/1.1\r\nHost: h\r\n").into_bytes();
    head.extend_from_slice(fields.as_ref());
    head.extend_from_slice(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let mut client = server.connect();
    client.send(head).unwrap();
    client.answer(request.starts_with("HEAD")).unwrap()
}

/// Every route with each of its methods, and some that are none.
fn routes(store: &str) -> Vec<(String, &'static str)> {
    let one = format!("{KV}/{store}");
    let line = r#"{"key":"b","value":"dg=="}"#;
    let name = r#"{"name":"changed"}"#;
    let mut routes = vec![
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
        KV,
        &one,
        &list,
        &item,
        &old,
        "/verify",
        "/current_user",
        "/_/v1/tokens",
        "/_/v1/tokens/",
        "/tokens/self",
        "/enabled-products/v1/kv_store",
        "/metrics",
        "/no/such/path",
        "/",
        "*",
    ] {
        routes.push((format!("GET {path}"), ""));
        routes.push((format!("HEAD {path}"), ""));
    }
    routes
}

/// All that the server holds, as far as clients see it.
fn state(server: &Server, store: &str) -> Vec<String> {
    let item = server.ask(&format!("GET {KV}/{store}/keys/k"), &[], b"");
    vec![
        server.ask(&format!("GET {KV}"), &[], b"").text(),
        server.ask(&format!("GET {KV}/{store}/keys"), &[], b"").text(),
        item.field("Generation").to_owned(),
        item.text(),
    ]
}

#[test]
fn without_the_token_every_route_answers_401_and_changes_nothing() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    server.ask(&format!("PUT {KV}/{store}/keys/k"), &[], b"v");
    let before = state(&server, &store);
    let text = "\"Provided credentials are missing or invalid\"";
    let shape = format!("{{\"msg\":{text},\"title\":{text},\"detail\":{text},\"status\":401}}");
    for (request, body) in routes(&store) {
        for fields in ["", "Fastly-Key: wrong-token-0123456789\r\n"] {
            let answer = ask(&server, &request, fields, body);
            assert_eq!(answer.status, 401, "{request} {fields:?}");
            if !request.starts_with("HEAD") {
                answer.refused(401);
                assert_eq!(answer.text(), shape, "{request}");
            }
        }
    }
    assert_eq!(state(&server, &store), before);
}

#[test]
fn health_and_discovery_are_open_and_nothing_else_is() {
    let server = Server::memory(&[]);
    for path in ["/healthz", "/readyz", "/realms/fastly/.well-known/openid-configuration"] {
        for fields in ["", "Fastly-Key: wrong-token-0123456789\r\n"] {
            assert_eq!(ask(&server, &format!("GET {path}"), fields, "").status, 200, "{path}");
        }
        for close in ["/", "x", "/../verify", "%2e"] {
            assert_eq!(ask(&server, &format!("GET {path}{close}"), "", "").status, 401);
        }
    }
    assert_eq!(ask(&server, "GET /healthz/../resources/stores/kv", "", "").status, 401);
}

#[test]
fn only_the_very_token_given_once_is_the_token() {
    let server = Server::memory(&[]);
    let status = |fields: &[u8]| ask(&server, &format!("GET {KV}"), fields, "").status;
    let key = |token: &str| format!("Fastly-Key: {token}\r\n");
    assert_eq!(status(key(TOKEN).as_bytes()), 200);
    assert_eq!(status(key(TOKEN).to_lowercase().as_bytes()), 200, "the name of the field");
    assert_eq!(status(format!("Fastly-Key: \t{TOKEN} \r\n").as_bytes()), 200);
    for length in 0..TOKEN.len() {
        assert_eq!(status(key(&TOKEN[..length]).as_bytes()), 401, "the first {length}");
        assert_eq!(status(key(&TOKEN[length + 1..]).as_bytes()), 401, "all after {length}");
    }
    let other = TOKEN.replace('9', "8");
    for wrong in [
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
        assert_eq!(status(wrong.as_bytes()), 401, "{wrong}");
    }
    for bytes in [&b"\xff\xfe"[..], b"t\xc3\xb6ken", b"\x80"] {
        assert_eq!(status(&[b"Fastly-Key: ", bytes, b"\r\n"].concat()), 401);
        let longer = [b"Fastly-Key: ", TOKEN.as_bytes(), bytes, b"\r\n"].concat();
        assert_eq!(status(&longer), 401);
    }
    assert_eq!(ask(&server, &format!("GET {KV}?Fastly-Key={TOKEN}"), "", "").status, 401);
}

#[test]
fn a_bearer_opens_the_metrics_alone() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&server, "GET /metrics", &bearer, "").status, 200);
    assert_eq!(ask(&server, "GET /metrics", format!("Fastly-Key: {TOKEN}\r\n"), "").status, 200);
    for wrong in [
        format!("Authorization: Bearer {TOKEN}0\r\n"),
        format!("Authorization: Bearer  {TOKEN}x\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        "Authorization: Bearer\r\n".to_owned(),
        format!("Fastly-Key: x\r\n{bearer}"),
    ] {
        assert_eq!(ask(&server, "GET /metrics", &wrong, "").status, 401, "{wrong}");
    }
    for (request, body) in routes(&store) {
        if !request.ends_with("/metrics") {
            assert_eq!(ask(&server, &request, &bearer, body).status, 401, "{request}");
        }
    }
}

#[test]
fn a_page_of_another_site_cannot_drive_it() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let origin = "Origin: https://elsewhere.example\r\nSec-Fetch-Site: cross-site\r\n";
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    for (request, body) in routes(&store) {
        for fields in [origin.to_owned(), format!("{origin}{key}")] {
            // A deleted store would be missed by what follows.
            if request.starts_with("DELETE") && fields.contains(TOKEN) {
                continue;
            }
            let answer = ask(&server, &request, &fields, body);
            let head = answer.head.to_lowercase();
            assert!(!head.contains("access-control"), "{request}: {head}");
            assert!(!(300..400).contains(&answer.status), "{request}: {head}");
        }
    }
    // What a browser asks before it sends a field of its own or another method.
    let preflight = "Access-Control-Request-Method: PUT\r\n\
                     Access-Control-Request-Headers: fastly-key\r\n";
    for path in [KV, "/healthz", "/verify", &format!("{KV}/{store}/keys/k")] {
        let fields = format!("{origin}{preflight}");
        let status = ask(&server, &format!("OPTIONS {path}"), &fields, "").status;
        assert!([401, 405].contains(&status), "{path}: {status}");
        let allowed = ask(&server, &format!("OPTIONS {path}"), format!("{fields}{key}"), "");
        assert!(allowed.status == 405 && !allowed.head.to_lowercase().contains("access-control"));
    }
    // What a form can send by itself.
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"] {
        let fields = format!("{origin}Content-Type: {kind}\r\nCookie: a=b\r\n");
        ask(&server, &format!("POST {KV}"), fields, r#"{"name":"forged"}"#).refused(401);
    }
}

/// Requests of all kinds, with words that no log may hold: what is stored, and the token.
fn busy(server: &Server) {
    let store = server.store("secretname");
    let item = format!("{KV}/{store}/keys/secretkey");
    let large = "secretvalue".repeat(60_000);
    let meta = [("metadata", "secretmetadata")];
    assert_eq!(server.ask(&format!("PUT {item}"), &meta, b"secretvalue").status, 200);
    assert_eq!(server.ask(&format!("PUT {item}2"), &meta, large.as_bytes()).status, 200);
    for request in ["GET", "HEAD", "DELETE", "PATCH"] {
        for path in [format!("{item}2"), format!("{item}-none"), format!("{item}/%zz")] {
            let mut client = server.connect();
            let head = format!("{request} {path} HTTP/1.1\r\nFastly-Key: {TOKEN}\r\n\r\n");
            client.send(head).unwrap();
            client.answer(request == "HEAD").unwrap();
        }
    }
    let line = r#"{"key":"secretkey3","value":"c2VjcmV0","metadata":"secretmetadata"}"#;
    server.ask(&format!("PUT {KV}/{store}/batch"), &[], format!("{line}\nsecretline").as_bytes());
    server.ask(&format!("GET {KV}/{store}/keys?prefix=secret&limit=secret"), &[], b"");
    server.ask(&format!("PUT {item}"), &[("if-generation-match", "secretnumber")], b"");
    server.ask(&format!("PUT {item}"), &[("if-generation-match", "7")], b"secretvalue");
    ask(server, &format!("PUT {item}"), "Fastly-Key: secretwrong\r\n", "secretvalue");
    ask(server, &format!("GET {KV}"), format!("Fastly-Key: {TOKEN}secret\r\n"), "");
    ask(server, &format!("GET {KV}"), format!("Fastly-Key : {TOKEN}\r\n"), "").refused(400);
    ask(server, "secretmethod /secretpath", format!("Fastly-Key: {TOKEN}\r\n"), "");
    ask(server, "GET /\0secret", format!("Fastly-Key: {TOKEN}\r\n"), "").refused(400);
    ask(server, &format!("GET {KV}"), format!("Transfer-Encoding: {TOKEN}\r\n"), "").refused(501);
}

#[test]
fn no_log_shows_the_token_or_what_is_stored() {
    for format in ["text", "json"] {
        let logged = Logged::new(&["--log", "trace", "--log-format", format]);
        busy(&logged.server);
        let log = logged.stop();
        assert!(log.lines().count() > 20, "much was logged: {log}");
        assert!(log.contains("/resources/stores/kv/{store_id}/keys/{key}"), "{log}");
        assert!(!log.contains(TOKEN), "the token is in the log");
        for line in log.lines() {
            assert!(!line.contains("secret") && !line.contains("c2VjcmV0"), "{line}");
        }
    }
}

#[test]
fn no_refusal_shows_the_token() {
    let server = Server::memory(&[]);
    let store = server.store("s");
    let key = format!("Fastly-Key: {TOKEN}\r\n");
    let refusals = [
        ask(&server, "GET /nowhere", &key, ""),
        ask(&server, "PATCH /verify", &key, ""),
        ask(&server, &format!("PUT {KV}/{store}/keys/k"), format!("{key}{key}"), ""),
        ask(&server, &format!("PUT {KV}/{store}/keys/.."), &key, ""),
        ask(&server, &format!("GET {KV}/{store}/keys?limit=x"), &key, ""),
        ask(&server, "GET /", format!("{key}Expect: {TOKEN}\r\n"), ""),
        ask(&server, "GET /", format!("{key}Content-Length: {TOKEN}\r\n"), ""),
        ask(&server, "GET /", format!("Fastly-Key : {TOKEN}\r\n"), ""),
        ask(&server, "GET /", format!("Fastly-Key: {TOKEN}\0\r\n"), ""),
        ask(&server, "DELETE /tokens/self", &key, ""),
    ];
    for answer in refusals {
        assert!((400..500).contains(&answer.status), "{}", answer.head);
        assert!(!answer.head.contains(TOKEN) && !answer.text().contains(TOKEN));
    }
}
