//! The small endpoints around the KV store that clients touch before or beside it (contract.md,
//! section 6). They tell of one fixed user: whoever holds the token.

use super::error::{Error, json};
use crate::http::Response;
use serde_json::json as value;

const CUSTOMER: &str = "steadfast";
const USER: &str = "root";
/// The root token has no date of its own.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// What the Fastly CLI asks for before every command; it needs no more than JSON.
pub(super) fn openid() -> Response {
    json(200, &value!({}))
}

/// Who holds the token.
pub(super) fn verify() -> Response {
    json(
        200,
        &value!({
            "customer": {"id": CUSTOMER, "name": "Steadfast"},
            "user": {"id": USER, "name": USER, "login": "root@localhost"},
            "services": {},
            "token": {
                "id": USER, "name": "root token", "created_at": CREATED, "expires_at": null,
                "scope": "global",
            },
        }),
    )
}

/// The token itself, without its secret.
pub(super) fn token() -> Response {
    json(
        200,
        &value!({
            "id": USER, "user_id": USER, "customer_id": CUSTOMER, "name": "root token",
            "last_used_at": CREATED, "created_at": CREATED, "expires_at": null, "ip": "127.0.0.1",
            "scopes": ["global"], "scope": "global", "services": [],
        }),
    )
}

/// The user.
pub(super) fn current_user() -> Response {
    json(
        200,
        &value!({
            "id": USER, "login": "root@localhost", "name": USER, "customer_id": CUSTOMER,
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
    Error::Forbidden("the root token cannot be revoked here: it is set where the server is started")
}
