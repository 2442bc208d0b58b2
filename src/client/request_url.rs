//! Builds request URLs.

use super::error::Error;
use crate::wire::Endpoint;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use reqwest::Url;

/// All bytes except the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Builds a URL from path segments and query parameters, which are percent-encoded.
pub(super) fn url(
    endpoint: &Endpoint,
    segments: &[&str],
    query: &[(&str, &str)],
) -> Result<Url, Error> {
    let mut text = endpoint.as_str().to_owned();
    for segment in segments {
        // A key or id cannot be empty, and URL parsers remove `.` and `..` even if encoded.
        if matches!(*segment, "" | "." | "..") {
            return Err(Error::Usage(format!("{segment:?} is not a valid key or id")));
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

fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_encoded_as_one_path_segment() {
        let at = Endpoint::parse("http://h:1").unwrap();
        let path = |key: &str| url(&at, &["keys", key], &[]).unwrap().as_str().to_owned();
        assert_eq!(path("a/b"), "http://h:1/keys/a%2Fb");
        assert_eq!(path("a+b c%2F"), "http://h:1/keys/a%2Bb%20c%252F");
        assert_eq!(path("ü"), "http://h:1/keys/%C3%BC");
        assert_eq!(path("..x"), "http://h:1/keys/..x");
        assert_eq!(path("x//..//y"), "http://h:1/keys/x%2F%2F..%2F%2Fy");
        assert_eq!(path("%2e%2e"), "http://h:1/keys/%252e%252e");
        assert_eq!(path("a\tb\n"), "http://h:1/keys/a%09b%0A");
        for bad in ["", ".", ".."] {
            assert!(url(&at, &["keys", bad], &[]).is_err(), "{bad}");
        }
        let with_query = url(&at, &["keys"], &[("cursor", "a+/="), ("prefix", "x y&z")]).unwrap();
        assert_eq!(with_query.as_str(), "http://h:1/keys?cursor=a%2B%2F%3D&prefix=x%20y%26z");
    }
}
