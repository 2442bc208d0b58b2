//! A typed client of the KV Store API, for Steadfast and the hosted service.
//!
//! Bodies and waits are bounded, redirects are never followed, and the token is sent only to the
//! configured endpoint.

mod body;
mod endpoint;
mod error;
mod extensions;
mod items;
mod request;
mod retry;
mod stores;
mod tokens;

pub use body::RequestBody;
pub use error::{Error, ErrorKind};
pub use extensions::ExportStream;
pub use items::{ItemHeaders, PutMode, PutOptions, ValueStream};
pub use retry::Retry;

use crate::wire::{Endpoint, Token};
use reqwest::header::HeaderValue;
use std::time::Duration;

/// The limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit for a connection without progress in either direction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one server with one token. Cheap to clone; clones share a connection pool.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: HeaderValue,
    retry: Retry,
}

impl Client {
    /// Makes a client without connecting.
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
            // An error means that a provider is already installed, which works too.
            let _ = rustls::crypto::ring::default_provider().install_default();
        } else {
            // Without TLS no certificates are needed: an empty root store skips loading them.
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

    /// The server's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The retry policy.
    pub fn retry(&self) -> Retry {
        self.retry
    }
}
