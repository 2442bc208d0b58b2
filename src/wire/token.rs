//! The secret that authenticates a request.

use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use subtle::ConstantTimeEq;

/// An API token. It is zeroed on drop, redacted in `Debug` output and compared in constant time.
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// The maximum length in bytes.
    pub const BYTES_MAX: usize = 512;

    /// Parses a token of 1 to 512 visible ASCII characters. Surrounding whitespace is ignored.
    ///
    /// # Errors
    /// Returns the rule that the text violates. The message does not contain the text.
    pub fn parse(text: &str) -> Result<Token, String> {
        let text = text.trim_ascii();
        if !(1..=Token::BYTES_MAX).contains(&text.len()) {
            let max = Token::BYTES_MAX;
            return Err(format!("must have 1 to {max} characters, but has {}", text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must consist of visible ASCII characters".into());
        }
        Ok(Token(text.into()))
    }

    /// Returns the token in plain text.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Compares this token with a presented token in constant time.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.expose().as_bytes().ct_eq(presented).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn tokens_are_limited_to_512_visible_ascii_characters_and_redacted() {
        let token = Token::parse("secret-of-sixteen\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token([redacted])");
        assert_eq!(token.expose(), "secret-of-sixteen");
        for bad in ["", "with space", "line\nbreak", "ümlaut", &"x".repeat(513)] {
            let error = Token::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn only_the_whole_token_matches() {
        let token = Token::parse("0123456789abcdef").unwrap();
        assert!(token.matches(b"0123456789abcdef") && !token.matches(b"0123456789abcdeg"));
        assert!(!token.matches(b"") && !token.matches(b"0123456789abcdef0"));
    }
}
