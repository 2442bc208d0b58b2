//! Request heads: parsing, framing, and access to the raw target and headers.

use super::{FIELDS_BYTES_MAX, FIELDS_MAX, RequestError, TARGET_BYTES_MAX};
use memchr::memchr_iter;
use std::mem::MaybeUninit;
use std::ops::Range;

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How the end of a body is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By `Content-Length`, in bytes; 0 if the header is absent.
    Length(u64),
    /// By chunked transfer coding.
    Chunked,
}

/// The method, target and headers of a request, as sent.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    method: Range<usize>,
    target: Range<usize>,
    fields: Vec<(Range<usize>, Range<usize>)>,
    pub(super) framing: Framing,
    /// Whether the client waits for `100 Continue`.
    pub(super) expects_continue: bool,
    /// Whether the connection closes after this request.
    pub(super) close: bool,
    pub(super) http_10: bool,
}

impl RequestHead {
    /// Finds the end of the head at the start of `input`, or returns `None` if more input is
    /// needed. An earlier search has covered the first `searched` bytes.
    ///
    /// # Errors
    /// Fails if the head exceeds a limit, contains a bare LF or begins with a byte that is not
    /// allowed in a method.
    pub(super) fn find_end(input: &[u8], searched: usize) -> Result<Option<usize>, RequestError> {
        match input.first() {
            Some(&TLS_HANDSHAKE) => return Err(RequestError::Tls),
            // The start of an empty line, which is skipped once it is complete.
            Some(b'\r') if input.len() == 1 => {}
            Some(byte) if !is_token(*byte) => return Err(malformed("invalid method")),
            _ => {}
        }
        for at in memchr_iter(b'\n', input.get(searched..).unwrap_or_default()) {
            let line = input.get(..searched + at).unwrap_or_default();
            // Reject a bare LF. Implementations differ in whether it ends a line, so a proxy and
            // this server could see different headers.
            let Some(line) = line.strip_suffix(b"\r") else {
                return Err(malformed("a line does not end in CR LF"));
            };
            if line.ends_with(b"\r\n") {
                return Ok(Some(searched + at + 1));
            }
        }
        let line = input.get(..TARGET_BYTES_MAX + 64).unwrap_or(input).contains(&b'\n');
        if !line && input.len() > TARGET_BYTES_MAX + 64 {
            return Err(RequestError::TargetTooLong);
        }
        if input.len() > TARGET_BYTES_MAX + FIELDS_BYTES_MAX {
            return Err(RequestError::FieldsTooLarge);
        }
        Ok(None)
    }

    /// Parses a complete head, found by [`RequestHead::find_end`].
    ///
    /// # Errors
    /// Fails if the head is malformed, exceeds a limit, or has ambiguous or unsupported framing.
    pub(super) fn parse(bytes: &[u8]) -> Result<RequestHead, RequestError> {
        let mut headers = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
            Ok(_) => return Err(malformed("a line does not end in CR LF")),
            Err(httparse::Error::TooManyHeaders) => return Err(RequestError::FieldsTooLarge),
            Err(httparse::Error::Version) => return Err(RequestError::UnknownVersion),
            Err(e) => return Err(RequestError::Malformed(e.to_string())),
        }
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(malformed("the request line is missing"));
        };
        if target.len() > TARGET_BYTES_MAX {
            return Err(RequestError::TargetTooLong);
        }
        if bytes.len() - target.len() > FIELDS_BYTES_MAX {
            return Err(RequestError::FieldsTooLarge);
        }
        let range = |part: &[u8]| {
            let start = part.as_ptr().addr() - bytes.as_ptr().addr();
            start..start + part.len()
        };
        let fields = request.headers.iter().map(|h| (range(h.name.as_bytes()), range(h.value)));
        let mut head = RequestHead {
            method: range(method.as_bytes()),
            target: range(target.as_bytes()),
            fields: fields.collect(),
            bytes: bytes.to_vec(),
            framing: Framing::Length(0),
            expects_continue: false,
            close: request.version == Some(0),
            http_10: request.version == Some(0),
        };
        head.interpret_fields()?;
        Ok(head)
    }

    /// Interprets the headers for framing, the connection and the host. Ambiguous framing is an
    /// error (RFC 9112 sections 6.1 and 6.3). A repeated or invalid `Host` is also an error, as is
    /// a missing `Host` in HTTP/1.1 (section 3.2).
    fn interpret_fields(&mut self) -> Result<(), RequestError> {
        let http_10 = self.http_10;
        let (mut length, mut chunked) = (None, false);
        let (mut close, mut expects_continue, mut has_host) = (self.close, false, false);
        for (name, value) in self.headers() {
            if name.eq_ignore_ascii_case(b"host") {
                if std::mem::replace(&mut has_host, true) {
                    return Err(malformed("more than one Host header"));
                }
                if !is_host(value) {
                    return Err(malformed("Host must be a host name or address"));
                }
            } else if name.eq_ignore_ascii_case(b"content-length") {
                if length.is_some() {
                    return Err(malformed("more than one Content-Length header"));
                }
                length = Some(parse_length(value)?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(RequestError::UnknownCoding);
                }
                chunked = true;
            } else if name.eq_ignore_ascii_case(b"connection") {
                let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                if options.clone().any(|option| option.eq_ignore_ascii_case(b"close")) {
                    close = true;
                } else if http_10 && options.any(|o| o.eq_ignore_ascii_case(b"keep-alive")) {
                    close = false;
                }
            } else if name.eq_ignore_ascii_case(b"expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::UnknownExpectation);
                }
                expects_continue = !http_10;
            }
        }
        if !has_host && !http_10 {
            return Err(malformed("Host is required in HTTP/1.1"));
        }
        self.framing = match (length, chunked) {
            (Some(_), true) => return Err(malformed("both Content-Length and Transfer-Encoding")),
            (None, true) if http_10 => return Err(malformed("HTTP/1.0 has no Transfer-Encoding")),
            (None, true) => Framing::Chunked,
            (length, false) => Framing::Length(length.unwrap_or(0)),
        };
        (self.close, self.expects_continue) = (close, expects_continue);
        Ok(())
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// Returns the method as sent.
    pub fn method(&self) -> &[u8] {
        self.slice(&self.method)
    }

    /// Returns the raw path: the target up to `?`, without the scheme and authority of an absolute
    /// target. Nothing is decoded or normalized.
    pub fn path(&self) -> &[u8] {
        let target = self.slice(&self.target);
        let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        let path = target.get(..end).unwrap_or_default();
        let rest = path.strip_prefix(b"http://").or_else(|| path.strip_prefix(b"https://"));
        let Some(rest) = rest else { return path };
        let slash = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        rest.get(slash..).unwrap_or_default()
    }

    /// Returns the raw query: the part of the target after `?`.
    pub fn query(&self) -> &[u8] {
        let target = self.slice(&self.target);
        let start = target.iter().position(|byte| *byte == b'?');
        start.and_then(|start| target.get(start + 1..)).unwrap_or_default()
    }

    /// Returns all headers: names as sent, values without surrounding whitespace.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (self.slice(name), self.slice(value)))
    }

    /// Returns the values of a header, one per occurrence.
    pub fn header_values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let name = name.as_bytes();
        let named = move |(n, v): (&'h [u8], &'h [u8])| n.eq_ignore_ascii_case(name).then_some(v);
        self.headers().filter_map(named)
    }

    /// Returns the declared size of the body in bytes, or `None` for a chunked body.
    pub fn content_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }
}

fn malformed(what: &str) -> RequestError {
    RequestError::Malformed(what.into())
}

/// Returns whether a byte may be part of a method (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether `value` is a host with an optional port, or empty (RFC 9112 section 3.2).
fn is_host(value: &[u8]) -> bool {
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    let address = |byte: &u8| name(byte) || *byte == b':';
    let (valid, port) = match value.strip_prefix(b"[") {
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            let (host, port) = value.split_at(end);
            (host.iter().all(name), port)
        }
        Some(rest) => {
            let end = rest.iter().position(|byte| *byte == b']').unwrap_or(rest.len());
            let (host, port) = rest.split_at(end);
            let port = port.strip_prefix(b"]").unwrap_or(b"[");
            (!host.is_empty() && host.iter().all(address), port)
        }
    };
    let port = port.is_empty()
        || port.strip_prefix(b":").is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
    valid && port
}

fn parse_length(value: &[u8]) -> Result<u64, RequestError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).unwrap_or_default();
    let length = text.parse().ok().filter(|_| digits);
    length.ok_or_else(|| malformed("Content-Length must be a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds a `Host` header to a head and parses it.
    fn parse(text: &str) -> Result<RequestHead, RequestError> {
        let text = text.replacen("\r\n", "\r\nhost: h\r\n", 1);
        parse_raw(&text)
    }

    fn parse_raw(text: &str) -> Result<RequestHead, RequestError> {
        let end = RequestHead::find_end(text.as_bytes(), 0)?;
        assert_eq!(end, Some(text.len()), "{text:?}");
        RequestHead::parse(text.as_bytes())
    }

    #[test]
    fn targets_are_not_decoded_or_normalized() {
        let head = parse("PUT /a%2Fb/../x//y+z;p#f?q=%2B&r=+ HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(head.path(), b"/a%2Fb/../x//y+z;p#f");
        assert_eq!(head.query(), b"q=%2B&r=+");
        let head = parse("GET http://h:80/a//b?c HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((head.path(), head.query()), (&b"/a//b"[..], &b"c"[..]));
    }

    #[test]
    fn ambiguous_framing_is_rejected() {
        for fields in [
            "content-length: 3\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 3",
            "content-length: 3\r\ncontent-length: 4",
            "content-length: 3, 3",
            "content-length: +3",
            "content-length: 99999999999999999999",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        ] {
            assert!(parse(&format!("PUT / HTTP/1.1\r\n{fields}\r\n\r\n")).is_err(), "{fields}");
        }
        assert!(parse("PUT / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse_raw("GET / HTTP/1.1\nhost: h\n\r\n\r\n").is_err(), "bare LF");
        assert!(parse_raw("GET / HTTP/1.1\r\nhost: h\nx: y\r\n\r\n").is_err(), "bare LF");
    }

    #[test]
    fn host_must_be_valid_and_unique_and_is_required_in_http_1_1() {
        let parse = |version: &str, hosts: &[&str]| {
            let fields: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
            parse_raw(&format!("GET / HTTP/{version}\r\n{fields}\r\n")).is_ok()
        };
        for host in [
            "",
            "h",
            "h:",
            "h:80",
            "my_host.example",
            "127.0.0.1:7070",
            "[::1]",
            "[::1]:80",
            "[fe80::1%25eth0]:80",
            "xn--bcher-kva.example",
            "a%20b",
        ] {
            assert!(parse("1.1", &[host]) && parse("1.0", &[host]), "{host:?}");
        }
        for host in [
            "h h", "h/", "user@h", "h:80:80", "h:x", "::1", "[::1", "[::1]x", "[]", "h\u{e9}",
            "h?", "http://h", "[g@]", "h, h",
        ] {
            assert!(!parse("1.1", &[host]) && !parse("1.0", &[host]), "{host:?}");
        }
        assert!(!parse("1.1", &[]) && parse("1.0", &[]));
        for version in ["1.0", "1.1"] {
            assert!(!parse(version, &["h", "h"]) && !parse(version, &["", "h"]));
        }
    }

    #[test]
    fn a_head_that_cannot_become_valid_is_rejected_at_once() {
        let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00];
        assert_eq!(RequestHead::find_end(&hello, 0), Err(RequestError::Tls));
        for start in [&b"\n"[..], b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\na: b\n", b" GET", b"\0"]
        {
            assert!(RequestHead::find_end(start, 0).is_err(), "{start:?}");
        }
        let text = b"GET / HTTP/1.1\r\nhost: h\n";
        for cut in 1..text.len() {
            assert_eq!(RequestHead::find_end(&text[..cut], 0), Ok(None), "cut at {cut}");
            assert!(RequestHead::find_end(text, cut).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_at_any_split_between_reads() {
        let text = b"GET / HTTP/1.1\r\nhost: h\r\n\r\nrest";
        for cut in 0..text.len() {
            let first = RequestHead::find_end(&text[..cut], 0).unwrap();
            let found = first.or_else(|| RequestHead::find_end(text, cut).unwrap());
            assert_eq!(found, Some(text.len() - 4), "cut at {cut}");
        }
        assert_eq!(RequestHead::find_end(&[b'a'; 20_000], 0), Err(RequestError::TargetTooLong));
    }
}
