//! Connections to the database: URL parsing, TLS, pools, deadlines and error classification.

use super::super::{BoxFuture, EngineError, Result};
use deadpool_postgres::{
    Client, Connect, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as _;
use std::io;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client as PgClient, Config, NoTls, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Time limits for establishing a connection, and for waiting for one from the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const POOL_TIMEOUT: Duration = Duration::from_secs(10);
/// Base time limit of a statement, longer than any statement of this engine takes. It detects a
/// hung server, which keeps its connections open but does not respond.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(8);
/// Assumed minimum transfer rate, in bytes per second. It extends the time limit of large
/// statements.
const TRANSFER_RATE_MIN: u64 = 4 << 20;
/// TCP settings that detect a dead peer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);

/// The role of the server that a pool connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Used for reads and writes; the server must be writable.
    Primary,
    /// Used for eventually consistent scans; any server is accepted.
    Standby,
}

/// Parses a URL such as `postgres://user:password@host1,host2/database`.
///
/// Unless the URL sets `sslmode`, TLS with a verified certificate is required if any host is not
/// the local machine.
fn parse(url: &str, role: Role) -> Result<Config> {
    // tokio-postgres does not support `verify-full`. Certificates are always verified here, so
    // `require` is equivalent.
    let url = url.replace("sslmode=verify-full", "sslmode=require");
    let explicit_mode = url.contains("sslmode=");
    // The library's error may quote the URL, and with it the password.
    let invalid = || EngineError::Failed("the database URL is invalid".into());
    let mut config: Config = url.parse().map_err(|_| invalid())?;
    if config.get_hosts().is_empty() {
        return Err(EngineError::Failed("the database URL has no host".into()));
    }
    if !explicit_mode {
        let local = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()),
            Host::Unix(_) => true,
        });
        config.ssl_mode(if local { SslMode::Disable } else { SslMode::Require });
    }
    match role {
        Role::Standby => {
            config.target_session_attrs(TargetSessionAttrs::Any);
        }
        Role::Primary if config.get_hosts().len() > 1 => {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Role::Primary => {}
    }
    config.application_name("steadfast").connect_timeout(CONNECT_TIMEOUT);
    config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE).tcp_user_timeout(TCP_USER_TIMEOUT);
    Ok(config)
}

/// Creates a pool of at most `size` connections, which are opened on demand.
pub(super) fn pool(url: &str, size: usize, role: Role) -> Result<Pool> {
    let config = parse(url, role)?;
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let encrypted = config.get_ssl_mode() != SslMode::Disable;
    let tls = encrypted.then(tls).transpose()?.map(MakeRustlsConnect::new);
    let manager = Manager::from_connect(config, ParallelConnector { tls }, recycling);
    let timeouts = Timeouts {
        wait: Some(POOL_TIMEOUT),
        create: Some(CONNECT_TIMEOUT),
        recycle: Some(CONNECT_TIMEOUT),
    };
    let pool = Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1).timeouts(timeouts);
    pool.build().map_err(|e| EngineError::Failed(e.to_string()))
}

/// Connects to all hosts in parallel and uses the first connection established, so that a hung host
/// does not delay the others.
struct ParallelConnector {
    tls: Option<MakeRustlsConnect>,
}

type Connected = Result<(PgClient, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for ParallelConnector {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Connected> {
        let mut attempts = JoinSet::new();
        for config in split_hosts(config) {
            match self.tls.clone() {
                Some(tls) => attempts.spawn(connect(config, tls)),
                None => attempts.spawn(connect(config, NoTls)),
            };
        }
        Box::pin(async move {
            loop {
                match attempts.join_next().await {
                    Some(Ok(Err(_))) if !attempts.is_empty() => {}
                    Some(Ok(connected)) => return connected,
                    Some(Err(_)) => {}
                    // All attempts panicked; the pool's time limit ends the wait.
                    None => std::future::pending().await,
                }
            }
        })
    }
}

async fn connect<T>(config: Config, tls: T) -> Connected
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    let driver = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "database connection closed with an error");
        }
    });
    Ok((client, driver))
}

fn split_hosts(all: &Config) -> Vec<Config> {
    let ports = all.get_ports();
    let single = |(index, host): (usize, &Host)| {
        let mut config = Config::new();
        match host {
            Host::Tcp(name) => config.host(name),
            Host::Unix(path) => config.host_path(path),
        };
        if let Some(address) = all.get_hostaddrs().get(index) {
            config.hostaddr(*address);
        }
        config.port(ports.get(index).or(ports.first()).copied().unwrap_or(5432));
        all.get_user().map(|user| config.user(user));
        all.get_password().map(|password| config.password(password));
        all.get_dbname().map(|name| config.dbname(name));
        all.get_options().map(|options| config.options(options));
        all.get_application_name().map(|name| config.application_name(name));
        all.get_connect_timeout().map(|time| config.connect_timeout(*time));
        all.get_tcp_user_timeout().map(|time| config.tcp_user_timeout(*time));
        config.keepalives(all.get_keepalives()).keepalives_idle(all.get_keepalives_idle());
        config.ssl_mode(all.get_ssl_mode()).ssl_negotiation(all.get_ssl_negotiation());
        config.channel_binding(all.get_channel_binding());
        config.target_session_attrs(all.get_target_session_attrs());
        config
    };
    all.get_hosts().iter().enumerate().map(single).collect()
}

fn tls() -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // SSL_CERT_FILE and SSL_CERT_DIR override the system's root certificates.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| EngineError::Failed(format!("TLS: {e}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A failed statement, classified by how the caller must react.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database rejected the statement, which had no effect; do not retry.
    Rejected(EngineError),
    /// A conflict with a concurrent transaction; retry.
    Conflict,
    /// The lock timeout expired; retry.
    LockTimeout,
    /// The connection is lost, or its server is not writable; retry on another connection, unless
    /// the transaction may have committed.
    Disconnected(String),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(e: tokio_postgres::Error) -> Fault {
        let Some(db) = e.as_db_error() else {
            let cause = e.source();
            let text = cause.map_or(e.to_string(), |cause| format!("{e}: {cause}"));
            // An error with another cause recurs on every connection.
            let network = e.is_closed() || cause.is_none_or(is_transient);
            return match network {
                true => Fault::Disconnected(text),
                false => Fault::Rejected(EngineError::Failed(text)),
            };
        };
        let (code, text) = (db.code(), format!("{}: {}", db.code().code(), db.message()));
        let disconnected = [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::FEATURE_NOT_SUPPORTED, // cached plan must not change result type
        ];
        let conflicts = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::UNIQUE_VIOLATION,
        ];
        if disconnected.contains(code) {
            Fault::Disconnected(text)
        } else if conflicts.contains(code) {
            Fault::Conflict
        } else if *code == SqlState::LOCK_NOT_AVAILABLE {
            Fault::LockTimeout
        } else if *code == SqlState::DISK_FULL {
            Fault::Rejected(EngineError::Full(text))
        } else {
            Fault::Rejected(EngineError::Failed(text))
        }
    }
}

impl From<Fault> for EngineError {
    fn from(fault: Fault) -> EngineError {
        match fault {
            Fault::Rejected(e) => e,
            Fault::Conflict | Fault::LockTimeout => super::contention(),
            Fault::Disconnected(why) => EngineError::Unavailable(why),
        }
    }
}

/// Returns whether an error is a network error that may not recur. The error for an invalid
/// certificate always recurs.
fn is_transient(cause: &(dyn std::error::Error + 'static)) -> bool {
    let permanent = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
    cause.downcast_ref::<io::Error>().is_some_and(|io| !permanent.contains(&io.kind()))
}

impl From<PoolError> for Fault {
    fn from(e: PoolError) -> Fault {
        match e {
            PoolError::Backend(e) => Fault::from(e),
            PoolError::Closed => Fault::Rejected(EngineError::Closed),
            e @ (PoolError::Timeout(_)
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)) => Fault::Disconnected(e.to_string()),
        }
    }
}

/// Closes a connection and the idle connections of its pool, which may be to the same server.
pub(super) fn evict(client: Client) {
    if let Some(pool) = Client::pool(&client) {
        pool.retain(|_, _| false);
    }
    drop(Client::take(client));
}

/// The parameters of a statement.
pub(super) type Params<'p> = &'p [&'p (dyn ToSql + Sync)];

/// Runs a query as a cached prepared statement.
pub(super) async fn run_query(
    client: &Client,
    text: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = client.prepare_cached(text).await?;
    client.query(&statement, params).await
}

/// Runs a query on a pooled connection, and closes the connection if it is lost.
///
/// If the future is dropped, the connection returns to the pool only once the query has ended.
/// Otherwise the next statement on the connection waits for the query.
pub(super) async fn run_pooled_query(
    client: Client,
    bytes: u64,
    text: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, Fault> {
    let mut running = RunningQuery(Some(client));
    let client = running.0.as_ref().ok_or(Fault::Rejected(EngineError::Closed))?;
    let rows = with_transfer_deadline(bytes, run_query(client, text, params)).await;
    let client = running.0.take();
    if let Err(Fault::Disconnected(_)) = rows {
        client.into_iter().for_each(evict);
    }
    rows
}

/// A connection with a query in progress; `None` once the query has ended.
struct RunningQuery(Option<Client>);

impl Drop for RunningQuery {
    fn drop(&mut self) {
        let Some(client) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return drop(Client::take(client)) };
        runtime.spawn(async move {
            // The database executes statements in order, so the empty statement ends after the
            // query.
            if with_deadline(client.batch_execute("")).await.is_err() {
                evict(client);
            }
        });
    }
}

/// Runs a statement with the base time limit.
pub(super) async fn with_deadline<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Fault> {
    with_transfer_deadline(0, work).await
}

/// Runs a statement that transfers up to `bytes` bytes, with the time limit for that size.
pub(super) async fn with_transfer_deadline<T>(
    bytes: u64,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(transfer_timeout(bytes), work).await {
        Ok(result) => result.map_err(Fault::from),
        Err(_) => Err(timed_out()),
    }
}

pub(super) fn transfer_timeout(bytes: u64) -> Duration {
    STATEMENT_TIMEOUT + Duration::from_secs(bytes / TRANSFER_RATE_MIN)
}

pub(super) fn timed_out() -> Fault {
    Fault::Disconnected("the database did not respond in time".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_hosts_require_tls_unless_the_url_disables_it() {
        for (url, mode) in [
            ("postgres://u:p@127.0.0.1:5432/d", SslMode::Disable),
            ("postgres://u@localhost/d", SslMode::Disable),
            ("postgres://u:p@db1.example,db2.example/d", SslMode::Require),
            ("postgres://u:p@db1.example/d?sslmode=verify-full", SslMode::Require),
            ("postgres://u:p@db1.example/d?sslmode=disable", SslMode::Disable),
            ("postgres://u:p@127.0.0.1/d?sslmode=require", SslMode::Require),
        ] {
            assert_eq!(parse(url, Role::Primary).unwrap().get_ssl_mode(), mode, "{url}");
        }
        let two = "postgres://u:p@db1.example,db2.example:5433/d?sslmode=disable";
        let each = split_hosts(&parse(two, Role::Primary).unwrap());
        let at = |config: &Config| (config.get_hosts().to_vec(), config.get_ports().to_vec());
        let named = |name: &str, port| (vec![Host::Tcp(name.into())], vec![port]);
        let expected = [named("db1.example", 5432), named("db2.example", 5433)];
        assert_eq!(each.iter().map(at).collect::<Vec<_>>(), expected);
        for one in &each {
            assert_eq!((one.get_user(), one.get_password()), (Some("u"), Some(&b"p"[..])));
            assert_eq!(one.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
            assert_eq!(one.get_ssl_mode(), SslMode::Disable);
        }
        let attributes = |role| parse(two, role).unwrap().get_target_session_attrs();
        assert_eq!(attributes(Role::Primary), TargetSessionAttrs::ReadWrite);
        assert_eq!(attributes(Role::Standby), TargetSessionAttrs::Any);
    }

    #[test]
    fn errors_do_not_show_an_invalid_url() {
        for url in ["postgres://u:secret@h:port/d", "postgres://u:secret@h/d?nothing=1", "secret"] {
            let e = parse(url, Role::Primary).unwrap_err().to_string();
            assert!(!e.contains("secret"), "{e}");
        }
    }
}
