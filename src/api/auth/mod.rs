//! Authentication and authorization: one check per request, before any handler runs.
//!
//! The root token has all permissions; [`permission`] defines those of limited tokens (see
//! [`crate::kv::tokens`]). Limited tokens are read on every request, so that a revoked token is
//! rejected by all servers at once.

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

/// `WWW-Authenticate` challenges of a 401: for all routes, and additionally for the metrics.
const CHALLENGE: &str = "Fastly-Key realm=\"steadfast\"";
const CHALLENGE_BEARER: &str = "Bearer realm=\"steadfast\"";

/// Authenticates requests with the root token or a limited token.
#[derive(Clone, Debug)]
pub struct Auth {
    root: Token,
}

impl Auth {
    /// Accepts `root` and all limited tokens.
    pub fn new(root: Token) -> Auth {
        Auth { root }
    }

    /// Authenticates and authorizes a request. Checking the root token requires no hash and no
    /// read.
    ///
    /// # Errors
    /// 401 for a missing or unknown token, 403 for a token that lacks the permission.
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

/// Returns the token of a request, from its only `Fastly-Key` header or, if `bearer` is set, from
/// `Authorization: Bearer`, which Prometheus can send.
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
