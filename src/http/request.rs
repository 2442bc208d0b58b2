//! Request heads: parsing, framing, and access to the raw target and headers.

use super::{FIELDS_BYTES_MAX, FIELDS_MAX, RequestError, TARGET_BYTES_MAX};
use memchr::memchr_iter;
use std::mem::MaybeUninit;
use std::ops::Range;

/// How the end of a body is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By `Content-Length`; 0 without the header.
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
    /// Finds the end of the head at the start of `input`; `None` if more input is needed. Resumes
    /// a search of the first `searched` bytes.
    ///
    /// # Errors
    /// If the head exceeds a limit.
    pub(super) fn find_end(input: &[u8], searched: usize) -> Result<Option<usize>, RequestError> {
        let from = searched.saturating_sub(3);
        let rest = input.get(from..).unwrap_or_default();
        let ends = |at: &usize| rest.get(..=*at).is_some_and(|head| head.ends_with(b"\r\n\r\n"));
        if let Some(at) = memchr_iter(b'\n', rest).find(ends) {
            return Ok(Some(from + at + 1));
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

    /// Parses a complete head.
    ///
    /// # Errors
    /// If it is malformed, exceeds a limit, or has ambiguous or unsupported framing.
    pub(super) fn parse(bytes: &[u8]) -> Result<RequestHead, RequestError> {
        // A proxy that does not end lines at a bare LF would see one header where this server
        // would see two.
        let bare = |at: usize| !bytes.get(..at).is_some_and(|before| before.ends_with(b"\r"));
        if memchr_iter(b'\n', bytes).any(bare) {
            return Err(malformed("a line does not end in CR LF"));
        }
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
            return Err(malformed("no request line"));
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

    /// Interprets the headers about framing and the connection. Ambiguous framing is an error (RFC
    /// 9112 sections 6.1 and 6.3).
    fn interpret_fields(&mut self) -> Result<(), RequestError> {
        let http_10 = self.http_10;
        let (mut length, mut chunked) = (None, false);
        let (mut close, mut expects_continue) = (self.close, false);
        for (name, value) in self.headers() {
            if name.eq_ignore_ascii_case(b"content-length") {
                if length.is_some() {
                    return Err(malformed("more than one Content-Length"));
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
        self.framing = match (length, chunked) {
            (Some(_), true) => return Err(malformed("both Content-Length and Transfer-Encoding")),
            (None, true) if http_10 => return Err(malformed("Transfer-Encoding in HTTP/1.0")),
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

    /// Returns the raw query, after the `?`.
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

    /// Returns the declared size of the body in bytes; `None` for a chunked body.
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

fn parse_length(value: &[u8]) -> Result<u64, RequestError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).unwrap_or_default();
    let length = text.parse().ok().filter(|_| digits);
    length.ok_or_else(|| malformed("Content-Length must be a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RequestHead, RequestError> {
        RequestHead::parse(text.as_bytes())
    }

    #[test]
    fn targets_are_not_decoded_or_normalised() {
        let head = parse("PUT /a%2Fb/../x//y+z;p#f?q=%2B&r=+ HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
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
        assert!(parse("GET / HTTP/1.1\nhost: h\n\r\n\r\n").is_err(), "bare LF");
        assert!(parse("GET / HTTP/1.1\r\nhost: h\nx: y\r\n\r\n").is_err(), "bare LF");
    }

    #[test]
    fn a_head_is_found_across_any_split_of_its_reads() {
        let text = b"GET / HTTP/1.1\r\nhost: h\r\n\r\nrest";
        for cut in 0..text.len() {
            let first = RequestHead::find_end(&text[..cut], 0).unwrap();
            let found = first.or_else(|| RequestHead::find_end(text, cut).unwrap());
            assert_eq!(found, Some(text.len() - 4), "cut at {cut}");
        }
        assert_eq!(RequestHead::find_end(&[b'a'; 20_000], 0), Err(RequestError::TargetTooLong));
    }
}
