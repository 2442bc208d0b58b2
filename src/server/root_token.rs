//! Loads the root token, or generates one on the first start.

use crate::atomic_file::AtomicFile;
use crate::config::{EngineLocation, ServeConfig, TokenLocation, TokenSource, read_root_token};
use crate::wire::{Token, hex};
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// Returns the root token, its location and, if it was generated without a data directory, the
/// temporary directory that contains the token file.
pub(super) fn load(
    config: &ServeConfig,
) -> Result<(Token, TokenLocation, Option<TempDir>), String> {
    match (&config.token, &config.engine) {
        (TokenSource::Given(token), _) => {
            Ok((token.clone(), TokenLocation::Environment("STEADFAST_TOKEN"), None))
        }
        (TokenSource::File(token, path), _) => {
            Ok((token.clone(), TokenLocation::File(path.clone()), None))
        }
        (TokenSource::Generated, EngineLocation::Directory(data)) => {
            let path = data.join("token");
            let token = if path.exists() { read_root_token(&path) } else { generate(&path) };
            Ok((token?, TokenLocation::File(path), None))
        }
        (TokenSource::Generated, EngineLocation::Memory | EngineLocation::Database(..)) => {
            let dir = tempfile::Builder::new()
                .prefix("steadfast-")
                .permissions(Permissions::from_mode(0o700))
                .tempdir();
            let dir = dir.map_err(|e| format!("cannot create a temporary directory: {e}"))?;
            let path = dir.path().join("token");
            Ok((generate(&path)?, TokenLocation::File(path), Some(dir)))
        }
    }
}

/// Generates a token of 32 random bytes and writes it to a file that only its owner can read.
fn generate(path: &Path) -> Result<Token, String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| format!("cannot generate a token: {e}"))?;
    let text = hex(&random);
    let write = || {
        let mut file = AtomicFile::create_secret(path)?;
        writeln!(file, "{text}")?;
        file.persist()
    };
    write().map_err(|e: io::Error| format!("cannot write the token to {}: {e}", path.display()))?;
    Token::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_tokens_have_at_least_16_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (len, valid) in [(15, false), (16, true)] {
            std::fs::write(&path, "x".repeat(len)).unwrap();
            assert_eq!(read_root_token(&path).is_ok(), valid, "{len}");
        }
    }
}
