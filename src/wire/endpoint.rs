//! The address of a server.

use std::fmt;
use std::net::IpAddr;
use url::Url;

/// The port that `steadfast serve` listens on by default.
pub const DEFAULT_PORT: u16 = 7678;

/// The base URL of a server: scheme, host and port, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    base: String,
    loopback: bool,
    tls: bool,
}

impl Endpoint {
    /// Returns the URL of a local server on the default port.
    pub fn default_url() -> String {
        format!("http://127.0.0.1:{DEFAULT_PORT}")
    }

    /// Parses a base URL.
    ///
    /// # Errors
    /// Returns the reason the URL is invalid. Omits the URL, which may contain a password.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        let invalid = |reason: &str| Err(format!("the endpoint {reason}"));
        let Ok(url) = Url::parse(text.trim()) else {
            return invalid(&format!("must be a URL such as {}", Endpoint::default_url()));
        };
        if !matches!(url.scheme(), "http" | "https") {
            return invalid("must start with http:// or https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not contain a user name or password: pass the token separately");
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return invalid("must consist of a host and a port, without a path or query");
        }
        let Some(host) = url.host_str() else { return invalid("has no host") };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host == "localhost"
            || host.ends_with(".localhost")
            || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let tls = url.scheme() == "https";
        Ok(Endpoint { base: url.as_str().trim_end_matches('/').to_owned(), loopback, tls })
    }

    /// Returns the URL without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.base
    }

    /// Returns whether the host is `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Returns whether the scheme is https.
    pub fn is_tls(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn an_endpoint_consists_of_scheme_host_and_port() {
        let local = Endpoint::parse("http://127.0.0.1:7678/").unwrap();
        assert_eq!((local.as_str(), local.is_loopback()), ("http://127.0.0.1:7678", true));
        for loopback in ["http://localhost:1", "http://[::1]:7", "https://127.9.9.9"] {
            assert!(Endpoint::parse(loopback).unwrap().is_loopback(), "{loopback}");
        }
        let remote = Endpoint::parse("https://kv.example.com").unwrap();
        assert!(!remote.is_loopback() && remote.is_tls());
        assert!(!Endpoint::parse("http://localhost.example.com").unwrap().is_loopback());
        for bad in [
            "",
            "127.0.0.1:7678",
            "ftp://h",
            "http://u:secret@h",
            "http://h/path",
            "http://h/?q",
            "http://h/#f",
            "unix:/run/x",
        ] {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
