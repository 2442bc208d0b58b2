//! A request's head, as it was sent.

use super::{FIELDS_BYTES_MAX, FIELDS_MAX, RequestError, TARGET_BYTES_MAX};
use memchr::memchr_iter;
use std::mem::MaybeUninit;
use std::ops::Range;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length.
    Length(u64),
    /// By its chunks.
    Chunked,
}

/// A request's method, target and header fields.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    method: Range<usize>,
    target: Range<usize>,
    fields: Vec<(Range<usize>, Range<usize>)>,
    pub(super) framing: Framing,
    /// The client waits for a word before it sends the body.
    pub(super) expects_continue: bool,
    /// The client wants no further request on this connection.
    pub(super) close: bool,
    /// The client speaks HTTP/1.0.
    pub(super) old: bool,
}

impl RequestHead {
    /// Looks for a head at the start of `input`: its length when it is all there. `searched` bytes
    /// of it were looked through before.
    pub(super) fn find(input: &[u8], searched: usize) -> Result<Option<usize>, RequestError> {
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

    /// Reads a whole head.
    pub(super) fn parse(bytes: &[u8]) -> Result<RequestHead, RequestError> {
        // A reader before this one may not take a bare LF for the end of a line, and so see one
        // field where there would be two here.
        let bare = |at: usize| !bytes.get(..at).is_some_and(|before| before.ends_with(b"\r"));
        if memchr_iter(b'\n', bytes).any(bare) {
            return Err(malformed("a line does not end in CR LF"));
        }
        let mut headers = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(bytes, &mut headers);
        match parsed {
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
            old: request.version == Some(0),
        };
        head.interpret()?;
        Ok(head)
    }

    /// Reads the fields that concern the connection. A body whose end two readers could see in two
    /// places is refused (RFC 9112, 6.1 and 6.3).
    fn interpret(&mut self) -> Result<(), RequestError> {
        let old = self.old;
        let (mut length, mut chunked) = (None, false);
        let (mut close, mut expects) = (self.close, false);
        for (name, value) in self.fields() {
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
                } else if old && options.any(|o| o.eq_ignore_ascii_case(b"keep-alive")) {
                    close = false;
                }
            } else if name.eq_ignore_ascii_case(b"expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::UnknownExpectation);
                }
                expects = !old;
            }
        }
        self.framing = match (length, chunked) {
            (Some(_), true) => return Err(malformed("both Content-Length and Transfer-Encoding")),
            (None, true) if old => return Err(malformed("Transfer-Encoding in HTTP/1.0")),
            (None, true) => Framing::Chunked,
            (length, false) => Framing::Length(length.unwrap_or(0)),
        };
        (self.close, self.expects_continue) = (close, expects);
        Ok(())
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// The method, as it was sent.
    pub fn method(&self) -> &[u8] {
        self.slice(&self.method)
    }

    /// The raw path: the target up to its `?`, without what comes before the path in an absolute
    /// one. Nothing is decoded or normalised.
    pub fn path(&self) -> &[u8] {
        let target = self.slice(&self.target);
        let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        let path = target.get(..end).unwrap_or_default();
        let rest = path.strip_prefix(b"http://").or_else(|| path.strip_prefix(b"https://"));
        match rest {
            Some(rest) => {
                let slash = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
                rest.get(slash..).unwrap_or_default()
            }
            None => path,
        }
    }

    /// The raw query: what stands behind the `?`.
    pub fn query(&self) -> &[u8] {
        let target = self.slice(&self.target);
        let mark = target.iter().position(|byte| *byte == b'?');
        mark.and_then(|mark| target.get(mark + 1..)).unwrap_or_default()
    }

    /// All header fields: names as sent, values without the space around them.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (self.slice(name), self.slice(value)))
    }

    /// The values of a header field.
    pub fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let name = name.as_bytes();
        let named = move |(n, v): (&'h [u8], &'h [u8])| n.eq_ignore_ascii_case(name).then_some(v);
        self.fields().filter_map(named)
    }

    /// The body's size in bytes, where the head says it.
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
    fn a_target_stays_as_it_was_sent() {
        let head = parse("PUT /a%2Fb/../x//y+z;p#f?q=%2B&r=+ HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
        assert_eq!(head.path(), b"/a%2Fb/../x//y+z;p#f");
        assert_eq!(head.query(), b"q=%2B&r=+");
        let head = parse("GET http://h:80/a//b?c HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((head.path(), head.query()), (&b"/a//b"[..], &b"c"[..]));
    }

    #[test]
    fn bodies_with_two_possible_ends_are_refused() {
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
    fn a_head_is_found_wherever_its_reads_were_cut() {
        let text = b"GET / HTTP/1.1\r\nhost: h\r\n\r\nrest";
        for cut in 0..text.len() {
            let first = RequestHead::find(&text[..cut], 0).unwrap();
            let found = first.or_else(|| RequestHead::find(text, cut).unwrap());
            assert_eq!(found, Some(text.len() - 4), "cut at {cut}");
        }
        assert_eq!(RequestHead::find(&[b'a'; 20_000], 0), Err(RequestError::TargetTooLong));
    }
}
