//! The small endpoints around the KV store that clients touch before or beside it (contract.md,
//! section 6). They tell of the token in use, and of a user who is whoever holds it.

use super::auth::Principal;
use super::error::{Error, json};
use crate::http::Response;
use crate::kv;
use crate::kv::tokens::TokenInfo;
use crate::wire;
use serde_json::json as value;

const CUSTOMER: &str = "steadfast";
const ROOT: &str = "root";
/// The root token has no date of its own.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// The token in use, as these endpoints tell of it.
struct Token {
    id: String,
    name: String,
    user: String,
    scope: &'static str,
    created: String,
    expires: Option<String>,
}

impl Token {
    fn of(pass: &Principal) -> Token {
        match pass.token() {
            None => Token {
                id: ROOT.into(),
                name: "root token".into(),
                user: ROOT.into(),
                scope: "global",
                created: CREATED.into(),
                expires: None,
            },
            Some(TokenInfo { id, grant, created_at, expires_at }) => Token {
                id: id.to_string(),
                name: grant.name().into(),
                user: grant.name().into(),
                scope: grant.scope().as_str(),
                created: wire::rfc3339(*created_at),
                expires: expires_at.map(wire::rfc3339),
            },
        }
    }

    fn login(&self) -> String {
        format!("{}@localhost", self.id)
    }
}

/// What the Fastly CLI asks for before every command; it needs no more than JSON.
pub(super) fn openid() -> Response {
    json(200, &value!({}))
}

/// Who holds the token.
pub(super) fn verify(pass: &Principal) -> Response {
    let token = Token::of(pass);
    json(
        200,
        &value!({
            "customer": {"id": CUSTOMER, "name": "Steadfast"},
            "user": {"id": token.id, "name": token.user, "login": token.login()},
            "services": {},
            "token": {
                "id": token.id, "name": token.name, "created_at": token.created,
                "expires_at": token.expires, "scope": token.scope,
            },
        }),
    )
}

/// The token itself, without its secret.
pub(super) fn token(pass: &Principal) -> Response {
    let token = Token::of(pass);
    json(
        200,
        &value!({
            "id": token.id, "user_id": token.id, "customer_id": CUSTOMER, "name": token.name,
            "last_used_at": token.created, "created_at": token.created,
            "expires_at": token.expires, "ip": "127.0.0.1", "scopes": [token.scope],
            "scope": token.scope, "services": [],
        }),
    )
}

/// The user.
pub(super) fn current_user(pass: &Principal) -> Response {
    let token = Token::of(pass);
    json(
        200,
        &value!({
            "id": token.id, "login": token.login(), "name": token.user, "customer_id": CUSTOMER,
        }),
    )
}

/// The product, which is always enabled.
pub(super) fn product() -> Response {
    json(
        200,
        &value!({
            "product": {"id": "kv_store", "object": "product"},
            "customer": {"id": CUSTOMER, "object": "customer"},
            "_links": {"self": "/enabled-products/v1/kv_store"},
        }),
    )
}

/// The root token belongs to whoever runs the server.
pub(super) fn no_revoke() -> Error {
    let why = "the root token cannot be revoked here: it is set where the server is started";
    Error::Kv(kv::Error::Forbidden(why))
}
