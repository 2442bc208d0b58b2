//! Percent-decoding, once, and query parameters (contract.md, section 1).

use super::error::Error;

/// Decodes a path segment: `%XX` once, `+` stays a plus.
pub(crate) fn decode_segment(raw: &[u8]) -> Option<Vec<u8>> {
    decode(raw, false)
}

fn decode(raw: &[u8], form: bool) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
                decoded.push(u8::try_from(high? * 16 + low?).ok()?);
                rest = after;
            }
            b'+' if form => decoded.push(b' '),
            byte => decoded.push(*byte),
        }
    }
    Some(decoded)
}

/// A request's parameters; those that nobody asks for are ignored.
pub(crate) struct Query(Vec<(String, Option<String>)>);

impl Query {
    /// Decodes a query, in which `+` is a space.
    pub(crate) fn parse(raw: &[u8]) -> Result<Query, Error> {
        let text = |part: &[u8]| {
            let decoded = decode(part, true).and_then(|bytes| String::from_utf8(bytes).ok());
            decoded.ok_or_else(|| Error::Invalid("the query must be percent-encoded UTF-8".into()))
        };
        let mut params = Vec::new();
        for pair in raw.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            match pair.iter().position(|byte| *byte == b'=') {
                None => params.push((text(pair)?, None)),
                Some(at) => {
                    let (name, value) = pair.split_at(at);
                    let value = value.get(1..).unwrap_or_default();
                    params.push((text(name)?, Some(text(value)?)));
                }
            }
        }
        Ok(Query(params))
    }

    /// A parameter that may be given once.
    fn one(&self, name: &str) -> Result<Option<Option<&str>>, Error> {
        let mut found = self.0.iter().filter(|(n, _)| n == name);
        let first = found.next().map(|(_, value)| value.as_deref());
        match found.next() {
            Some(_) => Err(Error::Invalid(format!("{name} must be given only once"))),
            None => Ok(first),
        }
    }

    /// A text; an empty one counts as none.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        Ok(self.one(name)?.flatten().filter(|value| !value.is_empty()))
    }

    /// One of some words; an empty one is none of them.
    pub(crate) fn word(&self, name: &str) -> Result<Option<&str>, Error> {
        Ok(self.one(name)?.map(Option::unwrap_or_default))
    }

    /// A truth, in any letter case; false when it is not given.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.one(name)? {
            None => Ok(false),
            Some(Some(value)) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(Some(value)) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(Error::Invalid(format!("{name} must be true or false"))),
        }
    }

    /// A page's size: at least 1; more than `max`, which is also the default, counts as `max`.
    pub(crate) fn limit(&self, max: usize) -> Result<usize, Error> {
        let invalid = || Error::Invalid(format!("limit must be a whole number from 1 to {max}"));
        let Some(given) = self.one("limit")? else { return Ok(max) };
        let digits = given.unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        // What does not fit is above the bound.
        match digits.parse::<usize>().unwrap_or(max).min(max) {
            0 => Err(invalid()),
            limit => Ok(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_once_and_a_plus_stays() {
        assert_eq!(decode_segment(b"a%252Fb+c%20%C3%A9").unwrap(), "a%2Fb+c é".as_bytes());
        for bad in [&b"%"[..], b"%2", b"%zz", b"a%+1", b"%2g"] {
            assert_eq!(decode_segment(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn parameters_are_read_as_clients_send_them() {
        let query = Query::parse(b"prefix=a+b%2B&add=True&append=false&cursor=&_=1&x").unwrap();
        assert_eq!(query.text("prefix").unwrap(), Some("a b+"));
        assert_eq!((query.flag("add").unwrap(), query.flag("append").unwrap()), (true, false));
        assert_eq!(query.text("cursor").unwrap(), None);
        assert_eq!((query.word("cursor").unwrap(), query.word("x").unwrap()), (Some(""), Some("")));
        assert_eq!(query.word("none").unwrap(), None);
        assert!(query.flag("x").is_err() && query.flag("_").is_err());
        assert!(Query::parse(b"a=1&a=2").unwrap().text("a").is_err());
        let limit = |raw: &str| Query::parse(raw.as_bytes()).unwrap().limit(1000);
        assert_eq!(limit("").unwrap(), 1000);
        assert_eq!(limit("limit=99999999999999999999999").unwrap(), 1000);
        for bad in ["limit", "limit=", "limit=0", "limit=-1", "limit=1.5", "limit=ten"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
