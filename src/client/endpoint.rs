//! A server's address, and the token sent to it.

use super::error::Error;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use reqwest::header::HeaderValue;
use std::fmt;
use std::net::IpAddr;

/// All bytes except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The address of a server: scheme, host and port only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    base: String,
    loopback: bool,
    tls: bool,
}

impl Endpoint {
    /// The default address of `steadfast serve`.
    pub const DEFAULT: &str = "http://127.0.0.1:7678";

    /// Parses an address.
    ///
    /// # Errors
    /// [`Error::Usage`], which never quotes the address, because it may contain a password.
    pub fn parse(text: &str) -> Result<Endpoint, Error> {
        let refuse = |reason: &str| Err(Error::Usage(format!("invalid endpoint: {reason}")));
        let Ok(url) = Url::parse(text.trim()) else {
            return refuse("must be a URL such as http://127.0.0.1:7678");
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("must start with http:// or https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("must not contain a user or password; use --token-file for the token");
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return refuse("must not contain a path, query or fragment");
        }
        let Some(host) = url.host_str() else {
            return refuse("must contain a host");
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host == "localhost"
            || host.ends_with(".localhost")
            || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let tls = url.scheme() == "https";
        Ok(Endpoint { base: url.as_str().trim_end_matches('/').to_owned(), loopback, tls })
    }

    /// The address without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.base
    }

    /// Returns whether the server is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Returns whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Builds a URL from path segments and query parameters, which are percent-encoded.
    pub(super) fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<Url, Error> {
        let mut text = self.base.clone();
        for segment in segments {
            // URL parsers remove these even if they are percent-encoded.
            if matches!(*segment, "" | "." | "..") {
                return Err(Error::Usage(format!("{segment:?} cannot be used as a key or id")));
            }
            text.push('/');
            text.extend(encode(segment));
        }
        for (nth, (name, value)) in query.iter().enumerate() {
            text.push(if nth == 0 { '?' } else { '&' });
            text.extend(encode(name));
            text.push('=');
            text.extend(encode(value));
        }
        Url::parse(&text).map_err(|e| Error::Usage(format!("invalid URL: {e}")))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

fn encode(text: &str) -> percent_encoding::PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

/// What opens a server; shows nothing of itself.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// Takes a token as it stands in a file or in the environment.
    ///
    /// # Errors
    /// [`Error::Usage`], without the token.
    pub fn parse(text: &str) -> Result<Token, Error> {
        let text = text.trim_ascii();
        let fine = !text.is_empty() && text.len() <= 4096;
        if !fine || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Usage(
                "the token must have 1 to 4096 characters, visible ASCII ones only".into(),
            ));
        }
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Error::Usage("the token cannot be sent".into()))?;
        value.set_sensitive(true);
        Ok(Token(value))
    }

    pub(super) fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// The token itself, for a command that hands it on.
    pub fn reveal(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_port_only() {
        let fine = Endpoint::parse("http://127.0.0.1:7678/").unwrap();
        assert_eq!((fine.as_str(), fine.is_loopback()), ("http://127.0.0.1:7678", true));
        for loopback in ["http://localhost:1", "http://[::1]:7", "https://127.9.9.9"] {
            assert!(Endpoint::parse(loopback).unwrap().is_loopback(), "{loopback}");
        }
        let far = Endpoint::parse("https://kv.example.com").unwrap();
        assert!(!far.is_loopback() && far.is_tls());
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
            let refused = Endpoint::parse(bad).unwrap_err();
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
    }

    #[test]
    fn a_key_is_encoded_as_one_path_segment() {
        let at = Endpoint::parse("http://h:1").unwrap();
        let path = |key: &str| at.url(&["keys", key], &[]).unwrap().as_str().to_owned();
        assert_eq!(path("a/b"), "http://h:1/keys/a%2Fb");
        assert_eq!(path("a+b c%2F"), "http://h:1/keys/a%2Bb%20c%252F");
        assert_eq!(path("ü"), "http://h:1/keys/%C3%BC");
        assert_eq!(path("..x"), "http://h:1/keys/..x");
        assert_eq!(path("x//..//y"), "http://h:1/keys/x%2F%2F..%2F%2Fy");
        assert_eq!(path("%2e%2e"), "http://h:1/keys/%252e%252e");
        assert_eq!(path("a\tb\n"), "http://h:1/keys/a%09b%0A");
        for bad in ["", ".", ".."] {
            assert!(at.url(&["keys", bad], &[]).is_err(), "{bad}");
        }
        let url = at.url(&["keys"], &[("cursor", "a+/="), ("prefix", "x y&z")]).unwrap();
        assert_eq!(url.as_str(), "http://h:1/keys?cursor=a%2B%2F%3D&prefix=x%20y%26z");
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::parse("secret-of-sixteen\n").unwrap();
        assert_eq!(format!("{token:?} {:?}", token.header()), "Token(hidden) Sensitive");
        for bad in ["", "with space", "line\nbreak", "ümlaut"] {
            let refused = Token::parse(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || !refused.contains(bad), "{refused}");
        }
    }
}
