//! Creating, listing and revoking limited tokens. A limited token may only revoke itself;
//! everything else requires the root token.

use super::auth::Principal;
use super::error::{Error, json, json_admitted, without_body};
use super::{Api, account, json_body};
use crate::http::{Body, Response, Stream};
use crate::kv;
use crate::kv::tokens::{Grant, Scope, TokenId, TokenInfo};
use crate::kv::types::StoreId;
use crate::wire;
use serde_json::{Map, Value};

/// The fields of a new token.
const FIELDS: [&str; 5] = ["name", "scope", "stores", "prefix", "expires_at"];
/// Maximum size of an unknown field's name in an error, in bytes.
const FIELD_BYTES_MAX: usize = 64;

/// Memory reserved for the list of all tokens, in bytes.
const LIST_BYTES_MAX: u64 = 16 << 20;

fn to_wire(token: &TokenInfo) -> wire::LimitedToken {
    let TokenInfo { id, grant, created_at, expires_at } = token;
    wire::LimitedToken {
        id: id.to_string(),
        name: grant.name().into(),
        scope: grant.scope().as_str().into(),
        stores: grant.stores().iter().map(StoreId::to_string).collect(),
        prefix: grant.prefix().into(),
        created_at: wire::rfc3339(*created_at),
        expires_at: expires_at.map(wire::rfc3339),
        access_token: None,
    }
}

impl Api {
    pub(super) async fn create_token<S: Stream>(
        &self,
        body: &mut Body<'_, S>,
    ) -> Result<Response, Error> {
        let (grant, expires) = parse(&json_body::read(body, &self.limiter).await?)?;
        let (token, secret) = self.kv.create_token(grant, expires).await?;
        let access_token = Some(secret.expose().to_owned());
        Ok(json(201, &wire::LimitedToken { access_token, ..to_wire(&token) }))
    }

    pub(super) async fn list_tokens(&self) -> Result<Response, Error> {
        let permit = self.limiter.download(LIST_BYTES_MAX).await?;
        let tokens = self.kv.list_tokens().await?;
        let data = tokens.iter().map(to_wire).collect();
        Ok(json_admitted(&wire::TokenList { data }, permit))
    }

    pub(super) async fn revoke_token(&self, id: &[u8]) -> Result<Response, Error> {
        self.kv.revoke_token(&TokenId::parse(id)?).await?;
        Ok(without_body(204))
    }

    /// Revokes the caller's token.
    pub(super) async fn revoke_self(&self, principal: &Principal) -> Result<Response, Error> {
        let token = principal.token().ok_or_else(account::root_not_revocable)?;
        self.kv.revoke_token(&token.id).await?;
        Ok(without_body(204))
    }
}

/// Parses the grant and expiry of a new token.
///
/// Unknown fields are errors: a misspelt limit must not create an unlimited token.
fn parse(fields: &Map<String, Value>) -> Result<(Grant, Option<u64>), Error> {
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let (unknown, known) = (wire::cut(unknown, FIELD_BYTES_MAX), FIELDS.join(", "));
        return Err(Error::Invalid(format!("{unknown} is not a known field: use {known}")));
    }
    let invalid = |field, reason: &str| kv::Error::invalid(field, reason);
    let name = json_body::text(fields, "name")?.unwrap_or_default();
    let scope = json_body::text(fields, "scope")?
        .ok_or_else(|| invalid("scope", "is required and must be global or global:read"))?;
    let scope = Scope::parse(scope)?;
    let stores = match fields.get("stores") {
        None | Some(Value::Null) => Vec::new(),
        // A list that is empty by mistake must not create a token for all stores.
        Some(Value::Array(ids)) if ids.is_empty() => {
            let reason = "must not be empty; omit it to allow all stores";
            return Err(invalid("stores", reason).into());
        }
        Some(Value::Array(ids)) => {
            let id = |id: &Value| StoreId::parse(id.as_str()?.as_bytes()).ok();
            let ids = ids.iter().map(id).collect::<Option<Vec<_>>>();
            ids.ok_or_else(|| invalid("stores", "must contain only store ids"))?
        }
        Some(_) => return Err(invalid("stores", "must be a list of store ids").into()),
    };
    let prefix = match fields.get("prefix") {
        None | Some(Value::Null) => "",
        Some(Value::String(prefix)) if prefix.is_empty() => {
            let reason = "must not be empty; omit it to allow all keys";
            return Err(invalid("prefix", reason).into());
        }
        Some(_) => json_body::text(fields, "prefix")?.unwrap_or_default(),
    };
    let expires = match fields.get("expires_at") {
        None | Some(Value::Null) => None,
        Some(at) => {
            let time = at.as_str().and_then(wire::parse_rfc3339);
            let reason = "must be an RFC 3339 time such as 2030-01-31T12:00:00Z, or null";
            Some(time.ok_or_else(|| invalid("expires_at", reason))?)
        }
    };
    Ok((Grant::new(name, scope, stores, prefix)?, expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_text(body: Value) -> String {
        let Value::Object(fields) = body else { panic!("not an object") };
        parse(&fields).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_invalid_field_of_a_token() {
        use serde_json::json;
        for (body, field) in [
            (json!({"name": "n", "scope": "global", "store": []}), "store is not a known field"),
            (json!({"name": "n", "scope": "global", "Prefix": "p"}), "Prefix is not a known field"),
            (json!({"name": 1, "scope": "global"}), "name must be a string"),
            (json!({"name": "", "scope": "global"}), "name must have"),
            (json!({"name": "n"}), "scope is required"),
            (json!({"name": "n", "scope": null}), "scope must be a string"),
            (json!({"name": "n", "scope": "purge_all"}), "scope must be global or"),
            (json!({"name": "n", "scope": "global", "stores": "x"}), "stores must be a list"),
            (json!({"name": "n", "scope": "global", "stores": [1]}), "stores must contain only"),
            (json!({"name": "n", "scope": "global", "stores": [""]}), "stores must contain only"),
            (json!({"name": "n", "scope": "global", "stores": []}), "stores must not be empty"),
            (json!({"name": "n", "scope": "global", "prefix": 1}), "prefix must be a string"),
            (json!({"name": "n", "scope": "global", "prefix": ""}), "prefix must not be empty"),
            (json!({"name": "n", "scope": "global", "expires_at": 1}), "expires_at must be"),
            (json!({"name": "n", "scope": "global", "expires_at": ""}), "expires_at must be"),
        ] {
            let text = error_text(body.clone());
            assert!(text.starts_with(field), "{body}: {text}");
        }
    }

    #[test]
    fn null_and_absent_fields_impose_no_limit() {
        let body = r#"{"name":"n","scope":"global","stores":null,"prefix":null,"expires_at":null}"#;
        let Ok(Value::Object(fields)) = serde_json::from_str(body) else { panic!("not an object") };
        let (grant, expires) = parse(&fields).unwrap();
        assert!(!grant.is_restricted() && expires.is_none());
    }

    #[test]
    fn errors_truncate_the_name_of_an_unknown_field() {
        let text = error_text(serde_json::json!({"name": "n", "x".repeat(60_000): 1}));
        assert!(text.len() < 200, "{} bytes", text.len());
    }
}
