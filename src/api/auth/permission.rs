//! Permissions of limited tokens: the resources that each route accesses, and the rules for access.
//!
//! A new route needs a line in [`access`] and rows in the table in `tests/api/tokens.rs`. Handlers
//! of [`Access::BodyKeys`] routes must call [`check_key`](super::Principal::check_key) for each
//! line.

use crate::api::error::Error;
use crate::api::percent::decode_segment;
use crate::api::query::Query;
use crate::api::router::{Method, Route, RouteMatch};
use crate::kv;
use crate::kv::tokens::{Grant, Scope};

/// The resources that a route accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// No stored data; no token is required.
    Public,
    /// No stored data, but a valid token is required.
    Authenticated,
    /// The caller's own token. Every limited token may read and revoke itself.
    OwnToken,
    /// Read-only statistics of the whole server.
    Server,
    /// The list of stores, filtered by the token, and the creation of stores.
    Stores,
    /// The store in the path.
    Store,
    /// The item in the path.
    Item,
    /// The items of the store in the path whose keys start with the `prefix` parameter. No other
    /// parameter may widen the selection.
    Prefix,
    /// The items of the store in the path whose keys the body lists.
    BodyKeys,
    /// Administration, for the root token only.
    Root,
}

/// Returns the resources that a route accesses.
pub(super) fn access(route: Route) -> Access {
    match route {
        Route::About
        | Route::Healthz
        | Route::OpenApi
        | Route::OpenIdConfiguration
        | Route::Readyz => Access::Public,
        Route::Product | Route::Unknown => Access::Authenticated,
        Route::CurrentUser | Route::TokenSelf | Route::Verify => Access::OwnToken,
        Route::Metrics => Access::Server,
        Route::Stores => Access::Stores,
        Route::Store => Access::Store,
        Route::Item => Access::Item,
        Route::Export | Route::Items | Route::Keys => Access::Prefix,
        Route::Batch | Route::Import => Access::BodyKeys,
        Route::Backup | Route::Token | Route::Tokens => Access::Root,
    }
}

/// Returns whether a route is public, that is, requires no token.
#[cfg(test)]
pub(in crate::api) fn is_public(route: Route) -> bool {
    access(route) == Access::Public
}

const ROOT_ONLY: &str = "this token may not perform this operation: it requires the root token";
const READ_ONLY: &str = "this token may only read: its scope is global:read";
const OTHER_STORES: &str = "this token may not access this store: it is limited to other stores";
const NO_STORES: &str = "this token may not create, rename or delete stores: it is limited to some \
                         stores or keys";
const NOT_SERVER: &str = "this token may not read server metrics: it is limited to some stores or \
                          keys";
pub(super) const OTHER_KEYS: &str =
    "this token may not access this key: it is limited to keys with another prefix";
const ALL_KEYS: &str = "this token may not access all keys: it is limited to a key prefix, which \
                        the parameter prefix must start with";

/// Authorizes a request with a limited token. The first rule that denies it determines the reason.
pub(super) fn authorize(
    grant: &Grant,
    access: Access,
    method: Method,
    matched: &RouteMatch<'_>,
    query: &[u8],
) -> Result<(), Error> {
    let reads = matches!(method, Method::Get | Method::Head);
    let read_only = grant.scope() == Scope::Read;
    let in_store =
        matches!(access, Access::Store | Access::Item | Access::Prefix | Access::BodyKeys);
    let has_prefix = !grant.prefix().is_empty();
    // A key that cannot be decoded is outside the prefix.
    let covered = |key: &[u8]| decode_segment(key).is_some_and(|key| grant.allows_key(&key));
    let denied = match access {
        Access::Root => Some(ROOT_ONLY),
        // Even a read-only token may revoke itself.
        Access::Public | Access::OwnToken => None,
        _ if read_only && !reads => Some(READ_ONLY),
        _ if in_store && !grant.allows_store(matched.store) => Some(OTHER_STORES),
        Access::Server if grant.is_restricted() => Some(NOT_SERVER),
        Access::Stores | Access::Store if !reads && grant.is_restricted() => Some(NO_STORES),
        Access::Item if has_prefix && !covered(matched.key) => Some(OTHER_KEYS),
        Access::Prefix if has_prefix && !grant.allows_key(prefix(query)?.as_bytes()) => {
            Some(ALL_KEYS)
        }
        Access::Authenticated
        | Access::Server
        | Access::Stores
        | Access::Store
        | Access::Item
        | Access::Prefix
        | Access::BodyKeys => None,
    };
    denied.map_or(Ok(()), |reason| Err(Error::Kv(kv::Error::Forbidden(reason))))
}

/// Returns the `prefix` parameter, parsed as the handlers parse it.
fn prefix(query: &[u8]) -> Result<String, Error> {
    Ok(Query::parse(query)?.text("prefix")?.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_against_the_decoded_key_or_parameter() {
        let grant = Grant::new("n", Scope::Global, Vec::new(), "a/").unwrap();
        let allowed = |access, key: &'static str, query: &str| {
            let matched = RouteMatch { route: Route::Unknown, store: b"s", key: key.as_bytes() };
            authorize(&grant, access, Method::Get, &matched, query.as_bytes()).is_ok()
        };
        for (key, expected) in [("a/b", true), ("%61%2fb", true), ("a", false), ("a%252Fb", false)]
        {
            assert_eq!(allowed(Access::Item, key, ""), expected, "{key}");
        }
        for (query, expected) in [
            ("prefix=a/", true),
            ("x=1&prefix=%61%2Fb", true),
            ("", false),
            ("prefix", false),
            ("prefix=a", false),
            ("prefix=a%252F", false),
            ("Prefix=a/", false),
            ("prefix=a/&prefix=b", false),
        ] {
            assert_eq!(allowed(Access::Prefix, "", query), expected, "{query}");
        }
        assert!(allowed(Access::BodyKeys, "", "") && allowed(Access::Store, "", ""));
    }
}
