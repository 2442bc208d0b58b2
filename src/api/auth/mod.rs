//! Authentication and authorization: one check per request, before any handler runs.
//!
//! The root token has all permissions; [`permission`] defines the permissions of limited tokens
//! (see [`crate::kv::tokens`]). Limited tokens are read from the engine on every request, so that
//! all servers reject a revoked token at once.

mod permission;
mod principal;

#[cfg(test)]
pub(super) use permission::is_public;
pub(super) use principal::Principal;

use super::error::Error;
use super::router::{Method, Route, RouteMatch};
use crate::http::RequestHead;
use crate::kv::Kv;
use crate::wire::{FASTLY_KEY, Token};
use permission::{Access, access, authorize};

/// `WWW-Authenticate` challenges in 401 responses: for most routes, and for the metrics.
const CHALLENGE: &str = "Fastly-Key realm=\"steadfast\"";
const CHALLENGE_BEARER: &str = "Bearer realm=\"steadfast\"";

/// Authenticates requests with the root token or a limited token.
#[derive(Clone, Debug)]
pub struct Auth {
    root: Token,
}

impl Auth {
    /// Creates an instance that accepts `root` and all limited tokens.
    pub fn new(root: Token) -> Auth {
        Auth { root }
    }

    /// Authenticates and authorizes a request. Checking the root token does not read from the
    /// engine.
    ///
    /// # Errors
    /// Returns 401 if the token is missing or unknown, and 403 if the token lacks the permission.
    pub(super) async fn authenticate(
        &self,
        kv: &Kv,
        method: Method,
        matched: &RouteMatch<'_>,
        head: &RequestHead,
    ) -> Result<Principal, Error> {
        let access = access(matched.route);
        if access == Access::Public {
            return Ok(Principal::Unlimited);
        }
        let bearer = matched.route == Route::Metrics;
        let challenge = if bearer { CHALLENGE_BEARER } else { CHALLENGE };
        let token = request_token(head, bearer).ok_or(Error::Unauthorized(challenge))?;
        if self.root.matches(token) {
            return Ok(Principal::Unlimited);
        }
        let token = kv.token(token).await?.ok_or(Error::Unauthorized(challenge))?;
        authorize(&token.grant, access, method, matched, head.query())?;
        Ok(Principal::Limited(Box::new(token)))
    }
}

/// Returns the token of a request from its `Fastly-Key` header, which must not be repeated. If
/// `bearer` is set, also accepts `Authorization: Bearer`, which Prometheus can send.
fn request_token(head: &RequestHead, bearer: bool) -> Option<&[u8]> {
    let mut keys = head.header_values(FASTLY_KEY);
    if let (Some(token), None) = (keys.next(), keys.next()) {
        return Some(token);
    }
    if bearer { head.header_values("Authorization").find_map(bearer_token) } else { None }
}

/// Returns the token of `Bearer` credentials; the scheme is case-insensitive (RFC 9110 section
/// 11.1).
fn bearer_token(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii_start())
}
