//! The HTTP API of a [`Kv`]: authenticates, routes and answers requests.
//!
//! Checks run in this order (docs/contract.md section 11.6): token (401), permission (403), path
//! and method (404, 405), parameters (400), store (404), declared size (413), item and
//! preconditions (404, 412). Only then is the body read. `router` lists the endpoints, each
//! resource has its own handler file, and `error` maps every failure to its status.

mod account;
mod auth;
mod backup;
mod batch;
mod batch_line;
mod error;
mod export;
mod extensions;
mod items;
mod json_body;
mod keys;
mod limiter;
mod openapi;
mod percent;
mod query;
mod router;
mod simulated;
mod stores;
mod tokens;

pub use auth::Auth;

use crate::http::{Body, Payload, RequestError, RequestHead, Response, Service, Stream};
use crate::kv::Kv;
use crate::kv::types::StoreId;
use crate::metrics::Metrics;
use crate::simulation::Simulation;
use crate::wire::ServerSecret;
use auth::Principal;
use bytes::Bytes;
use error::Error;
use limiter::MemoryLimiter;
use router::{Method, Route, RouteMatch, match_route};
use simulated::{Request, Simulator};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The HTTP API of a [`Kv`].
pub struct Api {
    kv: Arc<Kv>,
    auth: Auth,
    metrics: Arc<Metrics>,
    limiter: MemoryLimiter,
    secret: Option<ServerSecret>,
    /// Boxed, so that it takes little memory in servers that simulate nothing.
    simulator: Option<Box<Simulator>>,
    next_request_id: AtomicU64,
}

impl Api {
    /// Creates the API. Bodies in flight together use up to about `bytes_in_flight` bytes of
    /// memory.
    pub fn new(kv: Arc<Kv>, auth: Auth, metrics: Arc<Metrics>, bytes_in_flight: u64) -> Api {
        let mut seed = [0; 8];
        // If this fails, ids start at 0; they are still unique within the process.
        let _ = getrandom::fill(&mut seed);
        let next_request_id = AtomicU64::new(u64::from_le_bytes(seed));
        let limiter = MemoryLimiter::new(bytes_in_flight);
        Api { kv, auth, metrics, limiter, secret: None, simulator: None, next_request_id }
    }

    /// Sets the secret used to answer challenges from clients on the same machine.
    #[must_use]
    pub fn with_secret(self, secret: ServerSecret) -> Api {
        Api { secret: Some(secret), ..self }
    }

    /// Simulates the consistency, limits and faults of a distributed service. Only requests for
    /// items, batches and lists of keys are affected.
    #[must_use]
    pub fn with_simulation(self, simulation: Simulation) -> Api {
        Api { simulator: Some(Box::new(Simulator::new(simulation))), ..self }
    }

    /// Calls the handler of a route. A read stops if the client disconnects. A write whose body has
    /// been received is short and runs to completion.
    ///
    /// Handlers with parameters take the store id as a `Result`, so that an invalid parameter is
    /// reported before a malformed store id.
    async fn dispatch<S: Stream>(
        &self,
        method: Method,
        matched: RouteMatch<'_>,
        head: &RequestHead,
        body: &mut Body<'_, S>,
        id: u64,
        principal: &Principal,
    ) -> Result<Response, Error> {
        use Method::{Delete, Get, Head, Post, Put};
        let store = || Ok::<_, Error>(StoreId::parse(matched.store)?);
        let RouteMatch { route, key, .. } = matched;
        match (route, method) {
            (_, Get | Head) => {
                let read = pin!(self.dispatch_read(method, matched, head, id, principal));
                body.while_connected(read).await?
            }
            (Route::Batch, Put) => self.put_batch(store(), body, id, principal).await,
            (Route::Import, Put) => self.import(store(), head, body, id, principal).await,
            (Route::Item, Put) => self.put_item(store(), key, head, body).await,
            (Route::Item, Delete) => self.delete_item(store(), key, head).await,
            (Route::Items, Delete) => self.delete_items(store(), head, body).await,
            (Route::Product, Delete) => Ok(error::without_body(204)),
            (Route::Product, Put) => Ok(account::product()),
            (Route::Store, Put) => self.rename_store(store()?, body).await,
            (Route::Store, Delete) => self.delete_store(store()?).await,
            (Route::Stores, Post) => self.create_store(head, body).await,
            (Route::Token, Delete) => self.revoke_token(key).await,
            (Route::TokenSelf, Delete) => self.revoke_self(principal).await,
            (Route::Tokens, Post) => self.create_token(body).await,
            (route, _) => Err(unhandled(route)),
        }
    }

    /// Calls the handler for a GET or HEAD request. For HEAD, the body of the response is not sent.
    async fn dispatch_read(
        &self,
        method: Method,
        matched: RouteMatch<'_>,
        head: &RequestHead,
        id: u64,
        principal: &Principal,
    ) -> Result<Response, Error> {
        let store = || Ok::<_, Error>(StoreId::parse(matched.store)?);
        let RouteMatch { route, key, .. } = matched;
        match route {
            Route::About => {
                let simulation = self.simulator.as_ref().map(|simulator| simulator.info());
                extensions::about(head, self.secret.as_ref(), simulation)
            }
            Route::Backup => self.backup(id).await,
            Route::CurrentUser => Ok(account::current_user(principal)),
            Route::Export => self.export(store(), head, id).await,
            Route::Healthz => Ok(text("ok\n")),
            Route::Item if method == Method::Head => self.head_item(store(), key).await,
            Route::Item => self.get_item(store(), key, head, id).await,
            Route::Items => self.list_items(store(), head).await,
            Route::Keys => self.list_keys(store(), head).await,
            Route::Metrics => self.render_metrics().await,
            Route::OpenApi => Ok(openapi::document()),
            Route::OpenIdConfiguration => Ok(account::openid_configuration()),
            Route::Product => Ok(account::product()),
            Route::Readyz => self.readyz().await,
            Route::Store => self.describe_store(store()?).await,
            Route::Stores => self.list_stores(head, principal).await,
            Route::TokenSelf => Ok(account::token(principal)),
            Route::Tokens => self.list_tokens().await,
            Route::Verify => Ok(account::verify(principal)),
            Route::Batch | Route::Import | Route::Token | Route::Unknown => Err(unhandled(route)),
        }
    }

    /// Reads from the engine, so that readiness fails when the data cannot be reached.
    async fn readyz(&self) -> Result<Response, Error> {
        self.kv.stores_count().await?;
        Ok(text("ready\n"))
    }

    async fn render_metrics(&self) -> Result<Response, Error> {
        let (stores, items) = (self.kv.stores_count().await?, self.kv.items_count().await?);
        let metrics = self.metrics.render(self.kv.stats(), stores, items);
        Ok(Response::new(200)
            .header("Content-Type", b"application/openmetrics-text; version=1.0.0; charset=utf-8")
            .payload(Payload::Bytes(Bytes::from(metrics))))
    }

    fn request_id(&self) -> u64 {
        self.next_request_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts and logs a failure. Internal causes are logged here and never sent to the client.
    fn log_failure(&self, e: &Error, id: u64, method: &'static str, route: &'static str) {
        let request_id = format_args!("{id:016x}");
        if let Error::Unauthorized(_) = e {
            self.metrics.record_auth_failure();
        } else if let Error::Overloaded(_) = e {
            self.metrics.record_overload();
            tracing::warn!(%request_id, method, route, error = %e, "server overloaded");
        } else if e.status() >= 500 {
            tracing::error!(%request_id, method, route, error = %e, "request failed");
        }
    }
}

/// Returns the error for a route that has no handler for the method.
fn unhandled(route: Route) -> Error {
    if route == Route::Unknown {
        return Error::UnknownPath;
    }
    Error::MethodNotAllowed(route.methods())
}

fn text(body: &'static str) -> Response {
    Response::new(200)
        .header("Content-Type", b"text/plain")
        .header("Cache-Control", b"no-store")
        .payload(Payload::Bytes(Bytes::from_static(body.as_bytes())))
}

impl Service for Api {
    async fn call<S: Stream>(&self, head: &RequestHead, body: &mut Body<'_, S>) -> Response {
        let start = Instant::now();
        let id = self.request_id();
        let matched = match_route(head.path());
        let (method, method_name) = Method::parse(head);
        let route = matched.route.template();
        let result = match self.auth.authenticate(&self.kv, method, &matched, head).await {
            Ok(principal) if self.simulator.is_some() => {
                let request = Request { method, matched, head, id, principal: &principal };
                // Boxed, so that the future of a request is no larger if nothing is simulated.
                Ok(Box::pin(self.dispatch_simulated(request, body)).await)
            }
            Ok(principal) => self.dispatch(method, matched, head, body, id, &principal).await,
            Err(e) => Err(e),
        };
        let response = result.unwrap_or_else(|e| {
            self.log_failure(&e, id, method_name, route);
            e.response(id)
        });
        let elapsed = start.elapsed();
        self.metrics.record_request(route, method_name, response.status, elapsed);
        tracing::debug!(
            request_id = %format_args!("{id:016x}"),
            method = method_name,
            route,
            status = response.status,
            elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            "request completed"
        );
        response
    }

    fn reject(&self, error: RequestError) -> Response {
        let id = self.request_id();
        let response = error::request_error(&error);
        self.metrics.record_request("unreadable", "other", response.status, Duration::ZERO);
        tracing::debug!(request_id = %format_args!("{id:016x}"), ?error, "request rejected");
        response
    }
}
