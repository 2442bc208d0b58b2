//! The API over HTTP: the router, on this page, and the order in which a request is checked.
//!
//! A request passes, in this order (contract.md, 11.6): the token (401), what the token may (403),
//! the path and its parameters (404 for no path, 405, 400), the store (404), the declared size
//! (413), the item and its conditions (404, 412), and only then is its body asked for.

mod account;
mod auth;
mod backup;
mod batch;
mod error;
mod export;
mod extensions;
mod items;
mod json_body;
mod keys;
mod limiter;
mod ndjson;
mod openapi;
mod query;
mod stores;
mod tokens;

pub use auth::Auth;
use auth::Principal;

use crate::http::{Body, Payload, RequestError, RequestHead, Response, Service, Stream};
use crate::kv::Kv;
use crate::kv::types::StoreId;
use crate::metrics::Metrics;
use bytes::Bytes;
use error::Error;
use limiter::MemoryLimiter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    About,
    Backup,
    Batch,
    CurrentUser,
    Details,
    Export,
    Healthz,
    Import,
    Item,
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

/// A route with its raw, undecoded path segments; the key is a token's id where that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target<'p> {
    route: Route,
    store: &'p [u8],
    key: &'p [u8],
}

impl Route {
    /// The router: splits the raw path. Nothing is decoded, normalised or redirected here, and a
    /// trailing slash is part of the path (contract.md, sections 1 and 8).
    fn match_route(path: &[u8]) -> Target<'_> {
        let at = |route| Target { route, store: b"", key: b"" };
        match path {
            b"/_/openapi.json" => return at(Route::OpenApi),
            b"/_/v1" => return at(Route::About),
            b"/_/v1/backup" => return at(Route::Backup),
            b"/_/v1/tokens" => return at(Route::Tokens),
            b"/current_user" => return at(Route::CurrentUser),
            b"/enabled-products/v1/kv_store" => return at(Route::Product),
            b"/healthz" => return at(Route::Healthz),
            b"/metrics" => return at(Route::Metrics),
            b"/readyz" => return at(Route::Readyz),
            b"/realms/fastly/.well-known/openid-configuration" => {
                return at(Route::OpenIdConfiguration);
            }
            b"/tokens/self" => return at(Route::TokenSelf),
            b"/verify" => return at(Route::Verify),
            _ => {}
        }
        if let Some(key) = path.strip_prefix(b"/_/v1/tokens/") {
            return Target { route: Route::Token, store: b"", key };
        }
        if let Some(rest) = path.strip_prefix(b"/_/v1/stores/") {
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (store, tail) = rest.split_at(end);
            let route = match tail {
                b"/export" => Route::Export,
                b"/import" => Route::Import,
                b"/items" => Route::Details,
                _ => Route::Unknown,
            };
            return Target { route, store, key: b"" };
        }
        let kv = path.strip_prefix(b"/resources/stores/kv");
        // What the collection was called until 2023.
        let Some(rest) = kv.or_else(|| path.strip_prefix(b"/resources/stores/object")) else {
            return at(Route::Unknown);
        };
        if rest.is_empty() {
            return at(Route::Stores);
        }
        let Some(rest) = rest.strip_prefix(b"/") else { return at(Route::Unknown) };
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (store, tail) = rest.split_at(end);
        // Slashes behind `keys/` belong to the key (contract.md, section 7).
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
        Target { route, store, key }
    }

    /// The route's name in metrics and logs, and the methods it has.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Route::About => ("/_/v1", "GET, HEAD"),
            Route::Backup => ("/_/v1/backup", "GET, HEAD"),
            Route::Batch => ("/resources/stores/kv/{store_id}/batch", "PUT"),
            Route::CurrentUser => ("/current_user", "GET, HEAD"),
            Route::Details => ("/_/v1/stores/{store_id}/items", "GET, HEAD, DELETE"),
            Route::Export => ("/_/v1/stores/{store_id}/export", "GET, HEAD"),
            Route::Healthz => ("/healthz", "GET, HEAD"),
            Route::Import => ("/_/v1/stores/{store_id}/import", "PUT"),
            Route::Item => ("/resources/stores/kv/{store_id}/keys/{key}", "GET, HEAD, PUT, DELETE"),
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

/// A request's method, as far as any route has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Delete,
    Get,
    Head,
    Other,
    Post,
    Put,
}

impl Method {
    fn of(head: &RequestHead) -> (Method, &'static str) {
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

/// The API over one [`Kv`].
pub struct Api {
    kv: Arc<Kv>,
    auth: Auth,
    metrics: Arc<Metrics>,
    admission: MemoryLimiter,
    requests: AtomicU64,
}

impl Api {
    /// Requests hold up to about `bytes_in_flight` of bodies in memory.
    pub fn new(kv: Arc<Kv>, auth: Auth, metrics: Arc<Metrics>, bytes_in_flight: u64) -> Api {
        let mut seed = [0; 8];
        // Without random numbers the ids begin at 0: they only have to differ within a log.
        let _ = getrandom::fill(&mut seed);
        let requests = AtomicU64::new(u64::from_le_bytes(seed));
        Api { kv, auth, metrics, admission: MemoryLimiter::new(bytes_in_flight), requests }
    }

    /// The routes. HEAD is GET, whose body is left out when it is written.
    async fn route<S: Stream>(
        &self,
        method: Method,
        target: Target<'_>,
        head: &RequestHead,
        body: &mut Body<'_, S>,
        request: u64,
        pass: &Principal,
    ) -> Result<Response, Error> {
        let store = || Ok::<_, Error>(StoreId::parse(target.store)?);
        let Target { route, key, .. } = target;
        match (route, method) {
            (Route::About, Method::Get | Method::Head) => Ok(extensions::about()),
            (Route::Backup, Method::Get | Method::Head) => self.backup(request).await,
            (Route::Batch, Method::Put) => self.put_batch(store(), body, request, pass).await,
            (Route::CurrentUser, Method::Get | Method::Head) => Ok(account::current_user(pass)),
            (Route::Details, Method::Get | Method::Head) => self.list_details(store(), head).await,
            (Route::Details, Method::Delete) => self.clear(store(), head).await,
            (Route::Export, Method::Get | Method::Head) => {
                self.export(store(), head, request).await
            }
            (Route::Healthz, Method::Get | Method::Head) => Ok(text("ok\n")),
            (Route::Import, Method::Put) => self.import(store(), head, body, request, pass).await,
            (Route::Item, Method::Get) => self.get_item(store(), key, head, request).await,
            (Route::Item, Method::Head) => self.head_item(store(), key).await,
            (Route::Item, Method::Put) => self.put_item(store(), key, head, body).await,
            (Route::Item, Method::Delete) => self.delete_item(store(), key, head).await,
            (Route::Keys, Method::Get | Method::Head) => self.list_keys(store(), head).await,
            (Route::Metrics, Method::Get | Method::Head) => self.show_metrics().await,
            (Route::OpenApi, Method::Get | Method::Head) => Ok(openapi::document()),
            (Route::OpenIdConfiguration, Method::Get | Method::Head) => Ok(account::openid()),
            (Route::Product, Method::Delete) => Ok(Response::new(204)),
            (Route::Product, Method::Get | Method::Head | Method::Put) => Ok(account::product()),
            (Route::Readyz, Method::Get | Method::Head) => self.ready().await,
            (Route::Store, Method::Get | Method::Head) => self.describe_store(store()?).await,
            (Route::Store, Method::Put) => self.rename_store(store()?, body).await,
            (Route::Store, Method::Delete) => self.delete_store(store()?).await,
            (Route::Stores, Method::Get | Method::Head) => self.list_stores(head, pass).await,
            (Route::Stores, Method::Post) => self.create_store(head, body).await,
            (Route::Token, Method::Delete) => self.revoke_token(key).await,
            (Route::TokenSelf, Method::Get | Method::Head) => Ok(account::token(pass)),
            (Route::TokenSelf, Method::Delete) => self.revoke_self(pass).await,
            (Route::Tokens, Method::Get | Method::Head) => self.list_tokens().await,
            (Route::Tokens, Method::Post) => self.create_token(body).await,
            (Route::Verify, Method::Get | Method::Head) => Ok(account::verify(pass)),
            (Route::Unknown, _) => Err(Error::NoPath),
            (route, _) => Err(Error::Method(route.describe().1)),
        }
    }

    async fn ready(&self) -> Result<Response, Error> {
        self.kv.stores_count().await?;
        Ok(text("ready\n"))
    }

    async fn show_metrics(&self) -> Result<Response, Error> {
        let (stores, items) = (self.kv.stores_count().await?, self.kv.items_count().await?);
        let metrics = self.metrics.render(self.kv.stats(), stores, items);
        Ok(Response::new(200)
            .field("Content-Type", b"application/openmetrics-text; version=1.0.0; charset=utf-8")
            .payload(Payload::Bytes(Bytes::from(metrics))))
    }
}

fn text(body: &'static str) -> Response {
    Response::new(200)
        .field("Content-Type", b"text/plain")
        .field("Cache-Control", b"no-store")
        .payload(Payload::Bytes(Bytes::from_static(body.as_bytes())))
}

impl Service for Api {
    async fn call<S: Stream>(&self, head: &RequestHead, body: &mut Body<'_, S>) -> Response {
        let start = Instant::now();
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let target = Route::match_route(head.path());
        let (method, method_name) = Method::of(head);
        let (template, _) = target.route.describe();
        let answer = match self.auth.authenticate(&self.kv, method, &target, head).await {
            Ok(pass) => self.route(method, target, head, body, request, &pass).await,
            Err(e) => Err(e),
        };
        let response = answer.unwrap_or_else(|e| {
            self.refused(&e, request, method_name, template);
            e.response(request)
        });
        let took = start.elapsed();
        self.metrics.answered(template, method_name, response.status, took);
        tracing::debug!(
            request = %format_args!("{request:016x}"),
            method = method_name,
            route = template,
            status = response.status,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "answered"
        );
        response
    }

    fn refuse(&self, refusal: RequestError) -> Response {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let response = error::refuse(&refusal);
        self.metrics.answered("unreadable", "other", response.status, std::time::Duration::ZERO);
        tracing::debug!(
            request = %format_args!("{request:016x}"), ?refusal, "refused what is no request"
        );
        response
    }
}

impl Api {
    /// Counts and logs a refusal; what went wrong inside goes here and nowhere else.
    fn refused(&self, e: &Error, request: u64, method: &'static str, route: &'static str) {
        let request = format_args!("{request:016x}");
        if let Error::Unauthorized = e {
            self.metrics.auth_failed();
        } else if let Error::Overloaded(_) = e {
            self.metrics.overloaded();
            tracing::warn!(%request, method, route, error = %e, "overloaded");
        } else if e.status() >= 500 {
            tracing::error!(%request, method, route, error = %e, "failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_raw_and_a_trailing_slash_is_no_alias() {
        let item = |key| Target { route: Route::Item, store: b"ID", key };
        let located = |path: &'static str| Route::match_route(path.as_bytes());
        assert_eq!(located("/resources/stores/kv/ID/keys/a%2Fb"), item(b"a%2Fb"));
        assert_eq!(located("/resources/stores/kv/ID/keys/a/b//c"), item(b"a/b//c"));
        assert_eq!(located("/resources/stores/kv/ID/keys/"), item(b""));
        assert_eq!(located("/resources/stores/object/ID/keys/.."), item(b".."));
        assert_eq!(located("/resources/stores/kv/ID/keys").route, Route::Keys);
        assert_eq!(located("/resources/stores/kv/ID").route, Route::Store);
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
            assert_eq!(located(unknown).route, Route::Unknown, "{unknown}");
        }
    }
}
