//! Limited tokens: made once, found by their secret, listed, revoked.
//!
//! Only the SHA-256 of a secret is kept, and it is the key of the token's one record: a request
//! with a token costs one read, and a token is gone for every server over an engine as soon as its
//! record is. A secret has 256 random bits, so that nothing slower than one hash is needed to keep
//! it from being guessed. There are so few tokens that one is found by its id among all of them. An
//! expired token is gone, as an expired item is.

use super::codec::TokenMeta;
use super::limits::{TOKEN_NAME_CHARS_MAX, TOKEN_PREFIX_BYTES_MAX, TOKEN_STORES_MAX, TOKENS_MAX};
use super::types::{StoreId, parse_id, random_id};
use super::{Error, Kv, keyspace};
use crate::engine::{Body, Commit, Mutation, NewRecord, Outcome, Precondition, Projection, Scan};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt;

/// What every secret begins with, so that people and scanners know one when they see it.
const SECRET_BEGIN: &[u8] = b"sf_";
/// Random bytes of a secret, and the characters they make.
const SECRET_BYTES: usize = 32;
const SECRET_CHARS: usize = 43;

/// The id of a token: 22 characters of `[0-9a-z]`. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenId([u8; StoreId::LEN]);

impl TokenId {
    /// Reads an id; anything that is none names no token.
    ///
    /// # Errors
    /// [`Error::NoToken`], as for an id that was never given out.
    pub fn parse(text: &[u8]) -> Result<TokenId, Error> {
        parse_id(text).map(TokenId).ok_or(Error::NoToken)
    }

    /// A new id, from 128 random bits.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn random() -> Result<TokenId, Error> {
        random_id().map(TokenId)
    }

    /// Its characters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

/// What a token may do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Read and write.
    Global,
    /// Read.
    Read,
}

impl Scope {
    /// Reads `global` or `global:read`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<Scope, Error> {
        match text {
            "global" => Ok(Scope::Global),
            "global:read" => Ok(Scope::Read),
            _ => Err(Error::invalid("scope", "must be global or global:read")),
        }
    }

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Global => "global",
            Scope::Read => "global:read",
        }
    }
}

/// What a token is for: its name, its scope, and what it is limited to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    name: String,
    scope: Scope,
    stores: Vec<StoreId>,
    prefix: String,
}

impl Grant {
    /// Checks a grant. No stores means all of them, an empty prefix every key; a store that is
    /// named twice counts once.
    ///
    /// # Errors
    /// [`Error::Invalid`], saying which rule it breaks.
    pub fn new(
        name: &str,
        scope: Scope,
        mut stores: Vec<StoreId>,
        prefix: &str,
    ) -> Result<Grant, Error> {
        let chars = name.chars().count();
        if !(1..=TOKEN_NAME_CHARS_MAX).contains(&chars) {
            let max = TOKEN_NAME_CHARS_MAX;
            let reason = format!("must have 1 to {max} characters, and has {chars}");
            return Err(Error::invalid("name", reason));
        }
        if name.chars().any(char::is_control) {
            return Err(Error::invalid("name", "must not contain control characters"));
        }
        if stores.len() > TOKEN_STORES_MAX {
            let (max, len) = (TOKEN_STORES_MAX, stores.len());
            return Err(Error::invalid("stores", format!("must be at most {max}, and are {len}")));
        }
        if prefix.len() > TOKEN_PREFIX_BYTES_MAX {
            let (max, len) = (TOKEN_PREFIX_BYTES_MAX, prefix.len());
            let reason = format!("must have at most {max} bytes of UTF-8, and has {len}");
            return Err(Error::invalid("prefix", reason));
        }
        let mut seen = HashSet::with_capacity(stores.len());
        stores.retain(|store| seen.insert(*store));
        Ok(Grant { name: name.into(), scope, stores, prefix: prefix.into() })
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its scope.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The only stores it reaches; none: all of them.
    pub fn stores(&self) -> &[StoreId] {
        &self.stores
    }

    /// What each key it touches begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether it is for some stores or some keys only.
    pub fn is_restricted(&self) -> bool {
        !self.stores.is_empty() || !self.prefix.is_empty()
    }

    /// Whether it reaches the store with this id; takes any bytes.
    pub fn allows_store(&self, store: &[u8]) -> bool {
        self.stores.is_empty() || self.stores.iter().any(|id| id.as_bytes() == store)
    }

    /// Whether it covers this key, or all keys that begin with this prefix.
    pub fn allows_key(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix.as_bytes())
    }
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its id, made at creation.
    pub id: TokenId,
    /// What it is for.
    pub grant: Grant,
    /// When it was made, in microseconds.
    pub created_at: u64,
    /// When it expires, in microseconds; `None` for never.
    pub expires_at: Option<u64>,
}

/// The secret of a new token, which is told once; shows nothing of itself by accident.
pub struct Secret(String);

impl Secret {
    fn random() -> Result<Secret, Error> {
        let mut random = [0; SECRET_BYTES];
        getrandom::fill(&mut random).map_err(|e| Error::Internal(e.to_string()))?;
        let mut text = String::from_utf8_lossy(SECRET_BEGIN).into_owned();
        URL_SAFE_NO_PAD.encode_string(random, &mut text);
        Ok(Secret(text))
    }

    /// Its text, for the one answer that tells it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The key that a token with this secret is kept under; `None` for what no secret looks like.
fn key_of(secret: &[u8]) -> Option<Bytes> {
    let random = secret.strip_prefix(SECRET_BEGIN)?;
    let plain = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let like = random.len() == SECRET_CHARS && random.iter().all(plain);
    like.then(|| keyspace::token(&Sha256::digest(secret).into()))
}

fn info(meta: &[u8], expires_at: u64) -> Result<TokenInfo, Error> {
    let TokenMeta { id, grant, created_at } = TokenMeta::decode(meta)?;
    Ok(TokenInfo { id, grant, created_at, expires_at: (expires_at > 0).then_some(expires_at) })
}

impl Kv {
    /// Makes a token, which expires at a time in microseconds or never; durable when it answers.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it would be expired at once, names a store that is not there, or is
    /// one too many; or when the engine fails.
    pub async fn create_token(
        &self,
        grant: Grant,
        expires_at: Option<u64>,
    ) -> Result<(TokenInfo, Secret), Error> {
        let now = self.clock.now();
        if expires_at.is_some_and(|at| at <= now) {
            return Err(Error::invalid("expires_at", "must be a time to come"));
        }
        for store in grant.stores() {
            match self.describe_store(store).await {
                Err(Error::NoStore) => {
                    let reason = format!("must be ids of stores, and {store} is none");
                    return Err(Error::invalid("stores", reason));
                }
                found => found.map(|_| ())?,
            }
        }
        // One at a time, so that they are counted.
        let _place = self.locks.enter(&[keyspace::TOKENS], true).await;
        if self.live_tokens().await?.len() >= TOKENS_MAX {
            let reason = format!("must be at most {TOKENS_MAX}: revoke one that is not needed");
            return Err(Error::invalid("tokens", reason));
        }
        let secret = Secret::random()?;
        let broken = || Error::Internal("a secret of the wrong form was made".into());
        let key = key_of(secret.0.as_bytes()).ok_or_else(broken)?;
        let meta = TokenMeta { id: TokenId::random()?, grant, created_at: now };
        let (meta_bytes, body) = (meta.encode(), Body::EMPTY);
        let record = NewRecord { expires_at: expires_at.unwrap_or(0), meta: meta_bytes, body };
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

    /// The token with this secret, if there is one and it has not expired.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn token(&self, secret: &[u8]) -> Result<Option<TokenInfo>, Error> {
        let Some(key) = key_of(secret) else { return Ok(None) };
        // There is no body; reads of whole records are the ones that an engine caches.
        let found = self.engine.read(&key, Projection::Full).await?;
        let now = self.clock.now();
        let live = found.filter(|record| record.expires_at == 0 || record.expires_at > now);
        live.map(|record| info(&record.meta, record.expires_at)).transpose()
    }

    /// All tokens, the oldest first.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn list_tokens(&self) -> Result<Vec<TokenInfo>, Error> {
        let found = self.live_tokens().await?;
        let mut tokens: Vec<_> = found.into_iter().map(|(info, _)| info).collect();
        tokens.sort_by_key(|token| (token.created_at, token.id.0));
        Ok(tokens)
    }

    /// Revokes a token: every request that begins after it answers is refused.
    ///
    /// # Errors
    /// [`Error::NoToken`], or when the engine fails.
    pub async fn revoke_token(&self, id: &TokenId) -> Result<(), Error> {
        let found = self.live_tokens().await?.into_iter().find(|(info, _)| info.id == *id);
        let (_, preconditions) = found.ok_or(Error::NoToken)?;
        let key = preconditions.key.clone();
        let commit = Commit {
            version_min: self.clock.now(),
            preconditions: vec![preconditions],
            mutations: vec![Mutation { key, record: None }],
        };
        match self.engine.commit(commit).await? {
            Outcome::Committed(_) => Ok(()),
            // A token is never changed: somebody else has revoked it.
            Outcome::Conflict => Err(Error::NoToken),
        }
    }

    /// All tokens with the records they are kept in.
    async fn live_tokens(&self) -> Result<Vec<(TokenInfo, Precondition)>, Error> {
        let (start, end) = keyspace::tokens();
        // Several servers may pass the bound by a few; twice of it they cannot reach.
        let limit = 2 * TOKENS_MAX;
        let skip_expired_at = self.clock.now();
        let page =
            self.engine.scan(Scan { start, end, limit, skip_expired_at, eventual: false }).await?;
        let tokens = page.iter().map(|found| {
            let preconditions =
                Precondition { key: Bytes::copy_from_slice(found.key), version: found.version };
            Ok((info(found.meta, found.expires_at)?, preconditions))
        });
        tokens.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(name: &str, stores: usize, prefix: &str) -> Result<Grant, Error> {
        let stores = (0..stores).map(|_| StoreId::random().unwrap()).collect();
        Grant::new(name, Scope::Global, stores, prefix)
    }

    #[test]
    fn grants_are_bounded_and_say_which_field_is_wrong() {
        assert!(grant(&"ö".repeat(255), 100, &"p".repeat(1024)).is_ok());
        for (name, stores, prefix, field) in [
            (String::new(), 0, 0, "name"),
            ("n".repeat(256), 0, 0, "name"),
            ("a\nb".to_owned(), 0, 0, "name"),
            ("n".to_owned(), 101, 0, "stores"),
            ("n".to_owned(), 0, 1025, "prefix"),
        ] {
            let said = grant(&name, stores, &"p".repeat(prefix)).unwrap_err().to_string();
            assert!(said.starts_with(field), "{said}");
        }
        for wrong in ["", "Global", "global:", "purge_all", "global global:read"] {
            assert!(Scope::parse(wrong).unwrap_err().to_string().starts_with("scope "));
        }
        for scope in [Scope::Global, Scope::Read] {
            assert_eq!(Scope::parse(scope.as_str()).ok(), Some(scope));
        }
    }

    #[test]
    fn a_grant_reaches_its_stores_and_covers_its_keys_alone() {
        let all = grant("n", 0, "").unwrap();
        assert!(all.allows_store(b"anything") && all.allows_key(b"") && !all.is_restricted());
        let id = StoreId::random().unwrap();
        let some = Grant::new("n", Scope::Read, vec![id, id], "a/").unwrap();
        assert_eq!(some.stores(), [id], "twice counts once");
        assert!(some.is_restricted() && some.allows_store(id.as_bytes()));
        assert!(
            !some.allows_store(StoreId::random().unwrap().as_bytes()) && !some.allows_store(b"")
        );
        assert!(some.allows_key(b"a/") && some.allows_key(b"a/b"));
        assert!(!some.allows_key(b"a") && !some.allows_key(b"") && !some.allows_key(b"b/a/"));
    }

    #[test]
    fn secrets_have_one_form_and_do_not_show_themselves() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(format!("{one:?}"), "Secret(hidden)");
        let key = key_of(one.expose().as_bytes()).unwrap();
        assert_eq!((key.len(), key[0]), (33, b't'));
        assert_ne!(Some(key), key_of(other.expose().as_bytes()));
        let tail = &one.expose()[3..];
        for wrong in [tail, "sf_", "", &format!("sf_{tail}x"), &format!("sf-{tail}")] {
            assert_eq!(key_of(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(key_of(format!("sf_{}+", &tail[1..]).as_bytes()), None);
    }
}
