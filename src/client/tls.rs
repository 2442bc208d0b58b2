//! TLS settings of a client.

use super::{Error, request};
use crate::small_file;
use crate::wire::Endpoint;
use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::{ClientConfig, RootCertStore};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Maximum size of a PEM file in bytes; bundles of system certificates are about 256 KiB in size.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files of a client's TLS settings, in PEM format.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// The CA certificates to trust instead of the system's certificates.
    pub ca: Option<PathBuf>,
    /// The files of the client's certificate and private key, which may be the same file.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Sets up TLS for an endpoint. Without a CA file, the client trusts the system's certificates, or
/// those in the file that `SSL_CERT_FILE` names.
///
/// # Errors
/// If a file is unreadable or invalid.
pub(super) fn configure(
    builder: ClientBuilder,
    endpoint: &Endpoint,
    files: &TlsFiles,
) -> Result<ClientBuilder, Error> {
    let failed = |e: &dyn Display| Error::Local(format!("cannot set up TLS: {e}"));
    let ring = rustls::crypto::ring::default_provider();
    if !endpoint.is_tls() {
        // An empty root store avoids loading the system certificates, which are not needed.
        let tls = ClientConfig::builder_with_provider(ring.into())
            .with_safe_default_protocol_versions()
            .map_err(|e| failed(&e))?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        return Ok(builder.tls_backend_preconfigured(tls));
    }
    // Fails harmlessly if a provider is already installed.
    let _ = ring.install_default();
    let mut builder = builder;
    if let Some(path) = &files.ca {
        let certs = Certificate::from_pem_bundle(&read(path)?);
        let certs = certs.map_err(|e| invalid(path, &request::root_cause(&e)))?;
        if certs.is_empty() {
            return Err(invalid(path, &"no certificate in PEM format"));
        }
        builder = builder.tls_certs_only(certs);
    }
    if let Some((certificate, key)) = &files.certificate {
        let mut pem = read(certificate)?;
        if key != certificate {
            pem.push(b'\n');
            pem.extend(read(key)?);
        }
        let identity = Identity::from_pem(&pem);
        let identity = identity.map_err(|e| invalid(certificate, &request::root_cause(&e)))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    small_file::read(path, FILE_BYTES_MAX).map_err(|e| invalid(path, &e))
}

fn invalid(path: &Path, reason: &dyn Display) -> Error {
    Error::Usage(format!("{}: {reason}", path.display()))
}
