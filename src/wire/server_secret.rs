//! The secret with which a server proves that it runs on a given data directory.

use super::hex;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::fmt;

/// The length of secrets, challenges and proofs: 32 bytes in hexadecimal.
const DIGITS: usize = 64;

/// A secret that a server generates at startup and writes to its data directory. A client that can
/// read the directory sends a random challenge, which only a server that knows the secret can
/// answer. The secret itself is never sent.
#[derive(Clone)]
pub struct ServerSecret(SecretString);

impl ServerSecret {
    /// Generates a secret.
    ///
    /// # Errors
    /// If the system cannot provide random bytes.
    pub fn generate() -> Result<ServerSecret, String> {
        Ok(ServerSecret(random()?.into()))
    }

    /// Parses a secret. Returns `None` unless the text has 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<ServerSecret> {
        is_challenge(text).then(|| ServerSecret(text.into()))
    }

    /// Returns the secret in plain text.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the answer to a challenge: the SHA-256 of the secret followed by the challenge.
    pub fn prove(&self, challenge: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(self.expose());
        hash.update(challenge);
        hex(&hash.finalize())
    }
}

impl fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSecret([redacted])")
    }
}

/// Generates a random challenge.
///
/// # Errors
/// If the system cannot provide random bytes.
pub fn challenge() -> Result<String, String> {
    random()
}

/// Returns whether a text is a valid challenge: 64 lowercase hexadecimal digits.
pub fn is_challenge(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn random() -> Result<String, String> {
    let mut bytes = [0; DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(|e| format!("cannot generate random bytes: {e}"))?;
    Ok(hex(&bytes))
}
