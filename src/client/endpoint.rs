//! URLs of requests.

use super::error::Error;
use crate::wire::Endpoint;
use reqwest::Url;

/// The URL of a path, whose segments are encoded, each for itself, with a query.
pub(super) fn url(
    endpoint: &Endpoint,
    segments: &[&str],
    query: &[(&str, &str)],
) -> Result<Url, Error> {
    let mut text = endpoint.as_str().to_owned();
    for segment in segments {
        // Whoever parses URLs takes these away, however they are encoded.
        if matches!(*segment, "" | "." | "..") {
            return Err(Error::Usage(format!("{segment:?} cannot be a key or an id")));
        }
        text.push('/');
        encode(segment, &mut text);
    }
    for (nth, (name, value)) in query.iter().enumerate() {
        text.push(if nth == 0 { '?' } else { '&' });
        encode(name, &mut text);
        text.push('=');
        encode(value, &mut text);
    }
    Url::parse(&text).map_err(|e| Error::Usage(format!("cannot make a URL: {e}")))
}

/// Every byte but the unreserved ones of RFC 3986 is encoded.
fn encode(text: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push('%');
            for digit in [byte >> 4, byte & 15] {
                into.push(char::from(HEX.get(usize::from(digit)).copied().unwrap_or(b'0')));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_segment_that_nothing_tidies_up() {
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
