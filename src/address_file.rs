//! The `address` file in a data directory. From it, commands on the same machine read the URL of
//! the server and the secret with which the server proves its identity.

use crate::atomic_file::AtomicFile;
use crate::engine::embedded;
use crate::small_file;
use crate::wire::ServerSecret;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const NAME: &str = "address";
/// Maximum size of the file in bytes.
const BYTES_MAX: u64 = 4096;

/// The address file of a running server; removed on drop.
pub struct AddressFile(PathBuf);

/// A server that has a data directory open.
#[derive(Clone, Debug)]
pub struct RunningServer {
    /// The data directory.
    pub data: PathBuf,
    /// The URL of the server.
    pub url: String,
    /// The secret with which the server proves its identity.
    pub secret: ServerSecret,
}

impl AddressFile {
    /// Writes a server's URL and secret to a file in the data directory that only its owner can
    /// read. Logs a warning and returns `None` on failure, because the server works without the
    /// file.
    pub fn write(
        dir: &Path,
        address: SocketAddr,
        tls: bool,
        secret: &ServerSecret,
    ) -> Option<AddressFile> {
        let path = dir.join(NAME);
        let ip = address.ip();
        // A server that listens on all addresses is reachable on the loopback address.
        let host = if ip.is_unspecified() { "127.0.0.1".into() } else { ip.to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let scheme = if tls { "https" } else { "http" };
        let write = || {
            let mut file = AtomicFile::create_secret(&path)?;
            writeln!(file, "{scheme}://{host}:{}\n{}", address.port(), secret.expose())?;
            file.persist()
        };
        match write() {
            Ok(()) => Some(AddressFile(path)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "could not write the address file");
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

/// Returns the server that has a data directory open, or `None` if no server does. A file left by a
/// killed server is ignored.
///
/// # Errors
/// If a process has the directory open but has not published its address.
pub fn running_server(dir: &Path) -> Result<Option<RunningServer>, String> {
    if !embedded::is_locked(dir) {
        return Ok(None);
    }
    let text = small_file::read_text(&dir.join(NAME), BYTES_MAX).unwrap_or_default();
    let mut lines = text.lines();
    let (url, secret) = (lines.next(), lines.next().and_then(ServerSecret::parse));
    let (Some(url), Some(secret)) = (url, secret) else {
        return Err(format!(
            "{} is locked by a server that published no address; pass its URL with --endpoint",
            dir.display()
        ));
    };
    Ok(Some(RunningServer { data: dir.to_owned(), url: url.to_owned(), secret }))
}
