//! Limited tokens: create, authenticate, list and revoke.
//!
//! A token is one record under the SHA-256 of its secret; the secret itself is not stored.
//! Authentication costs one read. A revocation takes effect immediately on all servers that share
//! the database. Secrets have 256 random bits, so a fast hash suffices. A lookup by id scans all
//! tokens, which is cheap because their number is limited. Expired tokens are treated as absent,
//! like expired items.

use super::codec::TokenMeta;
use super::items::stored_expiry;
use super::limits::{TOKEN_NAME_CHARS_MAX, TOKEN_PREFIX_BYTES_MAX, TOKEN_STORES_MAX, TOKENS_MAX};
use super::types::{StoreId, parse_id, random_id};
use super::{Error, Kv, Result, keyspace};
use crate::engine::{Body, Commit, Mutation, NewRecord, Outcome, Precondition, Projection, Scan};
use crate::wire::MICROS_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt;

/// Prefix of every secret, which lets secret scanners recognize it.
const SECRET_PREFIX: &[u8] = b"sf_";
/// Number of random bytes in a secret, and number of characters that encode them.
const SECRET_BYTES: usize = 32;
const SECRET_CHARS: usize = 43;

/// A token id: 22 characters from `[0-9a-z]`. It is not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenId([u8; StoreId::LEN]);

impl TokenId {
    /// Parses an id.
    ///
    /// # Errors
    /// Returns [`Error::NoToken`] for a malformed id, as for an unknown one.
    pub fn parse(text: &[u8]) -> Result<TokenId> {
        parse_id(text).map(TokenId).ok_or(Error::NoToken)
    }

    /// Generates an id from 128 random bits; fails if the system's random number generator fails.
    pub fn random() -> Result<TokenId> {
        random_id().map(TokenId)
    }

    /// Returns the characters of the id.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

/// The operations a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Reads and writes.
    Global,
    /// Only reads.
    Read,
}

impl Scope {
    /// Parses `global` or `global:read`.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] for any other text.
    pub fn parse(text: &str) -> Result<Scope> {
        match text {
            "global" => Ok(Scope::Global),
            "global:read" => Ok(Scope::Read),
            _ => Err(Error::invalid("scope", "must be global or global:read")),
        }
    }

    /// Returns the scope's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Global => "global",
            Scope::Read => "global:read",
        }
    }
}

/// The name and permissions of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    name: String,
    scope: Scope,
    stores: Vec<StoreId>,
    prefix: String,
}

impl Grant {
    /// Validates a grant. An empty `stores` permits all stores, and an empty `prefix` permits all
    /// keys. Duplicate stores are removed.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] with the rule that the grant violates.
    pub fn new(name: &str, scope: Scope, mut stores: Vec<StoreId>, prefix: &str) -> Result<Grant> {
        let chars = name.chars().count();
        if !(1..=TOKEN_NAME_CHARS_MAX).contains(&chars) {
            let max = TOKEN_NAME_CHARS_MAX;
            let reason = format!("must have 1 to {max} characters, but has {chars}");
            return Err(Error::invalid("name", reason));
        }
        if name.chars().any(char::is_control) {
            return Err(Error::invalid("name", "must not contain control characters"));
        }
        if stores.len() > TOKEN_STORES_MAX {
            let (max, len) = (TOKEN_STORES_MAX, stores.len());
            let reason = format!("must have at most {max} entries, but has {len}");
            return Err(Error::invalid("stores", reason));
        }
        if prefix.len() > TOKEN_PREFIX_BYTES_MAX {
            let (max, len) = (TOKEN_PREFIX_BYTES_MAX, prefix.len());
            let reason = format!("must be at most {max} bytes of UTF-8, but is {len}");
            return Err(Error::invalid("prefix", reason));
        }
        let mut seen = HashSet::with_capacity(stores.len());
        stores.retain(|store| seen.insert(*store));
        Ok(Grant { name: name.into(), scope, stores, prefix: prefix.into() })
    }

    /// Returns the name, which has no effect on permissions.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the scope.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Returns the permitted stores; empty if all stores are permitted.
    pub fn stores(&self) -> &[StoreId] {
        &self.stores
    }

    /// Returns the prefix of the permitted keys; empty if all keys are permitted.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns whether the grant restricts stores or keys.
    pub fn is_restricted(&self) -> bool {
        !self.stores.is_empty() || !self.prefix.is_empty()
    }

    /// Returns whether the store with this id is permitted; accepts malformed ids.
    pub fn allows_store(&self, store: &[u8]) -> bool {
        self.stores.is_empty() || self.stores.iter().any(|id| id.as_bytes() == store)
    }

    /// Returns whether `key`, or every key with the prefix `key`, is permitted.
    pub fn allows_key(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix.as_bytes())
    }
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// The token's id, generated when the token is created.
    pub id: TokenId,
    /// The token's name and permissions.
    pub grant: Grant,
    /// When the token was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// When the token expires, in microseconds since the Unix epoch; `None` if it never does.
    pub expires_at: Option<u64>,
}

/// The secret of a new token. It cannot be recovered later, and `Debug` does not reveal it.
pub struct Secret(String);

impl Secret {
    fn random() -> Result<Secret> {
        let mut random = [0; SECRET_BYTES];
        getrandom::fill(&mut random).map_err(|e| Error::Internal(e.to_string()))?;
        let mut text = String::from_utf8_lossy(SECRET_PREFIX).into_owned();
        URL_SAFE_NO_PAD.encode_string(random, &mut text);
        Ok(Secret(text))
    }

    /// Returns the secret, for the response to the request that created the token.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Returns the engine key of the token with this secret; `None` if the secret is malformed.
fn secret_key(secret: &[u8]) -> Option<Bytes> {
    let random = secret.strip_prefix(SECRET_PREFIX)?;
    let base64url = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let valid = random.len() == SECRET_CHARS && random.iter().all(base64url);
    valid.then(|| keyspace::token(&Sha256::digest(secret).into()))
}

fn decode(meta: &[u8], expires_at: u64) -> Result<TokenInfo> {
    let TokenMeta { id, grant, created_at } = TokenMeta::decode(meta)?;
    Ok(TokenInfo { id, grant, created_at, expires_at: stored_expiry(expires_at) })
}

impl Kv {
    /// Creates a token durably. `expires_at` is in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the expiry time has passed or is after the year 9999, if a
    /// store does not exist, or if there are already [`TOKENS_MAX`] tokens.
    pub async fn create_token(
        &self,
        grant: Grant,
        expires_at: Option<u64>,
    ) -> Result<(TokenInfo, Secret)> {
        let now = self.clock.now();
        if expires_at.is_some_and(|at| at <= now) {
            return Err(Error::invalid("expires_at", "must be in the future"));
        }
        if expires_at.is_some_and(|at| at > MICROS_MAX) {
            return Err(Error::invalid("expires_at", "must be before the year 10000"));
        }
        for store in grant.stores() {
            match self.describe_store(store).await {
                Err(Error::NoStore) => {
                    let reason = format!("must be ids of existing stores; {store} does not exist");
                    return Err(Error::invalid("stores", reason));
                }
                found => found.map(|_| ())?,
            }
        }
        // Creation is serialized within the process, to enforce the limit.
        let _guard = self.locks.lock(&[keyspace::TOKENS], true).await;
        if self.live_tokens().await?.len() >= TOKENS_MAX {
            let reason = format!("must be at most {TOKENS_MAX}; revoke a token that is not needed");
            return Err(Error::invalid("tokens", reason));
        }
        let secret = Secret::random()?;
        let malformed = || Error::Internal("generated a malformed secret".into());
        let key = secret_key(secret.0.as_bytes()).ok_or_else(malformed)?;
        let meta = TokenMeta { id: TokenId::random()?, grant, created_at: now };
        let expiry = expires_at.unwrap_or(0);
        let record = NewRecord { expires_at: expiry, meta: meta.encode(), body: Body::EMPTY };
        let commit = Commit {
            version_min: now,
            preconditions: vec![Precondition { key: key.clone(), version: 0 }],
            mutations: vec![Mutation { key, record: Some(record) }],
        };
        let TokenMeta { id, grant, created_at } = meta;
        match self.engine.commit(commit).await? {
            Outcome::Committed(_) => Ok((TokenInfo { id, grant, created_at, expires_at }, secret)),
            Outcome::Conflict => Err(Error::Busy),
        }
    }

    /// Returns the live token with this secret, if any.
    pub async fn token(&self, secret: &[u8]) -> Result<Option<TokenInfo>> {
        let Some(key) = secret_key(secret) else { return Ok(None) };
        // The record has no body, but engines only cache full reads.
        let found = self.engine.read(&key, Projection::Full).await?;
        let now = self.clock.now();
        let live = found.filter(|record| record.expires_at == 0 || record.expires_at > now);
        live.map(|record| decode(&record.meta, record.expires_at)).transpose()
    }

    /// Lists all live tokens, oldest first.
    pub async fn list_tokens(&self) -> Result<Vec<TokenInfo>> {
        let found = self.live_tokens().await?;
        let mut tokens: Vec<_> = found.into_iter().map(|(info, _)| info).collect();
        tokens.sort_by_key(|token| (token.created_at, token.id.0));
        Ok(tokens)
    }

    /// Revokes a token. Requests with the token that start after this function returns are
    /// rejected.
    ///
    /// # Errors
    /// Returns [`Error::NoToken`].
    pub async fn revoke_token(&self, id: &TokenId) -> Result<()> {
        let found = self.live_tokens().await?.into_iter().find(|(info, _)| info.id == *id);
        let (_, precondition) = found.ok_or(Error::NoToken)?;
        let key = precondition.key.clone();
        let commit = Commit {
            version_min: self.clock.now(),
            preconditions: vec![precondition],
            mutations: vec![Mutation { key, record: None }],
        };
        match self.engine.commit(commit).await? {
            Outcome::Committed(_) => Ok(()),
            // Tokens are immutable, so a conflict means that the token was removed concurrently.
            Outcome::Conflict => Err(Error::NoToken),
        }
    }

    /// Returns all live tokens with the versions of their records.
    async fn live_tokens(&self) -> Result<Vec<(TokenInfo, Precondition)>> {
        let (start, end) = keyspace::tokens();
        // Servers that create tokens at the same time may exceed the limit slightly.
        let (limit, skip_expired_at) = (2 * TOKENS_MAX, self.clock.now());
        let scan = Scan { start, end, limit, skip_expired_at, eventual: false };
        let page = self.engine.scan(scan).await?;
        let tokens = page.iter().map(|found| {
            let key = Bytes::copy_from_slice(found.key);
            let precondition = Precondition { key, version: found.version };
            Ok((decode(found.meta, found.expires_at)?, precondition))
        });
        tokens.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(name: &str, stores: usize, prefix: &str) -> Result<Grant> {
        let stores = (0..stores).map(|_| StoreId::random().unwrap()).collect();
        Grant::new(name, Scope::Global, stores, prefix)
    }

    #[test]
    fn grant_limits_are_enforced_and_errors_name_the_field() {
        assert!(grant(&"ö".repeat(255), 100, &"p".repeat(1024)).is_ok());
        for (name, stores, prefix, field) in [
            (String::new(), 0, 0, "name"),
            ("n".repeat(256), 0, 0, "name"),
            ("a\nb".to_owned(), 0, 0, "name"),
            ("n".to_owned(), 101, 0, "stores"),
            ("n".to_owned(), 0, 1025, "prefix"),
        ] {
            let error = grant(&name, stores, &"p".repeat(prefix)).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        for wrong in ["", "Global", "global:", "purge_all", "global global:read"] {
            assert!(Scope::parse(wrong).unwrap_err().to_string().starts_with("scope "));
        }
        for scope in [Scope::Global, Scope::Read] {
            assert_eq!(Scope::parse(scope.as_str()).ok(), Some(scope));
        }
    }

    #[test]
    fn a_grant_allows_only_its_stores_and_keys() {
        let all = grant("n", 0, "").unwrap();
        assert!(all.allows_store(b"anything") && all.allows_key(b"") && !all.is_restricted());
        let id = StoreId::random().unwrap();
        let some = Grant::new("n", Scope::Read, vec![id, id], "a/").unwrap();
        assert_eq!(some.stores(), [id], "duplicates are removed");
        assert!(some.is_restricted() && some.allows_store(id.as_bytes()));
        let other = StoreId::random().unwrap();
        assert!(!some.allows_store(other.as_bytes()) && !some.allows_store(b""));
        assert!(some.allows_key(b"a/") && some.allows_key(b"a/b"));
        assert!(!some.allows_key(b"a") && !some.allows_key(b"") && !some.allows_key(b"b/a/"));
    }

    #[test]
    fn malformed_secrets_are_rejected_and_debug_hides_secrets() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(format!("{one:?}"), "Secret(hidden)");
        let key = secret_key(one.expose().as_bytes()).unwrap();
        assert_eq!((key.len(), key[0]), (33, b't'));
        assert_ne!(Some(key), secret_key(other.expose().as_bytes()));
        let tail = &one.expose()[3..];
        for wrong in [tail, "sf_", "", &format!("sf_{tail}x"), &format!("sf-{tail}")] {
            assert_eq!(secret_key(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(secret_key(format!("sf_{}+", &tail[1..]).as_bytes()), None);
    }
}
