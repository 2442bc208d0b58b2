//! Tests of limited tokens in the KV layer on every engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod engines;

use engines::Subject;
use std::sync::Arc;
use steadfast::engine::{Projection, Scan};
use steadfast::kv::clock::{ManualClock, SECOND};
use steadfast::kv::limits::EXPIRED_RETENTION_SECS;
use steadfast::kv::tokens::{Grant, Scope, TokenId};
use steadfast::kv::types::{StoreId, StoreName};
use steadfast::kv::{Error, Kv, keyspace};

suite!(
    a_token_is_valid_until_it_is_revoked, exactly_one_concurrent_revocation_succeeds,
    an_expired_token_is_invalid_immediately_and_swept_later,
    only_the_hash_of_a_token_secret_is_stored, tokens_survive_reopening_the_engine,
);

const START: u64 = 1_750_000_000 * SECOND;

/// Returns one [`Kv`] for each process of the engine, and the clock that they share.
fn kvs(subject: &Subject) -> (Vec<Arc<Kv>>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(START));
    (subject.kvs(&clock, 1000), clock)
}

fn grant(name: &str, stores: &[StoreId]) -> Grant {
    Grant::new(name, Scope::Global, stores.to_vec(), "p/").unwrap()
}

async fn a_token_is_valid_until_it_is_revoked(subject: Subject) {
    let (kvs, clock) = kvs(&subject);
    let kv = &kvs[0];
    let store = kv.create_store(StoreName::parse("s").unwrap(), None).await.unwrap().id;
    let (first, secret) = kv.create_token(grant("first", &[store]), None).await.unwrap();
    clock.advance(1);
    let (second, other_secret) = kv.create_token(grant("second", &[]), None).await.unwrap();
    assert_eq!(
        (first.created_at, first.expires_at, &first.grant),
        (START, None, &grant("first", &[store]))
    );
    for kv in &kvs {
        assert_eq!(kv.token(secret.expose().as_bytes()).await.unwrap(), Some(first.clone()));
        assert_eq!(kv.list_tokens().await.unwrap(), [first.clone(), second.clone()]);
    }
    kv.revoke_token(&first.id).await.unwrap();
    for kv in &kvs {
        assert_eq!(
            kv.token(secret.expose().as_bytes()).await.unwrap(),
            None,
            "a revocation must take effect immediately in every process"
        );
        assert_eq!(kv.token(other_secret.expose().as_bytes()).await.unwrap(), Some(second.clone()));
        assert_eq!(kv.list_tokens().await.unwrap(), std::slice::from_ref(&second));
        assert_eq!(kv.revoke_token(&first.id).await, Err(Error::NoToken));
        assert_eq!(kv.revoke_token(&TokenId::random().unwrap()).await, Err(Error::NoToken));
    }
    let unknown = StoreId::random().unwrap();
    let message =
        kv.create_token(grant("n", &[store, unknown]), None).await.unwrap_err().to_string();
    assert!(message.starts_with("stores ") && message.contains(&unknown.to_string()), "{message}");
}

async fn exactly_one_concurrent_revocation_succeeds(subject: Subject) {
    let (kvs, _) = kvs(&subject);
    let (token, secret) = kvs[0].create_token(grant("n", &[]), None).await.unwrap();
    let tasks = (0..8).map(|at| {
        let (kv, id) = (kvs[at % kvs.len()].clone(), token.id);
        tokio::spawn(async move { kv.revoke_token(&id).await })
    });
    let (mut revoked, mut not_found) = (0, 0);
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(()) => revoked += 1,
            Err(Error::NoToken) => not_found += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!((revoked, not_found), (1, 7));
    assert_eq!(kvs[0].token(secret.expose().as_bytes()).await.unwrap(), None);
}

async fn an_expired_token_is_invalid_immediately_and_swept_later(subject: Subject) {
    let (kvs, clock) = kvs(&subject);
    let kv = &kvs[0];
    for expires_at in [0, START - 1, START] {
        let message =
            kv.create_token(grant("n", &[]), Some(expires_at)).await.unwrap_err().to_string();
        assert!(message.starts_with("expires_at "), "{message}");
    }
    let at = START + 10;
    let (short_lived, secret) = kv.create_token(grant("brief", &[]), Some(at)).await.unwrap();
    let (long_lived, _) =
        kv.create_token(grant("kept", &[]), Some(START + 1000 * SECOND)).await.unwrap();
    clock.advance(9);
    assert_eq!(kv.token(secret.expose().as_bytes()).await.unwrap(), Some(short_lived.clone()));
    clock.advance(1);
    assert_eq!(kv.token(secret.expose().as_bytes()).await.unwrap(), None);
    assert_eq!(kv.list_tokens().await.unwrap(), std::slice::from_ref(&long_lived));
    assert_eq!(kv.revoke_token(&short_lived.id).await, Err(Error::NoToken));
    assert_eq!(subject.engine.count(keyspace::TOKENS).await.unwrap(), 2);
    clock.advance(EXPIRED_RETENTION_SECS * SECOND);
    assert_eq!(kv.purge_expired().await.unwrap(), 1);
    assert_eq!(subject.engine.count(keyspace::TOKENS).await.unwrap(), 1);
    assert_eq!(kv.list_tokens().await.unwrap(), [long_lived]);
}

async fn only_the_hash_of_a_token_secret_is_stored(subject: Subject) {
    let (kvs, _) = kvs(&subject);
    let (_, secret) = kvs[0].create_token(grant("n", &[]), None).await.unwrap();
    let (start, end) = keyspace::tokens();
    let all = Scan { start, end, limit: 10, skip_expired_at: 0, eventual: false };
    let page = subject.engine.scan(all).await.unwrap();
    let long_lived: Vec<_> = page.iter().collect();
    assert_eq!((long_lived.len(), long_lived[0].key.len()), (1, 1 + keyspace::TOKEN_HASH_BYTES));
    let record = subject.engine.read(long_lived[0].key, Projection::Full).await.unwrap().unwrap();
    assert!(record.body.is_empty());
    let text = secret.expose().strip_prefix("sf_").unwrap().as_bytes();
    for bytes in [long_lived[0].key, &record.meta[..]] {
        assert!(!bytes.windows(8).any(|window| text.windows(8).any(|part| part == window)));
    }
}

async fn tokens_survive_reopening_the_engine(mut subject: Subject) {
    let (_, secret) = kvs(&subject).0[0].create_token(grant("n", &[]), None).await.unwrap();
    for _ in 0..2 {
        subject.reopen().await;
        let kv = &kvs(&subject).0[0];
        let found = kv.token(secret.expose().as_bytes()).await.unwrap().unwrap();
        assert_eq!((found.grant, found.created_at), (grant("n", &[]), START));
    }
}
