//! Authentication and authorization: one check per request, before any handler runs.
//!
//! The root token may do everything. Limited tokens (see [`crate::kv::tokens`]) may do what
//! [`permission`] allows; they are read from the store with every request, so that a revoked token
//! stops working on all servers at once.

mod permission;
mod principal;

#[cfg(test)]
pub(super) use permission::is_public;
pub(super) use principal::Principal;

use super::error::Error;
use super::router::{Method, Route, RouteMatch};
use crate::http::RequestHead;
use crate::kv::Kv;
use crate::wire::FASTLY_KEY;
use permission::{Access, access, authorize};
use std::fmt;
use subtle::ConstantTimeEq;

/// The root token; `Debug` redacts it.
#[derive(Clone)]
pub struct RootToken(Vec<u8>);

impl RootToken {
    /// Maximum length in bytes.
    pub const BYTES_MAX: usize = 512;

    /// Checks that a token has 16 to 512 visible ASCII characters.
    ///
    /// # Errors
    /// Describes the violated rule without quoting the token.
    pub fn parse(text: &str) -> Result<RootToken, String> {
        let bytes = text.as_bytes();
        if !(16..=RootToken::BYTES_MAX).contains(&bytes.len()) {
            let max = RootToken::BYTES_MAX;
            return Err(format!("must have 16 to {max} characters, but has {}", bytes.len()));
        }
        if !bytes.iter().all(u8::is_ascii_graphic) {
            return Err("must contain only visible ASCII characters".into());
        }
        Ok(RootToken(bytes.to_vec()))
    }

    /// Compares in constant time.
    fn matches(&self, token: &[u8]) -> bool {
        self.0.ct_eq(token).into()
    }
}

impl fmt::Debug for RootToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootToken(redacted)")
    }
}

/// Authenticates requests by the root token or a limited token of the store.
#[derive(Clone, Debug)]
pub struct Auth {
    root: RootToken,
}

impl Auth {
    /// Accepts `root` and all limited tokens.
    pub fn new(root: RootToken) -> Auth {
        Auth { root }
    }

    /// Authenticates and authorizes a request. The root token costs no hash and no read.
    ///
    /// # Errors
    /// 401 for a missing or unknown token, 403 for a token without the permission.
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
        let token = request_token(head, bearer).ok_or(Error::Unauthorized)?;
        if self.root.matches(token) {
            return Ok(Principal::Unlimited);
        }
        let token = kv.token(token).await?.ok_or(Error::Unauthorized)?;
        authorize(&token.grant, access, method, matched, head.query())?;
        Ok(Principal::Limited(Box::new(token)))
    }
}

/// Returns the token of a request: its only `Fastly-Key` or, if `bearer`, its
/// `Authorization: Bearer`, which Prometheus can send.
fn request_token(head: &RequestHead, bearer: bool) -> Option<&[u8]> {
    let mut keys = head.header_values(FASTLY_KEY);
    if let (Some(token), None) = (keys.next(), keys.next()) {
        return Some(token);
    }
    let bearers = || head.header_values("Authorization").filter_map(|v| v.strip_prefix(b"Bearer "));
    if bearer { bearers().next() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_tokens_have_length_limits_and_debug_redacts_them() {
        let token = RootToken::parse("0123456789abcdef").unwrap();
        assert_eq!(format!("{token:?}"), "RootToken(redacted)");
        assert!(token.matches(b"0123456789abcdef") && !token.matches(b"0123456789abcdeg"));
        assert!(!token.matches(b"") && !token.matches(b"0123456789abcdef0"));
        assert!(RootToken::parse("short").is_err() && RootToken::parse(&"x".repeat(513)).is_err());
        assert!(RootToken::parse("0123456789 abcdef").is_err());
    }
}
