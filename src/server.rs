//! The composition root: engine, store, API, listener, and their orderly end.

use crate::api::{Api, Auth};
use crate::atomic_file::AtomicFile;
use crate::config::{self, EngineLocation, ServeConfig, TokenLocation, TokenSource};
pub use crate::engine::copy::Progress as CopyProgress;
use crate::engine::copy::{self, CopyError};
use crate::engine::embedded::{self, Embedded, FatalErrorHandler, Options, VerifyReport};
use crate::engine::memory::Memory;
use crate::engine::{Engine, EngineError};
use crate::http;
pub use crate::kv::backup::RestoreError;
use crate::kv::backup::{self, BackupReader};
use crate::kv::clock::{Clock, SystemClock};
use crate::kv::integrity::{IntegrityChecker, RecordCounts};
use crate::kv::{Kv, keyspace};
use crate::metrics::Metrics;
use crate::wire::Token;
use std::fs::{self, Permissions};
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};

/// Connections the kernel keeps for us before they are accepted.
const BACKLOG: u32 = 4096;
/// How often the sweeper looks for expired items.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long requests that run may take to end once the server is told to; together with the
/// closing of the engine this stays below 10 s.
const DRAIN: Duration = Duration::from_secs(5);
/// The file of a data directory that says where its server listens.
const ADDRESS: &str = "address";
/// Exit status after a failed sync.
const FATAL: i32 = 70;
/// While copying: bytes of the commit log, and of large values that are read from a database at
/// once, which are eight at most.
const COPY_LOG: u64 = 128 << 20;
const COPY_READING: u64 = 2 << 30;
/// File descriptors besides those of connections.
const FILES_SPARE: u64 = 512;

/// A server that listens, ready to run.
pub struct Server {
    listener: TcpListener,
    api: Arc<Api>,
    kv: Arc<Kv>,
    metrics: Arc<Metrics>,
    config: ServeConfig,
    token_location: TokenLocation,
    /// Removed with the server, where the token was only for this run.
    _token_dir: Option<TempDir>,
    /// Tells tools of this machine where the server of a data directory is.
    _address_file: Option<AddressFile>,
}

/// An engine, and the clock that goes with it.
type Opened = (Arc<dyn Engine>, Arc<dyn Clock>);

#[cfg(feature = "postgres")]
async fn database(at: &config::Database, reading: u64) -> Result<Opened, EngineError> {
    use crate::engine::postgres::{Options, Postgres};

    /// Items expire by one clock, whichever server is asked: the database's.
    struct DatabaseClock(Arc<Postgres>);

    impl Clock for DatabaseClock {
        fn now(&self) -> u64 {
            self.0.now()
        }
    }

    let config::Database { url, standby, connections } = at.clone();
    let options = Options { url, standby, connections, reading_bytes: reading };
    let engine = Arc::new(Postgres::open(options).await?);
    Ok((engine.clone(), Arc::new(DatabaseClock(engine))))
}

#[cfg(not(feature = "postgres"))]
async fn database(_: &config::Database, _: u64) -> Result<Opened, EngineError> {
    Err(EngineError::Failed("this build has no engine for a database (feature postgres)".into()))
}

/// Opens the engine of a place.
async fn open(
    place: &EngineLocation,
    cache: u64,
    log: u64,
    reading: u64,
) -> Result<Opened, EngineError> {
    let dir = match place {
        EngineLocation::Memory => return Ok((Arc::new(Memory::new()), Arc::new(SystemClock))),
        EngineLocation::Database(at) => return database(at, reading).await,
        EngineLocation::Directory(dir) => dir.clone(),
    };
    let fatal = FatalErrorHandler::new(|why| {
        tracing::error!(
            "{why}; stopping, so that nothing is pretended: on the next start every acknowledged \
             write is there"
        );
        std::process::exit(FATAL);
    });
    let options = Options { dir, cache_bytes: cache, wal_bytes: log, fatal };
    Ok((Arc::new(Embedded::open(options)?), Arc::new(SystemClock)))
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine could not be opened.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address could not be used.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The token could not be read or made.
    #[error("{0}")]
    Token(String),
}

impl Server {
    /// Opens the engine and listens; requests are answered from [`Server::run`] on.
    ///
    /// # Errors
    /// When the data directory, the token or the address cannot be used.
    pub async fn start(config: ServeConfig) -> Result<Server, StartError> {
        raise_file_limit(u64::from(config.max_connections) + FILES_SPARE);
        let (cache, log) = (config.cache_bytes, config.wal_bytes);
        let (engine, clock) = open(&config.engine, cache, log, config.max_in_flight / 2).await?;
        copy::finished(&*engine).await?;
        let (token, token_location, token_dir) = root_token(&config).map_err(StartError::Token)?;
        let failed = |e| StartError::Listen(config.listen, e);
        let listener = listen(config.listen).map_err(failed)?;
        let kv = Arc::new(Kv::new(engine, clock, config.max_value));
        let metrics = Arc::new(Metrics::default());
        let auth = Auth::new(token);
        let api = Api::new(kv.clone(), auth, metrics.clone(), config.max_in_flight);
        let api = Arc::new(api);
        let address_file = match (&config.engine, listener.local_addr()) {
            (EngineLocation::Directory(dir), Ok(at)) => AddressFile::write(dir, at),
            (
                EngineLocation::Directory(_) | EngineLocation::Memory | EngineLocation::Database(_),
                _,
            ) => None,
        };
        let (_token_dir, _address_file) = (token_dir, address_file);
        Ok(Server { listener, api, kv, metrics, config, token_location, _token_dir, _address_file })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the root token is.
    pub fn token_location(&self) -> &TokenLocation {
        &self.token_location
    }

    /// Serves until `stop` is done; then ends what runs, flushes and returns within 10 s.
    ///
    /// # Errors
    /// When the engine could not be closed in order.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), crate::kv::Error> {
        let (drain, draining) = watch::channel(false);
        if let Ok(address) = self.address() {
            tracing::info!(%address, data = %self.config.engine, "ready");
        }
        let sweeper = tokio::spawn(sweep(self.kv.clone(), draining.clone()));
        tokio::select! {
            () = stop => {}
            () = self.accept(&draining) => {}
        }
        tracing::info!("stopping: no more connections are accepted");
        let Server { listener, kv, .. } = self;
        drop(listener);
        drop(draining);
        // Every connection and the sweeper hold a receiver until they end.
        let _ = drain.send(true);
        if tokio::time::timeout(DRAIN, drain.closed()).await.is_err() {
            tracing::warn!("some requests did not end in {} s and are cut", DRAIN.as_secs());
        }
        sweeper.abort();
        kv.close().await?;
        tracing::info!("stopped");
        Ok(())
    }

    async fn accept(&self, draining: &watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.config.max_connections as usize));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of files, most likely: those that run give theirs back.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Answers are written whole; waiting to merge them would only delay them.
            let _ = stream.set_nodelay(true);
            let (api, timeouts) = (self.api.clone(), timeouts(&self.config));
            let (metrics, draining) = (self.metrics.clone(), draining.clone());
            tokio::spawn(async move {
                metrics.connections.inc();
                http::serve(stream, &*api, timeouts, draining).await;
                metrics.connections.dec();
                drop(place);
            });
        }
    }
}

/// Looks at a data directory that no server uses, without changing it.
///
/// # Errors
/// When it is in use, of another format, or cannot be read. Damage is in the report.
pub fn check(dir: &Path) -> Result<(VerifyReport, RecordCounts), EngineError> {
    let mut checker = IntegrityChecker::new(&SystemClock);
    let mut report = embedded::verify(dir, |record, report| {
        checker.record(record.key, record.expires_at, record.meta, record.body_len);
        checker.problems().into_iter().for_each(|what| report.add_problem(what));
    })?;
    let (counted, problems) = checker.finish();
    problems.into_iter().for_each(|what| report.add_problem(what));
    Ok((report, counted))
}

/// Where the server of a data directory listens, as a URL; `None` when none runs.
///
/// # Errors
/// When one runs and does not say where.
pub fn running(dir: &Path) -> Result<Option<String>, String> {
    if !embedded::is_locked(dir) {
        return Ok(None);
    }
    let at = fs::read_to_string(dir.join(ADDRESS)).ok().map(|text| text.trim().to_owned());
    let hint = "name its address with --endpoint";
    at.map(Some)
        .ok_or_else(|| format!("{} is in use, and nobody knows by whom: {hint}", dir.display()))
}

/// The backup of a data directory that no server uses, piece by piece into `take`.
///
/// # Errors
/// When the directory cannot be read, or `take` fails.
pub async fn backup(
    dir: &Path,
    take: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", dir.display());
    if !dir.join("LOCK").is_file() {
        return Err(failed(&"there is no data directory"));
    }
    let place = EngineLocation::Directory(dir.to_owned());
    let (engine, _) = open(&place, 0, COPY_LOG, COPY_READING).await.map_err(|e| failed(&e))?;
    copy::finished(&*engine).await.map_err(|e| failed(&e))?;
    let mut backup = backup::backup(&*engine).await.map_err(|e| failed(&e))?;
    while let Some(piece) = backup.next().await.map_err(|e| failed(&e))? {
        take(&piece).map_err(|e| format!("cannot write: {e}"))?;
    }
    drop(backup);
    engine.close().await.map_err(|e| failed(&e))
}

/// Fills an empty place from a backup; answers how many stores and items came in. `tell` hears how
/// many records are in.
///
/// # Errors
/// See [`RestoreError`]. The place is then marked as unfinished, unless it was not empty.
pub async fn restore(
    source: impl io::Read + Send,
    to: &EngineLocation,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<RecordCounts, RestoreError> {
    // First: what is no backup must leave nothing behind.
    let source = BackupReader::open(source)?;
    let (to, _) = open(to, 0, COPY_LOG, COPY_READING).await?;
    let restored = backup::restore(source, &to, tell).await;
    let closed = to.close().await;
    let counted = restored?;
    closed?;
    Ok(counted)
}

/// Reads all of a backup and says what it holds and what is wrong with it.
///
/// # Errors
/// When it cannot be read.
pub fn check_backup(source: impl io::Read) -> Result<(RecordCounts, Vec<String>), RestoreError> {
    backup::verify(source, &SystemClock)
}

/// What a copy came to.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// Stores.
    pub stores: u64,
    /// Items, those too that expired and are not swept yet.
    pub items: u64,
    /// Bytes of keys, metadata and values, as they are kept.
    pub bytes: u64,
    /// The checksum that both sides have.
    pub checksum: u32,
}

/// Copies everything from one place to another, going on where a copy was cut, and compares both.
/// No server may use the data directories; those over a database should be stopped.
///
/// # Errors
/// See [`CopyError`]; the same copy may then be run again.
pub async fn copy(
    from: &EngineLocation,
    to: &EngineLocation,
    tell: &mut (dyn FnMut(copy::Progress) + Send),
) -> Result<Copied, CopyError> {
    let source = |e| CopyError::Engine(copy::Side::Source, e);
    let destination = |e| CopyError::Engine(copy::Side::Destination, e);
    let (from, _) = open(from, 0, COPY_LOG, COPY_READING).await.map_err(source)?;
    let (to, _) = open(to, 0, COPY_LOG, COPY_READING).await.map_err(destination)?;
    let done = copy::copy(&from, &to, tell).await;
    let counted = async {
        let stores = to.count(keyspace::STORES).await?;
        Ok((stores, to.count(keyspace::ITEMS).await?))
    };
    let counted = counted.await.map_err(destination);
    // What was copied is kept, however it ended.
    let closed = (from.close().await.map_err(source), to.close().await.map_err(destination));
    let copy::Progress { bytes, checksum, .. } = done?;
    let (stores, items) = counted?;
    closed.0.and(closed.1)?;
    Ok(Copied { stores, items, bytes, checksum })
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

/// Takes back the space of expired items, a little at a time.
async fn sweep(kv: Arc<Kv>, mut draining: watch::Receiver<bool>) {
    loop {
        let swept = kv.sweep().await.unwrap_or_else(|e| {
            tracing::error!(error = %e, "expired items could not be removed");
            0
        });
        let pause = if swept == 0 { SWEEP_EVERY } else { Duration::from_millis(2) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = draining.changed() => return,
        }
    }
}

/// Each connection takes a file; the usual limit of 1024 is raised as far as the system allows.
fn raise_file_limit(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let ceiling = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    if limit.current.is_some_and(|current| current < ceiling) {
        let raised = Rlimit { current: Some(ceiling), maximum: limit.maximum };
        if let Err(e) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(error = %e, "the limit of open files could not be raised");
        }
    }
}

fn root_token(config: &ServeConfig) -> Result<(Token, TokenLocation, Option<TempDir>), String> {
    match (&config.token, &config.engine) {
        (TokenSource::Given(token), _) => Ok((token.clone(), TokenLocation::Environment, None)),
        (TokenSource::File(token, path), _) => {
            Ok((token.clone(), TokenLocation::File(path.clone()), None))
        }
        (TokenSource::Generated, EngineLocation::Directory(data)) => {
            let path = data.join("token");
            let token =
                if path.exists() { config::read_root_token(&path) } else { make_token(&path) };
            Ok((token?, TokenLocation::File(path), None))
        }
        (TokenSource::Generated, EngineLocation::Memory | EngineLocation::Database(..)) => {
            // Removed when the server stops.
            let dir = tempfile::Builder::new()
                .prefix("steadfast-")
                .permissions(Permissions::from_mode(0o700))
                .tempdir();
            let dir = dir.map_err(|e| format!("cannot create a temporary directory: {e}"))?;
            let path = dir.path().join("token");
            Ok((make_token(&path)?, TokenLocation::File(path), Some(dir)))
        }
    }
}

/// Says where a server is, for as long as it runs.
struct AddressFile(PathBuf);

impl AddressFile {
    /// Writes it; a server without it runs as well.
    fn write(dir: &Path, at: SocketAddr) -> Option<AddressFile> {
        let path = dir.join(ADDRESS);
        // One that listens on all addresses is reached on this one.
        let host = if at.ip().is_unspecified() { "127.0.0.1".into() } else { at.ip().to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let url = format!("http://{host}:{}\n", at.port());
        match fs::write(&path, url) {
            Ok(()) => Some(AddressFile(path)),
            Err(e) => {
                tracing::warn!(error = %e, "{} could not be written", path.display());
                None
            }
        }
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// 32 random bytes as 64 characters.
fn random_text() -> Result<String, String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| format!("no random numbers: {e}"))?;
    Ok(crate::wire::hex(&random))
}

/// Generates a token and stores it in a file that only its owner can read.
fn make_token(path: &Path) -> Result<Token, String> {
    let text = random_text()?;
    let write = || {
        let mut file = AtomicFile::create_secret(path)?;
        writeln!(file, "{text}")?;
        file.persist()
    };
    write().map_err(|e: io::Error| format!("cannot write the token {}: {e}", path.display()))?;
    Token::parse(&text)
}
