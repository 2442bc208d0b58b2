//! TLS handshakes, and a TLS configuration that is reloaded when its files change.

use super::handshake_stream::HandshakeStream;
use crate::config::TlsFiles;
use crate::small_file;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// Interval at which the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum size of a PEM file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Maximum size of a ClientHello in bytes; typical ones take up to 2 KiB.
const HELLO_BYTES_MAX: usize = 8 << 10;
/// Maximum number of bytes read after the ClientHello until the handshake is complete. The client
/// may send its first request with the handshake, and a record of up to 16 KiB is read as a whole.
const FINISH_BYTES_MAX: usize = 24 << 10;
/// Maximum number of additional bytes if the client must send a certificate.
const CLIENT_CERT_BYTES_MAX: usize = 16 << 10;
/// Maximum number of bytes that are discarded after a failed handshake.
const DISCARD_BYTES_MAX: usize = 64 << 10;
/// Maximum time for which bytes are discarded after a failed handshake.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The TLS settings of a server.
pub(super) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
    /// The version of the files at the last attempt to load them.
    loaded: Mutex<Version>,
}

/// The outcome of a handshake.
pub(super) enum Handshake {
    /// A TLS connection.
    Complete(Box<TlsStream<HandshakeStream>>),
    /// The client sent plain HTTP. None of its bytes have been consumed.
    PlainHttp(TcpStream),
    /// The handshake failed; the client was sent an alert if possible.
    Failed(io::Error),
}

/// A version of the files, which changes when one of them is replaced or modified.
#[derive(Debug, PartialEq, Eq)]
struct Version(Vec<Option<[i64; 5]>>);

impl Version {
    fn of(files: &TlsFiles) -> Version {
        let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
        let version = |path: &Path| {
            let meta = path.metadata().ok()?;
            let (device, inode) = (meta.dev().cast_signed(), meta.ino().cast_signed());
            Some([device, inode, meta.size().cast_signed(), meta.mtime(), meta.mtime_nsec()])
        };
        Version(paths.into_iter().flatten().map(|path| version(path)).collect())
    }
}

impl Tls {
    /// Loads the TLS files.
    ///
    /// # Errors
    /// Returns a message that names the flag and the file.
    pub(super) fn load(files: TlsFiles) -> Result<Tls, String> {
        // Get the version first, so that the next check detects changes made during the read.
        let version = Version::of(&files);
        let current = RwLock::new(Arc::new(load(&files)?));
        Ok(Tls { files, current, loaded: Mutex::new(version) })
    }

    /// Reloads the files if they have changed or `force` is set. If that fails, an error is logged
    /// and the previous configuration stays in use. Open connections are not affected.
    pub(super) fn reload(&self, force: bool) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let version = Version::of(&self.files);
        if *loaded == version && !force {
            return;
        }
        *loaded = version;
        let cert = self.files.cert.display();
        match load(&self.files) {
            Ok(config) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(config);
                tracing::info!(%cert, "TLS certificate reloaded");
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "could not reload the TLS files; the previous ones stay in use"
                );
            }
        }
    }

    /// Checks the files for changes periodically, until the future is dropped.
    pub(super) async fn watch(self: Arc<Tls>) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let tls = Arc::clone(&self);
            // File system calls may block.
            let _ = tokio::task::spawn_blocking(move || tls.reload(false)).await;
        }
    }

    /// Completes the handshake of an accepted connection.
    pub(super) async fn accept(&self, stream: TcpStream) -> Handshake {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Err(e) => return Handshake::Failed(e),
            // A TLS record starts with a control character, an HTTP request with its method.
            Ok(_) if first[0].is_ascii_alphabetic() => return Handshake::PlainHttp(stream),
            Ok(_) => {}
        }
        match self.handshake(HandshakeStream { stream, remaining: HELLO_BYTES_MAX }).await {
            Ok(stream) => Handshake::Complete(Box::new(stream)),
            Err((error, stream)) => {
                if let Some(stream) = stream {
                    discard(stream.stream).await;
                }
                Handshake::Failed(error)
            }
        }
    }

    /// Reads the ClientHello, then completes the handshake; each step has its own size limit.
    async fn handshake(
        &self,
        stream: HandshakeStream,
    ) -> Result<TlsStream<HandshakeStream>, (io::Error, Option<HandshakeStream>)> {
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let hello = match (&mut acceptor).await {
            Ok(hello) => hello,
            Err(error) => return Err((error, acceptor.take_io())),
        };
        let StartHandshake { accepted, io: stream, .. } = hello;
        let mut remaining = FINISH_BYTES_MAX;
        if self.files.client_ca.is_some() {
            remaining += CLIENT_CERT_BYTES_MAX;
        }
        let hello = StartHandshake::from_parts(accepted, HandshakeStream { remaining, ..stream });
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        match hello.into_stream(current).into_fallible().await {
            Ok(mut stream) => {
                stream.get_mut().0.remaining = usize::MAX;
                Ok(stream)
            }
            Err((error, stream)) => Err((error, Some(stream))),
        }
    }
}

/// Closes a connection after a failed handshake. Discards the input, because unread bytes would
/// reset the connection before the client receives the alert.
async fn discard(mut stream: TcpStream) {
    let (mut buffer, mut discarded) = ([0; 1024], 0);
    let discard = async {
        let _ = stream.shutdown().await;
        while discarded < DISCARD_BYTES_MAX {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(len) => discarded += len,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard).await;
}

fn load(files: &TlsFiles) -> Result<ServerConfig, String> {
    let chain = certificates("--tls-cert", &files.cert)?;
    let (cert, key) = (files.cert.display(), files.key.display());
    let private = PrivateKeyDer::from_pem_slice(&read("--tls-key", &files.key)?);
    let private =
        private.map_err(|e| format!("--tls-key {key}: no unencrypted private key: {e}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let invalid =
                |e: &dyn std::fmt::Display| format!("--tls-client-ca {}: {e}", path.display());
            let mut roots = RootCertStore::empty();
            for cert in certificates("--tls-client-ca", path)? {
                roots.add(cert).map_err(|e| invalid(&e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|e| invalid(&e))?)
        }
    };
    let config = builder.with_single_cert(chain, private);
    let mut config =
        config.map_err(|e| format!("--tls-cert {cert} and --tls-key {key} do not match: {e}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads the certificates in a PEM file, which must contain at least one.
fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let invalid = |e: &dyn std::fmt::Display| format!("{flag} {}: {e}", path.display());
    let certs = CertificateDer::pem_slice_iter(&read(flag, path)?).collect::<Result<Vec<_>, _>>();
    match certs {
        Ok(certs) if certs.is_empty() => Err(invalid(&"no certificate in PEM format")),
        certs => certs.map_err(|e| invalid(&e)),
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    let read = small_file::read(path, FILE_BYTES_MAX);
    read.map_err(|e| format!("{flag} {}: {e}", path.display()))
}
