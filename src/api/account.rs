//! Account endpoints that clients call alongside the KV Store API (docs/contract.md section 6).
//!
//! They describe the caller's token and a user derived from it; there are no user accounts.

use super::auth::Principal;
use super::error::{Error, json};
use crate::http::Response;
use crate::kv;
use crate::kv::tokens::TokenInfo;
use crate::wire;
use serde_json::json as value;

const CUSTOMER: &str = "steadfast";
const ROOT: &str = "root";
/// Creation time reported for the root token, whose actual creation time is unknown.
const ROOT_CREATED: &str = "2026-01-01T00:00:00Z";

/// The caller's token and user.
struct Account {
    id: String,
    token_name: String,
    user_name: String,
    scope: &'static str,
    created: String,
    expires: Option<String>,
}

impl Account {
    fn new(principal: &Principal) -> Account {
        match principal.token() {
            None => Account {
                id: ROOT.into(),
                token_name: "root token".into(),
                user_name: ROOT.into(),
                scope: "global",
                created: ROOT_CREATED.into(),
                expires: None,
            },
            Some(TokenInfo { id, grant, created_at, expires_at }) => Account {
                id: id.to_string(),
                token_name: grant.name().into(),
                user_name: grant.name().into(),
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

/// Answers the discovery request that the Fastly CLI sends before every command. The CLI accepts
/// any JSON object.
pub(super) fn openid_configuration() -> Response {
    json(200, &value!({}))
}

/// Describes the caller's customer, user and token.
pub(super) fn verify(principal: &Principal) -> Response {
    let account = Account::new(principal);
    json(
        200,
        &value!({
            "customer": {"id": CUSTOMER, "name": "Steadfast"},
            "user": {"id": account.id, "name": account.user_name, "login": account.login()},
            "services": {},
            "token": {
                "id": account.id, "name": account.token_name, "created_at": account.created,
                "expires_at": account.expires, "scope": account.scope,
            },
        }),
    )
}

/// Describes the caller's token, without its secret.
pub(super) fn token(principal: &Principal) -> Response {
    let account = Account::new(principal);
    json(
        200,
        &value!({
            "id": account.id, "user_id": account.id, "customer_id": CUSTOMER,
            "name": account.token_name, "last_used_at": account.created,
            "created_at": account.created, "expires_at": account.expires, "ip": "127.0.0.1",
            "scopes": [account.scope], "scope": account.scope, "services": [],
        }),
    )
}

/// Describes the caller's user.
pub(super) fn current_user(principal: &Principal) -> Response {
    let account = Account::new(principal);
    json(
        200,
        &value!({
            "id": account.id, "login": account.login(), "name": account.user_name,
            "customer_id": CUSTOMER,
        }),
    )
}

/// Describes the KV store product, which is always enabled.
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

/// Returns the error for revoking the root token.
pub(super) fn root_not_revocable() -> Error {
    let reason = "the root token cannot be revoked; change it in the server's configuration";
    Error::Kv(kv::Error::Forbidden(reason))
}
