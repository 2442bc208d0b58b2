//! The one check of a token, before every route but those for health and discovery.

use super::error::Error;
use crate::http::Head;
use crate::wire::FASTLY_KEY;
use std::fmt;
use subtle::ConstantTimeEq;

/// A token that was read or made; shows nothing of itself.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl Token {
    /// Bytes of a token at most.
    pub const BYTES_MAX: usize = 512;

    /// Checks a token: 16 to 512 visible ASCII characters.
    ///
    /// # Errors
    /// In words, without the token.
    pub fn parse(text: &str) -> Result<Token, String> {
        let bytes = text.as_bytes();
        if !(16..=Token::BYTES_MAX).contains(&bytes.len()) {
            let max = Token::BYTES_MAX;
            return Err(format!("must have 16 to {max} characters, and has {}", bytes.len()));
        }
        if !bytes.iter().all(u8::is_ascii_graphic) {
            return Err("must have visible ASCII characters only".into());
        }
        Ok(Token(bytes.to_vec()))
    }

    /// Whether `given` is this token, in a time that does not tell where they differ.
    fn matches(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Who may do what: so far, the holder of the root token may do everything.
#[derive(Clone, Debug)]
pub struct Auth {
    root: Token,
}

impl Auth {
    /// With the root token alone.
    pub fn new(root: Token) -> Auth {
        Auth { root }
    }

    /// Checks a request's `Fastly-Key`; `bearer` also allows `Authorization: Bearer`, which
    /// collectors of metrics can send.
    pub(crate) fn check(&self, head: &Head, bearer: bool) -> Result<(), Error> {
        let mut keys = head.values(FASTLY_KEY);
        if let (Some(given), None) = (keys.next(), keys.next()) {
            return if self.root.matches(given) { Ok(()) } else { Err(Error::Unauthorized) };
        }
        let mut given =
            head.values("Authorization").filter_map(|value| value.strip_prefix(b"Bearer "));
        match given.next() {
            Some(given) if bearer && self.root.matches(given) => Ok(()),
            _ => Err(Error::Unauthorized),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bounded_and_never_shown() {
        let token = Token::parse("0123456789abcdef").unwrap();
        assert_eq!(format!("{token:?}"), "Token(hidden)");
        assert!(token.matches(b"0123456789abcdef") && !token.matches(b"0123456789abcdeg"));
        assert!(!token.matches(b"") && !token.matches(b"0123456789abcdef0"));
        assert!(Token::parse("short").is_err() && Token::parse(&"x".repeat(513)).is_err());
        assert!(Token::parse("0123456789 abcdef").is_err());
    }
}
