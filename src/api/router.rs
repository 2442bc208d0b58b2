//! The router: every path of the API with its template and methods.
//!
//! Paths are matched raw. Nothing is decoded, normalized or redirected, and a trailing slash is
//! part of the path (docs/contract.md sections 1 and 8). To add an endpoint, add a [`Route`]. The
//! compiler then requires its template and methods here, its permission in `auth/permission.rs` and
//! an entry in the OpenAPI test. Call its handler in `Api::dispatch` or `Api::dispatch_read`.

use crate::http::RequestHead;

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    About,
    Backup,
    Batch,
    CurrentUser,
    Export,
    Healthz,
    Import,
    Item,
    Items,
    Keys,
    Metrics,
    OpenApi,
    OpenIdConfiguration,
    Product,
    Readyz,
    Store,
    Stores,
    Token,
    TokenSelf,
    Tokens,
    Unknown,
    Verify,
}

/// A matched route and its path parameters, still percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteMatch<'p> {
    pub(super) route: Route,
    /// The store id; empty for routes without one.
    pub(super) store: &'p [u8],
    /// The item key, or the token id for [`Route::Token`]; empty for other routes.
    pub(super) key: &'p [u8],
}

/// Matches a raw path.
pub(super) fn match_route(path: &[u8]) -> RouteMatch<'_> {
    let fixed = |route| RouteMatch { route, store: b"", key: b"" };
    match path {
        b"/_/openapi.json" => return fixed(Route::OpenApi),
        b"/_/v1" => return fixed(Route::About),
        b"/_/v1/backup" => return fixed(Route::Backup),
        b"/_/v1/tokens" => return fixed(Route::Tokens),
        b"/current_user" => return fixed(Route::CurrentUser),
        b"/enabled-products/v1/kv_store" => return fixed(Route::Product),
        b"/healthz" => return fixed(Route::Healthz),
        b"/metrics" => return fixed(Route::Metrics),
        b"/readyz" => return fixed(Route::Readyz),
        b"/realms/fastly/.well-known/openid-configuration" => {
            return fixed(Route::OpenIdConfiguration);
        }
        b"/tokens/self" => return fixed(Route::TokenSelf),
        b"/verify" => return fixed(Route::Verify),
        _ => {}
    }
    if let Some(key) = path.strip_prefix(b"/_/v1/tokens/") {
        return RouteMatch { route: Route::Token, store: b"", key };
    }
    if let Some(rest) = path.strip_prefix(b"/_/v1/stores/") {
        let (store, tail) = split_segment(rest);
        let route = match tail {
            b"/export" => Route::Export,
            b"/import" => Route::Import,
            b"/items" => Route::Items,
            _ => Route::Unknown,
        };
        return RouteMatch { route, store, key: b"" };
    }
    let kv = path.strip_prefix(b"/resources/stores/kv");
    // Clients released before 2023-04 use this path for stores.
    let Some(rest) = kv.or_else(|| path.strip_prefix(b"/resources/stores/object")) else {
        return fixed(Route::Unknown);
    };
    if rest.is_empty() {
        return fixed(Route::Stores);
    }
    let Some(rest) = rest.strip_prefix(b"/") else { return fixed(Route::Unknown) };
    let (store, tail) = split_segment(rest);
    // Slashes after `keys/` belong to the key (docs/contract.md section 7).
    let (route, key) = match tail {
        b"" if store.is_empty() => (Route::Unknown, &b""[..]),
        b"" => (Route::Store, &b""[..]),
        b"/batch" => (Route::Batch, &b""[..]),
        b"/keys" => (Route::Keys, &b""[..]),
        tail => match tail.strip_prefix(b"/keys/") {
            Some(key) => (Route::Item, key),
            None => (Route::Unknown, &b""[..]),
        },
    };
    RouteMatch { route, store, key }
}

/// Splits a path after its first segment; the slash stays with the rest.
fn split_segment(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().position(|byte| *byte == b'/').unwrap_or(path.len()))
}

impl Route {
    /// Returns the path template, which identifies the route in metrics and logs.
    pub(super) fn template(self) -> &'static str {
        self.template_and_methods().0
    }

    /// Returns the allowed methods, in the format of the `Allow` header.
    pub(super) fn methods(self) -> &'static str {
        self.template_and_methods().1
    }

    fn template_and_methods(self) -> (&'static str, &'static str) {
        match self {
            Route::About => ("/_/v1", "GET, HEAD"),
            Route::Backup => ("/_/v1/backup", "GET, HEAD"),
            Route::Batch => ("/resources/stores/kv/{store_id}/batch", "PUT"),
            Route::CurrentUser => ("/current_user", "GET, HEAD"),
            Route::Export => ("/_/v1/stores/{store_id}/export", "GET, HEAD"),
            Route::Healthz => ("/healthz", "GET, HEAD"),
            Route::Import => ("/_/v1/stores/{store_id}/import", "PUT"),
            Route::Item => ("/resources/stores/kv/{store_id}/keys/{key}", "GET, HEAD, PUT, DELETE"),
            Route::Items => ("/_/v1/stores/{store_id}/items", "GET, HEAD, DELETE"),
            Route::Keys => ("/resources/stores/kv/{store_id}/keys", "GET, HEAD"),
            Route::Metrics => ("/metrics", "GET, HEAD"),
            Route::OpenApi => ("/_/openapi.json", "GET, HEAD"),
            Route::OpenIdConfiguration => {
                ("/realms/fastly/.well-known/openid-configuration", "GET, HEAD")
            }
            Route::Product => ("/enabled-products/v1/kv_store", "GET, HEAD, PUT, DELETE"),
            Route::Readyz => ("/readyz", "GET, HEAD"),
            Route::Store => ("/resources/stores/kv/{store_id}", "GET, HEAD, PUT, DELETE"),
            Route::Stores => ("/resources/stores/kv", "GET, HEAD, POST"),
            Route::Token => ("/_/v1/tokens/{token_id}", "DELETE"),
            Route::TokenSelf => ("/tokens/self", "GET, HEAD, DELETE"),
            Route::Tokens => ("/_/v1/tokens", "GET, HEAD, POST"),
            Route::Unknown => ("unknown", ""),
            Route::Verify => ("/verify", "GET, HEAD"),
        }
    }
}

/// A request method that some route allows, or `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Delete,
    Get,
    Head,
    Other,
    Post,
    Put,
}

impl Method {
    /// Parses the method. Also returns the name used in metrics and logs.
    pub(super) fn parse(head: &RequestHead) -> (Method, &'static str) {
        match head.method() {
            b"DELETE" => (Method::Delete, "DELETE"),
            b"GET" => (Method::Get, "GET"),
            b"HEAD" => (Method::Head, "HEAD"),
            b"POST" => (Method::Post, "POST"),
            b"PUT" => (Method::Put, "PUT"),
            _ => (Method::Other, "other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_matched_raw_and_a_trailing_slash_is_significant() {
        let item = |key| RouteMatch { route: Route::Item, store: b"ID", key };
        let matched = |path: &'static str| match_route(path.as_bytes());
        assert_eq!(matched("/resources/stores/kv/ID/keys/a%2Fb"), item(b"a%2Fb"));
        assert_eq!(matched("/resources/stores/kv/ID/keys/a/b//c"), item(b"a/b//c"));
        assert_eq!(matched("/resources/stores/kv/ID/keys/"), item(b""));
        assert_eq!(matched("/resources/stores/object/ID/keys/.."), item(b".."));
        assert_eq!(matched("/resources/stores/kv/ID/keys").route, Route::Keys);
        assert_eq!(matched("/resources/stores/kv/ID").route, Route::Store);
        for unknown in [
            "/resources/stores/kv/",
            "/resources/stores/kv/ID/",
            "/resources/stores/kv/ID/batch/",
            "/resources/stores/kv//",
            "/resources/stores/kvx",
            "/resources//stores/kv",
            "//resources/stores/kv",
            "/resources/stores/%6bv",
            "/healthz/",
            "/",
            "",
            "*",
        ] {
            assert_eq!(matched(unknown).route, Route::Unknown, "{unknown}");
        }
    }
}
