//! A client of the KV Store API, hosted or of Steadfast: typed, bounded, and careful where it sends
//! the token.

mod body;
mod endpoint;
mod error;
mod extensions;
mod items;
mod request;
mod retry;
mod stores;
mod tokens;

pub use body::Body;
pub use error::{Error, Kind};
pub use extensions::{Export, IfExists};
pub use items::{ItemHeaders, Mode, PutOptions, Value};
pub use retry::Retry;

use crate::wire::{Endpoint, Token};
use reqwest::header::HeaderValue;
use std::time::Duration;

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Something must come or go within this time.
const STILL_TIMEOUT: Duration = Duration::from_secs(60);

/// Speaks to one server with one token. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: HeaderValue,
    retry: Retry,
}

impl Client {
    /// For a server; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Local`] when the system's certificates cannot be read.
    pub fn new(endpoint: Endpoint, token: &Token) -> Result<Client, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Local(format!("cannot prepare TLS: {e}"));
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")));
        if endpoint.is_loopback() {
            // What is on this machine is no proxy's business.
            builder = builder.no_proxy();
        }
        if endpoint.is_tls() {
            // If there is one already it serves as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        } else {
            // Trusts nobody: without TLS no certificate is ever looked at.
            let ring = rustls::crypto::ring::default_provider();
            let tls = rustls::ClientConfig::builder_with_provider(ring.into())
                .with_safe_default_protocol_versions()
                .map_err(|e| failed(&e))?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(tls);
        }
        let http = builder.build().map_err(|e| failed(&request::cause(&e)))?;
        let mut token = HeaderValue::from_str(token.expose())
            .map_err(|_| Error::Usage("the token cannot be sent".into()))?;
        token.set_sensitive(true);
        Ok(Client { http, endpoint, token, retry: Retry::default() })
    }

    /// With another policy for requests that may be repeated.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Client {
        self.retry = retry;
        self
    }

    /// Where it sends its requests.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How it repeats requests.
    pub fn retry(&self) -> Retry {
        self.retry
    }
}
