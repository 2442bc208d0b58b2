//! Item requests of a server with `serve --simulate`: wraps the handlers in the latency, rate
//! limits, errors and stale reads that [`crate::simulation`] decides.
//!
//! Requests for items, batches and lists of keys are affected; all others are not. Writes and their
//! conditions always use the current data. A *location* (see [`StaleCache`]) is a token.

use super::Api;
use super::auth::Principal;
use super::error::{Error, json_bytes_admitted, rate_limited, simulated_fault};
use super::items::{head_response, item_response, parse_key};
use super::query::Query;
use super::router::{Method, Route, RouteMatch};
use crate::http::{Body, Payload, RequestHead, Response, Stream};
use crate::kv::items::Item;
use crate::kv::types::{Key, StoreId};
use crate::kv::{self, Value};
use crate::simulation::{
    CACHED_BYTES_MAX, Cached, Lookup, Operation, Plan, Simulation, StaleCache,
};
use crate::wire::{self, SimulationInfo};
use bytes::Bytes;
use std::pin::pin;
use std::time::Instant;

/// The effects of a simulation on a response, in its metric and its header.
const LATENCY: &str = "latency";
const STALE: &str = "stale";
const RATE_LIMIT: &str = "rate-limit";
const ERROR: &str = "error";
const ERROR_AFTER_COMMIT: &str = "error-after-commit";

/// The location of clients with the root token.
const ROOT: &[u8] = b"root";

/// A response, and the effect of the simulation on it.
type Outcome = Result<(Response, Option<&'static str>), Error>;

/// The result of a read.
#[derive(Clone)]
enum ReadResult {
    Absent,
    Item(Item),
    /// The body of a list.
    Page(Bytes),
}

/// A simulation and the results that it serves again.
pub(super) struct Simulator {
    simulation: Simulation,
    cache: Option<StaleCache<ReadResult>>,
}

impl Simulator {
    pub(super) fn new(simulation: Simulation) -> Simulator {
        let cache = simulation.stale_cache();
        Simulator { simulation, cache }
    }

    /// Describes the simulation.
    pub(super) fn info(&self) -> SimulationInfo {
        SimulationInfo { spec: self.simulation.spec().to_string(), seed: self.simulation.seed() }
    }

    /// Makes a write visible to the client that sent it. `key` is `None` if the write may have
    /// changed several items.
    fn invalidate(&self, location: &[u8], store: &[u8], key: Option<&Key>) {
        match (&self.cache, key) {
            (Some(cache), Some(key)) => cache.invalidate(location, store, key.as_bytes()),
            (Some(cache), None) => cache.invalidate_all(location),
            (None, _) => {}
        }
    }
}

/// One simulated operation.
struct Step<'a> {
    simulator: &'a Simulator,
    operation: Operation,
    plan: Plan,
    /// The key; `None` for batches, lists and invalid keys.
    key: Option<Key>,
    request: Request<'a>,
}

/// A request whose token has been checked.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) matched: RouteMatch<'a>,
    pub(super) head: &'a RequestHead,
    pub(super) id: u64,
    pub(super) principal: &'a Principal,
}

impl Request<'_> {
    /// Returns the location of the client: clients with the same token share one.
    fn location(&self) -> &[u8] {
        self.principal.token().map_or(ROOT, |token| token.id.as_bytes())
    }
}

impl Api {
    /// Calls the handler of a route with the deviations that the simulation decides.
    pub(super) async fn dispatch_simulated<S: Stream>(
        &self,
        request: Request<'_>,
        body: &mut Body<'_, S>,
    ) -> Response {
        let Request { method, matched, head, id, principal } = request;
        let (outcome, delayed) = match (&self.simulator, operation(matched.route, method)) {
            (Some(simulator), Some(operation)) => {
                let key = parse_key(matched.key).ok();
                let name = key.as_ref().map(Key::as_bytes).unwrap_or_default();
                let plan = simulator.simulation.plan(operation, name);
                let delayed = Some(LATENCY).filter(|_| !plan.latency.is_zero());
                let step = Step { simulator, operation, plan, key, request };
                (self.simulate(step, body).await, delayed)
            }
            (simulator, _) => {
                let result = self.dispatch(method, matched, head, body, id, principal).await;
                if let (Some(simulator), false) = (simulator, is_read(method)) {
                    simulator.invalidate(request.location(), matched.store, None);
                }
                (result.map(|response| (response, None)), None)
            }
        };
        let (mut response, effect) = outcome.unwrap_or_else(|e| {
            self.log_failure(&e, id, Method::parse(head).1, matched.route.template());
            (e.response(id), None)
        });
        for effect in [delayed, effect].into_iter().flatten() {
            self.metrics.record_simulated(effect);
            response = response.header(wire::SIMULATED, effect.as_bytes());
        }
        response
    }

    /// Performs an operation as planned.
    async fn simulate<S: Stream>(&self, step: Step<'_>, body: &mut Body<'_, S>) -> Outcome {
        if !step.plan.latency.is_zero() {
            body.while_connected(pin!(tokio::time::sleep(step.plan.latency))).await?;
        }
        match step.operation {
            Operation::Write => self.simulate_write(step, body).await,
            Operation::Read | Operation::List => {
                let read = pin!(self.simulate_read(step));
                body.while_connected(read).await?
            }
        }
    }

    async fn simulate_write<S: Stream>(&self, step: Step<'_>, body: &mut Body<'_, S>) -> Outcome {
        let Step { simulator, plan, key, request, .. } = step;
        let Request { method, matched, head, id, principal } = request;
        if let Some(key) = &key {
            let (key, now) = (key.as_bytes(), Instant::now());
            if let Err(limited) = simulator.simulation.check_rate(matched.store, key, now) {
                return Ok((rate_limited(&limited, self.kv.now()), Some(RATE_LIMIT)));
            }
        }
        if let Some(fault) = plan.fault.filter(|fault| !fault.after_commit) {
            return Ok((simulated_fault(&fault), Some(ERROR)));
        }
        let result = self.dispatch(method, matched, head, body, id, principal).await;
        simulator.invalidate(request.location(), matched.store, key.as_ref());
        let response = result?;
        match plan.fault.filter(|_| response.status < 300) {
            Some(fault) => Ok((simulated_fault(&fault), Some(ERROR_AFTER_COMMIT))),
            None => Ok((response, None)),
        }
    }

    async fn simulate_read(&self, step: Step<'_>) -> Outcome {
        if let Some(fault) = step.plan.fault {
            return Ok((simulated_fault(&fault), Some(ERROR)));
        }
        let Request { method, matched, head, id, principal } = step.request;
        match &step.simulator.cache {
            Some(cache) if matched.route == Route::Item => {
                self.read_item_from(cache, step.request).await
            }
            Some(cache) if is_eventual(head)? => self.list_keys_from(cache, step.request).await,
            Some(_) | None => {
                let response = self.dispatch_read(method, matched, head, id, principal).await?;
                Ok((response, None))
            }
        }
    }

    /// Reads an item, or returns the outdated result that the client has seen.
    async fn read_item_from(
        &self,
        cache: &StaleCache<ReadResult>,
        request: Request<'_>,
    ) -> Outcome {
        let Request { method, matched, head, id, .. } = request;
        let (key, store) = (parse_key(matched.key)?, StoreId::parse(matched.store)?);
        let lookup =
            cache.item(request.location(), store.as_bytes(), key.as_bytes(), Instant::now());
        let current = match self.admit(&store, &key).await {
            Ok(found) => Some(found),
            Err(Error::Kv(kv::Error::NoItem)) => None,
            Err(e) => return Err(e),
        };
        let generation = current.as_ref().map(|(item, _)| item.generation);
        let seen = cache.get(&lookup, Instant::now()).map(|cached| cached.value);
        let (item, permit, effect) = match (seen, current) {
            // An outdated item still expires in time.
            (Some(ReadResult::Item(item)), current)
                if generation != Some(item.generation) && !self.is_expired(&item) =>
            {
                drop(current);
                let memory = self.kv.download_memory_bytes(&item);
                (item, self.limiter.download(memory).await?, Some(STALE))
            }
            (Some(ReadResult::Absent), Some(_)) => {
                return Ok((Error::Kv(kv::Error::NoItem).response(id), Some(STALE)));
            }
            (Some(_), Some((item, permit))) => (item, permit, None),
            (None, Some((item, permit))) => {
                insert_item(cache, &lookup, &item).await?;
                (item, permit, None)
            }
            (seen, None) => {
                if seen.is_none() {
                    cache.insert(&lookup, ReadResult::Absent, 0);
                }
                return Err(kv::Error::NoItem.into());
            }
        };
        let response = match method == Method::Head {
            true => head_response(&item),
            false => item_response(item, permit, head, id).await?,
        };
        Ok((response, effect))
    }

    fn is_expired(&self, item: &Item) -> bool {
        item.expires_at.is_some_and(|at| at <= self.kv.now())
    }

    /// Lists keys with eventual consistency: returns the outdated page that the client has seen,
    /// with its `Age`, as the hosted API does (docs/contract.md section 3.4).
    async fn list_keys_from(
        &self,
        cache: &StaleCache<ReadResult>,
        request: Request<'_>,
    ) -> Outcome {
        let Request { matched, head, .. } = request;
        let lookup = cache.list(request.location(), matched.store, head.query(), Instant::now());
        let store = StoreId::parse(matched.store).map_err(Error::from);
        let response = self.list_keys(store, head).await?;
        let Payload::Bytes(page) = &response.payload else { return Ok((response, None)) };
        match cache.get(&lookup, Instant::now()) {
            None => {
                // Copied, because the buffer of the response may be larger than the page.
                cache.insert(&lookup, ReadResult::Page(Bytes::copy_from_slice(page)), page.len());
                Ok((response, None))
            }
            Some(Cached { value: ReadResult::Page(seen), age }) if seen != *page => {
                let permit = self.limiter.download(seen.len() as u64).await?;
                let response = json_bytes_admitted(seen.to_vec(), permit);
                Ok((response.header_u64("Age", age.as_secs()), Some(STALE)))
            }
            Some(_) => Ok((response, None)),
        }
    }
}

/// Caches an item, unless it is too large.
async fn insert_item(
    cache: &StaleCache<ReadResult>,
    lookup: &Lookup,
    item: &Item,
) -> Result<(), kv::Error> {
    let bytes = item.size.saturating_add(item.metadata.as_bytes().len() as u64);
    let Some(bytes) = usize::try_from(bytes).ok().filter(|bytes| *bytes <= CACHED_BYTES_MAX) else {
        return Ok(());
    };
    // Copied, because the value may be a part of a larger buffer.
    let value = Value::from(Bytes::copy_from_slice(&item.value.read_all().await?));
    cache.insert(lookup, ReadResult::Item(Item { value, ..item.clone() }), bytes);
    Ok(())
}

/// Returns the kind of an operation that is simulated.
fn operation(route: Route, method: Method) -> Option<Operation> {
    use Method::{Delete, Get, Head, Put};
    match (route, method) {
        (Route::Item, Get | Head) => Some(Operation::Read),
        (Route::Item, Put | Delete) | (Route::Batch, Put) => Some(Operation::Write),
        (Route::Keys, Get | Head) => Some(Operation::List),
        _ => None,
    }
}

fn is_read(method: Method) -> bool {
    matches!(method, Method::Get | Method::Head)
}

/// Returns whether the client accepts an outdated list.
fn is_eventual(head: &RequestHead) -> Result<bool, Error> {
    Ok(Query::parse(head.query())?.word("consistency")? == Some("eventual"))
}
