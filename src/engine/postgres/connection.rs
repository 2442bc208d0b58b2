//! How the database is reached: the URL, TLS, and a pool of connections.

use super::super::{BoxFuture, EngineError, Result};
use deadpool_postgres::{
    Client, Connect, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as _;
use std::io;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client as PgClient, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a connection may take to be made, and a request may wait for one.
const CONNECT: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_secs(10);
/// A statement that takes longer than this is given up: a server that is frozen holds its
/// connections open and answers nothing. Longer than any statement here takes.
const STATEMENT: Duration = Duration::from_secs(8);
/// And one that brings or fetches large values takes longer by a second for so many bytes.
const SLOWEST: u64 = 4 << 20;
/// A connection on which nothing comes back is noticed after about so long.
const KEEPALIVE: Duration = Duration::from_secs(10);
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// What a pool's connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything: only the host that takes writes will do.
    Primary,
    /// Scans that need not see the latest: any host will do.
    Standby,
}

/// Reads a URL such as `postgres://user:password@host1,host2/database`. Connections go to the
/// host that takes writes, or to any that answers for a standby. TLS with a verified certificate
/// is asked of every host but those of this machine, unless the URL says `sslmode=disable`.
fn parse(url: &str, role: Role) -> Result<Config> {
    // The library knows no name for what is always done here.
    let url = url.replace("sslmode=verify-full", "sslmode=require");
    let said = url.contains("sslmode=");
    // Its error would repeat the URL, and the password with it.
    let unreadable = || EngineError::Failed("the engine's URL cannot be read".into());
    let mut config: Config = url.parse().map_err(|_| unreadable())?;
    if config.get_hosts().is_empty() {
        return Err(EngineError::Failed("the engine's URL names no host".into()));
    }
    if !said {
        let near = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()),
            Host::Unix(_) => true,
        });
        config.ssl_mode(if near { SslMode::Disable } else { SslMode::Require });
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
    config.application_name("steadfast").connect_timeout(CONNECT);
    config.keepalives(true).keepalives_idle(KEEPALIVE).tcp_user_timeout(UNACKNOWLEDGED);
    Ok(config)
}

/// A pool of at most `size` connections; none is made yet.
pub(super) fn pool(url: &str, size: usize, role: Role) -> Result<Pool> {
    let config = parse(url, role)?;
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let encrypted = config.get_ssl_mode() != SslMode::Disable;
    let tls = encrypted.then(tls).transpose()?.map(MakeRustlsConnect::new);
    let manager = Manager::from_connect(config, Race { tls }, recycling);
    let timeouts = Timeouts { wait: Some(WAIT), create: Some(CONNECT), recycle: Some(CONNECT) };
    let pool = Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1).timeouts(timeouts);
    pool.build().map_err(|e| EngineError::Failed(e.to_string()))
}

/// Asks all hosts at once for a connection, and takes the first that is made: one that is frozen
/// answers nothing, and must not stand before the others.
struct Race {
    tls: Option<MakeRustlsConnect>,
}

type Connected = std::result::Result<(PgClient, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for Race {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Connected> {
        let mut asked = JoinSet::new();
        for config in each_host(config) {
            match self.tls.clone() {
                Some(tls) => asked.spawn(connect(config, tls)),
                None => asked.spawn(connect(config, NoTls)),
            };
        }
        Box::pin(async move {
            loop {
                match asked.join_next().await {
                    Some(Ok(Err(_))) if !asked.is_empty() => {}
                    Some(Ok(made)) => return made,
                    Some(Err(_)) => {}
                    // No host at all, or only panics: nothing is ever made.
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
    let driven = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "a connection to the database ended");
        }
    });
    Ok((client, driven))
}

/// The same configuration for each of its hosts alone.
fn each_host(all: &Config) -> Vec<Config> {
    let ports = all.get_ports();
    let one = |(at, host): (usize, &Host)| {
        let mut config = Config::new();
        match host {
            Host::Tcp(name) => config.host(name),
            Host::Unix(path) => config.host_path(path),
        };
        if let Some(address) = all.get_hostaddrs().get(at) {
            config.hostaddr(*address);
        }
        config.port(ports.get(at).or(ports.first()).copied().unwrap_or(5432));
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
    all.get_hosts().iter().enumerate().map(one).collect()
}

fn tls() -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // SSL_CERT_FILE and SSL_CERT_DIR name others than the system's.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| EngineError::Failed(format!("TLS: {e}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What went wrong with a statement, as far as it matters to who sent it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database refused it and did nothing.
    Refused(EngineError),
    /// Others were in the way: to be tried again.
    Crossed,
    /// A row stayed locked by others for longer than was to be waited: to be tried again.
    Held,
    /// The connection is gone, or leads to a server that takes no writes: to be tried again on
    /// another, unless the fault came with a commit's end.
    Cut(String),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(e: tokio_postgres::Error) -> Fault {
        let Some(db) = e.as_db_error() else {
            let cause = e.source();
            let text = cause.map_or(e.to_string(), |cause| format!("{e}: {cause}"));
            // What has another cause than the network fails on every connection alike.
            let network = e.is_closed() || cause.is_none_or(passing);
            return match network {
                true => Fault::Cut(text),
                false => Fault::Refused(EngineError::Failed(text)),
            };
        };
        let (code, text) = (db.code(), format!("{}: {}", db.code().code(), db.message()));
        let cut = [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::FEATURE_NOT_SUPPORTED, // a cached plan that does not fit any more
        ];
        let crossed = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::UNIQUE_VIOLATION,
        ];
        if cut.contains(code) {
            Fault::Cut(text)
        } else if crossed.contains(code) {
            Fault::Crossed
        } else if *code == SqlState::LOCK_NOT_AVAILABLE {
            Fault::Held
        } else if *code == SqlState::DISK_FULL {
            Fault::Refused(EngineError::Full(text))
        } else {
            Fault::Refused(EngineError::Failed(text))
        }
    }
}

/// Whether a cause lies with the network, and may be gone at the next try. A certificate that does
/// not hold stays so.
fn passing(cause: &(dyn std::error::Error + 'static)) -> bool {
    let lasting = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
    cause.downcast_ref::<io::Error>().is_some_and(|io| !lasting.contains(&io.kind()))
}

impl From<PoolError> for Fault {
    fn from(e: PoolError) -> Fault {
        match e {
            PoolError::Backend(e) => match Fault::from(e) {
                // A password that is wrong stays wrong.
                Fault::Refused(e) => Fault::Refused(e),
                Fault::Crossed => Fault::Crossed,
                Fault::Held => Fault::Held,
                Fault::Cut(what) => Fault::Cut(what),
            },
            PoolError::Closed => Fault::Refused(EngineError::Closed),
            e @ (PoolError::Timeout(_)
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)) => Fault::Cut(e.to_string()),
        }
    }
}

/// Gives up a connection that is not to be used again, and those of its pool that rest: they lead
/// to the same server.
pub(super) fn evict(client: Client) {
    if let Some(pool) = Client::pool(&client) {
        pool.retain(|_, _| false);
    }
    drop(Client::take(client));
}

/// What a statement answers, unless it takes so long that its server is taken for gone.
pub(super) async fn timely<T>(
    work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> std::result::Result<T, Fault> {
    timely_with(0, work).await
}

/// The same with so many bytes that the statement brings or fetches.
pub(super) async fn timely_with<T>(
    bytes: u64,
    work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> std::result::Result<T, Fault> {
    match tokio::time::timeout(time_for(bytes), work).await {
        Ok(done) => done.map_err(Fault::from),
        Err(_) => Err(silent()),
    }
}

/// For how long a statement may take that brings or fetches so many bytes.
pub(super) fn time_for(bytes: u64) -> Duration {
    STATEMENT + Duration::from_secs(bytes / SLOWEST)
}

/// The fault of a server from which no answer came in time.
pub(super) fn silent() -> Fault {
    Fault::Cut("the database did not answer in time".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_hosts_are_reached_by_tls_unless_the_url_says_otherwise() {
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
        let each = each_host(&parse(two, Role::Primary).unwrap());
        let at = |config: &Config| (config.get_hosts().to_vec(), config.get_ports().to_vec());
        let named = |name: &str, port| (vec![Host::Tcp(name.into())], vec![port]);
        assert_eq!(
            each.iter().map(at).collect::<Vec<_>>(),
            [named("db1.example", 5432), named("db2.example", 5433)]
        );
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
    fn a_url_that_cannot_be_read_is_not_repeated() {
        for url in ["postgres://u:secret@h:port/d", "postgres://u:secret@h/d?nothing=1", "secret"] {
            let e = parse(url, Role::Primary).unwrap_err().to_string();
            assert!(!e.contains("secret"), "{e}");
        }
    }
}
