//! The `address` file of a data directory: its server's URL, for commands on the same machine.

use crate::engine::embedded;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const NAME: &str = "address";

/// The address file of a running server; removed on drop.
pub struct AddressFile(PathBuf);

impl AddressFile {
    /// Writes the URL of a server into its data directory. A failure is logged and ignored, as the
    /// server works without the file.
    pub fn write(dir: &Path, address: SocketAddr) -> Option<AddressFile> {
        let path = dir.join(NAME);
        let ip = address.ip();
        // A server that listens on all addresses is reachable on the loopback address.
        let host = if ip.is_unspecified() { "127.0.0.1".into() } else { ip.to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        match fs::write(&path, format!("http://{host}:{}\n", address.port())) {
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

/// Returns the URL of the server that has a data directory open; `None` if no server does.
///
/// # Errors
/// If a server has the directory open but published no address.
pub fn server_address(dir: &Path) -> Result<Option<String>, String> {
    if !embedded::is_locked(dir) {
        return Ok(None);
    }
    let url = fs::read_to_string(dir.join(NAME)).map(|text| text.trim().to_owned());
    url.map(Some).map_err(|_| {
        format!(
            "{} is locked by a server that published no address; specify it with --endpoint",
            dir.display()
        )
    })
}
