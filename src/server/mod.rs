//! The composition root: builds a server from its configuration, runs it and shuts it down.

mod handshake_stream;
mod root_token;
mod tls;

use crate::address_file::AddressFile;
use crate::api::{Api, Auth};
use crate::config::{EngineLocation, ServeConfig, SimulationConfig, TokenLocation};
use crate::engine::{EngineError, copy, embedded};
use crate::http::{self, RequestError};
use crate::kv::Kv;
use crate::metrics::Metrics;
use crate::simulation::Simulation;
use crate::storage::{self, Storage, StorageOptions};
use crate::wire::ServerSecret;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tls::{Handshake, Tls};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Length of the kernel's accept queue.
const BACKLOG: u32 = 4096;
/// Pause of the sweeper when no expired items are left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for open requests at shutdown. Shutdown is limited to 10 s in total, so 5 s remain
/// for closing the engine.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// File descriptors reserved for WAL segments, which are enough for about 1 TiB of data, and for
/// uses other than connections and large values.
const SEGMENT_FILES: u64 = 6144;
const SPARE_FILES: u64 = 512;
/// Minimum memory for a large value that is being read or written, in bytes. Such a value uses a
/// file descriptor.
const LARGE_VALUE_BYTES: u64 = 256 << 10;

/// A listening server.
pub struct Server {
    listener: TcpListener,
    api: Arc<Api>,
    kv: Arc<Kv>,
    metrics: Arc<Metrics>,
    config: ServeConfig,
    connections_max: usize,
    tls: Option<Arc<Tls>>,
    token_location: TokenLocation,
    _token_dir: Option<TempDir>,
    _address_file: Option<AddressFile>,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine could not be opened.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address could not be bound.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The root token could not be read or generated.
    #[error("{0}")]
    Token(String),
    /// The TLS files could not be loaded.
    #[error("{0}")]
    Tls(String),
    /// The server's secret could not be generated.
    #[error("{0}")]
    Secret(String),
}

/// Reloads the TLS files of a server.
#[derive(Clone)]
pub struct Reloader(Option<Arc<Tls>>);

impl Reloader {
    /// Reloads the files. A failure is logged, and the previous configuration stays in use.
    pub fn reload(&self) {
        match &self.0 {
            Some(tls) => tls.reload(true),
            None => tracing::info!("nothing to reload: TLS is not configured"),
        }
    }
}

impl Server {
    /// Loads the TLS files, opens the engine and starts listening. Requests are served once
    /// [`Server::run`] is called.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: ServeConfig) -> Result<Server, StartError> {
        let tls = config.tls.clone().map(Tls::load).transpose().map_err(StartError::Tls)?;
        let tls = tls.map(Arc::new);
        let connections_max = connections_max(&config, embedded::raise_file_limit());
        let options = StorageOptions {
            cache_bytes: config.cache_bytes,
            wal_bytes: config.wal_bytes,
            // Higher than the API's own limit, so that requests wait in the API, where slow clients
            // cannot hold all permits.
            reading_bytes: config.max_in_flight / 2 + 2 * config.max_value,
        };
        let Storage { engine, clock } = storage::open(&config.engine, options).await?;
        copy::check_complete(&*engine).await?;
        let loaded = root_token::load(&config).map_err(StartError::Token)?;
        let (token, token_location, _token_dir) = loaded;
        let listener = listen(config.listen).map_err(|e| StartError::Listen(config.listen, e))?;
        let kv = Arc::new(Kv::new(engine, clock, config.max_value));
        let metrics = Arc::new(Metrics::default());
        let auth = Auth::new(token);
        let mut api = Api::new(kv.clone(), auth, metrics.clone(), config.max_in_flight);
        if let Some(SimulationConfig { spec, seed }) = &config.simulation {
            api = api.with_simulation(Simulation::new(spec.clone(), *seed));
        }
        let mut _address_file = None;
        if let (EngineLocation::Directory(dir), Ok(at)) = (&config.engine, listener.local_addr()) {
            let secret = ServerSecret::generate().map_err(StartError::Secret)?;
            _address_file = AddressFile::write(dir, at, tls.is_some(), &secret);
            api = api.with_secret(secret);
        }
        let api = Arc::new(api);
        Ok(Server {
            listener,
            api,
            kv,
            metrics,
            config,
            connections_max,
            tls,
            token_location,
            _token_dir,
            _address_file,
        })
    }

    /// Returns the URL of the bound address.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn url(&self) -> io::Result<String> {
        Ok(url(self.listener.local_addr()?, self.tls.is_some()))
    }

    /// Returns a handle that reloads the TLS files.
    pub fn reloader(&self) -> Reloader {
        Reloader(self.tls.clone())
    }

    /// Returns the location of the root token.
    pub fn token_location(&self) -> &TokenLocation {
        &self.token_location
    }

    /// Returns the simulation of a distributed service, if there is one.
    pub fn simulation(&self) -> Option<&SimulationConfig> {
        self.config.simulation.as_ref()
    }

    /// Serves requests until `stop` resolves, then drains them and closes the engine within 10 s.
    ///
    /// # Errors
    /// If the engine could not be closed cleanly.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), crate::kv::Error> {
        let (drain, draining) = watch::channel(false);
        if let Ok(url) = self.url() {
            tracing::info!(url, data = %self.config.engine, "server ready");
        }
        let listen = self.config.listen;
        if self.tls.is_none() && !listen.ip().is_loopback() {
            tracing::warn!(%listen, "tokens and values are sent unencrypted: set --tls-cert and \
                            --tls-key, or use a TLS proxy");
        }
        if let Some(SimulationConfig { spec, seed }) = &self.config.simulation {
            tracing::warn!(%spec, seed, "simulating stale reads, delays, limits or errors: do not \
                           use this server in production");
        }
        let watcher = self.tls.clone().map(|tls| tokio::spawn(tls.watch()));
        let sweeper = tokio::spawn(sweep(self.kv.clone(), draining.clone()));
        tokio::select! {
            () = stop => {}
            () = self.accept(&draining) => {}
        }
        tracing::info!("server stopping");
        let Server { listener, kv, _address_file, .. } = self;
        drop(listener);
        drop(draining);
        // The channel closes when the sweeper and all connections have ended.
        let _ = drain.send(true);
        if tokio::time::timeout(DRAIN_TIMEOUT, drain.closed()).await.is_err() {
            let timeout_secs = DRAIN_TIMEOUT.as_secs();
            tracing::warn!(timeout_secs, "aborting requests that did not finish in time");
        }
        sweeper.abort();
        watcher.inspect(tokio::task::JoinHandle::abort);
        // Remove the address file before unlocking the directory, because the next server writes
        // its own.
        drop(_address_file);
        kv.close().await?;
        tracing::info!("server stopped");
        Ok(())
    }

    async fn accept(&self, draining: &watch::Receiver<bool>) {
        let slots = Arc::new(Semaphore::new(self.connections_max));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely out of file descriptors: wait for other connections to close.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Writes are already coalesced; Nagle's algorithm would only delay them.
            let _ = stream.set_nodelay(true);
            let (api, timeouts) = (self.api.clone(), timeouts(&self.config));
            let (metrics, draining) = (self.metrics.clone(), draining.clone());
            let tls = self.tls.clone();
            tokio::spawn(async move {
                let _open = OpenConnection::new(metrics, slot);
                match tls {
                    None => http::serve(stream, &*api, timeouts, draining).await,
                    // Boxed, so that plain HTTP connections do not take up memory for TLS.
                    Some(tls) => Box::pin(serve_tls(&tls, stream, &api, timeouts, draining)).await,
                }
            });
        }
    }
}

/// An open connection, counted until it is dropped, even if a panic drops it.
struct OpenConnection {
    metrics: Arc<Metrics>,
    _slot: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(metrics: Arc<Metrics>, slot: OwnedSemaphorePermit) -> OpenConnection {
        metrics.connections.inc();
        OpenConnection { metrics, _slot: slot }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// Completes the TLS handshake within the timeout for a request head, then serves the connection.
async fn serve_tls(
    tls: &Tls,
    stream: TcpStream,
    api: &Api,
    timeouts: http::Timeouts,
    mut draining: watch::Receiver<bool>,
) {
    // Box the handshake, so that its memory is freed once the handshake is complete.
    let handshake = Box::pin(tls.accept(stream));
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(timeouts.head, handshake) => handshake,
        _ = draining.changed() => return,
    };
    match handshake {
        Ok(Handshake::Complete(stream)) => http::serve(stream, api, timeouts, draining).await,
        Ok(Handshake::PlainHttp(stream)) => {
            http::reject(stream, api, RequestError::PlainHttp, timeouts).await;
        }
        Ok(Handshake::Failed(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

fn url(address: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{address}")
}

fn timeouts(config: &ServeConfig) -> http::Timeouts {
    http::Timeouts {
        head: config.header_timeout,
        idle: config.idle_timeout,
        body: config.body_timeout,
        write: config.body_timeout,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Removes expired items in small batches until the server starts draining.
async fn sweep(kv: Arc<Kv>, mut draining: watch::Receiver<bool>) {
    loop {
        let swept = kv.purge_expired().await.unwrap_or_else(|error| {
            tracing::error!(%error, "could not remove expired items");
            0
        });
        let pause = if swept == 0 { SWEEP_INTERVAL } else { Duration::from_millis(2) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = draining.changed() => return,
        }
    }
}

/// Returns the maximum number of connections: the configured one, unless the limit on open files is
/// too low. Connections must not use up the file descriptors that the data needs.
fn connections_max(config: &ServeConfig, file_limit: u64) -> usize {
    let is_directory = matches!(config.engine, EngineLocation::Directory(_));
    let segments = if is_directory { SEGMENT_FILES } else { 0 };
    let reserved = SPARE_FILES + config.max_in_flight / LARGE_VALUE_BYTES + segments;
    let (wanted, max) = (config.max_connections, unreserved(file_limit, reserved));
    if max < u64::from(wanted) {
        tracing::warn!(
            file_limit,
            connections_max = max,
            "the limit on open files is too low for --max-connections; raise it (LimitNOFILE)"
        );
    }
    usize::try_from(max).unwrap_or(usize::MAX).min(wanted as usize)
}

/// Returns the number of file descriptors for connections, at least half of the limit.
fn unreserved(file_limit: u64, reserved: u64) -> u64 {
    file_limit - reserved.min(file_limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_file_descriptors_for_the_data() {
        assert_eq!(unreserved(65_536, 5000), 60_536);
        assert_eq!(unreserved(8192, 5000), 4096);
        assert_eq!(unreserved(1024, 5000), 512);
        assert_eq!(unreserved(u64::MAX, 5000), u64::MAX - 5000);
    }

    #[tokio::test]
    async fn a_panic_in_a_connection_releases_its_slot_and_decrements_the_count() {
        let (metrics, slots) = (Arc::new(Metrics::default()), Arc::new(Semaphore::new(1)));
        let slot = slots.clone().acquire_owned().await.unwrap();
        let open = OpenConnection::new(metrics.clone(), slot);
        assert_eq!((metrics.connections.get(), slots.available_permits()), (1, 0));
        let connection = tokio::spawn(async move {
            let _open = open;
            panic!("a handler panics");
        });
        assert!(connection.await.unwrap_err().is_panic());
        assert_eq!((metrics.connections.get(), slots.available_permits()), (0, 1));
    }
}
