//! A typed client for the KV Store API of Steadfast and of the hosted service.
//!
//! Every response body and every wait is bounded, redirects are never followed, and the token is
//! sent only to the configured endpoint.

mod body;
mod error;
mod extensions;
mod items;
mod request;
mod request_url;
mod retry;
mod stores;
mod tokens;

pub use body::RequestBody;
pub use error::{Error, ErrorKind};
pub use extensions::SnapshotStream;
pub use items::{ItemHeaders, PutMode, PutOptions, ValueStream};
pub use retry::Retry;

use crate::wire::{Endpoint, Token};
use reqwest::header::HeaderValue;
use std::time::Duration;

/// The timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout for a connection without progress in either direction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client for one server with one token. Cheap to clone; clones share a connection pool.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: HeaderValue,
    retry: Retry,
}

impl Client {
    /// Creates a client without connecting.
    ///
    /// # Errors
    /// [`Error::Local`] if TLS cannot be set up, such as when system certificates are unreadable.
    pub fn new(endpoint: Endpoint, token: &Token) -> Result<Client, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Local(format!("cannot set up TLS: {e}"));
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")));
        if endpoint.is_loopback() {
            builder = builder.no_proxy();
        }
        if endpoint.is_tls() {
            // Fails harmlessly if a provider is already installed.
            let _ = rustls::crypto::ring::default_provider().install_default();
        } else {
            // An empty root store avoids loading the system certificates, which are not needed.
            let ring = rustls::crypto::ring::default_provider();
            let tls = rustls::ClientConfig::builder_with_provider(ring.into())
                .with_safe_default_protocol_versions()
                .map_err(|e| failed(&e))?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(tls);
        }
        let http = builder.build().map_err(|e| failed(&request::root_cause(&e)))?;
        let mut token = HeaderValue::from_str(token.expose())
            .map_err(|_| Error::Usage("the token is not a valid header value".into()))?;
        token.set_sensitive(true);
        Ok(Client { http, endpoint, token, retry: Retry::default() })
    }

    /// Replaces the retry policy.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Client {
        self.retry = retry;
        self
    }

    /// Returns the server's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}
