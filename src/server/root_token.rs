//! Loads the root token, or generates one on the first start.

use crate::api::RootToken;
use crate::config::{EngineLocation, ServeConfig, TokenLocation, TokenSource, read_token};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A temporary directory for the token of a server without a data directory; removed on drop.
pub(super) struct TokenDir(PathBuf);

impl Drop for TokenDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the root token, its location, and the temporary directory of its file, if any.
pub(super) fn load(
    config: &ServeConfig,
) -> Result<(RootToken, TokenLocation, Option<TokenDir>), String> {
    match (&config.token, &config.place) {
        (TokenSource::Given(token), _) => Ok((token.clone(), TokenLocation::Environment, None)),
        (TokenSource::File(token, path), _) => {
            Ok((token.clone(), TokenLocation::File(path.clone()), None))
        }
        (TokenSource::Own, EngineLocation::Directory(data)) => {
            let path = data.join("token");
            let token = if path.exists() { read_token(&path) } else { generate(&path) };
            Ok((token?, TokenLocation::File(path), None))
        }
        (TokenSource::Own, EngineLocation::Memory | EngineLocation::Database(..)) => {
            let name = format!("steadfast-{}-{}", std::process::id(), &random_hex()?[..8]);
            let dir = TokenDir(std::env::temp_dir().join(name));
            let created = fs::DirBuilder::new().mode(0o700).create(&dir.0);
            created.map_err(|e| format!("cannot create {}: {e}", dir.0.display()))?;
            let path = dir.0.join("token");
            Ok((generate(&path)?, TokenLocation::File(path), Some(dir)))
        }
    }
}

/// Generates a token and writes it to a file that only this user can read, atomically and durably.
fn generate(path: &Path) -> Result<RootToken, String> {
    let text = random_hex()?;
    let temporary = path.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|e: io::Error| format!("cannot write the token to {}: {e}", path.display()))?;
    RootToken::parse(&text)
}

/// Returns 32 random bytes as 64 hexadecimal digits.
fn random_hex() -> Result<String, String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| format!("cannot generate a token: {e}"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
