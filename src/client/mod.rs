//! A typed client for the KV Store API of Steadfast and of the hosted service.
//!
//! Memory use and waiting times are bounded, redirects are never followed, and the token is sent
//! only to the configured endpoint.

mod body;
mod error;
mod extensions;
mod identity;
mod items;
mod request;
mod request_url;
mod retry;
mod stores;
mod tls;
mod tokens;

pub use body::RequestBody;
pub use error::{Error, ErrorKind};
pub use extensions::SnapshotStream;
pub use items::{ItemHeaders, PutMode, PutOptions, ValueStream};
pub use retry::Retry;
pub use tls::TlsFiles;

use crate::wire::{Endpoint, ServerSecret, Token};
use identity::Identity;
use reqwest::header::HeaderValue;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout for a connection without progress in either direction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client for one server with one token. Clones are cheap and share a connection pool.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: HeaderValue,
    identity: Option<Arc<Identity>>,
    retry: Retry,
}

impl Client {
    /// Creates a client without connecting.
    ///
    /// # Errors
    /// If TLS cannot be set up, for example because a certificate is unreadable.
    pub fn new(endpoint: Endpoint, token: &Token, tls: &TlsFiles) -> Result<Client, Error> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")));
        if endpoint.is_loopback() {
            builder = builder.no_proxy();
        }
        let built = tls::configure(builder, &endpoint, tls)?.build();
        let http = built
            .map_err(|e| Error::Local(format!("cannot set up TLS: {}", request::root_cause(&e))))?;
        let mut token = HeaderValue::from_str(token.expose())
            .map_err(|_| Error::Usage("the token is not a valid header value".into()))?;
        token.set_sensitive(true);
        Ok(Client { http, endpoint, token, identity: None, retry: Retry::default() })
    }

    /// Requires the server to prove that it runs on `data` before a token is sent to it.
    #[must_use]
    pub fn with_identity(mut self, secret: ServerSecret, data: &Path) -> Client {
        self.identity = Some(Arc::new(Identity::new(secret, data.display().to_string())));
        self
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
