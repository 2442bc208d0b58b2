//! Query parameters (docs/contract.md section 1). Unknown parameters are ignored.

use super::error::Error;
use super::percent::decode_form;
use crate::kv::cursor;
use crate::kv::limits::LIST_LIMIT_MAX;
use crate::kv::listing::ListKeys;

/// The decoded parameters of a request, in order. A parameter without `=` has the value `None`.
pub(crate) struct Query(Vec<(String, Option<String>)>);

impl Query {
    /// Decodes a raw query string.
    pub(crate) fn parse(raw: &[u8]) -> Result<Query, Error> {
        let text = |part: &[u8]| {
            let decoded = decode_form(part).and_then(|bytes| String::from_utf8(bytes).ok());
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

    /// Returns a parameter, or an error if the parameter is repeated.
    fn single(&self, name: &str) -> Result<Option<Option<&str>>, Error> {
        let mut values = self.0.iter().filter(|(n, _)| n == name);
        let first = values.next().map(|(_, value)| value.as_deref());
        match values.next() {
            Some(_) => Err(Error::Invalid(format!("{name} must not be repeated"))),
            None => Ok(first),
        }
    }

    /// Returns a text parameter; an empty value counts as absent.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        Ok(self.single(name)?.flatten().filter(|value| !value.is_empty()))
    }

    /// Returns a keyword parameter; an empty value is returned as an empty keyword.
    pub(crate) fn word(&self, name: &str) -> Result<Option<&str>, Error> {
        Ok(self.single(name)?.map(Option::unwrap_or_default))
    }

    /// Returns a boolean parameter, or false if it is absent. `true`, `t`, `1`, `false`, `f` and
    /// `0` are accepted in any letter case (docs/contract.md section 11.10).
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Error> {
        let Some(value) = self.single(name)? else { return Ok(false) };
        let value = value.unwrap_or_default();
        let is = |words: [&str; 3]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
        match (is(["true", "t", "1"]), is(["false", "f", "0"])) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(Error::Invalid(format!("{name} must be true or false"))),
        }
    }

    /// Returns `limit`, clamped to `max`, which is also the default. Zero is an error.
    pub(crate) fn limit(&self, max: usize) -> Result<usize, Error> {
        let invalid = || Error::Invalid(format!("limit must be a whole number from 1 to {max}"));
        let Some(value) = self.single("limit")? else { return Ok(max) };
        let digits = value.unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        // A number that overflows is larger than the maximum.
        match digits.parse::<usize>().unwrap_or(max).min(max) {
            0 => Err(invalid()),
            limit => Ok(limit),
        }
    }

    /// Returns the `limit`, `cursor` and `prefix` of a list of keys.
    pub(crate) fn list_keys(&self) -> Result<ListKeys, Error> {
        let limit = self.limit(LIST_LIMIT_MAX)?;
        let after = self.text("cursor")?.map(cursor::decode).transpose()?;
        let prefix = self.text("prefix")?.unwrap_or_default().into();
        Ok(ListKeys { prefix, after, limit, eventual: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_parsed_in_every_form_that_clients_send() {
        let query = Query::parse(b"prefix=a+b%2B&add=True&append=false&cursor=&_=1&x").unwrap();
        assert_eq!(query.text("prefix").unwrap(), Some("a b+"));
        assert_eq!((query.flag("add").unwrap(), query.flag("append").unwrap()), (true, false));
        assert_eq!(query.text("cursor").unwrap(), None);
        assert_eq!((query.word("cursor").unwrap(), query.word("x").unwrap()), (Some(""), Some("")));
        assert_eq!(query.word("none").unwrap(), None);
        assert!(query.flag("x").is_err() && query.flag("cursor").is_err());
        assert!(Query::parse(b"a=1&a=2").unwrap().text("a").is_err());
        for (words, value) in [
            (["1", "t", "T", "TRUE", "true", "True"], true),
            (["0", "f", "F", "FALSE", "false", "False"], false),
        ] {
            for word in words {
                let query = Query::parse(format!("force={word}").as_bytes()).unwrap();
                assert_eq!(query.flag("force").unwrap(), value, "{word}");
            }
        }
        for word in ["", "yes", "on", "2", "01", "tr", "true "] {
            let query = Query::parse(format!("force={word}").as_bytes()).unwrap();
            assert!(query.flag("force").is_err(), "{word:?}");
        }
        let limit = |raw: &str| Query::parse(raw.as_bytes()).unwrap().limit(1000);
        assert_eq!(limit("").unwrap(), 1000);
        assert_eq!(limit("limit=99999999999999999999999").unwrap(), 1000);
        for bad in ["limit", "limit=", "limit=0", "limit=-1", "limit=1.5", "limit=ten"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
